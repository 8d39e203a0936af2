//! The state of the windows in the warehouse, by partition: a base and its
//! increments, each a file with a name of its own, durable before the commit
//! that names it.
//!
//! The files are beside the tables, in `<warehouse>/_streams/<pipeline>`.
//! What no snapshot of the prediction table names any more is removed when a
//! stream starts, and while it runs: an hour after it was written if it is from
//! before the state that its partition has now, else after a day.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use insightera_core::ErrorKind;
use insightera_core::stream::Plan;
use uuid::Uuid;

use super::remembered::Remembered;
use super::states::{Checkpointed, PartitionState};
use super::windows::refused;
use crate::lake::commit::StreamState;
use crate::lake::storage::{self, Storage};
use crate::lake::{Lake, Table, keys};
use crate::{Error, Result};

/// Increments after which a new base is written.
const INCREMENTS: usize = 20;
/// How old a file must be that nothing names: one that a commit may still name,
/// and one from before the state that the partition has now.
const KEPT: Duration = Duration::from_secs(24 * 3600);
const REPLACED: Duration = Duration::from_secs(3600);

/// The state of a partition at a cut, to be written.
#[derive(Debug)]
pub struct Pending {
    /// The partition.
    pub partition: u32,
    /// Whether it stands alone.
    pub base: bool,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The folder of one pipeline, and what each partition has in it.
#[derive(Debug)]
pub struct Checkpoints {
    storage: Storage,
    folder: String,
    chains: BTreeMap<u32, Chain>,
}

#[derive(Debug, Default)]
struct Chain {
    increments: usize,
    base_bytes: usize,
    increment_bytes: usize,
}

impl Checkpoints {
    /// The checkpoints of `pipeline`.
    pub fn new(lake: &Lake, pipeline: &str) -> Self {
        Self { storage: lake.storage().clone(), folder: folder(lake, pipeline), chains: BTreeMap::new() }
    }

    /// Takes a partition's state at a cut: what changed, or all of it when
    /// increments are many or there is no base in this process.
    pub fn take(
        &mut self,
        partition: u32,
        mut windows: Option<&mut dyn Checkpointed>,
        mut remembered: Option<&mut Remembered>,
    ) -> Pending {
        let mut end = |base: bool, mut bytes: Vec<u8>| {
            if let Some(remembered) = &mut remembered {
                remembered.write(partition, base, &mut bytes);
            }
            Pending { partition, base, bytes }
        };
        let full = self
            .chains
            .get(&partition)
            .is_none_or(|chain| chain.increments >= INCREMENTS || chain.increment_bytes > chain.base_bytes);
        if !full && let Ok(bytes) = windows.as_mut().map_or(Ok(Vec::new()), |windows| windows.increment()) {
            let pending = end(false, bytes);
            let chain = self.chains.entry(partition).or_default();
            chain.increments += 1;
            chain.increment_bytes += pending.bytes.len();
            return pending;
        }
        let pending = end(true, windows.map_or_else(Vec::new, |windows| windows.checkpoint()));
        self.chains.insert(partition, Chain { base_bytes: pending.bytes.len(), ..Chain::default() });
        pending
    }

    /// Begins anew for a partition that is another process's now.
    pub fn forget(&mut self, partition: u32) {
        self.chains.remove(&partition);
    }

    /// The windows that a partition's files hold; alerts go to `remembered`.
    ///
    /// # Errors
    /// `NotFound` when a file is gone, `Data` when one is damaged.
    pub fn restore(
        &self,
        plan: Option<(&Arc<Plan>, bool)>,
        partition: u32,
        files: &[String],
        remembered: &mut Remembered,
    ) -> Result<Option<PartitionState>> {
        let mut read = Vec::new();
        for name in files {
            let location = storage::join(&self.folder, name);
            let bytes = self.storage.read(&location)?;
            read.push((location, bytes));
        }
        let mut windows = Vec::new();
        for (what, bytes) in &read {
            match remembered.read(partition, bytes, what) {
                Ok(bytes) => windows.push((what, bytes)),
                Err(error) => {
                    // Half of it would keep alerts back.
                    remembered.forget(partition);
                    return Err(error);
                }
            }
        }
        let Some((plan, on_close)) = plan else { return Ok(None) };
        let mut state: Option<PartitionState> = None;
        for (what, bytes) in windows {
            let next = match state {
                None => PartitionState::restore(plan, on_close, bytes),
                Some(state) => state.apply(bytes),
            };
            state = Some(next.map_err(|e| refused(e, what))?);
        }
        Ok(state)
    }

    /// Removes old files that neither the stream's state nor a snapshot names.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn sweep(&self, table: &Table, pipeline: &str, state: &StreamState, now_ms: i64) -> Result<()> {
        let files = self.storage.list(&self.folder)?;
        if files.is_empty() {
            return Ok(());
        }
        let mut named: HashSet<String> = state.checkpoints.values().flatten().cloned().collect();
        for snapshot in table.metadata().snapshots() {
            let summary = &snapshot.summary().additional_properties;
            if summary.get(keys::PIPELINE).is_some_and(|name| name == pipeline)
                && let Some(text) = summary.get(keys::CHECKPOINT)
            {
                let files: BTreeMap<u32, Vec<String>> = serde_json::from_str(text).map_err(|e| {
                    Error::data(format!("`{}` of table `{}` is damaged", keys::CHECKPOINT, table.name())).cause(e)
                })?;
                named.extend(files.into_values().flatten());
            }
        }
        let written = |name: &str| Some((partition_of(name)?, written_at(name)?));
        let bases = state.checkpoints.values().filter_map(|files| written(files.first()?));
        let bases: BTreeMap<u32, u64> = bases.collect();
        for file in files {
            let age = now_ms.saturating_sub(file.modified_ms);
            let name = file.location.rsplit('/').next().unwrap_or_default();
            // Who commits later names files that it wrote after those.
            let replaced = written(name).is_some_and(|(partition, at)| bases.get(&partition).is_some_and(|b| at < *b));
            let kept = if replaced { REPLACED } else { KEPT };
            if age > kept.as_millis() as i64 && !named.contains(name) {
                // A file that stays takes space and nothing else.
                let _ = self.storage.remove(&file.location);
            }
        }
        Ok(())
    }
}

/// The partition in a file's name.
fn partition_of(name: &str) -> Option<u32> {
    name.split('-').next()?.parse().ok()
}

/// When a file was named, milliseconds since the epoch.
fn written_at(name: &str) -> Option<u64> {
    let (_, rest) = name.split_once('-')?;
    let (seconds, nanos) = Uuid::parse_str(rest.get(..36)?).ok()?.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanos) / 1_000_000)
}

fn folder(lake: &Lake, pipeline: &str) -> String {
    format!("{}/_streams/{pipeline}", lake.warehouse())
}

/// Writes states; answers the names of their files, durable.
///
/// # Errors
/// When the disk refuses.
pub fn write(lake: &Lake, pipeline: &str, states: &[Pending]) -> Result<Vec<(u32, bool, String)>> {
    let folder = folder(lake, pipeline);
    states
        .iter()
        .map(|state| {
            let kind = if state.base { "base" } else { "next" };
            let name = format!("{}-{}-{kind}.state", state.partition, Uuid::now_v7());
            lake.storage().write_new(&storage::join(&folder, &name), &state.bytes)?;
            Ok((state.partition, state.base, name))
        })
        .collect()
}

/// The files of a pipeline's windows, for who erases an entity from them.
#[derive(Debug)]
pub struct WindowFiles {
    lake: Lake,
    pipeline: String,
}

impl WindowFiles {
    /// The files of `pipeline`.
    pub fn new(lake: &Lake, pipeline: &str) -> Self {
        Self { lake: lake.clone(), pipeline: pipeline.to_owned() }
    }

    /// All files by name, whether or not a snapshot names them.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all(&self) -> Result<BTreeMap<String, String>> {
        let files = self.lake.storage().list(&folder(&self.lake, &self.pipeline))?;
        let name = |location: &str| location.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(files.into_iter().map(|file| (name(&file.location), file.location)).collect())
    }

    /// The bytes of a file; `None` when it is gone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self.lake.storage().read(&storage::join(&folder(&self.lake, &self.pipeline), name)) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the state of a chain of files without some keys and without what
    /// alerts remember of an entity. Answers the new file's name, or `None`
    /// where the windows were declared otherwise since, or a file is gone.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn without(
        &self,
        program: &super::program::Program,
        partition: u32,
        files: &[String],
        gone: &dyn Fn(usize, insightera_core::stream::Key<'_>) -> bool,
        entity: crate::key::KeyHash,
    ) -> Result<Option<String>> {
        let mut remembered = Remembered::new(program.remembers_as());
        let plan = program.windows.as_ref().map(|windows| (&windows.plan, program.on_close()));
        let checkpoints = Checkpoints::new(&self.lake, &self.pipeline);
        let Ok(state) = checkpoints.restore(plan, partition, files, &mut remembered) else { return Ok(None) };
        let mut bytes = Vec::new();
        if let Some(mut state) = state {
            state.forget(gone);
            bytes = state.checkpoint();
        }
        remembered.forget_entity(entity);
        if program.remembers() {
            remembered.write(partition, true, &mut bytes);
        }
        let written = write(&self.lake, &self.pipeline, &[Pending { partition, base: true, bytes }])?;
        Ok(written.into_iter().next().map(|(_, _, name)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_of_which_partition_a_file_is_and_when_it_was_written() {
        let name = "12-019ad5c8-7d3a-7c2f-9a51-2f1d1c7a9e44-base.state";
        assert_eq!((partition_of(name), written_at(name)), (Some(12), Some(0x019a_d5c8_7d3a)));
        for other in ["x", "12-", "12-019ad5c8-base.state", "a-019ad5c8-7d3a-7c2f-9a51-2f1d1c7a9e44-base.state"] {
            assert!(partition_of(other).and(written_at(other)).is_none(), "{other}");
        }
    }
}
