//! Averages of numbers, for speed.
//!
//! `avg` takes DOUBLE, and so the planner casts columns of whole numbers. The
//! engine's cast checks every value, since casts in general can fail; this one
//! cannot. Arguments of aggregates get [`Widened`], which gives the same
//! values. An average of all rows needs not even that: [`Average`] adds the
//! numbers up as they are.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Schema, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::functions_aggregate::average::Avg;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Signature, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::CastExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateInputMode};
use insightera_entities::numbers::{doubles, total};

use crate::Error;

/// Replaces averages of all rows, and casts in the arguments of aggregates.
#[derive(Debug)]
pub struct WidenArguments;

impl PhysicalOptimizerRule for WidenArguments {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let replace = |node: Arc<dyn ExecutionPlan>| {
            let functions = match node.as_any().downcast_ref::<AggregateExec>() {
                // What comes after the first stage takes the states of the first.
                Some(aggregate) if aggregate.mode().input_mode() == AggregateInputMode::Raw => replaced(aggregate)?,
                _ => None,
            };
            Ok(match functions {
                Some(aggregate) => Transformed::yes(Arc::new(aggregate) as Arc<dyn ExecutionPlan>),
                None => Transformed::no(node),
            })
        };
        plan.transform_up(replace).data()
    }

    fn name(&self) -> &str {
        "widen_arguments"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The aggregation with other functions, where one of them is replaced.
fn replaced(aggregate: &AggregateExec) -> DfResult<Option<AggregateExec>> {
    let schema = aggregate.input_schema();
    let of_all_rows = aggregate.group_expr().is_empty();
    let (mut functions, mut changed) = (Vec::with_capacity(aggregate.aggr_expr().len()), false);
    for function in aggregate.aggr_expr() {
        let new = match average(function, &schema).filter(|_| of_all_rows) {
            Some(argument) => Some(plain_average(function, argument, schema.clone())?),
            None => widened(function),
        };
        changed |= new.is_some();
        functions.push(new.map_or_else(|| function.clone(), Arc::new));
    }
    Ok(changed.then(|| aggregate.with_new_aggr_exprs(functions)))
}

/// The number under a cast to DOUBLE.
fn under_cast(argument: &Arc<dyn PhysicalExpr>) -> Option<&Arc<dyn PhysicalExpr>> {
    let cast = argument.as_any().downcast_ref::<CastExpr>()?;
    (*cast.cast_type() == DataType::Float64).then(|| cast.expr())
}

/// What the engine's average averages, where [`total`] can add it up.
fn average(function: &AggregateFunctionExpr, schema: &Schema) -> Option<Arc<dyn PhysicalExpr>> {
    let plain = function.fun().inner().as_any().is::<Avg>() && !function.is_distinct();
    let arguments = function.expressions();
    let [argument] = &arguments[..] else { return None };
    let number = under_cast(argument).unwrap_or(argument);
    let adds = matches!(
        number.data_type(schema).ok()?,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Float32 | DataType::Float64
    );
    (plain && adds && *function.field().data_type() == DataType::Float64).then(|| number.clone())
}

fn plain_average(
    function: &AggregateFunctionExpr,
    argument: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
) -> DfResult<AggregateFunctionExpr> {
    let average = AggregateUDF::from(Average { signature: Signature::any(1, Volatility::Immutable) });
    AggregateExprBuilder::new(Arc::new(average), vec![argument]).schema(schema).alias(function.name()).build()
}

/// The function with other arguments, where one of them is such a cast.
fn widened(function: &AggregateFunctionExpr) -> Option<AggregateFunctionExpr> {
    let mut arguments = function.expressions();
    let mut changed = false;
    for argument in &mut arguments {
        if let Some(value) = under_cast(argument).cloned() {
            *argument = Arc::new(Widened { value, cast: argument.clone() });
            changed = true;
        }
    }
    let order = function.order_bys().iter().map(|sort| sort.expr.clone()).collect();
    if changed { function.with_new_expressions(arguments, order) } else { None }
}

/// A value as DOUBLE. What is no whole number of up to 64 bits is cast.
#[derive(Debug)]
struct Widened {
    value: Arc<dyn PhysicalExpr>,
    cast: Arc<dyn PhysicalExpr>,
}

impl fmt::Display for Widened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cast, f)
    }
}

impl PartialEq for Widened {
    fn eq(&self, other: &Self) -> bool {
        self.cast.eq(&other.cast)
    }
}

impl Eq for Widened {}

impl Hash for Widened {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.cast.hash(state);
    }
}

impl PhysicalExpr for Widened {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn return_field(&self, input: &Schema) -> DfResult<FieldRef> {
        self.cast.return_field(input)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DfResult<ColumnarValue> {
        if let ColumnarValue::Array(array) = self.value.evaluate(batch)?
            && let Some(doubles) = doubles(&array)
        {
            return Ok(ColumnarValue::Array(Arc::new(doubles)));
        }
        self.cast.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.value]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> DfResult<Arc<dyn PhysicalExpr>> {
        let value = children[0].clone();
        Ok(Arc::new(Self { cast: self.cast.clone().with_new_children(vec![value.clone()])?, value }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cast.fmt_sql(f)
    }
}

/// `avg` with the states of the engine's own, which the last stage can be.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Average {
    signature: Signature,
}

impl AggregateUDFImpl for Average {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn name(&self) -> &str {
        "avg"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        Ok(Box::new(Running::default()))
    }

    fn state_fields(&self, of: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        let field = |what: &str, data_type| Arc::new(Field::new(format!("{}[{what}]", of.name), data_type, true));
        Ok(vec![field("count", DataType::UInt64), field("sum", DataType::Float64)])
    }
}

/// How many numbers there were, and their sum.
#[derive(Debug, Default)]
struct Running {
    count: u64,
    sum: f64,
}

impl Running {
    fn of_any<T>(&self, value: T) -> Option<T> {
        (self.count > 0).then_some(value)
    }
}

impl Accumulator for Running {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let numbers = &values[0];
        let wrong = || Error::internal(format!("an average of values of type {}", numbers.data_type()));
        self.sum += total(numbers).ok_or_else(|| DataFusionError::External(Box::new(wrong())))?;
        self.count += (numbers.len() - numbers.null_count()) as u64;
        Ok(())
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(ScalarValue::Float64(self.of_any(self.sum / self.count as f64)))
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::from(self.count), ScalarValue::Float64(self.of_any(self.sum))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        self.count += sum(states[0].as_primitive::<UInt64Type>()).unwrap_or_default();
        self.sum += sum(states[1].as_primitive::<Float64Type>()).unwrap_or_default();
        Ok(())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, StringArray};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::MemTable;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    const QUESTIONS: [(&str, &str); 5] = [
        (
            "SELECT avg(s), avg(i), avg(l), avg(d), avg(f), avg(i + s), avg(i) FILTER (WHERE s > 3), max(i) FROM t",
            "Average {",
        ),
        ("SELECT k, avg(s), avg(i), avg(l), avg(d), max(i), count(i) FROM t GROUP BY k ORDER BY k", "Widened {"),
        ("SELECT stddev(i), corr(s, l), avg(DISTINCT d) FROM t", "Widened {"),
        ("SELECT avg(i), avg(d) FROM t WHERE i IS NULL AND d IS NULL", "Average {"),
        ("SELECT avg(i) FROM t WHERE k = 'nothing'", "Average {"),
    ];

    fn context(rule: bool, partitions: usize) -> SessionContext {
        let mut rules = PhysicalOptimizer::default().rules;
        if rule {
            rules.push(Arc::new(WidenArguments));
        }
        let state = SessionStateBuilder::new()
            .with_config(SessionConfig::new().with_target_partitions(partitions))
            .with_default_features()
            .with_physical_optimizer_rules(rules)
            .build();
        let context = SessionContext::new_with_state(state);
        let some = |n: i64| (n % 7 != 3).then_some(n);
        let columns: [(&str, ArrayRef); 6] = [
            ("k", Arc::new(StringArray::from_iter_values((0..500).map(|n| format!("k{}", n % 3))))),
            ("s", Arc::new((0..500).map(|n| some(n).map(|n| n as i16 - 250)).collect::<Int16Array>())),
            ("i", Arc::new((0..500).map(|n| some(n * 5).map(|n| n as i32 * 400_003)).collect::<Int32Array>())),
            ("l", Arc::new((0..500).map(|n| some(n * 3).map(|n| (1 << 40) - n)).collect::<Int64Array>())),
            ("d", Arc::new((0..500).map(|n| some(n).map(|n| n as f64 / 4.0)).collect::<Float64Array>())),
            ("f", Arc::new((0..500).map(|n| some(n).map(|n| n as f32 / 8.0)).collect::<Float32Array>())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let parts = vec![vec![batch.slice(0, 200)], vec![batch.slice(200, 300)]];
        context.register_table("t", Arc::new(MemTable::try_new(batch.schema(), parts).unwrap())).unwrap();
        context
    }

    /// All sums of the rows are exact, in whatever order they are made.
    #[tokio::test]
    async fn averages_are_those_of_the_engine() {
        for partitions in [1, 3] {
            let (with, without) = (context(true, partitions), context(false, partitions));
            // Of deviations the last digits depend on the order.
            let exact = QUESTIONS.iter().filter(|(question, _)| partitions == 1 || !question.contains("stddev"));
            for (question, mark) in exact {
                let mut answers = Vec::new();
                for context in [&with, &without] {
                    let frame = context.sql(question).await.unwrap();
                    let plan = format!("{:?}", frame.clone().create_physical_plan().await.unwrap());
                    assert_eq!(plan.contains(*mark), std::ptr::eq(context, &with), "{question}");
                    answers.push(pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string());
                }
                assert_eq!(answers[0], answers[1], "{question}");
            }
        }
    }
}
