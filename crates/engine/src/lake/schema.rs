//! Between Arrow's types and Iceberg's, and the evolution of a table's schema.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef, TimeUnit};
use iceberg::TableUpdate;
use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type};

use super::Table;
use crate::{Error, Result};

/// The Parquet field id key in Arrow field metadata.
pub const FIELD_ID: &str = "PARQUET:field_id";

/// A column of a table to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Whether it may be null.
    pub nullable: bool,
    /// Its comment.
    pub doc: Option<String>,
}

impl Column {
    /// A column that may be null.
    pub fn nullable(name: &str, data_type: DataType) -> Self {
        Self { name: name.to_owned(), data_type, nullable: true, doc: None }
    }

    /// A column that may not be null.
    pub fn required(name: &str, data_type: DataType) -> Self {
        Self { name: name.to_owned(), data_type, nullable: false, doc: None }
    }
}

/// Microseconds in UTC, Iceberg's `timestamptz`.
pub fn timestamptz() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The Iceberg type of an Arrow type; `next_id` gives ids to nested fields.
pub fn iceberg_type(column: &str, data_type: &DataType, next_id: &mut i32) -> Result<Type> {
    let primitive = |p| Ok(Type::Primitive(p));
    match data_type {
        DataType::Boolean => primitive(PrimitiveType::Boolean),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            primitive(PrimitiveType::Int)
        }
        DataType::Int64 | DataType::UInt32 => primitive(PrimitiveType::Long),
        DataType::Float16 | DataType::Float32 => primitive(PrimitiveType::Float),
        DataType::Float64 => primitive(PrimitiveType::Double),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => primitive(PrimitiveType::String),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => primitive(PrimitiveType::Binary),
        DataType::Date32 => primitive(PrimitiveType::Date),
        DataType::Timestamp(_, None) => primitive(PrimitiveType::Timestamp),
        DataType::Timestamp(_, Some(_)) => primitive(PrimitiveType::Timestamptz),
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            primitive(PrimitiveType::Decimal { precision: u32::from(*precision), scale: *scale as u32 })
        }
        DataType::Dictionary(_, value) => iceberg_type(column, value, next_id),
        DataType::List(item) | DataType::LargeList(item) => {
            let id = take(next_id);
            let element = iceberg_type(column, item.data_type(), next_id)?;
            Ok(Type::List(ListType::new(NestedField::list_element(id, element, !item.is_nullable()).into())))
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(Error::internal("a map without entries"));
            };
            let (key_id, value_id) = (take(next_id), take(next_id));
            let key = iceberg_type(column, fields[0].data_type(), next_id)?;
            let value = iceberg_type(column, fields[1].data_type(), next_id)?;
            Ok(Type::Map(MapType::new(
                NestedField::map_key_element(key_id, key).into(),
                NestedField::map_value_element(value_id, value, !fields[1].is_nullable()).into(),
            )))
        }
        DataType::Struct(members) => {
            let mut fields: Vec<NestedFieldRef> = Vec::with_capacity(members.len());
            let first = *next_id + 1;
            *next_id += members.len() as i32;
            for (id, member) in (first..).zip(members) {
                let of = iceberg_type(&format!("{column}.{}", member.name()), member.data_type(), next_id)?;
                fields.push(NestedField::new(id, member.name(), of, !member.is_nullable()).into());
            }
            Ok(Type::Struct(StructType::new(fields)))
        }
        other => Err(Error::invalid(format!("column `{column}` has type {other}, which a table here cannot store"))
            .hint("cast it in SQL, for example to BIGINT, DOUBLE, VARCHAR or TIMESTAMP")),
    }
}

fn take(next: &mut i32) -> i32 {
    *next += 1;
    *next
}

/// A schema for a new table: ids from 1, in order.
///
/// # Errors
/// When two columns have one name.
pub fn new_schema(columns: &[Column]) -> Result<Schema> {
    for (index, column) in columns.iter().enumerate() {
        if let Some(other) = columns[..index].iter().find(|c| c.name.eq_ignore_ascii_case(&column.name)) {
            let first = if other.name == column.name { String::new() } else { format!(" (as `{}`)", other.name) };
            return Err(Error::invalid(format!("column `{}` is defined twice{first}", column.name))
                .hint("names of columns differ in more than case; remove or rename one"));
        }
    }
    let mut next = columns.len() as i32;
    let mut fields: Vec<NestedFieldRef> = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let field_type = iceberg_type(&column.name, &column.data_type, &mut next)?;
        let mut field = NestedField::new(index as i32 + 1, &column.name, field_type, !column.nullable);
        field.doc.clone_from(&column.doc);
        fields.push(field.into());
    }
    Schema::builder()
        .with_fields(fields)
        .build()
        .map_err(|e| Error::invalid(format!("the table's columns are not valid: {e}")).cause(e))
}

/// What must change in a table's schema to hold `columns`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evolution {
    /// Columns to add at the end, all nullable.
    pub added: Vec<Column>,
    /// Columns to widen: name, from, to.
    pub widened: Vec<(String, String, String)>,
}

impl Evolution {
    /// Whether the table can stay as it is.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.widened.is_empty()
    }
}

/// Compares a table's schema with the columns a pipeline writes.
///
/// # Errors
/// When a column exists with a type that cannot be widened to the new one.
pub fn evolution(table: &str, schema: &Schema, columns: &[Column]) -> Result<Evolution> {
    let mut evolution = Evolution::default();
    for column in columns {
        let Some(field) = schema.field_by_name(&column.name) else {
            if let Some(other) = schema.field_by_name_case_insensitive(&column.name) {
                return Err(Error::invalid(format!(
                    "table `{table}` has a column `{}`, the pipeline writes `{}`: they differ only in case",
                    other.name, column.name
                )));
            }
            evolution.added.push(Column { nullable: true, ..column.clone() });
            continue;
        };
        let wanted = iceberg_type(&column.name, &column.data_type, &mut 0)?;
        if same_shape(&field.field_type, &wanted) || fits_into(&wanted, &field.field_type) {
            continue;
        }
        if widens(&field.field_type, &wanted) {
            evolution.widened.push((column.name.clone(), field.field_type.to_string(), wanted.to_string()));
            continue;
        }
        return Err(Error::invalid(format!(
            "column `{}` of table `{table}` has type `{}`, the pipeline writes `{wanted}`",
            column.name, field.field_type
        ))
        .hint("cast the expression in `[output.columns]` to the table's type, or give the column a new name"));
    }
    Ok(evolution)
}

/// What makes a table hold `columns`; nothing where it does.
///
/// # Errors
/// As of [`evolution`].
pub fn updates(table: &Table, columns: &[Column]) -> Result<Vec<TableUpdate>> {
    let evolution = evolution(&table.name().to_string(), table.schema(), columns)?;
    if evolution.is_empty() {
        return Ok(Vec::new());
    }
    let schema = evolve(table.schema(), table.metadata().last_column_id(), &evolution)?;
    Ok(vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }])
}

/// The table's schema with an evolution applied; new columns get fresh ids.
pub fn evolve(schema: &Schema, last_column_id: i32, evolution: &Evolution) -> Result<Schema> {
    let mut next = last_column_id;
    let mut fields: Vec<NestedFieldRef> = Vec::new();
    for field in schema.as_struct().fields() {
        let widened = evolution.widened.iter().find(|(name, _, _)| *name == field.name);
        match (widened.map(|w| w.2.as_str()), &field.field_type) {
            (Some("long"), _) => fields.push(retyped(field, PrimitiveType::Long)),
            (Some("double"), _) => fields.push(retyped(field, PrimitiveType::Double)),
            _ => fields.push(field.clone()),
        }
    }
    for column in &evolution.added {
        let id = take(&mut next);
        let field_type = iceberg_type(&column.name, &column.data_type, &mut next)?;
        fields.push(NestedField::optional(id, &column.name, field_type).into());
    }
    Schema::builder()
        .with_schema_id(schema.schema_id())
        .with_fields(fields)
        .with_identifier_field_ids(schema.identifier_field_ids())
        .build()
        .map_err(|e| Error::internal(format!("the evolved schema is not valid: {e}")).cause(e))
}

fn retyped(field: &NestedFieldRef, to: PrimitiveType) -> NestedFieldRef {
    let mut changed = (**field).clone();
    changed.field_type = Box::new(Type::Primitive(to));
    changed.into()
}

fn widens(from: &Type, to: &Type) -> bool {
    use PrimitiveType::{Double, Float, Int, Long};
    matches!((from.as_primitive_type(), to.as_primitive_type()), (Some(Int), Some(Long)) | (Some(Float), Some(Double)))
}

/// A narrower value can be stored in a wider column without a change.
fn fits_into(value: &Type, column: &Type) -> bool {
    widens(value, column)
}

fn same_shape(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Primitive(a), Type::Primitive(b)) => a == b,
        (Type::List(a), Type::List(b)) => same_shape(&a.element_field.field_type, &b.element_field.field_type),
        (Type::Struct(a), Type::Struct(b)) => {
            a.fields().len() == b.fields().len()
                && a.fields()
                    .iter()
                    .zip(b.fields())
                    .all(|(a, b)| a.name == b.name && same_shape(&a.field_type, &b.field_type))
        }
        (Type::Map(a), Type::Map(b)) => {
            same_shape(&a.key_field.field_type, &b.key_field.field_type)
                && same_shape(&a.value_field.field_type, &b.value_field.field_type)
        }
        _ => false,
    }
}

/// The Arrow schema that data files of `schema` are written with, field ids in
/// the metadata; UTC zones are named `UTC`.
pub fn arrow_schema(schema: &Schema) -> Result<ArrowSchemaRef> {
    let arrow = iceberg::arrow::schema_to_arrow_schema(schema)
        .map_err(|e| Error::data(format!("a table's schema has no Arrow form: {e}")).cause(e))?;
    let fields: Vec<Arc<Field>> = arrow.fields().iter().map(with_utc).collect();
    Ok(Arc::new(ArrowSchema::new(fields)))
}

fn with_utc(field: &Arc<Field>) -> Arc<Field> {
    match field.data_type() {
        DataType::Timestamp(unit, Some(_)) => {
            Arc::new(field.as_ref().clone().with_data_type(DataType::Timestamp(*unit, Some("UTC".into()))))
        }
        _ => field.clone(),
    }
}

/// The Arrow schema that queries see: no field ids, strings as views.
pub fn query_schema(schema: &Schema) -> Result<ArrowSchemaRef> {
    let arrow = arrow_schema(schema)?;
    let fields: Vec<Field> = arrow
        .fields()
        .iter()
        .map(|f| {
            let data_type = match f.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
                DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
                other => other.clone(),
            };
            f.as_ref().clone().with_data_type(data_type).with_metadata(HashMap::new())
        })
        .collect();
    Ok(Arc::new(ArrowSchema::new(fields)))
}
