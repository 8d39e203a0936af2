//! Whether a feature query is *entity-local*: the rows of one entity depend
//! only on the rows of that entity in every input.
//!
//! Then a change of an input can only concern the entities whose keys stand in
//! the changed rows, and every input may be filtered to a set of keys before
//! anything else happens. The analysis follows the entity key from the query's
//! output down to the inputs; the first operator that breaks it is named.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, ExprSchemable, Join, JoinType, LogicalPlan, Operator, Volatility,
};

use crate::sql::AsOfJoin;

/// The key columns of every input, by table name.
pub type KeyColumns = BTreeMap<String, Vec<String>>;

/// Follows the entity key through `plan`. The error says which operator makes
/// the query not entity-local.
pub fn key_columns(plan: &LogicalPlan, key: &[String]) -> Result<KeyColumns, String> {
    let columns = key
        .iter()
        .map(|name| {
            plan.schema()
                .iter()
                .find(|(_, field)| field.name() == name)
                .map(|(qualifier, _)| Column::new(qualifier.cloned(), name))
                .ok_or_else(|| format!("the query has no column `{name}`"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut found = KeyColumns::new();
    follow(plan, &columns, &mut found)?;
    Ok(found)
}

fn follow(plan: &LogicalPlan, key: &[Column], found: &mut KeyColumns) -> Result<(), String> {
    check_expressions(plan)?;
    match plan {
        LogicalPlan::TableScan(scan) => {
            if scan.fetch.is_some() {
                return Err("a LIMIT".into());
            }
            let name = scan.table_name.to_string();
            let columns: Vec<String> = key.iter().map(|c| c.name.clone()).collect();
            match found.get(&name) {
                Some(known) if *known != columns => Err(format!("`{name}` is read twice with different key columns")),
                _ => {
                    found.insert(name, columns);
                    Ok(())
                }
            }
        }
        LogicalPlan::Projection(projection) => {
            let below = through(&projection.schema, key, &projection.expr, "the SELECT list")?;
            follow(&projection.input, &below, found)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let below = by_position(&alias.schema, alias.input.schema(), key)?;
            follow(&alias.input, &below, found)
        }
        LogicalPlan::Filter(filter) => follow(&filter.input, key, found),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => follow(&sort.input, key, found),
        LogicalPlan::Repartition(repartition) => follow(&repartition.input, key, found),
        LogicalPlan::Distinct(Distinct::All(input)) => follow(input, key, found),
        LogicalPlan::Aggregate(aggregate) => {
            let groups: Vec<Column> = aggregate
                .group_expr
                .iter()
                .filter_map(|e| match e {
                    Expr::Column(column) => Some(column.clone()),
                    _ => None,
                })
                .collect();
            match key.iter().find(|column| !groups.contains(column)) {
                Some(column) => Err(format!("an aggregate that is not grouped by `{}`", column.name)),
                None => follow(&aggregate.input, key, found),
            }
        }
        LogicalPlan::Window(window) => {
            for expression in &window.window_expr {
                let inner = match expression {
                    Expr::Alias(alias) => alias.expr.as_ref(),
                    other => other,
                };
                let Expr::WindowFunction(function) = inner else {
                    return Err(format!("the window expression `{expression}`"));
                };
                for column in key {
                    if !function.params.partition_by.contains(&Expr::Column(column.clone())) {
                        return Err(format!("a window that is not partitioned by `{}`", column.name));
                    }
                }
            }
            follow(&window.input, key, found)
        }
        LogicalPlan::Union(union) => union.inputs.iter().try_for_each(|input| {
            let below = by_position(&union.schema, input.schema(), key)?;
            follow(input, &below, found)
        }),
        LogicalPlan::Join(join) => {
            if matches!(join.join_type, JoinType::LeftMark | JoinType::RightMark) {
                return Err("a subquery in a condition".into());
            }
            follow_join(&join.left, &join.right, join.join_type, &equalities(join), key, found)
        }
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<AsOfJoin>() {
            Some(join) => follow_join(&join.left, &join.right, JoinType::Left, &join.column_pairs(), key, found),
            None => Err(format!("the operator {}", extension.node.name())),
        },
        LogicalPlan::Limit(_) => Err("a LIMIT".into()),
        LogicalPlan::Sort(_) => Err("a sort with a LIMIT".into()),
        LogicalPlan::Distinct(Distinct::On(_)) => Err("a DISTINCT ON".into()),
        LogicalPlan::Values(_) => Err("a VALUES list".into()),
        LogicalPlan::EmptyRelation(_) => Err("a SELECT without a table".into()),
        LogicalPlan::Unnest(_) => Err("an UNNEST".into()),
        LogicalPlan::RecursiveQuery(_) => Err("a recursive query".into()),
        other => Err(format!("the operator {}", other.display().to_string().split(':').next().unwrap_or("?"))),
    }
}

/// Follows the key to both sides of a join that compares `pairs`.
fn follow_join(
    left: &LogicalPlan,
    right: &LogicalPlan,
    join_type: JoinType,
    pairs: &[(Column, Column)],
    key: &[Column],
    found: &mut KeyColumns,
) -> Result<(), String> {
    let other = |column: &Column, on_left: bool| {
        // The key may be compared through a column that equals it.
        let side = if on_left { left } else { right };
        let same = same_columns(side, column);
        pairs.iter().find_map(|(a, b)| {
            let partner_of =
                |x: &Column, y: &Column| (same.contains(x) && !side.schema().has_column(y)).then(|| y.clone());
            partner_of(a, b).or_else(|| partner_of(b, a))
        })
    };
    let (mut left_key, mut right_key) = (Vec::new(), Vec::new());
    for column in key {
        let on_left = left.schema().has_column(column);
        let partner = other(column, on_left).ok_or_else(|| {
            format!("a join that does not compare the entity key column `{}` on both sides", column.name)
        })?;
        let nullable_side = match join_type {
            JoinType::Left => !on_left,
            JoinType::Right => on_left,
            JoinType::Full => true,
            _ => false,
        };
        if nullable_side {
            return Err(format!("an outer join whose optional side gives the entity key `{}`", column.name));
        }
        let (l, r) = if on_left { (column.clone(), partner) } else { (partner, column.clone()) };
        left_key.push(l);
        right_key.push(r);
    }
    follow(left, &left_key, found)?;
    follow(right, &right_key, found)
}

/// The input that the query starts from, and those that it inner joins: an
/// entity of the first without a partner in one of the others is dropped.
pub fn inner_joined(plan: &LogicalPlan) -> Option<(String, Vec<String>)> {
    fn follow(plan: &LogicalPlan, partners: &mut Vec<String>) -> Option<String> {
        match plan {
            LogicalPlan::TableScan(scan) => Some(scan.table_name.to_string()),
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Sort(_) => follow(plan.inputs().first()?, partners),
            LogicalPlan::Join(join) => {
                let first = follow(&join.left, partners)?;
                if join.join_type == JoinType::Inner {
                    let right = follow(&join.right, partners)?;
                    partners.push(right);
                }
                Some(first)
            }
            LogicalPlan::Extension(extension) => {
                follow(&extension.node.as_any().downcast_ref::<AsOfJoin>()?.left, partners)
            }
            _ => None,
        }
    }
    let mut partners = Vec::new();
    let first = follow(plan, &mut partners)?;
    partners.retain(|p| *p != first);
    Some((first, partners)).filter(|(_, partners)| !partners.is_empty())
}

/// Pairs of columns that a join compares, as written in ON or USING.
fn equalities(join: &Join) -> Vec<(Column, Column)> {
    let mut pairs: Vec<(Column, Column)> = Vec::new();
    let mut add = |left: &Expr, right: &Expr| {
        if let (Expr::Column(l), Expr::Column(r)) = (left, right) {
            pairs.push((l.clone(), r.clone()));
        }
    };
    join.on.iter().for_each(|(l, r)| add(l, r));
    if let Some(filter) = &join.filter {
        for part in split_conjunction(filter) {
            if let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = part {
                add(left, right);
            }
        }
    }
    pairs
}

/// The columns of `plan` that equal `column` in every row: through inner
/// joins below it.
fn same_columns(plan: &LogicalPlan, column: &Column) -> Vec<Column> {
    fn collect(plan: &LogicalPlan, pairs: &mut Vec<(Column, Column)>) {
        match plan {
            LogicalPlan::Filter(filter) => collect(&filter.input, pairs),
            LogicalPlan::Join(join) if join.join_type == JoinType::Inner => {
                pairs.extend(equalities(join));
                collect(&join.left, pairs);
                collect(&join.right, pairs);
            }
            _ => {}
        }
    }
    let mut pairs = Vec::new();
    collect(plan, &mut pairs);
    let mut same = vec![column.clone()];
    let mut at = 0;
    while at < same.len() {
        let now = same[at].clone();
        for (a, b) in &pairs {
            for (x, y) in [(a, b), (b, a)] {
                if *x == now && !same.contains(y) {
                    same.push(y.clone());
                }
            }
        }
        at += 1;
    }
    same
}

/// Key columns below a list of expressions; each must be a plain column.
fn through(schema: &DFSchemaRef, key: &[Column], expressions: &[Expr], what: &str) -> Result<Vec<Column>, String> {
    key.iter()
        .map(|column| {
            let index = schema.maybe_index_of_column(column).ok_or_else(|| format!("{what} lost `{}`", column.name))?;
            let mut expression = &expressions[index];
            while let Expr::Alias(alias) = expression {
                expression = &alias.expr;
            }
            match expression {
                Expr::Column(below) => Ok(below.clone()),
                other => Err(format!("the entity key `{}` is computed: {other}", column.name)),
            }
        })
        .collect()
}

fn by_position(schema: &DFSchemaRef, below: &DFSchemaRef, key: &[Column]) -> Result<Vec<Column>, String> {
    key.iter()
        .map(|column| {
            let index =
                schema.maybe_index_of_column(column).ok_or_else(|| format!("an alias lost `{}`", column.name))?;
            let (qualifier, field) = below.qualified_field(index);
            Ok(Column::new(qualifier.cloned(), field.name()))
        })
        .collect()
}

fn check_expressions(plan: &LogicalPlan) -> Result<(), String> {
    for expression in plan.expressions() {
        let mut problem = None;
        // The closure never fails, so neither does the walk.
        let _ = expression.apply(|e| {
            problem = match e {
                Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => {
                    Some(format!("the function {}(), whose answer changes by itself", f.func.name()))
                }
                Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => {
                    Some("a subquery in an expression".to_owned())
                }
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            Ok(TreeNodeRecursion::Stop)
        });
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    Ok(())
}

/// Functions in a feature query whose answer changes by itself, by name: such
/// a query cannot be compared between runs.
pub fn clock_functions(plan: &LogicalPlan) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let _ = plan.apply(|node| {
        for expression in node.expressions() {
            let _ = expression.apply(|e| {
                if let Expr::ScalarFunction(f) = e
                    && f.func.signature().volatility != Volatility::Immutable
                {
                    names.insert(f.func.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    names
}

/// Aggregates that add up floats: the last bit of their answer depends on the
/// order in which parallel readers deliver the rows.
pub fn order_dependent(plan: &LogicalPlan) -> BTreeSet<String> {
    const ADDING: [&str; 4] = ["sum", "avg", "mean", "corr"];
    const FAMILIES: [&str; 4] = ["stddev", "var", "covar", "regr_"];
    let adding = |name: &str| ADDING.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family));
    let mut found = BTreeSet::new();
    let _ = plan.apply(|node| {
        let (LogicalPlan::Aggregate(_) | LogicalPlan::Window(_)) = node else {
            return Ok(TreeNodeRecursion::Continue);
        };
        for expression in node.expressions() {
            let _ = expression.apply(|e| {
                let (name, arguments) = match e {
                    Expr::AggregateFunction(f) => (f.func.name().to_owned(), &f.params.args),
                    Expr::WindowFunction(f) => (f.fun.name().to_owned(), &f.params.args),
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                let float =
                    |a: &Expr| node.inputs().iter().any(|i| a.get_type(i.schema()).is_ok_and(|t| t.is_floating()));
                if adding(&name.to_ascii_lowercase()) && arguments.iter().any(float) {
                    found.insert(e.schema_name().to_string());
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The base columns that `column` of the plan's output is computed from:
/// table and column, through any expression.
pub fn lineage(plan: &LogicalPlan, column: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    if let Some((qualifier, _)) = plan.schema().iter().find(|(_, f)| f.name() == column) {
        trace(plan, &Column::new(qualifier.cloned(), column), &mut found);
    }
    found
}

fn trace(plan: &LogicalPlan, column: &Column, found: &mut BTreeSet<(String, String)>) {
    match plan {
        LogicalPlan::TableScan(scan) => {
            found.insert((scan.table_name.to_string(), column.name.clone()));
        }
        LogicalPlan::Projection(projection) => {
            if let Some(index) = projection.schema.maybe_index_of_column(column) {
                for below in projection.expr[index].column_refs() {
                    trace(&projection.input, below, found);
                }
            }
        }
        LogicalPlan::SubqueryAlias(alias) => {
            if let Some(index) = alias.schema.maybe_index_of_column(column) {
                let (qualifier, field) = alias.input.schema().qualified_field(index);
                trace(&alias.input, &Column::new(qualifier.cloned(), field.name()), found);
            }
        }
        LogicalPlan::Aggregate(aggregate) => {
            if let Some(index) = aggregate.schema.maybe_index_of_column(column) {
                let all: Vec<&Expr> = aggregate.group_expr.iter().chain(&aggregate.aggr_expr).collect();
                for below in all.get(index).map(|e| e.column_refs()).unwrap_or_default() {
                    trace(&aggregate.input, below, found);
                }
            }
        }
        other => {
            for input in other.inputs() {
                if input.schema().has_column(column) {
                    trace(input, column, found);
                }
            }
        }
    }
}
