//! The logical node.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};

use datafusion::common::{Column, DFSchemaRef, DataFusionError, JoinType, Result as DfResult, plan_err};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    BinaryExpr, Expr, LogicalPlan, Operator, UserDefinedLogicalNodeCore, binary_expr, build_join_schema,
};
use insightera_entities::as_of::Compare;

fn compare_of(operator: Operator) -> Option<Compare> {
    match operator {
        Operator::Gt => Some(Compare::After),
        Operator::GtEq => Some(Compare::NotBefore),
        Operator::Lt => Some(Compare::Before),
        Operator::LtEq => Some(Compare::NotAfter),
        _ => None,
    }
}

fn operator_of(compare: Compare) -> Operator {
    match compare {
        Compare::After => Operator::Gt,
        Compare::NotBefore => Operator::GtEq,
        Compare::Before => Operator::Lt,
        Compare::NotAfter => Operator::LtEq,
    }
}

/// One comparison of a match condition, the left row's value first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Hash)]
pub(crate) struct Condition {
    pub left: Expr,
    pub compare: Compare,
    pub right: Expr,
}

/// An as-of join of two plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AsOfJoin {
    pub left: LogicalPlan,
    pub right: LogicalPlan,
    /// Equalities, the left row's value first.
    pub on: Vec<(Expr, Expr)>,
    /// The first says which row is closest.
    pub conditions: Vec<Condition>,
    schema: DFSchemaRef,
}

impl AsOfJoin {
    /// Joins `left` and `right`.
    ///
    /// # Errors
    /// When `on` is more than equalities, or the match condition more than
    /// comparisons, of one side with the other.
    pub fn new(left: LogicalPlan, right: LogicalPlan, on: Vec<Expr>, matched: Vec<Expr>) -> DfResult<Self> {
        let schema = build_join_schema(left.schema(), right.schema(), &JoinType::Left)?.into();
        let mut node = Self { left, right, on: Vec::new(), conditions: Vec::new(), schema };
        for part in on.into_iter().flat_map(split_conjunction_owned) {
            let shown = part.human_display().to_string();
            match node.sides(part) {
                Some((left, Operator::Eq, right)) => node.on.push((left, right)),
                _ => {
                    return plan_err!(
                        "the ON of an ASOF JOIN is made of equalities of a left and a right column, joined by AND; \
                         `{shown}` is none. Write other conditions into WHERE or a subquery"
                    );
                }
            }
        }
        for part in matched.into_iter().flat_map(split_conjunction_owned) {
            let shown = part.human_display().to_string();
            let found = node.sides(part).and_then(|(l, operator, r)| Some((l, compare_of(operator)?, r)));
            let Some((left, compare, right)) = found else {
                return plan_err!(
                    "a MATCH_CONDITION compares a value of the left side with one of the right side by >=, >, <= or <; \
                     `{shown}` does not"
                );
            };
            node.conditions.push(Condition { left, compare, right });
        }
        Ok(node)
    }

    /// `a < b` with the value of the left side first, whichever stood first.
    fn sides(&self, expression: Expr) -> Option<(Expr, Operator, Expr)> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expression else { return None };
        let of = |e: &Expr, plan: &LogicalPlan| {
            let columns = e.column_refs();
            let all = columns.iter().all(|c| plan.schema().has_column(c));
            (all && !e.contains_outer(), !columns.is_empty())
        };
        for (a, op, b) in [(&left, op, &right), (&right, op.swap()?, &left)] {
            let ((from_left, _), (from_right, named)) = (of(a, &self.left), of(b, &self.right));
            if from_left && from_right && named {
                return Some((a.as_ref().clone(), op, b.as_ref().clone()));
            }
        }
        None
    }

    /// The same join of fewer rows.
    pub fn over(&self, left: LogicalPlan, right: LogicalPlan) -> Self {
        Self { left, right, ..self.clone() }
    }

    /// Pairs of plain columns that are equal where a row has a match.
    pub fn column_pairs(&self) -> Vec<(Column, Column)> {
        let plain = |(l, r): &(Expr, Expr)| match (l, r) {
            (Expr::Column(l), Expr::Column(r)) => Some((l.clone(), r.clone())),
            _ => None,
        };
        self.on.iter().filter_map(plain).collect()
    }
}

impl PartialOrd for AsOfJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let of = |n: &Self| (n.left.clone(), n.right.clone(), n.on.clone(), n.conditions.clone());
        of(self).partial_cmp(&of(other))
    }
}

impl Hash for AsOfJoin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.left, &self.right, &self.on, &self.conditions).hash(state);
    }
}

impl UserDefinedLogicalNodeCore for AsOfJoin {
    fn name(&self) -> &'static str {
        "AsOfJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let on = self.on.iter().map(|(l, r)| binary_expr(l.clone(), Operator::Eq, r.clone()));
        let conditions =
            self.conditions.iter().map(|c| binary_expr(c.left.clone(), operator_of(c.compare), c.right.clone()));
        on.chain(conditions).collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        // The engine would push a filter into both sides; `PushDown` knows which.
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<String> = self.on.iter().map(|(l, r)| format!("{l} = {r}")).collect();
        let conditions: Vec<String> =
            self.conditions.iter().map(|c| format!("{} {} {}", c.left, c.compare.as_str(), c.right)).collect();
        write!(f, "AsOfJoin: on=[{}], match=[{}]", on.join(", "), conditions.join(", "))
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let (Some(right), Some(left)) = (inputs.pop(), inputs.pop()) else {
            return Err(DataFusionError::Internal("an as-of join has two inputs".into()));
        };
        let matched = exprs.split_off(self.on.len().min(exprs.len()));
        Self::new(left, right, exprs, matched)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let (left, right): (Vec<usize>, Vec<usize>) = output_columns.iter().partition(|i| **i < width);
        Some(vec![left, right.into_iter().map(|i| i - width).collect()])
    }
}
