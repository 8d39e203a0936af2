//! `namespace.table.snapshots` and the other metadata tables, with the names,
//! types and rows that Spark gives them.
//!
//! The rows are few and made at once: each as a JSON value, decoded by the
//! schema. `files`, `entries`, `manifests` and `partitions` can be read AS OF a
//! snapshot; the others tell of the table's whole history.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use arrow::json::ReaderBuilder;
use iceberg::spec::{
    DataContentType, DataFile, Datum, Literal, ManifestContentType, ManifestEntryRef, ManifestFile, ManifestStatus,
    PrimitiveType, Schema as IcebergSchema, SnapshotRef, Struct, StructType, Type,
};
use insightera_core::closest;
use serde_json::{Map, Value, json};

use crate::lake::Table;
use crate::lake::files::{manifest_entries, manifest_list};
use crate::{Error, Result};

/// Which of a table's metadata tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataTable {
    /// Every snapshot.
    Snapshots,
    /// Which snapshot was current since when.
    History,
    /// Live data and delete files.
    Files,
    /// What the manifests say of files, removed ones included.
    Entries,
    /// Manifests.
    Manifests,
    /// Rows, files and bytes of each partition.
    Partitions,
    /// Branches and tags.
    Refs,
    /// Metadata files.
    MetadataLogEntries,
}

const NAMES: [(&str, MetadataTable); 8] = [
    ("snapshots", MetadataTable::Snapshots),
    ("history", MetadataTable::History),
    ("files", MetadataTable::Files),
    ("entries", MetadataTable::Entries),
    ("manifests", MetadataTable::Manifests),
    ("partitions", MetadataTable::Partitions),
    ("refs", MetadataTable::Refs),
    ("metadata_log_entries", MetadataTable::MetadataLogEntries),
];

impl MetadataTable {
    /// The metadata table of this name.
    pub fn parse(table: &str, name: &str) -> Result<Self> {
        let lower = name.to_ascii_lowercase();
        let found = NAMES.iter().find(|(known, _)| *known == lower).map(|(_, kind)| *kind);
        found.ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            let near = closest(&lower, names.iter().copied()).map(|near| format!("did you mean `{near}`? "));
            Error::not_found(format!("table `{table}` has no metadata table `{name}`")).hint(format!(
                "{}there are {}",
                near.unwrap_or_default(),
                names.join(", ")
            ))
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    /// Whether it tells of one snapshot.
    pub fn of_a_snapshot(self) -> bool {
        matches!(self, Self::Files | Self::Entries | Self::Manifests | Self::Partitions)
    }

    /// Its rows, as of `snapshot`.
    ///
    /// # Errors
    /// When a manifest cannot be read.
    pub fn read(self, table: &Table, snapshot: Option<i64>) -> Result<RecordBatch> {
        let reader = Reader::new(table, snapshot)?;
        let (fields, rows) = match self {
            Self::Snapshots => reader.snapshots(),
            Self::History => reader.history(),
            Self::Files => reader.files()?,
            Self::Entries => reader.entries()?,
            Self::Manifests => reader.manifests()?,
            Self::Partitions => reader.partitions()?,
            Self::Refs => reader.refs()?,
            Self::MetadataLogEntries => reader.metadata_log_entries(),
        };
        decode(Arc::new(Schema::new(fields)), &rows)
    }
}

fn decode(schema: SchemaRef, rows: &[Value]) -> Result<RecordBatch> {
    let failed = |e: arrow::error::ArrowError| Error::internal(format!("a metadata table: {e}")).cause(e);
    let mut decoder =
        ReaderBuilder::new(schema.clone()).with_batch_size(rows.len().max(1)).build_decoder().map_err(failed)?;
    decoder.serialize(rows).map_err(failed)?;
    Ok(decoder.flush().map_err(failed)?.unwrap_or_else(|| RecordBatch::new_empty(schema)))
}

fn long(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

fn int(name: &str) -> Field {
    Field::new(name, DataType::Int32, true)
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn flag(name: &str) -> Field {
    Field::new(name, DataType::Boolean, true)
}

fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true)
}

fn list(name: &str, item: DataType) -> Field {
    Field::new_list(name, Field::new_list_field(item, true), true)
}

fn map(name: &str, key: DataType, value: DataType) -> Field {
    Field::new_map(name, "entries", Field::new("key", key, false), Field::new("value", value, true), false, true)
}

fn micros(millis: i64) -> i64 {
    millis.saturating_mul(1000)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Reader<'a> {
    table: &'a Table,
    snapshot: Option<SnapshotRef>,
    /// The fields of all partition specs, by field id.
    partition: Vec<(i32, String, Type)>,
}

impl<'a> Reader<'a> {
    fn new(table: &'a Table, snapshot: Option<i64>) -> Result<Self> {
        let metadata = table.metadata();
        let mut partition: BTreeMap<i32, (String, Type)> = BTreeMap::new();
        for spec in metadata.partition_specs_iter() {
            // A spec whose columns were dropped has no type any more.
            let Ok(types) = spec.partition_type(table.schema()) else { continue };
            for field in types.fields() {
                partition.entry(field.id).or_insert_with(|| (field.name.clone(), field.field_type.as_ref().clone()));
            }
        }
        let partition = partition.into_iter().map(|(id, (name, of))| (id, name, of)).collect();
        let snapshot = snapshot.and_then(|id| metadata.snapshot_by_id(id)).cloned();
        Ok(Self { table, snapshot, partition })
    }

    fn snapshots(&self) -> (Vec<Field>, Vec<Value>) {
        let fields = vec![
            time("committed_at"),
            long("snapshot_id"),
            long("parent_id"),
            text("operation"),
            text("manifest_list"),
            map("summary", DataType::Utf8, DataType::Utf8),
        ];
        let mut snapshots: Vec<&SnapshotRef> = self.table.metadata().snapshots().collect();
        snapshots.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.timestamp_ms()));
        let rows = snapshots
            .into_iter()
            .map(|snapshot| {
                json!({
                    "committed_at": micros(snapshot.timestamp_ms()),
                    "snapshot_id": snapshot.snapshot_id(),
                    "parent_id": snapshot.parent_snapshot_id(),
                    "operation": snapshot.summary().operation.as_str(),
                    "manifest_list": snapshot.manifest_list(),
                    "summary": snapshot.summary().additional_properties,
                })
            })
            .collect();
        (fields, rows)
    }

    fn history(&self) -> (Vec<Field>, Vec<Value>) {
        let fields = vec![time("made_current_at"), long("snapshot_id"), long("parent_id"), flag("is_current_ancestor")];
        let ancestors: HashSet<i64> = self.table.ancestry().map(|snapshot| snapshot.snapshot_id()).collect();
        let metadata = self.table.metadata();
        let rows = metadata
            .history()
            .iter()
            .map(|entry| {
                json!({
                    "made_current_at": micros(entry.timestamp_ms()),
                    "snapshot_id": entry.snapshot_id,
                    "parent_id": metadata.snapshot_by_id(entry.snapshot_id).and_then(|s| s.parent_snapshot_id()),
                    "is_current_ancestor": ancestors.contains(&entry.snapshot_id),
                })
            })
            .collect();
        (fields, rows)
    }

    fn refs(&self) -> Result<(Vec<Field>, Vec<Value>)> {
        let fields = vec![
            text("name"),
            text("type"),
            long("snapshot_id"),
            long("max_reference_age_in_ms"),
            int("min_snapshots_to_keep"),
            long("max_snapshot_age_in_ms"),
        ];
        // The crate gives no other access to the references.
        let metadata = serde_json::to_value(self.table.metadata())
            .map_err(|e| Error::internal(format!("metadata has no JSON form: {e}")).cause(e))?;
        let refs = metadata.get("refs").and_then(Value::as_object).cloned().unwrap_or_default();
        let rows = refs
            .iter()
            .map(|(name, reference)| {
                json!({
                    "name": name,
                    "type": reference["type"].as_str().map(str::to_ascii_uppercase),
                    "snapshot_id": reference["snapshot-id"],
                    "max_reference_age_in_ms": reference["max-ref-age-ms"],
                    "min_snapshots_to_keep": reference["min-snapshots-to-keep"],
                    "max_snapshot_age_in_ms": reference["max-snapshot-age-ms"],
                })
            })
            .collect();
        Ok((fields, rows))
    }

    fn metadata_log_entries(&self) -> (Vec<Field>, Vec<Value>) {
        let fields = vec![
            time("timestamp"),
            text("file"),
            long("latest_snapshot_id"),
            int("latest_schema_id"),
            long("latest_sequence_number"),
        ];
        let metadata = self.table.metadata();
        let mut files: Vec<(i64, &str)> =
            metadata.metadata_log().iter().map(|entry| (entry.timestamp_ms, entry.metadata_file.as_str())).collect();
        files.push((metadata.last_updated_ms(), self.table.metadata_location()));
        let rows = files
            .into_iter()
            .map(|(millis, file)| {
                let before = metadata.history().iter().rfind(|entry| entry.timestamp_ms() <= millis);
                let latest = before.and_then(|entry| metadata.snapshot_by_id(entry.snapshot_id));
                json!({
                    "timestamp": micros(millis),
                    "file": file,
                    "latest_snapshot_id": before.map(|entry| entry.snapshot_id),
                    "latest_schema_id": latest.and_then(|snapshot| snapshot.schema_id()),
                    "latest_sequence_number": latest.map(|snapshot| snapshot.sequence_number()),
                })
            })
            .collect();
        (fields, rows)
    }

    fn manifest_files(&self) -> Result<Vec<ManifestFile>> {
        self.snapshot.as_ref().map_or(Ok(Vec::new()), |snapshot| manifest_list(self.table, snapshot))
    }

    fn manifests(&self) -> Result<(Vec<Field>, Vec<Value>)> {
        let summary: Fields =
            vec![flag("contains_null"), flag("contains_nan"), text("lower_bound"), text("upper_bound")].into();
        let fields = vec![
            int("content"),
            text("path"),
            long("length"),
            int("partition_spec_id"),
            long("added_snapshot_id"),
            int("added_data_files_count"),
            int("existing_data_files_count"),
            int("deleted_data_files_count"),
            int("added_delete_files_count"),
            int("existing_delete_files_count"),
            int("deleted_delete_files_count"),
            list("partition_summaries", DataType::Struct(summary)),
        ];
        let rows = self
            .manifest_files()?
            .iter()
            .map(|manifest| {
                let data = manifest.content == ManifestContentType::Data;
                let count = |of_data: bool, count: Option<u32>| if of_data == data { count } else { Some(0) };
                let types = self.partition_type(manifest.partition_spec_id);
                let bound = |bytes: Option<&[u8]>, of: &Type| -> Option<String> {
                    let Type::Primitive(primitive) = of else { return None };
                    let datum = Datum::try_from_bytes(bytes?, primitive.clone()).ok()?;
                    Some(shown(literal_json(Some(&datum.into()), of)))
                };
                let summaries: Vec<Value> = types
                    .iter()
                    .flat_map(|types| types.fields())
                    .zip(manifest.partitions.iter().flatten())
                    .map(|(field, summary)| {
                        json!({
                            "contains_null": summary.contains_null,
                            "contains_nan": summary.contains_nan,
                            "lower_bound": bound(summary.lower_bound.as_ref().map(|b| b.as_slice()), &field.field_type),
                            "upper_bound": bound(summary.upper_bound.as_ref().map(|b| b.as_slice()), &field.field_type),
                        })
                    })
                    .collect();
                json!({
                    "content": i32::from(!data),
                    "path": manifest.manifest_path,
                    "length": manifest.manifest_length,
                    "partition_spec_id": manifest.partition_spec_id,
                    "added_snapshot_id": manifest.added_snapshot_id,
                    "added_data_files_count": count(true, manifest.added_files_count),
                    "existing_data_files_count": count(true, manifest.existing_files_count),
                    "deleted_data_files_count": count(true, manifest.deleted_files_count),
                    "added_delete_files_count": count(false, manifest.added_files_count),
                    "existing_delete_files_count": count(false, manifest.existing_files_count),
                    "deleted_delete_files_count": count(false, manifest.deleted_files_count),
                    "partition_summaries": summaries,
                })
            })
            .collect();
        Ok((fields, rows))
    }

    fn partition_type(&self, spec: i32) -> Option<StructType> {
        self.table.metadata().partition_spec_by_id(spec)?.partition_type(self.table.schema()).ok()
    }

    /// The partition column of all specs; none where no spec has a field.
    fn partition_field(&self) -> Result<Option<Field>> {
        if self.partition.is_empty() {
            return Ok(None);
        }
        let fields = self.partition.iter().map(|(_, name, of)| Ok(Field::new(name, arrow_type(of)?, true)));
        let fields = fields.collect::<Result<Vec<Field>>>()?;
        Ok(Some(Field::new("partition", DataType::Struct(fields.into()), true)))
    }

    fn partition_value(&self, spec: i32, partition: &Struct) -> Value {
        let mut values = Map::new();
        let types = self.partition_type(spec);
        let known: HashMap<i32, Value> = types
            .iter()
            .flat_map(|types| types.fields())
            .zip(partition.iter())
            .map(|(field, value)| (field.id, literal_json(value, &field.field_type)))
            .collect();
        for (id, name, _) in &self.partition {
            values.insert(name.clone(), known.get(id).cloned().unwrap_or_default());
        }
        Value::Object(values)
    }

    /// The fields of a data file, and of the metrics that go with it.
    fn file_fields(&self) -> Result<Vec<Field>> {
        let mut fields = vec![int("content"), text("file_path"), text("file_format"), int("spec_id")];
        fields.extend(self.partition_field()?);
        fields.extend([long("record_count"), long("file_size_in_bytes")]);
        fields.extend(
            ["column_sizes", "value_counts", "null_value_counts", "nan_value_counts"]
                .map(|name| map(name, DataType::Int32, DataType::Int64)),
        );
        fields.extend(["lower_bounds", "upper_bounds"].map(|name| map(name, DataType::Int32, DataType::Binary)));
        fields.extend([
            Field::new("key_metadata", DataType::Binary, true),
            list("split_offsets", DataType::Int64),
            list("equality_ids", DataType::Int32),
            int("sort_order_id"),
            long("first_row_id"),
            text("referenced_data_file"),
            long("content_offset"),
            long("content_size_in_bytes"),
        ]);
        Ok(fields)
    }

    fn file_value(&self, file: &DataFile, spec: i32) -> Map<String, Value> {
        let counts = |counts: &HashMap<i32, u64>| -> Value {
            let sorted: BTreeMap<i32, u64> = counts.iter().map(|(id, n)| (*id, *n)).collect();
            sorted.into_iter().map(|(id, n)| (id.to_string(), json!(n))).collect::<Map<_, _>>().into()
        };
        let bounds = |bounds: &HashMap<i32, Datum>| -> Value {
            let sorted: BTreeMap<i32, &Datum> = bounds.iter().map(|(id, bound)| (*id, bound)).collect();
            let bytes =
                sorted.into_iter().filter_map(|(id, d)| Some((id.to_string(), json!(hex(&d.to_bytes().ok()?)))));
            bytes.collect::<Map<_, _>>().into()
        };
        let content = match file.content_type() {
            DataContentType::Data => 0,
            DataContentType::PositionDeletes => 1,
            DataContentType::EqualityDeletes => 2,
        };
        let value = json!({
            "content": content,
            "file_path": file.file_path(),
            "file_format": file.file_format().to_string().to_ascii_uppercase(),
            "spec_id": spec,
            "partition": self.partition_value(spec, file.partition()),
            "record_count": file.record_count(),
            "file_size_in_bytes": file.file_size_in_bytes(),
            "column_sizes": counts(file.column_sizes()),
            "value_counts": counts(file.value_counts()),
            "null_value_counts": counts(file.null_value_counts()),
            "nan_value_counts": counts(file.nan_value_counts()),
            "lower_bounds": bounds(file.lower_bounds()),
            "upper_bounds": bounds(file.upper_bounds()),
            "key_metadata": file.key_metadata().map(hex),
            "split_offsets": file.split_offsets(),
            "equality_ids": file.equality_ids(),
            "sort_order_id": file.sort_order_id(),
            "first_row_id": file.first_row_id(),
            "referenced_data_file": file.referenced_data_file(),
            "content_offset": file.content_offset(),
            "content_size_in_bytes": file.content_size_in_bytes(),
        });
        match value {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// The columns that have metrics, by name.
    fn metrics_columns(&self) -> Vec<(String, i32, PrimitiveType)> {
        let schema: &IcebergSchema = self.table.schema();
        let mut columns: Vec<(String, i32, PrimitiveType)> = schema
            .as_struct()
            .fields()
            .iter()
            .filter_map(|field| match field.field_type.as_ref() {
                Type::Primitive(of) => Some((field.name.clone(), field.id, of.clone())),
                _ => None,
            })
            .collect();
        columns.sort_by(|a, b| a.0.cmp(&b.0));
        columns
    }

    fn metrics_field(&self) -> Result<Field> {
        let mut columns = Vec::new();
        for (name, _, of) in self.metrics_columns() {
            let of = arrow_type(&Type::Primitive(of))?;
            let metrics: Fields = vec![
                long("column_size"),
                long("value_count"),
                long("null_value_count"),
                long("nan_value_count"),
                Field::new("lower_bound", of.clone(), true),
                Field::new("upper_bound", of, true),
            ]
            .into();
            columns.push(Field::new(name, DataType::Struct(metrics), true));
        }
        Ok(Field::new("readable_metrics", DataType::Struct(columns.into()), true))
    }

    fn metrics_value(&self, file: &DataFile) -> Value {
        let mut columns = Map::new();
        for (name, id, of) in self.metrics_columns() {
            let bound = |bounds: &HashMap<i32, Datum>| {
                let bound = bounds.get(&id).map(|datum| Literal::from(datum.clone()));
                literal_json(bound.as_ref(), &Type::Primitive(of.clone()))
            };
            let value = json!({
                "column_size": file.column_sizes().get(&id),
                "value_count": file.value_counts().get(&id),
                "null_value_count": file.null_value_counts().get(&id),
                "nan_value_count": file.nan_value_counts().get(&id),
                "lower_bound": bound(file.lower_bounds()),
                "upper_bound": bound(file.upper_bounds()),
            });
            columns.insert(name, value);
        }
        Value::Object(columns)
    }

    /// Every entry of the snapshot's manifests, with its spec.
    fn all_entries(&self) -> Result<Vec<(ManifestEntryRef, i32)>> {
        let mut all = Vec::new();
        for manifest in self.manifest_files()? {
            let entries = manifest_entries(self.table, &manifest)?;
            all.extend(entries.iter().map(|entry| (entry.clone(), manifest.partition_spec_id)));
        }
        Ok(all)
    }

    fn files(&self) -> Result<(Vec<Field>, Vec<Value>)> {
        let mut fields = self.file_fields()?;
        fields.push(self.metrics_field()?);
        let mut rows = Vec::new();
        for (entry, spec) in self.all_entries()?.iter().filter(|(entry, _)| entry.is_alive()) {
            let mut row = self.file_value(entry.data_file(), *spec);
            row.insert("readable_metrics".into(), self.metrics_value(entry.data_file()));
            rows.push(Value::Object(row));
        }
        Ok((fields, rows))
    }

    fn entries(&self) -> Result<(Vec<Field>, Vec<Value>)> {
        let file = DataType::Struct(self.file_fields()?.into());
        let fields = vec![
            int("status"),
            long("snapshot_id"),
            long("sequence_number"),
            long("file_sequence_number"),
            Field::new("data_file", file, true),
            self.metrics_field()?,
        ];
        let mut rows = Vec::new();
        for (entry, spec) in &self.all_entries()? {
            let status = match entry.status() {
                ManifestStatus::Existing => 0,
                ManifestStatus::Added => 1,
                ManifestStatus::Deleted => 2,
            };
            rows.push(json!({
                "status": status,
                "snapshot_id": entry.snapshot_id(),
                "sequence_number": entry.sequence_number(),
                "file_sequence_number": entry.file_sequence_number,
                "data_file": Value::Object(self.file_value(entry.data_file(), *spec)),
                "readable_metrics": self.metrics_value(entry.data_file()),
            }));
        }
        Ok((fields, rows))
    }

    fn partitions(&self) -> Result<(Vec<Field>, Vec<Value>)> {
        let mut fields: Vec<Field> = self.partition_field()?.into_iter().collect();
        if !fields.is_empty() {
            fields.push(int("spec_id"));
        }
        fields.extend([long("record_count"), int("file_count"), long("total_data_file_size_in_bytes")]);
        fields.extend([long("position_delete_record_count"), int("position_delete_file_count")]);
        fields.extend([long("equality_delete_record_count"), int("equality_delete_file_count")]);
        fields.extend([time("last_updated_at"), long("last_updated_snapshot_id")]);
        let metadata = self.table.metadata();
        // In the order in which the manifests name them.
        let mut found: Vec<(String, Totals)> = Vec::new();
        for (entry, spec) in self.all_entries()?.iter().filter(|(entry, _)| entry.is_alive()) {
            let file = entry.data_file();
            let partition = self.partition_value(*spec, file.partition());
            let key = partition.to_string();
            let at = found.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                found.push((key, Totals { partition, ..Totals::default() }));
                found.len() - 1
            });
            let totals = &mut found[at].1;
            let which = match file.content_type() {
                DataContentType::Data => 0,
                DataContentType::PositionDeletes => 1,
                DataContentType::EqualityDeletes => 2,
            };
            totals.records[which] += file.record_count();
            totals.files[which] += 1;
            if which == 0 {
                totals.bytes += file.file_size_in_bytes();
            }
            totals.spec = totals.spec.max(*spec);
            let changed = entry.snapshot_id().and_then(|id| metadata.snapshot_by_id(id));
            if let Some(snapshot) = changed
                && totals.updated.is_none_or(|(millis, _)| millis < snapshot.timestamp_ms())
            {
                totals.updated = Some((snapshot.timestamp_ms(), snapshot.snapshot_id()));
            }
        }
        let rows = found
            .into_iter()
            .map(|(_, totals)| {
                json!({
                    "partition": totals.partition,
                    "spec_id": totals.spec,
                    "record_count": totals.records[0],
                    "file_count": totals.files[0],
                    "total_data_file_size_in_bytes": totals.bytes,
                    "position_delete_record_count": totals.records[1],
                    "position_delete_file_count": totals.files[1],
                    "equality_delete_record_count": totals.records[2],
                    "equality_delete_file_count": totals.files[2],
                    "last_updated_at": totals.updated.map(|(millis, _)| micros(millis)),
                    "last_updated_snapshot_id": totals.updated.map(|(_, id)| id),
                })
            })
            .collect();
        Ok((fields, rows))
    }
}

/// What a partition holds: of data, position deletes and equality deletes.
#[derive(Debug, Default)]
struct Totals {
    partition: Value,
    spec: i32,
    records: [u64; 3],
    files: [u32; 3],
    bytes: u64,
    updated: Option<(i64, i64)>,
}

fn arrow_type(of: &Type) -> Result<DataType> {
    iceberg::arrow::type_to_arrow_type(of)
        .map_err(|e| Error::data(format!("a partition field or column has an unusable type: {e}")).cause(e))
}

/// A value as the decoder reads it; one without a JSON form is null.
fn literal_json(value: Option<&Literal>, of: &Type) -> Value {
    let Some(value) = value else { return Value::Null };
    let json = value.clone().try_into_json(of).unwrap_or_default();
    match (of, json) {
        // The decoder wants hexadecimal digits alone.
        (Type::Primitive(PrimitiveType::Uuid), Value::String(uuid)) => Value::String(uuid.replace('-', "")),
        (_, json) => json,
    }
}

/// A value as a person reads it.
fn shown(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
