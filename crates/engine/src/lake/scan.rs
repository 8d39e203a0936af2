//! The read provider: a table or a folder, pinned, as a parallel DataFusion
//! scan.
//!
//! Files go to DataFusion's own Parquet reader, many at a time: pruned by
//! column bounds first, position deletes as row selections. With a set of
//! entity keys the rows are found first ([`super::keyed`]), and of the other
//! columns only those rows are decoded.
//! Files with equality deletes, or whose columns cannot be matched by name
//! (renamed, retyped, dropped and added again), go through Iceberg's reader,
//! which matches by field id.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, DFSchema, DataFusionError, Result as DfResult, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TableProviderFilterPushDown,
    TableType, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicate;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::union::UnionExec;
use futures::{StreamExt, TryStreamExt};
use iceberg::scan::{FileScanTask, FileScanTaskDeleteFile};
use iceberg::spec::{DataContentType, Datum, PrimitiveLiteral, PrimitiveType};

use super::deletes::{self, Positions};
use super::faults::{self, Bug};
use super::files::{self, LiveFile, LiveFiles};
use super::folder::Folder;
use super::keyed;
use super::schema::query_schema;
use super::storage::{self, Storage, StoredPath};
use super::table::Table;
use crate::key::{KeySet, Keys};
use crate::{Error, Result};

/// A pinned table or folder that queries can scan.
#[derive(Debug, Clone)]
pub struct Scan {
    schema: SchemaRef,
    source: Source,
    keys: Option<KeyFilter>,
}

#[derive(Debug, Clone)]
enum Source {
    Table { table: Table, snapshot_id: Option<i64>, files: Arc<LiveFiles> },
    Folder(Arc<Folder>),
}

/// What the scans of a session's plans read, in the order they were planned;
/// an extension of the session.
#[derive(Debug, Default)]
pub struct ScanNotes(Mutex<Vec<ScanNote>>);

/// What one scan reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanNote {
    /// The table or folder.
    pub table: String,
    /// The snapshot, of a table that has one.
    pub snapshot_id: Option<i64>,
    /// Data files that are left after pruning by partition and bounds.
    pub files: usize,
    /// Data files of the snapshot.
    pub all_files: usize,
    /// Bytes of the files that are left; less is read where columns, row
    /// groups and pages are left out.
    pub bytes: u64,
    /// Bytes of all data files.
    pub all_bytes: u64,
}

impl ScanNotes {
    fn add(&self, note: ScanNote) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(note);
    }

    /// The notes so far.
    pub fn all(&self) -> Vec<ScanNote> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Only rows whose key is in the set.
#[derive(Debug, Clone)]
pub struct KeyFilter {
    /// The key columns, in the order of the entity key.
    pub columns: Vec<String>,
    /// The wanted keys.
    pub keys: Arc<KeySet>,
}

impl Scan {
    /// A scan of `table` as of `snapshot_id`; `None` is an empty table.
    pub fn table(table: Table, snapshot_id: Option<i64>) -> Result<Self> {
        let schema = match snapshot_id.and_then(|id| table.metadata().snapshot_by_id(id)) {
            Some(snapshot) if Some(snapshot.snapshot_id()) != table.current_snapshot_id() => snapshot
                .schema(table.metadata())
                .map_err(|e| Error::data(format!("a snapshot of table `{}` has no schema: {e}", table.name())))?,
            _ => table.schema().clone(),
        };
        let files = Arc::new(files::live_files(&table, snapshot_id)?);
        let schema = query_schema(&schema)?;
        Ok(Self { schema, source: Source::Table { table, snapshot_id, files }, keys: None })
    }

    /// A scan of a Parquet folder.
    pub fn folder(folder: Arc<Folder>) -> Self {
        Self { schema: folder.schema.clone(), source: Source::Folder(folder), keys: None }
    }

    /// The same scan, only rows with these keys.
    #[must_use]
    pub fn with_keys(mut self, filter: KeyFilter) -> Self {
        self.keys = Some(filter);
        self
    }

    /// The same scan of these files of the snapshot alone, with the delete
    /// files that apply to them.
    #[must_use]
    pub fn only(mut self, chosen: &[LiveFile]) -> Self {
        if let Source::Table { files, .. } = &mut self.source {
            let deletes = files.deletes.clone();
            *files = Arc::new(LiveFiles { data: chosen.to_vec(), deletes });
        }
        self
    }

    /// The same scan of these files, whichever snapshot they are of, in the
    /// schema of this one.
    #[must_use]
    pub fn of_files(mut self, chosen: LiveFiles) -> Self {
        if let Source::Table { files, .. } = &mut self.source {
            *files = Arc::new(chosen);
        }
        self
    }

    /// The data files of a table's snapshot; a folder has none.
    pub fn live_files(&self) -> &[LiveFile] {
        match &self.source {
            Source::Table { files, .. } => &files.data,
            Source::Folder(_) => &[],
        }
    }

    /// For each file, whether its bounds allow rows for which `filter` holds.
    pub fn may_match(&self, state: &dyn Session, filter: &Expr) -> Result<Vec<bool>> {
        let wrong = |e: DataFusionError| Error::internal(format!("a filter cannot prune: {e}")).cause(e);
        let schema = DFSchema::try_from(self.schema.as_ref().clone()).map_err(wrong)?;
        let predicate = state.create_physical_expr(filter.clone(), &schema).map_err(wrong)?;
        self.prune(Some(&predicate)).map_err(wrong)
    }

    /// Bytes of the data files.
    pub fn bytes(&self) -> u64 {
        match &self.source {
            Source::Table { files, .. } => files.data_bytes(),
            Source::Folder(folder) => folder.files.iter().map(|f| f.bytes).sum(),
        }
    }

    /// Rows of the data files, deleted ones included.
    pub fn rows(&self) -> u64 {
        match &self.source {
            Source::Table { files, .. } => files.data_rows(),
            Source::Folder(folder) => folder.files.iter().map(|f| f.rows).sum(),
        }
    }

    fn storage(&self) -> Storage {
        match &self.source {
            Source::Table { table, .. } => table.storage().clone(),
            Source::Folder(_) => Storage::default(),
        }
    }

    /// Number of data files.
    pub fn file_count(&self) -> usize {
        match &self.source {
            Source::Table { files, .. } => files.data.len(),
            Source::Folder(folder) => folder.files.len(),
        }
    }

    fn note(&self, keep: &[bool]) -> ScanNote {
        let (table, snapshot_id) = match &self.source {
            Source::Table { table, snapshot_id, .. } => (table.name().to_string(), *snapshot_id),
            Source::Folder(folder) => (folder.root.display().to_string(), None),
        };
        let sizes: Vec<u64> = match &self.source {
            Source::Table { files, .. } => files.data.iter().map(|f| f.data_file().file_size_in_bytes()).collect(),
            Source::Folder(folder) => folder.files.iter().map(|f| f.bytes).collect(),
        };
        let kept = sizes.iter().zip(keep).filter(|(_, keep)| **keep);
        ScanNote {
            table,
            snapshot_id,
            files: keep.iter().filter(|keep| **keep).count(),
            all_files: sizes.len(),
            bytes: kept.map(|(bytes, _)| bytes).sum(),
            all_bytes: sizes.iter().sum(),
        }
    }

    fn statistics(&self, exact: bool) -> Statistics {
        let mut statistics = Statistics::new_unknown(&self.schema);
        let rows = self.rows() as usize;
        statistics.num_rows = if exact { Precision::Exact(rows) } else { Precision::Inexact(rows) };
        statistics
    }

    fn prune(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> DfResult<Vec<bool>> {
        let (Some(predicate), Source::Table { files, .. }) = (predicate, &self.source) else {
            return Ok(vec![true; self.file_count()]);
        };
        let pruning = PruningPredicate::try_new(predicate.clone(), self.schema.clone())?;
        if pruning.always_true() {
            return Ok(vec![true; files.data.len()]);
        }
        pruning.prune(&FileBounds { scan: self, files: &files.data })
    }

    /// Splits the files that survive into those for the Parquet reader and
    /// those for Iceberg's.
    fn sort_files(&self, keep: &[bool], projected: &[usize]) -> Result<(Vec<PlainFile>, Vec<FileScanTask>)> {
        let (mut plain, mut tasks) = (Vec::new(), Vec::new());
        match &self.source {
            Source::Folder(folder) => {
                let local = Storage::default();
                for (file, _) in folder.files.iter().zip(keep).filter(|(_, keep)| **keep) {
                    let location = file.path.display().to_string();
                    let mut file_of_folder = PlainFile::new(&local, location, file.bytes)?;
                    file_of_folder.part.partition_values =
                        file.partition.iter().map(|v| ScalarValue::Utf8(v.clone())).collect();
                    plain.push(file_of_folder);
                }
            }
            Source::Table { table, files, .. } => {
                let by_name = self.matched_by_name(table, projected);
                let mut positions: HashMap<Vec<String>, Arc<Positions>> = HashMap::new();
                for (file, _) in files.data.iter().zip(keep).filter(|(_, keep)| **keep) {
                    let deletes = files.deletes_for(file, table);
                    let only_positions =
                        deletes.iter().all(|d| d.data_file().content_type() == DataContentType::PositionDeletes);
                    if !by_name || !only_positions {
                        tasks.push(self.task(table, file, &deletes, projected)?);
                        continue;
                    }
                    let data = file.data_file();
                    let location = data.file_path().to_owned();
                    let mut file = PlainFile::new(table.storage(), location, data.file_size_in_bytes())?;
                    if !deletes.is_empty() {
                        let names: Vec<String> = deletes.iter().map(|d| d.data_file().file_path().to_owned()).collect();
                        let found = match positions.get(&names) {
                            Some(found) => found.clone(),
                            None => {
                                let read = Arc::new(deletes::positions(table.storage(), deletes.iter().copied())?);
                                positions.insert(names, read.clone());
                                read
                            }
                        };
                        file.deleted = found.get(data.file_path()).cloned().unwrap_or_default();
                    }
                    plain.push(file);
                }
            }
        }
        Ok((plain, tasks))
    }

    /// The files for the Parquet reader with the rows that it is to read: those
    /// that are not deleted and, if that can be told from the files' own
    /// columns, have a wanted key. Then the last is true.
    fn choose_rows(&self, plain: Vec<PlainFile>, threads: usize) -> Result<(Vec<(StoredPath, PartitionedFile)>, bool)> {
        let storage = self.storage();
        if let Some(filter) = &self.keys {
            let locations: Vec<String> = plain.iter().map(|file| file.location.clone()).collect();
            if let Some(matched) = keyed::matching_rows(&storage, &locations, filter, &self.schema, threads)? {
                let mut chosen = Vec::new();
                for (file, matched) in plain.into_iter().zip(matched) {
                    let mut rows = matched.rows;
                    rows.retain(|row| file.deleted.binary_search(row).is_err());
                    if !rows.is_empty() {
                        let plan = deletes::access_plan(&matched.metadata, &rows, true);
                        chosen.push((file.stored, file.part.with_extensions(plan)));
                    }
                }
                return Ok((chosen, true));
            }
        }
        let mut all = Vec::with_capacity(plain.len());
        for file in plain {
            let part = if file.deleted.is_empty() {
                file.part
            } else {
                let (_, metadata) = deletes::open(&storage, &file.location)?;
                file.part.with_extensions(deletes::access_plan(&metadata, &file.deleted, false))
            };
            all.push((file.stored, part));
        }
        Ok((all, false))
    }

    /// Whether the columns can be found by name in every file: no schema of
    /// the table's history gave one of these names or ids another meaning.
    fn matched_by_name(&self, table: &Table, projected: &[usize]) -> bool {
        let mut wanted: HashSet<&str> = projected.iter().map(|i| self.schema.field(*i).name().as_str()).collect();
        if let Some(filter) = &self.keys {
            wanted.extend(filter.columns.iter().map(String::as_str));
        }
        let current = table.schema();
        wanted.iter().all(|name| {
            let Some(now) = current.field_by_name(name) else { return false };
            table.metadata().schemas_iter().all(|schema| {
                let same_name =
                    schema.field_by_name(name).is_none_or(|f| f.id == now.id && f.field_type == now.field_type);
                let same_id = schema.field_by_id(now.id).is_none_or(|f| f.name == now.name);
                same_name && same_id
            })
        })
    }

    fn task(&self, table: &Table, file: &LiveFile, deletes: &[&LiveFile], projected: &[usize]) -> Result<FileScanTask> {
        let data = file.data_file();
        let schema = match &self.source {
            Source::Table { snapshot_id: Some(id), .. } if Some(*id) != table.current_snapshot_id() => table
                .metadata()
                .snapshot_by_id(*id)
                .and_then(|s| s.schema(table.metadata()).ok())
                .unwrap_or_else(|| table.schema().clone()),
            _ => table.schema().clone(),
        };
        let ids = projected
            .iter()
            .map(|i| {
                let name = self.schema.field(*i).name();
                schema.field_id_by_name(name).ok_or_else(|| Error::internal(format!("no column `{name}`")))
            })
            .collect::<Result<Vec<i32>>>()?;
        let deletes = deletes
            .iter()
            .map(|d| {
                FileScanTaskDeleteFile::builder()
                    .with_file_path(d.data_file().file_path().to_owned())
                    .with_file_size_in_bytes(d.data_file().file_size_in_bytes())
                    .with_file_type(d.data_file().content_type())
                    .with_partition_spec_id(d.spec_id)
                    .with_equality_ids(d.data_file().equality_ids())
                    .build()
            })
            .collect();
        Ok(FileScanTask::builder()
            .with_file_size_in_bytes(data.file_size_in_bytes())
            .with_start(0)
            .with_length(data.file_size_in_bytes())
            .with_record_count(Some(data.record_count()))
            .with_data_file_path(data.file_path().to_owned())
            .with_data_file_format(data.file_format())
            .with_schema(schema)
            .with_project_field_ids(ids)
            .with_deletes(deletes)
            .with_partition(Some(data.partition().clone()))
            .with_partition_spec(table.metadata().partition_spec_by_id(file.spec_id).cloned())
            .with_case_sensitive(true)
            .build())
    }

    fn key_predicate(&self, schema: &DFSchema, state: &dyn Session) -> DfResult<Option<Arc<dyn PhysicalExpr>>> {
        let Some(filter) = &self.keys else { return Ok(None) };
        let arguments = filter.columns.iter().map(|c| Expr::Column(Column::from_name(c))).collect();
        let call = ScalarUDF::new_from_impl(KeyIn::new(filter.clone())).call(arguments);
        state.create_physical_expr(call, schema).map(Some)
    }
}

/// Files of one store for the Parquet reader.
struct StoreFiles {
    store: ObjectStoreUrl,
    files: Vec<PartitionedFile>,
    /// Whether they are all that the scan reads.
    all: bool,
}

/// A file for the Parquet reader, and which of its rows are deleted, ascending.
struct PlainFile {
    part: PartitionedFile,
    location: String,
    stored: StoredPath,
    deleted: Vec<u64>,
}

impl PlainFile {
    fn new(storage: &Storage, location: String, bytes: u64) -> Result<Self> {
        let stored = storage.stored_path(&location)?;
        let mut part = PartitionedFile::new("", bytes);
        part.object_meta.location = stored.path.clone();
        // What is kept of a file is of the file as it was then.
        if let Some(modified) = storage::modified(&location) {
            part.object_meta.last_modified = modified;
        }
        Ok(Self { part, location, stored, deleted: Vec::new() })
    }
}

#[async_trait]
impl TableProvider for Scan {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let projected: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let df_schema = DFSchema::try_from(self.schema.as_ref().clone())?;
        let pushed = conjunction(filters.to_vec()).map(|f| state.create_physical_expr(f, &df_schema)).transpose()?;
        let keep = self.prune(pushed.as_ref())?;
        if let Some(notes) = state.config().get_extension::<ScanNotes>() {
            notes.add(self.note(&keep));
        }
        // The key columns are needed to filter files that the Parquet reader
        // cannot; read them at the end and drop them again.
        let mut read = projected.clone();
        if let Some(filter) = &self.keys {
            for column in &filter.columns {
                let index = self.schema.index_of(column)?;
                if !read.contains(&index) {
                    read.push(index);
                }
            }
        }
        // That reader cannot count rows of which no column is wanted.
        if read.is_empty() && !self.schema.fields().is_empty() {
            read.push(0);
        }
        let (plain, tasks) = self.sort_files(&keep, &read).map_err(external)?;
        let (plain, chosen) = self.choose_rows(plain, state.config().target_partitions()).map_err(external)?;
        let key_predicate = if chosen { None } else { self.key_predicate(&df_schema, state)? };
        let projected_schema = Arc::new(self.schema.project(&projected)?);
        let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        // One reader for the files of each store.
        let mut stores: Vec<(StoredPath, Vec<PartitionedFile>)> = Vec::new();
        for (stored, file) in plain {
            match stores.iter_mut().find(|(known, _)| known.store.as_str() == stored.store.as_str()) {
                Some((_, files)) => files.push(file),
                None => stores.push((stored, vec![file])),
            }
        }
        let all = stores.len() == 1 && tasks.is_empty();
        for (stored, files) in stores {
            if let Some(store) = stored.object_store {
                state.runtime_env().register_object_store(stored.store.as_ref(), store);
            }
            let (pushed, keys) = (pushed.clone(), key_predicate.clone());
            let files = StoreFiles { store: stored.store, files, all };
            parts.push(self.parquet(files, &projected, pushed, keys, state, limit)?);
        }
        if !tasks.is_empty() {
            parts.push(self.by_field_id(tasks, &read, &projected, state)?);
        }
        Ok(match parts.len() {
            0 => Arc::new(EmptyExec::new(projected_schema)),
            1 => parts.swap_remove(0),
            _ => UnionExec::try_new(parts)?,
        })
    }
}

impl Scan {
    fn parquet(
        &self,
        StoreFiles { store, files, all }: StoreFiles,
        projected: &[usize],
        pushed: Option<Arc<dyn PhysicalExpr>>,
        key_predicate: Option<Arc<dyn PhysicalExpr>>,
        state: &dyn Session,
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = match &self.source {
            Source::Table { .. } => TableSchema::from_file_schema(self.schema.clone()),
            Source::Folder(folder) => {
                let count = folder.file_schema.fields().len();
                let extra: Vec<FieldRef> = self.schema.fields()[count..].to_vec();
                TableSchema::new(folder.file_schema.clone(), extra)
            }
        };
        let options = state.config_options().execution.parquet.clone();
        let mut source = ParquetSource::new(schema)
            .with_table_parquet_options(datafusion::config::TableParquetOptions {
                global: options,
                ..Default::default()
            })
            .with_enable_page_index(true);
        // Late materialisation, other columns are decoded for the rows that pass
        // only, is worth it for keys and where the session says so. Filters of
        // the statement run once more above the scan.
        let late = key_predicate.is_some() || state.config_options().execution.parquet.pushdown_filters;
        if let Some(predicate) = key_predicate.or(pushed) {
            source = source.with_predicate(predicate).with_pushdown_filters(late);
        }
        // The files of a table never change: their footers are read once in a process.
        if matches!(self.source, Source::Table { .. }) {
            let runtime = state.runtime_env();
            let footers = runtime.cache_manager.get_file_metadata_cache();
            let reader = CachedParquetFileReaderFactory::new(runtime.object_store(&store)?, footers);
            source = source.with_parquet_file_reader_factory(Arc::new(reader));
        }
        let deletes = files.iter().any(|f| f.extensions.is_some());
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(store, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(self.statistics(all && !deletes && self.keys.is_none()))
            .with_projection_indices(Some(projected.to_vec()))?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn by_field_id(
        &self,
        tasks: Vec<FileScanTask>,
        read: &[usize],
        projected: &[usize],
        state: &dyn Session,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = Arc::new(self.schema.project(read)?);
        let partitions: Vec<Arc<dyn PartitionStream>> = tasks
            .chunks(tasks.len().div_ceil(state.config().target_partitions()).max(1))
            .map(|chunk| {
                Arc::new(FieldIdStream { schema: schema.clone(), storage: self.storage(), tasks: chunk.to_vec() })
                    as Arc<dyn PartitionStream>
            })
            .collect();
        let mut plan: Arc<dyn ExecutionPlan> =
            Arc::new(StreamingTableExec::try_new(schema.clone(), partitions, None, Vec::new(), false, None)?);
        let read_schema = DFSchema::try_from(schema.as_ref().clone())?;
        if let Some(predicate) = self.key_predicate(&read_schema, state)? {
            plan = Arc::new(FilterExec::try_new(predicate, plan)?);
        }
        if read.len() > projected.len() {
            let columns = (0..projected.len())
                .map(|i| {
                    let name = schema.field(i).name();
                    let column: Arc<dyn PhysicalExpr> =
                        Arc::new(datafusion::physical_expr::expressions::Column::new(name, i));
                    (column, name.clone())
                })
                .collect::<Vec<_>>();
            plan = Arc::new(datafusion::physical_plan::projection::ProjectionExec::try_new(columns, plan)?);
        }
        Ok(plan)
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Reads files through Iceberg's reader and casts to the query schema.
#[derive(Debug)]
struct FieldIdStream {
    schema: SchemaRef,
    storage: Storage,
    tasks: Vec<FileScanTask>,
}

impl PartitionStream for FieldIdStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = self.schema.clone();
        let mut tasks = self.tasks.clone();
        if faults::bug(Bug::IgnoreDeletes) {
            tasks.iter_mut().for_each(|t| t.deletes.clear());
        }
        let cast_schema = schema.clone();
        let file_io = self.storage.file_io();
        let stream = async move {
            let reader = iceberg::arrow::ArrowReaderBuilder::new(file_io, iceberg::Runtime::current()).build();
            let tasks = futures::stream::iter(tasks.into_iter().map(Ok)).boxed();
            let stream = reader.read(tasks).map_err(|e| DataFusionError::External(Box::new(e)))?.stream();
            Ok::<_, DataFusionError>(stream.map(move |batch| {
                let batch = batch.map_err(|e| DataFusionError::External(Box::new(e)))?;
                conform(&batch, &cast_schema)
            }))
        };
        Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(stream).try_flatten()))
    }
}

fn conform(batch: &RecordBatch, schema: &SchemaRef) -> DfResult<RecordBatch> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            let column = batch
                .column_by_name(field.name())
                .ok_or_else(|| DataFusionError::Internal(format!("the reader left out column `{}`", field.name())))?;
            Ok(cast(column, field.data_type())?)
        })
        .collect::<DfResult<Vec<ArrayRef>>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// Column bounds from manifests, one row a file.
struct FileBounds<'a> {
    scan: &'a Scan,
    files: &'a [LiveFile],
}

impl FileBounds<'_> {
    fn bounds(&self, column: &Column, pick: impl Fn(&LiveFile, i32) -> Option<Datum>) -> Option<ArrayRef> {
        let Source::Table { table, .. } = &self.scan.source else { return None };
        let field = self.scan.schema.field_with_name(column.name()).ok()?;
        let id = table.schema().field_id_by_name(column.name())?;
        let null = ScalarValue::try_from(field.data_type()).ok()?;
        let values = self.files.iter().map(|file| {
            pick(file, id).and_then(|datum| scalar(&datum, field.data_type())).unwrap_or_else(|| null.clone())
        });
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for FileBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |file, id| file.data_file().lower_bounds().get(&id).cloned())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |file, id| file.data_file().upper_bounds().get(&id).cloned())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let Source::Table { table, .. } = &self.scan.source else { return None };
        let id = table.schema().field_id_by_name(column.name())?;
        let counts = self.files.iter().map(|f| f.data_file().null_value_counts().get(&id).copied());
        Some(Arc::new(UInt64Array::from_iter(counts)))
    }

    fn row_counts(&self, _: &Column) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from_iter(self.files.iter().map(|f| Some(f.data_file().record_count())))))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn scalar(datum: &Datum, data_type: &DataType) -> Option<ScalarValue> {
    let value = match (datum.literal(), datum.data_type()) {
        (PrimitiveLiteral::Boolean(v), _) => ScalarValue::Boolean(Some(*v)),
        (PrimitiveLiteral::Int(v), PrimitiveType::Date) => ScalarValue::Date32(Some(*v)),
        (PrimitiveLiteral::Int(v), _) => ScalarValue::Int32(Some(*v)),
        (PrimitiveLiteral::Long(v), PrimitiveType::Timestamp) => ScalarValue::TimestampMicrosecond(Some(*v), None),
        (PrimitiveLiteral::Long(v), PrimitiveType::Timestamptz) => {
            ScalarValue::TimestampMicrosecond(Some(*v), Some("UTC".into()))
        }
        (PrimitiveLiteral::Long(v), _) => ScalarValue::Int64(Some(*v)),
        (PrimitiveLiteral::Float(v), _) => ScalarValue::Float32(Some(v.0)),
        (PrimitiveLiteral::Double(v), _) => ScalarValue::Float64(Some(v.0)),
        (PrimitiveLiteral::String(v), _) => ScalarValue::Utf8View(Some(v.clone())),
        _ => return None,
    };
    value.cast_to(data_type).ok()
}

/// `key_in(column, …)`: whether the row's key is in a set.
#[derive(Debug)]
struct KeyIn {
    filter: KeyFilter,
    signature: Signature,
}

impl KeyIn {
    fn new(filter: KeyFilter) -> Self {
        Self { filter, signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl PartialEq for KeyIn {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.filter.keys, &other.filter.keys) && self.filter.columns == other.filter.columns
    }
}

impl Eq for KeyIn {}

impl std::hash::Hash for KeyIn {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.filter.columns.hash(state);
        (Arc::as_ptr(&self.filter.keys) as usize).hash(state);
    }
}

impl ScalarUDFImpl for KeyIn {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        "key_in"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let columns: Vec<(String, ArrayRef)> =
            arrays.into_iter().enumerate().map(|(i, a)| (format!("k{i}"), a)).collect();
        let names: Vec<String> = columns.iter().map(|(n, _)| n.clone()).collect();
        let batch = RecordBatch::try_from_iter(columns)?;
        let hashes = Keys::new(&batch, &names).map_err(external)?.hashes();
        let mask: BooleanArray = hashes.iter().map(|h| Some(self.filter.keys.contains(h))).collect();
        Ok(ColumnarValue::Array(Arc::new(mask)))
    }
}
