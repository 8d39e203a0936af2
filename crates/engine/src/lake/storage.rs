//! Iceberg's storage seam over durable local files.
//!
//! iceberg's own local storage neither fsyncs metadata nor directories, and
//! creates a file under its final name before it has any content; this one
//! writes through [`durable`](super::durable).

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::durable::{self, NewFile};

/// The local path of an Iceberg location: `file:///a/b`, `file:/a/b` or `/a/b`,
/// with percent escapes left alone, as PyIceberg and Java write them.
pub fn local_path(location: &str) -> PathBuf {
    let path = location.strip_prefix("file://").or_else(|| location.strip_prefix("file:")).unwrap_or(location);
    PathBuf::from(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// Reads a whole file of the lake.
pub fn read(location: &str) -> crate::Result<Bytes> {
    let path = local_path(location);
    fs::read(&path).map(Bytes::from).map_err(|e| durable::io_error("read", &path, e))
}

/// A `FileIO` over durable local files.
pub fn file_io() -> FileIO {
    FileIOBuilder::new(Arc::new(DurableStorageFactory)).build()
}

fn wrap(error: crate::Error) -> Error {
    Error::new(ErrorKind::Unexpected, error.to_string()).with_source(error)
}

fn read_error(path: &Path, error: std::io::Error) -> Error {
    wrap(durable::io_error("read", path, error))
}

/// Local files, written durably.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DurableStorage;

/// Builds [`DurableStorage`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DurableStorageFactory;

#[typetag::serde(name = "insightera-durable-factory")]
impl StorageFactory for DurableStorageFactory {
    fn build(&self, _: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(DurableStorage))
    }
}

#[async_trait]
#[typetag::serde(name = "insightera-durable")]
impl Storage for DurableStorage {
    async fn exists(&self, path: &str) -> Result<bool> {
        Ok(local_path(path).exists())
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let path = local_path(path);
        let meta = fs::metadata(&path).map_err(|e| read_error(&path, e))?;
        Ok(FileMetadata { size: meta.len() })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        read(path).map_err(wrap)
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        let path = local_path(path);
        let file = File::open(&path).map_err(|e| read_error(&path, e))?;
        Ok(Box::new(LocalRead { path, file: Mutex::new(file) }))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        durable::write_new(&local_path(path), &bytes).map_err(wrap)
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let path = local_path(path);
        let file = NewFile::create(&path).map_err(wrap)?;
        Ok(Box::new(LocalWrite { path, file: Some(file) }))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        Err(refuse_delete(path))
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        Err(refuse_delete(path))
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> Result<()> {
        match paths.next().await {
            Some(path) => Err(refuse_delete(&path)),
            None => Ok(()),
        }
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

/// Only maintenance deletes files, and it does not go through this seam.
fn refuse_delete(path: &str) -> Error {
    Error::new(ErrorKind::FeatureUnsupported, format!("the storage never deletes: `{path}`"))
}

#[derive(Debug)]
struct LocalRead {
    path: PathBuf,
    file: Mutex<File>,
}

#[async_trait]
impl FileRead for LocalRead {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(range.start))
            .and_then(|_| file.read_exact(&mut buffer))
            .map_err(|e| read_error(&self.path, e))?;
        Ok(buffer.into())
    }
}

#[derive(Debug)]
struct LocalWrite {
    path: PathBuf,
    file: Option<NewFile>,
}

#[async_trait]
impl FileWrite for LocalWrite {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let file = self.file.as_mut().ok_or_else(|| closed(&self.path))?;
        file.write_all(&bytes).map_err(|e| wrap(durable::io_error("write", &self.path, e)))
    }

    async fn close(&mut self) -> Result<()> {
        let file = self.file.take().ok_or_else(|| closed(&self.path))?;
        file.finish().and_then(|()| durable::sync_parent(&self.path)).map_err(wrap)
    }
}

fn closed(path: &Path) -> Error {
    Error::new(ErrorKind::Unexpected, format!("`{}` is closed already", path.display()))
}
