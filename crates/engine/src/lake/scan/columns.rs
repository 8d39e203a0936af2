//! Which column of a file is a column of the table: the one with its field id.
//!
//! A file keeps the names and types that the table had when it was written.
//! For every file the expressions of a scan, over the table's columns, are
//! written again over the file's: found by field id, cast where the type was
//! widened, null where the file is older than the column. Members of structs,
//! lists and maps likewise. Files without field ids, that were imported, are
//! matched by the table's `schema.name-mapping.default`, or by name.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::{CastColumnExpr, Column, lit};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use iceberg::spec::{MappedField, NameMapping, Schema};

use super::external;
use crate::lake::schema::{FIELD_ID, arrow_schema};
use crate::lake::table::Table;
use crate::{Error, Result};

const NAME_MAPPING: &str = "schema.name-mapping.default";

/// The columns of a table, each with its field id, for files of any age.
#[derive(Debug)]
pub struct TableColumns {
    table: String,
    /// By name; the fields and their members have their ids as metadata.
    columns: HashMap<String, FieldRef>,
    /// By id, the names that files without ids have for a column.
    mapped: Option<BTreeMap<i32, Vec<String>>>,
    /// Ids of columns whose name was another's at some time, or that had another name.
    ambiguous: Vec<i32>,
}

impl TableColumns {
    /// Those of `schema`, one of the table's.
    ///
    /// # Errors
    /// When the schema has no Arrow form, or the name mapping is no JSON.
    pub fn new(table: &Table, schema: &Schema) -> Result<Self> {
        let arrow = arrow_schema(schema)?;
        let mapped = match table.metadata().properties().get(NAME_MAPPING) {
            None => None,
            Some(text) => {
                let mapping: NameMapping = serde_json::from_str(text).map_err(|e| {
                    Error::data(format!("the property `{NAME_MAPPING}` of table `{}` is not valid: {e}", table.name()))
                        .hint("set it to a JSON array of objects with `field-id` and `names`")
                })?;
                let names = |field: &MappedField| Some((field.field_id()?, field.names().to_vec()));
                Some(mapping.fields().iter().filter_map(names).collect())
            }
        };
        let ambiguous = schema.as_struct().fields().iter().filter(|now| {
            let mut history = table.metadata().schemas_iter().flat_map(|schema| schema.as_struct().fields());
            history.any(|then| (then.id == now.id) != (then.name == now.name))
        });
        Ok(Self {
            table: table.name().to_string(),
            columns: arrow.fields().iter().map(|field| (field.name().clone(), field.clone())).collect(),
            mapped,
            ambiguous: ambiguous.map(|field| field.id).collect(),
        })
    }

    /// Adds a column that the schema does not have any more.
    pub fn add(&mut self, name: &str, field: FieldRef) {
        self.columns.insert(name.to_owned(), field);
    }

    /// The place in `file` of a column.
    fn find(&self, field: &Field, file: &SchemaRef) -> DfResult<Option<usize>> {
        let Some(id) = id_of(field) else { return Ok(file.index_of(field.name()).ok()) };
        if file.fields().iter().any(|field| id_of(field).is_some()) {
            return Ok(file.fields().iter().position(|field| id_of(field) == Some(id)));
        }
        if let Some(mapped) = &self.mapped {
            let names = mapped.get(&id).map_or(&[][..], Vec::as_slice);
            return Ok(file.fields().iter().position(|field| names.contains(field.name())));
        }
        if self.ambiguous.contains(&id) {
            return Err(external(
                Error::data(format!(
                    "a data file of table `{}` has no field ids, and the name of column `{}` does not tell which it is: \
                     it was renamed, or another had it before",
                    self.table,
                    field.name()
                ))
                .hint(format!("set the table's property `{NAME_MAPPING}`, which says what the column is called there")),
            ));
        }
        Ok(file.index_of(field.name()).ok())
    }
}

/// The field id that a field carries.
pub(super) fn id_of(field: &Field) -> Option<i32> {
    field.metadata().get(FIELD_ID)?.parse().ok()
}

/// Makes the adapters of a scan.
#[derive(Debug)]
pub struct ByFieldId(pub Arc<TableColumns>);

impl PhysicalExprAdapterFactory for ByFieldId {
    fn create(&self, scan: SchemaRef, file: SchemaRef) -> DfResult<Arc<dyn PhysicalExprAdapter>> {
        Ok(Arc::new(FileColumns { table: self.0.clone(), scan, file }))
    }
}

/// The columns of a scan, in one file.
#[derive(Debug)]
struct FileColumns {
    table: Arc<TableColumns>,
    scan: SchemaRef,
    file: SchemaRef,
}

impl PhysicalExprAdapter for FileColumns {
    fn rewrite(&self, expression: Arc<dyn PhysicalExpr>) -> DfResult<Arc<dyn PhysicalExpr>> {
        let of_file = |node: Arc<dyn PhysicalExpr>| match node.as_any().downcast_ref::<Column>() {
            // What stands for a column is not to be looked at again.
            Some(column) => Ok(Transformed::yes(self.column(column)?)),
            None => Ok(Transformed::no(node)),
        };
        expression.transform_up(of_file).data()
    }
}

impl FileColumns {
    fn column(&self, column: &Column) -> DfResult<Arc<dyn PhysicalExpr>> {
        let wanted = self.scan.field_with_name(column.name())?;
        let of_table = self.table.columns.get(column.name());
        let place = match of_table {
            Some(field) => self.table.find(field, &self.file)?,
            None => self.file.index_of(column.name()).ok(),
        };
        let Some(place) = place else {
            if !wanted.is_nullable() {
                return Err(external(
                    Error::data(format!(
                        "a data file of table `{}` lacks column `{}`, which may not be null",
                        self.table.table,
                        column.name()
                    ))
                    .hint("defaults of added columns (format version 3) are not supported yet"),
                ));
            }
            return Ok(lit(ScalarValue::try_from(wanted.data_type())?));
        };
        let found = self.file.field(place);
        let read: Arc<dyn PhysicalExpr> = Arc::new(Column::new(found.name(), place));
        if let Some(of_table) = of_table
            && wanted.data_type().is_nested()
            && !alike(found, of_table)
        {
            let members = Members { file: found.data_type().clone(), table: of_table.clone() };
            let function = Arc::new(ScalarUDF::new_from_impl(members));
            let to = Arc::new(wanted.clone());
            let options = Arc::new(ConfigOptions::default());
            return Ok(Arc::new(ScalarFunctionExpr::new("by_field_id", function, vec![read], to, options)));
        }
        if found.data_type() == wanted.data_type() {
            return Ok(read);
        }
        if !can_cast_types(found.data_type(), wanted.data_type()) {
            return Err(external(Error::data(format!(
                "column `{}` of table `{}` is {}, and {} in a data file",
                column.name(),
                self.table.table,
                wanted.data_type(),
                found.data_type()
            ))));
        }
        Ok(Arc::new(CastColumnExpr::new(read, Arc::new(found.clone()), Arc::new(wanted.clone()), None)))
    }
}

/// Whether a column of a file has the members of the table's under the same
/// names and types, in the same order.
fn alike(file: &Field, table: &Field) -> bool {
    let same = |file: &Fields, table: &Fields| {
        file.len() == table.len()
            && file.iter().zip(table).all(|(file, table)| {
                file.name() == table.name()
                    && (id_of(file).is_none() || id_of(file) == id_of(table))
                    && alike(file, table)
            })
    };
    match (file.data_type(), table.data_type()) {
        (DataType::Struct(file), DataType::Struct(table)) => same(file, table),
        // What the element is called means nothing.
        (DataType::List(file), DataType::List(table)) => alike(file, table),
        (DataType::Map(file, _), DataType::Map(table, _)) => match (file.data_type(), table.data_type()) {
            (DataType::Struct(file), DataType::Struct(table)) => {
                file.len() == table.len() && file.iter().zip(table).all(|(file, table)| alike(file, table))
            }
            _ => false,
        },
        (file, table) => file == table,
    }
}

/// `by_field_id(column)`: the table's form of a nested column of a file.
#[derive(Debug, PartialEq, Eq)]
struct Members {
    file: DataType,
    table: FieldRef,
}

impl Hash for Members {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.file.hash(state);
        self.table.hash(state);
    }
}

impl ScalarUDFImpl for Members {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        "by_field_id"
    }

    fn signature(&self) -> &Signature {
        static SIGNATURE: std::sync::LazyLock<Signature> =
            std::sync::LazyLock::new(|| Signature::any(1, Volatility::Immutable));
        &SIGNATURE
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.table.data_type().clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        Ok(self.table.clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let array = adopt(&arrays[0], self.table.data_type())?;
        Ok(ColumnarValue::Array(cast(&array, arguments.return_field.data_type())?))
    }
}

/// An array in the form of the table's type, members found by their ids.
fn adopt(array: &ArrayRef, table: &DataType) -> DfResult<ArrayRef> {
    match (array.data_type(), table) {
        (DataType::Struct(own), DataType::Struct(wanted)) => {
            let array = array.as_struct();
            let with_ids = own.iter().any(|field| id_of(field).is_some());
            let members = wanted.iter().map(|field| {
                let place = own.iter().position(|own| match with_ids {
                    true => id_of(own) == id_of(field),
                    false => own.name() == field.name(),
                });
                match place {
                    Some(place) => adopt(array.column(place), field.data_type()),
                    None => Ok(new_null_array(field.data_type(), array.len())),
                }
            });
            let members = members.collect::<DfResult<Vec<_>>>()?;
            let nulls = array.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(wanted.clone(), members, nulls, array.len())?))
        }
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = adopt(list.values(), element.data_type())?;
            Ok(Arc::new(ListArray::try_new(element.clone(), list.offsets().clone(), values, list.nulls().cloned())?))
        }
        (DataType::Map(_, _), DataType::Map(entries, sorted)) => {
            let map = array.as_map();
            let DataType::Struct(wanted) = entries.data_type() else {
                return Err(external(Error::internal("a map without entries")));
            };
            let key = adopt(map.keys(), wanted[0].data_type())?;
            let value = adopt(map.values(), wanted[1].data_type())?;
            let pairs = StructArray::try_new(wanted.clone(), vec![key, value], None)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, pairs, nulls, *sorted)?))
        }
        _ => Ok(cast(array, table)?),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, StringArray};

    use super::*;

    fn field(name: &str, data_type: DataType, id: i32) -> FieldRef {
        Arc::new(Field::new(name, data_type, true).with_metadata([(FIELD_ID.to_owned(), id.to_string())].into()))
    }

    #[test]
    fn members_are_found_by_their_ids_whatever_they_are_called() {
        // The table renamed `a` to `b`, widened it, dropped the old `b` and added `c`.
        let own = Fields::from(vec![field("a", DataType::Int32, 2), field("b", DataType::Utf8, 3)]);
        let wanted = Fields::from(vec![field("b", DataType::Int64, 2), field("c", DataType::Utf8, 4)]);
        let values: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(vec![7, 8])), Arc::new(StringArray::from(vec!["x", "y"]))];
        let array: ArrayRef = Arc::new(StructArray::new(own.clone(), values, None));
        assert!(!alike(&field("s", DataType::Struct(own), 1), &field("s", DataType::Struct(wanted.clone()), 1)));
        let adopted = adopt(&array, &DataType::Struct(wanted)).unwrap();
        let adopted = adopted.as_struct();
        assert_eq!(adopted.column(0).as_primitive::<arrow::datatypes::Int64Type>(), &Int64Array::from(vec![7, 8]));
        assert_eq!(adopted.column(1).null_count(), 2);
        assert_eq!(adopted.fields()[0].name(), "b");
    }
}
