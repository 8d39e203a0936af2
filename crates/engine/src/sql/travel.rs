//! Tables at a point in time, `VERSION AS OF`, `TIMESTAMP AS OF` and
//! `FOR SYSTEM_TIME AS OF`, and metadata tables, `namespace.table.snapshots`:
//! taken out of a statement before it is planned.
//!
//! The query engine's own parser drops these clauses in silence and answers
//! with today's rows; here each becomes a pinned table of its own, and one that
//! cannot be honoured is an error.

use std::any::TypeId;
use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    Ident, ObjectName, ObjectNamePart, TableAlias, TableFactor, TableVersion, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};

use super::metadata_tables::MetadataTable;
use super::plan_error;
use crate::error::{Error, Result};
use crate::lake::Table;

/// The generic dialect with table versions.
#[derive(Debug)]
struct VersionedDialect(GenericDialect);

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

/// Parses one statement and takes the versions out of it.
pub fn parse(what: &str, sql: &str) -> Result<(Statement, Vec<Pinned>)> {
    let dialect = VersionedDialect(GenericDialect {});
    let mut statements = DFParserBuilder::new(sql)
        .with_dialect(&dialect)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|e| plan_error(what, sql, e))?;
    if statements.len() > 1 {
        return Err(Error::invalid(format!("{what}: there are {} statements, one is expected", statements.len())));
    }
    let Some(mut statement) = statements.pop_front() else {
        return Err(Error::invalid(format!("{what}: there is no statement")));
    };
    let mut visitor = TakeVersions::default();
    let target = match &mut statement {
        Statement::Statement(inner) => Some(inner),
        Statement::Explain(explain) => match explain.statement.as_mut() {
            Statement::Statement(inner) => Some(inner),
            _ => None,
        },
        _ => None,
    };
    if let Some(target) = target
        && let ControlFlow::Break(problem) = target.visit(&mut visitor)
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

/// The snapshot that `VERSION AS OF text` means.
pub fn snapshot_of_version(table: &Table, text: &str) -> Result<i64> {
    let metadata = table.metadata();
    let bare = text.trim_matches('\'');
    if let Ok(id) = bare.parse::<i64>()
        && metadata.snapshot_by_id(id).is_some()
    {
        return Ok(id);
    }
    if text.starts_with('\'')
        && let Some(snapshot) = metadata.snapshot_for_ref(bare)
    {
        return Ok(snapshot.snapshot_id());
    }
    Err(Error::not_found(format!("table `{}` has no version {text}", table.name())).hint(existing(table)))
}

/// The snapshot that was current at `millis`: by the table's own log.
pub fn snapshot_at(table: &Table, millis: i64, text: &str) -> Result<i64> {
    let log = table.metadata().history();
    let found = log.iter().filter(|entry| entry.timestamp_ms() <= millis).next_back();
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
        (Some(only), _) => format!("its only snapshot is {}", show(only)),
        _ => "it has no snapshot yet".to_owned(),
    }
}
