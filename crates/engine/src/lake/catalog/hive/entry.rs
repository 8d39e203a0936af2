//! A table's entry in the metastore, as Iceberg's Java library writes it, so
//! that every engine finds the same table.
//!
//! The truth is the metadata file that `metadata_location` names. The rest is
//! for people and for engines that only look: columns, table properties,
//! counts of the current snapshot. What others have put into an entry stays.

use std::collections::BTreeMap;

use iceberg::spec::{PrimitiveType, Schema, TableMetadata, Type};
use serde::Serialize;

use super::thrift::{Record, Value};
use crate::lake::table::TableName;

/// The parameter that says what kind of table an entry is.
const TABLE_TYPE: &str = "table_type";
/// The parameter that is the pointer.
pub(super) const LOCATION: &str = "metadata_location";
const PREVIOUS: &str = "previous_metadata_location";
const STORAGE_HANDLER: &str = "storage_handler";
/// Characters of a parameter, as many as every database of a metastore takes.
const LONGEST: usize = 32_672;
/// Properties of Iceberg that Hive has under another name.
const RENAMED: [(&str, &str); 1] = [("gc.enabled", "external.table.purge")];

/// Parameters of the entry itself, which no table property changes.
const OWN: [&str; 6] = [TABLE_TYPE, LOCATION, PREVIOUS, STORAGE_HANDLER, "EXTERNAL", "uuid"];

// Fields of a table.
const NAME: i16 = 1;
const DATABASE: i16 = 2;
const DESCRIPTOR: i16 = 7;
const PARAMETERS: i16 = 9;

/// The entry's parameters.
pub(super) fn parameters(entry: &Record) -> BTreeMap<String, String> {
    entry.texts_by_text(PARAMETERS)
}

/// An entry's database and name.
pub(super) fn name(entry: &Record) -> Option<TableName> {
    Some(TableName { namespace: entry.text(DATABASE)?.to_owned(), name: entry.text(NAME)?.to_owned() })
}

/// The metadata file, if the entry is a table of Iceberg; else the kind of it.
pub(super) fn location(entry: &Record) -> Result<String, String> {
    let parameters = parameters(entry);
    match parameters.get(TABLE_TYPE) {
        Some(kind) if kind.eq_ignore_ascii_case("iceberg") => {}
        Some(kind) => return Err(format!("`{TABLE_TYPE}` is `{kind}`")),
        None => return Err(format!("it has no `{TABLE_TYPE}`, as Hive's own tables")),
    }
    parameters.get(LOCATION).cloned().ok_or_else(|| format!("it has no `{LOCATION}`"))
}

/// The entry of a new table.
pub(super) fn new(table: &TableName, owner: &str, metadata: &TableMetadata, metadata_location: &str) -> Record {
    let seconds = Value::Int(i32::try_from(metadata.last_updated_ms() / 1000).unwrap_or(i32::MAX));
    let mut entry = Record::new([
        (NAME, Value::text(&table.name)),
        (DATABASE, Value::text(&table.namespace)),
        (3, Value::text(owner)),
        (4, seconds.clone()),
        (5, seconds),
        (6, Value::Int(i32::MAX)),
        (DESCRIPTOR, Value::Record(Record::default())),
        (8, Value::records([])),
        (PARAMETERS, Value::texts_by_text([("EXTERNAL", "TRUE")])),
        (12, Value::text("EXTERNAL_TABLE")),
    ]);
    fill(&mut entry, None, metadata, metadata_location);
    entry
}

/// The entry of a table that moves from one state to the next.
pub(super) fn moved(entry: &Record, base: &TableMetadata, next: &TableMetadata, metadata_location: &str) -> Record {
    let mut entry = entry.clone();
    fill(&mut entry, Some(base), next, metadata_location);
    entry
}

/// The entry under another name.
pub(super) fn renamed(entry: &Record, to: &TableName) -> Record {
    let mut entry = entry.clone();
    entry.set(NAME, Value::text(&to.name));
    entry.set(DATABASE, Value::text(&to.namespace));
    entry
}

fn fill(entry: &mut Record, base: Option<&TableMetadata>, next: &TableMetadata, metadata_location: &str) {
    let mut parameters = parameters(entry);
    let hive_key =
        |key: &str| RENAMED.iter().find(|(ours, _)| *ours == key).map_or(key, |(_, theirs)| *theirs).to_owned();
    let pushed = |key: &&String| !OWN.contains(&key.as_str());
    for key in base.iter().flat_map(|base| base.properties().keys()).filter(pushed) {
        if !next.properties().contains_key(key) {
            parameters.remove(&hive_key(key));
        }
    }
    for (key, value) in next.properties().iter().filter(|(key, _)| pushed(key)) {
        // The metadata file has those that are too long, and is who is asked.
        put(&mut parameters, hive_key(key), Some(value.clone()));
    }
    if let Some(previous) = parameters.insert(LOCATION.into(), metadata_location.into()) {
        parameters.insert(PREVIOUS.into(), previous);
    }
    parameters.insert(TABLE_TYPE.into(), "ICEBERG".into());
    parameters.insert("uuid".into(), next.uuid().to_string());
    let engine = next.properties().get("engine.hive.enabled").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    match engine {
        true => {
            parameters.insert(STORAGE_HANDLER.into(), "org.apache.iceberg.mr.hive.HiveIcebergStorageHandler".into())
        }
        false => parameters.remove(STORAGE_HANDLER),
    };
    statistics(&mut parameters, next);
    let spec = next.default_partition_spec();
    put(&mut parameters, "current-schema", json(next.current_schema().as_ref()));
    put(&mut parameters, "default-partition-spec", (!spec.is_unpartitioned()).then(|| json(spec.as_ref())).flatten());
    let order = next.default_sort_order();
    put(&mut parameters, "default-sort-order", (!order.is_unsorted()).then(|| json(order.as_ref())).flatten());
    entry.set(PARAMETERS, Value::texts_by_text(parameters));

    let mut descriptor = entry.record(DESCRIPTOR).cloned().unwrap_or_default();
    describe(&mut descriptor, next, engine);
    entry.set(DESCRIPTOR, Value::Record(descriptor));
}

/// A parameter, or its absence where it has no value or one that is too long.
fn put(parameters: &mut BTreeMap<String, String>, key: impl Into<String>, value: Option<String>) {
    let key = key.into();
    match value.filter(|value| value.chars().count() <= LONGEST) {
        Some(value) => parameters.insert(key, value),
        None => parameters.remove(&key),
    };
}

fn json(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}

/// Counts of the current snapshot; those that it does not tell stay.
fn statistics(parameters: &mut BTreeMap<String, String>, next: &TableMetadata) {
    let snapshot = next.current_snapshot();
    let summary = snapshot.map(|snapshot| &snapshot.summary().additional_properties);
    for (ours, theirs) in
        [("total-data-files", "numFiles"), ("total-records", "numRows"), ("total-files-size", "totalSize")]
    {
        if let Some(count) = summary.and_then(|summary| summary.get(ours)) {
            parameters.insert(theirs.into(), count.clone());
        }
    }
    // Hive is not to count by itself, which lists all files.
    parameters.remove("COLUMN_STATS_ACCURATE");
    parameters.insert("DO_NOT_UPDATE_STATS".into(), "true".into());
    parameters.insert("snapshot-count".into(), next.snapshots().len().to_string());
    put(parameters, "current-snapshot-id", snapshot.map(|snapshot| snapshot.snapshot_id().to_string()));
    put(parameters, "current-snapshot-timestamp-ms", snapshot.map(|snapshot| snapshot.timestamp_ms().to_string()));
    put(parameters, "current-snapshot-summary", snapshot.and_then(|snapshot| json(snapshot.summary())));
}

/// Columns, location and the classes by which Hive would read the files.
fn describe(descriptor: &mut Record, next: &TableMetadata, engine: bool) {
    let (input, output, serde) = match engine {
        true => (
            "org.apache.iceberg.mr.hive.HiveIcebergInputFormat",
            "org.apache.iceberg.mr.hive.HiveIcebergOutputFormat",
            "org.apache.iceberg.mr.hive.HiveIcebergSerDe",
        ),
        false => (
            "org.apache.hadoop.mapred.FileInputFormat",
            "org.apache.hadoop.mapred.FileOutputFormat",
            "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
        ),
    };
    let none = || Value::texts_by_text(Vec::<(String, String)>::new());
    descriptor.set(1, Value::records(columns(next.current_schema())));
    descriptor.set(2, Value::text(next.location()));
    descriptor.set(3, Value::text(input));
    descriptor.set(4, Value::text(output));
    let mut classes = descriptor.record(7).cloned().unwrap_or_default();
    classes.set(2, Value::text(serde));
    if classes.get(3).is_none() {
        classes.set(3, none());
    }
    descriptor.set(7, Value::Record(classes));
    for (field, value) in [
        (5, Value::Bool(false)),
        (6, Value::Int(0)),
        (8, Value::texts(Vec::<String>::new())),
        (9, Value::records([])),
        (10, none()),
    ] {
        if descriptor.get(field).is_none() {
            descriptor.set(field, value);
        }
    }
}

fn columns(schema: &Schema) -> Vec<Record> {
    let fields = schema.as_struct().fields().iter();
    let column = fields.map(|field| {
        let mut column = Record::new([(1, Value::text(&field.name)), (2, Value::text(hive_type(&field.field_type)))]);
        if let Some(doc) = &field.doc {
            column.set(3, Value::text(doc));
        }
        column
    });
    column.collect()
}

/// Hive's name of a type.
pub(super) fn hive_type(of: &Type) -> String {
    match of {
        Type::Primitive(primitive) => match primitive {
            PrimitiveType::Boolean => "boolean".into(),
            PrimitiveType::Int => "int".into(),
            PrimitiveType::Long => "bigint".into(),
            PrimitiveType::Float => "float".into(),
            PrimitiveType::Double => "double".into(),
            PrimitiveType::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
            PrimitiveType::Date => "date".into(),
            PrimitiveType::Timestamp | PrimitiveType::TimestampNs => "timestamp".into(),
            PrimitiveType::Timestamptz | PrimitiveType::TimestamptzNs => "timestamp with local time zone".into(),
            PrimitiveType::Time | PrimitiveType::String | PrimitiveType::Uuid => "string".into(),
            PrimitiveType::Fixed(_) | PrimitiveType::Binary => "binary".into(),
        },
        Type::Struct(fields) => {
            let fields = fields.fields().iter().map(|field| format!("{}:{}", field.name, hive_type(&field.field_type)));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(","))
        }
        Type::List(list) => format!("array<{}>", hive_type(&list.element_field.field_type)),
        Type::Map(map) => {
            format!("map<{},{}>", hive_type(&map.key_field.field_type), hive_type(&map.value_field.field_type))
        }
    }
}
