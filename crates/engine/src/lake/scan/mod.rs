//! The read provider: a table or a folder, pinned, as a parallel DataFusion
//! scan.
//!
//! Files go to DataFusion's own Parquet reader, many at a time: pruned by
//! column bounds first ([`bounds`]), columns found by field id ([`columns`]),
//! each filter checked once and while it pays ([`filters`]), position deletes
//! as row selections, equality deletes as a filter above ([`equality`]). With a set of entity keys ([`keys`]) the rows are found first
//! ([`super::keyed`]), and of the other columns only those rows are decoded.

mod bounds;
mod columns;
mod equality;
mod filters;
mod keys;
mod local;
mod read;

use std::any::Any;
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, DataFusionError, Result as DfResult};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicate;
use datafusion::physical_plan::ExecutionPlan;

use self::bounds::FileBounds;
pub use self::keys::KeyFilter;
use super::files::{self, LiveFile, LiveFiles};
use super::folder::Folder;
use super::schema::query_schema;
use super::storage::Storage;
use super::table::Table;
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
    Table {
        table: Table,
        snapshot_id: Option<i64>,
        /// That of the snapshot.
        schema: iceberg::spec::SchemaRef,
        files: Arc<LiveFiles>,
    },
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
        Ok(Self {
            schema: query_schema(&schema)?,
            source: Source::Table { table, snapshot_id, schema, files },
            keys: None,
        })
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
        self.plan(&keep, &projected, pushed.as_ref(), limit, state)
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
