//! The feature query of a pipeline: its inputs, its plan, its columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;

use super::inputs::Inputs;
use crate::config::{Duplicates, Pipeline};
use crate::lake::TableName;
use crate::lake::scan::{KeyFilter, Scan};
use crate::sql::{plan_error, session};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Where a pipeline's SQL stands, for error messages.
pub fn source(pipeline: &Pipeline) -> String {
    match &pipeline.features.sql_file {
        Some(file) => file.display().to_string(),
        None => format!("{}: [features] sql", pipeline.file.display()),
    }
}

/// The tables that a pipeline's SQL names.
pub fn input_names(workspace: &Workspace, pipeline: &Pipeline) -> Result<Vec<TableName>> {
    table_names(workspace, &source(pipeline), &pipeline.features.sql, &pipeline.features.time_zone)
}

/// The tables that a query names; `what` says where it stands.
pub fn table_names(workspace: &Workspace, what: &str, sql: &str, time_zone: &str) -> Result<Vec<TableName>> {
    let context = session(workspace, time_zone)?;
    let (statement, pinned) = crate::sql::parse(what, sql)?;
    if !pinned.is_empty() {
        return Err(Error::invalid(format!(
            "{what}: a feature query reads its inputs as they are, not AS OF a version"
        ))
        .hint("take the clause out; a run pins the snapshot of every input by itself"));
    }
    let references = context.state().resolve_table_references(&statement).map_err(|e| plan_error(what, sql, e))?;
    let mut names = Vec::new();
    for reference in references {
        let Some(namespace) = reference.schema() else {
            return Err(Error::invalid(format!("{what}: table `{}` has no namespace", reference.table()))
                .hint("write it as `namespace.table`"));
        };
        names.push(TableName { namespace: namespace.to_owned(), name: reference.table().to_owned() });
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Error::invalid(format!("{what}: the query reads no table")));
    }
    Ok(names)
}

/// A planned feature query.
pub struct FeatureQuery {
    /// The session that holds its tables.
    pub context: SessionContext,
    /// Its plan, unoptimised.
    pub plan: LogicalPlan,
    /// The scans of its inputs by name; none when other tables stand for them.
    pub scans: BTreeMap<String, Arc<Scan>>,
}

impl FeatureQuery {
    /// Plans the query over pinned inputs; with `keys`, every input filtered.
    pub async fn new(
        workspace: &Workspace,
        pipeline: &Pipeline,
        inputs: &Inputs,
        keys: &BTreeMap<String, KeyFilter>,
    ) -> Result<Self> {
        let context = session(workspace, &pipeline.features.time_zone)?;
        let scans: BTreeMap<String, Arc<Scan>> =
            inputs.scans(keys)?.into_iter().map(|(name, scan)| (name, Arc::new(scan))).collect();
        let tables = scans.iter().map(|(name, scan)| (name.clone(), scan.clone() as Arc<dyn TableProvider>)).collect();
        Ok(Self { scans, ..Self::over(context, pipeline, tables).await? })
    }

    /// Plans the query over these tables.
    pub async fn over(
        context: SessionContext,
        pipeline: &Pipeline,
        tables: BTreeMap<String, Arc<dyn TableProvider>>,
    ) -> Result<Self> {
        let what = source(pipeline);
        for (name, table) in tables {
            crate::sql::put(&context, &TableName::parse(&name)?, table)?;
        }
        let sql = &pipeline.features.sql;
        let plan = context.state().create_logical_plan(sql).await.map_err(|e| plan_error(&what, sql, e))?;
        if matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_))
        {
            return Err(Error::invalid(format!("{what}: a feature query must be a SELECT")));
        }
        Ok(Self { context, plan, scans: BTreeMap::new() })
    }

    /// The plan that a run executes: with `duplicates = "latest"`, only the
    /// newest row of an entity.
    pub fn run_plan(&self, pipeline: &Pipeline) -> Result<LogicalPlan> {
        if pipeline.features.duplicates == Duplicates::Error {
            return Ok(self.plan.clone());
        }
        newest_rows(&self.context, &self.plan, pipeline)
            .map_err(|e| plan_error(&source(pipeline), &pipeline.features.sql, e))
    }
}

/// `rank() OVER (PARTITION BY key ORDER BY feature_time DESC) = 1`: of rows
/// with one feature time none wins, so a tie stays a duplicate.
fn newest_rows(
    context: &SessionContext,
    plan: &LogicalPlan,
    pipeline: &Pipeline,
) -> datafusion::common::Result<LogicalPlan> {
    use datafusion::logical_expr::{ExprFunctionExt, col, ident, lit};
    let time = pipeline.features.feature_time.clone().unwrap_or_default();
    let rank = datafusion::functions_window::expr_fn::rank()
        .partition_by(pipeline.entity_key.iter().map(ident).collect())
        .order_by(vec![ident(time).sort(false, false)])
        .build()?
        .alias("__newest");
    let frame = datafusion::dataframe::DataFrame::new(context.state(), plan.clone());
    let names: Vec<String> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    let frame = frame.select(names.iter().map(ident).chain([rank]).collect::<Vec<_>>())?;
    let frame = frame.filter(col("__newest").eq(lit(1u64)))?;
    Ok(frame.select(names.iter().map(ident).collect::<Vec<_>>())?.into_unoptimized_plan())
}
