//! What a power loss takes: the content of files that was not fsynced, and
//! what happened in directories that were not. Each such thing is lost or not
//! on its own, as a seed says; 0 loses all of them.
//!
//! A moved file is under one of its two names: file systems with a journal
//! move in one step.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// What is not durable yet, in the order in which it was done.
struct Pending {
    contents: Vec<PathBuf>,
    names: Vec<Name>,
    /// Folders in which removed files are remembered.
    watched: Vec<PathBuf>,
}

enum Name {
    Made(PathBuf),
    Removed(Removed),
    Moved { from: PathBuf, to: PathBuf },
}

/// A file as it was before it was removed.
pub(super) struct Removed {
    path: PathBuf,
    content: Vec<u8>,
    modified: SystemTime,
}

impl Name {
    /// Whether the name is in the directory, or in one below it that is gone:
    /// without its own name nothing in that one is left.
    fn is_in(&self, directory: &Path) -> bool {
        let inside = |path: &Path| {
            path.parent()
                .is_some_and(|parent| parent == directory || (parent.starts_with(directory) && !parent.exists()))
        };
        match self {
            Self::Made(path) => inside(path),
            Self::Removed(removed) => inside(&removed.path),
            Self::Moved { from, to } => inside(from) || inside(to),
        }
    }

    fn is_below(&self, folder: &Path) -> bool {
        match self {
            Self::Made(path) => path.starts_with(folder),
            Self::Removed(removed) => removed.path.starts_with(folder),
            Self::Moved { from, .. } => from.starts_with(folder),
        }
    }

    fn undo(self) {
        match self {
            // Without its name nothing leads to what is in a directory.
            Self::Made(path) => drop(fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path))),
            Self::Removed(removed) if !removed.path.exists() => {
                make_folder_of(&removed.path);
                let _ = fs::write(&removed.path, &removed.content);
                let _ = fs::File::open(&removed.path).and_then(|file| file.set_modified(removed.modified));
            }
            Self::Moved { from, to } if to.exists() && !from.exists() => {
                make_folder_of(&from);
                let _ = fs::rename(to, from);
            }
            _ => {}
        }
    }
}

fn make_folder_of(path: &Path) {
    if let Some(folder) = path.parent() {
        let _ = fs::create_dir_all(folder);
    }
}

static PENDING: Mutex<Pending> = Mutex::new(Pending { contents: Vec::new(), names: Vec::new(), watched: Vec::new() });

fn pending() -> MutexGuard<'static, Pending> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on files removed below the folder come back at a power loss, until
/// their directory is fsynced.
pub fn watch(folder: &Path) {
    pending().watched.push(folder.to_owned());
}

/// Forgets what is not durable below the folder, which goes away.
pub fn forget(folder: &Path) {
    let mut pending = pending();
    pending.contents.retain(|path| !path.starts_with(folder));
    pending.names.retain(|name| !name.is_below(folder));
    pending.watched.retain(|path| path != folder);
}

/// A file was created, its content and its name not yet durable.
pub fn file_created(path: &Path) {
    let mut pending = pending();
    pending.contents.push(path.to_owned());
    pending.names.push(Name::Made(path.to_owned()));
}

/// A folder was created, its name not yet durable.
pub fn folder_created(path: &Path) {
    pending().names.push(Name::Made(path.to_owned()));
}

/// A file has another name, not yet durably.
pub fn file_moved(from: &Path, to: &Path) {
    pending().names.push(Name::Moved { from: from.to_owned(), to: to.to_owned() });
}

/// A file as it is before it is removed, if it may come back.
pub(super) fn about_to_remove(path: &Path) -> Option<Removed> {
    if !pending().watched.iter().any(|folder| path.starts_with(folder)) {
        return None;
    }
    let modified = fs::metadata(path).and_then(|facts| facts.modified()).ok()?;
    Some(Removed { path: path.to_owned(), content: fs::read(path).ok()?, modified })
}

/// A file was removed, its name not yet durably.
pub(super) fn removed(file: Option<Removed>) {
    if let Some(file) = file {
        pending().names.push(Name::Removed(file));
    }
}

/// A file's content is durable.
pub(super) fn file_synced(path: &Path) {
    pending().contents.retain(|known| known != path);
}

/// A directory's names are durable.
pub(super) fn directory_synced(path: &Path) {
    pending().names.retain(|name| !name.is_in(path));
}

/// Throws away what is not durable below a folder.
pub(super) fn lose(folder: &Path, seed: u64) {
    let (mut chance, mut pending) = (Chance(seed), pending());
    let contents = std::mem::take(&mut pending.contents);
    let (lost, kept): (Vec<_>, Vec<_>) = contents.into_iter().partition(|path| path.starts_with(folder));
    pending.contents = kept;
    lost.iter().for_each(|path| tear(path, &mut chance));
    let names = std::mem::take(&mut pending.names);
    let (lost, kept): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.is_below(folder));
    pending.names = kept;
    for name in lost.into_iter().rev() {
        if chance.below(2) == 0 {
            name.undo();
        }
    }
}

/// Content that was not fsynced: whole, cut, empty, or zeros from some byte on.
fn tear(path: &Path, chance: &mut Chance) {
    let Ok(bytes) = fs::metadata(path).map(|facts| facts.len()) else { return };
    let Ok(mut file) = fs::OpenOptions::new().write(true).open(path) else { return };
    let half = bytes / 2;
    let _ = match chance.below(5) {
        0 => file.set_len(half),
        1 => Ok(()),
        2 => file.set_len(0),
        3 => file.set_len(chance.below(bytes + 1)),
        _ => file.seek(SeekFrom::Start(half)).and_then(|_| file.write_all(&vec![0; (bytes - half) as usize])),
    };
}

/// Numbers from a seed; only zeros from 0.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        if self.0 == 0 {
            return 0;
        }
        // Xorshift: never zero again.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n.max(1)
    }
}
