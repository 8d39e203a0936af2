//! Moves filters below as-of joins.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ExprSchema, Result as DfResult};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Extension, Filter, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::node::AsOfJoin;

/// A filter of left columns holds for a row before it is matched as well; one
/// of the left key columns holds for the right key of every match, so right
/// rows with other keys need not be read.
#[derive(Debug)]
pub(in crate::sql) struct PushDown;

impl OptimizerRule for PushDown {
    fn name(&self) -> &'static str {
        "push_down_as_of_join"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = &plan else { return Ok(Transformed::no(plan)) };
        let LogicalPlan::Extension(extension) = filter.input.as_ref() else { return Ok(Transformed::no(plan)) };
        let Some(join) = extension.node.as_any().downcast_ref::<AsOfJoin>() else { return Ok(Transformed::no(plan)) };
        let of_left = |e: &Expr| {
            let columns = e.column_refs();
            let own = !columns.is_empty() && columns.iter().all(|c| join.left.schema().has_column(c));
            own && !e.is_volatile() && !has_subquery(e)
        };
        let (below, above): (Vec<Expr>, Vec<Expr>) =
            split_conjunction_owned(filter.predicate.clone()).into_iter().partition(of_left);
        if below.is_empty() {
            return Ok(Transformed::no(plan));
        }
        let pairs: HashMap<Column, Column> = join.column_pairs().into_iter().collect();
        let of_keys = |e: &&Expr| e.column_refs().iter().all(|c| pairs.contains_key(*c));
        let replace: HashMap<&Column, &Column> = pairs.iter().collect();
        let same_types = |e: &&Expr| {
            e.column_refs().iter().all(|c| {
                let of = |plan: &LogicalPlan, c: &Column| plan.schema().data_type(c).cloned().ok();
                pairs.get(*c).is_some_and(|r| of(&join.left, c) == of(&join.right, r))
            })
        };
        let right: Vec<Expr> = below
            .iter()
            .filter(of_keys)
            .filter(same_types)
            .map(|e| e.clone().transform(|e| replaced(e, &replace)))
            .map(|e| e.map(|e| e.data))
            .collect::<DfResult<_>>()?;
        let node = join.over(filtered(join.left.clone(), below)?, filtered(join.right.clone(), right)?);
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(Transformed::yes(filtered(plan, above)?))
    }
}

fn has_subquery(expression: &Expr) -> bool {
    let is = |e: &Expr| Ok(matches!(e, Expr::InSubquery(_) | Expr::Exists(_) | Expr::ScalarSubquery(_)));
    expression.exists(is).unwrap_or(true)
}

fn replaced(expression: Expr, by: &HashMap<&Column, &Column>) -> DfResult<Transformed<Expr>> {
    Ok(match &expression {
        Expr::Column(column) => match by.get(column) {
            Some(other) => Transformed::yes(Expr::Column((*other).clone())),
            None => Transformed::no(expression),
        },
        _ => Transformed::no(expression),
    })
}

fn filtered(plan: LogicalPlan, by: Vec<Expr>) -> DfResult<LogicalPlan> {
    Ok(match conjunction(by) {
        Some(predicate) => LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?),
        None => plan,
    })
}
