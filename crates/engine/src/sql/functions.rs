//! Spark's functions that the query engine has under another name or form.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
    ObjectName, ObjectNamePart, OrderByExpr, OrderByOptions, Value, VisitMut, VisitorMut,
};

use crate::Error;

/// Rewrites the functions of a statement.
pub(super) fn rewrite(statement: &mut impl VisitMut) -> Result<(), Error> {
    match statement.visit(&mut Rewrite) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(problem) => Err(problem),
    }
}

struct Rewrite;

impl VisitorMut for Rewrite {
    type Break = Error;

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<Error> {
        let Expr::Function(function) = expression else { return ControlFlow::Continue(()) };
        let [ObjectNamePart::Identifier(name)] = function.name.0.as_slice() else { return ControlFlow::Continue(()) };
        let changed = match name.value.to_ascii_lowercase().as_str() {
            "date" => one_argument(function).map(|argument| {
                Ok(Expr::Cast {
                    kind: CastKind::Cast,
                    expr: Box::new(argument),
                    data_type: DataType::Date,
                    array: false,
                    format: None,
                })
            }),
            "percentile_approx" | "approx_percentile" if function.within_group.is_empty() => Some(percentile(function)),
            _ => None,
        };
        match changed {
            None => ControlFlow::Continue(()),
            Some(Ok(new)) => {
                *expression = new;
                ControlFlow::Continue(())
            }
            Some(Err(problem)) => ControlFlow::Break(problem),
        }
    }
}

fn arguments(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let plain = list.args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression.clone()),
        _ => None,
    });
    plain.collect()
}

fn one_argument(function: &Function) -> Option<Expr> {
    match arguments(function)?.as_slice() {
        [argument] => Some(argument.clone()),
        _ => None,
    }
}

/// `percentile_approx(x, p [, accuracy])` becomes
/// `approx_percentile_cont(p) WITHIN GROUP (ORDER BY x)`; both answer by a
/// sketch, and need not answer the same.
fn percentile(function: &Function) -> Result<Expr, Error> {
    let found = arguments(function).unwrap_or_default();
    let (value, share) = match found.as_slice() {
        [value, share] | [value, share, _] => (value, share),
        _ => {
            return Err(Error::invalid(
                "percentile_approx takes a column, a share from 0 to 1, and perhaps an accuracy",
            )
            .hint("for example percentile_approx(latency_ms, 0.95)"));
        }
    };
    if let Some(Expr::Value(accuracy)) = found.get(2)
        && !matches!(&accuracy.value, Value::Number(digits, _) if digits.parse::<u32>().is_ok_and(|n| n > 0))
    {
        return Err(Error::invalid("the accuracy of percentile_approx is a whole number above 0"));
    }
    if matches!(share, Expr::Array(_))
        || matches!(share, Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case("array"))
    {
        return Err(Error::invalid("percentile_approx of several shares at once is not supported")
            .hint("write one percentile_approx(column, share) for each"));
    }
    let mut new = function.clone();
    new.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new("approx_percentile_cont"))]);
    new.args = FunctionArguments::List(FunctionArgumentList {
        duplicate_treatment: None,
        args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(share.clone()))],
        clauses: Vec::new(),
    });
    new.within_group = vec![OrderByExpr {
        expr: value.clone(),
        options: OrderByOptions { asc: None, nulls_first: None },
        with_fill: None,
    }];
    Ok(Expr::Function(new))
}
