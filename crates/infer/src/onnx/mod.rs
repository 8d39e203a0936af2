//! ONNX models of tabular data, as exported from scikit-learn, XGBoost and
//! LightGBM: the operators that such exports use, run natively.
//!
//! The judge is ONNX Runtime on one thread. What it compares, adds in a fixed
//! order or looks up is the same to the bit; its own approximations of `exp`,
//! `tanh` and the like are not copied: those differ in the last places of
//! single precision. A graph runs on a block of rows at a time, so a model
//! whose rows look at each other is refused when it is found out.
//!
//! Columns: an input of one column has its own name. An input of several, `X`,
//! wants columns `X_0`, `X_1`, ...; if the model's metadata has a
//! `feature_names` entry, a JSON list with a name for every column of all
//! inputs, it wants those. A missing number is NaN, a missing text is empty,
//! and an input of whole numbers or truths has no missing values.
//!
//! Answers: a label and scores make a classifier. `prediction` is the place of
//! the label among `Description::labels`; scores that are probabilities become
//! `probabilities`, others `margin` (two classes) or `raw` (several). A label
//! with one score, as outlier detectors answer, is `prediction` and `margin`; a
//! single number is `prediction`, so is the number of a cluster.

mod broadcast;
mod document;
mod explain;
mod graph;
mod load;
mod node;
mod operators;
mod outcome;
mod rows;
#[cfg(feature = "onnxruntime")]
mod runtime;
mod tensor;
mod wire;

#[cfg(test)]
mod tests;

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::explain::{Contributions, check_size};
use crate::model::{Description, Model, Predictions, Signature};

use graph::Program;
use outcome::Outcome;
use rows::Feed;
use tensor::{Tensor, WordList, Words};

#[cfg(feature = "onnxruntime")]
pub use runtime::use_onnx_runtime;

pub use load::{is_onnx, load, load_beside, load_folder};

/// Rows that run through the graph together at most.
const BLOCK: usize = 512;
/// Values that a node makes of them together, where that is possible.
const BLOCK_VALUES: usize = 1 << 22;

#[derive(Debug)]
struct OnnxModel {
    program: Program,
    feeds: Vec<Feed>,
    words: WordList,
    outcome: Outcome,
    /// Rows of a block, where the file says so.
    block: usize,
    description: Description,
    signature: Signature,
}

impl Model for OnnxModel {
    fn description(&self) -> &Description {
        &self.description
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn score(&self, batch: &RecordBatch) -> Result<Predictions> {
        let mut answer = self.outcome.start(batch.num_rows());
        self.by_block(batch, |inputs, count, words| {
            self.outcome.add(&mut answer, &self.program.run(inputs, words)?, count)
        })?;
        Ok(self.outcome.finish(answer))
    }

    /// Of the scores before their transform: see [`explain`].
    fn contributions(&self, batch: &RecordBatch) -> Result<Contributions> {
        let (outputs, columns) = (self.program.explained()?, &self.signature.inputs);
        check_size(batch.num_rows(), columns.len(), outputs)?;
        let mut values = Vec::with_capacity(batch.num_rows() * outputs * (columns.len() + 1));
        self.by_block(batch, |inputs, _, words| {
            values.extend(self.program.contributions(inputs, words)?);
            Ok(())
        })?;
        Contributions::new(batch, columns, outputs, values)
    }
}

impl OnnxModel {
    /// Hands `run` the inputs of the graph, block by block, and their rows.
    fn by_block(
        &self,
        batch: &RecordBatch,
        mut run: impl FnMut(&[&Tensor], usize, &mut Words<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut words = Words::new(&self.words);
        let rows = batch.num_rows();
        let mut columns = Vec::with_capacity(self.feeds.len());
        for feed in &self.feeds {
            columns.push(feed.columns(batch, &self.signature.inputs, &mut words)?);
        }
        for start in (0..rows).step_by(self.block) {
            let count = self.block.min(rows - start);
            let feeds = self.feeds.iter().zip(&columns);
            let inputs = feeds.map(|(feed, columns)| feed.read(columns, start, count, &mut words));
            let inputs = inputs.collect::<Result<Vec<Tensor>>>()?;
            run(&inputs.iter().collect::<Vec<_>>(), count, &mut words)?;
        }
        Ok(())
    }
}
