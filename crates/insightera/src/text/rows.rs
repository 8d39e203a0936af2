//! The rows of a query.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::json::writer::{LineDelimited, WriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use insightera_engine::{Error, Result};

use super::cells;

/// Aligned columns; at most `limit` rows. Null is `NULL`.
pub fn batches_table(schema: &SchemaRef, batches: &[RecordBatch], limit: usize) -> Result<String> {
    let header: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let right: Vec<bool> = schema.fields().iter().map(|field| field.data_type().is_numeric()).collect();
    let mut rows = Vec::new();
    for_each_row(batches, limit, |row| {
        rows.push(row.into_iter().map(|cell| cell.unwrap_or_else(|| "NULL".to_owned())).collect());
    })?;
    Ok(cells::columns(&header, &right, &rows))
}

/// CSV with a header.
pub fn batches_csv(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String> {
    let header: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut rows = Vec::new();
    for_each_row(batches, usize::MAX, |row| rows.push(row))?;
    Ok(cells::csv(&header, rows.into_iter()))
}

/// An array of objects, one a line. Every object has every column; of columns
/// with the same name the second becomes `name_2`.
pub fn batches_json(batches: &[RecordBatch]) -> Result<String> {
    let failed = |e: arrow::error::ArrowError| {
        Error::invalid(format!("the rows cannot be written as JSON: {e}"))
            .hint("cast the column to VARCHAR, or use --format table")
    };
    let mut text = String::from("[");
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        writer.write(&with_unique_names(batch).map_err(failed)?).map_err(failed)?;
        writer.finish().map_err(failed)?;
        for object in String::from_utf8_lossy(&writer.into_inner()).lines() {
            text.push_str(if text.len() == 1 { "\n  " } else { ",\n  " });
            text.push_str(object);
        }
    }
    text.push_str(if text.len() == 1 { "]\n" } else { "\n]\n" });
    Ok(text)
}

fn with_unique_names(batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut names: Vec<String> = Vec::new();
    let mut fields: Vec<Field> = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let mut name = field.name().clone();
        let mut number = 1;
        while names.contains(&name) {
            number += 1;
            name = format!("{}_{number}", field.name());
        }
        let written = with_text_keys(field.data_type());
        let same = written == *field.data_type();
        columns.push(if same { column.clone() } else { cast(column, &written)? });
        fields.push(field.as_ref().clone().with_name(&name).with_data_type(written));
        names.push(name);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// A type in which the keys of all maps are text, as JSON has them.
fn with_text_keys(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(with_text_keys(field.data_type())));
    match data_type {
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let key = Arc::new(fields[0].as_ref().clone().with_data_type(DataType::Utf8));
                let pair = DataType::Struct(vec![key, inner(&fields[1])].into());
                DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(pair)), *sorted)
            }
            _ => data_type.clone(),
        },
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        other => other.clone(),
    }
}

/// Calls `act` with the cells of every row; null is `None`.
fn for_each_row(batches: &[RecordBatch], limit: usize, mut act: impl FnMut(Vec<Option<String>>)) -> Result<()> {
    let failed = |e: arrow::error::ArrowError| Error::invalid(format!("a value cannot be shown: {e}"));
    let options = FormatOptions::new().with_display_error(true).with_null("NULL");
    let mut left = limit;
    for batch in batches {
        let formatters: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        for row in 0..batch.num_rows().min(left) {
            let cell = |index: usize| {
                let null = batch.column(index).logical_nulls().is_some_and(|nulls| nulls.is_null(row));
                (!null).then(|| formatters[index].value(row).to_string())
            };
            act((0..formatters.len()).map(cell).collect());
        }
        left = left.saturating_sub(batch.num_rows());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringViewArray, TimestampMicrosecondArray};
    use arrow::datatypes::TimeUnit;

    fn rows() -> RecordBatch {
        let fields = vec![
            Field::new("n", DataType::Int64, true),
            Field::new("n", DataType::Float64, true),
            Field::new("s", DataType::Utf8View, true),
            Field::new("t", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        ];
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(i64::MAX), None])),
            Arc::new(Float64Array::from(vec![f64::NAN, 0.5])),
            Arc::new(StringViewArray::from(vec!["a\"b\nc", ""])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1_500_000), None]).with_timezone("UTC")),
        ];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    #[test]
    fn json_keeps_64_bits_and_says_null_for_what_it_cannot_say() {
        let text = batches_json(&[rows()]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value[0]["n"].as_i64(), Some(i64::MAX));
        assert!(value[0]["n_2"].is_null() && value[1]["n"].is_null());
        assert_eq!(value[0]["s"], "a\"b\nc");
        assert_eq!(value[0]["t"], "1970-01-01T00:00:01.500Z");
        assert_eq!(batches_json(&[]).unwrap(), "[]\n");
    }

    #[test]
    fn csv_has_a_line_per_row_and_empty_for_null() {
        let batch = rows();
        let text = batches_csv(&batch.schema(), &[batch]).unwrap();
        assert!(text.starts_with("n,n,s,t\n9223372036854775807,NaN,\"a\"\"b\nc\","), "{text}");
        assert!(text.ends_with("\n,0.5,\"\",\n"), "{text}");
    }

    #[test]
    fn a_table_shows_at_most_the_limit() {
        let batch = rows();
        let text = batches_table(&batch.schema(), &[batch.clone(), batch], 1).unwrap();
        assert_eq!(text.lines().count(), 3);
    }
}
