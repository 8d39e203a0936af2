//! `MERGE INTO`: the rows of a source change, remove and add rows of a table.
//!
//! The source is evaluated once. The data files that hold a matched row are
//! copied with their changes; rows that match none are added; one commit does
//! both.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{
    self, Expr, Merge, MergeAction, MergeClause, MergeClauseKind, MergeInsertKind, ObjectNamePart, SetExpr, TableFactor,
};
use iceberg::spec::{DataFile, Operation};

use super::change::{ATTEMPTS, TARGET, assigned, gave_up, quoted, register, single_count, target, template, write};
use super::{QueryResult, count, long, row};
use crate::lake::commit::{self, Change, Outcome};
use crate::lake::files;
use crate::lake::scan::Scan;
use crate::lake::{Table, TableName};
use crate::sql::tokens::STAR;
use crate::sql::travel::Pinned;
use crate::sql::{plan_error, query};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// The source's rows, inside a statement.
const SOURCE: &str = "__source";
/// A column of the source that is never null.
const PRESENT: &str = "__source_row";
/// The number of a target row.
const ROW: &str = "__target_row";
/// The whole target.
const ALL: &str = "__target";

/// What a clause does with a row.
enum Action {
    /// Sets columns: name and expression.
    Update(Vec<(String, Expr)>),
    Delete,
    /// Adds a row: name and expression.
    Insert(Vec<(String, Expr)>),
}

struct Clause {
    kind: MergeClauseKind,
    predicate: Option<Expr>,
    action: Action,
}

struct Job<'a> {
    workspace: &'a Workspace,
    sql: &'a str,
    pinned: &'a [Pinned],
    /// The names of target and source in the statement, quoted.
    labels: (String, String),
    on: Expr,
    clauses: Vec<Clause>,
}

/// Runs a `MERGE INTO`.
pub(super) async fn merge(
    workspace: &Workspace,
    zone: &str,
    sql: &str,
    merge: Merge,
    pinned: &[Pinned],
) -> Result<QueryResult> {
    if merge.output.is_some() {
        return Err(Error::invalid("sql: OUTPUT and RETURNING are not supported"));
    }
    if merge.clauses.is_empty() {
        return Err(Error::invalid("sql: MERGE needs WHEN MATCHED or WHEN NOT MATCHED"));
    }
    let (name, alias) = target(&merge.table)?;
    let lake = workspace.lake();
    let table = lake.table(&name)?;
    let context = crate::sql::session(workspace, zone)?;
    let source_label = label(&merge.source)?;
    let source = source_rows(workspace, &context, sql, &merge.source, pinned).await?;
    let schema = source.schema();
    let columns: Vec<String> =
        schema.fields().iter().map(|f| f.name().clone()).filter(|name| name != PRESENT).collect();
    register(&context, SOURCE, Arc::new(source))?;
    let alias = alias.unwrap_or_else(|| name.name.clone());
    let clauses = clauses(&table, &alias, &source_label, &columns, merge.clauses)?;
    let labels = (quoted(&alias), quoted(&source_label));
    let job = Job { workspace, sql, pinned, labels, on: *merge.on, clauses };
    for _ in 0..ATTEMPTS {
        if let Some(done) = job.attempt(&context, &name).await? {
            return Ok(done);
        }
    }
    Err(gave_up(&name))
}

fn label(source: &TableFactor) -> Result<String> {
    let (name, alias) = match source {
        TableFactor::Table { name, alias, .. } => (name.0.last().and_then(ObjectNamePart::as_ident), alias),
        TableFactor::Derived { alias, .. } => (None, alias),
        other => return Err(Error::invalid(format!("sql: `{other}` cannot be the source of MERGE"))),
    };
    if alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()) {
        return Err(Error::invalid("sql: the source of MERGE cannot rename its columns in its alias")
            .hint("rename them inside: USING (SELECT a AS b FROM …) AS s"));
    }
    match (alias, name) {
        (Some(alias), _) => Ok(alias.name.value.clone()),
        (None, Some(name)) => Ok(name.value.clone()),
        (None, None) => Err(Error::invalid("sql: the source of MERGE has no name").hint("write USING (SELECT …) AS s")),
    }
}

/// Evaluates the source, once: a function like random() must not answer
/// twice.
async fn source_rows(
    workspace: &Workspace,
    context: &SessionContext,
    sql: &str,
    source: &TableFactor,
    pinned: &[Pinned],
) -> Result<MemTable> {
    let mut statement = template("SELECT * FROM place", &[])?;
    if let EngineStatement::Statement(inner) = &mut statement
        && let ast::Statement::Query(query) = inner.as_mut()
        && let SetExpr::Select(select) = query.body.as_mut()
        && let Some(from) = select.from.first_mut()
    {
        from.relation = source.clone();
    }
    let failed = |e| plan_error("sql", sql, e);
    let plan = query::plan(workspace, context, sql, statement, pinned).await?;
    let schema = plan.schema().as_arrow().clone();
    let batches = context.execute_logical_plan(plan).await.map_err(failed)?.collect().await.map_err(failed)?;
    let mut fields: Vec<Arc<Field>> = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(PRESENT, DataType::Boolean, false)));
    let schema = Arc::new(Schema::new(fields));
    let wrong = |e| Error::internal(format!("the rows of MERGE's source do not fit together: {e}"));
    let mut marked = Vec::new();
    for batch in batches {
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(BooleanArray::from(vec![true; batch.num_rows()])));
        marked.push(RecordBatch::try_new(schema.clone(), columns).map_err(wrong)?);
    }
    MemTable::try_new(schema, vec![marked]).map_err(|e| Error::internal(format!("MERGE's source: {e}")).cause(e))
}

fn clauses(
    table: &Table,
    alias: &str,
    source: &str,
    source_columns: &[String],
    clauses: Vec<MergeClause>,
) -> Result<Vec<Clause>> {
    let mut found: Vec<Clause> = Vec::new();
    for clause in clauses {
        let kind = match clause.clause_kind {
            MergeClauseKind::NotMatchedByTarget => MergeClauseKind::NotMatched,
            kind => kind,
        };
        if found.iter().any(|other| other.kind == kind && other.predicate.is_none()) {
            return Err(Error::invalid(format!("sql: this clause is never reached: WHEN {kind}"))
                .hint("an earlier clause of its kind has no condition: only the last one may have none"));
        }
        let action = match clause.action {
            MergeAction::Delete { .. } => Action::Delete,
            MergeAction::Update(update) => {
                if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                    return Err(Error::invalid("sql: UPDATE … WHERE inside MERGE is not supported")
                        .hint("write the condition into WHEN MATCHED AND condition"));
                }
                let mut set: Vec<(String, Expr)> = Vec::new();
                for assignment in update.assignments {
                    if assignment.target.to_string() == format!("\"{STAR}\"") {
                        set.extend(same_columns(table, source, source_columns)?);
                        continue;
                    }
                    let column = assigned(table, &assignment.target, Some(alias))?;
                    if set.iter().any(|(other, _)| *other == column) {
                        return Err(Error::invalid(format!("sql: column `{column}` is set twice")));
                    }
                    set.push((column, assignment.value));
                }
                Action::Update(set)
            }
            MergeAction::Insert(insert) => {
                if insert.insert_predicate.is_some() {
                    return Err(Error::invalid("sql: INSERT … WHERE inside MERGE is not supported")
                        .hint("write the condition into WHEN NOT MATCHED AND condition"));
                }
                match insert.kind {
                    MergeInsertKind::Row => Action::Insert(same_columns(table, source, source_columns)?),
                    MergeInsertKind::Values(values) => {
                        let [row] = values.rows.as_slice() else {
                            return Err(Error::invalid("sql: INSERT inside MERGE takes one row of values"));
                        };
                        let names = if insert.columns.is_empty() {
                            table.schema().as_struct().fields().iter().map(|f| f.name.clone()).collect()
                        } else {
                            let target = |c: &ast::ObjectName| {
                                assigned(table, &ast::AssignmentTarget::ColumnName(c.clone()), Some(alias))
                            };
                            insert.columns.iter().map(target).collect::<Result<Vec<String>>>()?
                        };
                        if names.len() != row.len() {
                            return Err(Error::invalid(format!(
                                "sql: INSERT inside MERGE names {} columns and has {} values",
                                names.len(),
                                row.len()
                            )));
                        }
                        Action::Insert(names.into_iter().zip(row.iter().cloned()).collect())
                    }
                }
            }
        };
        found.push(Clause { kind, predicate: clause.predicate, action });
    }
    Ok(found)
}

/// `*`: every column of the table from the source's column of that name.
fn same_columns(table: &Table, source: &str, columns: &[String]) -> Result<Vec<(String, Expr)>> {
    let mut found = Vec::new();
    for field in table.schema().as_struct().fields() {
        let exact = columns.iter().find(|c| **c == field.name);
        let Some(column) = exact.or_else(|| columns.iter().find(|c| c.eq_ignore_ascii_case(&field.name))) else {
            return Err(Error::invalid(format!("sql: `*` needs a column `{}` in the source of MERGE", field.name))
                .hint(format!("it has {}", columns.join(", "))));
        };
        let name = |text: &str| ast::Ident::with_quote('"', text);
        found.push((field.name.clone(), Expr::CompoundIdentifier(vec![name(source), name(column)])));
    }
    Ok(found)
}

impl Job<'_> {
    async fn attempt(&self, context: &SessionContext, name: &TableName) -> Result<Option<QueryResult>> {
        let lake = self.workspace.lake();
        let table = lake.table(name)?;
        table.check_writable()?;
        let start = table.current_snapshot_id();
        let scan = Scan::table(table.clone(), start)?;
        let live = files::live_files(&table, start)?;
        let mut change = Change { operation: Operation::Overwrite, ..Change::append(&table, Vec::new()) };
        change.expected = Some(start);
        let mut matched = 0;
        if self.clauses.iter().any(|c| c.kind != MergeClauseKind::NotMatched) {
            let mut hit = Vec::new();
            let all = self.clauses.iter().any(|c| c.kind == MergeClauseKind::NotMatchedBySource);
            for file in &live.data {
                register(context, TARGET, Arc::new(scan.clone().only(std::slice::from_ref(file))))?;
                let rows = self.matched(context).await?;
                matched += rows;
                if rows > 0 || all {
                    hit.push(file.clone());
                }
            }
            if !hit.is_empty() {
                register(context, TARGET, Arc::new(scan.clone().only(&hit)))?;
                self.check_single(context, name).await?;
                change.removed = hit.iter().map(|f| f.data_file().file_path().to_owned()).collect();
                change.added = self.rewrite(context, &table).await?;
            }
        }
        let mut inserted = 0;
        if self.clauses.iter().any(|c| c.kind == MergeClauseKind::NotMatched) {
            register(context, ALL, Arc::new(scan))?;
            let added = self.insert(context, &table).await?;
            inserted = added.iter().map(DataFile::record_count).sum();
            change.added.extend(added);
        }
        let answer = |snapshot| {
            row([("matched_rows", count(matched)), ("inserted_rows", count(inserted)), ("snapshot_id", long(snapshot))])
        };
        if change.removed.is_empty() && change.added.is_empty() {
            return answer(start).map(Some);
        }
        if change.removed.is_empty() {
            change.operation = Operation::Append;
        }
        match commit::commit(lake, &change)? {
            Outcome::Committed { snapshot_id, .. } => answer(Some(snapshot_id)).map(Some),
            Outcome::Stale { .. } => Ok(None),
        }
    }

    /// Rows of the target that some source row matches.
    async fn matched(&self, context: &SessionContext) -> Result<u64> {
        let (target, source) = &self.labels;
        let text = format!(
            "SELECT count(*) FROM {TARGET} AS {target} WHERE EXISTS (SELECT 1 FROM {SOURCE} AS {source} WHERE __on)"
        );
        let plan = self.plan(context, &text).await?;
        single_count(context, self.sql, plan).await
    }

    /// A row that two source rows match would get one of two values.
    async fn check_single(&self, context: &SessionContext, name: &TableName) -> Result<()> {
        let matched: Vec<&Clause> = self.clauses.iter().filter(|c| c.kind == MergeClauseKind::Matched).collect();
        let only_delete = matched.iter().all(|c| matches!(c.action, Action::Delete) && c.predicate.is_none());
        if only_delete {
            return Ok(());
        }
        let (target, source) = &self.labels;
        let text = format!(
            "SELECT count(*) - count(DISTINCT {target}.{ROW}) FROM \
             (SELECT *, row_number() OVER () AS {ROW} FROM {TARGET}) AS {target} JOIN {SOURCE} AS {source} ON __on"
        );
        let plan = self.plan(context, &text).await?;
        match single_count(context, self.sql, plan).await? {
            0 => Ok(()),
            twice => Err(Error::invalid(format!(
                "sql: {twice} more rows of the source match a row of table `{name}` that another one matches as well"
            ))
            .hint("make the source's rows unique by the columns of ON, for example with GROUP BY")),
        }
    }

    /// The condition of a clause, without that of the clauses before it.
    fn condition(&self, index: usize) -> String {
        let clause = &self.clauses[index];
        let source = &self.labels.1;
        let present = match clause.kind {
            MergeClauseKind::Matched => format!("{source}.{PRESENT} IS NOT NULL"),
            MergeClauseKind::NotMatchedBySource => format!("{source}.{PRESENT} IS NULL"),
            MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => "true".to_owned(),
        };
        if clause.predicate.is_some() { format!("({present} AND __predicate_{index})") } else { present }
    }

    async fn rewrite(&self, context: &SessionContext, table: &Table) -> Result<Vec<DataFile>> {
        let (target, source) = &self.labels;
        let of_target: Vec<usize> =
            (0..self.clauses.len()).filter(|i| self.clauses[*i].kind != MergeClauseKind::NotMatched).collect();
        let names: Vec<String> = table.schema().as_struct().fields().iter().map(|f| f.name.clone()).collect();
        let mut columns = Vec::new();
        for name in &names {
            let column = format!("{target}.{}", quoted(name));
            let mut cases = String::new();
            for index in &of_target {
                let value = match &self.clauses[*index].action {
                    Action::Update(set) => set.iter().position(|(other, _)| other == name),
                    _ => None,
                };
                let value = value.map_or_else(|| column.clone(), |at| format!("__value_{index}_{at}"));
                cases.push_str(&format!(" WHEN {} THEN {value}", self.condition(*index)));
            }
            columns.push(format!("CASE{cases} ELSE {column} END AS {}", quoted(name)));
        }
        let mut keep = String::new();
        for index in &of_target {
            let kept = !matches!(self.clauses[*index].action, Action::Delete);
            keep.push_str(&format!(" WHEN {} THEN {kept}", self.condition(*index)));
        }
        let text = format!(
            "SELECT {} FROM {TARGET} AS {target} LEFT JOIN {SOURCE} AS {source} ON __on WHERE CASE{keep} ELSE true END",
            columns.join(", ")
        );
        let plan = self.plan(context, &text).await?;
        write(context, self.sql, table, plan, &names).await
    }

    async fn insert(&self, context: &SessionContext, table: &Table) -> Result<Vec<DataFile>> {
        let (target, source) = &self.labels;
        let names: Vec<String> = table.schema().as_struct().fields().iter().map(|f| f.name.clone()).collect();
        let inserts: Vec<(usize, &Vec<(String, Expr)>)> = self
            .clauses
            .iter()
            .enumerate()
            .filter_map(|(index, clause)| match &clause.action {
                Action::Insert(values) => Some((index, values)),
                _ => None,
            })
            .collect();
        let mut columns = Vec::new();
        for name in &names {
            let mut cases = String::new();
            for (index, values) in &inserts {
                let value = values.iter().position(|(other, _)| other == name);
                let value = value.map_or_else(|| "NULL".to_owned(), |at| format!("__value_{index}_{at}"));
                cases.push_str(&format!(" WHEN {} THEN {value}", self.condition(*index)));
            }
            columns.push(format!("CASE{cases} END AS {}", quoted(name)));
        }
        let conditions: Vec<String> =
            inserts.iter().map(|(index, _)| format!("coalesce({}, false)", self.condition(*index))).collect();
        let text = format!(
            "SELECT {} FROM {SOURCE} AS {source} WHERE NOT EXISTS (SELECT 1 FROM {ALL} AS {target} WHERE __on) AND ({})",
            columns.join(", "),
            conditions.join(" OR ")
        );
        let plan = self.plan(context, &text).await?;
        write(context, self.sql, table, plan, &names).await
    }

    async fn plan(&self, context: &SessionContext, text: &str) -> Result<datafusion::logical_expr::LogicalPlan> {
        let mut values: Vec<(String, &Expr)> = vec![("__on".to_owned(), &self.on)];
        for (index, clause) in self.clauses.iter().enumerate() {
            values.extend(clause.predicate.iter().map(|predicate| (format!("__predicate_{index}"), predicate)));
            if let Action::Update(set) | Action::Insert(set) = &clause.action {
                values.extend(set.iter().enumerate().map(|(at, (_, value))| (format!("__value_{index}_{at}"), value)));
            }
        }
        let values: Vec<(&str, &Expr)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let statement = template(text, &values)?;
        query::plan(self.workspace, context, self.sql, statement, self.pinned).await
    }
}
