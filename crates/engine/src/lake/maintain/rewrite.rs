//! Rewrites data files: small files become files of the target size, rows that
//! delete files took out go for good, and rows are sorted where that is asked
//! for or the table is one of predictions.
//!
//! The new files carry the sequence number of the snapshot that was read, so
//! that a row deleted by value meanwhile stays deleted. A group whose files
//! got new position deletes meanwhile, or were removed, is not committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use iceberg::spec::Struct;

use crate::lake::commit::{self, Change, Outcome};
use crate::lake::faults::{self, Bug};
use crate::lake::files::{self, LiveFile, LiveFiles};
use crate::lake::scan::Scan;
use crate::lake::table::Table;
use crate::lake::writer::{TableWriter, WriteOptions};
use crate::lake::{Lake, TableName};
use crate::score::TableShape;
use crate::{Error, Result};

/// Which files are rewritten, and how. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The size that files should have; else `write.target-file-size-bytes`.
    pub target_bytes: Option<u64>,
    /// Smaller files are rewritten; else three quarters of the target.
    pub min_bytes: Option<u64>,
    /// Larger files are rewritten; else 1.8 times the target.
    pub max_bytes: Option<u64>,
    /// A group of fewer files is left alone, unless it makes a whole file.
    pub min_input_files: usize,
    /// A file that so many delete files apply to is rewritten.
    pub delete_file_threshold: usize,
    /// Every file is rewritten.
    pub rewrite_all: bool,
    /// A group has at most so many bytes.
    pub max_group_bytes: u64,
    /// Commit groups in several commits, so that an end in between loses
    /// little.
    pub partial_progress: bool,
    /// With partial progress, at most so many commits.
    pub max_commits: usize,
    /// Only files of about one size are rewritten together, each eight times
    /// that of the one before.
    pub tiers: bool,
    /// The rows' order: column and whether descending; else the table's own.
    pub sort: Option<Vec<SortKey>>,
}

/// A column to sort by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    /// The column.
    pub column: String,
    /// Largest first.
    pub descending: bool,
    /// Where nulls go.
    pub nulls_first: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target_bytes: None,
            min_bytes: None,
            max_bytes: None,
            min_input_files: 5,
            delete_file_threshold: usize::MAX,
            rewrite_all: false,
            max_group_bytes: 100 << 30,
            partial_progress: false,
            max_commits: 10,
            tiers: false,
            sort: None,
        }
    }
}

/// Files of one partition that become others.
#[derive(Debug, Clone)]
pub struct Group {
    /// The files.
    pub files: Vec<LiveFile>,
}

impl Group {
    /// Bytes of the files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.data_file().file_size_in_bytes()).sum()
    }
}

/// What was rewritten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Data files that were replaced.
    pub rewritten_files: usize,
    /// Data files that replace them.
    pub added_files: usize,
    /// Bytes of the files that were replaced.
    pub rewritten_bytes: u64,
    /// Data files whose group could not be committed.
    pub failed_files: usize,
    /// Delete files that nothing needed any more.
    pub removed_delete_files: usize,
}

/// The groups that `options` would rewrite. `keep` tells which files may hold
/// rows of interest.
pub fn plan(table: &Table, live: &LiveFiles, options: &Options, keep: &[bool]) -> Result<Vec<Group>> {
    let target = target(table, options)?;
    let min = options.min_bytes.unwrap_or(target / 4 * 3);
    let max = largest(target, options);
    if min > target || max < target {
        return Err(Error::invalid(format!(
            "files of {min} to {max} bytes cannot have {target} bytes: the target must lie between the two"
        )));
    }
    let current = table.metadata().default_partition_spec_id();
    let mut partitions: BTreeMap<String, (i32, Vec<LiveFile>)> = BTreeMap::new();
    for (file, _) in live.data.iter().zip(keep).filter(|(_, keep)| **keep) {
        let size = file.data_file().file_size_in_bytes();
        let deletes = live.deletes_for(file, table).len();
        let wanted = options.rewrite_all
            || size < min
            || size > max
            || deletes >= options.delete_file_threshold
            || file.spec_id != current;
        if wanted {
            let mut key = partition_key(file.spec_id, file.data_file().partition());
            if options.tiers {
                key.push_str(&format!(" {}", tier(size)));
            }
            partitions.entry(key).or_insert_with(|| (file.spec_id, Vec::new())).1.push(file.clone());
        }
    }
    let mut groups = Vec::new();
    for (_, (spec, mut files)) in partitions {
        files.sort_by(|a, b| {
            a.sequence().cmp(&b.sequence()).then(a.data_file().file_path().cmp(b.data_file().file_path()))
        });
        let mut group = Group { files: Vec::new() };
        let mut finish = |group: Group| {
            let count = group.files.len();
            let bytes = group.bytes();
            let deleted = group.files.iter().any(|f| live.deletes_for(f, table).len() >= options.delete_file_threshold);
            let worth = options.rewrite_all
                || deleted
                || spec != current
                || count >= options.min_input_files.max(2)
                || (count > 1 && bytes > target)
                || bytes > max;
            if count > 0 && worth {
                groups.push(group);
            }
        };
        for file in files {
            if !group.files.is_empty()
                && group.bytes() + file.data_file().file_size_in_bytes() > options.max_group_bytes
            {
                finish(std::mem::replace(&mut group, Group { files: Vec::new() }));
            }
            group.files.push(file);
        }
        finish(group);
    }
    Ok(groups)
}

/// The size that files should have.
fn target(table: &Table, options: &Options) -> Result<u64> {
    match options.target_bytes {
        Some(target) => Ok(target.max(1)),
        None => Ok(super::setting(table, "write.target-file-size-bytes")?.map_or(512 << 20, |n| n.max(1) as u64)),
    }
}

/// The size that files have at most.
fn largest(target: u64, options: &Options) -> u64 {
    options.max_bytes.unwrap_or(target / 5 * 9)
}

/// Which size a file is of: up to 64 KiB, 512 KiB, 4 MiB and so on.
fn tier(bytes: u64) -> u32 {
    (bytes >> 16).checked_ilog(8).map_or(0, |power| power + 1)
}

fn partition_key(spec: i32, partition: &Struct) -> String {
    format!("{spec}:{partition:?}")
}

/// Rewrites `name`'s data files. `filter` narrows them to those that may hold
/// rows for which it is true; whole files are rewritten.
///
/// # Errors
/// When a file cannot be read or written, or a rewrite would change the number
/// of rows; nothing of that group is committed then. A group that others
/// changed meanwhile is counted as failed and is no error.
pub async fn rewrite(
    lake: &Lake,
    context: &SessionContext,
    name: &TableName,
    options: &Options,
    filter: Option<&Expr>,
) -> Result<Rewritten> {
    let table = lake.table(name)?;
    let Some(start) = table.current_snapshot_id() else { return Ok(Rewritten::default()) };
    table.check_writable()?;
    let live = files::live_files(&table, Some(start))?;
    let scan = Scan::table(table.clone(), Some(start))?;
    let keep = match filter {
        Some(filter) => scan.may_match(&context.state(), filter)?,
        None => vec![true; live.data.len()],
    };
    let groups = plan(&table, &live, options, &keep)?;
    let sort = order(&table, options)?;
    let mut done = Rewritten::default();
    let batches = if options.partial_progress {
        groups.len().div_ceil(options.max_commits.max(1)).max(1)
    } else {
        groups.len().max(1)
    };
    for part in groups.chunks(batches) {
        let mut change = Change::replace(&table);
        change.data_sequence = table.metadata().snapshot_by_id(start).map(|s| s.sequence_number());
        change.planned_on = Some(start);
        let mut bytes = 0;
        for group in part {
            let (added, rows) = write(context, &table, start, group, &sort, options).await?;
            let written: u64 = added.iter().map(|f| f.record_count()).sum();
            if written != rows {
                return Err(Error::internal(format!(
                    "a rewrite of table `{name}` read {rows} rows and wrote {written}; nothing was committed"
                )));
            }
            bytes += group.bytes();
            change.removed.extend(group.files.iter().map(|f| f.data_file().file_path().to_owned()));
            change.added.extend(added);
        }
        change.drop_dangling_deletes = true;
        let (removed, added) = (change.removed.len(), change.added.len());
        match commit::commit(lake, &change) {
            Ok(Outcome::Committed { table, snapshot_id }) => {
                done.rewritten_files += removed;
                done.added_files += added;
                done.rewritten_bytes += bytes;
                let summary =
                    table.metadata().snapshot_by_id(snapshot_id).map(|s| s.summary().additional_properties.clone());
                let deletes = summary.as_ref().and_then(|s| s.get("removed-delete-files")).and_then(|v| v.parse().ok());
                done.removed_delete_files += deletes.unwrap_or(0usize);
            }
            Ok(Outcome::Stale { .. }) => done.failed_files += removed,
            Err(error) if error.kind() == insightera_core::ErrorKind::Conflict => done.failed_files += removed,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The order of rewritten rows: as asked, else by the entity key of a table of
/// predictions, else as they are.
fn order(table: &Table, options: &Options) -> Result<Vec<SortKey>> {
    if let Some(sort) = &options.sort {
        for key in sort {
            if table.schema().field_by_name(&key.column).is_none() {
                let names: BTreeSet<String> =
                    table.schema().as_struct().fields().iter().map(|f| f.name.clone()).collect();
                let error =
                    Error::not_found(format!("table `{}` has no column `{}` to sort by", table.name(), key.column));
                return Err(match insightera_core::closest(&key.column, names.iter().map(String::as_str)) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                });
            }
        }
        return Ok(sort.clone());
    }
    let shape = TableShape::read(table.metadata().properties());
    let keys = shape.map(|shape| shape.key).unwrap_or_default();
    let there = keys.into_iter().filter(|key| table.schema().field_by_name(key).is_some());
    Ok(there.map(|column| SortKey { column, descending: false, nulls_first: true }).collect())
}

/// Writes the rows of a group. Answers the new files and how many rows were
/// read.
async fn write(
    context: &SessionContext,
    table: &Table,
    snapshot: i64,
    group: &Group,
    sort: &[SortKey],
    options: &Options,
) -> Result<(Vec<iceberg::spec::DataFile>, u64)> {
    let scan = Scan::table(table.clone(), Some(snapshot))?;
    let scan = match faults::bug(Bug::RewriteIgnoresDeletes) {
        true => scan.of_files(LiveFiles { data: group.files.clone(), deletes: Vec::new() }),
        false => scan.only(&group.files),
    };
    let failed = |e: datafusion::common::DataFusionError| {
        crate::sql::plan_error(&format!("rewrite of table `{}`", table.name()), "", e)
    };
    let mut frame = context.read_table(Arc::new(scan)).map_err(failed)?;
    if !sort.is_empty() {
        let keys = sort.iter().map(|key| {
            let column = Expr::Column(datafusion::common::Column::from_name(&key.column));
            column.sort(!key.descending, key.nulls_first)
        });
        frame = frame.sort(keys.collect()).map_err(failed)?;
    }
    let plan = frame.create_physical_plan().await.map_err(failed)?;
    let plan: Arc<dyn datafusion::physical_plan::ExecutionPlan> =
        if plan.properties().output_partitioning().partition_count() > 1 {
            Arc::new(datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec::new(plan))
        } else {
            plan
        };
    let task: Arc<TaskContext> = context.task_ctx();
    let mut stream = plan.execute(0, task).map_err(failed)?;
    let ascending: Vec<String> =
        sort.iter().take_while(|k| !k.descending && k.nulls_first).map(|k| k.column.clone()).collect();
    let shape = TableShape::read(table.metadata().properties());
    let rows: u64 = group.files.iter().map(|f| f.data_file().record_count()).sum();
    let write = WriteOptions {
        bloom: shape.map(|shape| shape.key).unwrap_or_default(),
        sorted_by: ascending,
        expected_rows: usize::try_from(rows).unwrap_or(usize::MAX),
    };
    let mut writer = TableWriter::new(table, write)?;
    let target = target(table, options)?;
    if group.files.iter().all(|file| file.spec_id == table.metadata().default_partition_spec_id()) {
        // One partition: as many files of one size as come nearest to the target.
        let files = ((group.bytes() + target / 2) / target).max(1);
        writer.target(largest(target, options));
        writer.target_rows(rows.div_ceil(files));
    } else {
        writer.target(target);
    }
    let mut read = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(failed)?;
        read += batch.num_rows() as u64;
        writer.write(&batch)?;
    }
    Ok((writer.finish()?, read))
}
