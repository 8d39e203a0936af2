//! Why a row got its score: exact contributions of the features.
//!
//! Words: a *cover* is how much of the training data reached a node; a
//! *player* is what Shapley values are given to (a feature); a *target* is the
//! column a player's value is added to (several one-hot players may belong to
//! one input column); a *share* of a player on a path is the part of the cover
//! that the path keeps at the player's nodes.
//!
//! The values are those of path-dependent TreeSHAP (Lundberg et al. 2018, in
//! XGBoost and LightGBM `pred_contribs`), found another way. On the path to one
//! leaf of value `v`, player `j` has the share `z_j` and the bit `o_j`: whether
//! the row takes all of its nodes. Its Shapley value is
//!
//! ```text
//! v (o_j - z_j) * integral over t from 0 to 1 of  prod_{i != j} (t o_i + (1 - t) z_i)  dt
//! ```
//!
//! a polynomial, which Gauss and Legendre's points integrate exactly
//! ([`quadrature`]). Leaves below one node share their bits, and few bits can
//! only do little: [`plan`] cuts trees into *groups* of at most eight bits,
//! whose values are worked out once for every pattern ([`table`]); a row then
//! costs one addition a group and target. Leaves with more players are
//! integrated for many rows at once ([`wide`]).
//!
//! All is in double precision, in the order of trees and groups, which depend
//! on the model alone: a row's values do not depend on its batch. Tables are
//! built when contributions are first asked for, so scoring does not pay.

mod block;
mod plan;
mod quadrature;
mod reasons;
mod table;
#[cfg(test)]
mod tests;
mod wide;

use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::forest::{TreeBuilder, Value};

pub use reasons::{Contributions, Reason, ReasonValue, top_reasons};

use block::Built;

/// The trees of a model, checked by [`crate::forest::Ensemble::new`] or
/// [`crate::forest::Walked::new`], with what explaining needs beside them.
#[derive(Debug)]
pub struct Source {
    /// The trees.
    pub trees: Arc<Vec<TreeBuilder>>,
    /// A cover a node of every tree; an empty list when the file has none.
    pub covers: Vec<Vec<f64>>,
    /// Numbers of all leaves, by the loader's leaf numbers.
    pub values: Vec<f64>,
    /// Numbers of a leaf.
    pub width: usize,
    /// The output of every tree; empty when leaves hold all outputs.
    pub groups: Vec<u32>,
    /// Outputs of a row.
    pub outputs: usize,
    /// The player of every slot.
    pub players: Vec<u32>,
    /// The target of every player.
    pub targets: Vec<u32>,
    /// Columns that contributions are for.
    pub columns: usize,
}

/// Numbers of one answer at most: 2 GiB.
const MAX_VALUES: usize = 1 << 28;

/// Refuses batches whose contributions would not fit into memory.
///
/// # Errors
/// `Invalid`, with the number of rows that would do.
pub fn check_size(rows: usize, columns: usize, outputs: usize) -> Result<()> {
    let row = columns.saturating_add(1).saturating_mul(outputs).max(1);
    if rows.saturating_mul(row) <= MAX_VALUES {
        return Ok(());
    }
    Err(Error::invalid(format!("{rows} rows have {row} contributions each, which is too much at once"))
        .with_hint(format!("explain at most {} rows at a time", MAX_VALUES / row)))
}

/// Explains the sums of trees.
#[derive(Debug)]
pub struct Explainer {
    source: Source,
    built: OnceLock<Result<Built, String>>,
}

impl Explainer {
    /// Keeps what is needed; nothing is worked out yet.
    pub fn new(source: Source) -> Self {
        Self { source, built: OnceLock::new() }
    }

    /// How many players there are.
    pub fn players(&self) -> usize {
        self.source.targets.len()
    }

    /// Adds the players up by other columns, before anything is worked out.
    pub fn set_targets(&mut self, targets: Vec<u32>, columns: usize) {
        self.source.targets = targets;
        self.source.columns = columns;
        self.built = OnceLock::new();
    }

    /// The contributions of `rows` rows, row by row and output by output: a
    /// value a column, then the bias, which is what the trees expect plus
    /// `base`. `slots` are the features as the trees see them.
    ///
    /// # Errors
    /// `Invalid` when the model has no covers or is too large to explain.
    pub fn values<T: Value>(&self, slots: &[impl AsRef<[T]>], rows: usize, base: &[f64]) -> Result<Vec<f64>> {
        check_size(rows, self.source.columns, self.source.outputs)?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let built = self.built.get_or_init(|| Built::new(&self.source)).as_ref();
        let built = built.map_err(|why| {
            Error::invalid(format!("contributions of this model cannot be computed: {why}"))
                .with_hint("save the model again with the library that trained it")
        })?;
        let slots: Vec<&[T]> = slots.iter().map(|slot| &slot.as_ref()[..rows]).collect();
        Ok(built.values(&self.source, &slots, rows, base))
    }
}
