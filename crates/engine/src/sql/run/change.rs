//! `INSERT`, `DELETE` and `UPDATE`: data files are copied with their changes,
//! and one commit puts the copies in their place. A commit by somebody else in
//! between means that all is done again on the new rows.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{
    self, Delete, Expr, FromTable, Ident, Insert, ObjectName, ObjectNamePart, TableFactor, TableObject, TableWithJoins,
    Update,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::StreamExt;
use iceberg::spec::{DataFile, Operation};

use super::{QueryResult, count, long, row};
use crate::lake::commit::{self, Change, Outcome};
use crate::lake::files::{self, LiveFile};
use crate::lake::scan::Scan;
use crate::lake::writer::{TableWriter, WriteOptions};
use crate::lake::{Lake, Table, TableName, keys};
use crate::score::TableShape;
use crate::sql::travel::Pinned;
use crate::sql::{plan_error, query};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Tries against other writers.
pub(super) const ATTEMPTS: usize = 20;
/// The rows that are changed, inside a statement.
pub(super) const TARGET: &str = "__changed";
/// The number of a row in its file.
const ROW: &str = "__row";
/// The rows that a condition holds for, and their numbers.
const HITS: &str = "__hits";
const HIT: &str = "__hit";

/// `INSERT INTO`.
pub(super) async fn insert(
    workspace: &Workspace,
    zone: &str,
    sql: &str,
    insert: Insert,
    pinned: &[Pinned],
) -> Result<QueryResult> {
    let refused = [
        (insert.overwrite, "INSERT OVERWRITE", "DELETE the rows first, or MERGE"),
        (insert.on.is_some(), "ON CONFLICT", "use MERGE INTO"),
        (insert.returning.is_some(), "RETURNING", "read the rows with SELECT"),
        (insert.partitioned.is_some(), "PARTITION (…)", "the table's own partition fields decide"),
        (insert.or.is_some() || insert.ignore || insert.replace_into, "INSERT OR …", "use MERGE INTO"),
        (insert.table_alias.is_some() || insert.insert_alias.is_some(), "an alias of the table", "leave it away"),
    ];
    if let Some((_, clause, instead)) = refused.iter().find(|(found, ..)| *found) {
        return Err(Error::invalid(format!("sql: {clause} is not supported")).hint(*instead));
    }
    let TableObject::TableName(name) = &insert.table else {
        return Err(Error::invalid("sql: INSERT INTO a function is not supported"));
    };
    let lake = workspace.lake();
    let table = lake.table(&table_name(name)?)?;
    let Some(source) = insert.source else {
        return Err(Error::invalid("sql: INSERT INTO needs VALUES or a query"));
    };
    let context = crate::sql::session(workspace, zone)?;
    let source = EngineStatement::Statement(Box::new(ast::Statement::Query(source)));
    let plan = query::plan(workspace, &context, sql, source, pinned).await?;
    let columns: Vec<String> = insert.columns.iter().map(|column| column.value.clone()).collect();
    let (rows, snapshot) = append(lake, &context, sql, &table, plan, &columns).await?;
    row([("added_rows", count(rows)), ("snapshot_id", long(snapshot))])
}

/// Appends the rows of a plan; its columns are those of the table, or
/// `columns`, in order.
pub(super) async fn append(
    lake: &Lake,
    context: &SessionContext,
    sql: &str,
    table: &Table,
    plan: LogicalPlan,
    columns: &[String],
) -> Result<(u64, Option<i64>)> {
    table.check_writable()?;
    let names = target_columns(table, columns)?;
    let found = plan.schema().fields().len();
    if found != names.len() {
        return Err(Error::invalid(format!(
            "sql: table `{}` gets {} columns ({}), the query has {found}",
            table.name(),
            names.len(),
            names.join(", ")
        ))
        .hint("columns are matched in order; name them: INSERT INTO t (a, b) SELECT …"));
    }
    let mut table = table.clone();
    for _ in 0..ATTEMPTS {
        let added = write(context, sql, &table, plan.clone(), &names).await?;
        let rows = added.iter().map(DataFile::record_count).sum();
        if rows == 0 {
            return Ok((0, table.current_snapshot_id()));
        }
        let mut change = Change::append(&table, added);
        // An erasure removes files with the entity that are not committed yet.
        change.erasures = Some(keys::erasures_of(&table));
        if let Outcome::Committed { snapshot_id, .. } = commit::commit(lake, &change)? {
            return Ok((rows, Some(snapshot_id)));
        }
        table = lake.table(table.name())?;
    }
    Err(gave_up(table.name()))
}

fn target_columns(table: &Table, columns: &[String]) -> Result<Vec<String>> {
    let all: Vec<String> = table.schema().as_struct().fields().iter().map(|f| f.name.clone()).collect();
    if columns.is_empty() {
        return Ok(all);
    }
    let mut names: Vec<String> = Vec::new();
    for column in columns {
        let exact = all.iter().find(|name| *name == column);
        let Some(name) = exact.or_else(|| all.iter().find(|name| name.eq_ignore_ascii_case(column))) else {
            let error = Error::not_found(format!("sql: table `{}` has no column `{column}`", table.name()));
            return Err(match insightera_core::closest(column, all.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("it has {}", all.join(", "))),
            });
        };
        if names.contains(name) {
            return Err(Error::invalid(format!("sql: column `{name}` is written twice")));
        }
        names.push(name.clone());
    }
    Ok(names)
}

/// Writes the rows of a plan into data files of `table`, its columns under
/// `names`.
pub(super) async fn write(
    context: &SessionContext,
    sql: &str,
    table: &Table,
    plan: LogicalPlan,
    names: &[String],
) -> Result<Vec<DataFile>> {
    let failed = |e| plan_error("sql", sql, e);
    let frame = context.execute_logical_plan(plan).await.map_err(failed)?;
    let mut stream = frame.execute_stream().await.map_err(failed)?;
    let shape = TableShape::read(table.metadata().properties());
    let bloom = shape.map(|shape| shape.key).unwrap_or_default();
    let mut writer = TableWriter::new(table, WriteOptions { bloom, sorted_by: Vec::new(), expected_rows: 1 << 16 })?;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(failed)?;
        let named = names.iter().zip(batch.columns()).map(|(name, array)| (name.as_str(), array.clone(), true));
        let batch = arrow::array::RecordBatch::try_from_iter_with_nullable(named)
            .map_err(|e| Error::internal(format!("rows of a query do not fit together: {e}")))?;
        writer.write(&batch)?;
    }
    writer.finish()
}

/// `DELETE FROM`.
pub(super) async fn delete(
    workspace: &Workspace,
    zone: &str,
    sql: &str,
    delete: Delete,
    pinned: &[Pinned],
) -> Result<QueryResult> {
    let refused = [
        (!delete.tables.is_empty(), "DELETE of several tables"),
        (delete.using.is_some(), "DELETE … USING"),
        (delete.returning.is_some(), "RETURNING"),
        (!delete.order_by.is_empty() || delete.limit.is_some(), "DELETE with ORDER BY or LIMIT"),
    ];
    if let Some((_, clause)) = refused.iter().find(|(found, _)| *found) {
        return Err(Error::invalid(format!("sql: {clause} is not supported"))
            .hint("write DELETE FROM table WHERE condition; a condition may hold subqueries"));
    }
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = delete.from;
    let (name, alias) = single(&from)?;
    let job = Job { workspace, zone, sql, pinned, alias };
    let everything = || Expr::Value(ast::Value::Boolean(true).into());
    job.run(&name, delete.selection.unwrap_or_else(everything), &[]).await
}

/// `UPDATE`.
pub(super) async fn update(
    workspace: &Workspace,
    zone: &str,
    sql: &str,
    update: Update,
    pinned: &[Pinned],
) -> Result<QueryResult> {
    let refused = [
        (update.from.is_some(), "UPDATE … FROM"),
        (update.returning.is_some(), "RETURNING"),
        (update.or.is_some(), "UPDATE OR …"),
        (update.limit.is_some(), "UPDATE with LIMIT"),
    ];
    if let Some((_, clause)) = refused.iter().find(|(found, _)| *found) {
        return Err(Error::invalid(format!("sql: {clause} is not supported"))
            .hint("write UPDATE table SET column = expression WHERE condition, or MERGE INTO"));
    }
    let (name, alias) = single(std::slice::from_ref(&update.table))?;
    let table = workspace.lake().table(&name)?;
    let mut set = Vec::new();
    for assignment in update.assignments {
        set.push((assigned(&table, &assignment.target, alias.as_deref())?, assignment.value));
    }
    let names: Vec<String> = set.iter().map(|(name, _)| name.clone()).collect();
    target_columns(&table, &names)?;
    let job = Job { workspace, zone, sql, pinned, alias };
    let everything = || Expr::Value(ast::Value::Boolean(true).into());
    job.run(&name, update.selection.unwrap_or_else(everything), &set).await
}

/// The table's column that an assignment names.
pub(super) fn assigned(table: &Table, target: &ast::AssignmentTarget, alias: Option<&str>) -> Result<String> {
    let ast::AssignmentTarget::ColumnName(column) = target else {
        return Err(Error::invalid("sql: SET (a, b) = … is not supported").hint("write SET a = …, b = …"));
    };
    let parts: Vec<&Ident> = column.0.iter().filter_map(ObjectNamePart::as_ident).collect();
    let name = match parts.as_slice() {
        [column] => &column.value,
        [owner, column]
            if alias.is_some_and(|alias| alias.eq_ignore_ascii_case(&owner.value))
                || owner.value.eq_ignore_ascii_case(&table.name().name) =>
        {
            &column.value
        }
        _ => {
            return Err(Error::invalid(format!("sql: `{column}` is not a column of table `{}`", table.name()))
                .hint("fields inside a nested column cannot be set alone"));
        }
    };
    Ok(target_columns(table, std::slice::from_ref(name))?.remove(0))
}

pub(super) fn table_name(name: &ObjectName) -> Result<TableName> {
    let parts: Vec<String> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(|i| i.value.clone()).collect();
    crate::sql::statement::table_name(&parts)
}

fn single(from: &[TableWithJoins]) -> Result<(TableName, Option<String>)> {
    match from {
        [TableWithJoins { relation, joins }] if joins.is_empty() => target(relation),
        _ => Err(Error::invalid("sql: rows of one table are changed at a time")
            .hint("put the other tables into a subquery of WHERE, or use MERGE INTO")),
    }
}

/// The table that a statement changes, and the name it has there.
pub(super) fn target(factor: &TableFactor) -> Result<(TableName, Option<String>)> {
    match factor {
        TableFactor::Table { name, alias, version: None, args: None, .. } => {
            let first = name.0.first().and_then(ObjectNamePart::as_ident);
            if first.is_some_and(|part| part.value.starts_with("__version_")) {
                return Err(Error::invalid("sql: a table of the past, or a metadata table, cannot be changed"));
            }
            Ok((table_name(name)?, alias.as_ref().map(|alias| alias.name.value.clone())))
        }
        other => Err(Error::invalid(format!("sql: `{other}` is not a table that can be changed"))),
    }
}

/// A change of those rows of one table that a condition holds for.
struct Job<'a> {
    workspace: &'a Workspace,
    zone: &'a str,
    sql: &'a str,
    pinned: &'a [Pinned],
    alias: Option<String>,
}

impl Job<'_> {
    /// Sets columns of the rows, or removes the rows where none is set.
    async fn run(&self, name: &TableName, condition: Expr, set: &[(String, Expr)]) -> Result<QueryResult> {
        let lake = self.workspace.lake();
        for _ in 0..ATTEMPTS {
            let table = lake.table(name)?;
            table.check_writable()?;
            let label = self.alias.clone().unwrap_or_else(|| name.name.clone());
            let start = table.current_snapshot_id();
            let mut change = Change { operation: Operation::Overwrite, ..Change::append(&table, Vec::new()) };
            change.expected = Some(start);
            let mut changed = 0;
            for file in &files::live_files(&table, start)?.data {
                let context = self.context(&table, start, file)?;
                let hits = self.count(&context, &label, &condition).await?;
                if hits == 0 {
                    continue;
                }
                changed += hits;
                change.removed.push(file.data_file().file_path().to_owned());
                change.added.extend(self.rewrite(&context, &table, &label, &condition, set).await?);
            }
            let counted = if set.is_empty() { "deleted_rows" } else { "updated_rows" };
            if change.removed.is_empty() {
                return row([(counted, count(0)), ("snapshot_id", long(start))]);
            }
            if change.added.is_empty() {
                change.operation = Operation::Delete;
            }
            if let Outcome::Committed { snapshot_id, .. } = commit::commit(lake, &change)? {
                return row([(counted, count(changed)), ("snapshot_id", long(Some(snapshot_id)))]);
            }
        }
        Err(gave_up(name))
    }

    /// A session in which [`TARGET`] is one file of the table.
    fn context(&self, table: &Table, snapshot: Option<i64>, file: &LiveFile) -> Result<SessionContext> {
        // One partition reads a file's rows in their order, which numbers them.
        let context = crate::sql::single_threaded_session(self.workspace, self.zone)?;
        let scan = Scan::table(table.clone(), snapshot)?.only(std::slice::from_ref(file));
        register(&context, TARGET, Arc::new(scan))?;
        Ok(context)
    }

    async fn count(&self, context: &SessionContext, label: &str, condition: &Expr) -> Result<u64> {
        let text = format!("SELECT count(*) FROM {TARGET} AS {} WHERE __condition", quoted(label));
        let plan = self.plan(context, &text, &[("__condition", condition)]).await?;
        single_count(context, self.sql, plan).await
    }

    /// Writes the file's rows anew, those that the condition holds for with
    /// their new values or not at all.
    async fn rewrite(
        &self,
        context: &SessionContext,
        table: &Table,
        label: &str,
        condition: &Expr,
        set: &[(String, Expr)],
    ) -> Result<Vec<DataFile>> {
        let label = quoted(label);
        let numbered = format!("(SELECT *, row_number() OVER () AS {ROW} FROM {TARGET}) AS {label}");
        self.find_hits(context, &format!("SELECT {ROW} AS {HIT} FROM {numbered} WHERE __condition"), condition).await?;
        let names: Vec<String> = table.schema().as_struct().fields().iter().map(|f| f.name.clone()).collect();
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for name in &names {
            let column = format!("{label}.{}", quoted(name));
            columns.push(match set.iter().position(|(other, _)| other == name) {
                None => column,
                Some(at) => {
                    values.push((format!("__value_{at}"), &set[at].1));
                    format!("CASE WHEN {HIT} IS NOT NULL THEN __value_{at} ELSE {column} END AS {}", quoted(name))
                }
            });
        }
        let kept = if set.is_empty() { format!(" WHERE {HIT} IS NULL") } else { String::new() };
        let text = format!("SELECT {} FROM {numbered} LEFT JOIN {HITS} ON {ROW} = {HIT}{kept}", columns.join(", "));
        let values: Vec<(&str, &Expr)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let plan = self.plan(context, &text, &values).await?;
        write(context, self.sql, table, plan, &names).await
    }

    /// Registers the numbers of the rows that the condition holds for. A
    /// condition with a subquery can stand nowhere but in a filter.
    async fn find_hits(&self, context: &SessionContext, text: &str, condition: &Expr) -> Result<()> {
        let failed = |e| plan_error("sql", self.sql, e);
        let plan = self.plan(context, text, &[("__condition", condition)]).await?;
        let schema = Arc::new(plan.schema().as_arrow().clone());
        let found = context.execute_logical_plan(plan).await.map_err(failed)?.collect().await.map_err(failed)?;
        let hits = MemTable::try_new(schema, vec![found]).map_err(failed)?;
        register(context, HITS, Arc::new(hits))
    }

    /// Plans `text` with expressions of the statement in the places of names,
    /// so that an error names its place in the statement.
    async fn plan(&self, context: &SessionContext, text: &str, values: &[(&str, &Expr)]) -> Result<LogicalPlan> {
        let statement = template(text, values)?;
        query::plan(self.workspace, context, self.sql, statement, self.pinned).await
    }
}

/// Parses a text of ours and puts expressions in the places of names.
pub(super) fn template(text: &str, values: &[(&str, &Expr)]) -> Result<EngineStatement> {
    use std::ops::ControlFlow;
    let wrong = |e: datafusion::sql::sqlparser::parser::ParserError| {
        Error::internal(format!("a statement of ours is wrong: {e}: {text}"))
    };
    let mut parsed = Parser::parse_sql(&GenericDialect {}, text).map_err(wrong)?;
    let mut statement = parsed.pop().ok_or_else(|| Error::internal("an empty statement of ours"))?;
    let _ = ast::visit_expressions_mut(&mut statement, |expression| {
        if let Expr::Identifier(name) = expression
            && let Some((_, value)) = values.iter().find(|(place, _)| *place == name.value)
        {
            *expression = Expr::Nested(Box::new((*value).clone()));
        }
        ControlFlow::<()>::Continue(())
    });
    Ok(EngineStatement::Statement(Box::new(statement)))
}

/// The number that a plan of one row and column answers.
pub(super) async fn single_count(context: &SessionContext, sql: &str, plan: LogicalPlan) -> Result<u64> {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    let failed = |e| plan_error("sql", sql, e);
    let batches = context.execute_logical_plan(plan).await.map_err(failed)?.collect().await.map_err(failed)?;
    let value = batches.iter().find(|b| b.num_rows() == 1).map(|b| b.column(0).as_primitive::<Int64Type>().value(0));
    Ok(value.unwrap_or(0).max(0) as u64)
}

/// Puts rows under a name into the session's own schema.
pub(super) fn register(context: &SessionContext, name: &str, rows: Arc<dyn TableProvider>) -> Result<()> {
    let _ = context.deregister_table(name);
    context
        .register_table(name, rows)
        .map(drop)
        .map_err(|e| Error::internal(format!("`{name}` cannot be read: {e}")).cause(e))
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn gave_up(name: &TableName) -> Error {
    Error::conflict(format!("table `{name}` was changed by others {ATTEMPTS} times in a row; nothing was written"))
        .hint("run the statement again when there are fewer writers")
}
