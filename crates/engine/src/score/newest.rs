//! `duplicates = "latest"`: the newest row of every entity, without a window.
//!
//! The query says it as `rank() OVER (PARTITION BY key ORDER BY time DESC) = 1`,
//! which every part of the planner understands. What runs is this node in the
//! window's place: its input is sorted as the window needs it, so a row is
//! passed on if it is the first of its key, or as new as the first. Of rows with
//! one time none wins: all are passed, and the run says that there are several.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, OrderingRequirements, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::BoundedWindowAggExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties};
use futures::StreamExt;

/// The column that says which rows are the newest.
pub const NEWEST: &str = "__newest";

/// Puts [`NewestExec`] in the place of the window that ranks rows by time.
pub fn streamed(plan: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let replace = |plan: Arc<dyn ExecutionPlan>| {
        let newest = plan.as_any().downcast_ref::<BoundedWindowAggExec>().and_then(NewestExec::in_place_of);
        Ok(match newest {
            Some(newest) => Transformed::yes(Arc::new(newest) as Arc<dyn ExecutionPlan>),
            None => Transformed::no(plan),
        })
    };
    plan.transform_up(replace).data()
}

/// The newest rows of every key; the last column is 1.
#[derive(Debug)]
struct NewestExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    times: Vec<Arc<dyn PhysicalExpr>>,
    distribution: Vec<Distribution>,
    ordering: Vec<Option<OrderingRequirements>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl NewestExec {
    /// If the window is the ranking of rows by time alone.
    fn in_place_of(window: &BoundedWindowAggExec) -> Option<Self> {
        let [ranks] = window.window_expr() else { return None };
        if ranks.name() != NEWEST || window.input_order_mode != InputOrderMode::Sorted {
            return None;
        }
        Some(Self {
            input: window.input().clone(),
            keys: ranks.partition_by().to_vec(),
            times: ranks.order_by().iter().map(|order| order.expr.clone()).collect(),
            distribution: window.required_input_distribution(),
            ordering: window.required_input_ordering(),
            schema: window.schema(),
            properties: window.properties().clone(),
        })
    }
}

impl DisplayAs for NewestExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewestExec: keys={:?}, times={:?}", self.keys, self.times)
    }
}

impl ExecutionPlan for NewestExec {
    fn name(&self) -> &'static str {
        "NewestExec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.distribution.clone()
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        self.ordering.clone()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self {
            input: children.swap_remove(0),
            keys: self.keys.clone(),
            times: self.times.clone(),
            distribution: self.distribution.clone(),
            ordering: self.ordering.clone(),
            schema: self.schema.clone(),
            properties: self.properties.clone(),
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let mut keys = Column::new(&self.keys, &self.input.schema())?;
        let mut times = Column::new(&self.times, &self.input.schema())?;
        let schema = self.schema.clone();
        let rows = input.map(move |batch| newest(&mut keys, &mut times, &schema, &batch?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows)))
    }
}

fn newest(keys: &mut Column, times: &mut Column, schema: &SchemaRef, batch: &RecordBatch) -> DfResult<RecordBatch> {
    let (these_keys, these_times) = (keys.rows(batch)?, times.rows(batch)?);
    let mut passed = Vec::with_capacity(batch.num_rows());
    for (key, time) in these_keys.iter().zip(these_times.iter()) {
        let known = keys.last.as_ref().is_some_and(|last| last.row() == key);
        if !known {
            (keys.last, times.last) = (Some(key.owned()), Some(time.owned()));
        }
        passed.push(!known || times.last.as_ref().is_some_and(|last| last.row() == time));
    }
    let rows = filter_record_batch(batch, &BooleanArray::from(passed))?;
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(UInt64Array::from_value(1, rows.num_rows())) as ArrayRef);
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// Expressions in a form that compares as a whole, and that of the first row of
/// the current key.
struct Column {
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    converter: RowConverter,
    last: Option<OwnedRow>,
}

impl Column {
    fn new(expressions: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef) -> DfResult<Self> {
        let fields = expressions.iter().map(|e| e.data_type(schema).map(SortField::new)).collect::<DfResult<_>>()?;
        Ok(Self { expressions: expressions.to_vec(), converter: RowConverter::new(fields)?, last: None })
    }

    fn rows(&self, batch: &RecordBatch) -> DfResult<arrow::row::Rows> {
        let columns = self
            .expressions
            .iter()
            .map(|e| e.evaluate(batch)?.into_array(batch.num_rows()))
            .collect::<DfResult<Vec<ArrayRef>>>()?;
        self.converter.convert_columns(&columns).map_err(DataFusionError::from)
    }
}
