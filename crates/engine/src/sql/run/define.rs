//! Tables and namespaces: making, changing, dropping.

use super::{QueryResult, long, row, text};
use crate::lake::evolve::{self, Alteration};
use crate::lake::schema::Column;
use crate::lake::storage;
use crate::lake::{Lake, NewTable, TableName, commit};
use crate::sql::query;
use crate::sql::statement::{CreateTable, Source};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// `CREATE TABLE`.
pub(super) async fn create(workspace: &Workspace, zone: &str, sql: &str, create: CreateTable) -> Result<QueryResult> {
    let lake = workspace.lake();
    if lake.find(&create.name)?.is_some() || workspace.project().settings.inputs.contains_key(&create.name.to_string())
    {
        return if create.if_not_exists { row([("status", text("exists"))]) } else { Err(exists(&create.name)) };
    }
    let location = create.location.as_deref().map(folder).transpose()?;
    let mut new = NewTable {
        name: create.name.clone(),
        columns: create.columns,
        partition_by: create.partition_by,
        properties: create.properties,
        location,
    };
    let plan = match create.source {
        Some(Source::Query(statement, pinned)) => {
            let context = crate::sql::session(workspace, zone)?;
            let plan = query::plan(workspace, &context, sql, *statement, &pinned).await?;
            let fields = plan.schema().fields().iter();
            new.columns = fields
                .map(|f| Column { nullable: true, ..Column::nullable(f.name(), f.data_type().clone()) })
                .collect();
            Some((context, plan))
        }
        _ => None,
    };
    let draft = lake.draft_table(&new)?;
    let table = commit::create(lake, &draft)?;
    if table.metadata().uuid() != draft.metadata().uuid() {
        return if create.if_not_exists { row([("status", text("exists"))]) } else { Err(exists(&create.name)) };
    }
    let Some((context, plan)) = plan else { return row([("status", text("created"))]) };
    match super::change::append(lake, &context, sql, &table, plan, &[]).await {
        Ok((rows, snapshot)) => {
            row([("status", text("created")), ("added_rows", super::count(rows)), ("snapshot_id", long(snapshot))])
        }
        Err(error) => {
            // Nobody can have used a table that is empty and new.
            let now = lake.find(&create.name)?;
            if now.is_some_and(|now| now.metadata_location() == table.metadata_location()) {
                lake.catalog().drop_table(&create.name)?;
            }
            Err(error)
        }
    }
}

fn exists(name: &TableName) -> Error {
    Error::conflict(format!("there is a table `{name}` already"))
        .hint("CREATE TABLE IF NOT EXISTS leaves it as it is; ALTER TABLE changes it")
}

fn folder(location: &str) -> Result<String> {
    if !(location.contains("://") || location.starts_with('/') || location.starts_with("file:")) {
        return Err(Error::invalid(format!("`{location}` is not a folder that a table can have"))
            .hint("write an absolute path or a URL, or leave LOCATION away: the warehouse has a folder for it"));
    }
    if storage::is_local(location) {
        return Ok(format!("file://{}", storage::local_path(location).display()));
    }
    Ok(location.trim_end_matches('/').to_owned())
}

/// `CREATE NAMESPACE`.
pub(super) fn namespace(lake: &Lake, name: &str, if_not_exists: bool) -> Result<QueryResult> {
    let there = lake.catalog().has_namespace(name)?;
    if there && !if_not_exists {
        return Err(Error::conflict(format!("there is a namespace `{name}` already")));
    }
    lake.catalog().ensure_namespace(name)?;
    row([("status", text(if there { "exists" } else { "created" }))])
}

/// `DROP TABLE`: the catalog forgets the table, its files stay.
pub(super) fn drop(lake: &Lake, name: &TableName, if_exists: bool) -> Result<QueryResult> {
    if lake.find(name)?.is_none() && if_exists {
        return row([("status", text("unchanged"))]);
    }
    let table = lake.table(name)?;
    lake.catalog().drop_table(name)?;
    row([("status", text("dropped")), ("metadata_location", text(table.metadata_location()))])
}

/// `ALTER TABLE`.
pub(super) fn alter(lake: &Lake, name: &TableName, changes: &[Alteration]) -> Result<QueryResult> {
    let before = lake.table(name)?;
    let table = evolve::alter(lake, name, changes)?;
    let same = before.metadata_location() == table.metadata_location();
    row([("status", text(if same { "unchanged" } else { "altered" }))])
}
