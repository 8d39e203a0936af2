//! Expressions of a SQLTransformer, translated to the engine's with the meaning
//! that Spark gives them.

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::functions::expr_fn as call;
use datafusion::logical_expr::{Expr as Engine, cast, ident, lit, not, when};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, CeilFloorKind, DataType as SqlType, DateTimeField, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, Ident, UnaryOperator, Value,
};
use insightera_infer::{Input, InputKind};

use super::TABLE;

/// What Spark computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Integer,
    Double,
    /// Single precision.
    Float,
    /// A literal with a point, or a decimal column.
    Decimal,
    Text,
    Boolean,
    Null,
}

type Typed = (Engine, Type);

/// An expression over columns of these types.
pub fn translate(expression: &Expr, schema: &Schema) -> Result<Engine, String> {
    typed(expression, schema).map(|(found, _)| found)
}

fn typed(expression: &Expr, schema: &Schema) -> Result<Typed, String> {
    let inner = |e: &Expr| typed(e, schema);
    let refused = || Err(format!("`{expression}` is not supported"));
    Ok(match expression {
        Expr::Identifier(name) => column(name, schema)?,
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, name] if table.value == TABLE => column(name, schema)?,
            _ => return refused(),
        },
        Expr::Nested(e) => inner(e)?,
        Expr::Value(value) => literal(&value.value)?,
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } => inner(expr)?,
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
            let (value, kind) = inner(expr)?;
            match kind {
                Type::Integer | Type::Double | Type::Float | Type::Decimal => (Engine::Negative(Box::new(value)), kind),
                _ => return refused(),
            }
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => (not(boolean(inner(expr)?, expression)?), Type::Boolean),
        Expr::BinaryOp { left, op, right } => binary(expression, inner(left)?, op, inner(right)?)?,
        Expr::IsNull(e) => (inner(e)?.0.is_null(), Type::Boolean),
        Expr::IsNotNull(e) => (inner(e)?.0.is_not_null(), Type::Boolean),
        Expr::Between { expr, negated, low, high } => {
            let value = inner(expr)?;
            let (from, _) = binary(expression, value.clone(), &BinaryOperator::GtEq, inner(low)?)?;
            let (to, _) = binary(expression, value, &BinaryOperator::LtEq, inner(high)?)?;
            let both = from.and(to);
            (if *negated { not(both) } else { both }, Type::Boolean)
        }
        Expr::InList { expr, list, negated } => {
            let value = inner(expr)?;
            let mut any: Option<Engine> = None;
            for item in list {
                let (one, _) = binary(expression, value.clone(), &BinaryOperator::Eq, inner(item)?)?;
                any = Some(match any {
                    Some(any) => any.or(one),
                    None => one,
                });
            }
            match any {
                Some(any) => (if *negated { not(any) } else { any }, Type::Boolean),
                None => return refused(),
            }
        }
        Expr::Case { operand, conditions, else_result, .. } => {
            let operand = operand.as_deref().map(inner).transpose()?;
            let mut tests = Vec::new();
            let mut values = Vec::new();
            for branch in conditions {
                let test = inner(&branch.condition)?;
                tests.push(match &operand {
                    Some(operand) => binary(expression, operand.clone(), &BinaryOperator::Eq, test)?.0,
                    None => boolean(test, expression)?,
                });
                values.push(inner(&branch.result)?);
            }
            values.push(match else_result {
                Some(e) => inner(e)?,
                None => (lit(ScalarValue::Null), Type::Null),
            });
            choose(expression, tests, values)?
        }
        Expr::Cast { kind: CastKind::Cast, expr, data_type, format: None, array: false } => {
            let (value, kind) = inner(expr)?;
            let number = !matches!(kind, Type::Text | Type::Null);
            match data_type {
                SqlType::Double(_) | SqlType::DoublePrecision if number => (double(value), Type::Double),
                _ => return refused(),
            }
        }
        Expr::Floor { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
            whole(inner(expr)?, call::floor, expression)?
        }
        Expr::Ceil { expr, field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) } => {
            whole(inner(expr)?, call::ceil, expression)?
        }
        Expr::Function(function) => called(expression, function, schema)?,
        _ => return refused(),
    })
}

fn column(name: &Ident, schema: &Schema) -> Result<Typed, String> {
    let field = schema.field_with_name(&name.value).map_err(|_| format!("there is no column `{}`", name.value))?;
    let value = ident(&name.value);
    let of = match field.data_type() {
        DataType::Dictionary(_, of) => of.as_ref(),
        other => other,
    };
    Ok(match of {
        t if t.is_integer() => (cast(value, DataType::Int64), Type::Integer),
        DataType::Float64 => (cast(value, DataType::Float64), Type::Double),
        DataType::Float32 | DataType::Float16 => (double(value), Type::Float),
        DataType::Decimal128(..) | DataType::Decimal256(..) | DataType::Decimal64(..) | DataType::Decimal32(..) => {
            (double(value), Type::Decimal)
        }
        DataType::Boolean => (cast(value, DataType::Boolean), Type::Boolean),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => (cast(value, DataType::Utf8), Type::Text),
        DataType::Null => (lit(ScalarValue::Null), Type::Null),
        other => return Err(format!("column `{}` has type {other}, which SQL here does not read", name.value)),
    })
}

fn literal(value: &Value) -> Result<Typed, String> {
    Ok(match value {
        Value::Number(text, _) if text.contains(['e', 'E']) => {
            (lit(text.parse::<f64>().map_err(|e| format!("`{text}`: {e}"))?), Type::Double)
        }
        Value::Number(text, _) if text.contains('.') => {
            (lit(text.parse::<f64>().map_err(|e| format!("`{text}`: {e}"))?), Type::Decimal)
        }
        Value::Number(text, _) => (lit(text.parse::<i64>().map_err(|e| format!("`{text}`: {e}"))?), Type::Integer),
        Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => (lit(text.as_str()), Type::Text),
        Value::Boolean(value) => (lit(*value), Type::Boolean),
        Value::Null => (lit(ScalarValue::Null), Type::Null),
        other => return Err(format!("`{other}` is not supported")),
    })
}

fn double(value: Engine) -> Engine {
    cast(value, DataType::Float64)
}

/// With the order that Spark gives doubles: one zero, one NaN above all numbers.
fn ordered(value: Engine) -> Result<Engine, String> {
    let one = when(call::isnan(value.clone()), lit(f64::NAN)).otherwise(value + lit(0.0));
    one.map_err(|e| e.to_string())
}

fn boolean((value, kind): Typed, whole: &Expr) -> Result<Engine, String> {
    match kind {
        Type::Boolean => Ok(value),
        Type::Null => Ok(cast(value, DataType::Boolean)),
        _ => Err(format!("`{whole}` wants a condition")),
    }
}

fn binary(whole: &Expr, left: Typed, op: &BinaryOperator, right: Typed) -> Result<Typed, String> {
    use BinaryOperator::{And, Divide, Eq, Gt, GtEq, Lt, LtEq, Minus, Modulo, Multiply, NotEq, Or, Plus};
    match op {
        And => return Ok((boolean(left, whole)?.and(boolean(right, whole)?), Type::Boolean)),
        Or => return Ok((boolean(left, whole)?.or(boolean(right, whole)?), Type::Boolean)),
        Eq | NotEq | Lt | LtEq | Gt | GtEq => {
            let (a, b, _) = alike(whole, left, right, true)?;
            let found = match op {
                Eq => a.eq(b),
                NotEq => a.not_eq(b),
                Lt => a.lt(b),
                LtEq => a.lt_eq(b),
                Gt => a.gt(b),
                _ => a.gt_eq(b),
            };
            return Ok((found, Type::Boolean));
        }
        Plus | Minus | Multiply | Divide | Modulo => {}
        _ => return Err(format!("the operator `{op}` of `{whole}` is not supported")),
    }
    let (a, b, kind) = arithmetic(whole, left, right, *op == Divide)?;
    let not_zero = |value: Engine| -> Result<Engine, String> {
        let zero =
            if kind == Type::Integer { value.clone().eq(lit(0i64)) } else { ordered(value.clone())?.eq(lit(0.0)) };
        let none = if kind == Type::Integer { ScalarValue::Int64(None) } else { ScalarValue::Float64(None) };
        when(zero, lit(none)).otherwise(value).map_err(|e| e.to_string())
    };
    Ok((
        match op {
            Plus => a + b,
            Minus => a - b,
            Multiply => a * b,
            Divide => a / not_zero(b)?,
            _ => a % not_zero(b)?,
        },
        kind,
    ))
}

/// The operands of arithmetic, in the type that Spark computes in.
fn arithmetic(whole: &Expr, left: Typed, right: Typed, division: bool) -> Result<(Engine, Engine, Type), String> {
    use Type::{Decimal, Double, Float, Integer, Null};
    let kind = match (left.1, right.1) {
        (Integer | Null, Integer | Null) if !division => Integer,
        (Integer | Null | Float, Integer | Null | Float) if division => Double,
        (Double, Integer | Double | Float | Decimal | Null) | (Integer | Float | Decimal | Null, Double) => Double,
        // A decimal and a float make a double.
        (Float, Decimal) | (Decimal, Float) => Double,
        (Float, _) | (_, Float) if matches!((left.1, right.1), (Float | Integer | Null, Float | Integer | Null)) => {
            return Err(format!("`{whole}` is arithmetic in single precision: cast a part to DOUBLE"));
        }
        (Integer | Decimal | Null, Integer | Decimal | Null) => {
            return Err(format!("`{whole}` is arithmetic of decimals: cast a part to DOUBLE"));
        }
        _ => return Err(format!("`{whole}` is not arithmetic of numbers")),
    };
    let to = if kind == Integer { DataType::Int64 } else { DataType::Float64 };
    Ok((cast(left.0, to.clone()), cast(right.0, to), kind))
}

/// Two values in one type; doubles in Spark's order where they are compared.
fn alike(whole: &Expr, left: Typed, right: Typed, compared: bool) -> Result<(Engine, Engine, Type), String> {
    let kind = common(whole, left.1, right.1)?;
    let place = |(value, _): Typed| -> Result<Engine, String> {
        let value = cast(value, data_type(kind));
        if kind == Type::Double && compared { ordered(value) } else { Ok(value) }
    };
    Ok((place(left)?, place(right)?, kind))
}

fn common(whole: &Expr, left: Type, right: Type) -> Result<Type, String> {
    use Type::{Decimal, Double, Float, Integer, Null};
    Ok(match (left, right) {
        (a, b) if a == b && !matches!(a, Float | Decimal) => a,
        (Null, other) | (other, Null) if !matches!(other, Float | Decimal) => other,
        (Integer | Double | Float | Decimal | Null, Integer | Double | Float | Decimal | Null) => Double,
        _ => return Err(format!("`{whole}` has values of different kinds")),
    })
}

fn data_type(kind: Type) -> DataType {
    match kind {
        Type::Integer => DataType::Int64,
        Type::Double | Type::Float | Type::Decimal => DataType::Float64,
        Type::Text => DataType::Utf8,
        Type::Boolean => DataType::Boolean,
        Type::Null => DataType::Null,
    }
}

/// The value whose test comes first; the last value has none.
fn choose(whole: &Expr, tests: Vec<Engine>, values: Vec<Typed>) -> Result<Typed, String> {
    let mut kind = Type::Null;
    for (_, other) in &values {
        kind = common(whole, kind, *other)?;
    }
    let mut values: Vec<Engine> = values.into_iter().map(|(value, _)| cast(value, data_type(kind))).collect();
    let last = values.pop().ok_or_else(|| format!("`{whole}` has no value"))?;
    let mut branches = tests.into_iter().zip(values);
    let (test, value) = branches.next().ok_or_else(|| format!("`{whole}` has no condition"))?;
    let mut built = when(test, value);
    for (test, value) in branches {
        built = built.when(test, value);
    }
    Ok((built.otherwise(last).map_err(|e| e.to_string())?, kind))
}

/// A double rounded to a whole number; what fits none is an error when it runs.
fn whole((value, kind): Typed, round: fn(Engine) -> Engine, all: &Expr) -> Result<Typed, String> {
    match kind {
        Type::Integer => Ok((value, kind)),
        Type::Double | Type::Float => Ok((cast(round(double(value)), DataType::Int64), Type::Integer)),
        _ => Err(format!("`{all}` is not supported: cast its value to DOUBLE")),
    }
}

fn called(whole_expression: &Expr, function: &Function, schema: &Schema) -> Result<Typed, String> {
    let name = function.name.to_string().to_lowercase();
    let FunctionArguments::List(list) = &function.args else {
        return Err(format!("`{whole_expression}` is not supported"));
    };
    let plain = function.over.is_none() && function.filter.is_none() && function.within_group.is_empty();
    if !plain || list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return Err(format!("`{whole_expression}` combines rows: a row's values must depend on that row alone"));
    }
    let mut given = Vec::new();
    for argument in &list.args {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) = argument else {
            return Err(format!("`{whole_expression}` is not supported"));
        };
        given.push(typed(e, schema)?);
    }
    let none = || lit(ScalarValue::Float64(None));
    let positive = |value: Engine, log: fn(Engine) -> Engine| -> Result<Typed, String> {
        let guarded = when(ordered(value.clone())?.gt(lit(0.0)), log(value)).otherwise(none());
        guarded.map(|found| (found, Type::Double)).map_err(|e| e.to_string())
    };
    let wrong = || format!("`{whole_expression}`: the function `{name}` is not supported here");
    let number = |(value, kind): &Typed| match kind {
        Type::Integer | Type::Double | Type::Float | Type::Decimal | Type::Null => Ok(double(value.clone())),
        _ => Err(wrong()),
    };
    let coalesced = |values: Vec<Typed>| -> Result<Typed, String> {
        let (last, rest) = values.split_last().ok_or_else(wrong)?;
        let tests = rest.iter().map(|(value, _)| value.clone().is_not_null()).collect();
        choose(whole_expression, tests, [rest, std::slice::from_ref(last)].concat())
    };
    Ok(match (name.as_str(), given.as_slice()) {
        ("abs", [(value, kind @ (Type::Integer | Type::Double))]) => (call::abs(value.clone()), *kind),
        ("exp", [value]) => (call::exp(number(value)?), Type::Double),
        ("sqrt", [value]) => (call::sqrt(number(value)?), Type::Double),
        ("pow" | "power", [base, exponent]) => (call::power(number(base)?, number(exponent)?), Type::Double),
        ("ln" | "log", [value]) => positive(number(value)?, call::ln)?,
        ("log10", [value]) => positive(number(value)?, call::log10)?,
        ("log2", [value]) => positive(number(value)?, call::log2)?,
        ("floor", [_]) => whole(given.remove(0), call::floor, whole_expression)?,
        ("ceil" | "ceiling", [_]) => whole(given.remove(0), call::ceil, whole_expression)?,
        ("isnull", [(value, _)]) => (value.clone().is_null(), Type::Boolean),
        ("isnotnull", [(value, _)]) => (value.clone().is_not_null(), Type::Boolean),
        ("isnan", [value]) => {
            let known = number(value)?;
            let found = when(known.clone().is_null(), lit(false)).otherwise(call::isnan(known));
            (found.map_err(|e| e.to_string())?, Type::Boolean)
        }
        ("coalesce", [_, ..]) | ("nvl" | "ifnull", [_, _]) => coalesced(given)?,
        ("nullif", [value, other]) => {
            let same = binary(whole_expression, value.clone(), &BinaryOperator::Eq, other.clone())?.0;
            choose(whole_expression, vec![same], vec![(lit(ScalarValue::Null), Type::Null), value.clone()])?
        }
        ("if", [test, yes, no]) => {
            choose(whole_expression, vec![boolean(test.clone(), whole_expression)?], vec![yes.clone(), no.clone()])?
        }
        ("lower", [(value, Type::Text)]) => (call::lower(value.clone()), Type::Text),
        ("upper", [(value, Type::Text)]) => (call::upper(value.clone()), Type::Text),
        _ => return Err(wrong()),
    })
}

/// The columns that expressions read.
#[derive(Debug, Default)]
pub struct Reads {
    /// Each of them once.
    pub columns: Vec<Input>,
    /// The names of those that stand where only true or false can.
    conditions: Vec<String>,
}

impl Reads {
    /// Adds those of an expression.
    pub fn add(&mut self, expression: &Expr) {
        self.visit(expression, Use::Value);
    }

    /// A schema of these columns, for a first look.
    pub fn likely_schema(&self) -> Schema {
        let kind = |column: &Input| match column.kind {
            _ if self.conditions.contains(&column.name) => DataType::Boolean,
            InputKind::Categorical => DataType::Utf8,
            _ => DataType::Float64,
        };
        Schema::new(self.columns.iter().map(|c| Field::new(&c.name, kind(c), true)).collect::<Vec<_>>())
    }

    fn read(&mut self, name: &Ident, use_: Use) {
        if use_ == Use::Condition {
            self.conditions.push(name.value.clone());
        }
        let kind = if use_ == Use::Text { InputKind::Categorical } else { InputKind::Numeric };
        match self.columns.iter_mut().find(|column| column.name == name.value) {
            None => self.columns.push(Input { name: name.value.clone(), kind }),
            Some(column) if use_ == Use::Text => column.kind = kind,
            Some(_) => {}
        }
    }

    fn visit(&mut self, expression: &Expr, use_: Use) {
        let of = |text: bool| if text { Use::Text } else { Use::Value };
        match expression {
            Expr::Identifier(name) => self.read(name, use_),
            Expr::CompoundIdentifier(parts) => parts.last().into_iter().for_each(|name| self.read(name, use_)),
            Expr::Nested(e) => self.visit(e, use_),
            Expr::IsNull(e) | Expr::IsNotNull(e) => self.visit(e, of(use_ == Use::Text)),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => self.visit(expr, Use::Condition),
            Expr::UnaryOp { expr, .. }
            | Expr::Cast { expr, .. }
            | Expr::Floor { expr, .. }
            | Expr::Ceil { expr, .. } => self.visit(expr, Use::Value),
            Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
                self.visit(left, Use::Condition);
                self.visit(right, Use::Condition);
            }
            Expr::BinaryOp { left, right, .. } => {
                let operands = of(is_text(left) || is_text(right));
                self.visit(left, operands);
                self.visit(right, operands);
            }
            Expr::Between { expr, low, high, .. } => {
                let operands = of(is_text(low) || is_text(high));
                [expr, low, high].into_iter().for_each(|e| self.visit(e, operands));
            }
            Expr::InList { expr, list, .. } => {
                self.visit(expr, of(list.iter().any(is_text)));
                list.iter().for_each(|e| self.visit(e, Use::Value));
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                let compared = of(conditions.iter().any(|branch| is_text(&branch.condition)));
                let made = of(use_ == Use::Text
                    || conditions.iter().any(|branch| is_text(&branch.result))
                    || else_result.as_deref().is_some_and(is_text));
                let tested = if operand.is_none() { Use::Condition } else { Use::Value };
                operand.iter().for_each(|e| self.visit(e, compared));
                for branch in conditions {
                    self.visit(&branch.condition, tested);
                    self.visit(&branch.result, made);
                }
                else_result.iter().for_each(|e| self.visit(e, made));
            }
            Expr::Function(function) => self.visit_function(function, use_),
            _ => {}
        }
    }

    fn visit_function(&mut self, function: &Function, use_: Use) {
        let FunctionArguments::List(list) = &function.args else { return };
        let given: Vec<&Expr> = list
            .args
            .iter()
            .filter_map(|a| if let FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) = a { Some(e) } else { None })
            .collect();
        let name = function.name.to_string().to_lowercase();
        let text = use_ == Use::Text
            || matches!(name.as_str(), "lower" | "upper")
            || (matches!(name.as_str(), "coalesce" | "nvl" | "ifnull" | "nullif") && given.iter().any(|e| is_text(e)));
        for (index, argument) in given.into_iter().enumerate() {
            let condition = name == "if" && index == 0;
            self.visit(
                argument,
                match text {
                    _ if condition => Use::Condition,
                    true => Use::Text,
                    false => Use::Value,
                },
            );
        }
    }
}

/// What a value is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Value,
    Text,
    Condition,
}

fn is_text(expression: &Expr) -> bool {
    match expression {
        Expr::Value(value) => matches!(value.value, Value::SingleQuotedString(_) | Value::DoubleQuotedString(_)),
        Expr::Nested(inner) => is_text(inner),
        _ => false,
    }
}
