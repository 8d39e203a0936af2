//! What streams remember of an entity: the windows in their checkpoints, the
//! alerts that were told, the samples of keys.
//!
//! The snapshots of a prediction table name the files of the windows. Those
//! that a tag or branch leads to get a file without the entity in the place of
//! each chain that holds it; older ones lose the name of such a chain, so that a
//! stream which is rolled back to them builds its windows from the source.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use insightera_core::stream::Key;
use serde_json::{Value, json};

use crate::config::PipelineKind;
use crate::key::{KeyHash, Keys};
use crate::lake::erase::Entity;
use crate::lake::{Table, TableName, keys};
use crate::stream::{Program, WindowFiles};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// A partition, and the files that its windows are in.
type Chain = (u32, Vec<String>);

/// One stream of the entity.
#[derive(Debug)]
struct Stream {
    name: String,
    table: TableName,
    program: Arc<Program>,
    files: WindowFiles,
    /// By column of the entity's key: its encoding.
    parts: BTreeMap<String, Vec<u8>>,
    /// What alerts remember the entity by.
    hash: KeyHash,
    /// The file that replaces those of a chain.
    rewritten: RefCell<BTreeMap<Chain, Option<String>>>,
}

/// The streams of a project that may remember an entity.
#[derive(Debug, Default)]
pub struct Streams(Vec<Stream>);

impl Streams {
    /// The streams that are keyed by the entity's columns. One that cannot be
    /// planned any more has no windows to go on with either, and is told.
    pub async fn read(workspace: &Workspace, entity: &Entity, told: &dyn Fn(&str)) -> Result<Self> {
        let mut streams = Vec::new();
        for name in super::pipelines(workspace, entity) {
            if !matches!(workspace.project().kind(&name), Ok(PipelineKind::Stream)) {
                continue;
            }
            match Program::new(workspace, &name).await {
                Ok(program) => streams.extend(Stream::new(workspace, &name, program, entity)?),
                Err(error) => told(&format!("the windows of stream `{name}` cannot be read: {error}")),
            }
        }
        Ok(Self(streams))
    }

    /// Takes the entity out of what the metadata of a table says of its
    /// streams. Answers whether it was there.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn edit(&self, table: &TableName, metadata: &mut Value) -> Result<bool> {
        let mut changed = false;
        for stream in self.0.iter().filter(|stream| stream.table == *table) {
            changed |= stream.edit(metadata)?;
        }
        Ok(changed)
    }

    /// Files of windows that hold the entity and that the table does not name
    /// any more.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn leftovers(&self, table: &Table) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for stream in self.0.iter().filter(|stream| stream.table == *table.name()) {
            let metadata = serde_json::to_value(table.metadata())
                .map_err(|e| Error::internal(format!("the metadata of table `{}`: {e}", table.name())))?;
            let named: BTreeSet<String> = stream.chains(&metadata)?.into_iter().flat_map(|(_, files)| files).collect();
            for (name, location) in stream.files.all()? {
                if !named.contains(&name) && stream.holds(&name)? {
                    found.push(location);
                }
            }
        }
        Ok(found)
    }
}

impl Stream {
    /// `None` where no event can have the key.
    fn new(workspace: &Workspace, name: &str, program: Program, entity: &Entity) -> Result<Option<Self>> {
        let mut parts = BTreeMap::new();
        let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
        for (column, value) in entity.columns.iter().zip(&entity.values) {
            let field = program.event_schema.field_with_name(column);
            let field = field.map_err(|e| Error::internal(format!("stream `{name}`: {e}")))?;
            let text: ArrayRef = Arc::new(StringArray::from(vec![value.as_str()]));
            let strict = CastOptions { safe: false, ..Default::default() };
            let Ok(array) = cast_with_options(&text, field.data_type(), &strict) else { return Ok(None) };
            columns.push((column, array.clone()));
            parts.insert(column.clone(), encoded(&[(column, array)], std::slice::from_ref(column))?);
        }
        let batch = batch(&columns)?;
        let hash = Keys::new(&batch, &program.pipeline.entity_key)?.hashes().first().copied().unwrap_or_default();
        let files = WindowFiles::new(workspace.lake(), name);
        let (table, rewritten) = (program.table(), RefCell::default());
        Ok(Some(Self { name: name.to_owned(), table, program: Arc::new(program), files, parts, hash, rewritten }))
    }

    fn edit(&self, metadata: &mut Value) -> Result<bool> {
        let heads = self.heads(metadata);
        let mut changed = false;
        for snapshot in metadata["snapshots"].as_array_mut().into_iter().flatten() {
            let id = snapshot["snapshot-id"].as_i64().unwrap_or_default();
            let ours = snapshot["summary"][keys::PIPELINE].as_str() == Some(self.name.as_str());
            if let Some(summary) = snapshot["summary"].as_object_mut().filter(|_| ours) {
                changed |= self.edit_summary(summary, "", heads.contains(&id))?;
            }
        }
        let property = keys::progress(&self.name);
        let mirror = metadata["properties"][&property].as_str().map(serde_json::from_str::<Value>);
        if let Some(Ok(Value::Object(mut mirror))) = mirror
            && self.edit_summary(&mut mirror, "insightera.", true)?
        {
            metadata["properties"][&property] = json!(Value::Object(mirror).to_string());
            changed = true;
        }
        Ok(changed)
    }

    /// Changes one summary; the names of its keys are without `prefix`.
    fn edit_summary(&self, summary: &mut serde_json::Map<String, Value>, prefix: &str, head: bool) -> Result<bool> {
        let short = |key: &'static str| key.strip_prefix(prefix).unwrap_or(key);
        let key = short(keys::CHECKPOINT);
        let Some(text) = summary.get(key).and_then(Value::as_str) else { return Ok(false) };
        let chains = parsed(text)?;
        let mut kept = BTreeMap::new();
        let mut changed = false;
        for (partition, files) in chains {
            if !files.iter().map(|name| self.holds(name)).collect::<Result<Vec<_>>>()?.contains(&true) {
                kept.insert(partition, files);
                continue;
            }
            changed = true;
            if head && let Some(new) = self.rewrite(partition, files)? {
                kept.insert(partition, vec![new]);
            }
        }
        if changed {
            if kept.is_empty() {
                summary.remove(key);
            } else {
                summary.insert(key.to_owned(), json!(json!(kept).to_string()));
            }
            // The next commit says anew which keys its partitions have.
            summary.remove(short(keys::KEY_SAMPLE));
        }
        Ok(changed)
    }

    /// The snapshots that say where the stream is, for each tag and branch.
    fn heads(&self, metadata: &Value) -> BTreeSet<i64> {
        let snapshots: HashMap<i64, &Value> = metadata["snapshots"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|snapshot| Some((snapshot["snapshot-id"].as_i64()?, snapshot)))
            .collect();
        let mut heads = BTreeSet::new();
        for reference in metadata["refs"].as_object().into_iter().flat_map(|refs| refs.values()) {
            let mut next = reference["snapshot-id"].as_i64();
            let mut seen = BTreeSet::new();
            while let Some(id) = next.filter(|id| seen.insert(*id)) {
                let Some(snapshot) = snapshots.get(&id) else { break };
                let summary = &snapshot["summary"];
                if summary[keys::PIPELINE].as_str() == Some(&self.name) && summary.get(keys::POSITIONS).is_some() {
                    heads.insert(id);
                    break;
                }
                next = snapshot["parent-snapshot-id"].as_i64();
            }
        }
        heads
    }

    /// All chains of files that the metadata names.
    fn chains(&self, metadata: &Value) -> Result<BTreeSet<Chain>> {
        let mut texts: Vec<String> = Vec::new();
        for snapshot in metadata["snapshots"].as_array().into_iter().flatten() {
            let summary = &snapshot["summary"];
            if summary[keys::PIPELINE].as_str() == Some(self.name.as_str()) {
                texts.extend(summary[keys::CHECKPOINT].as_str().map(str::to_owned));
            }
        }
        let mirror = metadata["properties"][keys::progress(&self.name)].as_str();
        if let Some(Ok(mirror)) = mirror.map(serde_json::from_str::<Value>) {
            texts.extend(mirror["checkpoint"].as_str().map(str::to_owned));
        }
        let mut chains = BTreeSet::new();
        for text in texts {
            chains.extend(parsed(&text)?);
        }
        Ok(chains)
    }

    /// Whether a file holds the entity; one that is gone does not.
    fn holds(&self, name: &str) -> Result<bool> {
        let Some(bytes) = self.files.read(name)? else { return Ok(false) };
        let has = |wanted: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
        Ok(self.parts.values().all(|part| has(part)) || has(&self.hash.to_le_bytes()))
    }

    /// One file without the entity in the place of several; `None` where they
    /// cannot be read any more.
    fn rewrite(&self, partition: u32, files: Vec<String>) -> Result<Option<String>> {
        if let Some(known) = self.rewritten.borrow().get(&(partition, files.clone())) {
            return Ok(known.clone());
        }
        let key_columns = self.program.windows.as_ref().map(|windows| windows.keys()).unwrap_or_default();
        let gone = |kind: usize, key: Key<'_>| {
            let (Some(columns), Key::Bytes(bytes)) = (key_columns.get(kind), key) else { return false };
            let parts = crate::key::parts(bytes);
            let part = |column: &String| columns.iter().position(|c| c == column).and_then(|at| parts.get(at)).copied();
            self.parts.iter().all(|(column, wanted)| part(column) == Some(wanted.as_slice()))
        };
        let new = self.files.without(&self.program, partition, &files, &gone, self.hash)?;
        self.rewritten.borrow_mut().insert((partition, files), new.clone());
        Ok(new)
    }
}

fn parsed(text: &str) -> Result<BTreeMap<u32, Vec<String>>> {
    serde_json::from_str(text)
        .map_err(|e| Error::data(format!("`{}` of a stream's commit is damaged: {e}", keys::CHECKPOINT)).cause(e))
}

fn batch(columns: &[(&str, ArrayRef)]) -> Result<RecordBatch> {
    RecordBatch::try_from_iter(columns.iter().cloned()).map_err(|e| Error::internal(format!("a key: {e}")).cause(e))
}

fn encoded(columns: &[(&str, ArrayRef)], key: &[String]) -> Result<Vec<u8>> {
    let mut encoded = Vec::new();
    Keys::new(&batch(columns)?, key)?.encode(0, &mut encoded);
    Ok(encoded)
}
