//! SQL inside a Spark ML pipeline: the statements of its SQLTransformers.
//!
//! `SELECT *, expression AS name, … FROM __THIS__` is a function of one row, and
//! that is what runs here: each expression is translated once per schema and
//! evaluated over the columns of a block. What would drop, order or combine rows
//! (WHERE, GROUP BY, ORDER BY, LIMIT, joins, aggregates, windows, subqueries) is
//! refused by name when the model is loaded, so are functions and operators whose
//! answers are not known to be Spark's.
//!
//! Values are Spark's without ANSI mode: `/` is a division of doubles, by zero it
//! is null, `%` by zero too, the logarithm of what is not positive is null; NaN
//! equals NaN and is larger than any number, `-0.0 = 0.0`. Whole numbers have 64
//! bits. Arithmetic that Spark does in decimals or in single precision is refused:
//! a cast to DOUBLE says what is meant.

mod expression;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Fields, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Query, Select, SelectItem, SetExpr, Statement, TableFactor, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::dialect::DatabricksDialect;
use datafusion::sql::sqlparser::parser::Parser;
use insightera_infer::{Artifact, Model, SqlPlan, SqlStage};

/// The table of the rows.
const TABLE: &str = "__THIS__";

/// Loads a model, with this engine for the statements inside.
///
/// # Errors
/// As [`insightera_infer::load`]; `Invalid` where a statement cannot be run.
pub fn load_model(artifact: &Artifact) -> insightera_infer::Result<Arc<dyn Model>> {
    let engine: Arc<dyn SqlStage> = Arc::new(Statements::default());
    insightera_infer::load_with(artifact, &engine)
}

type Compiled = Arc<Vec<(String, Arc<dyn PhysicalExpr>)>>;

/// The engine, with what it has translated.
#[derive(Debug, Default)]
struct Statements {
    compiled: Mutex<HashMap<(String, Fields), Compiled>>,
}

impl SqlStage for Statements {
    fn plan(&self, statement: &str) -> Result<SqlPlan, String> {
        let named = named_expressions(statement)?;
        let mut reads = expression::Reads::default();
        for (_, expression) in &named {
            reads.add(expression);
        }
        // Translated once over likely types: what is not supported is known now.
        let likely = reads.likely_schema();
        for (_, expression) in &named {
            expression::translate(expression, &likely)?;
        }
        Ok(SqlPlan { reads: reads.columns, makes: named.into_iter().map(|(name, _)| name).collect() })
    }

    fn run(&self, statement: &str, rows: &RecordBatch) -> Result<RecordBatch, String> {
        let compiled = self.compiled(statement, &rows.schema())?;
        let evaluate = |(name, expression): &(String, Arc<dyn PhysicalExpr>)| -> Result<(String, ArrayRef), String> {
            let value = expression.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()));
            value.map(|value| (name.clone(), value)).map_err(|e| format!("`{name}`: {e}"))
        };
        let columns = compiled.iter().map(evaluate).collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_from_iter(columns).map_err(|e| e.to_string())
    }
}

impl Statements {
    fn compiled(&self, statement: &str, schema: &SchemaRef) -> Result<Compiled, String> {
        let key = (statement.to_owned(), schema.fields().clone());
        if let Some(found) = self.compiled.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(found));
        }
        let about = DFSchema::try_from(Arc::clone(schema)).map_err(|e| e.to_string())?;
        let physical = |(name, expression): (String, Expr)| {
            let logical = expression::translate(&expression, schema)?;
            let physical = create_physical_expr(&logical, &about, &ExecutionProps::new());
            physical.map(|physical| (name, physical)).map_err(|e| format!("`{expression}`: {e}"))
        };
        let compiled: Compiled =
            Arc::new(named_expressions(statement)?.into_iter().map(physical).collect::<Result<_, String>>()?);
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&compiled));
        Ok(compiled)
    }
}

/// What a statement makes: names and expressions. Columns that it only passes
/// on are not among them.
fn named_expressions(statement: &str) -> Result<Vec<(String, Expr)>, String> {
    let mut parsed = Parser::parse_sql(&DatabricksDialect {}, statement).map_err(|e| e.to_string())?;
    let query = match (parsed.pop(), parsed.is_empty()) {
        (Some(Statement::Query(query)), true) => *query,
        _ => return Err("it is not one SELECT".into()),
    };
    let select = plain_select(query)?;
    let mut named: Vec<(String, Expr)> = Vec::new();
    for item in select.projection {
        match item {
            SelectItem::Wildcard(options) if options_are_plain(&options) => {}
            SelectItem::QualifiedWildcard(of, options)
                if options_are_plain(&options) && of.to_string() == format!("{TABLE}.*") => {}
            SelectItem::UnnamedExpr(Expr::Identifier(_)) => {}
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) if parts.len() == 2 => {}
            SelectItem::ExprWithAlias { expr, alias } => {
                if named.iter().any(|(name, _)| *name == alias.value) {
                    return Err(format!("it makes `{}` twice", alias.value));
                }
                named.push((alias.value, expr));
            }
            SelectItem::UnnamedExpr(expr) => return Err(format!("`{expr}` has no name: write `{expr} AS name`")),
            other => return Err(format!("`{other}` is not supported")),
        }
    }
    if named.is_empty() { Err("it makes no column".into()) } else { Ok(named) }
}

fn options_are_plain(options: &WildcardAdditionalOptions) -> bool {
    let WildcardAdditionalOptions { opt_ilike, opt_exclude, opt_except, opt_replace, opt_rename, .. } = options;
    opt_ilike.is_none()
        && opt_exclude.is_none()
        && opt_except.is_none()
        && opt_replace.is_none()
        && opt_rename.is_none()
}

/// The SELECT of a query that does nothing but compute columns.
fn plain_select(query: Query) -> Result<Select, String> {
    let Query { with, body, order_by, limit_clause, fetch, locks, for_clause, settings, format_clause, pipe_operators } =
        query;
    let refused = |what: &str| Err(format!("it has {what}: a row's values must depend on that row alone"));
    if with.is_some() {
        return refused("WITH");
    }
    if order_by.is_some() {
        return refused("ORDER BY");
    }
    if limit_clause.is_some() || fetch.is_some() {
        return refused("LIMIT");
    }
    if !locks.is_empty() || for_clause.is_some() || settings.is_some() || format_clause.is_some() {
        return refused("a clause after the query");
    }
    if !pipe_operators.is_empty() {
        return refused("a pipe");
    }
    let SetExpr::Select(select) = *body else { return refused("more than one SELECT") };
    let Select { distinct, top, exclude, into, from, lateral_views, prewhere, selection, connect_by, group_by, .. } =
        select.as_ref();
    if selection.is_some() || prewhere.is_some() {
        return refused("WHERE, which drops rows");
    }
    if distinct.is_some() || top.is_some() {
        return refused("DISTINCT or TOP");
    }
    let grouped = match group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, modifiers) => !expressions.is_empty() || !modifiers.is_empty(),
    };
    if grouped || select.having.is_some() || select.qualify.is_some() || !select.named_window.is_empty() {
        return refused("groups or windows");
    }
    if !lateral_views.is_empty() || !connect_by.is_empty() {
        return refused("a view that makes rows");
    }
    if !select.cluster_by.is_empty() || !select.distribute_by.is_empty() || !select.sort_by.is_empty() {
        return refused("an order of rows");
    }
    if exclude.is_some() || into.is_some() || select.value_table_mode.is_some() || select.select_modifiers.is_some() {
        return refused("a modifier of SELECT");
    }
    let [only] = from.as_slice() else { return refused("another number of tables than one") };
    if !only.joins.is_empty() {
        return refused("another number of tables than one");
    }
    let this = matches!(
        &only.relation,
        TableFactor::Table {
            name, alias: None, args: None, version: None, sample: None, json_path: None, with_ordinality: false, ..
        } if name.to_string() == TABLE
    );
    if !this {
        return Err(format!("it reads `{}`, and there is only `{TABLE}`", only.relation));
    }
    Ok(*select)
}
