//! `table`: list, show, history.

use std::collections::BTreeMap;
use std::sync::Arc;

use insightera_engine::config::InputSettings;
use insightera_engine::lake::folder::Folder;
use insightera_engine::lake::maintain::policy;
use insightera_engine::lake::refs::{self, Existing, Reach, RefKind, Retention};
use insightera_engine::lake::scan::Scan;
use insightera_engine::lake::{Table, TableName, files, keys};
use insightera_engine::{Error, Result, Workspace, sql};
use serde::Serialize;

use super::Answer;
use crate::cli::{Format, ReportFormat};
use crate::printer::Printer;
use crate::resolve::TableCommand;
use crate::text;

/// A table in a list.
#[derive(Debug, Serialize)]
struct Listed {
    table: String,
    kind: &'static str,
    snapshot_id: Option<i64>,
    files: u64,
    /// Live rows.
    rows: u64,
    bytes: u64,
}

/// A column.
#[derive(Debug, Serialize)]
struct Column {
    name: String,
    r#type: String,
    required: bool,
}

/// A table in full.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    location: String,
    format_version: Option<u8>,
    uuid: Option<String>,
    columns: Vec<Column>,
    partition_by: Vec<String>,
    delete_files: u64,
    properties: BTreeMap<String, String>,
}

/// A snapshot.
#[derive(Debug, Serialize)]
struct Committed {
    snapshot_id: i64,
    time: String,
    operation: String,
    pipeline: Option<String>,
    run_id: Option<String>,
    model: Option<String>,
    model_version: Option<String>,
    added_rows: u64,
}

/// Runs a command on tables.
pub async fn table(workspace: &Workspace, command: TableCommand, printer: &Printer) -> anyhow::Result<Answer> {
    match command {
        TableCommand::List { format } => list(workspace, format).await,
        TableCommand::Show { table, format } => {
            let shown = show(workspace, &table).await?;
            match format {
                ReportFormat::Json => Answer::json(&shown),
                ReportFormat::Table => Ok(Answer::done(render(&shown))),
            }
        }
        TableCommand::History { table, format } => history(&workspace.lake().table(&table)?, format),
        TableCommand::Maintain { table, dry_run, format } => maintain(workspace, table, dry_run, format).await,
        TableCommand::Erase(erase) => super::erase::erase(workspace, &erase, printer).await,
        TableCommand::Rollback { table, to } => {
            let snapshot = sql::snapshot_of_version(&workspace.lake().table(&table)?, &to)?;
            let (_, before) = refs::move_main(workspace.lake(), &table, snapshot, Reach::Ancestors)?;
            let before = before.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
            Ok(Answer::done(format!("{table}: from snapshot {before} to {snapshot}\n")))
        }
        TableCommand::Tag { table, name, snapshot_id } => {
            let lake = workspace.lake();
            refs::set(lake, &table, RefKind::Tag, &name, snapshot_id, Retention::default(), Existing::Refuse)?;
            Ok(Answer::done(format!("{table}: tag {name}\n")))
        }
    }
}

/// The list of tables, for the prompt.
pub async fn listing(workspace: &Workspace) -> anyhow::Result<String> {
    Ok(list(workspace, Format::Table).await?.text)
}

/// A table in full, for the prompt.
pub async fn description(workspace: &Workspace, name: &str) -> anyhow::Result<String> {
    Ok(render(&show(workspace, &TableName::parse(name)?).await?))
}

async fn list(workspace: &Workspace, format: Format) -> anyhow::Result<Answer> {
    let mut all = Vec::new();
    for name in workspace.lake().catalog().tables()? {
        all.push(listed(workspace, &workspace.lake().table(&name)?).await?);
    }
    for (name, input) in &workspace.project().settings.inputs {
        all.push(listed_folder(name, input)?);
    }
    all.sort_by(|a, b| a.table.cmp(&b.table));
    if format == Format::Json {
        return Answer::json(&all);
    }
    let header = ["table", "kind", "snapshot", "files", "rows", "bytes"];
    let number = |n: u64| if format == Format::Csv { n.to_string() } else { text::count(n) };
    let size = |n: u64| if format == Format::Csv { n.to_string() } else { text::bytes(n) };
    let rows: Vec<Vec<Option<String>>> = all
        .iter()
        .map(|t| {
            let snapshot = t.snapshot_id.map(|id| id.to_string());
            let cells = [number(t.files), number(t.rows), size(t.bytes)].map(Some);
            [&[Some(t.table.clone()), Some(t.kind.to_owned()), snapshot][..], &cells].concat()
        })
        .collect();
    Ok(Answer::done(rendered(&header, &[false, false, true, true, true, true], rows, format)))
}

/// Rows as a table, in which null is `-`, or as CSV.
pub(super) fn rendered(header: &[&str], right: &[bool], rows: Vec<Vec<Option<String>>>, format: Format) -> String {
    if format == Format::Csv {
        return text::csv(header, rows.into_iter());
    }
    let dash = |row: Vec<Option<String>>| row.into_iter().map(|cell| cell.unwrap_or_else(|| "-".into())).collect();
    text::columns(header, right, &rows.into_iter().map(dash).collect::<Vec<_>>())
}

async fn listed(workspace: &Workspace, table: &Table) -> anyhow::Result<Listed> {
    let live = files::live_files(table, table.current_snapshot_id())?;
    // Two delete files may hit the same row, so only reading them counts.
    let rows = if live.deletes.is_empty() { live.data_rows() } else { count_rows(workspace, table.name()).await? };
    Ok(Listed {
        table: table.name().to_string(),
        kind: "iceberg",
        snapshot_id: table.current_snapshot_id(),
        files: live.data.len() as u64,
        rows,
        bytes: live.data_bytes(),
    })
}

/// One table, or all; tables that fail do not stop the others.
async fn maintain(
    workspace: &Workspace,
    table: Option<TableName>,
    dry_run: bool,
    format: ReportFormat,
) -> anyhow::Result<Answer> {
    let lake = workspace.lake();
    let policy = &workspace.project().settings.maintenance;
    let names = match table {
        Some(table) => vec![table],
        None => lake.catalog().tables()?,
    };
    let context = sql::session(workspace, "UTC")?;
    let (mut due, mut done) = (Vec::new(), Vec::new());
    let mut failed: Option<Error> = None;
    for name in names {
        let outcome = if dry_run {
            policy::due(lake, &name, policy).map(|found| due.push(found))
        } else {
            policy::maintain(lake, &context, &name, policy).await.map(|report| done.push(report))
        };
        if let Err(error) = outcome {
            let located = Error::new(error.kind(), format!("maintenance of table `{name}`: {error}"));
            let located = error.get_hint().map(str::to_owned).into_iter().fold(located, Error::hint);
            failed.get_or_insert(located);
        }
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    if !dry_run {
        policy::sweep(lake, policy)?;
    }
    if format == ReportFormat::Json {
        return if dry_run { Answer::json(&due) } else { Answer::json(&done) };
    }
    let mut out = String::new();
    for d in due {
        out.push_str(&format!(
            "{}: rewrite {} files ({}) in {} groups, expire {} of {} snapshots, move {} orphans ({})\n",
            d.table,
            text::count(d.rewrite_files as u64),
            text::bytes(d.rewrite_bytes),
            text::count(d.rewrite_groups as u64),
            text::count(d.expire_snapshots as u64),
            text::count((d.expire_snapshots + d.keep_snapshots) as u64),
            text::count(d.orphan_files as u64),
            text::bytes(d.orphan_bytes),
        ));
        out.extend(d.not_removed.map(|why| format!("{}: nothing would be removed: {why}\n", d.table)));
    }
    for d in done {
        let left = if d.failed_files > 0 {
            format!(", {} files left to the next time", d.failed_files)
        } else {
            String::new()
        };
        out.push_str(&format!(
            "{}: {} files became {}{left}; {} manifests became {}; {} snapshots expired; {} orphans moved ({})\n",
            d.table,
            text::count(d.rewritten_files as u64),
            text::count(d.added_files as u64),
            text::count(d.rewritten_manifests as u64),
            text::count(d.added_manifests as u64),
            text::count(d.expired_snapshots as u64),
            text::count(d.orphan_files as u64),
            text::bytes(d.orphan_bytes),
        ));
        out.extend(d.not_removed.map(|why| format!("{}: nothing was removed: {why}\n", d.table)));
    }
    Ok(Answer::done(out))
}

async fn count_rows(workspace: &Workspace, name: &TableName) -> anyhow::Result<u64> {
    let quoted = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
    let statement = format!("SELECT count(*) AS n FROM {}.{}", quoted(&name.namespace), quoted(&name.name));
    let result = sql::query(workspace, &statement).await?;
    let text = text::batches_csv(&result.schema, &result.batches)?;
    Ok(text.lines().nth(1).unwrap_or_default().parse()?)
}

fn listed_folder(name: &str, input: &InputSettings) -> Result<Listed> {
    let scan = Scan::folder(Arc::new(Folder::open(name, &input.parquet)?));
    Ok(Listed {
        table: name.to_owned(),
        kind: "parquet",
        snapshot_id: None,
        files: scan.file_count() as u64,
        rows: scan.rows(),
        bytes: scan.bytes(),
    })
}

async fn show(workspace: &Workspace, name: &TableName) -> anyhow::Result<Shown> {
    if let Some(input) = workspace.project().settings.inputs.get(&name.to_string()) {
        return show_folder(workspace, name, input).await;
    }
    let table = workspace.lake().table(name)?;
    let metadata = table.metadata();
    let live = files::live_files(&table, table.current_snapshot_id())?;
    let fields = table.schema().as_struct().fields();
    let columns = fields
        .iter()
        .map(|f| Column { name: f.name.clone(), r#type: f.field_type.to_string(), required: f.required })
        .collect();
    let source = |id: i32| table.schema().field_by_id(id).map_or_else(|| format!("column {id}"), |f| f.name.clone());
    let partition_by = metadata
        .default_partition_spec()
        .fields()
        .iter()
        .map(|f| partition(&f.transform.to_string(), &source(f.source_id)))
        .collect();
    Ok(Shown {
        listed: listed(workspace, &table).await?,
        location: metadata.location().to_owned(),
        format_version: Some(metadata.format_version() as u8),
        uuid: Some(metadata.uuid().to_string()),
        columns,
        partition_by,
        delete_files: live.deletes.len() as u64,
        properties: metadata.properties().iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    })
}

async fn show_folder(workspace: &Workspace, name: &TableName, input: &InputSettings) -> anyhow::Result<Shown> {
    let statement = format!("SELECT * FROM \"{}\".\"{}\" LIMIT 0", name.namespace, name.name);
    let schema = sql::query(workspace, &statement).await?.schema;
    let columns = schema
        .fields()
        .iter()
        .map(|f| Column { name: f.name().clone(), r#type: f.data_type().to_string(), required: !f.is_nullable() })
        .collect();
    Ok(Shown {
        listed: listed_folder(&name.to_string(), input)?,
        location: input.parquet.display().to_string(),
        format_version: None,
        uuid: None,
        columns,
        partition_by: Vec::new(),
        delete_files: 0,
        properties: BTreeMap::new(),
    })
}

/// As a pipeline writes it: `days(ts)`, `bucket(16, nim)`, `name`.
fn partition(transform: &str, column: &str) -> String {
    if transform == "identity" {
        return column.to_owned();
    }
    if let Some((name, width)) = transform.trim_end_matches(']').split_once('[') {
        return format!("{name}({width}, {column})");
    }
    // Iceberg says `day`, pipelines and Spark say `days`.
    let plural = matches!(transform, "year" | "month" | "day" | "hour");
    format!("{transform}{}({column})", if plural { "s" } else { "" })
}

fn render(shown: &Shown) -> String {
    let listed = &shown.listed;
    let mut text = format!("table {}\n", listed.table);
    let mut add = |name: &str, value: String| text.push_str(&format!("  {name:<12} {value}\n"));
    match shown.format_version {
        Some(version) => add("kind", format!("Iceberg, format version {version}")),
        None => add("kind", "Parquet folder, read only".into()),
    }
    add("location", shown.location.clone());
    if let Some(id) = listed.snapshot_id {
        add("snapshot", id.to_string());
    }
    let deletes = match shown.delete_files {
        0 => String::new(),
        n => format!(" and {} delete files", text::count(n)),
    };
    add("files", format!("{}{deletes}, {}", text::count(listed.files), text::bytes(listed.bytes)));
    add("rows", text::count(listed.rows));
    if !shown.partition_by.is_empty() {
        add("partitions", shown.partition_by.join(", "));
    }
    let rows: Vec<Vec<String>> = shown
        .columns
        .iter()
        .map(|c| vec![c.name.clone(), c.r#type.clone(), if c.required { "yes".into() } else { String::new() }])
        .collect();
    text.push('\n');
    text.push_str(&text::columns(&["column", "type", "required"], &[], &rows));
    if !shown.properties.is_empty() {
        let rows: Vec<Vec<String>> = shown.properties.iter().map(|(k, v)| vec![k.clone(), shortened(v)]).collect();
        text.push('\n');
        text.push_str(&text::columns(&["property", "value"], &[], &rows));
    }
    text
}

/// Progress properties are long; `--format json` has them whole.
fn shortened(value: &str) -> String {
    if value.chars().count() <= 80 {
        return value.to_owned();
    }
    value.chars().take(79).chain(['…']).collect()
}

fn history(table: &Table, format: Format) -> anyhow::Result<Answer> {
    let mut all: Vec<Committed> = table
        .ancestry()
        .map(|snapshot| {
            let summary = &snapshot.summary().additional_properties;
            let value = |key: &str| summary.get(key).cloned();
            Committed {
                snapshot_id: snapshot.snapshot_id(),
                time: text::instant(snapshot.timestamp_ms().saturating_mul(1000)),
                operation: snapshot.summary().operation.as_str().to_owned(),
                pipeline: value(keys::PIPELINE),
                run_id: value(keys::RUN_ID),
                model: value(keys::MODEL),
                model_version: value(keys::MODEL_VERSION),
                added_rows: value("added-records").and_then(|n| n.parse().ok()).unwrap_or(0),
            }
        })
        .collect();
    all.reverse();
    if format == Format::Json {
        return Answer::json(&all);
    }
    let header = ["snapshot_id", "time", "operation", "pipeline", "run_id", "model_version", "added_rows"];
    let rows = all
        .into_iter()
        .map(|c| {
            let added = if format == Format::Csv { c.added_rows.to_string() } else { text::count(c.added_rows) };
            let start = [Some(c.snapshot_id.to_string()), Some(c.time), Some(c.operation)];
            [&start[..], &[c.pipeline, c.run_id, c.model_version, Some(added)]].concat()
        })
        .collect();
    Ok(Answer::done(rendered(&header, &[true, false, false, false, false, true, true], rows, format)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_written_as_in_a_pipeline() {
        assert_eq!(partition("identity", "a"), "a");
        assert_eq!(partition("day", "ts"), "days(ts)");
        assert_eq!(partition("bucket[16]", "nim"), "bucket(16, nim)");
        assert_eq!(partition("truncate[4]", "nim"), "truncate(4, nim)");
    }
}
