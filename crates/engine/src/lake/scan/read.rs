//! The plan that reads the files of a scan.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, DFSchema, Result as DfResult, ScalarValue, Statistics};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, ParquetFileReaderFactory};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::{Expr, ScalarUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions;
use datafusion::physical_expr_adapter::{DefaultPhysicalExprAdapterFactory, PhysicalExprAdapterFactory};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use iceberg::spec::{DataContentType, DataFileFormat};
use object_store::path::Path;

use super::columns::{ByFieldId, TableColumns, id_of};
use super::equality::{DeletedValues, EqualityDeletes, NotDeleted};
use super::filters::OnceEach;
use super::keys::KeyIn;
use super::local::LocalFiles;
use super::{Scan, Source, external};
use crate::lake::deletes::{self, Positions};
use crate::lake::faults::{self, Bug};
use crate::lake::files::LiveFile;
use crate::lake::keyed;
use crate::lake::storage::{self, Storage, StoredPath};
use crate::lake::table::Table;
use crate::{Error, Result};

/// A column beside those of the file: the file's data sequence number.
const SEQUENCE: &str = "_data_sequence_number";

/// A file, which of its rows are deleted, ascending, and the sets of values
/// that are deleted from it.
struct ScannedFile {
    part: PartitionedFile,
    location: String,
    stored: StoredPath,
    deleted: Vec<u64>,
    values: Vec<usize>,
}

impl ScannedFile {
    fn new(storage: &Storage, location: String, bytes: u64) -> Result<Self> {
        let stored = storage.stored_path(&location)?;
        let mut part = PartitionedFile::new("", bytes);
        part.object_meta.location = stored.path.clone();
        // What is kept of a file is of the file as it was then.
        if let Some(modified) = storage::modified(&location) {
            part.object_meta.last_modified = modified;
        }
        Ok(Self { part, location, stored, deleted: Vec::new(), values: Vec::new() })
    }
}

/// Files that one reader reads: of one store, under the same sets of deleted values.
struct Group {
    stored: StoredPath,
    values: Vec<usize>,
    files: Vec<ScannedFile>,
}

/// What the reader of a group gives.
struct Output {
    schema: TableSchema,
    /// Columns of a table, which are found by their ids.
    columns: Option<TableColumns>,
}

impl Scan {
    /// The plan for the columns `projected` of the files in `keep`.
    pub(super) fn plan(
        &self,
        keep: &[bool],
        projected: &[usize],
        pushed: Option<&Arc<dyn PhysicalExpr>>,
        limit: Option<usize>,
        state: &dyn Session,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let (files, equality) = self.files(keep).map_err(external)?;
        let mut groups: Vec<Group> = Vec::new();
        for file in files {
            let store = file.stored.store.as_str();
            match groups.iter_mut().find(|group| group.stored.store.as_str() == store && group.values == file.values) {
                Some(group) => group.files.push(file),
                None => {
                    let (stored, values) = (file.stored.clone(), file.values.clone());
                    groups.push(Group { stored, values, files: vec![file] });
                }
            }
        }
        let all = groups.len() == 1 && self.keys.is_none();
        let mut parts = Vec::with_capacity(groups.len());
        for group in groups {
            let sets: Vec<Arc<DeletedValues>> = group.values.iter().map(|at| equality.set(*at).clone()).collect();
            parts.extend(self.read_group(group, &sets, projected, (pushed, limit, all), state)?);
        }
        Ok(match parts.len() {
            0 => Arc::new(EmptyExec::new(Arc::new(self.schema.project(projected)?))),
            1 => parts.swap_remove(0),
            _ => UnionExec::try_new(parts)?,
        })
    }

    /// The files that survive, with their deletes.
    fn files(&self, keep: &[bool]) -> Result<(Vec<ScannedFile>, EqualityDeletes)> {
        let (table, files) = match &self.source {
            Source::Folder(folder) => {
                let local = Storage::default();
                let kept = folder.files.iter().zip(keep).filter(|(_, keep)| **keep);
                let scanned = kept.map(|(file, _)| {
                    let mut scanned = ScannedFile::new(&local, file.path.display().to_string(), file.bytes)?;
                    scanned.part.partition_values =
                        file.partition.iter().map(|v| ScalarValue::Utf8(v.clone())).collect();
                    Ok(scanned)
                });
                return Ok((scanned.collect::<Result<_>>()?, EqualityDeletes::default()));
            }
            Source::Table { table, files, .. } => (table, files),
        };
        let kept: Vec<(&LiveFile, Vec<&LiveFile>)> = files
            .data
            .iter()
            .zip(keep)
            .filter(|(_, keep)| **keep)
            .map(|(file, _)| (file, files.deletes_for(file, table)))
            .collect();
        let equality = EqualityDeletes::read(table, kept.iter().flat_map(|(_, deletes)| deletes.iter().copied()))?;
        let mut positions: HashMap<Vec<String>, Arc<Positions>> = HashMap::new();
        let mut scanned = Vec::with_capacity(kept.len());
        for (file, deletes) in kept {
            scanned.push(scanned_file(table, (file, &deletes), &equality, &mut positions)?);
        }
        Ok((scanned, equality))
    }

    /// What the reader gives: the columns of the scan, those that values are
    /// deleted by, and the sequence number.
    fn output(&self, sets: &[Arc<DeletedValues>]) -> Result<Output> {
        let (table, schema) = match &self.source {
            Source::Folder(folder) => {
                let count = folder.file_schema.fields().len();
                let extra: Vec<FieldRef> = self.schema.fields()[count..].to_vec();
                return Ok(Output { schema: TableSchema::new(folder.file_schema.clone(), extra), columns: None });
            }
            Source::Table { table, schema, .. } => (table, schema),
        };
        let mut columns = TableColumns::new(table, schema)?;
        let mut fields = self.schema.fields().to_vec();
        for field in sets.iter().flat_map(|set| &set.columns) {
            let name = self.deleted_by(field)?;
            if fields.iter().all(|known| *known.name() != name) {
                fields.push(Arc::new(Field::new(&name, field.data_type().clone(), true)));
                columns.add(&name, field.clone());
            }
        }
        let sequence = Arc::new(Field::new(SEQUENCE, DataType::Int64, false));
        let beside = if sets.is_empty() { Vec::new() } else { vec![sequence] };
        let schema = TableSchema::new(Arc::new(Schema::new(fields)), beside);
        Ok(Output { schema, columns: Some(columns) })
    }

    /// What the reader calls a column that values are deleted by.
    fn deleted_by(&self, field: &Field) -> Result<String> {
        let id = id_of(field).ok_or_else(|| Error::internal("a column without an id"))?;
        let Source::Table { schema, .. } = &self.source else { return Ok(field.name().clone()) };
        Ok(match schema.as_struct().fields().iter().find(|known| known.id == id) {
            Some(known) => known.name.clone(),
            None => format!("_column_{id}"),
        })
    }

    /// Reads the files of a group; nothing where no row of them is wanted.
    fn read_group(
        &self,
        group: Group,
        sets: &[Arc<DeletedValues>],
        projected: &[usize],
        (pushed, limit, all): (Option<&Arc<dyn PhysicalExpr>>, Option<usize>, bool),
        state: &dyn Session,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let Output { schema, columns } = self.output(sets).map_err(external)?;
        let given = schema.table_schema().clone();
        let places = group.files.iter().filter(|file| file.stored.object_store.is_none());
        let places: HashMap<_, _> =
            places.map(|file| (file.stored.path.clone(), storage::local_path(&file.location))).collect();
        let threads = state.config().target_partitions();
        let (files, chosen) = self.choose_rows(group.files, threads).map_err(external)?;
        if files.is_empty() {
            return Ok(None);
        }
        let keys = self.keys.as_ref().filter(|_| !chosen);

        // What the filters above need is read as well, and dropped at the end.
        let mut read = projected.to_vec();
        let mut also = |name: &str| -> DfResult<()> {
            let index = given.index_of(name)?;
            if !read.contains(&index) {
                read.push(index);
            }
            Ok(())
        };
        if let Some(filter) = keys {
            filter.columns.iter().try_for_each(|name| also(name))?;
        }
        for field in sets.iter().flat_map(|set| &set.columns) {
            also(&self.deleted_by(field).map_err(external)?)?;
        }
        if !sets.is_empty() {
            also(SEQUENCE)?;
        }

        let mut statistics = Statistics::new_unknown(&given);
        let exact = all && sets.is_empty() && files.iter().all(|file| file.extensions.is_none());
        let rows = self.rows() as usize;
        statistics.num_rows = if exact { Precision::Exact(rows) } else { Precision::Inexact(rows) };
        if let Some(store) = group.stored.object_store.clone() {
            state.runtime_env().register_object_store(group.stored.store.as_ref(), store);
        }
        let mut config = FileScanConfigBuilder::new(
            group.stored.store.clone(),
            self.parquet(schema, &group.stored, places, pushed, state)?,
        )
        .with_file_groups(FileGroup::new(files).split_files(threads))
        .with_statistics(statistics)
        .with_projection_indices(Some(read.clone()))?
        .with_limit(limit.filter(|_| sets.is_empty() && keys.is_none()));
        let adapters: Arc<dyn PhysicalExprAdapterFactory> = match columns {
            Some(columns) => Arc::new(ByFieldId(Arc::new(columns))),
            None => Arc::new(DefaultPhysicalExprAdapterFactory),
        };
        config = config.with_expr_adapter(Some(Arc::new(OnceEach(adapters))));
        let mut plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config.build());

        let given = Arc::new(given.project(&read)?);
        if let Some(filter) = keys {
            plan =
                filtered(plan, &given, ScalarUDF::new_from_impl(KeyIn::new(filter.clone())), &filter.columns, state)?;
        }
        for set in sets.iter().filter(|_| !faults::bug(Bug::IgnoreDeletes)) {
            let values = set.columns.iter().map(|field| self.deleted_by(field));
            let mut names = vec![SEQUENCE.to_owned()];
            names.extend(values.collect::<Result<Vec<String>>>().map_err(external)?);
            plan = filtered(plan, &given, ScalarUDF::new_from_impl(NotDeleted::new(set.clone())), &names, state)?;
        }
        if read.len() > projected.len() {
            let wanted = given.fields().iter().take(projected.len()).enumerate().map(|(at, field)| {
                let column: Arc<dyn PhysicalExpr> = Arc::new(expressions::Column::new(field.name(), at));
                (column, field.name().clone())
            });
            plan = Arc::new(ProjectionExec::try_new(wanted.collect::<Vec<_>>(), plan)?);
        }
        Ok(Some(plan))
    }

    fn parquet(
        &self,
        schema: TableSchema,
        stored: &StoredPath,
        places: HashMap<Path, PathBuf>,
        pushed: Option<&Arc<dyn PhysicalExpr>>,
        state: &dyn Session,
    ) -> DfResult<Arc<ParquetSource>> {
        let global = state.config_options().execution.parquet.clone();
        // Late materialisation, other columns are decoded for the rows that pass
        // only, is worth it for keys and where the session says so. Filters of
        // the statement run once more above the scan.
        let late = self.keys.is_some() || global.pushdown_filters;
        let mut source = ParquetSource::new(schema)
            .with_table_parquet_options(TableParquetOptions { global, ..Default::default() })
            .with_enable_page_index(true)
            .with_pushdown_filters(late);
        if let Some(predicate) = pushed {
            source = source.with_predicate(predicate.clone());
        }
        // The files of a table never change: their footers are read once in a process.
        let runtime = state.runtime_env();
        let store = runtime.object_store(&stored.store)?;
        let kept = matches!(self.source, Source::Table { .. });
        let footers = kept.then(|| runtime.cache_manager.get_file_metadata_cache());
        let reader: Option<Arc<dyn ParquetFileReaderFactory>> = match footers {
            footers if stored.object_store.is_none() => Some(Arc::new(LocalFiles { places, store, footers })),
            Some(footers) => Some(Arc::new(CachedParquetFileReaderFactory::new(store, footers))),
            None => None,
        };
        if let Some(reader) = reader {
            source = source.with_parquet_file_reader_factory(reader);
        }
        Ok(Arc::new(source))
    }

    /// The files with the rows that are to be read: those that are not deleted
    /// by position and, if that can be told from the files' own columns, have a
    /// wanted key. Then the last is true.
    fn choose_rows(&self, files: Vec<ScannedFile>, threads: usize) -> Result<(Vec<PartitionedFile>, bool)> {
        let storage = self.storage();
        if let Some(filter) = self.keys.as_ref().filter(|filter| self.called_so_always(&filter.columns)) {
            let locations: Vec<String> = files.iter().map(|file| file.location.clone()).collect();
            if let Some(matched) = keyed::matching_rows(&storage, &locations, filter, &self.schema, threads)? {
                let mut chosen = Vec::new();
                for (file, matched) in files.into_iter().zip(matched) {
                    let mut rows = matched.rows;
                    rows.retain(|row| file.deleted.binary_search(row).is_err());
                    if !rows.is_empty() {
                        let plan = deletes::access_plan(&matched.metadata, &rows, true);
                        chosen.push(file.part.with_extensions(plan));
                    }
                }
                return Ok((chosen, true));
            }
        }
        let mut all = Vec::with_capacity(files.len());
        for file in files {
            all.push(if file.deleted.is_empty() {
                file.part
            } else {
                let (_, metadata) = deletes::open(&storage, &file.location)?;
                file.part.with_extensions(deletes::access_plan(&metadata, &file.deleted, false))
            });
        }
        Ok((all, false))
    }

    /// Whether the columns had these names, and no other column had one of
    /// them, in all of the table's history.
    fn called_so_always(&self, names: &[String]) -> bool {
        let Source::Table { table, schema, .. } = &self.source else { return true };
        names.iter().all(|name| {
            let Some(now) = schema.field_by_name(name) else { return false };
            table.metadata().schemas_iter().all(|then| {
                let same_name =
                    then.field_by_name(name).is_none_or(|f| f.id == now.id && f.field_type == now.field_type);
                let same_id = then.field_by_id(now.id).is_none_or(|f| f.name == now.name);
                same_name && same_id
            })
        })
    }
}

/// A filter that asks `function` of the columns `names`.
fn filtered(
    plan: Arc<dyn ExecutionPlan>,
    schema: &SchemaRef,
    function: ScalarUDF,
    names: &[String],
    state: &dyn Session,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let arguments = names.iter().map(|name| Expr::Column(Column::from_name(name))).collect();
    let predicate =
        state.create_physical_expr(function.call(arguments), &DFSchema::try_from(schema.as_ref().clone())?)?;
    Ok(Arc::new(FilterExec::try_new(predicate, plan)?))
}

/// A data file with its deletes.
fn scanned_file(
    table: &Table,
    (file, deletes): (&LiveFile, &[&LiveFile]),
    equality: &EqualityDeletes,
    positions: &mut HashMap<Vec<String>, Arc<Positions>>,
) -> Result<ScannedFile> {
    let data = file.data_file();
    let location = data.file_path().to_owned();
    if data.file_format() != DataFileFormat::Parquet {
        return Err(Error::invalid(format!(
            "`{location}` of table `{}` is a file of format {:?}: only Parquet can be read",
            table.name(),
            data.file_format()
        ))
        .hint("rewrite the table's data files as Parquet with the engine that wrote it"));
    }
    let mut scanned = ScannedFile::new(table.storage(), location, data.file_size_in_bytes())?;
    let by_position = deletes.iter().filter(|d| d.data_file().content_type() == DataContentType::PositionDeletes);
    let by_position: Vec<&LiveFile> = by_position.copied().collect();
    if !by_position.is_empty() {
        let names: Vec<String> = by_position.iter().map(|d| d.data_file().file_path().to_owned()).collect();
        let found = match positions.get(&names) {
            Some(found) => found.clone(),
            None => {
                let read = Arc::new(deletes::positions(table.storage(), by_position)?);
                positions.insert(names, read.clone());
                read
            }
        };
        scanned.deleted = found.get(data.file_path()).cloned().unwrap_or_default();
    }
    scanned.values = deletes.iter().filter_map(|delete| equality.place(delete)).collect();
    scanned.values.sort_unstable();
    scanned.values.dedup();
    if !scanned.values.is_empty() {
        scanned.part.partition_values = vec![ScalarValue::Int64(Some(file.sequence()))];
    }
    Ok(scanned)
}
