//! Equality deletes: rows of older files that have these values are gone.
//!
//! Delete files that have the same columns and the same reach, the whole table
//! or one partition, are one set: of each row of values the newest sequence
//! number. A row of a data file is gone when its values are in the set with a
//! number above that of the file, so that files of all ages are read together.

use std::any::Any;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use iceberg::spec::{DataContentType, DataFileFormat, Struct};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::columns::id_of;
use super::external;
use crate::lake::deletes;
use crate::lake::files::LiveFile;
use crate::lake::keyed::in_parallel;
use crate::lake::schema::arrow_schema;
use crate::lake::table::Table;
use crate::{Error, Result};

/// Threads that read delete files.
const THREADS: usize = 2;

/// Rows of values that are gone.
#[derive(Debug)]
pub struct DeletedValues {
    /// The columns, by their field ids and in the widest type that they had.
    pub columns: Vec<FieldRef>,
    /// The newest sequence number of each row of values.
    rows: HashMap<Box<[u8]>, i64>,
    converter: RowConverter,
}

/// The sets of a scan.
#[derive(Debug, Default)]
pub struct EqualityDeletes {
    sets: Vec<Arc<DeletedValues>>,
    /// By the path of a delete file, the place of its set.
    of_file: HashMap<String, usize>,
}

impl EqualityDeletes {
    /// Reads the equality deletes among `files`.
    ///
    /// # Errors
    /// When one of them cannot be read, or is not of the table's columns.
    pub fn read<'a>(table: &Table, files: impl IntoIterator<Item = &'a LiveFile>) -> Result<Self> {
        type Reach<'a> = (Vec<i32>, Option<(i32, &'a Struct)>);
        let mut all = Self::default();
        let mut sets: Vec<(Reach<'a>, Vec<&'a LiveFile>)> = Vec::new();
        for file in files {
            let described = file.data_file();
            if described.content_type() != DataContentType::EqualityDeletes
                || all.of_file.contains_key(described.file_path())
            {
                continue;
            }
            let mut ids = described.equality_ids().unwrap_or_default();
            ids.sort_unstable();
            let spec = table.metadata().partition_spec_by_id(file.spec_id);
            let everywhere = spec.is_none_or(|spec| spec.is_unpartitioned());
            let reach = (ids, (!everywhere).then(|| (file.spec_id, described.partition())));
            let place = sets.iter().position(|(known, _)| *known == reach).unwrap_or_else(|| {
                sets.push((reach, Vec::new()));
                sets.len() - 1
            });
            sets[place].1.push(file);
            all.of_file.insert(described.file_path().to_owned(), place);
        }
        for ((ids, _), files) in sets {
            all.sets.push(Arc::new(DeletedValues::read(table, &ids, &files)?));
        }
        Ok(all)
    }

    /// The set that a delete file is in.
    pub fn place(&self, file: &LiveFile) -> Option<usize> {
        self.of_file.get(file.data_file().file_path()).copied()
    }

    /// A set by its place.
    pub fn set(&self, place: usize) -> &Arc<DeletedValues> {
        &self.sets[place]
    }
}

impl DeletedValues {
    fn read(table: &Table, ids: &[i32], files: &[&LiveFile]) -> Result<Self> {
        let columns = ids.iter().map(|id| widest(table, *id)).collect::<Result<Vec<FieldRef>>>()?;
        let fields = columns.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(|e| {
            Error::invalid(format!("rows of table `{}` cannot be deleted by value: {e}", table.name())).cause(e)
        })?;
        if columns.is_empty() {
            return Err(Error::data(format!("an equality delete file of table `{}` names no columns", table.name()))
                .hint("roll the table back to a snapshot without it"));
        }
        let parts = in_parallel(files, THREADS, |file| {
            let mut rows: Vec<Box<[u8]>> = Vec::new();
            read_values(table, file, &columns, &mut |values| {
                let converted = converter.convert_columns(values)?;
                rows.extend(converted.iter().map(|row| Box::from(row.as_ref())));
                Ok(())
            })?;
            Ok(rows)
        })?;
        let mut rows: HashMap<Box<[u8]>, i64> = HashMap::new();
        for (file, part) in files.iter().zip(parts) {
            for row in part {
                let newest = rows.entry(row).or_insert(i64::MIN);
                *newest = file.sequence().max(*newest);
            }
        }
        Ok(Self { columns, rows, converter })
    }

    /// For each row whether it is left, being of a file with that sequence number.
    fn left(&self, sequences: &ArrayRef, values: &[ArrayRef]) -> DfResult<BooleanArray> {
        let values = values
            .iter()
            .zip(&self.columns)
            .map(|(array, field)| Ok(cast(array, field.data_type())?))
            .collect::<DfResult<Vec<ArrayRef>>>()?;
        let sequences = sequences.as_primitive::<Int64Type>();
        let rows = self.converter.convert_columns(&values)?;
        let left = rows
            .iter()
            .zip(sequences.values())
            .map(|(row, sequence)| Some(self.rows.get(row.as_ref()).is_none_or(|deleted| deleted <= sequence)));
        Ok(left.collect())
    }
}

/// A column of a table's history, with its id, in the type of its newest schema.
fn widest(table: &Table, id: i32) -> Result<FieldRef> {
    let metadata = table.metadata();
    let mut schemas: Vec<_> = metadata.schemas_iter().collect();
    schemas.sort_by_key(|schema| std::cmp::Reverse(schema.schema_id()));
    let current = std::iter::once(table.schema());
    for schema in current.chain(schemas) {
        if schema.as_struct().fields().iter().any(|field| field.id == id) {
            let arrow = arrow_schema(schema)?;
            if let Some(field) = arrow.fields().iter().find(|field| id_of(field) == Some(id)) {
                return Ok(field.clone());
            }
        }
    }
    Err(Error::data(format!("rows of table `{}` are deleted by a column with id {id}, which it never had", table.name()))
        .hint("columns inside others are not supported in equality deletes: rewrite the table's data files with the engine that wrote it"))
}

/// Reads the columns of a delete file, batch by batch, in the types of `columns`.
fn read_values(
    table: &Table,
    file: &LiveFile,
    columns: &[FieldRef],
    use_them: &mut dyn FnMut(&[ArrayRef]) -> std::result::Result<(), arrow::error::ArrowError>,
) -> Result<()> {
    let location = file.data_file().file_path();
    let damaged = |e: &dyn std::fmt::Display| Error::data(format!("the delete file `{location}` cannot be read: {e}"));
    if file.data_file().file_format() != DataFileFormat::Parquet {
        return Err(Error::invalid(format!("`{location}` is not a Parquet delete file"))
            .hint("rewrite the table's data files with the engine that wrote it"));
    }
    let (input, metadata) = deletes::open(table.storage(), location)?;
    let leaves = metadata.metadata().file_metadata().schema_descr_ptr();
    let roots =
        columns.iter().map(|column| {
            let id = id_of(column);
            let is_it = |root: &parquet::schema::types::TypePtr| {
                let info = root.get_basic_info();
                if info.has_id() { Some(info.id()) == id } else { info.name() == column.name() }
            };
            leaves.root_schema().get_fields().iter().position(is_it).ok_or_else(|| {
                damaged(&format!("it has no column `{}` (id {})", column.name(), id.unwrap_or_default()))
            })
        });
    let roots = roots.collect::<Result<Vec<usize>>>()?;
    let mut sorted = roots.clone();
    sorted.sort_unstable();
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata)
        .with_projection(ProjectionMask::roots(&leaves, roots.iter().copied()))
        .build()
        .map_err(|e| damaged(&e))?;
    for batch in reader {
        let batch = batch.map_err(|e| damaged(&e))?;
        let values = columns.iter().zip(&roots).map(|(column, root)| {
            let place = sorted.binary_search(root).unwrap_or_default();
            cast(batch.column(place), column.data_type()).map_err(|e| damaged(&e))
        });
        use_them(&values.collect::<Result<Vec<ArrayRef>>>()?).map_err(|e| damaged(&e))?;
    }
    Ok(())
}

/// `not_deleted(sequence, value, …)`: whether a row is left.
#[derive(Debug)]
pub struct NotDeleted {
    set: Arc<DeletedValues>,
    signature: Signature,
}

impl NotDeleted {
    /// Of one set. The function is called volatile so that it stays where it is
    /// in the plan: what it takes out must not depend on what a reader can do.
    pub fn new(set: Arc<DeletedValues>) -> Self {
        Self { set, signature: Signature::variadic_any(Volatility::Volatile) }
    }
}

impl PartialEq for NotDeleted {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.set, &other.set)
    }
}

impl Eq for NotDeleted {}

impl Hash for NotDeleted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (Arc::as_ptr(&self.set) as usize).hash(state);
    }
}

impl ScalarUDFImpl for NotDeleted {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        "not_deleted"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let [sequences, values @ ..] = arrays.as_slice() else {
            return Err(external(Error::internal("not_deleted without a sequence number")));
        };
        Ok(ColumnarValue::Array(Arc::new(self.set.left(sequences, values)?)))
    }
}
