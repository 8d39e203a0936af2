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
use super::{COMMITTED, FeatureViewTable, Past, plan_error, session};
use crate::config::{FEATURE_VIEWS, KnownTime};
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
    context.state().statement_to_plan(statement).await.map_err(|e| {
        let text = e.strip_backtrace();
        let unknown = text.contains("table '") && text.contains("' not found");
        let error = plan_error("sql", sql, e);
        if unknown { error.hint(tables_there(workspace)) } else { error }
    })
}

/// What can be asked instead of a table that is not there.
fn tables_there(workspace: &Workspace) -> String {
    const SHOWN: usize = 20;
    let Ok(tables) = workspace.lake().catalog().tables() else {
        return "the catalog does not say which tables there are".to_owned();
    };
    let names: Vec<String> = tables.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match tables.len().checked_sub(SHOWN) {
        _ if names.is_empty() => "there is no table yet".to_owned(),
        None | Some(0) => format!("there are {}", names.join(", ")),
        Some(more) => {
            format!("there are {} and {more} others (`SELECT * FROM information_schema.tables`)", names.join(", "))
        }
    }
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
            Box::pin(register_all(workspace, context)).await?;
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
    // People ask for few rows of many columns.
    context.state_ref().write().config_mut().options_mut().execution.parquet.pushdown_filters = true;
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

async fn register_all(workspace: &Workspace, context: &SessionContext) -> Result<()> {
    for name in workspace.lake().catalog().tables()? {
        let table = workspace.lake().table(&name)?;
        let snapshot = table.current_snapshot_id();
        put(context, &name, Arc::new(Scan::table(table, snapshot)?))?;
    }
    for view in workspace.project().feature_view_names() {
        let name = TableName { namespace: FEATURE_VIEWS.to_owned(), name: view.to_owned() };
        if !namespace(context, FEATURE_VIEWS)?.table_exist(view) {
            register(workspace, context, &name).await?;
        }
    }
    Ok(())
}

/// Registers a table, a Parquet folder, or a `<table>_current` view.
async fn register(workspace: &Workspace, context: &SessionContext, name: &TableName) -> Result<()> {
    // A table that has such a name already keeps it.
    if name.namespace == FEATURE_VIEWS && workspace.lake().find(name)?.is_none() {
        let view = feature_view(workspace, &name.name, workspace.clock().now_micros()).await?;
        return put(context, name, Arc::new(view));
    }
    if let Some(folder) = workspace.project().settings.inputs.get(&name.to_string()) {
        let folder = Folder::open(&name.to_string(), &folder.parquet)?;
        return put(context, name, Arc::new(Scan::folder(Arc::new(folder))));
    }
    if let Some(table) = workspace.lake().find(name)? {
        let snapshot = table.current_snapshot_id();
        return put(context, name, Arc::new(Scan::table(table, snapshot)?));
    }
    if let Some(table) = current_of(workspace, name)? {
        let scan = Scan::table(table.clone(), table.current_snapshot_id())?;
        let view = current_view(context, &table, scan, "__current").await?;
        return put(context, name, view);
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

/// A time in microseconds since the epoch, as people write it.
pub(crate) fn show_time(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |time| time.format("%Y-%m-%d %H:%M:%S%.f UTC").to_string())
}

/// Checks a feature view against the table that it is of.
///
/// # Errors
/// When its file is wrong, or names a table or column that is not there.
pub async fn check_feature_view(workspace: &Workspace, name: &str) -> Result<()> {
    feature_view(workspace, name, workspace.clock().now_micros()).await.map(drop)
}

/// A feature view as of a time, in microseconds since the epoch.
async fn feature_view(workspace: &Workspace, name: &str, at: i64) -> Result<FeatureViewTable> {
    let (name, committed) = match name.strip_suffix(COMMITTED) {
        Some(name) => (name, true),
        None => (name, false),
    };
    let view = workspace.project().feature_view(name)?;
    let base = TableName::parse(&view.table)?;
    // The view's plan holds its own pinned table, which need not be the one
    // that the statement sees under that name.
    let context = session(workspace, "UTC")?;
    if let Some(folder) = workspace.project().settings.inputs.get(&view.table) {
        let folder = Folder::open(&view.table, &folder.parquet)?;
        put(&context, &base, Arc::new(Scan::folder(Arc::new(folder))))?;
        return FeatureViewTable::new(&context, view, Past::Folder, at).await;
    }
    let table = workspace.lake().table(&base)?;
    let snapshot = match view.known_time {
        KnownTime::Commit if table.current_snapshot_id().is_some() => {
            Some(travel::snapshot_at(&table, at.div_euclid(1000), &show_time(at))?)
        }
        _ => table.current_snapshot_id(),
    };
    put(&context, &base, Arc::new(Scan::table(table.clone(), snapshot)?))?;
    let view = FeatureViewTable::new(&context, view, Past::Table(Box::new(table)), at).await?;
    Ok(if committed { view.committed() } else { view })
}

async fn pin_table(workspace: &Workspace, context: &SessionContext, pin: &Pinned) -> Result<()> {
    let name = TableName::parse(&pin.table)?;
    if name.namespace == FEATURE_VIEWS {
        let Some(Version::Time(text)) = pin.version.as_ref().filter(|_| pin.metadata.is_none()) else {
            return Err(Error::invalid(format!("sql: `{name}` is a feature view, which has times, not versions"))
                .hint(format!("write `{name} TIMESTAMP AS OF '2026-01-31 10:00:00'`")));
        };
        let at = evaluate_time(context, text).await?.saturating_mul(1000);
        let view = feature_view(workspace, &name.name, at).await?.pinned();
        context
            .register_table(pin.name.as_str(), Arc::new(view))
            .map_err(|e| Error::internal(format!("table `{name}`: {e}")).cause(e))?;
        return Ok(());
    }
    if workspace.project().settings.inputs.contains_key(&pin.table) {
        return Err(Error::invalid(format!(
            "`{name}` is a Parquet folder and has neither versions nor metadata tables"
        ))
        .hint("only Iceberg tables can be read AS OF a version or a time"));
    }
    let current = current_of(workspace, &name)?;
    let table = match &current {
        Some(base) => base.clone(),
        None => workspace.lake().table(&name)?,
    };
    let snapshot = match &pin.version {
        None => table.current_snapshot_id(),
        Some(Version::Snapshot(text)) => Some(travel::snapshot_of_version(&table, text)?),
        Some(Version::Time(text)) => Some(travel::snapshot_at(&table, evaluate_time(context, text).await?, text)?),
    };
    let provider: Arc<dyn TableProvider> =
        match pin.metadata {
            Some(metadata) if current.is_some() => {
                return Err(Error::invalid(format!("`{name}` is a view and has no `{}`", metadata.name()))
                    .hint(format!("read `{}.{}`", table.name(), metadata.name())));
            }
            Some(metadata) if pin.version.is_some() && !metadata.of_a_snapshot() => {
                return Err(Error::invalid(format!("sql: `{}.{}` has no versions", name, metadata.name())).hint(
                    "it tells of all snapshots; files, entries, manifests and partitions can be read AS OF one",
                ));
            }
            Some(metadata) => {
                let rows = metadata.read(&table, snapshot)?;
                let provider = MemTable::try_new(rows.schema(), vec![vec![rows]]);
                Arc::new(provider.map_err(|e| Error::internal(format!("table `{name}`: {e}")).cause(e))?)
            }
            None if current.is_some() => {
                let scan = Scan::table(table.clone(), snapshot)?;
                current_view(context, &table, scan, &pin.name).await?
            }
            None => Arc::new(Scan::table(table, snapshot)?),
        };
    context
        .register_table(pin.name.as_str(), provider)
        .map_err(|e| Error::internal(format!("table `{name}`: {e}")).cause(e))?;
    Ok(())
}

/// The prediction table that `<table>_current` is of, where no table has that
/// name itself.
fn current_of(workspace: &Workspace, name: &TableName) -> Result<Option<Table>> {
    let Some(base) = name.name.strip_suffix("_current") else { return Ok(None) };
    if workspace.lake().find(name)?.is_some() {
        return Ok(None);
    }
    workspace.lake().find(&TableName { namespace: name.namespace.clone(), name: base.to_owned() })
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
/// `scan` reads the table, of now or of another time, and gets a name of its
/// own in the session.
async fn current_view(
    context: &SessionContext,
    table: &Table,
    scan: Scan,
    prefix: &str,
) -> Result<Arc<dyn TableProvider>> {
    let properties = table.metadata().properties();
    let shape = crate::score::TableShape::read(properties).ok_or_else(|| {
        Error::invalid(format!("table `{}` is not a prediction table, it has no current view", table.name()))
            .hint("only tables that a pipeline writes have one")
    })?;
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let columns: Vec<String> = scan.schema().fields().iter().map(|f| quote(f.name())).collect();
    let keys: Vec<String> = shape.key.iter().map(|k| quote(k)).collect();
    let time = quote(&shape.timestamp);
    let kind = quote(&shape.inference_type);
    let select = columns.join(", ");
    let from = TableName { namespace: prefix.to_owned(), name: table.name().to_string() };
    let sql = format!(
        "SELECT {select} FROM (SELECT {select}, row_number() OVER (PARTITION BY pipeline, {keys} \
         ORDER BY {time} DESC, run_id DESC) AS __newest FROM {namespace}.{name} \
         WHERE {kind} IS NULL OR {kind} NOT IN ('{as_of}', '{shadow}')) \
         WHERE __newest = 1 AND (score_reason IS NULL OR score_reason <> 'removed')",
        keys = keys.join(", "),
        as_of = crate::score::AS_OF,
        shadow = crate::score::SHADOW,
        namespace = quote(&from.namespace),
        name = quote(&from.name),
    );
    put(context, &from, Arc::new(scan))?;
    let frame =
        context.sql(&sql).await.map_err(|e| plan_error(&format!("view `{}_current`", table.name()), &sql, e))?;
    Ok(frame.into_view())
}
