//! Durable local files: a file that a catalog pointer will name is written,
//! fsynced, and its directory fsynced, before the pointer moves.
//!
//! Every durable operation passes [`faults::step`], which numbers it. In a
//! product build that is an empty function; with the feature `faults` a test
//! can end the process before or after any one of them.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use insightera_core::ErrorKind;

use super::faults::{self, Bug, Stage};
use crate::{Error, Result};

/// Turns an I/O error into ours: which file, what was tried, and what to do.
pub fn io_error(action: &str, path: &Path, error: io::Error) -> Error {
    let (kind, hint) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, None),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Invalid, Some("give this user write access to the folder, or use another"))
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Unavailable, Some("free disk space and run again; nothing was committed"))
        }
        _ => (ErrorKind::Unavailable, None),
    };
    let new = Error::new(kind, format!("cannot {action} `{}`: {error}", path.display())).cause(error);
    match hint {
        Some(hint) => new.hint(hint),
        None => new,
    }
}

/// Folders whose own names are durable as far as this process knows, and which
/// folder that was.
static DURABLE: LazyLock<Mutex<HashMap<PathBuf, Identity>>> = LazyLock::new(Mutex::default);

/// A folder that was removed and made again is another one, by the same name:
/// its number, where there are numbers, and when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    number: (u64, u64),
    made: SystemTime,
}

impl Identity {
    /// `None` where the file system does not say when a folder was made.
    fn of(facts: &Metadata) -> Option<Self> {
        #[cfg(unix)]
        let number = (std::os::unix::fs::MetadataExt::dev(facts), std::os::unix::fs::MetadataExt::ino(facts));
        #[cfg(not(unix))]
        let number = (0, 0);
        Some(Self { number, made: facts.created().ok()? })
    }

    fn note(self, path: &Path) {
        DURABLE.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), self);
    }

    fn is_known(self, path: &Path) -> bool {
        DURABLE.lock().unwrap_or_else(PoisonError::into_inner).get(path) == Some(&self)
    }
}

/// Creates `path` and its missing parents, fsyncing each directory that got a
/// new entry. One that is there may be what a process made that ended before
/// it could do that: its name is made durable when it is first met.
pub fn create_dirs(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(facts) = fs::metadata(path).ok().filter(Metadata::is_dir) {
        let identity = Identity::of(&facts);
        if faults::bug(Bug::TrustFolders) || identity.is_some_and(|identity| identity.is_known(path)) {
            return Ok(());
        }
        if let Some(parent) = parent {
            match File::open(parent) {
                // Who may not read the parent has not made the folder.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                _ => sync_dir(parent)?,
            }
        }
        if let Some(identity) = identity {
            identity.note(path);
        }
        return Ok(());
    }
    if let Some(parent) = parent {
        create_dirs(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => faults::folder_created(path),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(io_error("create folder", path, e)),
    }
    let identity = fs::metadata(path).ok().as_ref().and_then(Identity::of);
    if let Some(parent) = parent {
        sync_dir(parent)?;
    }
    if let Some(identity) = identity {
        identity.note(path);
    }
    Ok(())
}

/// Fsyncs a directory, so that the names in it survive a power loss.
pub fn sync_dir(path: &Path) -> Result<()> {
    let result = faults::step(Stage::of(path), "fsync directory", path, || {
        File::open(path)?.sync_all().inspect(|()| faults::directory_synced(path))
    });
    result.map_err(|e| io_error("sync folder", path, e))
}

/// Fsyncs a directory and all below it; where it is gone, the one that it was in.
pub fn sync_tree(top: &Path) -> Result<()> {
    let Some(there) = top.ancestors().find(|path| path.is_dir()) else { return Ok(()) };
    sync_dir(there)?;
    let mut open = if there == top { vec![top.to_owned()] } else { Vec::new() };
    while let Some(next) = open.pop() {
        let wrong = |e| io_error("list", &next, e);
        for entry in fs::read_dir(&next).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            if entry.file_type().map_err(wrong)?.is_dir() {
                sync_dir(&entry.path())?;
                open.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Writes a new file whose name nobody else uses, and makes file and name
/// durable. Fails if it exists.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(path)?;
    file.write_all(bytes).map_err(|e| io_error("write", path, e))?;
    file.finish()?;
    sync_parent(path)
}

/// Replaces a file atomically: a reader sees the old content or the new.
/// Durable only where `durable` is set; caches do not need it.
pub fn replace(path: &Path, bytes: &[u8], durable: bool) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| io_error("create folder", parent, e))?;
    }
    let temporary = path.with_extension(format!("tmp-{}", uuid::Uuid::new_v4().simple()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        write_in_halves(&mut file, bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        // The temporary file is ours alone; leaving it would only waste space.
        let _ = fs::remove_file(&temporary);
        io_error("write", path, e)
    })?;
    if durable { sync_parent(path) } else { Ok(()) }
}

/// Copying into the page cache is slow enough for two threads to pay.
#[cfg(unix)]
fn write_in_halves(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    const WORTH_A_THREAD: usize = 8 << 20;
    if bytes.len() < WORTH_A_THREAD {
        return file.write_all(bytes);
    }
    let (front, back) = bytes.split_at(bytes.len() / 2);
    let file: &File = file;
    std::thread::scope(|scope| {
        let other = scope.spawn(|| file.write_all_at(back, front.len() as u64));
        let own = file.write_all_at(front, 0);
        own.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a writer ended early"))))
    })
}

#[cfg(not(unix))]
fn write_in_halves(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)
}

/// Fsyncs the directory that holds `path`.
pub fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// A new file being written. Dropped without [`NewFile::finish`] it stays on
/// disk, unreferenced: only maintenance deletes files.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl NewFile {
    /// Creates `path`, which must not exist, and its parents.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            create_dirs(parent)?;
        }
        let file = faults::step(Stage::of(path), "create", path, || {
            OpenOptions::new().write(true).create_new(true).open(path).inspect(|_| faults::file_created(path))
        })
        .map_err(|e| io_error("create", path, e))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::with_capacity(256 * 1024, file) })
    }

    /// Flushes and fsyncs the content. The name becomes durable with
    /// [`sync_parent`]; several files of one directory share that.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|e| io_error("write", &self.path, e))?;
        let (file, path) = (self.file.get_ref(), &self.path);
        faults::step(Stage::of(path), "fsync", path, || file.sync_all().inspect(|()| faults::file_synced(path)))
            .map_err(|e| io_error("sync", path, e))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Fsyncs every directory that holds one of `paths`, once.
pub fn sync_parents<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let parents: BTreeSet<&Path> = paths.into_iter().filter_map(Path::parent).collect();
    parents.into_iter().try_for_each(sync_dir)
}
