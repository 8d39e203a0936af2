//! What a server says of a table.
//!
//! Project Nessie keeps one snapshot of each table, its own branches and tags
//! over all of them, and tells that snapshot without its parent. Whoever walks
//! an ancestry must see that it is not whole: such a snapshot gets a parent
//! here that is not there, like one that was expired.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use iceberg::TableUpdate;
use iceberg::spec::TableMetadata;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::no_json;
use crate::Result;
use crate::lake::catalog::Loaded;
use crate::lake::table::{KEPT_BY_NESSIE, references};

/// The parent of a snapshot whose own the server does not keep.
const NOT_KEPT: i64 = -1;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TableAnswer {
    metadata_location: Option<String>,
    #[serde(deserialize_with = "with_a_parent")]
    metadata: TableMetadata,
    #[serde(default)]
    config: Option<HashMap<String, String>>,
    #[serde(default)]
    storage_credentials: Option<Vec<StorageCredential>>,
}

#[derive(Deserialize)]
struct StorageCredential {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    config: HashMap<String, String>,
}

fn with_a_parent<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<TableMetadata, D::Error> {
    use serde::de::Error as _;
    let metadata = TableMetadata::deserialize(from)?;
    let first = |snapshot: &iceberg::spec::SnapshotRef| snapshot.sequence_number() <= 1;
    let no_parent = |snapshot: &iceberg::spec::SnapshotRef| snapshot.parent_snapshot_id().is_none() && !first(snapshot);
    if !metadata.properties().contains_key(KEPT_BY_NESSIE) || !metadata.snapshots().any(no_parent) {
        return Ok(metadata);
    }
    let mut json = serde_json::to_value(&metadata).map_err(D::Error::custom)?;
    for snapshot in json["snapshots"].as_array_mut().into_iter().flatten() {
        if snapshot.get("parent-snapshot-id").is_none_or(Value::is_null) {
            snapshot["parent-snapshot-id"] = json!(NOT_KEPT);
        }
    }
    serde_json::from_value(json).map_err(D::Error::custom)
}

impl From<TableAnswer> for Loaded {
    fn from(answer: TableAnswer) -> Self {
        let mut properties = answer.config.unwrap_or_default();
        // The longest prefix that fits is the most specific.
        let location = answer.metadata.location();
        let credentials = answer.storage_credentials.unwrap_or_default();
        let fitting = credentials.into_iter().filter(|c| location.starts_with(&c.prefix));
        if let Some(credential) = fitting.max_by_key(|c| c.prefix.len()) {
            properties.extend(credential.config);
        }
        let location = answer.metadata_location.unwrap_or_default();
        Self { location, metadata: Some(Arc::new(answer.metadata)), properties }
    }
}

/// Which references and properties that were to be changed are not as they
/// should be in the answer. Changes of rows are compared by whoever settles
/// their outcome.
///
/// # Errors
/// When the answer has no JSON form.
pub(super) fn left_out(updates: &[TableUpdate], answer: &Loaded) -> Result<Vec<String>> {
    let Some(metadata) = &answer.metadata else { return Ok(Vec::new()) };
    if updates.iter().any(|update| matches!(update, TableUpdate::AddSnapshot { .. })) {
        return Ok(Vec::new());
    }
    let refs: BTreeMap<String, i64> = references(metadata)
        .map_err(no_json)?
        .into_iter()
        .map(|(name, reference)| (name, reference.snapshot_id))
        .collect();
    let mut missing = Vec::new();
    for update in updates {
        match update {
            TableUpdate::SetSnapshotRef { ref_name, reference }
                if refs.get(ref_name) != Some(&reference.snapshot_id) =>
            {
                missing.push(format!("the tag or branch `{ref_name}`"));
            }
            TableUpdate::RemoveSnapshotRef { ref_name } if refs.contains_key(ref_name) => {
                missing.push(format!("the removal of the tag or branch `{ref_name}`"));
            }
            TableUpdate::SetProperties { updates } => {
                let other = updates.iter().filter(|(key, value)| metadata.properties().get(*key) != Some(*value));
                missing.extend(other.map(|(key, _)| format!("the property `{key}`")));
            }
            TableUpdate::RemoveProperties { removals } => {
                let there = removals.iter().filter(|key| metadata.properties().contains_key(*key));
                missing.extend(there.map(|key| format!("the removal of the property `{key}`")));
            }
            _ => {}
        }
    }
    missing.sort();
    Ok(missing)
}

/// What can be done about it.
pub(super) fn hint(answer: &Loaded) -> &'static str {
    let nessie = answer.metadata.as_ref().is_some_and(|metadata| metadata.properties().contains_key(KEPT_BY_NESSIE));
    if nessie {
        "Project Nessie has branches and tags of its own, over all tables, and keeps one snapshot of each table: use those"
    } else {
        "ask whoever runs the catalog whether it supports that"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(properties: &str, sequence: i64) -> Loaded {
        let text = format!(
            r#"{{"metadata-location": "s3://b/t/m.json", "metadata": {{
                "format-version": 2, "table-uuid": "9c12d441-03fe-4693-9a96-a0705ddf69c1", "location": "s3://b/t",
                "last-sequence-number": {sequence}, "last-updated-ms": 1602638573590, "last-column-id": 1,
                "current-schema-id": 0, "schemas": [{{"type": "struct", "schema-id": 0, "fields": [
                    {{"id": 1, "name": "x", "required": false, "type": "long"}}]}}],
                "default-spec-id": 0, "partition-specs": [{{"spec-id": 0, "fields": []}}], "last-partition-id": 999,
                "default-sort-order-id": 0, "sort-orders": [{{"order-id": 0, "fields": []}}],
                "properties": {properties}, "current-snapshot-id": 7, "snapshots": [{{
                    "snapshot-id": 7, "sequence-number": {sequence}, "timestamp-ms": 1602638573590,
                    "manifest-list": "s3://b/t/l.avro", "schema-id": 0, "summary": {{"operation": "append"}}}}],
                "refs": {{"main": {{"snapshot-id": 7, "type": "branch"}}}}
            }}}}"#
        );
        serde_json::from_str::<TableAnswer>(&text).unwrap().into()
    }

    fn parent(loaded: &Loaded) -> Option<i64> {
        loaded.metadata.as_ref().unwrap().current_snapshot().unwrap().parent_snapshot_id()
    }

    #[test]
    fn a_snapshot_whose_parent_the_server_does_not_keep_is_not_the_first() {
        let nessie = format!(r#"{{"{KEPT_BY_NESSIE}": "x"}}"#);
        assert_eq!(parent(&answer(&nessie, 2)), Some(NOT_KEPT));
        assert_eq!(parent(&answer(&nessie, 1)), None);
        assert_eq!(parent(&answer("{}", 2)), None, "a table that was replaced as a whole");
    }

    #[test]
    fn a_tag_or_property_that_the_answer_lacks_is_told() {
        use iceberg::spec::{SnapshotReference, SnapshotRetention};
        let tag = |name: &str, snapshot_id| TableUpdate::SetSnapshotRef {
            ref_name: name.into(),
            reference: SnapshotReference::new(snapshot_id, SnapshotRetention::Tag { max_ref_age_ms: None }),
        };
        let set = |key: &str| TableUpdate::SetProperties { updates: HashMap::from([(key.into(), "1".into())]) };
        let given = answer(r#"{"a": "1", "b": "2"}"#, 1);
        assert_eq!(left_out(&[tag("main", 7), set("a")], &given).unwrap(), Vec::<String>::new());
        assert_eq!(left_out(&[tag("exams", 7)], &given).unwrap(), ["the tag or branch `exams`"]);
        assert_eq!(left_out(&[tag("main", 8)], &given).unwrap(), ["the tag or branch `main`"]);
        assert_eq!(left_out(&[set("b"), set("c")], &given).unwrap(), ["the property `b`", "the property `c`"]);
        let removal = TableUpdate::RemoveProperties { removals: vec!["a".into(), "c".into()] };
        assert_eq!(left_out(&[removal], &given).unwrap(), ["the removal of the property `a`"]);
    }
}
