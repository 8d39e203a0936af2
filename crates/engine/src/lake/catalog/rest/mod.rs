//! An Iceberg REST catalog.
//!
//! A commit sends what was done to the base, and *requirements*: the table's
//! uuid, every branch and tag where the base has them, and the ids that new
//! schemas, partition specs and sort orders are counted from. The server checks
//! them and moves the pointer in one step, so that a decision holds for the
//! very base it was made on. Properties have no requirement: what else changes
//! them at the same moment is not noticed; nothing is decided on them.
//!
//! Status 409 is a conflict; 5xx, no answer, and an answer that cannot be read
//! are unknown outcomes. A server may take a change and leave a part of it out:
//! what is no change of rows is looked for in its answer ([`answer::left_out`]).

mod answer;
mod client;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use insightera_core::ErrorKind;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use self::answer::TableAnswer;
use self::client::{Answer, Client, Failure};
use super::{Catalog, FORMAT, FORMAT_PROPERTY, Loaded, Next, Swap, check_format};
use crate::config::RestSettings;
use crate::lake::NewTable;
use crate::lake::faults::{self, Stage};
use crate::lake::table::{Table, TableName};
use crate::{Error, Result};

/// A catalog behind HTTP.
pub struct RestCatalog {
    client: Client,
    /// Namespaces whose format has been checked.
    checked: Mutex<HashSet<String>>,
}

impl fmt::Debug for RestCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RestCatalog").field(&self.client.address()).finish()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Page<T> {
    #[serde(alias = "identifiers", alias = "namespaces")]
    items: Vec<T>,
    #[serde(default)]
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
struct Identifier {
    namespace: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct NamespaceAnswer {
    #[serde(default)]
    properties: Option<HashMap<String, String>>,
}

impl RestCatalog {
    /// Asks the server for its configuration.
    ///
    /// # Errors
    /// When it cannot be reached or refuses.
    pub fn open(settings: &RestSettings) -> Result<Self> {
        Ok(Self { client: Client::connect(settings)?, checked: Mutex::default() })
    }

    fn table_path(&self, table: &TableName) -> String {
        self.client.path(&["namespaces", &table.namespace, "tables", &table.name])
    }

    fn properties(&self, namespace: &str) -> Result<Option<HashMap<String, String>>> {
        let answer: Answer<NamespaceAnswer> = self.client.get(&self.client.path(&["namespaces", namespace]));
        Ok(found(answer)?.map(|answer| answer.properties.unwrap_or_default()))
    }

    /// Refuses a namespace of a newer format; asks once for each.
    fn check(&self, namespace: &str) -> Result<()> {
        let known = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(namespace) {
            return Ok(());
        }
        if let Some(properties) = self.properties(namespace)? {
            if let Some(value) = properties.get(FORMAT_PROPERTY) {
                check_format(namespace, value)?;
            }
            known().insert(namespace.to_owned());
        }
        Ok(())
    }

    fn pages<T: serde::de::DeserializeOwned>(&self, path: &str) -> Answer<Vec<T>> {
        let mut page: Page<T> = self.client.get(path)?;
        let mut all = std::mem::take(&mut page.items);
        while let Some(token) = page.next_page_token.take().filter(|token| !token.is_empty()) {
            let token: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
            page = self.client.get(&format!("{path}?pageToken={token}"))?;
            all.append(&mut page.items);
        }
        Ok(all)
    }

    /// Sends requirements and updates.
    fn commit(&self, table: &TableName, requirements: Value, updates: Value) -> Answer<TableAnswer> {
        let body = json!({
            "identifier": { "namespace": [table.namespace], "name": table.name },
            "requirements": requirements,
            "updates": updates,
        });
        let path = self.table_path(table);
        faults::step(Stage::Swap, "commit", std::path::Path::new(&path), || Ok(self.client.post(&path, &body)))
            .unwrap_or_else(|e| {
                Err(Failure::Lost(Error::unavailable(format!("cannot write the catalog: {e}")).cause(e)))
            })
    }
}

/// The answer, or none where the server says that there is no such thing.
fn found<T>(answer: Answer<T>) -> Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Failure::Refused(404, error)) if error.to_string().contains("no reason is given") => {
            Err(error.hint("is `uri` of [catalog] the address of an Iceberg REST catalog?"))
        }
        Err(Failure::Refused(404, _)) => Ok(None),
        Err(failure) => Err(failure.error()),
    }
}

/// What must hold of the table for a change that was decided on `base`.
fn requirements(base: &Table) -> Result<Vec<TableRequirement>> {
    let metadata = base.metadata();
    let mut all = vec![
        TableRequirement::UuidMatch { uuid: metadata.uuid() },
        TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: metadata.last_column_id() },
        TableRequirement::CurrentSchemaIdMatch { current_schema_id: metadata.current_schema_id() },
        TableRequirement::LastAssignedPartitionIdMatch { last_assigned_partition_id: metadata.last_partition_id() },
        TableRequirement::DefaultSpecIdMatch { default_spec_id: metadata.default_partition_spec_id() },
        TableRequirement::DefaultSortOrderIdMatch { default_sort_order_id: metadata.default_sort_order_id() },
    ];
    let refs = base.refs()?;
    if !refs.contains_key("main") {
        all.push(TableRequirement::RefSnapshotIdMatch { r#ref: "main".into(), snapshot_id: None });
    }
    all.extend(refs.into_iter().map(|(name, reference)| TableRequirement::RefSnapshotIdMatch {
        r#ref: name,
        snapshot_id: Some(reference.snapshot_id),
    }));
    Ok(all)
}

/// A new table's metadata as updates of nothing.
fn creation(metadata: &TableMetadata) -> serde_json::Result<Value> {
    Ok(json!([
        { "action": "assign-uuid", "uuid": metadata.uuid() },
        { "action": "upgrade-format-version", "format-version": 2 },
        { "action": "add-schema", "schema": serde_json::to_value(metadata.current_schema().as_ref())?,
          "last-column-id": metadata.last_column_id() },
        { "action": "set-current-schema", "schema-id": -1 },
        { "action": "add-spec", "spec": serde_json::to_value(metadata.default_partition_spec().as_ref())? },
        { "action": "set-default-spec", "spec-id": -1 },
        { "action": "add-sort-order", "sort-order": serde_json::to_value(metadata.default_sort_order().as_ref())? },
        { "action": "set-default-sort-order", "sort-order-id": -1 },
        { "action": "set-location", "location": metadata.location() },
        { "action": "set-properties", "updates": metadata.properties() },
    ]))
}

/// The updates with the schemas and partition specs as the next metadata has
/// them. Some servers give numbers to those without, others insist on them.
fn numbered(updates: &[TableUpdate], base: &TableMetadata, next: &TableMetadata) -> serde_json::Result<Value> {
    let known: HashSet<i32> = base.schemas_iter().map(|schema| schema.schema_id()).collect();
    let mut schemas: Vec<_> = next.schemas_iter().filter(|schema| !known.contains(&schema.schema_id())).collect();
    schemas.sort_by_key(|schema| schema.schema_id());
    let known: HashSet<i32> = base.partition_specs_iter().map(|spec| spec.spec_id()).collect();
    let mut specs: Vec<_> = next.partition_specs_iter().filter(|spec| !known.contains(&spec.spec_id())).collect();
    specs.sort_by_key(|spec| spec.spec_id());
    let (mut schemas, mut specs) = (schemas.into_iter(), specs.into_iter());
    let mut updates = serde_json::to_value(updates)?;
    for update in updates.as_array_mut().into_iter().flatten() {
        // One that the table has already is its current one from then on.
        if update["action"] == "add-schema" {
            let schema = schemas.next().unwrap_or(next.current_schema());
            update["schema"] = serde_json::to_value(schema.as_ref())?;
            update["last-column-id"] = next.last_column_id().into();
        } else if update["action"] == "add-spec" {
            let spec = specs.next().unwrap_or(next.default_partition_spec());
            update["spec"] = serde_json::to_value(spec.as_ref())?;
        }
    }
    Ok(updates)
}

fn no_json(error: impl fmt::Display) -> Error {
    Error::internal(format!("a change of a table has no JSON form: {error}"))
}

/// What an answer to a change means.
fn outcome(answer: Answer<TableAnswer>) -> Swap {
    match answer {
        Ok(answer) => Swap::Done(Some(Box::new(answer.into()))),
        Err(Failure::Refused(404 | 409, _)) => Swap::Conflict,
        Err(Failure::Refused(408 | 429, error)) | Err(Failure::Lost(error)) => Swap::Unknown(error),
        Err(Failure::Refused(_, error)) => Swap::Refused(error),
    }
}

impl Catalog for RestCatalog {
    fn writes_metadata(&self) -> bool {
        true
    }

    fn namespaces(&self) -> Result<BTreeMap<String, HashMap<String, String>>> {
        let names: Vec<Vec<String>> = self.pages(&self.client.path(&["namespaces"])).map_err(Failure::error)?;
        // Tables have one level of namespace here.
        let names = names.into_iter().filter(|levels| levels.len() == 1).flatten();
        Ok(names.map(|name| (name, HashMap::new())).collect())
    }

    fn has_namespace(&self, namespace: &str) -> Result<bool> {
        Ok(self.properties(namespace)?.is_some())
    }

    fn ensure_namespace(&self, namespace: &str) -> Result<()> {
        let format = FORMAT.to_string();
        if let Some(properties) = self.properties(namespace)? {
            if let Some(value) = properties.get(FORMAT_PROPERTY) {
                return check_format(namespace, value);
            }
            let body = json!({ "removals": [], "updates": { FORMAT_PROPERTY: format } });
            let path = self.client.path(&["namespaces", namespace, "properties"]);
            return match self.client.change(&Method::POST, &path, Some(&body)) {
                // A server need not let anybody set properties.
                Ok(()) | Err(Failure::Refused(400..=422, _)) => Ok(()),
                Err(failure) => Err(failure.error()),
            };
        }
        let body = json!({ "namespace": [namespace], "properties": { FORMAT_PROPERTY: format } });
        match self.client.change(&Method::POST, &self.client.path(&["namespaces"]), Some(&body)) {
            Ok(()) | Err(Failure::Refused(409, _)) => Ok(()),
            Err(failure) => match self.properties(namespace) {
                // Made after all, by an answer that got lost or by somebody else.
                Ok(Some(_)) => Ok(()),
                _ => Err(failure.error()),
            },
        }
    }

    fn tables(&self) -> Result<Vec<TableName>> {
        let mut names = Vec::new();
        for namespace in self.namespaces()?.into_keys() {
            let path = self.client.path(&["namespaces", &namespace, "tables"]);
            // A namespace that went away meanwhile has none.
            let tables: Vec<Identifier> = found(self.pages(&path))?.unwrap_or_default();
            names.extend(
                tables
                    .into_iter()
                    .filter(|t| t.namespace.len() == 1)
                    .map(|table| TableName { namespace: namespace.clone(), name: table.name }),
            );
        }
        names.sort();
        Ok(names)
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        self.check(&table.namespace)?;
        let answer: Answer<TableAnswer> = self.client.get(&self.table_path(table));
        Ok(found(answer)?.map(Loaded::from))
    }

    fn draft(&self, new: &NewTable, metadata: &TableMetadata) -> Result<Option<Loaded>> {
        self.ensure_namespace(&new.name.namespace)?;
        let mut properties = metadata.properties().clone();
        properties.insert("format-version".into(), "2".into());
        let mut body = json!({
            "name": new.name.name,
            "schema": serde_json::to_value(metadata.current_schema().as_ref()).map_err(no_json)?,
            "partition-spec": serde_json::to_value(metadata.default_partition_spec().as_ref()).map_err(no_json)?,
            "stage-create": true,
            "properties": properties,
        });
        if new.location.is_some() {
            body["location"] = metadata.location().into();
        }
        let path = self.client.path(&["namespaces", &new.name.namespace, "tables"]);
        let answer: Answer<TableAnswer> = self.client.post(&path, &body);
        answer.map(|answer| Some(answer.into())).map_err(Failure::error)
    }

    fn create(&self, table: &TableName, next: Next<'_>) -> Swap {
        match creation(next.metadata) {
            Ok(updates) => outcome(self.commit(table, json!([{ "type": "assert-create" }]), updates)),
            Err(error) => Swap::Refused(no_json(error)),
        }
    }

    fn swap(&self, base: &Table, next: Next<'_>) -> Swap {
        let bodies = requirements(base).and_then(|requirements| {
            let requirements = serde_json::to_value(requirements).map_err(no_json)?;
            let updates = numbered(next.updates, base.metadata(), next.metadata).map_err(no_json)?;
            Ok((requirements, updates))
        });
        let (requirements, updates) = match bodies {
            Ok(bodies) => bodies,
            Err(error) => return Swap::Refused(error),
        };
        match outcome(self.commit(base.name(), requirements, updates)) {
            // Servers refuse some changes to a base that has moved as wrong in
            // themselves, a sequence number that is too small for example.
            Swap::Refused(error) if error.kind() == ErrorKind::Invalid => match self.load(base.name()) {
                Ok(Some(now)) if now.location != base.metadata_location() => Swap::Conflict,
                _ => Swap::Refused(error),
            },
            Swap::Done(Some(loaded)) => match answer::left_out(next.updates, &loaded) {
                Ok(left_out) if left_out.is_empty() => Swap::Done(Some(loaded)),
                Ok(left_out) => Swap::Refused(
                    Error::invalid(format!(
                        "the catalog at `{}` answered a change of table `{}` and left out {}",
                        self.client.address(),
                        base.name(),
                        left_out.join(", ")
                    ))
                    .hint(answer::hint(&loaded)),
                ),
                Err(error) => Swap::Refused(error),
            },
            other => other,
        }
    }

    fn rename(&self, from: &TableName, to: &TableName) -> Swap {
        let name = |table: &TableName| json!({ "namespace": [table.namespace], "name": table.name });
        let body = json!({ "source": name(from), "destination": name(to) });
        match self.client.change(&Method::POST, &self.client.path(&["tables", "rename"]), Some(&body)) {
            Ok(()) => Swap::Done(None),
            Err(Failure::Refused(404 | 409, _)) => Swap::Conflict,
            Err(Failure::Refused(_, error)) => Swap::Refused(error),
            Err(Failure::Lost(error)) => Swap::Unknown(error),
        }
    }

    fn drop_table(&self, table: &TableName) -> Result<bool> {
        let path = format!("{}?purgeRequested=false", self.table_path(table));
        found(self.client.change(&Method::DELETE, &path, None)).map(|dropped| dropped.is_some())
    }
}
