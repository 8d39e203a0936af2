//! Who an entity is, and what was last scored for it.
//!
//! [`key`] encodes and hashes entity keys, [`hash`] the features of a row.
//! [`entries`] gathers new states while a run scores, [`index`] keeps them
//! between runs. [`as_of`] finds the newest row of a key at a time, [`pages`] the
//! rows of a Parquet file whose key is wanted; [`numbers`] are made DOUBLE for
//! averages. Everything here is done once for every row of a run or question, so the crate is compiled for speed; it knows no table
//! format and no SQL.

pub mod as_of;
pub mod entries;
pub mod hash;
pub mod index;
pub mod key;
pub mod numbers;
pub mod pages;
