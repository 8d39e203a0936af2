//! Spark's names of types.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::words::{Read, Words};
use crate::Error;
use crate::lake::schema::timestamptz;

/// Reads a type: `BIGINT`, `DECIMAL(10, 2)`, `ARRAY<STRING>`, `STRUCT<a: INT>`.
pub(super) fn data_type(words: &mut Words<'_>) -> Read<DataType> {
    let mut closing = 0;
    let found = nested(words, &mut closing)?;
    if closing > 0 { words.unexpected("a type with as many `<` as `>`") } else { Ok(found) }
}

/// `closing` counts the `>` that were read beyond the type's own: the
/// tokenizer reads `>>` as one sign.
fn nested(words: &mut Words<'_>, closing: &mut usize) -> Read<DataType> {
    let name = words.name()?;
    Ok(match name.to_ascii_uppercase().as_str() {
        "BOOLEAN" | "BOOL" => DataType::Boolean,
        "TINYINT" | "BYTE" | "SMALLINT" | "SHORT" | "INT" | "INTEGER" => DataType::Int32,
        "BIGINT" | "LONG" => DataType::Int64,
        "FLOAT" | "REAL" => DataType::Float32,
        "DOUBLE" => DataType::Float64,
        "STRING" => DataType::Utf8,
        "VARCHAR" | "CHAR" | "CHARACTER" => {
            if words.sign(&Token::LParen) {
                words.number::<u32>()?;
                words.expect_sign(&Token::RParen)?;
            }
            DataType::Utf8
        }
        "BINARY" => DataType::Binary,
        "DATE" => DataType::Date32,
        "TIMESTAMP" | "TIMESTAMP_LTZ" | "TIMESTAMPTZ" => timestamptz(),
        "TIMESTAMP_NTZ" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "DECIMAL" | "DEC" | "NUMERIC" => decimal(words)?,
        "ARRAY" => {
            words.expect_sign(&Token::Lt)?;
            let item = nested(words, closing)?;
            close(words, closing)?;
            DataType::List(Arc::new(Field::new("element", item, true)))
        }
        "MAP" => {
            words.expect_sign(&Token::Lt)?;
            let key = nested(words, closing)?;
            words.expect_sign(&Token::Comma)?;
            let value = nested(words, closing)?;
            close(words, closing)?;
            let entries = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
        }
        "STRUCT" => {
            words.expect_sign(&Token::Lt)?;
            let mut members = Vec::new();
            loop {
                let name = words.name()?;
                words.sign(&Token::Colon);
                let of = nested(words, closing)?;
                let required = *closing == 0 && words.take_all(&["NOT", "NULL"]);
                members.push(Field::new(name, of, !required));
                if *closing > 0 || !words.sign(&Token::Comma) {
                    break;
                }
            }
            close(words, closing)?;
            DataType::Struct(Fields::from(members))
        }
        _ => {
            return Err(Error::invalid(format!("`{name}` is not a type that a table can have"))
                .hint(
                    "use BOOLEAN, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), STRING, BINARY, DATE, TIMESTAMP, \
                     TIMESTAMP_NTZ, ARRAY<…>, MAP<…> or STRUCT<…>",
                )
                .into());
        }
    })
}

fn decimal(words: &mut Words<'_>) -> Read<DataType> {
    let (mut precision, mut scale) = (10u8, 0i8);
    if words.sign(&Token::LParen) {
        precision = words.number()?;
        if words.sign(&Token::Comma) {
            scale = words.number()?;
        }
        words.expect_sign(&Token::RParen)?;
    }
    if precision == 0 || precision > 38 || scale as u8 > precision {
        return Err(Error::invalid(format!("`DECIMAL({precision}, {scale})` is not a type"))
            .hint("the precision is from 1 to 38, the scale at most the precision")
            .into());
    }
    Ok(DataType::Decimal128(precision, scale))
}

fn close(words: &mut Words<'_>, closing: &mut usize) -> Read<()> {
    if *closing > 0 {
        *closing -= 1;
    } else if words.sign(&Token::ShiftRight) {
        *closing += 1;
    } else {
        words.expect_sign(&Token::Gt)?;
    }
    Ok(())
}
