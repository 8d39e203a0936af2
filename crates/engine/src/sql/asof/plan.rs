//! From the statement to the node, and from the node to the operator.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::{DFSchema, DataFusionError, Result as DfResult, TableReference, plan_err};
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, LogicalPlanBuilder, Operator, UserDefinedLogicalNode, binary_expr,
};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use datafusion::sql::sqlparser::ast::{self, Join, JoinConstraint, JoinOperator, TableFactor, TableWithJoins};

use super::exec::{AsOfJoinExec, MatchOn};
use super::node::AsOfJoin;
use super::syntax::is_as_of;
use crate::sql::feature_views::{self, FeatureViewTable};

/// Plans the table factors that [`super::fold`] makes.
#[derive(Debug)]
pub(in crate::sql) struct Relations;

impl RelationPlanner for Relations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DfResult<RelationPlanning> {
        let TableFactor::NestedJoin { table_with_joins, alias } = relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if !table_with_joins.joins.last().is_some_and(|join| is_as_of(&join.join_operator)) {
            return Ok(RelationPlanning::Original(Box::new(TableFactor::NestedJoin { table_with_joins, alias })));
        }
        let TableWithJoins { relation, mut joins } = *table_with_joins;
        let Some(Join { relation: right, global, join_operator: JoinOperator::AsOf { match_condition, constraint } }) =
            joins.pop()
        else {
            return Err(DataFusionError::Internal("the last join is no as-of join".into()));
        };
        if global || matches!(&right, TableFactor::Derived { lateral: true, .. } | TableFactor::Function { .. }) {
            return plan_err!("an ASOF JOIN is neither GLOBAL nor LATERAL");
        }
        let left = match joins.is_empty() {
            true => context.plan(relation)?,
            false => {
                let before = TableWithJoins { relation, joins };
                context.plan(TableFactor::NestedJoin { table_with_joins: Box::new(before), alias: None })?
            }
        };
        if let Some((view, name)) = feature_view(&right, context)? {
            let plan = of_view(left, &view, name, match_condition, constraint, context)?;
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))));
        }
        let right = context.plan(right)?;
        let both = left.schema().join(right.schema())?;
        let matched = context.sql_to_expr(match_condition, &both)?;
        let (on, using) = keys(constraint, &left, &right, &both, context)?;
        let node = AsOfJoin::new(left, right, on, vec![matched])?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        let plan = if using.is_empty() { plan } else { without(plan, &using)? };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// The feature view that `relation` names, and what the statement calls it.
fn feature_view(
    relation: &TableFactor,
    context: &dyn RelationPlannerContext,
) -> DfResult<Option<(FeatureViewTable, TableReference)>> {
    let TableFactor::Table { name, alias, args: None, .. } = relation else { return Ok(None) };
    let reference = context.object_name_to_table_reference(name.clone())?;
    // A table that is not there is told by the engine.
    let Ok(source) = context.context_provider().get_table_source(reference.clone()) else { return Ok(None) };
    let Ok(provider) = source_as_provider(&source) else { return Ok(None) };
    let Some(view) = provider.as_any().downcast_ref::<FeatureViewTable>() else { return Ok(None) };
    let called = match alias {
        None => reference,
        Some(alias) if alias.columns.is_empty() => TableReference::bare(context.normalize_ident(alias.name.clone())),
        Some(_) => return plan_err!("the alias of a feature view in an ASOF JOIN cannot rename its columns"),
    };
    Ok(Some((view.clone(), called)))
}

/// Joins a feature view at the time of each left row.
fn of_view(
    left: LogicalPlan,
    view: &FeatureViewTable,
    name: TableReference,
    match_condition: ast::Expr,
    constraint: JoinConstraint,
    context: &mut dyn RelationPlannerContext,
) -> DfResult<LogicalPlan> {
    let rows = view.rows(name.clone())?;
    let right = rows.plan.clone();
    let both = left.schema().join(right.schema())?;
    let matched = context.sql_to_expr(match_condition, &both)?;
    let moment = feature_views::moment(view.view(), &matched, &name)?;
    let (on, using) = keys(constraint, &left, &right, &both, context)?;
    let conditions = std::iter::once(matched).chain(view.known_at(&moment, &name)).collect();
    let node = AsOfJoin::new(left, right, on, conditions)?;
    let compared: HashSet<&str> = node.on.iter().flat_map(|(_, r)| r.column_refs()).map(|c| c.name.as_str()).collect();
    if let Some(key) = view.view().key.iter().find(|key| !compared.contains(key.as_str())) {
        return plan_err!(
            "the ON of an ASOF JOIN with the feature view `{0}` must compare its key `{key}`",
            view.view().name
        );
    }
    let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    let plan = view.outcome(plan, &rows, &moment, &name)?;
    if using.is_empty() { Ok(plan) } else { without(plan, &using) }
}

/// The equalities, and the right columns that `USING` leaves out.
fn keys(
    constraint: JoinConstraint,
    left: &LogicalPlan,
    right: &LogicalPlan,
    both: &DFSchema,
    context: &mut dyn RelationPlannerContext,
) -> DfResult<(Vec<Expr>, Vec<Expr>)> {
    match constraint {
        JoinConstraint::None => Ok((Vec::new(), Vec::new())),
        JoinConstraint::On(condition) => Ok((vec![context.sql_to_expr(condition, both)?], Vec::new())),
        JoinConstraint::Natural => plan_err!("an ASOF JOIN is not NATURAL: write ON or USING"),
        JoinConstraint::Using(names) => {
            let (mut on, mut using) = (Vec::new(), Vec::new());
            for name in names {
                let [part] = name.0.as_slice() else { return plan_err!("USING takes column names, not `{name}`") };
                let Some(ident) = part.as_ident() else { return plan_err!("USING takes column names, not `{name}`") };
                let name = context.normalize_ident(ident.clone());
                let column = |plan: &LogicalPlan| {
                    let (qualifier, field) = plan.schema().qualified_field_with_unqualified_name(&name)?;
                    Ok::<_, DataFusionError>(Expr::from((qualifier, field)))
                };
                on.push(binary_expr(column(left)?, Operator::Eq, column(right)?));
                using.push(column(right)?);
            }
            Ok((on, using))
        }
    }
}

fn without(plan: LogicalPlan, columns: &[Expr]) -> DfResult<LogicalPlan> {
    let kept: Vec<Expr> = plan.schema().iter().map(Expr::from).filter(|e| !columns.contains(e)).collect();
    LogicalPlanBuilder::from(plan).project(kept)?.build()
}

/// The query planner with the operators of this engine.
#[derive(Debug)]
pub(in crate::sql) struct Plans;

#[async_trait]
impl QueryPlanner for Plans {
    async fn create_physical_plan(&self, plan: &LogicalPlan, state: &SessionState) -> DfResult<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Self)]);
        planner.create_physical_plan(plan, state).await
    }
}

#[async_trait]
impl ExtensionPlanner for Plans {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        state: &SessionState,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<AsOfJoin>() else { return Ok(None) };
        let [left, right] = inputs else {
            return Err(DataFusionError::Internal("an as-of join has two inputs".into()));
        };
        let properties = state.execution_props();
        let of = |e: &Expr, plan: &LogicalPlan| -> DfResult<Arc<dyn PhysicalExpr>> {
            create_physical_expr(e, plan.schema(), properties)
        };
        let on =
            node.on.iter().map(|(l, r)| Ok((of(l, &node.left)?, of(r, &node.right)?))).collect::<DfResult<Vec<_>>>()?;
        let conditions = node
            .conditions
            .iter()
            .map(|c| {
                Ok(MatchOn { left: of(&c.left, &node.left)?, compare: c.compare, right: of(&c.right, &node.right)? })
            })
            .collect::<DfResult<Vec<_>>>()?;
        Ok(Some(Arc::new(AsOfJoinExec::new(left.clone(), right.clone(), on, conditions)?)))
    }
}
