//! Files of rows: `.parquet`, `.csv` and `.ndjson`.

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatchReader;
use arrow::csv;
use arrow::error::ArrowError;
use arrow::json;
use insightera_engine::{Error, Result};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::named::nearest_file;

/// Rows of a batch.
pub const BATCH: usize = 8192;

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated, with a header.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

impl Kind {
    /// What the name of `path` says.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("parquet") => Ok(Self::Parquet),
            Some("csv") => Ok(Self::Csv),
            Some("ndjson" | "jsonl" | "json") => Ok(Self::Ndjson),
            _ => Err(Error::invalid(format!("`{}` has no ending that says what it is", path.display()))
                .hint("rows are read and written as .parquet, .csv or .ndjson")),
        }
    }
}

/// A batch of a file is damaged.
pub fn unreadable(path: &Path, batch: usize, error: ArrowError) -> Error {
    let from = batch * BATCH;
    Error::data(format!("`{}` cannot be read, in rows {from} to {}: {error}", path.display(), from + BATCH))
        .cause(error)
}

/// Opens the rows; types of text files are found by reading all of it once.
pub fn open(path: &Path) -> Result<Box<dyn RecordBatchReader>> {
    let kind = Kind::of(path)?;
    let failed = |e: &dyn std::fmt::Display| Error::data(format!("`{}` cannot be read: {e}", path.display()));
    let mut file = File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            let near = path.to_str().and_then(nearest_file).map(|near| format!("did you mean `{near}`?"));
            Error::not_found(format!("there is no file `{}`", path.display())).hint(near.unwrap_or_default())
        }
        _ => Error::unavailable(format!("`{}` cannot be opened", path.display())).cause(e),
    })?;
    Ok(match kind {
        Kind::Parquet => {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| failed(&e))?;
            Box::new(reader.with_batch_size(BATCH).build().map_err(|e| failed(&e))?)
        }
        Kind::Csv => {
            let format = csv::reader::Format::default().with_header(true);
            let (schema, _) = format.infer_schema(BufReader::new(&file), None).map_err(|e| failed(&e))?;
            file.rewind().map_err(|e| failed(&e))?;
            let builder = csv::ReaderBuilder::new(Arc::new(schema)).with_header(true).with_batch_size(BATCH);
            Box::new(builder.build(BufReader::new(file)).map_err(|e| failed(&e))?)
        }
        Kind::Ndjson => {
            let (schema, _) = json::reader::infer_json_schema(BufReader::new(&file), None).map_err(|e| failed(&e))?;
            file.rewind().map_err(|e| failed(&e))?;
            let builder = json::ReaderBuilder::new(Arc::new(schema)).with_batch_size(BATCH);
            Box::new(builder.build(BufReader::new(file)).map_err(|e| failed(&e))?)
        }
    })
}
