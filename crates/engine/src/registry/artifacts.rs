//! Artifact files in `artifacts/SHA256/`, written so that they survive a crash
//! and read so that damage is noticed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use insightera_infer::Artifact;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{Error, Result};

/// The folder of all artifacts.
#[derive(Debug)]
pub(super) struct ArtifactFolder {
    root: PathBuf,
}

/// One file of an artifact, as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredFile {
    /// Its path in the artifact, with `/`.
    pub(super) path: String,
    /// Its size.
    pub(super) bytes: u64,
    /// Its own SHA-256.
    pub(super) sha256: String,
}

/// The files of `artifact`, after a check that their names stay inside it.
pub(super) fn describe(artifact: &Artifact) -> Result<Vec<StoredFile>> {
    if artifact.files().is_empty() {
        return Err(Error::invalid("the model artifact has no files"));
    }
    let mut files = Vec::with_capacity(artifact.files().len());
    for (path, bytes) in artifact.files() {
        if !stays_inside(path) {
            let message = format!("the model artifact has a file with the path `{}`", path.escape_debug());
            return Err(Error::invalid(message).hint("paths in an artifact are relative and have no `..`"));
        }
        files.push(StoredFile { path: path.clone(), bytes: bytes.len() as u64, sha256: sha256_hex(bytes) });
    }
    Ok(files)
}

/// Relative, of normal parts only, and the same for every system.
fn stays_inside(path: &str) -> bool {
    let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    normal && !path.is_empty() && !path.ends_with('/') && !path.contains(['\\', '\0', ':']) && !path.contains("//")
}

impl ArtifactFolder {
    /// The folder `root`; made by the first [`ArtifactFolder::store`].
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the files of an artifact are.
    pub(super) fn path_of(&self, sha256: &str) -> PathBuf {
        self.root.join(sha256)
    }

    /// Whether no artifact was ever stored.
    pub(super) fn is_empty(&self) -> bool {
        let Ok(mut entries) = fs::read_dir(&self.root) else { return true };
        !entries.any(|entry| entry.is_ok_and(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")))
    }

    /// Puts the artifact in place: written beside, synced, renamed. An intact
    /// artifact that is there already is kept, a damaged one is set aside.
    pub(super) fn store(&self, sha256: &str, artifact: &Artifact, files: &[StoredFile]) -> Result<()> {
        let unwritable = |error: io::Error| unwritable(&self.root, error);
        create_folder(&self.root).map_err(unwritable)?;
        if self.is_intact(sha256, files) {
            // Whoever wrote it may not have reached the sync of the folder.
            return sync_folder(&self.root).map_err(unwritable);
        }
        let beside = self.root.join(format!(".new-{}", Uuid::new_v4().simple()));
        let written = write_all(&beside, artifact).and_then(|()| self.put(sha256, files, &beside));
        if let Err(error) = written {
            // Ours alone, and nobody knows its name: what cannot be removed is
            // only litter.
            let _ = fs::remove_dir_all(&beside);
            // Another process may have put the same artifact first.
            if !self.is_intact(sha256, files) {
                return Err(unwritable(error));
            }
        }
        sync_folder(&self.root).map_err(unwritable)
    }

    /// Renames `beside` to `place`. The system refuses to replace a folder with
    /// files in it: then either another process was first, or they are damaged.
    fn put(&self, sha256: &str, files: &[StoredFile], beside: &Path) -> io::Result<()> {
        let place = self.path_of(sha256);
        let Err(error) = fs::rename(beside, &place) else { return Ok(()) };
        if fs::symlink_metadata(&place).is_err() {
            return Err(error);
        }
        if self.is_intact(sha256, files) {
            return fs::remove_dir_all(beside);
        }
        fs::rename(&place, self.root.join(format!(".damaged-{}", Uuid::new_v4().simple())))?;
        fs::rename(beside, &place)
    }

    fn is_intact(&self, sha256: &str, files: &[StoredFile]) -> bool {
        fs::symlink_metadata(self.path_of(sha256)).is_ok_and(|place| place.is_dir()) && self.load(sha256, files).is_ok()
    }

    /// Reads all files; each buffer is checked before it is handed out.
    pub(super) fn load(&self, sha256: &str, files: &[StoredFile]) -> Result<BTreeMap<String, Bytes>> {
        let place = self.path_of(sha256);
        let mut loaded = BTreeMap::new();
        for file in files {
            // The database is not trusted with paths either.
            if !stays_inside(&file.path) {
                return Err(damaged(format!("the path `{}` leaves the artifact", file.path.escape_debug())));
            }
            let path = place.join(&file.path);
            let mut buffer = Vec::with_capacity(usize::try_from(file.bytes).unwrap_or(0).min(1 << 30));
            File::open(&path)
                .and_then(|opened| opened.take(file.bytes + 1).read_to_end(&mut buffer))
                .map_err(|error| unreadable(&path, error))?;
            if buffer.len() as u64 != file.bytes {
                let relation = if (buffer.len() as u64) < file.bytes { "shorter" } else { "longer" };
                let message = format!("`{}` is {relation} than the {} bytes registered", path.display(), file.bytes);
                return Err(damaged(message));
            }
            if sha256_hex(&buffer) != file.sha256 {
                return Err(damaged(format!("`{}` is not the file that was registered", path.display())));
            }
            loaded.insert(file.path.clone(), Bytes::from(buffer));
        }
        Ok(loaded)
    }
}

/// Writes every file and syncs it, then every folder.
fn write_all(folder: &Path, artifact: &Artifact) -> io::Result<()> {
    fs::create_dir(folder)?;
    let mut folders = vec![folder.to_owned()];
    for (name, bytes) in artifact.files() {
        let path = folder.join(name);
        for parent in path.ancestors().skip(1).take_while(|parent| *parent != folder) {
            if !folders.iter().any(|known| known == parent) {
                folders.push(parent.to_owned());
            }
        }
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        let mut file = File::create_new(&path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    folders.iter().try_for_each(|folder| sync_folder(folder))
}

/// Makes a folder and its parents, each durable in its parent.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => Err(error),
        _ => sync_folder(parent),
    }
}

/// Makes the entries of a folder durable, where the system can.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// An error about a folder that cannot be written.
pub(super) fn unwritable(folder: &Path, error: io::Error) -> Error {
    let message = format!("the registry folder `{}` cannot be written", folder.display());
    let failure = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::invalid(message).hint("give this user the permission to write there, or set [registry] path")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Error::invalid(message).hint("there is a file in the place of a folder: move it, or set [registry] path")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::unavailable(message).hint("the disk is full: make room")
        }
        _ => Error::unavailable(message),
    };
    failure.cause(error)
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let failure = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => damaged(format!("`{}` is missing", path.display())),
        _ => Error::unavailable(format!("`{}` cannot be read", path.display())),
    };
    failure.cause(error)
}

fn damaged(message: String) -> Error {
    Error::data(message).hint("restore it from a backup, or register the same model again: that repairs the files")
}

/// Lower-case hexadecimal SHA-256.
fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
