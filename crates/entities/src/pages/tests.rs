use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{WriterProperties, WriterVersion};

use super::*;
use crate::key::Keys;

fn written(column: &ArrayRef, properties: WriterProperties) -> Bytes {
    let batch = RecordBatch::try_from_iter_with_nullable([("k", column.clone(), column.null_count() > 0)]).unwrap();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    Bytes::from(file)
}

fn hashes(file: &Bytes, wanted: Wanted<'_>) -> Option<Vec<(u64, KeyHash)>> {
    let metadata = ArrowReaderMetadata::load(file, Default::default()).unwrap();
    let data_type = metadata.schema().field(0).data_type().clone();
    let pages = KeyPages::new(&metadata, 0, &data_type)?;
    let file = Arc::new(file.clone());
    let (mut found, mut start) = (Vec::new(), 0);
    for group in 0..metadata.metadata().num_row_groups() {
        let rows = metadata.metadata().row_group(group).num_rows() as u64;
        let inside: Vec<u64> = match wanted {
            Wanted::All => Vec::new(),
            Wanted::Rows(list) => {
                list.iter().filter(|r| (start..start + rows).contains(r)).map(|r| r - start).collect()
            }
        };
        let here = if let Wanted::All = wanted { Wanted::All } else { Wanted::Rows(&inside) };
        let mut visit = |range: Range<u64>, hashes: &[KeyHash]| {
            found.extend(range.map(|row| row + start).zip(hashes.iter().copied()));
        };
        if !pages.read(&file, group, here, &mut visit).unwrap() {
            return None;
        }
        start += rows;
    }
    Some(found)
}

fn expected(column: &ArrayRef) -> Vec<KeyHash> {
    let batch = RecordBatch::try_from_iter_with_nullable([("k", column.clone(), true)]).unwrap();
    Keys::new(&batch, &["k".into()]).unwrap().hashes()
}

fn columns() -> Vec<ArrayRef> {
    let count = 5000i64;
    let text = |n: i64| "x".repeat((n % 70) as usize) + &(n * 7919).to_string();
    let some = |n: i64| n % 11 != 3 && !(100..2000).contains(&n);
    vec![
        Arc::new(StringArray::from_iter_values((0..count).map(text))),
        Arc::new(StringArray::from_iter((0..count).map(|n| some(n).then(|| text(n))))),
        Arc::new(StringArray::from_iter((0..count).map(|n| some(n).then(|| text(n % 13))))),
        Arc::new(StringArray::from_iter_values((0..count).map(|_| ""))),
        Arc::new(StringArray::from(vec![None::<&str>; 3000])),
        Arc::new(BinaryArray::from_iter_values((0..count).map(|n| n.to_le_bytes()))),
        Arc::new(Int64Array::from_iter((0..count).map(|n| some(n).then_some(n * n - 900_000)))),
        Arc::new(Int32Array::from_iter_values((0..count as i32).map(|n| n % 300 - 150))),
        Arc::new(Date32Array::from_iter((0..count).map(|n| some(n).then_some(n as i32 - 40)))),
    ]
}

#[test]
fn hashes_from_pages_are_those_of_arrays_however_the_file_was_written() {
    for column in columns() {
        let want = expected(&column);
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for (dictionary, limit) in [(true, 1 << 20), (true, 900), (false, 1)] {
                for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
                    let properties = WriterProperties::builder()
                        .set_writer_version(version)
                        .set_dictionary_enabled(dictionary)
                        .set_dictionary_page_size_limit(limit)
                        .set_column_encoding("k".into(), Encoding::PLAIN)
                        .set_compression(compression)
                        .set_data_page_row_count_limit(700)
                        .set_write_batch_size(128)
                        .set_max_row_group_row_count(Some(2100))
                        .build();
                    let file = written(&column, properties);
                    let found = hashes(&file, Wanted::All).expect("these pages can be read");
                    assert_eq!(found.len(), want.len());
                    assert!(found.iter().all(|(row, hash)| want[*row as usize] == *hash), "{:?}", column.data_type());
                    let rows: Vec<u64> = (0..want.len() as u64).filter(|r| r % 37 == 5 || r % 1000 > 990).collect();
                    let some = hashes(&file, Wanted::Rows(&rows)).unwrap();
                    for row in rows {
                        assert_eq!(some[row as usize], (row, want[row as usize]));
                    }
                }
            }
        }
    }
}

#[test]
fn an_encoding_that_is_not_read_here_is_not_guessed() {
    let column: ArrayRef = Arc::new(StringArray::from_iter_values((0..100).map(|n| n.to_string())));
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_column_encoding("k".into(), Encoding::DELTA_BYTE_ARRAY)
        .build();
    assert!(hashes(&written(&column, properties), Wanted::All).is_none());
}

#[test]
fn a_damaged_page_is_an_error_or_another_hash_but_no_panic() {
    let column: ArrayRef =
        Arc::new(StringArray::from_iter((0..3000).map(|n| (n % 5 != 0).then(|| format!("key {}", n % 900)))));
    for dictionary in [true, false] {
        let properties = WriterProperties::builder().set_dictionary_enabled(dictionary).build();
        let good = written(&column, properties);
        let metadata = ArrowReaderMetadata::load(&good, Default::default()).unwrap();
        let pages = KeyPages::new(&metadata, 0, &DataType::Utf8).unwrap();
        let end = metadata.metadata().row_group(0).column(0).byte_range();
        for at in (end.0..end.0 + end.1).step_by(3) {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.to_vec();
                bad[at as usize] ^= flip;
                let mut rows = 0;
                let read =
                    pages.read(&Arc::new(Bytes::from(bad)), 0, Wanted::All, &mut |_, hashes| rows += hashes.len());
                assert!(rows <= 3000 && (read.is_err() || matches!(read, Ok(false)) || rows == 3000));
            }
        }
    }
}

#[test]
fn a_sieve_holds_what_its_set_holds() {
    let keys: KeySet = (0..10_000u128).map(|n| xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())).collect();
    let sieve = Sieve::new(&keys);
    let all: Vec<KeyHash> = (0..40_000u128).map(|n| xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())).collect();
    let mut rows = Vec::new();
    sieve.find(5, &all, &mut rows);
    assert_eq!(rows, (5..10_005).collect::<Vec<u64>>());
}
