//! Tables at a point in time, `VERSION AS OF`, `TIMESTAMP AS OF` and
//! `FOR SYSTEM_TIME AS OF`, and metadata tables, `namespace.table.snapshots`:
//! taken out of a statement before it is planned.
//!
//! The query engine's own parser drops these clauses in silence and answers
//! with today's rows; here each becomes a pinned table of its own, and one that
//! cannot be honoured is an error.

use std::any::TypeId;
use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParserBuilder, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast::{
    self, Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor, TableVersion, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use super::metadata_tables::MetadataTable;
use super::statement::Statement;
use super::tokens::tokens;
use super::{asof, functions, plan_error};
use crate::lake::{Table, refs};
use crate::{Error, Result};

/// The generic dialect with table versions.
#[derive(Debug, Default)]
pub(super) struct VersionedDialect(GenericDialect);

impl Dialect for VersionedDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        self.0.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.0.is_identifier_part(ch)
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }
}

/// A table reference with a version or a metadata table: what it names, and the
/// name it got.
#[derive(Debug)]
pub struct Pinned {
    /// `namespace.table` as written.
    pub table: String,
    /// The third part of the name.
    pub metadata: Option<MetadataTable>,
    /// Which version, if it says so.
    pub version: Option<Version>,
    /// The temporary name in the statement.
    pub name: String,
}

/// A version as written; expressions are left to the engine.
#[derive(Debug, Clone)]
pub enum Version {
    /// A snapshot id or a tag.
    Snapshot(String),
    /// An expression of a time.
    Time(String),
}

/// Parses one statement of the query engine and takes the versions out of it.
pub fn parse(what: &str, sql: &str) -> Result<(EngineStatement, Vec<Pinned>)> {
    let dialect = VersionedDialect::default();
    let statement = engine_statement(what, sql, tokens(what, sql, &dialect)?, &dialect)?;
    take_versions(what, statement)
}

/// The same for tokens, with the statements that write told apart.
pub(super) fn parse_statement(
    what: &str,
    sql: &str,
    tokens: Vec<TokenWithSpan>,
    dialect: &VersionedDialect,
) -> Result<Statement> {
    let (statement, pinned) = take_versions(what, engine_statement(what, sql, tokens, dialect)?)?;
    Ok(match statement {
        EngineStatement::Statement(inner) => match *inner {
            ast::Statement::Insert(insert) => Statement::Insert(Box::new(insert), pinned),
            ast::Statement::Delete(delete) => Statement::Delete(Box::new(delete), pinned),
            ast::Statement::Update(update) => Statement::Update(Box::new(update), pinned),
            ast::Statement::Merge(merge) => Statement::Merge(Box::new(merge), pinned),
            other => Statement::Query(Box::new(EngineStatement::Statement(Box::new(other))), pinned),
        },
        other => Statement::Query(Box::new(other), pinned),
    })
}

fn engine_statement(
    what: &str,
    sql: &str,
    tokens: Vec<TokenWithSpan>,
    dialect: &VersionedDialect,
) -> Result<EngineStatement> {
    let mut statements = DFParserBuilder::new(tokens)
        .with_dialect(dialect)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|e| plan_error(what, sql, e))?;
    if statements.len() > 1 {
        return Err(Error::invalid(format!("{what}: there are {} statements, one is expected", statements.len())));
    }
    statements.pop_front().ok_or_else(|| Error::invalid(format!("{what}: there is no statement")))
}

fn take_versions(what: &str, mut statement: EngineStatement) -> Result<(EngineStatement, Vec<Pinned>)> {
    let mut visitor = TakeVersions::default();
    let target = match &mut statement {
        EngineStatement::Statement(inner) => Some(inner),
        EngineStatement::Explain(explain) => match explain.statement.as_mut() {
            EngineStatement::Statement(inner) => Some(inner),
            _ => None,
        },
        _ => None,
    };
    if let Some(target) = target
        && let Err(problem) = match target.visit(&mut visitor) {
            ControlFlow::Break(problem) => Err(problem),
            ControlFlow::Continue(()) => {
                asof::fold(target.as_mut());
                functions::rewrite(target.as_mut())
            }
        }
    {
        let located = Error::new(problem.kind(), format!("{what}: {problem}"));
        return Err(problem.get_hint().map(str::to_owned).into_iter().fold(located, Error::hint));
    }
    Ok((statement, visitor.found))
}

#[derive(Default)]
struct TakeVersions {
    found: Vec<Pinned>,
}

impl VisitorMut for TakeVersions {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, version, alias, .. } = factor else { return ControlFlow::Continue(()) };
        let mut parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(|i| i.value.clone()).collect();
        // Namespaces have one level: a third part is a metadata table.
        let third = if parts.len() == 3 { parts.pop() } else { None };
        if version.is_none() && third.is_none() {
            return ControlFlow::Continue(());
        }
        let version = match version.take() {
            None => None,
            Some(TableVersion::VersionAsOf(e)) => Some(Version::Snapshot(e.to_string())),
            Some(TableVersion::TimestampAsOf(e) | TableVersion::ForSystemTimeAsOf(e)) => {
                Some(Version::Time(e.to_string()))
            }
            Some(other) => {
                let problem = format!("`{other}` is not supported; use VERSION AS OF or TIMESTAMP AS OF");
                return ControlFlow::Break(Error::invalid(problem));
            }
        };
        let table = parts.join(".");
        let metadata = match third.map(|third| MetadataTable::parse(&table, &third)).transpose() {
            Ok(metadata) => metadata,
            Err(problem) => return ControlFlow::Break(problem),
        };
        let temporary = format!("__version_{}", self.found.len());
        if alias.is_none() {
            let last = name.0.last().and_then(|part| part.as_ident()).cloned();
            let label = last.unwrap_or_else(|| Ident::new(&temporary));
            *alias = Some(TableAlias { explicit: true, name: label, columns: Vec::new() });
        }
        self.found.push(Pinned { table, metadata, version, name: temporary.clone() });
        *name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new(temporary))]);
        ControlFlow::Continue(())
    }
}

/// The snapshot that `VERSION AS OF text` means: a number, or the name of a tag
/// or branch.
///
/// # Errors
/// When the table has neither.
pub fn snapshot_of_version(table: &Table, text: &str) -> Result<i64> {
    let metadata = table.metadata();
    let quoted = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let bare = quoted.unwrap_or(text);
    let quoted = quoted.or_else(|| text.starts_with(|c: char| !c.is_ascii_digit()).then_some(text));
    if let Ok(id) = bare.parse::<i64>()
        && metadata.snapshot_by_id(id).is_some()
    {
        return Ok(id);
    }
    if let Some(snapshot) = quoted.and_then(|name| metadata.snapshot_for_ref(name)) {
        return Ok(snapshot.snapshot_id());
    }
    let mut hint = existing(table);
    if quoted.is_some() {
        hint.push_str(&format!("; its tags and branches are {}", refs::listed(table)));
    }
    Err(Error::not_found(format!("table `{}` has no version {text}", table.name())).hint(hint))
}

/// The snapshot that was current at `millis`: by the table's own log.
pub fn snapshot_at(table: &Table, millis: i64, text: &str) -> Result<i64> {
    let log = table.metadata().history();
    let found = log.iter().rfind(|entry| entry.timestamp_ms() <= millis);
    found.map(|entry| entry.snapshot_id).ok_or_else(|| {
        Error::not_found(format!("table `{}` has no snapshot at or before {text}", table.name())).hint(existing(table))
    })
}

fn existing(table: &Table) -> String {
    let log = table.metadata().history();
    let show = |entry: &iceberg::spec::SnapshotLog| {
        let time = chrono::DateTime::from_timestamp_millis(entry.timestamp_ms())
            .map_or_else(|| "?".into(), |t| t.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
        format!("{} at {time} UTC", entry.snapshot_id)
    };
    match (log.first(), log.last()) {
        (Some(first), Some(last)) if first.snapshot_id != last.snapshot_id => {
            format!(
                "its first snapshot is {}, its last {}; `insightera table history {}` lists all",
                show(first),
                show(last),
                table.name()
            )
        }
        (Some(only), _) => {
            let text = format!("its only snapshot is {}", show(only));
            match table.metadata().current_snapshot().and_then(|snapshot| snapshot.parent_snapshot_id()) {
                // A catalog may keep one snapshot of each table, as Project Nessie does.
                Some(_) => format!("{text}; earlier ones were expired, or the catalog does not keep them"),
                None => text,
            }
        }
        _ => "it has no snapshot yet".to_owned(),
    }
}
