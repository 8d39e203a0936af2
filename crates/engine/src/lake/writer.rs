//! Writes rows into Parquet data files of a table, split by partition.
//!
//! The table's properties decide: `write.parquet.compression-codec`,
//! `write.parquet.row-group-size-bytes`, `write.parquet.page-size-bytes`,
//! `write.target-file-size-bytes`, `write.data.path`. Key columns get a bloom
//! filter; every file has a page index. A dictionary is written only for
//! columns whose first batch repeats values, and random numbers are not
//! compressed by Snappy and LZ4: it would cost time and gain nothing.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef as ArrowSchemaRef};
use iceberg::arrow::RecordBatchPartitionSplitter;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, PrimitiveType, Schema, Struct};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::metadata::{ParquetMetaData, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;
use uuid::Uuid;

use super::schema::arrow_schema;
use super::storage::{self, Output, Storage};
use super::table::Table;
use crate::{Error, Result};

/// Rows of a row group: small enough that two cores share a file's scan.
const ROW_GROUP_ROWS: usize = 256 * 1024;
/// Characters of a string bound in a manifest.
const BOUND_CHARACTERS: usize = 16;

/// What a writer knows of its rows beforehand.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Columns that get a bloom filter.
    pub bloom: Vec<String>,
    /// Columns by which the rows come sorted, ascending.
    pub sorted_by: Vec<String>,
    /// About how many rows a row group will have.
    pub expected_rows: usize,
}

/// Writes the rows of one task.
#[derive(Debug)]
pub struct TableWriter {
    table: Table,
    schema: ArrowSchemaRef,
    options: WriteOptions,
    target_bytes: usize,
    /// Rows of a file at most; the bytes are a bound beside it.
    target_rows: usize,
    open: HashMap<Struct, OpenFile>,
    finished: Vec<DataFile>,
}

#[derive(Debug)]
struct OpenFile {
    location: String,
    writer: ArrowWriter<Tee>,
    rows: usize,
}

impl TableWriter {
    /// A writer of `table`'s current schema and default partition spec.
    pub fn new(table: &Table, options: WriteOptions) -> Result<Self> {
        let schema = arrow_schema(table.schema())?;
        let target_bytes = number(table, "write.target-file-size-bytes", 512 * 1024 * 1024)?;
        let (open, finished) = Default::default();
        Ok(Self { table: table.clone(), schema, options, target_bytes, target_rows: usize::MAX, open, finished })
    }

    /// Closes files at about this size instead of the table's own.
    pub fn target(&mut self, bytes: u64) {
        self.target_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    }

    /// Closes files at so many rows as well, so that they become alike.
    pub fn target_rows(&mut self, rows: u64) {
        self.target_rows = usize::try_from(rows).unwrap_or(usize::MAX);
    }

    /// Appends rows. Columns are matched by name and cast to the table's
    /// types without loss; a column that the batch lacks is null.
    ///
    /// # Errors
    /// When a value does not fit its column, a required column is null, or the
    /// disk refuses.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = self.conform(batch)?;
        for (partition, mut rows) in self.split(&batch)? {
            while rows.num_rows() > 0 {
                if !self.open.contains_key(&partition) {
                    let file = self.create(&partition, &rows)?;
                    self.open.insert(partition.clone(), file);
                }
                let Some(file) = self.open.get_mut(&partition) else { break };
                let part = rows.slice(0, rows.num_rows().min(self.target_rows.saturating_sub(file.rows).max(1)));
                rows = rows.slice(part.num_rows(), rows.num_rows() - part.num_rows());
                file.writer.write(&part).map_err(|e| cannot_encode(&file.location, e))?;
                file.rows += part.num_rows();
                let bytes = file.writer.bytes_written() + file.writer.in_progress_size();
                let full = bytes > self.target_bytes || file.rows >= self.target_rows;
                if full && let Some(file) = self.open.remove(&partition) {
                    self.close(partition.clone(), file)?;
                }
            }
        }
        Ok(())
    }

    /// Finishes all files, durably, and describes them.
    pub fn finish(mut self) -> Result<Vec<DataFile>> {
        let mut open: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        open.sort_by(|a, b| a.1.location.cmp(&b.1.location));
        for (partition, file) in open {
            self.close(partition, file)?;
        }
        self.table.storage().sync_names(self.finished.iter().map(DataFile::file_path))?;
        Ok(self.finished)
    }

    fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let strict = CastOptions { safe: false, ..Default::default() };
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            let column = match batch.column_by_name(field.name()) {
                None => arrow::array::new_null_array(field.data_type(), batch.num_rows()),
                Some(column) if column.data_type() == field.data_type() => column.clone(),
                Some(column) => cast_with_options(column, field.data_type(), &strict).map_err(|e| {
                    Error::data(format!(
                        "a value of column `{}` of table `{}` does not fit type {}: {e}",
                        field.name(),
                        self.table.name(),
                        field.data_type()
                    ))
                    .cause(e)
                })?,
            };
            if !field.is_nullable() && column.null_count() > 0 {
                return Err(Error::data(format!(
                    "column `{}` of table `{}` is required, and {} of {} rows have no value",
                    field.name(),
                    self.table.name(),
                    column.null_count(),
                    batch.num_rows()
                )));
            }
            columns.push(column);
        }
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::internal(format!("rows do not fit table `{}`: {e}", self.table.name())).cause(e))
    }

    fn split(&self, batch: &RecordBatch) -> Result<Vec<(Struct, RecordBatch)>> {
        let spec = self.table.metadata().default_partition_spec();
        if spec.is_unpartitioned() {
            return Ok(vec![(Struct::empty(), batch.clone())]);
        }
        let failed = |e: iceberg::Error| {
            Error::internal(format!("cannot split rows of table `{}` by partition: {e}", self.table.name())).cause(e)
        };
        let splitter =
            RecordBatchPartitionSplitter::try_new_with_computed_values(self.table.schema().clone(), spec.clone())
                .map_err(failed)?;
        // A run writes one date and often one horizon: look at one row first.
        let constant = spec.fields().iter().all(|field| {
            let name = self.table.schema().field_by_id(field.source_id).map(|f| f.name.as_str()).unwrap_or_default();
            batch.column_by_name(name).is_some_and(is_constant)
        });
        let parts = splitter.split(&if constant { batch.slice(0, 1) } else { batch.clone() }).map_err(failed)?;
        if constant && let Some((key, _)) = parts.first() {
            return Ok(vec![(key.data().clone(), batch.clone())]);
        }
        Ok(parts.into_iter().map(|(key, rows)| (key.data().clone(), rows)).collect())
    }

    fn create(&self, partition: &Struct, first: &RecordBatch) -> Result<OpenFile> {
        let metadata = self.table.metadata();
        let folder = metadata
            .properties()
            .get("write.data.path")
            .cloned()
            .unwrap_or_else(|| format!("{}/data", metadata.location()));
        let spec = metadata.default_partition_spec();
        let inside = if spec.is_unpartitioned() {
            String::new()
        } else {
            let path = spec.partition_to_path(partition, self.table.schema().clone());
            format!("{}/", path.split('/').map(escape).collect::<Vec<_>>().join("/"))
        };
        let location = format!("{folder}/{inside}{}.parquet", Uuid::now_v7());
        let properties = self.properties(first)?;
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(
            Tee::create(self.table.storage(), &location)?,
            self.schema.clone(),
            options,
        )
        .map_err(|e| cannot_encode(&location, e))?;
        Ok(OpenFile { location, writer, rows: 0 })
    }

    fn properties(&self, first: &RecordBatch) -> Result<WriterProperties> {
        let codec = compression(&self.table)?;
        let mut builder = WriterProperties::builder()
            .set_compression(codec)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_data_page_size_limit(number(&self.table, "write.parquet.page-size-bytes", 1024 * 1024)?)
            .set_created_by(format!("insightera {}", env!("CARGO_PKG_VERSION")));
        if self.table.metadata().properties().contains_key("write.parquet.row-group-size-bytes") {
            let bytes = number(&self.table, "write.parquet.row-group-size-bytes", 128 * 1024 * 1024)?;
            builder = builder.set_max_row_group_bytes(Some(bytes));
        }
        let mut sorting = Vec::new();
        for name in &self.options.sorted_by {
            if let Ok(index) = self.schema.index_of(name) {
                sorting.push(SortingColumn { column_idx: index as i32, descending: false, nulls_first: true });
            }
        }
        if !sorting.is_empty() {
            builder = builder.set_sorting_columns(Some(sorting));
        }
        for (field, column) in self.schema.fields().iter().zip(first.columns()) {
            let path = ColumnPath::from(field.name().as_str());
            if self.options.bloom.contains(field.name()) {
                let rows = self.options.expected_rows.clamp(1024, ROW_GROUP_ROWS) as u64;
                builder = builder.set_column_bloom_filter_ndv(path.clone(), rows);
                builder = builder.set_column_bloom_filter_fpp(path.clone(), 0.01);
            }
            if !repeats(column) {
                builder = builder.set_column_dictionary_enabled(path.clone(), false);
                if matches!(codec, Compression::SNAPPY | Compression::LZ4_RAW) && is_random(column) {
                    builder = builder.set_column_compression(path, Compression::UNCOMPRESSED);
                }
            }
        }
        Ok(builder.build())
    }

    fn close(&mut self, partition: Struct, file: OpenFile) -> Result<()> {
        let OpenFile { location, mut writer, .. } = file;
        let parquet = writer.finish().map_err(|e| cannot_encode(&location, e))?;
        let bytes = writer.inner_mut().finish()?;
        let mut builder = statistics(&parquet, self.table.schema());
        let described = builder
            .content(DataContentType::Data)
            .file_path(location)
            .file_format(DataFileFormat::Parquet)
            .partition(partition)
            .partition_spec_id(self.table.metadata().default_partition_spec_id())
            .record_count(parquet.file_metadata().num_rows().max(0) as u64)
            .file_size_in_bytes(bytes)
            .build()
            .map_err(|e| Error::internal(format!("an incomplete data file description: {e}")))?;
        self.finished.push(described);
        Ok(())
    }
}

/// Counts what it passes on.
#[derive(Debug)]
pub(super) struct Tee {
    file: Option<Output>,
    bytes: u64,
}

impl Tee {
    pub(super) fn create(storage: &Storage, location: &str) -> Result<Self> {
        Ok(Self { file: Some(storage.create(location)?), bytes: 0 })
    }

    /// Makes the content durable; answers its size.
    pub(super) fn finish(&mut self) -> Result<u64> {
        match self.file.take() {
            Some(file) => file.finish().map(|()| self.bytes),
            None => Err(Error::internal("a data file was finished twice")),
        }
    }

    fn open(&mut self) -> std::io::Result<&mut Output> {
        self.file.as_mut().ok_or_else(|| std::io::Error::other("the file is closed"))
    }
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.open()?.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.open()?.flush()
    }
}

/// One Parquet file of `batch` in `schema`, for position deletes and for
/// tables that need no partitions. Answers its size.
pub(super) fn write_plain(storage: &Storage, location: &str, batch: &RecordBatch) -> Result<(u64, ParquetMetaData)> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Tee::create(storage, location)?, batch.schema(), options)
        .map_err(|e| cannot_encode(location, e))?;
    writer.write(batch).map_err(|e| cannot_encode(location, e))?;
    let parquet = writer.finish().map_err(|e| cannot_encode(location, e))?;
    let bytes = writer.inner_mut().finish()?;
    storage.sync_names([location])?;
    Ok((bytes, parquet))
}

pub(super) fn cannot_encode(location: &str, error: parquet::errors::ParquetError) -> Error {
    if let parquet::errors::ParquetError::External(inner) = error {
        return match inner.downcast::<std::io::Error>() {
            Ok(io) => storage::cannot_write(location, *io),
            Err(inner) => Error::internal(format!("cannot write `{location}`: {inner}")),
        };
    }
    Error::internal(format!("cannot write `{location}`: {error}")).cause(error)
}

fn number(table: &Table, key: &str, default: usize) -> Result<usize> {
    match table.metadata().properties().get(key) {
        None => Ok(default),
        Some(text) => text.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
            Error::invalid(format!("property `{key}` of table `{}` is `{text}`, not a positive number", table.name()))
        }),
    }
}

fn compression(table: &Table) -> Result<Compression> {
    let properties = table.metadata().properties();
    let codec = properties.get("write.parquet.compression-codec").map_or("snappy", String::as_str);
    let level = properties.get("write.parquet.compression-level").and_then(|v| v.parse::<i32>().ok());
    Ok(match codec.to_ascii_lowercase().as_str() {
        "snappy" => Compression::SNAPPY,
        "zstd" => Compression::ZSTD(ZstdLevel::try_new(level.unwrap_or(3)).unwrap_or_default()),
        "gzip" => Compression::GZIP(GzipLevel::try_new(level.unwrap_or(6).max(0) as u32).unwrap_or_default()),
        "lz4" | "lz4_raw" => Compression::LZ4_RAW,
        "uncompressed" | "none" => Compression::UNCOMPRESSED,
        other => {
            return Err(Error::invalid(format!(
                "property `write.parquet.compression-codec` of table `{}` is `{other}`",
                table.name()
            ))
            .hint("use snappy, zstd, gzip, lz4_raw or uncompressed"));
        }
    })
}

/// Percent-encodes what must not stand in one path segment.
fn escape(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'-' | b'_' | b'.') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    if out == "." || out == ".." { out.replace('.', "%2E") } else { out }
}

fn is_constant(column: &ArrayRef) -> bool {
    use arrow::compute::kernels::cmp::not_distinct;
    if column.is_empty() {
        return false;
    }
    let first = arrow::array::Scalar::new(column.slice(0, 1));
    not_distinct(column, &first).is_ok_and(|same| same.true_count() == column.len())
}

/// Whether the first rows repeat their values enough for a dictionary.
fn repeats(column: &ArrayRef) -> bool {
    const SAMPLE: usize = 2048;
    let rows = column.len().min(SAMPLE);
    let mut seen: HashSet<u64> = HashSet::with_capacity(rows);
    let mut add = |bytes: &[u8]| {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        seen.insert(hasher.finish());
    };
    match column.data_type() {
        DataType::Utf8 => (0..rows).for_each(|i| add(column.as_string::<i32>().value(i).as_bytes())),
        other => {
            let Some(width) = other.primitive_width().filter(|width| *width >= 8) else { return true };
            let data = column.to_data();
            let Some(values) = data.buffers().first() else { return true };
            values[data.offset() * width..].chunks_exact(width).take(rows).for_each(add);
        }
    }
    rows < 64 || seen.len() * 10 < rows * 7
}

/// Whether Snappy and LZ4, which look for four bytes that were there before,
/// would find nothing in the first rows: of hashes and measured numbers they
/// make a copy, which every reader copies back.
fn is_random(column: &ArrayRef) -> bool {
    const SAMPLE: usize = 2048;
    let data = column.to_data();
    let (Some(8), Some(values)) = (column.data_type().primitive_width(), data.buffers().first()) else { return false };
    let halves = values[data.offset() * 8..].chunks_exact(4).take(2 * column.len().min(SAMPLE));
    let (mut seen, mut all) = (HashSet::with_capacity(2 * SAMPLE), 0);
    for half in halves {
        seen.insert(half);
        all += 1;
    }
    all >= SAMPLE && seen.len() * 16 >= all * 15
}

/// Column sizes, counts and bounds of a written file.
pub(super) fn statistics(parquet: &ParquetMetaData, schema: &Schema) -> DataFileBuilder {
    let mut builder = DataFileBuilder::default();
    let (mut sizes, mut values, mut nulls) = (HashMap::new(), HashMap::new(), HashMap::new());
    let (mut lower, mut upper): (HashMap<i32, Datum>, HashMap<i32, Datum>) = Default::default();
    let mut unbounded: HashSet<i32> = HashSet::new();
    let mut offsets = Vec::new();
    for group in parquet.row_groups() {
        offsets
            .push(group.file_offset().unwrap_or_else(|| group.columns().first().map_or(4, |c| c.data_page_offset())));
        for column in group.columns() {
            let info = column.column_descr().self_type().get_basic_info();
            if !info.has_id() {
                continue;
            }
            let id = info.id();
            *sizes.entry(id).or_insert(0) += column.compressed_size().max(0) as u64;
            *values.entry(id).or_insert(0) += column.num_values().max(0) as u64;
            let Some(found) = column.statistics() else {
                unbounded.insert(id);
                continue;
            };
            *nulls.entry(id).or_insert(0) += found.null_count_opt().unwrap_or(0);
            let primitive = schema.field_by_id(id).and_then(|f| f.field_type.as_primitive_type()).cloned();
            if let Some(primitive) = primitive
                && let Some((low, high)) = bounds(found, &primitive)
            {
                let better =
                    |old: Option<&Datum>, new: &Datum, less| old.is_none_or(|old| new.partial_cmp(old) == Some(less));
                if better(lower.get(&id), &low, std::cmp::Ordering::Less) {
                    lower.insert(id, low);
                }
                if better(upper.get(&id), &high, std::cmp::Ordering::Greater) {
                    upper.insert(id, high);
                }
            } else if found.null_count_opt() != Some(column.num_values().max(0) as u64) {
                unbounded.insert(id);
            }
        }
    }
    for id in unbounded {
        lower.remove(&id);
        upper.remove(&id);
    }
    offsets.sort_unstable();
    builder
        .column_sizes(sizes)
        .value_counts(values)
        .null_value_counts(nulls)
        .lower_bounds(lower)
        .upper_bounds(upper)
        .split_offsets(Some(offsets));
    builder
}

fn bounds(statistics: &Statistics, primitive: &PrimitiveType) -> Option<(Datum, Datum)> {
    use PrimitiveType as P;
    match (statistics, primitive) {
        (Statistics::Boolean(s), P::Boolean) => Some((Datum::bool(*s.min_opt()?), Datum::bool(*s.max_opt()?))),
        (Statistics::Int32(s), P::Int) => Some((Datum::int(*s.min_opt()?), Datum::int(*s.max_opt()?))),
        (Statistics::Int32(s), P::Date) => Some((Datum::date(*s.min_opt()?), Datum::date(*s.max_opt()?))),
        (Statistics::Int64(s), P::Long) => Some((Datum::long(*s.min_opt()?), Datum::long(*s.max_opt()?))),
        (Statistics::Int64(s), P::Timestamp) => {
            Some((Datum::timestamp_micros(*s.min_opt()?), Datum::timestamp_micros(*s.max_opt()?)))
        }
        (Statistics::Int64(s), P::Timestamptz) => {
            Some((Datum::timestamptz_micros(*s.min_opt()?), Datum::timestamptz_micros(*s.max_opt()?)))
        }
        (Statistics::Float(s), P::Float) => Some((Datum::float(*s.min_opt()?), Datum::float(*s.max_opt()?))),
        (Statistics::Double(s), P::Double) => Some((Datum::double(*s.min_opt()?), Datum::double(*s.max_opt()?))),
        (Statistics::ByteArray(s), P::String) => {
            let low = std::str::from_utf8(s.min_opt()?.data()).ok()?;
            let high = std::str::from_utf8(s.max_opt()?.data()).ok()?;
            let low: String = low.chars().take(BOUND_CHARACTERS).collect();
            Some((Datum::string(low), Datum::string(upper_bound(high)?)))
        }
        _ => None,
    }
}

/// The shortest string of at most 16 characters that is not below `text`.
fn upper_bound(text: &str) -> Option<String> {
    let mut characters: Vec<char> = text.chars().take(BOUND_CHARACTERS + 1).collect();
    if characters.len() <= BOUND_CHARACTERS {
        return Some(text.to_owned());
    }
    characters.truncate(BOUND_CHARACTERS);
    while let Some(last) = characters.pop() {
        if let Some(next) = (last as u32 + 1..=0x0010_ffff).find_map(char::from_u32) {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_partition_value_cannot_leave_its_folder() {
        assert_eq!(escape("domain=a/../b c"), "domain=a%2F..%2Fb%20c");
        assert_eq!(escape(".."), "%2E%2E");
    }

    #[test]
    fn only_numbers_without_a_pattern_are_random() {
        use arrow::array::{Float64Array, Int64Array};
        let mixed = |n: i64| {
            (n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64) >> 7) ^ n.wrapping_mul(0x94d0_49bb_1331_11eb_u64 as i64)
        };
        let random: ArrayRef = Arc::new(Int64Array::from_iter_values((0..4096).map(mixed)));
        let measured: ArrayRef = Arc::new(Float64Array::from_iter_values((0..4096).map(|n| f64::from(n).sqrt().sin())));
        let rounded: ArrayRef = Arc::new(Float64Array::from_iter_values((0..4096).map(|n| f64::from(n) / 4.0)));
        let counted: ArrayRef = Arc::new(Int64Array::from_iter_values(1_700_000_000_000_000..1_700_000_000_004_096));
        assert!(is_random(&random) && is_random(&measured) && is_random(&random.slice(1000, 2000)));
        assert!(!is_random(&rounded) && !is_random(&counted) && !is_random(&random.slice(0, 100)));
    }

    #[test]
    fn an_upper_bound_is_never_below_its_text() {
        for text in ["short", "exactly sixteen!", "a text of more than sixteen", &"\u{10ffff}".repeat(20)] {
            if let Some(bound) = upper_bound(text) {
                assert!(bound.as_str() >= text, "{text}");
                assert!(bound.chars().count() <= BOUND_CHARACTERS);
            }
        }
    }
}
