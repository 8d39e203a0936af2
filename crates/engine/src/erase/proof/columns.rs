//! Key columns and pages of Parquet files, below Arrow.

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

/// A key column: its name, its numbers, and the value that is looked for.
pub struct Wanted {
    pub name: String,
    pub ids: Vec<i32>,
    pub value: String,
}

/// Rows that a file has, and how many of them have all values.
pub fn count(file: Bytes, wanted: &[Wanted]) -> Result<(u64, u64), String> {
    let reader = open(file)?;
    let columns = reader.metadata().file_metadata().schema_descr().columns().to_vec();
    let place = |wanted: &Wanted| {
        let of_id = columns.iter().position(|column| {
            let info = column.self_type().get_basic_info();
            column.path().parts().len() == 1 && info.has_id() && wanted.ids.contains(&info.id())
        });
        of_id.or_else(|| columns.iter().position(|column| column.path().string() == wanted.name))
    };
    let places: Option<Vec<usize>> = wanted.iter().map(place).collect();
    let (mut rows, mut found) = (0, 0);
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(|e| e.to_string())?;
        let count = usize::try_from(group.metadata().num_rows()).map_err(|e| e.to_string())?;
        rows += count as u64;
        // A file from before the column was there has no row of the entity.
        let Some(places) = &places else { continue };
        let mut all = vec![true; count];
        for (place, wanted) in places.iter().zip(wanted) {
            let column = group.get_column_reader(*place).map_err(|e| e.to_string())?;
            let equal = equal(column, &columns[*place], count, &wanted.value)?;
            all.iter_mut().zip(equal).for_each(|(all, equal)| *all &= equal);
        }
        found += all.into_iter().filter(|all| *all).count() as u64;
    }
    Ok((rows, found))
}

fn open(file: Bytes) -> Result<SerializedFileReader<Bytes>, String> {
    SerializedFileReader::new(file).map_err(|e| e.to_string())
}

fn equal(reader: ColumnReader, column: &ColumnDescriptor, rows: usize, value: &str) -> Result<Vec<bool>, String> {
    let number = value.parse::<i64>().ok();
    let is_date =
        column.logical_type_ref() == Some(&LogicalType::Date) || column.converted_type() == ConvertedType::DATE;
    let date = chrono::NaiveDate::parse_from_str(value, "%Y-%m-%d")
        .ok()
        .map(|date| date.signed_duration_since(chrono::NaiveDate::default()).num_days());
    let wanted = if is_date { date } else { number };
    match reader {
        ColumnReader::ByteArrayColumnReader(r) => compare(r, column, rows, |v| v.data() == value.as_bytes()),
        ColumnReader::FixedLenByteArrayColumnReader(r) => compare(r, column, rows, |v| v.data() == value.as_bytes()),
        ColumnReader::Int32ColumnReader(r) => compare(r, column, rows, |v| Some(i64::from(*v)) == wanted),
        ColumnReader::Int64ColumnReader(r) => compare(r, column, rows, |v| Some(*v) == wanted),
        ColumnReader::BoolColumnReader(r) => compare(r, column, rows, |v| v.to_string() == value),
        _ => Err(format!("column `{}` is of no key's type", column.name())),
    }
}

fn compare<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    column: &ColumnDescriptor,
    rows: usize,
    is_wanted: impl Fn(&T::T) -> bool,
) -> Result<Vec<bool>, String> {
    if column.max_rep_level() > 0 {
        return Err(format!("column `{}` has several values in a row", column.name()));
    }
    let optional = column.max_def_level() > 0;
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let mut read = 0;
    while read < rows {
        let (records, _, _) = reader
            .read_records(rows - read, optional.then_some(&mut levels), None, &mut values)
            .map_err(|e| e.to_string())?;
        if records == 0 {
            return Err(format!("column `{}` ends after {read} of {rows} rows", column.name()));
        }
        read += records;
    }
    let mut values = values.iter();
    Ok((0..rows)
        .map(|row| match optional && levels[row] < column.max_def_level() {
            true => false,
            false => values.next().is_some_and(&is_wanted),
        })
        .collect())
}

/// Shows every unpacked page of a file.
pub fn pages(file: Bytes, show: &mut dyn FnMut(&[u8])) -> Result<(), String> {
    let reader = open(file)?;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(|e| e.to_string())?;
        for column in 0..group.num_columns() {
            let mut pages = group.get_column_page_reader(column).map_err(|e| e.to_string())?;
            while let Some(page) = pages.get_next_page().map_err(|e| e.to_string())? {
                show(page.buffer());
            }
        }
    }
    Ok(())
}
