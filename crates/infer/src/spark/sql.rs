//! SQLTransformer: a seam for a caller that has a SQL engine.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};

use super::frame::{Frame, Made};
use super::stage::{Kind, Plan, Source, Step, Work};
use crate::error::{Error, Result};
use crate::model::Input;

/// Runs the statements of a model's SQLTransformers, in which `__THIS__` is
/// the table of the rows.
pub trait SqlStage: fmt::Debug + Send + Sync {
    /// What a statement reads and makes.
    ///
    /// # Errors
    /// Says why the statement cannot be run.
    fn plan(&self, statement: &str) -> Result<SqlPlan, String>;

    /// Runs a statement over some of the rows, which are the columns that its
    /// plan reads. Answers one row for each, in their order; a statement over
    /// several rows at once has no meaning here.
    ///
    /// # Errors
    /// Says why it failed.
    fn run(&self, statement: &str, rows: &RecordBatch) -> Result<RecordBatch, String>;
}

/// What a statement reads and makes.
#[derive(Debug, Clone, Default)]
pub struct SqlPlan {
    /// Columns of the table.
    pub reads: Vec<Input>,
    /// Columns that it makes or changes; all others pass through.
    pub makes: Vec<String>,
}

#[derive(Debug)]
struct Statement {
    text: String,
    engine: Arc<dyn SqlStage>,
    makes: Vec<String>,
}

impl Work for Statement {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        (0..plan.reads.len()).try_for_each(|place| plan.number(place))?;
        Ok(vec![Kind::Raw; self.makes.len()])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let rows = frame.table(reads)?;
        let made = self.engine.run(&self.text, &rows).map_err(Error::invalid)?;
        if made.num_rows() != frame.rows() {
            return Err(Error::invalid(format!(
                "the statement made {} rows of {}: every row wants a prediction",
                made.num_rows(),
                frame.rows()
            )));
        }
        let column = |name: &String| -> Result<Made> {
            let found: Option<&ArrayRef> = made.column_by_name(name);
            let found = found.ok_or_else(|| Error::invalid(format!("the statement made no column `{name}`")))?;
            debug_assert_eq!(found.len(), frame.rows());
            Ok(Made::Raw(found.clone()))
        };
        self.makes.iter().map(column).collect()
    }
}

/// SQLTransformer.
pub fn load(source: &Source<'_>, engine: Option<&Arc<dyn SqlStage>>) -> Result<Vec<Step>> {
    let text = source.text("statement")?;
    let engine = engine.ok_or_else(|| {
        Error::invalid(format!("the stage SQLTransformer runs SQL, and there is nothing here that does: `{text}`"))
            .with_hint("move its statement into the feature SQL and leave the stage out of the pipeline")
    })?;
    let plan = engine.plan(&text).map_err(|e| Error::invalid(format!("SQLTransformer `{text}`: {e}")))?;
    let (reads, kinds) = plan.reads.into_iter().map(|input| (input.name, input.kind)).unzip();
    let work = Statement { text, engine: Arc::clone(engine), makes: plan.makes.clone() };
    let class = source.class.to_owned();
    Ok(vec![Step { class, reads, kinds, makes: plan.makes, work: Box::new(work) }])
}
