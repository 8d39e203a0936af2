//! Shards: an entity-local query, evaluated one range of entity keys at a time.
//!
//! All rows of an entity fall into one shard, in every input. So the query
//! gives shard by shard the rows that it gives at once, in memory that depends
//! on the size of a shard, not on the number of entities; and shards run in
//! parallel without exchanging rows. The inputs are read once and cut into
//! temporary Arrow files, one per input and shard; the ranges come from a
//! sample of the keys. Shards are evaluated in the order of their keys, so the
//! files that a run writes hold disjoint ranges of keys.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::hash::BuildHasherDefault;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result as DfResult, Statistics};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, reset_plan_states};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};
use insightera_core::ErrorKind;
use xxhash_rust::xxh3::xxh3_64;

use super::features::FeatureQuery;
use super::inputs::Inputs;
use super::locality::{self, KeyColumns};
use super::newest;
use crate::config::Pipeline;
use crate::key::{HashOfHash, KeyOrder, Keys};
use crate::lake::durable::io_error;
use crate::lake::scan::Scan;
use crate::sql;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Input bytes of a shard, uncompressed: what several threads hold at once
/// stays far below the memory limit, and a shard's join still fits the cache.
const SHARD_BYTES: u64 = 32 << 20;
/// More shards than this only make small files.
const MAX_SHARDS: u64 = 256;
/// Keys of the sample, per shard: the largest shard is then a few per cent
/// larger than the mean.
const SAMPLE: u64 = 1024;
/// Rows that a batch of an input gives to each shard.
const PIECE: usize = 1024;
/// Bytes that are written to a temporary file at once.
const WRITTEN: usize = 256 << 10;

/// A query over sharded inputs.
pub struct Sharded {
    /// Its plan: as many partitions as threads. Each ends the rows of a shard
    /// with a batch without rows; what comes later has larger keys.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Shards that a partition evaluates, at most.
    pub shards_per_partition: usize,
    /// Rows of the query's first input that lack a partner in another, if they
    /// were to be counted.
    pub dropped_by_joins: Option<u64>,
    /// The temporary files; they go when this is dropped.
    #[expect(dead_code, reason = "held until the query ends")]
    pub files: ShardFiles,
}

/// Cuts the inputs of an entity-local query into shards, when they are large.
///
/// `most` is the number of entities where the run knows it: a run of a few
/// changed entities needs no shards. With `count_dropped`, the rows that inner
/// joins drop are counted on the way.
///
/// # Errors
/// When an input cannot be read or the disk refuses.
pub async fn sharded(
    workspace: &Workspace,
    (pipeline, pinned): (&Pipeline, &Inputs),
    query: &FeatureQuery,
    keys: &KeyColumns,
    most: Option<u64>,
    count_dropped: bool,
) -> Result<Option<Sharded>> {
    let failed = |e| sql::plan_error(&super::features::source(pipeline), &pipeline.features.sql, e);
    let state = query.context.state();
    let optimized = state.optimize(&query.run_plan(pipeline)?).map_err(failed)?;
    let mut inputs = reads(&optimized, query).map_err(failed)?;
    for input in inputs.values_mut() {
        input.rows = input.scan.rows().min(most.unwrap_or(u64::MAX));
    }
    let bytes: u64 = inputs.values().map(Input::bytes).sum();
    let threads = workspace.threads().max(1);
    let memory = workspace.project().settings.run.memory_bytes / (6 * threads as u64);
    let wanted = bytes.div_ceil(SHARD_BYTES.min(memory).max(1 << 14)).min(MAX_SHARDS);
    if wanted < 2 || inputs.keys().any(|name| !keys.contains_key(name)) {
        return Ok(None);
    }
    let count = (wanted as usize).next_multiple_of(threads);
    let files = ShardFiles::create(workspace)?;
    let state = batched(&state, PIECE * count);
    let Some(largest) = inputs.iter().max_by_key(|(_, input)| input.rows).map(|(name, _)| name.clone()) else {
        return Ok(None);
    };
    let cuts = match (inputs.get(&largest), keys.get(&largest)) {
        (Some(input), Some(columns)) => Arc::new(cuts(&state, input, columns, count).await.map_err(failed)?),
        _ => return Ok(None),
    };
    let joined = if count_dropped { locality::inner_joined(&query.plan) } else { None };
    let mut hashes: BTreeMap<&str, KeyHashes> = BTreeMap::new();
    let mut tables: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
    for (number, (name, input)) in inputs.iter().enumerate() {
        let folder = files.path.join(number.to_string());
        fs::create_dir_all(&folder).map_err(|e| io_error("create folder", &folder, e))?;
        let Some(columns) = keys.get(name) else { return Ok(None) };
        let columns_read = input.with_keys(columns).map_err(failed)?;
        let keep = joined.as_ref().is_some_and(|(first, partners)| first == name || partners.contains(name));
        let found = spill(&state, input, (columns, keep), &columns_read, &cuts, &folder).await.map_err(failed)?;
        hashes.insert(name, found);
        let table = ShardTable {
            schema: input.scan.schema(),
            columns: columns_read,
            rows: input.rows as usize / count,
            folder: folder.clone(),
        };
        tables.insert(name.clone(), Arc::new(table));
    }
    let dropped_by_joins = match &joined {
        Some((first, partners)) => {
            let partners: Vec<&KeyHashes> = partners.iter().filter_map(|name| hashes.get(name.as_str())).collect();
            hashes.get(first.as_str()).map(|first| dropped(first, &partners, threads))
        }
        None => count_dropped.then_some(0),
    };
    drop(hashes);
    let context = sql::single_threaded_session(workspace, &pipeline.features.time_zone)?;
    let query = FeatureQuery::over(context, pipeline, pinned, tables).await?;
    let state = query.context.state();
    let each = state.create_physical_plan(&query.run_plan(pipeline)?).await;
    let mut each = each.and_then(newest::streamed).map_err(failed)?;
    if each.output_partitioning().partition_count() > 1 {
        each = Arc::new(CoalescePartitionsExec::new(each));
    }
    let plan = Arc::new(ShardsExec::new(each, count, threads));
    Ok(Some(Sharded { plan, shards_per_partition: count.div_ceil(threads), dropped_by_joins, files }))
}

/// What a query reads of one table.
struct Input {
    scan: Arc<Scan>,
    columns: BTreeSet<usize>,
    rows: u64,
}

impl Input {
    /// About how many bytes its rows have in memory.
    fn bytes(&self) -> u64 {
        let schema = self.scan.schema();
        let width: usize = self.columns.iter().map(|i| width(schema.field(*i).data_type())).sum();
        self.rows * width as u64
    }

    /// The columns that are read, those of the key included.
    fn with_keys(&self, keys: &[String]) -> DfResult<Vec<usize>> {
        let schema = self.scan.schema();
        let mut columns = self.columns.clone();
        for key in keys {
            columns.insert(schema.index_of(key)?);
        }
        Ok(columns.into_iter().collect())
    }
}

fn width(data_type: &DataType) -> usize {
    data_type.primitive_width().unwrap_or(match data_type {
        DataType::Boolean => 1,
        DataType::Null => 0,
        _ => 32,
    })
}

/// The tables of an optimised plan with the columns that it reads.
fn reads(plan: &LogicalPlan, query: &FeatureQuery) -> DfResult<BTreeMap<String, Input>> {
    let mut inputs: BTreeMap<String, Input> = BTreeMap::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(read) = node {
            let name = read.table_name.to_string();
            let scan = query
                .scans
                .get(&name)
                .ok_or_else(|| DataFusionError::Internal(format!("the query reads an unknown table `{name}`")))?;
            let all = 0..scan.schema().fields().len();
            let columns: Vec<usize> = read.projection.clone().unwrap_or_else(|| all.collect());
            inputs
                .entry(name)
                .or_insert_with(|| Input { scan: scan.clone(), columns: BTreeSet::new(), rows: 0 })
                .columns
                .extend(columns);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(inputs)
}

fn batched(state: &SessionState, rows: usize) -> SessionState {
    let mut state = state.clone();
    state.config_mut().options_mut().execution.batch_size = rows.clamp(8192, 128 * 1024);
    state
}

/// Runs every partition of a scan as a task and gives its batches to `each`.
async fn read_all<T, F>(state: &SessionState, scan: &Scan, columns: &[usize], each: F) -> DfResult<Vec<T>>
where
    T: Default + Send + 'static,
    F: Fn(&mut T, RecordBatch) -> Result<()> + Clone + Send + 'static,
{
    let plan = scan.scan(state, Some(&columns.to_vec()), &[], None).await?;
    let context = Arc::new(TaskContext::from(state));
    let mut tasks = tokio::task::JoinSet::new();
    for partition in 0..plan.output_partitioning().partition_count() {
        let mut stream = plan.execute(partition, context.clone())?;
        let each = each.clone();
        tasks.spawn(async move {
            let mut kept = T::default();
            while let Some(batch) = stream.try_next().await? {
                each(&mut kept, batch).map_err(external)?;
            }
            Ok::<T, DataFusionError>(kept)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.push(done.map_err(|e| DataFusionError::Internal(format!("a reader ended early: {e}")))??);
    }
    Ok(all)
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Where the ranges of the shards begin, but for the first.
async fn cuts(state: &SessionState, input: &Input, keys: &[String], count: usize) -> DfResult<Cuts> {
    let schema = input.scan.schema();
    let columns = keys.iter().map(|k| schema.index_of(k)).collect::<Result<Vec<_>, _>>()?;
    let stride = (input.scan.rows() / (SAMPLE * count as u64)).max(1) as usize;
    let names = keys.to_vec();
    let samples = read_all(state, &input.scan, &columns, move |kept: &mut (usize, Vec<Box<[u8]>>), batch| {
        let order = KeyOrder::new(&batch, &names)?;
        let chosen: Vec<u32> = (0..batch.num_rows() as u32).skip(kept.0).step_by(stride).collect();
        kept.0 = match chosen.last() {
            Some(last) => (*last as usize + stride).saturating_sub(batch.num_rows()),
            None => kept.0 - batch.num_rows(),
        };
        let sample = take_record_batch(&batch, &UInt32Array::from(chosen))
            .map_err(|e| Error::internal(format!("keys cannot be sampled: {e}")).cause(e))?;
        let rows = order.rows(&Keys::new(&sample, &names)?)?;
        kept.1.extend(rows.iter().map(|row| Box::<[u8]>::from(row.as_ref())));
        Ok(())
    })
    .await?;
    let mut sample: Vec<Box<[u8]>> = samples.into_iter().flat_map(|(_, rows)| rows).collect();
    sample.sort_unstable();
    let mut cuts: Vec<Box<[u8]>> =
        (1..count).filter_map(|shard| sample.get(shard * sample.len() / count).cloned()).collect();
    cuts.dedup();
    Ok(Cuts::new(cuts))
}

/// Where the ranges of the shards begin, but for the first.
#[derive(Debug)]
struct Cuts {
    cuts: Vec<Box<[u8]>>,
    /// The first bytes of each, behind those that all have in common.
    prefixes: Vec<u64>,
    common: Box<[u8]>,
    /// For every value of the leading bits of a prefix, how many cuts have less.
    table: Vec<u32>,
    shift: u32,
}

impl Cuts {
    fn new(cuts: Vec<Box<[u8]>>) -> Self {
        let common = match (cuts.first(), cuts.last()) {
            // The cuts ascend: what the first and the last share, all share.
            (Some(first), Some(last)) => first.iter().zip(last).take_while(|(a, b)| a == b).count(),
            _ => 0,
        };
        let common: Box<[u8]> = cuts.first().map_or_else(Box::default, |first| first[..common].into());
        let prefixes: Vec<u64> = cuts.iter().map(|cut| prefix(&cut[common.len()..])).collect();
        let bits = (16 * cuts.len()).max(2).next_power_of_two().ilog2().min(16);
        let shift = 64 - bits;
        let table = (0..1u64 << bits).map(|cell| prefixes.partition_point(|p| p >> shift < cell) as u32).collect();
        Self { cuts, prefixes, common, table, shift }
    }

    /// How many there are.
    fn len(&self) -> usize {
        self.cuts.len()
    }

    /// The shard of a key: the number of cuts that are not above it.
    fn shard(&self, key: &[u8]) -> usize {
        let Some(rest) = key.strip_prefix(&*self.common) else {
            return self.cuts.partition_point(|cut| cut.as_ref() <= key);
        };
        let prefix = prefix(rest);
        let mut shard = self.table[(prefix >> self.shift) as usize] as usize;
        while let Some(other) = self.prefixes.get(shard) {
            if *other > prefix || (*other == prefix && self.cuts[shard].as_ref() > key) {
                break;
            }
            shard += 1;
        }
        shard
    }
}

/// The first eight bytes as a number that compares as they do.
fn prefix(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = bytes.len().min(8);
    first[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(first)
}

type ShardWriter = Mutex<Option<StreamWriter<BufWriter<File>>>>;

/// The hashes of an input's keys.
#[derive(Debug, Default)]
struct KeyHashes {
    /// By shard.
    shards: Vec<Vec<u64>>,
    /// Keys that are null have no partner.
    nulls: u64,
}

impl KeyHashes {
    fn push(&mut self, shard: usize, hash: u64) {
        if self.shards.len() <= shard {
            self.shards.resize_with(shard + 1, Vec::new);
        }
        self.shards[shard].push(hash);
    }

    fn append(&mut self, other: Self) {
        self.nulls += other.nulls;
        for (shard, hashes) in other.shards.into_iter().enumerate() {
            if self.shards.len() <= shard {
                self.shards.resize_with(shard + 1, Vec::new);
            }
            self.shards[shard].extend(hashes);
        }
    }
}

/// How many rows of `first` have a key that is not in each of `partners`.
fn dropped(first: &KeyHashes, partners: &[&KeyHashes], threads: usize) -> u64 {
    let next = AtomicUsize::new(0);
    let count = || {
        let mut dropped = 0;
        loop {
            let shard = next.fetch_add(1, Ordering::Relaxed);
            let Some(rows) = first.shards.get(shard) else { return dropped };
            let sets: Vec<HashSet<u64, BuildHasherDefault<HashOfHash>>> = partners
                .iter()
                .map(|p| p.shards.get(shard).map(|keys| keys.iter().copied().collect()).unwrap_or_default())
                .collect();
            dropped += rows.iter().filter(|key| sets.iter().any(|set| !set.contains(key))).count() as u64;
        }
    };
    let counted: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(count)).collect();
        let own = count();
        own + workers.into_iter().map(|worker| worker.join().unwrap_or(0)).sum::<u64>()
    });
    counted + first.nulls
}

/// Reads an input once and writes every row to the file of its shard. Answers
/// the hashes of the keys if they are to be kept.
async fn spill(
    state: &SessionState,
    input: &Input,
    (keys, keep): (&[String], bool),
    columns: &[usize],
    cuts: &Arc<Cuts>,
    folder: &Path,
) -> DfResult<KeyHashes> {
    let writers: Arc<Vec<ShardWriter>> = Arc::new((0..=cuts.len()).map(|_| Mutex::new(None)).collect());
    let (cuts, keys, shared, target) = (cuts.clone(), keys.to_vec(), writers.clone(), folder.to_owned());
    let found = read_all(state, &input.scan, columns, move |kept: &mut KeyHashes, batch| {
        let batch_keys = Keys::new(&batch, &keys)?;
        let rows = KeyOrder::new(&batch, &keys)?.rows(&batch_keys)?;
        let mut pieces: Vec<Vec<u32>> = vec![Vec::new(); cuts.len() + 1];
        for (row, key) in rows.iter().enumerate() {
            let shard = cuts.shard(key.as_ref());
            pieces[shard].push(row as u32);
            if !keep {
                continue;
            }
            if batch_keys.is_null(row) {
                kept.nulls += 1;
            } else {
                kept.push(shard, xxh3_64(key.as_ref()));
            }
        }
        drop(rows);
        for (shard, piece) in pieces.into_iter().enumerate().filter(|(_, piece)| !piece.is_empty()) {
            let piece = compact(take_record_batch(&batch, &UInt32Array::from(piece)))?;
            let path = shard_file(&target, shard);
            let mut writer = shared[shard].lock().unwrap_or_else(PoisonError::into_inner);
            append(&mut writer, &path, &piece)?;
        }
        Ok(())
    })
    .await?;
    for (shard, writer) in writers.iter().enumerate() {
        if let Some(mut writer) = writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            finish(&mut writer, &shard_file(folder, shard)).map_err(external)?;
        }
    }
    let mut hashes = KeyHashes::default();
    found.into_iter().for_each(|part| hashes.append(part));
    Ok(hashes)
}

fn shard_file(folder: &Path, shard: usize) -> PathBuf {
    folder.join(format!("{shard}.arrows"))
}

fn append(writer: &mut Option<StreamWriter<BufWriter<File>>>, path: &Path, batch: &RecordBatch) -> Result<()> {
    let failed = |e| cannot_write(path, e);
    let open = match writer {
        Some(open) => open,
        None => {
            let file = File::create(path).map_err(|e| io_error("create", path, e))?;
            writer.insert(
                StreamWriter::try_new(BufWriter::with_capacity(WRITTEN, file), &batch.schema()).map_err(failed)?,
            )
        }
    };
    open.write(batch).map_err(failed)
}

fn finish(writer: &mut StreamWriter<BufWriter<File>>, path: &Path) -> Result<()> {
    writer.finish().map_err(|e| cannot_write(path, e))?;
    writer.get_mut().flush().map_err(|e| io_error("write", path, e))
}

fn cannot_write(path: &Path, error: arrow::error::ArrowError) -> Error {
    match error {
        arrow::error::ArrowError::IoError(_, e) => io_error("write", path, e),
        other => Error::internal(format!("`{}` cannot be written: {other}", path.display())).cause(other),
    }
}

/// Lets go of strings that belong to other rows of the batch.
fn compact(batch: Result<RecordBatch, arrow::error::ArrowError>) -> Result<RecordBatch> {
    let failed = |e| Error::internal(format!("rows cannot be taken: {e}"));
    let batch = batch.map_err(failed)?;
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Utf8View if !column.as_string_view().data_buffers().is_empty() => {
                Arc::new(column.as_string_view().gc()) as ArrayRef
            }
            DataType::BinaryView if !column.as_binary_view().data_buffers().is_empty() => {
                Arc::new(column.as_binary_view().gc())
            }
            _ => column.clone(),
        })
        .collect();
    RecordBatch::try_new(batch.schema(), columns).map_err(failed)
}

/// A folder of temporary files. A process that is killed leaves it behind; the
/// next run with shards removes it.
#[derive(Debug)]
pub struct ShardFiles {
    path: PathBuf,
    /// Locked as long as the folder is in use.
    _lock: File,
}

impl ShardFiles {
    /// In the project; in the system's folder for temporary files when the
    /// project cannot be written, since `plan` and `verify` only read it.
    fn create(workspace: &Workspace) -> Result<Self> {
        match Self::create_in(&workspace.project().dir.join(".insightera").join("shards")) {
            Err(error) if error.kind() == ErrorKind::Invalid => {
                Self::create_in(&std::env::temp_dir().join("insightera-shards"))
            }
            created => created,
        }
    }

    fn create_in(parent: &Path) -> Result<Self> {
        fs::create_dir_all(parent).map_err(|e| io_error("create folder", parent, e))?;
        for old in fs::read_dir(parent).into_iter().flatten().flatten() {
            let lock = old.path().join("lock");
            // In use, or already gone: either way nothing to do.
            if File::open(&lock).is_ok_and(|file| file.try_lock().is_ok()) {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        let path = parent.join(uuid::Uuid::now_v7().to_string());
        fs::create_dir(&path).map_err(|e| io_error("create folder", &path, e))?;
        let lock = path.join("lock");
        let file = File::create(&lock).map_err(|e| io_error("create", &lock, e))?;
        file.lock().map_err(|e| io_error("lock", &lock, e))?;
        Ok(Self { path, _lock: file })
    }
}

impl Drop for ShardFiles {
    fn drop(&mut self) {
        // What stays is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A table of which every shard is a file.
#[derive(Debug)]
struct ShardTable {
    schema: SchemaRef,
    /// Which columns the files have.
    columns: Vec<usize>,
    /// About how many rows a shard has.
    rows: usize,
    folder: PathBuf,
}

#[async_trait]
impl TableProvider for ShardTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let places = wanted
            .iter()
            .map(|column| {
                self.columns.binary_search(column).map_err(|_| {
                    DataFusionError::Internal(format!("column {column} is not in the shards of this table"))
                })
            })
            .collect::<DfResult<Vec<usize>>>()?;
        let schema = Arc::new(self.schema.project(&wanted)?);
        Ok(Arc::new(ShardScanExec::new(schema, places, self.rows, self.folder.clone())))
    }
}

/// Which shard a plan is executed for.
#[derive(Debug)]
struct CurrentShard(usize);

/// Reads the file of the current shard.
#[derive(Debug)]
struct ShardScanExec {
    schema: SchemaRef,
    places: Vec<usize>,
    rows: usize,
    folder: PathBuf,
    properties: Arc<PlanProperties>,
}

impl ShardScanExec {
    fn new(schema: SchemaRef, places: Vec<usize>, rows: usize, folder: PathBuf) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { schema, places, rows, folder, properties }
    }
}

impl DisplayAs for ShardScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardScanExec: folder={}", self.folder.display())
    }
}

impl ExecutionPlan for ShardScanExec {
    fn name(&self) -> &'static str {
        "ShardScanExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn partition_statistics(&self, _: Option<usize>) -> DfResult<Statistics> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Inexact(self.rows);
        Ok(statistics)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let shard = context
            .session_config()
            .get_extension::<CurrentShard>()
            .ok_or_else(|| DataFusionError::Internal("no shard is chosen".into()))?;
        let path = shard_file(&self.folder, shard.0);
        let batches = match File::open(&path) {
            Ok(file) => {
                Some(StreamReader::try_new(BufReader::with_capacity(WRITTEN, file), Some(self.places.clone()))?)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(external(io_error("open", &path, e))),
        };
        let schema = self.schema.clone();
        let rows = futures::stream::iter(batches.into_iter().flatten()).map(move |batch| {
            let batch = batch?;
            Ok(RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows)))
    }
}

/// Evaluates a plan once per shard, each partition a run of shards.
#[derive(Debug)]
struct ShardsExec {
    each: Arc<dyn ExecutionPlan>,
    shards: usize,
    partitions: usize,
    properties: Arc<PlanProperties>,
}

impl ShardsExec {
    fn new(each: Arc<dyn ExecutionPlan>, shards: usize, partitions: usize) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(each.schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { each, shards, partitions, properties }
    }
}

impl DisplayAs for ShardsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardsExec: shards={}", self.shards)
    }
}

impl ExecutionPlan for ShardsExec {
    fn name(&self) -> &'static str {
        "ShardsExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.each]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), self.shards, self.partitions)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let (from, to) = (partition * self.shards / self.partitions, (partition + 1) * self.shards / self.partitions);
        let (each, schema) = (self.each.clone(), self.each.schema());
        let rows = futures::stream::iter(from..to)
            .map(move |shard| {
                let config = context.session_config().clone().with_extension(Arc::new(CurrentShard(shard)));
                let context = TaskContext::new(
                    context.task_id(),
                    context.session_id(),
                    config,
                    context.scalar_functions().clone(),
                    context.aggregate_functions().clone(),
                    context.window_functions().clone(),
                    context.runtime_env(),
                );
                let plan = reset_plan_states(each.clone())?;
                let rows = plan.execute(0, Arc::new(context))?;
                let end = RecordBatch::new_empty(plan.schema());
                let rows = rows.try_filter(|batch| futures::future::ready(batch.num_rows() > 0));
                Ok::<_, DataFusionError>(rows.chain(futures::stream::once(futures::future::ready(Ok(end)))))
            })
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_falls_into_the_shard_that_comparing_with_every_cut_gives(
            start in prop::collection::vec(0u8..3, 0..3),
            cuts in prop::collection::vec(prop::collection::vec(0u8..4, 0..11), 0..40),
            keys in prop::collection::vec(prop::collection::vec(0u8..4, 0..11), 1..60),
            joined in any::<bool>(),
        ) {
            let with_start = |key: &Vec<u8>| [start.as_slice(), key].concat().into_boxed_slice();
            let mut cuts: Vec<Box<[u8]>> = cuts.iter().map(with_start).collect();
            cuts.sort_unstable();
            cuts.dedup();
            let found = Cuts::new(cuts.clone());
            for key in &keys {
                let key = if joined { with_start(key) } else { key.as_slice().into() };
                prop_assert_eq!(found.shard(&key), cuts.iter().filter(|cut| **cut <= key).count());
            }
        }
    }
}
