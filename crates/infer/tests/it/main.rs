//! Scores against the libraries' own.

mod assets;
mod counting;
mod damage;
mod explained;
mod hostile;
mod judged;
mod loading;
#[cfg(feature = "onnxruntime")]
mod outside;
mod reference;
mod single_rows;

// What fuzzing is made of, without its engine.
#[path = "../../../../fuzz/harness/archive.rs"]
mod archive;
#[path = "../../../../fuzz/harness/formats.rs"]
mod formats;
#[path = "../../../../fuzz/harness/rows.rs"]
mod rows;

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, Float64Array, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;

/// A folder from the environment; without it the test says that it skips, and
/// fails where `CI` is `true`.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn folder(test: &str, variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_dir());
    if found.is_none() {
        println!("SKIPPED {test}: {variable} is not set to a folder");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test}: {variable} is not set to a folder");
    }
    found
}

/// A Parquet file, or a folder of them.
fn read_parquet(path: &Path) -> RecordBatch {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "parquet"));
        files.sort();
    }
    let batches: Vec<RecordBatch> = files.iter().map(|file| read_batches(File::open(file).unwrap())).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// What is in a Parquet file.
fn read_batches(file: impl ChunkReader + 'static) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn numbers(batch: &RecordBatch, name: &str) -> Float64Array {
    let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name} in {:?}", batch.schema()));
    cast(column, &DataType::Float64).unwrap().as_primitive::<Float64Type>().clone()
}

/// Distance in units in the last place of single precision.
fn ulps(a: f64, b: f64) -> i64 {
    let key = |v: f64| {
        let bits = i64::from((v as f32).to_bits() as i32);
        if bits < 0 { i64::from(i32::MIN) - bits } else { bits }
    };
    (key(a) - key(b)).abs()
}

fn assert_close(what: &str, found: &Float64Array, wanted: &Float64Array, relative: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for row in 0..found.len() {
        let (a, b) = (found.value(row), wanted.value(row));
        assert!((a - b).abs() <= relative * b.abs().max(1e-300) || a == b, "{what} row {row}: {a} instead of {b}");
    }
}
