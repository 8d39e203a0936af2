//! SQL expressions over the columns of a batch.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::DFSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;

use crate::score::refuse_clocks;
use crate::sql::{physical_expression, plan_error};
use crate::{Error, Result};

/// A planned expression.
#[derive(Debug, Clone)]
pub struct Expression {
    what: String,
    physical: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

impl Expression {
    /// Plans `sql` over `schema`; `what` says where it stands.
    ///
    /// # Errors
    /// When it is no expression over these columns, or gives another answer
    /// every time.
    pub fn new(context: &SessionContext, what: String, sql: &str, schema: &Schema) -> Result<Self> {
        let df_schema = DFSchema::try_from(schema.clone()).map_err(|e| plan_error(&what, sql, e))?;
        let logical = context.state().create_logical_expr(sql, &df_schema).map_err(|e| plan_error(&what, sql, e))?;
        refuse_clocks(&what, &logical)?;
        let physical = physical_expression(context, logical, &df_schema).map_err(|e| plan_error(&what, sql, e))?;
        let data_type = physical.data_type(schema).map_err(|e| plan_error(&what, sql, e))?;
        Ok(Self { what, physical, data_type })
    }

    /// As [`Expression::new`], of a condition.
    ///
    /// # Errors
    /// As there, and when it is not true or false.
    pub fn condition(context: &SessionContext, what: String, sql: &str, schema: &Schema) -> Result<Self> {
        let expression = Self::new(context, what, sql, schema)?;
        if *expression.data_type() == DataType::Boolean {
            return Ok(expression);
        }
        let Self { what, data_type, .. } = expression;
        Err(Error::invalid(format!("{what}: `{sql}` gives {data_type}, not true or false")))
    }

    /// The expression itself.
    pub fn physical(&self) -> &Arc<dyn PhysicalExpr> {
        &self.physical
    }

    /// What it gives.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Its value in every row.
    ///
    /// # Errors
    /// `Data` when it cannot be computed for a row.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        self.physical.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())).map_err(|e| {
            Error::data(format!("{}: {}", self.what, e.strip_backtrace()))
                .hint("guard the expression against the values that it cannot take, for example with CASE or NULLIF")
        })
    }

    /// The rows where a condition is true; null is not.
    ///
    /// # Errors
    /// As [`Expression::evaluate`].
    pub fn is_true(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let found = self.evaluate(batch)?;
        let found = found
            .as_boolean_opt()
            .ok_or_else(|| Error::internal(format!("{}: a condition gave {}", self.what, found.data_type())))?;
        Ok(if found.null_count() > 0 { prep_null_mask_filter(found) } else { found.clone() })
    }
}
