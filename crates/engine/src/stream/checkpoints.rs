//! The state of the windows in the warehouse, by partition: a base and its
//! increments, each a file with a name of its own, durable before the commit
//! that names it.
//!
//! The files are beside the tables, in `<warehouse>/_streams/<pipeline>`.
//! What no snapshot of the prediction table names any more is removed, a day
//! after it was written, when a stream starts.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use insightera_core::stream::Plan;
use uuid::Uuid;

use super::remembered::Remembered;
use super::states::{Checkpointed, PartitionState};
use super::windows::refused;
use crate::lake::commit::StreamState;
use crate::lake::durable;
use crate::lake::{Table, keys};
use crate::{Error, Result};

/// Increments after which a new base is written.
const INCREMENTS: usize = 20;
/// How old a file must be that nothing names.
const KEPT: Duration = Duration::from_secs(24 * 3600);

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
    folder: PathBuf,
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
    pub fn new(warehouse: &Path, pipeline: &str) -> Self {
        Self { folder: warehouse.join("_streams").join(pipeline), chains: BTreeMap::new() }
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
            let path = self.folder.join(name);
            let bytes = std::fs::read(&path).map_err(|e| durable::io_error("read", &path, e))?;
            read.push((path.display().to_string(), bytes));
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
    pub fn sweep(&self, table: &Table, pipeline: &str, state: &StreamState) -> Result<()> {
        if !self.folder.is_dir() {
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
        let entries = std::fs::read_dir(&self.folder).map_err(|e| durable::io_error("read folder", &self.folder, e))?;
        for entry in entries.flatten() {
            let old = entry.metadata().and_then(|meta| meta.modified()).ok();
            let old = old.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > KEPT);
            if old && entry.file_name().to_str().is_some_and(|name| !named.contains(name)) {
                // A file that stays takes space and nothing else.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// Writes states; answers the names of their files, durable.
///
/// # Errors
/// When the disk refuses.
pub fn write(warehouse: &Path, pipeline: &str, states: &[Pending]) -> Result<Vec<(u32, bool, String)>> {
    let folder = warehouse.join("_streams").join(pipeline);
    states
        .iter()
        .map(|state| {
            let kind = if state.base { "base" } else { "next" };
            let name = format!("{}-{}-{kind}.state", state.partition, Uuid::now_v7());
            durable::write_new(&folder.join(&name), &state.bytes)?;
            Ok((state.partition, state.base, name))
        })
        .collect()
}

/// The files of a pipeline's windows, for who erases an entity from them.
#[derive(Debug)]
pub struct WindowFiles {
    warehouse: PathBuf,
    pipeline: String,
}

impl WindowFiles {
    /// The files of `pipeline`.
    pub fn new(warehouse: &Path, pipeline: &str) -> Self {
        Self { warehouse: warehouse.to_owned(), pipeline: pipeline.to_owned() }
    }

    fn folder(&self) -> PathBuf {
        self.warehouse.join("_streams").join(&self.pipeline)
    }

    /// All files by name, whether or not a snapshot names them.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all(&self) -> Result<BTreeMap<String, PathBuf>> {
        let folder = self.folder();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(durable::io_error("read folder", &folder, error)),
        };
        let named = entries.flatten().filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
        Ok(named.collect())
    }

    /// The bytes of a file; `None` when it is gone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.folder().join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(durable::io_error("read", &path, error)),
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
        let checkpoints = Checkpoints::new(&self.warehouse, &self.pipeline);
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
        let written = write(&self.warehouse, &self.pipeline, &[Pending { partition, base: true, bytes }])?;
        Ok(written.into_iter().next().map(|(_, _, name)| name))
    }
}
