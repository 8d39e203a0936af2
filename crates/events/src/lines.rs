//! Rows as JSON texts, one for each, the way Arrow writes them: null values are
//! left out, points in time are texts of RFC 3339, NaN and infinities are null.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use chrono::{DateTime, Datelike};

/// The texts of some rows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Lines {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Lines {
    /// The texts, from first to last.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }
}

/// The values of a column: those that are frequent, and Arrow's own way.
enum Values<'a> {
    Text(&'a StringArray),
    Whole(&'a Int32Array),
    Long(&'a Int64Array),
    Double(&'a Float64Array),
    Boolean(&'a BooleanArray),
    Time(&'a TimestampMicrosecondArray),
    Other(NullableEncoder<'a>),
}

struct Column<'a> {
    /// `"name":`
    name: Vec<u8>,
    array: &'a dyn Array,
    nullable: bool,
    values: Values<'a>,
}

impl<'a> Column<'a> {
    fn new(field: &'a FieldRef, array: &'a ArrayRef, options: &'a EncoderOptions) -> Result<Self, ArrowError> {
        let mut name = Vec::new();
        scalar(&mut name, field.name());
        name.push(b':');
        let values = match field.data_type() {
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Int32 => Values::Whole(array.as_primitive()),
            DataType::Int64 => Values::Long(array.as_primitive()),
            DataType::Float64 => Values::Double(array.as_primitive()),
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => {
                Values::Time(array.as_primitive())
            }
            _ => Values::Other(make_encoder(field, array, options)?),
        };
        Ok(Self { name, array, nullable: array.is_nullable(), values })
    }

    fn is_null(&self, row: usize) -> bool {
        match &self.values {
            Values::Other(encoder) => encoder.is_null(row),
            _ => self.nullable && self.array.is_null(row),
        }
    }

    fn write(&mut self, row: usize, days: &mut Day, out: &mut Vec<u8>) {
        match &mut self.values {
            Values::Text(values) => scalar(out, values.value(row)),
            Values::Whole(values) => scalar(out, &values.value(row)),
            Values::Long(values) => scalar(out, &values.value(row)),
            Values::Double(values) => scalar(out, &values.value(row)),
            Values::Boolean(values) => scalar(out, &values.value(row)),
            Values::Time(values) => days.write(values.value(row), out),
            Values::Other(encoder) => encoder.encode(row, out),
        }
    }
}

/// Writes a value that cannot fail to be written.
fn scalar<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "{written:?}");
}

/// The date of the last point in time: the next has mostly the same.
struct Day {
    number: i64,
    text: String,
}

const DAY: i64 = 86_400_000_000;

impl Day {
    fn write(&mut self, micros: i64, out: &mut Vec<u8>) {
        let (number, within) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
        if number != self.number {
            self.number = number;
            // Beyond the years that a text can have there are no days.
            let day =
                DateTime::from_timestamp(number * (DAY / 1_000_000), 0).filter(|day| (0..=9999).contains(&day.year()));
            self.text = day.map_or_else(String::new, |day| day.format("\"%Y-%m-%dT").to_string());
        }
        if self.text.is_empty() {
            let time = DateTime::from_timestamp_micros(micros);
            return match time {
                Some(time) => scalar(out, &time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
                None => out.extend_from_slice(b"null"),
            };
        }
        out.extend_from_slice(self.text.as_bytes());
        let seconds = within / 1_000_000;
        two(out, seconds / 3600);
        out.push(b':');
        two(out, seconds / 60 % 60);
        out.push(b':');
        two(out, seconds % 60);
        let micros = within % 1_000_000;
        if micros != 0 {
            out.push(b'.');
            two(out, micros / 10_000);
            two(out, micros / 100 % 100);
            two(out, micros % 100);
            if micros % 1000 == 0 {
                out.truncate(out.len() - 3);
            }
        }
        out.extend_from_slice(b"Z\"");
    }
}

fn two(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
}

/// The rows of a batch as JSON objects.
///
/// # Errors
/// When a column has a type that JSON has nothing for.
pub fn lines(batch: &RecordBatch) -> Result<Lines, ArrowError> {
    let (schema, options) = (batch.schema(), EncoderOptions::default());
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, array)| Column::new(field, array, &options));
    let mut columns: Vec<_> = columns.collect::<Result<_, _>>()?;
    let mut lines = Lines { bytes: Vec::with_capacity(batch.num_rows() * 64 * columns.len().max(1)), ends: Vec::new() };
    lines.ends.reserve(batch.num_rows());
    let mut days = Day { number: i64::MIN, text: String::new() };
    for row in 0..batch.num_rows() {
        lines.bytes.push(b'{');
        let mut first = true;
        for column in columns.iter_mut().filter(|column| !column.is_null(row)) {
            if !first {
                lines.bytes.push(b',');
            }
            first = false;
            lines.bytes.extend_from_slice(&column.name);
            column.write(row, &mut days, &mut lines.bytes);
        }
        lines.bytes.push(b'}');
        lines.ends.push(lines.bytes.len());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, Float32Array, LargeStringArray, ListArray, TimestampMillisecondArray};
    use arrow::datatypes::{Int32Type, Int64Type};
    use arrow::json::LineDelimitedWriter;

    use super::*;

    #[test]
    fn every_row_is_what_arrow_writes() {
        let times =
            [0, 1, -1, 999_999, 1_000, 1_705_312_800_123_000, 1_705_312_799_999_999, -62_167_219_200_000_001, 1 << 57];
        let texts = ["", "plain", "\"quoted\" \\ / \n\r\t\u{8}\u{c}\u{1}\u{7f}", "naïve \u{1f600} \u{2028}"];
        let doubles = [0.0, -0.0, 1.0, 0.1, 1e16, 1e21, 1e-7, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, -12345.678];
        let of = |row: usize| (row % 4 != 3).then_some(row);
        let rows = 0..40usize;
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(rows.clone().map(|row| of(row).map(|row| texts[row / 4 % 4])).collect::<StringArray>())),
            (
                "a \"name\"",
                Arc::new(rows.clone().map(|row| of(row).map(|row| row as i64 - 20)).collect::<Int64Array>()),
            ),
            ("whole", Arc::new(Int32Array::from_iter_values(rows.clone().map(|row| i32::MIN + row as i32)))),
            (
                "double",
                Arc::new(rows.clone().map(|row| of(row).map(|row| doubles[row % 11])).collect::<Float64Array>()),
            ),
            ("single", Arc::new(rows.clone().map(|row| of(row).map(|row| row as f32 / 3.0)).collect::<Float32Array>())),
            ("boolean", Arc::new(rows.clone().map(|row| of(row).map(|row| row % 3 == 0)).collect::<BooleanArray>())),
            (
                "time",
                Arc::new(
                    rows.clone()
                        .map(|row| of(row).map(|row| times[row % 9]))
                        .collect::<TimestampMicrosecondArray>()
                        .with_timezone("UTC"),
                ),
            ),
            (
                "elsewhere",
                Arc::new(
                    TimestampMillisecondArray::from_iter_values(rows.clone().map(|row| row as i64 * 7_777_777))
                        .with_timezone("+07:00"),
                ),
            ),
            ("large", Arc::new(LargeStringArray::from_iter_values(rows.clone().map(|row| format!("<{row}>"))))),
            (
                "few",
                Arc::new(
                    rows.clone().map(|row| of(row).map(|row| texts[row % 4])).collect::<DictionaryArray<Int32Type>>(),
                ),
            ),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
                    rows.clone().map(|row| of(row).map(|row| vec![Some(row as i64), None])),
                )),
            ),
        ];
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
                .unwrap();
        for batch in [batch.clone(), batch.slice(13, 20), batch.slice(3, 0)] {
            let mut writer = LineDelimitedWriter::new(Vec::new());
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
            let arrow = String::from_utf8(writer.into_inner()).unwrap();
            let wanted: Vec<serde_json::Value> =
                arrow.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let written = lines(&batch).unwrap();
            let found: Vec<serde_json::Value> =
                written.iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
            assert_eq!(found, wanted);
        }
    }
}
