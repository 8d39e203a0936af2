//! Parquet files of this machine, read at their place.
//!
//! What a question needs of a file is mostly in the page cache, and there a
//! read is a copy. It is done where it is wanted: handing it to another thread
//! and waiting for it costs more.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::Result as DfResult;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileMetrics;
use datafusion::datasource::physical_plan::parquet::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;

/// Opens the files of a scan.
#[derive(Debug)]
pub struct LocalFiles {
    /// Where they are, by what the plan calls them.
    pub places: HashMap<Path, PathBuf>,
    /// The same files, for their footers.
    pub store: Arc<dyn ObjectStore>,
    /// Footers that are read once in a process; those of files that may change
    /// are not kept.
    pub footers: Option<Arc<dyn FileMetadataCache>>,
}

impl ParquetFileReaderFactory for LocalFiles {
    fn create_reader(
        &self,
        partition_index: usize,
        part: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> DfResult<Box<dyn AsyncFileReader + Send>> {
        let location = &part.object_meta.location;
        let place = self.places.get(location).cloned().ok_or_else(|| {
            datafusion::error::DataFusionError::Internal(format!("`{location}` is no file of this scan"))
        })?;
        let metrics = ParquetFileMetrics::new(partition_index, location.as_ref(), metrics);
        let (store, footers) = (self.store.clone(), self.footers.clone());
        Ok(Box::new(LocalFile { place, file: None, part, store, footers, metrics }))
    }
}

/// An open file.
struct LocalFile {
    place: PathBuf,
    file: Option<File>,
    part: PartitionedFile,
    store: Arc<dyn ObjectStore>,
    footers: Option<Arc<dyn FileMetadataCache>>,
    metrics: ParquetFileMetrics,
}

impl LocalFile {
    fn read(&mut self, range: &Range<u64>) -> Result<Bytes> {
        let wrong = |place: &PathBuf, what: &str, error: std::io::Error| {
            ParquetError::General(format!("cannot {what} {}: {error}", place.display()))
        };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.place).map_err(|e| wrong(&self.place, "open", e))?,
        };
        let length = range.end.saturating_sub(range.start);
        // Room that is filled at once need not be cleared before.
        let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(|e| ParquetError::General(e.to_string()))?);
        let read = file.seek(SeekFrom::Start(range.start));
        let read = read.and_then(|_| file.by_ref().take(length).read_to_end(&mut bytes));
        let whole = read.and_then(|found| match found as u64 == length {
            true => Ok(()),
            false => Err(std::io::ErrorKind::UnexpectedEof.into()),
        });
        whole.map_err(|e| wrong(&self.place, &format!("read bytes {} to {} of", range.start, range.end), e))?;
        self.file = Some(file);
        self.metrics.bytes_scanned.add(bytes.len());
        Ok(bytes.into())
    }
}

impl AsyncFileReader for LocalFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        futures::future::ready(self.read(&range)).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        futures::future::ready(ranges.iter().map(|range| self.read(range)).collect()).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let location = self.place.display().to_string();
        async move {
            let found = DFParquetMetadata::new(&self.store, &self.part.object_meta)
                .with_file_metadata_cache(self.footers.clone())
                .fetch_metadata()
                .await;
            found.map_err(|e| ParquetError::General(format!("cannot read the footer of {location}: {e}")))
        }
        .boxed()
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        let share = &self.metrics.scan_efficiency_ratio;
        share.add_part(self.metrics.bytes_scanned.value());
        share.set_total(self.part.object_meta.size as usize);
    }
}
