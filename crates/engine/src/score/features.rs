//! The feature query of a pipeline: its inputs, its plan, its columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, lit};
use datafusion::prelude::SessionContext;

use super::inputs::{Input, Inputs, Reads};
use super::newest::{NEWEST, newest_udwf};
use crate::config::{Duplicates, FEATURE_VIEWS, Pipeline};
use crate::lake::TableName;
use crate::lake::scan::{KeyFilter, Scan};
use crate::sql::{FeatureViewTable, Past, instant, plan_error, session};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// Where a pipeline's SQL stands, for error messages.
pub fn source(pipeline: &Pipeline) -> String {
    match &pipeline.features.sql_file {
        Some(file) => file.display().to_string(),
        None => format!("{}: [features] sql", pipeline.file.display()),
    }
}

/// The tables and feature views that a pipeline's SQL names.
pub fn reads(workspace: &Workspace, pipeline: &Pipeline) -> Result<Reads> {
    reads_of(workspace, &source(pipeline), &pipeline.features.sql, &pipeline.features.time_zone)
}

/// The tables and feature views that a query names; `what` says where it stands.
pub fn reads_of(workspace: &Workspace, what: &str, sql: &str, time_zone: &str) -> Result<Reads> {
    let context = session(workspace, time_zone)?;
    let (statement, pinned) = crate::sql::parse(what, sql)?;
    if !pinned.is_empty() {
        return Err(Error::invalid(format!(
            "{what}: a feature query reads its inputs as they are, not AS OF a version"
        ))
        .hint("take the clause out; a run pins the snapshot of every input by itself"));
    }
    let references = context.state().resolve_table_references(&statement).map_err(|e| plan_error(what, sql, e))?;
    let mut reads = Reads::default();
    for reference in references {
        let Some(namespace) = reference.schema() else {
            return Err(Error::invalid(format!("{what}: table `{}` has no namespace", reference.table()))
                .hint("write it as `namespace.table`"));
        };
        if namespace == FEATURE_VIEWS {
            let view = workspace.project().feature_view(reference.table())?;
            if !reads.views.contains(&view) {
                reads.views.push(view);
            }
        } else {
            reads.tables.insert(TableName { namespace: namespace.to_owned(), name: reference.table().to_owned() });
        }
    }
    if reads.tables.is_empty() && reads.views.is_empty() {
        return Err(Error::invalid(format!("{what}: the query reads no table")));
    }
    Ok(reads)
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
        Ok(Self { scans, ..Self::over(context, pipeline, inputs, tables).await? })
    }

    /// Plans the query over these tables, which hold the rows of `inputs`.
    pub async fn over(
        context: SessionContext,
        pipeline: &Pipeline,
        inputs: &Inputs,
        tables: BTreeMap<String, Arc<dyn TableProvider>>,
    ) -> Result<Self> {
        let what = source(pipeline);
        for (name, table) in tables {
            crate::sql::put(&context, &TableName::parse(&name)?, table)?;
        }
        for view in inputs.views() {
            let past = match inputs.get(&view.table) {
                Some(Input::Folder { .. }) => Past::Folder,
                _ => Past::Pinned,
            };
            let name = TableName { namespace: FEATURE_VIEWS.to_owned(), name: view.name.clone() };
            let view = FeatureViewTable::new(&context, view.clone(), past, inputs.at()).await?;
            crate::sql::put(&context, &name, Arc::new(view))?;
        }
        let sql = &pipeline.features.sql;
        let (statement, _) = crate::sql::parse(&what, sql)?;
        let plan = context.state().statement_to_plan(statement).await.map_err(|e| plan_error(&what, sql, e))?;
        if matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_))
        {
            return Err(Error::invalid(format!("{what}: a feature query must be a SELECT")));
        }
        let plan = cut_off(plan, pipeline, inputs)?;
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

/// Leaves out the rows of folders that were not known yet at the time of the
/// inputs.
fn cut_off(plan: LogicalPlan, pipeline: &Pipeline, inputs: &Inputs) -> Result<LogicalPlan> {
    let mut cuts: BTreeMap<&String, String> = BTreeMap::new();
    let known = known_time(pipeline, &plan);
    for folder in inputs.folders_to_cut() {
        let file = pipeline.file.display();
        let Some(known) = &known else {
            return Err(Error::invalid(format!(
                "{file}: input `{folder}` is a Parquet folder, and nothing says when its rows became known"
            ))
            .hint(
                "name the column in [features] known_time, or write `known_time = \"feature_time\"` if features are \
                 known when they become true",
            ));
        };
        let columns: Vec<String> =
            super::locality::lineage(&plan, known).into_iter().filter(|(t, _)| t == folder).map(|(_, c)| c).collect();
        let [column] = columns.as_slice() else {
            return Err(Error::invalid(format!(
                "{file}: the known time `{known}` is made of {} columns of the Parquet folder `{folder}`, not of one",
                columns.len()
            ))
            .hint("let the column come from every folder, for example by greatest(a.loaded_at, b.loaded_at)"));
        };
        cuts.insert(folder, column.clone());
    }
    if cuts.is_empty() {
        return Ok(plan);
    }
    let at = lit(ScalarValue::TimestampMicrosecond(Some(inputs.at()), Some("UTC".into())));
    let cut = plan.transform_up(|node| {
        let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
        let Some(column) = cuts.get(&scan.table_name.to_string()) else { return Ok(Transformed::no(node)) };
        let column = Expr::Column(Column::new(Some(scan.table_name.clone()), column));
        let known = instant(&column).lt_eq(at.clone());
        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(known, Arc::new(node))?)))
    });
    cut.map(|cut| cut.data).map_err(|e| plan_error(&source(pipeline), &pipeline.features.sql, e))
}

/// The column of the query that says when a row became known.
fn known_time(pipeline: &Pipeline, plan: &LogicalPlan) -> Option<String> {
    let known = pipeline.features.known_time.as_ref()?;
    let named = plan.schema().fields().iter().any(|f| f.name() == known);
    if !named && known == "feature_time" { pipeline.features.feature_time.clone() } else { Some(known.clone()) }
}

/// `newest() OVER (PARTITION BY key ORDER BY feature_time DESC) = 1`: of rows
/// with one feature time none wins, so a tie stays a duplicate.
fn newest_rows(
    context: &SessionContext,
    plan: &LogicalPlan,
    pipeline: &Pipeline,
) -> datafusion::common::Result<LogicalPlan> {
    use datafusion::logical_expr::{ExprFunctionExt, col, ident, lit};
    let time = pipeline.features.feature_time.clone().unwrap_or_default();
    let rank = newest_udwf()
        .call(Vec::new())
        .partition_by(pipeline.entity_key.iter().map(ident).collect())
        .order_by(vec![ident(time).sort(false, false)])
        .build()?
        .alias(NEWEST);
    let frame = datafusion::dataframe::DataFrame::new(context.state(), plan.clone());
    let names: Vec<String> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    let frame = frame.select(names.iter().map(ident).chain([rank]).collect::<Vec<_>>())?;
    let frame = frame.filter(col(NEWEST).eq(lit(1u64)))?;
    Ok(frame.select(names.iter().map(ident).collect::<Vec<_>>())?.into_unoptimized_plan())
}
