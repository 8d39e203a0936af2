//! Files by their location: local ones straight from the file system, objects
//! through the client of their store.

use std::path::PathBuf;

use bytes::Bytes;
use insightera_core::ErrorKind;

use crate::lake::storage::{self, Storage};

/// Reads files.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// The clients of the stores.
    pub storage: &'a Storage,
}

/// One spelling of a location: a local one is its path.
pub fn plain(location: &str) -> String {
    let location = location.trim_end_matches('/');
    if !storage::is_local(location) {
        return location.to_owned();
    }
    let path = location.strip_prefix("file:").unwrap_or(location);
    format!("/{}", path.trim_start_matches('/'))
}

impl Files<'_> {
    /// A file's bytes; `None` where there is none.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(self, location: &str) -> Result<Option<Bytes>, String> {
        if !storage::is_local(location) {
            return match self.storage.read(location) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.to_string()),
            };
        }
        match std::fs::read(plain(location)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A file that must be there.
    ///
    /// # Errors
    /// When it is not, or cannot be read.
    pub fn needed(self, location: &str) -> Result<Bytes, String> {
        self.read(location)
            .and_then(|found| found.ok_or_else(|| "there is no such file".to_owned()))
            .map_err(|e| format!("{location}: {e}"))
    }

    /// Every file below a folder; what cannot be listed is told.
    pub fn below(self, folder: &str, unreadable: &mut dyn FnMut(&str, String)) -> Vec<String> {
        if !storage::is_local(folder) {
            return match self.storage.list(folder) {
                Ok(found) => found.into_iter().map(|file| file.location).collect(),
                Err(error) => {
                    unreadable(folder, error.to_string());
                    Vec::new()
                }
            };
        }
        let (mut files, mut open) = (Vec::new(), vec![PathBuf::from(plain(folder))]);
        while let Some(path) = open.pop() {
            let text = path.to_string_lossy().into_owned();
            if !path.is_dir() {
                files.push(text);
                continue;
            }
            match std::fs::read_dir(&path) {
                Ok(entries) => open.extend(entries.flatten().map(|entry| entry.path())),
                Err(error) => unreadable(&text, error.to_string()),
            }
        }
        files
    }
}
