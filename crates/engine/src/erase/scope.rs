//! Which tables of a project an order is about.

use std::collections::BTreeSet;

use crate::config::PipelineKind;
use crate::lake::erase::{Entity, Rule};
use crate::lake::{Table, TableName};
use crate::score::TableShape;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// A table and what it is to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InScope {
    /// The table.
    pub name: TableName,
    /// Which rows are the entity's.
    pub rule: Rule,
    /// Whether pipelines write it: its commits must respect the order.
    pub ours: bool,
}

/// The tables of an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Those that the entity is erased from.
    pub erased: Vec<InScope>,
    /// Other tables with the key columns: the user's own.
    pub kept: Vec<TableName>,
}

/// Parses `COLUMN=VALUE[,COLUMN=VALUE]`, or a value alone where the project has
/// one key.
///
/// # Errors
/// When it is neither, or several keys could be meant.
pub fn parse_entity(workspace: &Workspace, text: &str) -> Result<Entity> {
    let known = keys(workspace);
    let shown: Vec<String> = known.iter().map(|key| format!("`{}`", as_written(key))).collect();
    let hint = match shown.is_empty() {
        true => "write it as COLUMN=VALUE".to_owned(),
        false => format!("write it as {}", shown.join(" or ")),
    };
    if text.trim().is_empty() {
        return Err(Error::invalid("--entity is empty").hint(hint));
    }
    if !text.contains('=') {
        let mut known = known.into_iter();
        return match (known.next(), known.next()) {
            (Some(key), None) if key.len() == 1 => {
                Ok(Entity { columns: key.into_iter().collect(), values: vec![text.to_owned()] })
            }
            _ => Err(Error::invalid("--entity does not say of which columns it is a value").hint(hint)),
        };
    }
    let mut parts = Vec::new();
    for part in text.split(',') {
        let Some((column, value)) = part.split_once('=') else {
            return Err(Error::invalid("a part of --entity is not COLUMN=VALUE").hint(hint));
        };
        let column = column.trim();
        if column.is_empty() || value.is_empty() {
            return Err(Error::invalid("a part of --entity has no column or no value").hint(hint));
        }
        if parts.iter().any(|(known, _)| known == column) {
            return Err(Error::invalid(format!("--entity names column `{column}` twice")).hint(hint));
        }
        parts.push((column.to_owned(), value.to_owned()));
    }
    parts.sort();
    let (columns, values): (Vec<String>, Vec<String>) = parts.into_iter().unzip();
    if !known.is_empty() && !known.contains(&columns.iter().cloned().collect()) {
        return Err(Error::invalid(format!("no pipeline of the project is keyed by {}", columns.join(", "))).hint(hint));
    }
    Ok(Entity { columns, values })
}

fn as_written(key: &BTreeSet<String>) -> String {
    key.iter().map(|column| format!("{column}=VALUE")).collect::<Vec<_>>().join(",")
}

/// The keys of the project's pipelines and prediction tables.
fn keys(workspace: &Workspace) -> BTreeSet<BTreeSet<String>> {
    let project = workspace.project();
    let batch = project.names_of(PipelineKind::Batch).filter_map(|name| project.pipeline(name).ok());
    let streams = project.names_of(PipelineKind::Stream).filter_map(|name| project.stream(name).ok());
    let of_pipelines = batch.map(|p| p.entity_key).chain(streams.map(|s| s.entity_key));
    let mut keys: BTreeSet<BTreeSet<String>> = of_pipelines.map(|key| key.into_iter().collect()).collect();
    for name in workspace.lake().catalog().tables().unwrap_or_default() {
        if let Ok(Some(table)) = workspace.lake().find(&name)
            && let Some(shape) = TableShape::read(table.metadata().properties())
        {
            keys.insert(shape.key.into_iter().collect());
        }
    }
    keys
}

/// The pipelines that are keyed by the entity's columns.
pub fn pipelines(workspace: &Workspace, entity: &Entity) -> Vec<String> {
    let project = workspace.project();
    let keyed = |name: &&str| {
        let key = match project.kind(name) {
            Ok(PipelineKind::Batch) => project.pipeline(name).ok().map(|p| p.entity_key),
            Ok(PipelineKind::Stream) => project.stream(name).ok().map(|s| s.entity_key),
            Err(_) => None,
        };
        key.is_some_and(|key| same(&key, &entity.columns))
    };
    project.pipeline_names().filter(keyed).map(str::to_owned).collect()
}

fn same(key: &[String], columns: &[String]) -> bool {
    key.iter().collect::<BTreeSet<_>>() == columns.iter().collect()
}

/// The tables of an order; `named` are erased from whatever they are.
///
/// # Errors
/// When the catalog or a table cannot be read, or a named table has not the key
/// columns.
pub fn scope(workspace: &Workspace, entity: &Entity, named: &[TableName]) -> Result<Scope> {
    let lake = workspace.lake();
    let mut scope = Scope::default();
    for name in named {
        let table = lake.table(name)?;
        if let Some(missing) = entity.columns.iter().find(|column| !has(&table, column)) {
            return Err(Error::invalid(format!(
                "table `{name}` has no column `{missing}`: nothing of it is the entity's"
            ))
            .hint("leave the table out of --table"));
        }
    }
    for name in lake.catalog().tables()? {
        let Some(table) = lake.find(&name)? else { continue };
        let keyed = entity.columns.iter().all(|column| has(&table, column));
        let prediction = TableShape::read(table.metadata().properties());
        if prediction.is_some_and(|shape| same(&shape.key, &entity.columns)) || (keyed && is_alerts(&table)) {
            scope.erased.push(InScope { name, rule: Rule::Key, ours: true });
        } else if is_set_aside(&table) {
            scope.erased.push(InScope { name, rule: Rule::Mention, ours: true });
        } else if named.contains(&name) {
            scope.erased.push(InScope { name, rule: Rule::Key, ours: false });
        } else if keyed {
            scope.kept.push(name);
        }
    }
    Ok(scope)
}

/// Whether the table has, or had, the column.
fn has(table: &Table, column: &str) -> bool {
    table.metadata().schemas_iter().any(|schema| schema.field_by_name(column).is_some())
}

/// Whether it holds events as they came: dead letters, late events.
fn is_set_aside(table: &Table) -> bool {
    ["pipeline", "source_partition", "source_offset", "error_class", "event_key", "payload"]
        .iter()
        .all(|column| table.schema().field_by_name(column).is_some())
}

/// Whether it holds prediction rows of alerts.
fn is_alerts(table: &Table) -> bool {
    ["alert", "pipeline", "run_id", "score_reason", "feature_hash"]
        .iter()
        .all(|column| table.schema().field_by_name(column).is_some())
}
