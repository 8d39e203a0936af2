//! Where an as-of join stands in a statement.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    JoinOperator, ObjectName, Query, SetExpr, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};

/// Makes a nested table factor of every as-of join with all that stands before
/// it, so that the last join of that factor is the as-of join.
pub(in crate::sql) fn fold(statement: &mut impl VisitMut) {
    let ControlFlow::Continue(()) = statement.visit(&mut Fold);
}

struct Fold;

impl VisitorMut for Fold {
    type Break = std::convert::Infallible;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        fold_body(&mut query.body);
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            fold_from(table_with_joins);
        }
        ControlFlow::Continue(())
    }
}

fn fold_body(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => select.from.iter_mut().for_each(fold_from),
        SetExpr::SetOperation { left, right, .. } => {
            fold_body(left);
            fold_body(right);
        }
        // A query in parentheses is visited by itself.
        _ => {}
    }
}

fn fold_from(from: &mut TableWithJoins) {
    if !from.joins.iter().any(|join| is_as_of(&join.join_operator)) {
        return;
    }
    for join in std::mem::take(&mut from.joins) {
        let folds = is_as_of(&join.join_operator);
        from.joins.push(join);
        if folds {
            let relation = std::mem::replace(&mut from.relation, nothing());
            let inner = TableWithJoins { relation, joins: std::mem::take(&mut from.joins) };
            from.relation = TableFactor::NestedJoin { table_with_joins: Box::new(inner), alias: None };
        }
    }
}

pub(super) fn is_as_of(operator: &JoinOperator) -> bool {
    matches!(operator, JoinOperator::AsOf { .. })
}

/// Stands in the tree only while a factor is moved.
fn nothing() -> TableFactor {
    TableFactor::Table {
        name: ObjectName(Vec::new()),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}
