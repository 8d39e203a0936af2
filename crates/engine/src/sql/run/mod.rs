//! Runs statements: those that read, and the commands of the lake.

mod call;
mod change;
mod define;
mod merge;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};

use super::query::{self, QueryResult};
use super::statement::{self, Statement};
use crate::lake::refs;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Runs statements one after the other; `SET TIME ZONE` holds for those that
/// follow.
#[derive(Debug)]
pub struct Shell<'a> {
    workspace: &'a Workspace,
    zone: String,
}

impl<'a> Shell<'a> {
    /// A shell in the project's time zone.
    pub fn new(workspace: &'a Workspace) -> Self {
        Self { workspace, zone: workspace.project().settings.sql.time_zone.clone() }
    }

    /// Runs one statement. Those that change something answer one row that
    /// says what.
    ///
    /// # Errors
    /// A syntax error with its line and a caret; unknown tables, columns,
    /// procedures and arguments with the nearest names; a clause that is not
    /// supported; conflicts with other writers that did not end.
    pub async fn run(&mut self, sql: &str) -> Result<QueryResult> {
        let (lake, zone) = (self.workspace.lake(), self.zone.as_str());
        match statement::parse("sql", sql)? {
            Statement::Query(statement, pinned) => query::read(self.workspace, zone, sql, *statement, &pinned).await,
            Statement::CreateTable(table) => define::create(self.workspace, zone, sql, *table).await,
            Statement::CreateNamespace { name, if_not_exists } => define::namespace(lake, &name, if_not_exists),
            Statement::DropTable { name, if_exists } => define::drop(lake, &name, if_exists),
            Statement::AlterTable { name, changes } => define::alter(lake, &name, &changes),
            Statement::SetRef(set) => {
                let table =
                    refs::set(lake, &set.table, set.kind, &set.name, set.snapshot_id, set.retention, set.existing)?;
                let snapshot = table.metadata().snapshot_for_ref(&set.name).map(|s| s.snapshot_id());
                row([("name", text(&set.name)), ("snapshot_id", long(snapshot))])
            }
            Statement::DropRef { table, kind, name, if_exists } => {
                refs::drop(lake, &table, kind, &name, if_exists)?;
                row([("status", text("dropped"))])
            }
            Statement::Call(call) => call::call(self.workspace, zone, &call).await,
            Statement::Insert(insert, pinned) => change::insert(self.workspace, zone, sql, *insert, &pinned).await,
            Statement::Delete(delete, pinned) => change::delete(self.workspace, zone, sql, *delete, &pinned).await,
            Statement::Update(update, pinned) => change::update(self.workspace, zone, sql, *update, &pinned).await,
            Statement::Merge(merge, pinned) => merge::merge(self.workspace, zone, sql, *merge, &pinned).await,
            Statement::SetTimeZone(name) => {
                crate::config::check_time_zone(&name)?;
                self.zone = name;
                row([("status", text(&format!("time zone {}", self.zone)))])
            }
        }
    }
}

/// A result of one row.
fn row<const N: usize>(columns: [(&str, ArrayRef); N]) -> Result<QueryResult> {
    rows(columns)
}

fn rows<const N: usize>(columns: [(&str, ArrayRef); N]) -> Result<QueryResult> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .map_err(|e| Error::internal(format!("a result is not a table: {e}")))?;
    Ok(QueryResult { schema: batch.schema(), batches: vec![batch] })
}

fn text(value: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![value]))
}

fn long(value: Option<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(vec![value]))
}

fn int(value: usize) -> ArrayRef {
    Arc::new(Int32Array::from(vec![i32::try_from(value).unwrap_or(i32::MAX)]))
}

fn count(value: u64) -> ArrayRef {
    long(Some(i64::try_from(value).unwrap_or(i64::MAX)))
}
