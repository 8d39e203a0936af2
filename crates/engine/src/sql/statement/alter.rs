//! `ALTER TABLE`, with Spark's words and those of Iceberg's extensions.

use datafusion::sql::sqlparser::tokenizer::Token;
use iceberg::spec::Transform;

use super::create::{self, key, partition, properties};
use super::types::data_type;
use super::words::{Read, Words};
use super::{SetRef, Statement};
use crate::Error;
use crate::lake::TableName;
use crate::lake::evolve::{Alteration, PartitionField, Place};
use crate::lake::refs::{Existing, RefKind, Retention};

/// After `ALTER TABLE`.
pub(super) fn alter(words: &mut Words<'_>) -> Read<Statement> {
    let name = words.table()?;
    let statement = if let Some(statement) = reference(words, &name)? {
        statement
    } else {
        Statement::AlterTable { changes: changes(words, &name)?, name }
    };
    words.end()?;
    Ok(statement)
}

fn changes(words: &mut Words<'_>, table: &TableName) -> Read<Vec<Alteration>> {
    if words.take_all(&["ADD", "PARTITION", "FIELD"]) {
        let (column, transform, name) = field(words)?;
        return Ok(vec![Alteration::AddPartitionField { column, transform, name }]);
    }
    if words.take_all(&["DROP", "PARTITION", "FIELD"]) {
        return Ok(vec![Alteration::DropPartitionField(old_field(words)?)]);
    }
    if words.take_all(&["REPLACE", "PARTITION", "FIELD"]) {
        let old = old_field(words)?;
        words.expect("WITH")?;
        let (column, transform, name) = field(words)?;
        return Ok(vec![Alteration::ReplacePartitionField { old, column, transform, name }]);
    }
    if words.take_all(&["SET", "TBLPROPERTIES"]) {
        return Ok(vec![Alteration::SetProperties(properties(words)?)]);
    }
    if words.take_all(&["UNSET", "TBLPROPERTIES"]) {
        let if_exists = words.take_all(&["IF", "EXISTS"]);
        return Ok(vec![Alteration::UnsetProperties { keys: words.list(key)?, if_exists }]);
    }
    if words.take_all(&["SET", "IDENTIFIER", "FIELDS"]) {
        return Ok(vec![Alteration::SetIdentifierFields(words.items(Words::column)?)]);
    }
    if words.take_all(&["DROP", "IDENTIFIER", "FIELDS"]) {
        return Ok(vec![Alteration::DropIdentifierFields(words.items(Words::column)?)]);
    }
    if words.take_all(&["ADD", "COLUMN"]) || words.take_all(&["ADD", "COLUMNS"]) {
        return if words.peek() == Token::LParen { words.list(add) } else { words.items(add) };
    }
    if words.take_all(&["DROP", "COLUMN"]) || words.take_all(&["DROP", "COLUMNS"]) {
        let if_exists = words.take_all(&["IF", "EXISTS"]);
        let columns =
            if words.peek() == Token::LParen { words.list(Words::column)? } else { words.items(Words::column)? };
        return Ok(columns.into_iter().map(|column| Alteration::DropColumn { column, if_exists }).collect());
    }
    if words.take_all(&["RENAME", "COLUMN"]) {
        let from = words.column()?;
        words.expect("TO")?;
        return Ok(vec![Alteration::RenameColumn { from, to: words.column()? }]);
    }
    if words.take_all(&["ALTER", "COLUMN"]) || words.take_all(&["CHANGE", "COLUMN"]) {
        return column(words);
    }
    let what = if words.take("RENAME") {
        "RENAME TO"
    } else if words.take("WRITE") {
        "WRITE ORDERED BY and WRITE DISTRIBUTED BY"
    } else if words.take_all(&["SET", "LOCATION"]) {
        "SET LOCATION"
    } else {
        return words.unexpected(
            "ADD, DROP, RENAME or ALTER COLUMN, ADD, DROP or REPLACE PARTITION FIELD, SET or UNSET TBLPROPERTIES, \
             CREATE, REPLACE or DROP TAG or BRANCH, SET or DROP IDENTIFIER FIELDS",
        );
    };
    Err(Error::invalid(format!("ALTER TABLE {table} … {what} is not supported")).into())
}

fn place(words: &mut Words<'_>) -> Read<Option<Place>> {
    Ok(if words.take("FIRST") {
        Some(Place::First)
    } else if words.take("AFTER") {
        Some(Place::After(words.column()?))
    } else {
        None
    })
}

fn add(words: &mut Words<'_>) -> Read<Alteration> {
    let column = create::column(words)?;
    Ok(Alteration::AddColumn { column, place: place(words)? })
}

fn column(words: &mut Words<'_>) -> Read<Vec<Alteration>> {
    let column = words.column()?;
    if let Some(place) = place(words)? {
        return Ok(vec![Alteration::MoveColumn { column, place }]);
    }
    if words.take_all(&["DROP", "NOT", "NULL"]) {
        return Ok(vec![Alteration::AllowNull { column }]);
    }
    if words.take_all(&["SET", "NOT", "NULL"]) {
        return Err(Error::invalid(format!(
            "column `{column}` cannot become NOT NULL: rows that are there may be null"
        ))
        .into());
    }
    if words.take("COMMENT") {
        return Ok(vec![Alteration::CommentColumn { column, comment: words.text()? }]);
    }
    if words.take("SET") || words.take("DROP") {
        return Err(Error::invalid(format!("column `{column}`: default values are not supported")).into());
    }
    words.take("TYPE");
    let to = data_type(words)?;
    let mut changes = vec![Alteration::WidenColumn { column: column.clone(), to }];
    if words.take("COMMENT") {
        changes.push(Alteration::CommentColumn { column, comment: words.text()? });
    }
    Ok(changes)
}

fn field(words: &mut Words<'_>) -> Read<(String, Transform, Option<String>)> {
    let field = partition_field(words)?;
    let name = if words.take("AS") { Some(words.name()?) } else { None };
    Ok((field.0, field.1, name))
}

fn partition_field(words: &mut Words<'_>) -> Read<(String, Transform)> {
    // `REPLACE PARTITION FIELD a WITH b`: a bare name ends at the next word.
    if let (Token::Word(_), false) = (words.peek(), words.second_is(&Token::LParen)) {
        return Ok((words.name()?, Transform::Identity));
    }
    let field = partition(words)?;
    Ok((field.column, field.transform))
}

fn old_field(words: &mut Words<'_>) -> Read<PartitionField> {
    let bare = !words.second_is(&Token::LParen);
    let (column, transform) = partition_field(words)?;
    Ok(if bare { PartitionField::Named(column) } else { PartitionField::Made(transform, column) })
}

/// `[CREATE [OR REPLACE] | REPLACE | DROP] TAG | BRANCH …`.
fn reference(words: &mut Words<'_>, table: &TableName) -> Read<Option<Statement>> {
    for (kind, word) in [(RefKind::Tag, "TAG"), (RefKind::Branch, "BRANCH")] {
        let mut existing = if words.take_all(&["CREATE", "OR", "REPLACE", word]) {
            Existing::Replace
        } else if words.take_all(&["CREATE", word]) {
            Existing::Refuse
        } else if words.take_all(&["REPLACE", word]) {
            Existing::Require
        } else if words.take_all(&["DROP", word]) {
            let if_exists = words.take_all(&["IF", "EXISTS"]);
            let name = words.text_or_word()?;
            return Ok(Some(Statement::DropRef { table: table.clone(), kind, name, if_exists }));
        } else {
            continue;
        };
        if existing == Existing::Refuse && words.take_all(&["IF", "NOT", "EXISTS"]) {
            existing = Existing::Keep;
        }
        let name = words.text_or_word()?;
        let snapshot_id = if words.take_all(&["AS", "OF", "VERSION"]) { Some(words.number()?) } else { None };
        let mut retention = Retention::default();
        if words.take("RETAIN") {
            retention.reference_ms = Some(milliseconds(words)?);
        }
        if kind == RefKind::Branch && words.take_all(&["WITH", "SNAPSHOT", "RETENTION"]) {
            let count: i64 = words.number()?;
            if words.take("SNAPSHOTS") {
                let count = i32::try_from(count).ok().filter(|count| *count > 0);
                retention.min_snapshots =
                    Some(count.ok_or_else(|| Error::invalid("the number of snapshots to keep is not an INT above 0"))?);
                if matches!(words.peek(), Token::Number(..)) {
                    retention.snapshot_ms = Some(milliseconds(words)?);
                }
            } else {
                retention.snapshot_ms = Some(unit(words, count)?);
            }
        }
        return Ok(Some(Statement::SetRef(SetRef {
            table: table.clone(),
            kind,
            name,
            snapshot_id,
            retention,
            existing,
        })));
    }
    Ok(None)
}

fn milliseconds(words: &mut Words<'_>) -> Read<i64> {
    let count: i64 = words.number()?;
    unit(words, count)
}

fn unit(words: &mut Words<'_>, count: i64) -> Read<i64> {
    let unit = if words.take("DAYS") || words.take("DAY") {
        86_400_000
    } else if words.take("HOURS") || words.take("HOUR") {
        3_600_000
    } else if words.take("MINUTES") || words.take("MINUTE") {
        60_000
    } else {
        return words.unexpected("DAYS, HOURS or MINUTES");
    };
    count
        .checked_mul(unit)
        .filter(|ms| *ms > 0)
        .ok_or_else(|| Error::invalid(format!("`{count}` is not a length of time")).into())
}
