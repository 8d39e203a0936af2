//! Which rows of Parquet files have a wanted key.
//!
//! The key columns are read first, file by file and row group by row group on
//! several threads; what comes out is a list of rows for the reader of the
//! other columns. A key of one column is hashed from the pages, any other from
//! arrays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::SchemaRef;
use insightera_entities::pages::{KeyPages, Sieve, Wanted};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};

use super::deletes;
use super::scan::KeyFilter;
use super::storage::Storage;
use crate::key::Keys;
use crate::{Error, Result};

/// A file and its rows with wanted keys, ascending.
#[derive(Debug)]
pub struct Matched {
    /// The file's footer.
    pub metadata: ArrowReaderMetadata,
    /// The rows.
    pub rows: Vec<u64>,
}

/// A file and where its key columns are.
struct Known<'a> {
    location: &'a str,
    metadata: ArrowReaderMetadata,
    leaves: Vec<usize>,
}

/// A part of a file that one thread reads.
#[derive(Clone, Copy)]
struct Piece {
    file: usize,
    group: usize,
    start: u64,
}

/// The rows of each file whose key is in the filter. `schema` says what the key
/// columns are to the reader. `None` when a file does not have them.
pub fn matching_rows(
    storage: &Storage,
    locations: &[String],
    filter: &KeyFilter,
    schema: &SchemaRef,
    threads: usize,
) -> Result<Option<Vec<Matched>>> {
    // Files are open only while they are read: there can be many.
    let known = in_parallel(locations, threads, |location| {
        let (_, metadata) = deletes::open(storage, location)?;
        let columns = metadata.metadata().file_metadata().schema_descr_ptr();
        let leaf = |name: &String| (0..columns.num_columns()).find(|i| columns.column(*i).path().string() == *name);
        let leaves = filter.columns.iter().map(leaf).collect::<Option<Vec<usize>>>();
        Ok(leaves.map(|leaves| Known { location: location.as_str(), metadata, leaves }))
    })?;
    let Some(files) = known.into_iter().collect::<Option<Vec<Known<'_>>>>() else { return Ok(None) };
    let mut pieces = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let mut start = 0;
        for (group, rows) in file.metadata.metadata().row_groups().iter().enumerate() {
            pieces.push(Piece { file: number, group, start });
            start += rows.num_rows().max(0) as u64;
        }
    }
    let sieve = Sieve::new(&filter.keys);
    let found =
        in_parallel(&pieces, threads, |piece| read(storage, &files[piece.file], *piece, filter, &sieve, schema))?;
    let mut matched: Vec<Matched> =
        files.into_iter().map(|file| Matched { metadata: file.metadata, rows: Vec::new() }).collect();
    for (piece, rows) in pieces.iter().zip(found) {
        matched[piece.file].rows.extend(rows);
    }
    Ok(Some(matched))
}

/// Does `work` for every item on so many threads; the answers in the order of
/// the items, or the first error.
pub(super) fn in_parallel<'a, T: Sync, R: Send>(
    items: &'a [T],
    threads: usize,
    work: impl Fn(&'a T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<Vec<(usize, R)>> {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { return Ok(done) };
            done.push((number, work(item)?));
        }
    };
    let parts: Vec<Result<Vec<(usize, R)>>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.clamp(1, items.len().max(1))).map(|_| scope.spawn(run)).collect();
        handles
            .into_iter()
            .map(|h| h.join().unwrap_or_else(|_| Err(Error::internal("a reading thread ended early"))))
            .collect()
    });
    let mut done = Vec::with_capacity(items.len());
    for part in parts {
        done.extend(part?);
    }
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, answer)| answer).collect())
}

fn read(
    storage: &Storage,
    file: &Known<'_>,
    piece: Piece,
    filter: &KeyFilter,
    sieve: &Sieve<'_>,
    schema: &SchemaRef,
) -> Result<Vec<u64>> {
    let mut rows = Vec::new();
    let input = Arc::new(storage.open(file.location)?);
    if let ([leaf], [name]) = (file.leaves.as_slice(), filter.columns.as_slice()) {
        let field = schema.field_with_name(name).map_err(|e| damaged(file.location, &e))?;
        if let Some(pages) = KeyPages::new(&file.metadata, *leaf, field.data_type()) {
            let mut visit = |range: std::ops::Range<u64>, hashes: &[_]| {
                sieve.find(piece.start + range.start, hashes, &mut rows);
            };
            let read = pages.read(&input, piece.group, Wanted::All, &mut visit);
            if read.map_err(|e| damaged(file.location, &e))? {
                return Ok(rows);
            }
            rows.clear();
        }
    }
    let input = input.try_clone().map_err(|e| damaged(file.location, &e))?;
    let mask =
        ProjectionMask::leaves(file.metadata.metadata().file_metadata().schema_descr(), file.leaves.iter().copied());
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, file.metadata.clone())
        .with_row_groups(vec![piece.group])
        .with_projection(mask)
        .with_batch_size(8192)
        .build()
        .map_err(|e| damaged(file.location, &e))?;
    let mut start = piece.start;
    for batch in reader {
        let batch = batch.map_err(|e| damaged(file.location, &e))?;
        sieve.find(start, &Keys::new(&batch, &filter.columns)?.hashes(), &mut rows);
        start += batch.num_rows() as u64;
    }
    Ok(rows)
}

fn damaged(location: &str, error: &dyn std::fmt::Display) -> Error {
    Error::data(format!("`{location}` is not a readable Parquet file: {error}"))
        .hint("restore the file from a backup, or write it again")
}
