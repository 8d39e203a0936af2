//! Does the steps with the engine's own functions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::DataType;
use datafusion::prelude::{SessionConfig, SessionContext};
use iceberg::spec::Operation;
use insightera_core::{ErrorKind, ManualClock};
use insightera_engine::lake::commit::{self, Change, Outcome};
use insightera_engine::lake::erase::{self, Entity, Erasure, Rule};
use insightera_engine::lake::evolve::{self, Alteration};
use insightera_engine::lake::maintain::expire::Rules;
use insightera_engine::lake::maintain::rewrite::Options;
use insightera_engine::lake::maintain::{erased, expire, manifests, orphans, rewrite};
use insightera_engine::lake::refs::{self, Existing, Reach, RefKind, Retention};
use insightera_engine::lake::scan::Scan;
use insightera_engine::lake::schema::{Column, timestamptz};
use insightera_engine::lake::storage::Storage;
use insightera_engine::lake::writer::{TableWriter, WriteOptions};
use insightera_engine::lake::{Lake, NewTable, Table, TableName, deletes, files, keys, upsert};
use insightera_engine::{Error, Result};

use super::catalog::MemoryCatalog;
use super::ledger::Step;
use super::walker::{self, FIRST_COLUMNS, Rows, student};
use crate::project::nim;

/// Tries against other writers.
const ATTEMPTS: usize = 20;

pub fn table_name() -> TableName {
    TableName { namespace: "gold".into(), name: "grades".into() }
}

/// Runs what waits, and plans what is read.
pub struct Tools {
    runtime: tokio::runtime::Runtime,
    context: SessionContext,
}

impl Tools {
    pub fn new() -> Self {
        Self::with(SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1)))
    }

    fn with(context: SessionContext) -> Self {
        Self { runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(), context }
    }

    fn read(&self, scan: Scan) -> Result<Vec<RecordBatch>> {
        let wrong = |e: datafusion::common::DataFusionError| Error::data(format!("cannot read: {e}"));
        let frame = self.context.read_table(Arc::new(scan)).map_err(wrong)?;
        self.runtime.block_on(frame.collect()).map_err(wrong)
    }

    /// How often each student is in a snapshot, as the engine reads it.
    pub fn count(&self, table: &Table, snapshot: i64) -> Result<BTreeMap<usize, usize>> {
        let mut found = BTreeMap::new();
        for batch in self.read(Scan::table(table.clone(), Some(snapshot))?)? {
            for student in students(&batch) {
                *found.entry(student).or_default() += 1;
            }
        }
        Ok(found)
    }
}

/// The same of rows.
pub fn counted(rows: &Rows) -> BTreeMap<usize, usize> {
    let mut found = BTreeMap::new();
    for ((student, _), count) in rows {
        *found.entry(*student).or_default() += count;
    }
    found
}

fn students(batch: &RecordBatch) -> Vec<usize> {
    let nims = cast(batch.column_by_name("nim").unwrap(), &DataType::Utf8).unwrap();
    nims.as_string::<i32>().iter().flatten().map(|nim| student(nim).unwrap()).collect()
}

/// One table, in a folder that memory holds.
#[derive(Clone)]
pub struct World {
    pub folder: PathBuf,
    pub lake: Lake,
    pub catalog: Arc<MemoryCatalog>,
    pub clock: Arc<ManualClock>,
    properties: BTreeMap<String, String>,
    /// Whether the table is one that pipelines write: erasures are numbered.
    ours: bool,
    erasures: Arc<Mutex<u64>>,
    /// The metadata file that an erasure is about to replace: on disk it is in
    /// the ledger before the swap.
    replacing: Arc<Mutex<Option<String>>>,
    /// What the last erasure could not remove, and why.
    pub left: Arc<Mutex<Vec<String>>>,
    /// What the second of two writers answered.
    second: Arc<Mutex<Option<Result<()>>>>,
    tables: Arc<Mutex<usize>>,
}

impl World {
    pub fn new(folder: &Path, ours: bool, properties: BTreeMap<String, String>) -> Self {
        let catalog = Arc::new(MemoryCatalog::new(folder.join("catalog")));
        let clock = Arc::new(ManualClock::new(crate::project::START));
        let lake = lake(folder, &catalog, &clock);
        let (erasures, replacing, left, second, tables) = Default::default();
        let folder = folder.to_owned();
        Self { folder, lake, catalog, clock, properties, ours, erasures, replacing, left, second, tables }
    }

    /// Another process: nothing but what is on disk and in the catalog.
    pub fn restart(&mut self) {
        drop(self.catalog.waiting());
        self.lake = lake(&self.folder, &self.catalog, &self.clock);
    }

    pub fn warehouse(&self) -> PathBuf {
        self.folder.join("warehouse")
    }

    pub fn table(&self) -> Result<Table> {
        self.lake.table(&table_name())
    }

    /// Where the table is.
    pub fn location(&self) -> Result<String> {
        self.table().map(|table| table.metadata().location().to_owned())
    }

    pub fn pointer(&self) -> Option<String> {
        self.catalog.pointers().remove(&table_name())
    }

    pub fn create(&self, elsewhere: bool) -> Result<()> {
        let columns = vec![
            Column::required("nim", DataType::Utf8),
            Column::nullable("gpa", DataType::Float64),
            Column::nullable("feature_timestamp", timestamptz()),
        ];
        let mut number = self.tables.lock().unwrap();
        *number += usize::from(elsewhere);
        let location = (*number > 0).then(|| format!("{}/gold/grades-{number}", self.lake.warehouse()));
        let properties = self.properties.clone().into_iter().collect();
        let new = NewTable { name: table_name(), columns, partition_by: Vec::new(), properties, location };
        self.lake.create_table(&new).map(drop)
    }

    /// Does one step.
    pub fn act(&self, step: &Step, tools: &Tools) -> Result<()> {
        let (lake, name) = (&self.lake, table_name());
        match step {
            Step::Append { from, count, columns } => {
                let students = Vec::from_iter(*from..from + count);
                self.commit(|table| {
                    let nim = vec!["nim".to_owned()];
                    let options = WriteOptions { bloom: nim.clone(), sorted_by: nim, expected_rows: *count };
                    let mut writer = TableWriter::new(table, options)?;
                    writer.write(&rows(table, &students, *columns))?;
                    Ok(Change::append(table, writer.finish()?))
                })
            }
            Step::Upsert { students, columns } => {
                let table = self.table()?;
                upsert::upsert(lake, &table, &rows(&table, students, *columns), &["nim".into()]).map(drop)
            }
            Step::DeletePositions(gone) => self.delete_positions(gone),
            Step::DeleteValues(gone) => self.commit(|table| {
                let nims: ArrayRef = Arc::new(StringArray::from_iter_values(gone.iter().map(|s| nim(*s))));
                let keys = RecordBatch::try_from_iter([("nim", nims)]).unwrap();
                let mut change = Change { operation: Operation::Delete, ..Change::append(table, Vec::new()) };
                change.deletes.push(upsert::equality_delete_file(table, &keys)?);
                Ok(change)
            }),
            Step::DeleteCopy(rest) => self.delete_copy(*rest, tools),
            Step::AddColumn(number) => {
                let column = Column::nullable(&format!("c{number}"), DataType::Int32);
                evolve::alter(lake, &name, &[Alteration::AddColumn { column, place: None }]).map(drop)
            }
            Step::RenameColumn => {
                let table = self.table()?;
                let Some(last) = table.schema().as_struct().fields().get(FIRST_COLUMNS..).and_then(<[_]>::last) else {
                    return Ok(());
                };
                let to = format!("{}r", last.name);
                let rename = Alteration::RenameColumn { from: last.name.clone(), to };
                evolve::alter(lake, &name, &[rename]).map(drop)
            }
            Step::Compact { all, parts } => {
                let options = Options {
                    rewrite_all: *all,
                    partial_progress: *parts,
                    min_input_files: 2,
                    max_group_bytes: if *parts { 4000 } else { 100 << 30 },
                    ..Options::default()
                };
                tools.runtime.block_on(rewrite::rewrite(lake, &tools.context, &name, &options, None)).map(drop)
            }
            Step::Manifests => manifests::rewrite(lake, &name, None).map(drop),
            Step::Expire { keep } => {
                let older_than_ms = Some(lake.clock().now_millis());
                let rules = Rules { older_than_ms, retain_last: Some(*keep), ..Rules::default() };
                expire::expire(lake, &name, &rules).map(drop)
            }
            Step::Orphans { sweep } => {
                self.orphans()?;
                if *sweep {
                    orphans::sweep(lake, Duration::ZERO)?;
                }
                Ok(())
            }
            Step::OrphansBeside { from, count } => {
                let table = self.table()?;
                let mut writer = TableWriter::new(&table, WriteOptions::default())?;
                writer.write(&rows(&table, &Vec::from_iter(*from..from + count), 0))?;
                let change = Change::append(&table, writer.finish()?);
                // Two tables in one folder are no reason not to commit.
                let found = self.orphans();
                commit::commit(lake, &change)?;
                found
            }
            Step::Rollback { to } => refs::move_main(lake, &name, *to, Reach::Ancestors).map(drop),
            Step::SetRef { branch, name: reference, to } => {
                let (kind, to) = (kind(*branch), Some(*to));
                refs::set(lake, &name, kind, reference, to, Retention::default(), Existing::Replace).map(drop)
            }
            Step::DropRef { branch, name: reference } => {
                refs::drop(lake, &name, kind(*branch), reference, false).map(drop)
            }
            Step::DropAndCreate { elsewhere } => {
                lake.catalog().drop_table(&name)?;
                self.create(*elsewhere)
            }
            Step::Erase(student) => self.erase(*student),
            Step::Two(one, two, after) => {
                *self.second.lock().unwrap() = None;
                let (world, step, context) = (self.clone(), two.clone(), tools.context.clone());
                self.catalog.let_in(*after, move || {
                    let second = world.second.clone();
                    // On a thread of its own: the first may be inside a runtime.
                    let work = move || world.act(&step, &Tools::with(context));
                    *second.lock().unwrap() = Some(std::thread::spawn(work).join().unwrap());
                });
                let first = self.act(one, tools);
                if let Some(waiting) = self.catalog.waiting() {
                    waiting();
                }
                let second = self.second.lock().unwrap().take().unwrap_or(Ok(()));
                first.and(second)
            }
        }
    }

    /// Commits what is prepared, as runs do: again, if an erasure was faster.
    fn commit(&self, prepare: impl Fn(&Table) -> Result<Change>) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let table = self.table()?;
            let mut change = prepare(&table)?;
            change.erasures = self.ours.then(|| keys::erasures_of(&table));
            if let Outcome::Committed { .. } = commit::commit(&self.lake, &change)? {
                return Ok(());
            }
        }
        Err(Error::conflict("others were always faster"))
    }

    fn orphans(&self) -> Result<()> {
        let found = orphans::find(&self.lake, &table_name(), orphans::default_search(self.lake.clock().now_millis()))?;
        orphans::quarantine(&self.lake, &table_name(), &found).map(drop)
    }

    fn delete_positions(&self, gone: &[usize]) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let table = self.table()?;
            let start = table.current_snapshot_id();
            let mut hits: BTreeMap<String, Vec<i64>> = BTreeMap::new();
            for file in files::live_files(&table, start)?.data {
                let path = file.data_file().file_path().to_owned();
                let (input, metadata) = deletes::open(table.storage(), &path)?;
                let reader =
                    parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata);
                let rows = reader.build().unwrap().flat_map(|batch| students(&batch.unwrap()));
                let found: Vec<i64> =
                    rows.enumerate().filter(|(_, s)| gone.contains(s)).map(|(at, _)| at as i64).collect();
                if !found.is_empty() {
                    hits.insert(path, found);
                }
            }
            if hits.is_empty() {
                return Ok(());
            }
            let mut change = Change { operation: Operation::Delete, ..Change::append(&table, Vec::new()) };
            change.expected = Some(start);
            change.deletes.push(upsert::position_delete_file(&table, &hits)?);
            if let Outcome::Committed { .. } = commit::commit(&self.lake, &change)? {
                return Ok(());
            }
        }
        Err(Error::conflict("others were always faster"))
    }

    /// As `DELETE` does it.
    fn delete_copy(&self, rest: usize, tools: &Tools) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let table = self.table()?;
            let start = table.current_snapshot_id();
            let mut writer = TableWriter::new(&table, WriteOptions::default())?;
            let mut removed = Vec::new();
            for file in files::live_files(&table, start)?.data {
                let batches = tools.read(Scan::table(table.clone(), start)?.only(std::slice::from_ref(&file)))?;
                let goes = |student: &usize| student % 3 == rest;
                if !batches.iter().any(|batch| students(batch).iter().any(goes)) {
                    continue;
                }
                removed.push(file.data_file().file_path().to_owned());
                for batch in batches {
                    let stays: BooleanArray = students(&batch).iter().map(|s| Some(!goes(s))).collect();
                    writer.write(&filter_record_batch(&batch, &stays).unwrap())?;
                }
            }
            if removed.is_empty() {
                return Ok(());
            }
            let added = writer.finish()?;
            let operation = if added.is_empty() { Operation::Delete } else { Operation::Overwrite };
            let mut change = Change { operation, removed, ..Change::append(&table, added) };
            change.expected = Some(start);
            match commit::commit(&self.lake, &change) {
                Ok(Outcome::Committed { .. }) => return Ok(()),
                Ok(Outcome::Stale { .. }) => {}
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::conflict("others were always faster"))
    }

    /// The command's part for one table, in the command's order.
    fn erase(&self, student: usize) -> Result<()> {
        let (lake, name) = (&self.lake, table_name());
        let entity = Entity { columns: vec!["nim".into()], values: vec![nim(student)] };
        let base = self.replacing.lock().unwrap().clone();
        if let Some(base) = base {
            erased::remove_replaced(lake, &name, &base)?;
        }
        let number = self.ours.then(|| {
            let mut number = self.erasures.lock().unwrap();
            *number += 1;
            *number
        });
        let erasure = Erasure { entity: &entity, rule: Rule::Key, number, edit: None };
        erase::erase(lake, &name, &erasure, &mut |base| {
            *self.replacing.lock().unwrap() = Some(base.to_owned());
            Ok(())
        })?;
        erased::remove_abandoned(lake, &name)?;
        let holds = |table: &Table, location: &str| erase::holds(table, &erasure, location);
        *self.left.lock().unwrap() = erased::remove_leftovers(lake, &name, &holds, self.ours)?.left;
        *self.replacing.lock().unwrap() = None;
        Ok(())
    }
}

fn lake(folder: &Path, catalog: &Arc<MemoryCatalog>, clock: &Arc<ManualClock>) -> Lake {
    let warehouse = format!("file://{}/warehouse", folder.display());
    Lake::new(catalog.clone(), Storage::default(), warehouse, clock.clone())
}

fn kind(branch: bool) -> RefKind {
    if branch { RefKind::Branch } else { RefKind::Tag }
}

/// Rows of students, with values in the first so many later columns.
fn rows(table: &Table, students: &[usize], columns: usize) -> RecordBatch {
    let nims: ArrayRef = Arc::new(StringArray::from_iter_values(students.iter().map(|s| nim(*s))));
    let gpa: ArrayRef = Arc::new(Float64Array::from_iter_values(students.iter().map(|s| *s as f64 + 0.5)));
    let mut all = vec![("nim".to_owned(), nims), ("gpa".to_owned(), gpa)];
    for field in table.schema().as_struct().fields().iter().skip(FIRST_COLUMNS).take(columns) {
        let values = Int32Array::from_iter_values(students.iter().map(|s| walker::later_value(*s)));
        all.push((field.name.clone(), Arc::new(values)));
    }
    RecordBatch::try_from_iter(all).unwrap()
}

/// Lets every file grow old by the storage's clock.
pub fn age(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            age(&path);
        } else if let Ok(file) = std::fs::File::open(&path) {
            let _ = file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        }
    }
}
