//! Statements as Spark writes them: those that read go to the query engine,
//! the others are commands of the lake.

mod alter;
mod call;
mod create;
mod types;
mod words;

use datafusion::common::DataFusionError;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{Delete, Insert, Merge, Update};
use datafusion::sql::sqlparser::parser::ParserError;

pub(super) use call::Call;
pub(super) use create::{CreateTable, Source};

use super::plan_error;
use super::travel::{self, Pinned, VersionedDialect};
use crate::lake::TableName;
use crate::lake::evolve::Alteration;
use crate::lake::refs::{Existing, RefKind, Retention};
use crate::{Error, Result};
use words::Words;
pub(in crate::sql) use words::table_name;

/// One statement.
#[derive(Debug)]
pub(super) enum Statement {
    /// It only reads.
    Query(Box<EngineStatement>, Vec<Pinned>),
    /// `CREATE TABLE … USING iceberg`.
    CreateTable(Box<CreateTable>),
    /// `CREATE NAMESPACE`.
    CreateNamespace { name: String, if_not_exists: bool },
    /// `DROP TABLE`.
    DropTable { name: TableName, if_exists: bool },
    /// `ALTER TABLE` of columns, partition fields and properties.
    AlterTable { name: TableName, changes: Vec<Alteration> },
    /// `ALTER TABLE … CREATE TAG | BRANCH`.
    SetRef(SetRef),
    /// `ALTER TABLE … DROP TAG | BRANCH`.
    DropRef { table: TableName, kind: RefKind, name: String, if_exists: bool },
    /// `CALL system.procedure(…)`.
    Call(Call),
    /// `INSERT INTO`.
    Insert(Box<Insert>, Vec<Pinned>),
    /// `DELETE FROM`.
    Delete(Box<Delete>, Vec<Pinned>),
    /// `UPDATE`.
    Update(Box<Update>, Vec<Pinned>),
    /// `MERGE INTO`.
    Merge(Box<Merge>, Vec<Pinned>),
    /// `SET TIME ZONE`.
    SetTimeZone(String),
}

/// A tag or branch to make.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SetRef {
    pub table: TableName,
    pub kind: RefKind,
    pub name: String,
    pub snapshot_id: Option<i64>,
    pub retention: Retention,
    pub existing: Existing,
}

/// Parses one statement.
pub(super) fn parse(what: &str, sql: &str) -> Result<Statement> {
    let dialect = VersionedDialect::default();
    let tokens = super::tokens::tokens(what, sql, &dialect)?;
    let mut words = Words::new(&dialect, &tokens);
    let failed = |problem: Problem| problem.locate(what, sql);
    let command = if words.take("CREATE") {
        create::create(&mut words).map_err(failed)?
    } else if words.take("ALTER") {
        words.expect("TABLE").and_then(|()| alter::alter(&mut words)).map(Some).map_err(failed)?
    } else if words.take("DROP") {
        create::drop(&mut words).map_err(failed)?
    } else if words.take("CALL") {
        call::call(&mut words).map(Some).map_err(failed)?
    } else if words.take_all(&["SET", "TIME", "ZONE"]) {
        words
            .text_or_word()
            .and_then(|zone| words.end().map(|()| zone))
            .map(|zone| Some(Statement::SetTimeZone(zone)))
            .map_err(failed)?
    } else {
        None
    };
    match command {
        Some(Statement::CreateTable(mut table)) => {
            if let Some(Source::At(index)) = table.source {
                let rest = tokens[index.min(tokens.len())..].to_vec();
                match travel::parse_statement(what, sql, rest, &dialect)? {
                    Statement::Query(query, pinned) => table.source = Some(Source::Query(query, pinned)),
                    _ => return Err(Error::invalid(format!("{what}: a query must stand after AS"))),
                }
            }
            Ok(Statement::CreateTable(table))
        }
        Some(command) => Ok(command),
        None => travel::parse_statement(what, sql, tokens, &dialect),
    }
}

/// What is wrong with a command: the parser's complaint with its place, or
/// ours.
#[derive(Debug)]
pub(super) enum Problem {
    Syntax(ParserError),
    Meaning(Error),
}

impl Problem {
    fn locate(self, what: &str, sql: &str) -> Error {
        match self {
            Self::Syntax(error) => plan_error(what, sql, DataFusionError::SQL(Box::new(error), None)),
            Self::Meaning(error) => {
                let located = Error::new(error.kind(), format!("{what}: {error}"));
                match error.get_hint() {
                    Some(hint) => located.hint(hint),
                    None => located,
                }
            }
        }
    }
}

impl From<ParserError> for Problem {
    fn from(error: ParserError) -> Self {
        Self::Syntax(error)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Meaning(error)
    }
}
