//! DataFusion sessions with the project's settings.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::asof;
use super::widened::WidenArguments;
use crate::lake::scan::ScanNotes;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// The catalog name inside SQL.
pub const CATALOG: &str = "insightera";

/// What work takes that nobody waits for.
const MODEST_BYTES: u64 = 128 << 20;

/// A session with as many partitions as threads and the run's memory limit.
pub fn session(workspace: &Workspace, time_zone: &str) -> Result<SessionContext> {
    with_partitions(workspace, time_zone, workspace.threads())
}

/// A session whose plans have one partition and can be executed again and
/// again.
pub fn single_threaded_session(workspace: &Workspace, time_zone: &str) -> Result<SessionContext> {
    let context = with_partitions(workspace, time_zone, 1)?;
    // A filter that a join hands to its other side belongs to one execution.
    let state = context.state_ref();
    let mut state = state.write();
    let optimizer = &mut state.config_mut().options_mut().optimizer;
    optimizer.enable_dynamic_filter_pushdown = false;
    optimizer.enable_join_dynamic_filter_pushdown = false;
    optimizer.enable_topk_dynamic_filter_pushdown = false;
    optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    drop(state);
    Ok(context)
}

/// The physical form of an expression. Some functions have one only after they
/// were simplified to others.
pub(crate) fn physical_expression(
    context: &SessionContext,
    expression: Expr,
    schema: &DFSchema,
) -> datafusion::common::Result<Arc<dyn PhysicalExpr>> {
    let state = context.state();
    let of = SimplifyContext::default()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()));
    let simplifier = ExprSimplifier::new(of);
    let expression = simplifier.simplify(simplifier.coerce(expression, schema)?)?;
    state.create_physical_expr(expression, schema)
}

/// A session that reads one file after another and takes little memory: for
/// work beside something that must not wait.
pub(crate) fn modest_session(workspace: &Workspace) -> Result<SessionContext> {
    with_memory(workspace, "UTC", 1, MODEST_BYTES.min(workspace.project().settings.run.memory_bytes))
}

fn with_partitions(workspace: &Workspace, time_zone: &str, partitions: usize) -> Result<SessionContext> {
    with_memory(workspace, time_zone, partitions, workspace.project().settings.run.memory_bytes)
}

fn with_memory(workspace: &Workspace, time_zone: &str, partitions: usize, memory: u64) -> Result<SessionContext> {
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_default_catalog_and_schema(CATALOG, "default")
        .with_create_default_catalog_and_schema(true)
        .with_information_schema(true)
        .with_extension(Arc::new(ScanNotes::default()));
    let options = config.options_mut();
    options.execution.time_zone = Some(time_zone.to_owned());
    options.execution.parquet.enable_page_index = true;
    options.execution.collect_statistics = false;
    // What each sort keeps free to merge what it spilled, 10 MiB where there is
    // enough: a join by sorting has four sorts on two threads.
    let memory = usize::try_from(memory).unwrap_or(usize::MAX);
    options.execution.sort_spill_reservation_bytes = (memory / 64).clamp(64 << 10, 10 << 20);
    // A statement error says where: line and column of the text.
    options.sql_parser.collect_spans = true;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory)))
        .with_cache_manager(
            CacheManagerConfig::default().with_file_metadata_cache(Some(workspace.lake().footers().clone())),
        )
        .build()
        .map_err(|e| Error::internal(format!("the query engine cannot start: {e}")).cause(e))?;
    let mut rules = PhysicalOptimizer::default().rules;
    rules.push(Arc::new(WidenArguments));
    let builder = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(Arc::new(runtime))
        .with_default_features()
        .with_physical_optimizer_rules(rules);
    let state =
        asof::build(builder).map_err(|e| Error::internal(format!("the query engine cannot start: {e}")).cause(e))?;
    Ok(SessionContext::new_with_state(state))
}
