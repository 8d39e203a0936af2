//! Runs one SQL statement over all tables, folders and current views.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;

use super::session::CATALOG;
use super::statement::Statement;
use super::travel::{self, Pinned, Version};
use super::{plan_error, session};
use crate::lake::folder::Folder;
use crate::lake::scan::{Scan, ScanNote, ScanNotes};
use crate::lake::{Table, TableName};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// The rows of a statement.
#[derive(Debug)]
pub struct QueryResult {
    /// Their columns.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

/// Plans and runs one read-only statement.
///
/// # Errors
/// A syntax error with its line and a caret; unknown tables and columns with
/// the nearest names; statements that write.
pub async fn query(workspace: &Workspace, sql: &str) -> Result<QueryResult> {
    let zone = workspace.project().settings.sql.time_zone.clone();
    match super::statement::parse("sql", sql)? {
        Statement::Query(statement, pinned) => read(workspace, &zone, sql, *statement, &pinned).await,
        _ => Err(Error::invalid("sql: this statement writes, and only reading is allowed here")),
    }
}

/// Plans a statement that reads, with everything that it names registered.
pub(crate) async fn plan(
    workspace: &Workspace,
    context: &SessionContext,
    sql: &str,
    statement: EngineStatement,
    pinned: &[Pinned],
) -> Result<LogicalPlan> {
    register_named(workspace, context, sql, &statement).await?;
    for pin in pinned {
        if !context.table_exist(pin.name.as_str()).unwrap_or(false) {
            pin_table(workspace, context, pin).await?;
        }
    }
    context.state().statement_to_plan(statement).await.map_err(|e| plan_error("sql", sql, e))
}

/// Registers the tables that a statement names, but for those that are there.
async fn register_named(
    workspace: &Workspace,
    context: &SessionContext,
    sql: &str,
    statement: &EngineStatement,
) -> Result<()> {
    let references = context.state().resolve_table_references(statement).map_err(|e| plan_error("sql", sql, e))?;
    for reference in references {
        let (Some(namespace), name) = (reference.schema(), reference.table()) else { continue };
        if namespace == "information_schema" {
            register_all(workspace, context)?;
            continue;
        }
        let name = TableName { namespace: namespace.to_owned(), name: name.to_owned() };
        if !self::namespace(context, &name.namespace)?.table_exist(&name.name) {
            register(workspace, context, &name).await?;
        }
    }
    Ok(())
}

/// Runs a statement that reads.
pub(crate) async fn read(
    workspace: &Workspace,
    zone: &str,
    sql: &str,
    statement: EngineStatement,
    pinned: &[Pinned],
) -> Result<QueryResult> {
    let context = session(workspace, zone)?;
    let explains = matches!(statement, EngineStatement::Explain(_));
    let plan = plan(workspace, &context, sql, statement, pinned).await?;
    if matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_)) {
        return Err(Error::invalid(format!("sql: this statement is not supported ({})", plan.display())).hint(
            "there are SELECT, CREATE, ALTER and DROP TABLE, INSERT, UPDATE, DELETE, MERGE, CALL and SET TIME ZONE",
        ));
    }
    let frame = context.execute_logical_plan(plan).await.map_err(|e| plan_error("sql", sql, e))?;
    let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
    let mut batches = frame.collect().await.map_err(|e| plan_error("sql", sql, e))?;
    if explains && let Some(notes) = context.state().config().get_extension::<ScanNotes>() {
        batches.extend(explained(&schema, &notes.all()));
    }
    Ok(QueryResult { schema, batches })
}

/// What `EXPLAIN` adds to the engine's plan: the files that each scan reads.
fn explained(schema: &SchemaRef, notes: &[ScanNote]) -> Option<RecordBatch> {
    let line = |note: &ScanNote| {
        let snapshot = note.snapshot_id.map(|id| format!(" at snapshot {id}")).unwrap_or_default();
        format!(
            "{}{snapshot}: {} of {} files, {} of {} bytes",
            note.table, note.files, note.all_files, note.bytes, note.all_bytes
        )
    };
    let kinds = StringArray::from_iter_values(notes.iter().map(|_| "files"));
    let plans = StringArray::from_iter_values(notes.iter().map(line));
    RecordBatch::try_new(schema.clone(), vec![Arc::new(kinds), Arc::new(plans)]).ok().filter(|b| b.num_rows() > 0)
}

/// The schema provider of a namespace, created when missing.
pub(crate) fn namespace(context: &SessionContext, namespace: &str) -> Result<Arc<dyn SchemaProvider>> {
    let catalog = context.catalog(CATALOG).ok_or_else(|| Error::internal("the session has no catalog"))?;
    if let Some(schema) = catalog.schema(namespace) {
        return Ok(schema);
    }
    let schema = Arc::new(MemorySchemaProvider::new());
    catalog
        .register_schema(namespace, schema.clone())
        .map_err(|e| Error::internal(format!("namespace `{namespace}`: {e}")).cause(e))?;
    Ok(schema)
}

pub(crate) fn put(context: &SessionContext, name: &TableName, provider: Arc<dyn TableProvider>) -> Result<()> {
    namespace(context, &name.namespace)?
        .register_table(name.name.clone(), provider)
        .map(|_| ())
        .map_err(|e| Error::internal(format!("table `{name}`: {e}")).cause(e))
}

fn register_all(workspace: &Workspace, context: &SessionContext) -> Result<()> {
    for name in workspace.lake().catalog().tables()? {
        let table = workspace.lake().table(&name)?;
        let snapshot = table.current_snapshot_id();
        put(context, &name, Arc::new(Scan::table(table, snapshot)?))?;
    }
    Ok(())
}

/// Registers a table, a Parquet folder, or a `<table>_current` view.
async fn register(workspace: &Workspace, context: &SessionContext, name: &TableName) -> Result<()> {
    if let Some(folder) = workspace.project().settings.inputs.get(&name.to_string()) {
        let folder = Folder::open(&name.to_string(), &folder.parquet)?;
        return put(context, name, Arc::new(Scan::folder(Arc::new(folder))));
    }
    if let Some(table) = workspace.lake().find(name)? {
        let snapshot = table.current_snapshot_id();
        return put(context, name, Arc::new(Scan::table(table, snapshot)?));
    }
    if let Some(base) = name.name.strip_suffix("_current") {
        let base = TableName { namespace: name.namespace.clone(), name: base.to_owned() };
        if let Some(table) = workspace.lake().find(&base)? {
            let sql = current_view(&table)?;
            let snapshot = table.current_snapshot_id();
            put(context, &base, Arc::new(Scan::table(table, snapshot)?))?;
            let frame = context.sql(&sql).await.map_err(|e| plan_error(&format!("view `{name}`"), &sql, e))?;
            return put(context, name, frame.into_view());
        }
    }
    // The planner would say less: name the nearest table here.
    let folders: Vec<String> = workspace.project().settings.inputs.keys().cloned().collect();
    match workspace.lake().table(name) {
        Ok(_) => Ok(()),
        Err(error) => match insightera_core::closest(&name.to_string(), folders.iter().map(String::as_str)) {
            Some(near) => Err(Error::not_found(error.to_string()).hint(format!("did you mean `{near}`?"))),
            None => Err(error),
        },
    }
}

async fn pin_table(workspace: &Workspace, context: &SessionContext, pin: &Pinned) -> Result<()> {
    let name = TableName::parse(&pin.table)?;
    if workspace.project().settings.inputs.contains_key(&pin.table) {
        return Err(Error::invalid(format!(
            "`{name}` is a Parquet folder and has neither versions nor metadata tables"
        ))
        .hint("only Iceberg tables can be read AS OF a version or a time"));
    }
    let table = workspace.lake().table(&name)?;
    let snapshot = match &pin.version {
        None => table.current_snapshot_id(),
        Some(Version::Snapshot(text)) => Some(travel::snapshot_of_version(&table, text)?),
        Some(Version::Time(text)) => Some(travel::snapshot_at(&table, evaluate_time(context, text).await?, text)?),
    };
    let provider: Arc<dyn TableProvider> = match pin.metadata {
        Some(metadata) if pin.version.is_some() && !metadata.of_a_snapshot() => {
            return Err(Error::invalid(format!("sql: `{}.{}` has no versions", name, metadata.name()))
                .hint("it tells of all snapshots; files, entries, manifests and partitions can be read AS OF one"));
        }
        Some(metadata) => {
            let rows = metadata.read(&table, snapshot)?;
            let provider = MemTable::try_new(rows.schema(), vec![vec![rows]]);
            Arc::new(provider.map_err(|e| Error::internal(format!("table `{name}`: {e}")).cause(e))?)
        }
        None => Arc::new(Scan::table(table, snapshot)?),
    };
    context
        .register_table(pin.name.as_str(), provider)
        .map_err(|e| Error::internal(format!("table `{name}`: {e}")).cause(e))?;
    Ok(())
}

/// A time expression in milliseconds since the epoch; without a zone it is in
/// the session's.
pub(super) async fn evaluate_time(context: &SessionContext, text: &str) -> Result<i64> {
    let zone = context.state().config_options().execution.time_zone.clone().unwrap_or_else(|| "UTC".into());
    let sql = format!("SELECT CAST(arrow_cast({text}, 'Timestamp(Millisecond, Some(\"{zone}\"))') AS BIGINT)");
    let wrong = |e| {
        let error = plan_error("sql", &sql, e);
        Error::invalid(format!("`{text}` is not a time: {}", error.to_string().lines().next().unwrap_or_default()))
            .hint("write it as '2026-01-31 10:00:00' or as an expression of a timestamp")
    };
    let batches = context.sql(&sql).await.map_err(wrong)?.collect().await.map_err(wrong)?;
    let column = batches.first().map(|b| b.column(0).clone());
    let value = column.filter(|c| c.len() == 1 && !c.is_null(0)).map(|c| c.as_primitive::<Int64Type>().value(0));
    value.ok_or_else(|| Error::invalid(format!("`{text}` is no time")))
}

/// One row per pipeline and entity: the newest that is a real prediction.
fn current_view(table: &Table) -> Result<String> {
    let properties = table.metadata().properties();
    let shape = crate::score::TableShape::read(properties).ok_or_else(|| {
        Error::invalid(format!("table `{}` is not a prediction table, it has no current view", table.name()))
            .hint("only tables that a pipeline writes have one")
    })?;
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let columns: Vec<String> = table.schema().as_struct().fields().iter().map(|f| quote(&f.name)).collect();
    let keys: Vec<String> = shape.key.iter().map(|k| quote(k)).collect();
    let time = quote(&shape.timestamp);
    let kind = quote(&shape.inference_type);
    let select = columns.join(", ");
    Ok(format!(
        "SELECT {select} FROM (SELECT {select}, row_number() OVER (PARTITION BY pipeline, {keys} \
         ORDER BY {time} DESC, run_id DESC) AS __newest FROM {namespace}.{name} \
         WHERE {kind} IS NULL OR {kind} NOT IN ('as_of', 'shadow')) \
         WHERE __newest = 1 AND (score_reason IS NULL OR score_reason <> 'removed')",
        keys = keys.join(", "),
        namespace = quote(&table.name().namespace),
        name = quote(&table.name().name),
    ))
}
