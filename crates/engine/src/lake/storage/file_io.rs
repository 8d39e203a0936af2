//! Iceberg's storage seam over [`Storage`](super::Storage).
//!
//! iceberg's own local storage neither fsyncs metadata nor directories, and
//! creates a file under its final name before it has any content.

use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg::{Error, ErrorKind, Result};
use parquet::file::reader::Length;
use serde::{Deserialize, Serialize};

use super::{Output, Place, objects::Object};

/// A `FileIO` over the storage.
pub(super) fn build(storage: &super::Storage) -> FileIO {
    FileIOBuilder::new(Arc::new(LakeStorage { storage: storage.clone() })).build()
}

fn wrap(error: crate::Error) -> Error {
    Error::new(ErrorKind::Unexpected, error.to_string()).with_source(error)
}

/// The storage, and the factory of itself. Neither is ever sent anywhere, so
/// that its serialized form holds nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct LakeStorage {
    #[serde(skip)]
    storage: super::Storage,
}

#[typetag::serde(name = "insightera-factory")]
impl StorageFactory for LakeStorage {
    fn build(&self, _: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
#[typetag::serde(name = "insightera")]
impl Storage for LakeStorage {
    async fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.storage.exists(path))
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let input = self.storage.open(path).map_err(wrap)?;
        Ok(FileMetadata { size: Length::len(&input) })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        self.storage.read(path).map_err(wrap)
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        Ok(match self.storage.place(path).map_err(wrap)? {
            Place::Local(file) => {
                let open = std::fs::File::open(&file);
                let file = open.map_err(|e| wrap(super::durable::io_error("open", &file, e)))?;
                Box::new(LocalRead { path: path.to_owned(), file: Mutex::new(file) })
            }
            Place::Object(object) => Box::new(ObjectRead(object)),
        })
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.storage.write_new(path, &bytes).map_err(wrap)
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let output = self.storage.create(path).map_err(wrap)?;
        Ok(Box::new(Writer { storage: self.storage.clone(), path: path.to_owned(), output: Some(output) }))
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
    path: String,
    file: Mutex<std::fs::File>,
}

#[async_trait]
impl FileRead for LocalRead {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(range.start)).and_then(|_| file.read_exact(&mut buffer)).map_err(|e| {
            let error = super::durable::io_error("read", &super::local_path(&self.path), e);
            wrap(error)
        })?;
        Ok(buffer.into())
    }
}

#[derive(Debug)]
struct ObjectRead(Object);

#[async_trait]
impl FileRead for ObjectRead {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.0.range_async(range).await.map_err(wrap)
    }
}

struct Writer {
    storage: super::Storage,
    path: String,
    output: Option<Output>,
}

#[async_trait]
impl FileWrite for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let output = self.output.as_mut().ok_or_else(|| closed(&self.path))?;
        output.write_all(&bytes).map_err(|e| wrap(cannot_write(&self.path, e)))
    }

    async fn close(&mut self) -> Result<()> {
        let output = self.output.take().ok_or_else(|| closed(&self.path))?;
        output.finish().and_then(|()| self.storage.sync_names([self.path.as_str()])).map_err(wrap)
    }
}

/// Our own error of a write: the one inside, if it is ours.
pub(in crate::lake) fn cannot_write(location: &str, error: std::io::Error) -> crate::Error {
    match error.downcast::<crate::Error>() {
        Ok(own) => own,
        Err(error) => super::durable::io_error("write", &super::local_path(location), error),
    }
}

fn closed(path: &str) -> Error {
    Error::new(ErrorKind::Unexpected, format!("`{path}` is closed already"))
}
