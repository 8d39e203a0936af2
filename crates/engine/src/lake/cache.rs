//! Parsed metadata files, by location: a file never changes, and a run reads
//! the same one several times.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use iceberg::spec::TableMetadataRef;

use super::storage;

/// Files that are kept; the one that was not used for longest goes first.
const KEPT: usize = 32;

/// Shared by all clones.
#[derive(Debug, Clone, Default)]
pub struct MetadataCache {
    files: Arc<Mutex<VecDeque<Parsed>>>,
}

#[derive(Debug)]
struct Parsed {
    location: String,
    state: Option<State>,
    metadata: TableMetadataRef,
}

/// A file that somebody replaced or cut all the same is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    bytes: u64,
    modified: SystemTime,
}

impl State {
    /// Of a local file that is there; objects of stores are never replaced.
    pub(super) fn of(location: &str) -> Option<Self> {
        if !storage::is_local(location) {
            return None;
        }
        let file = std::fs::metadata(storage::local_path(location)).ok()?;
        Some(Self { bytes: file.len(), modified: file.modified().ok()? })
    }
}

impl MetadataCache {
    /// What the file says, if it was parsed and is as it was.
    pub fn get(&self, location: &str) -> Option<TableMetadataRef> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.iter().position(|file| file.location == location).and_then(|at| files.remove(at))?;
        if State::of(location) != file.state {
            return None;
        }
        let metadata = file.metadata.clone();
        files.push_front(file);
        Some(metadata)
    }

    /// Keeps what a file says.
    pub fn put(&self, location: &str, metadata: TableMetadataRef) {
        let state = State::of(location);
        if state.is_none() && storage::is_local(location) {
            return;
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|file| file.location != location);
        files.push_front(Parsed { location: location.to_owned(), state, metadata });
        files.truncate(KEPT);
    }
}
