//! A model's files, and their identity.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use bytes::Bytes;
use insightera_core::ErrorKind;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The files of a model: relative path to content. Hadoop's `.crc` files,
/// names that start with a dot and empty `_SUCCESS` markers are left out.
#[derive(Debug, Clone)]
pub struct Artifact {
    files: BTreeMap<String, Bytes>,
}

impl Artifact {
    /// Reads a file, or a folder with everything below it.
    ///
    /// # Errors
    /// `NotFound` when there is nothing at `path`, `Invalid` when the folder
    /// holds no file, `Unavailable` when a file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        if path.is_dir() {
            collect(path, path, &mut files)?;
        } else {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("model").to_owned();
            files.insert(name, read_file(path)?);
        }
        if files.is_empty() {
            return Err(Error::invalid(format!("`{}` holds no files", path.display())));
        }
        Self::from_files(files)
    }

    /// An artifact of these files.
    ///
    /// # Errors
    /// `Invalid` when there is no file or a path is not relative and plain.
    pub fn from_files(files: BTreeMap<String, Bytes>) -> Result<Self> {
        if files.is_empty() {
            return Err(Error::invalid("a model artifact without files"));
        }
        for path in files.keys() {
            let plain = !path.is_empty()
                && !path.contains('\\')
                && !path.ends_with('/')
                && !path.contains("//")
                && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
                && path.split('/').all(|part| !matches!(part, "." | ".."));
            if !plain {
                return Err(Error::invalid(format!("`{path}` is not a relative path inside an artifact")));
            }
        }
        Ok(Self { files })
    }

    /// The files, by path.
    pub fn files(&self) -> &BTreeMap<String, Bytes> {
        &self.files
    }

    /// The identity, in lower-case hexadecimal: of one file its SHA-256; of
    /// several the SHA-256 over the lines `<sha256>  <path>\n`, sorted by path.
    pub fn sha256(&self) -> String {
        if self.files.len() == 1
            && let Some(bytes) = self.files.values().next()
        {
            return hex(&Sha256::digest(bytes));
        }
        let mut all = Sha256::new();
        for (path, bytes) in &self.files {
            all.update(format!("{}  {path}\n", hex(&Sha256::digest(bytes))));
        }
        hex(&all.finalize())
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files.values().map(|b| b.len() as u64).sum()
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Bytes>) -> Result<()> {
    let unreadable =
        |e: std::io::Error| Error::new(ErrorKind::Unavailable, format!("cannot list `{}`: {e}", folder.display()));
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| Error::invalid(format!("`{}` is no Unicode name", path.display())))?;
        if name.starts_with('.') || name.ends_with(".crc") || name == "_SUCCESS" {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files)?;
        } else {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            let parts: Vec<&str> = relative.components().filter_map(|c| c.as_os_str().to_str()).collect();
            files.insert(parts.join("/"), read_file(&path)?);
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Bytes> {
    fs::read(path).map(Bytes::from).map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Unavailable };
        Error::new(kind, format!("cannot read `{}`: {e}", path.display()))
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> BTreeMap<String, Bytes> {
        names.iter().map(|n| ((*n).to_owned(), Bytes::from_static(b"abc"))).collect()
    }

    #[test]
    fn one_file_is_known_by_its_own_sha256() {
        let one = Artifact::from_files(files(&["model.json"])).unwrap();
        assert_eq!(one.sha256(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let two = Artifact::from_files(files(&["a", "b"])).unwrap();
        assert_ne!(one.sha256(), two.sha256());
    }

    #[test]
    fn a_path_that_leaves_the_artifact_is_refused() {
        for path in ["../x", "/etc/x", "a/../b", "", "a\\b", "a//b", "a/", "./a"] {
            assert!(Artifact::from_files(files(&[path])).is_err(), "{path:?}");
        }
    }
}
