//! `CREATE TABLE … USING iceberg`, `CREATE NAMESPACE`, `DROP TABLE`.

use std::collections::HashMap;

use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::tokenizer::Token;
use iceberg::spec::Transform;

use super::super::travel::Pinned;
use super::types::data_type;
use super::words::{Read, Words};
use super::{Problem, Statement};
use crate::Error;
use crate::lake::TableName;
use crate::lake::schema::Column;

/// A table to make.
#[derive(Debug)]
pub(crate) struct CreateTable {
    pub name: TableName,
    pub if_not_exists: bool,
    pub columns: Vec<Column>,
    pub partition_by: Vec<(String, Transform)>,
    pub properties: HashMap<String, String>,
    pub location: Option<String>,
    /// `AS SELECT …`.
    pub source: Option<Source>,
}

/// The query of `AS SELECT`.
#[derive(Debug)]
pub(crate) enum Source {
    /// It begins at this token.
    At(usize),
    /// Parsed.
    Query(Box<EngineStatement>, Vec<Pinned>),
}

/// After `CREATE`; `None` when it makes something else than a table.
pub(super) fn create(words: &mut Words<'_>) -> Read<Option<Statement>> {
    if words.take("NAMESPACE") || words.take("DATABASE") || words.take("SCHEMA") {
        let if_not_exists = words.take_all(&["IF", "NOT", "EXISTS"]);
        let name = words.name()?;
        insightera_core::validate_name("namespace", &name).map_err(|e| Problem::Meaning(e.into()))?;
        words.end()?;
        return Ok(Some(Statement::CreateNamespace { name, if_not_exists }));
    }
    if words.take_all(&["OR", "REPLACE", "TABLE"]) {
        return Err(Error::invalid("CREATE OR REPLACE TABLE is not supported")
            .hint("the history of the old table would be lost: use DROP TABLE and CREATE TABLE, or ALTER TABLE")
            .into());
    }
    if !words.take("TABLE") {
        return Ok(None);
    }
    let if_not_exists = words.take_all(&["IF", "NOT", "EXISTS"]);
    let mut table = CreateTable {
        name: words.table()?,
        if_not_exists,
        columns: Vec::new(),
        partition_by: Vec::new(),
        properties: HashMap::new(),
        location: None,
        source: None,
    };
    if words.peek() == Token::LParen {
        table.columns = words.list(column)?;
    }
    let mut partition_columns = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    loop {
        let clause = if words.take("USING") {
            let format = words.name()?;
            if !format.eq_ignore_ascii_case("iceberg") {
                return Err(Error::invalid(format!("table `{}` cannot be made USING {format}", table.name))
                    .hint("tables here are Iceberg tables: write USING iceberg")
                    .into());
            }
            "USING"
        } else if words.take_all(&["PARTITIONED", "BY"]) {
            for field in words.list(partition)? {
                table.partition_by.push((field.column.clone(), field.transform));
                partition_columns.extend(field.declared);
            }
            "PARTITIONED BY"
        } else if words.take("TBLPROPERTIES") {
            table.properties.extend(properties(words)?);
            "TBLPROPERTIES"
        } else if words.take("COMMENT") {
            let text = words.text()?;
            table.properties.insert("comment".into(), text);
            "COMMENT"
        } else if words.take("LOCATION") {
            table.location = Some(words.text()?);
            "LOCATION"
        } else if words.take("AS") {
            table.source = Some(Source::At(words.index()));
            break;
        } else {
            break;
        };
        if seen.contains(&clause) {
            return Err(Error::invalid(format!("{clause} stands twice in CREATE TABLE `{}`", table.name)).into());
        }
        seen.push(clause);
    }
    // Hive's way: the type of a partition column in PARTITIONED BY.
    table.columns.extend(partition_columns);
    if table.source.is_none() {
        words.end()?;
        if table.columns.is_empty() {
            return Err(Error::invalid(format!("table `{}` has no columns", table.name)).into());
        }
    } else if !table.columns.is_empty() {
        return Err(Error::invalid(format!("CREATE TABLE `{}` has columns and AS SELECT", table.name))
            .hint("the columns of AS SELECT are those of its query: leave one of the two away")
            .into());
    }
    Ok(Some(Statement::CreateTable(Box::new(table))))
}

/// After `DROP`; `None` when it drops something else.
pub(super) fn drop(words: &mut Words<'_>) -> Read<Option<Statement>> {
    if !words.take("TABLE") {
        return Ok(None);
    }
    let if_exists = words.take_all(&["IF", "EXISTS"]);
    let name = words.table()?;
    if words.take("PURGE") {
        return Err(Error::invalid("DROP TABLE … PURGE is not supported")
            .hint("DROP TABLE leaves the files in the warehouse, so that the table can be registered again")
            .into());
    }
    words.end()?;
    Ok(Some(Statement::DropTable { name, if_exists }))
}

/// `name type [NOT NULL] [COMMENT 'text']`.
pub(super) fn column(words: &mut Words<'_>) -> Read<Column> {
    let name = words.column()?;
    let of = data_type(words)?;
    let mut column = Column::nullable(&name, of);
    loop {
        if words.take_all(&["NOT", "NULL"]) {
            column.nullable = false;
        } else if words.take("NULL") {
        } else if words.take("COMMENT") {
            column.doc = Some(words.text()?);
        } else if words.take("DEFAULT") || words.take("GENERATED") {
            return Err(Error::invalid(format!("column `{name}`: DEFAULT and GENERATED are not supported"))
                .hint("format version 2 has no default values; write them in the query that inserts")
                .into());
        } else {
            return Ok(column);
        }
    }
}

/// A field of `PARTITIONED BY`.
pub(super) struct PartitionBy {
    pub column: String,
    pub transform: Transform,
    /// A column that is declared there.
    pub declared: Option<Column>,
}

/// `column`, `days(column)`, `bucket(16, column)`, `truncate(column, 4)`.
pub(super) fn partition(words: &mut Words<'_>) -> Read<PartitionBy> {
    let name = words.name()?;
    if !words.sign(&Token::LParen) {
        let declared = match words.peek() {
            Token::Word(_) => {
                let mut declared = Column::nullable(&name, data_type(words)?);
                if words.take("COMMENT") {
                    declared.doc = Some(words.text()?);
                }
                Some(declared)
            }
            _ => None,
        };
        return Ok(PartitionBy { column: name, transform: Transform::Identity, declared });
    }
    let width = |words: &mut Words<'_>| -> Read<u32> {
        let width: u32 = words.number()?;
        if width == 0 || width > i32::MAX as u32 {
            return Err(Error::invalid(format!("`{name}` needs a number of 1 or more")).into());
        }
        Ok(width)
    };
    let (column, transform) = match name.to_ascii_lowercase().as_str() {
        "years" | "year" => (words.column()?, Transform::Year),
        "months" | "month" => (words.column()?, Transform::Month),
        "days" | "day" | "date" => (words.column()?, Transform::Day),
        "hours" | "hour" | "date_hour" => (words.column()?, Transform::Hour),
        "identity" => (words.column()?, Transform::Identity),
        "bucket" => {
            let count = width(words)?;
            words.expect_sign(&Token::Comma)?;
            (words.column()?, Transform::Bucket(count))
        }
        "truncate" => {
            if let Token::Number(..) = words.peek() {
                let length = width(words)?;
                words.expect_sign(&Token::Comma)?;
                (words.column()?, Transform::Truncate(length))
            } else {
                let column = words.column()?;
                words.expect_sign(&Token::Comma)?;
                (column, Transform::Truncate(width(words)?))
            }
        }
        _ => {
            return Err(Error::invalid(format!("`{name}` is not a partition transform"))
                .hint(
                    "write column, years(column), months(column), days(column), hours(column), bucket(n, column) \
                     or truncate(n, column)",
                )
                .into());
        }
    };
    words.expect_sign(&Token::RParen)?;
    Ok(PartitionBy { column, transform, declared: None })
}

/// `('key' = 'value', a.b = 1)`.
pub(super) fn properties(words: &mut Words<'_>) -> Read<HashMap<String, String>> {
    let mut found = HashMap::new();
    let pairs = words.list(|words| {
        let key = key(words)?;
        words.sign(&Token::Eq);
        let negative = words.sign(&Token::Minus);
        let value = match words.next() {
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => text,
            Token::Number(digits, _) if negative => format!("-{digits}"),
            Token::Number(digits, _) => digits,
            Token::Word(word) if ["true", "false"].contains(&word.value.to_ascii_lowercase().as_str()) => {
                word.value.to_ascii_lowercase()
            }
            Token::Word(word) if word.quote_style == Some('"') => word.value,
            other => {
                return Err(Error::invalid(format!("`{other}` is not a value of property `{key}`"))
                    .hint("write the value in single quotes")
                    .into());
            }
        };
        Ok((key, value))
    })?;
    for (key, value) in pairs {
        if found.insert(key.clone(), value).is_some() {
            return Err(Error::invalid(format!("property `{key}` stands twice")).into());
        }
    }
    Ok(found)
}

/// A property's key: `'a.b'` or `a.b`.
pub(super) fn key(words: &mut Words<'_>) -> Read<String> {
    if let Token::SingleQuotedString(text) = words.peek() {
        words.next();
        return Ok(text);
    }
    let mut key = words.name()?;
    while words.sign(&Token::Period) {
        key.push('.');
        key.push_str(&words.name()?);
    }
    Ok(key)
}
