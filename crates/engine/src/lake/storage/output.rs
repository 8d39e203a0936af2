//! Writes new files.

use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use object_store::{ObjectStoreExt, WriteMultipart};

use super::objects::{self, Object, wait};
use crate::lake::durable::NewFile;
use crate::lake::faults::{self, Stage};
use crate::{Error, Result};

/// The size of a part; smaller files are one request.
const PART: usize = 8 << 20;
/// Parts that are on their way at once.
const AT_ONCE: usize = 4;

/// A new file being written. Dropped without [`Output::finish`], nothing or
/// part of it stays, unreferenced.
#[derive(Debug)]
pub enum Output {
    /// A local file.
    Local(NewFile),
    /// An object of a store.
    Object(Upload),
}

impl Output {
    /// Makes the content durable; the name of a local file becomes so with
    /// [`Storage::sync_names`](super::Storage::sync_names).
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Local(file) => file.finish(),
            Self::Object(upload) => upload.finish(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Local(file) => file.write(bytes),
            Self::Object(upload) => upload.write(bytes).map(|()| bytes.len()).map_err(io::Error::other),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Local(file) => file.flush(),
            Self::Object(_) => Ok(()),
        }
    }
}

/// An object being written: a request when it is small, parts when it is not.
/// Nobody sees it before it is finished.
#[derive(Debug)]
pub struct Upload {
    object: Object,
    buffer: Vec<u8>,
    parts: Option<WriteMultipart>,
}

impl Upload {
    pub(super) fn new(object: Object) -> Self {
        Self { object, buffer: Vec::new(), parts: None }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < PART {
            return Ok(());
        }
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None => {
                let (store, path) = (self.object.bucket.store.clone(), self.object.path.clone());
                let upload = wait(async move { store.put_multipart(&path).await })
                    .and_then(|begun| begun.map_err(|e| self.object.error("begin to write", e)))?;
                WriteMultipart::new_with_chunk_size(upload, PART)
            }
        };
        let full = Bytes::from(std::mem::take(&mut self.buffer));
        let parts = wait(async move {
            parts.put(full);
            parts.wait_for_capacity(AT_ONCE).await.map(|()| parts)
        })?;
        self.parts = Some(parts.map_err(|e| self.object.error("write", e))?);
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let rest = Bytes::from(std::mem::take(&mut self.buffer));
        let Some(mut parts) = self.parts.take() else { return self.object.put_new(rest) };
        let location = Path::new(&self.object.location);
        let done = faults::step(Stage::of(location), "put", location, || {
            Ok(wait(async move {
                parts.put(rest);
                parts.finish().await
            }))
        });
        match done {
            Ok(done) => done?.map(drop).map_err(|e| self.object.error("write", e)),
            Err(error) => Err(objects::stopped(&self.object.location, error)),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Parts that nobody puts together cost money until they are taken back.
        if let Some(parts) = self.parts.take() {
            let taken_back: Result<object_store::Result<()>, Error> = wait(async move { parts.abort().await });
            drop(taken_back);
        }
    }
}
