//! Aggregates: how an event enters the state of a tile, and how tiles give a
//! result.
//!
//! State that is all zero is empty. A sum is a fold: the events of a tile in
//! offset order, then the tiles of the window from old to new, then the
//! partitions by number. So it does not depend on batches, and two machines
//! agree on every bit.

use super::blobs::{Blob, Blobs};
use super::distinct::DistinctSketch;
use super::hash::{hash_bytes, hash_word};
use super::input::{Batch, Column, Values};
use super::output::{OutColumn, Value};
use super::plan::{AggregatePlan, Operation};
use super::quantile::QuantileSketch;
use super::settings::ColumnType;
use super::slab::Cell;

/// Flags of first and last: there is an event; its value is null.
const THERE: u64 = 1;
const NULL: u64 = 2;

/// Room for an event: the sketches are those into which those of several tiles
/// are merged.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// The words of the tile of the event at hand.
    pub own: Vec<u64>,
    distinct: DistinctSketch,
    quantile: QuantileSketch,
}

/// The state of one tile, and where its blobs are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile<'a, C> {
    pub words: &'a [C],
    pub blobs: &'a Blobs,
}

impl AggregatePlan {
    /// Takes in one event.
    #[inline]
    pub fn update(&self, words: &mut [u64], blobs: &mut Blobs, batch: &Batch<'_>, row: usize) {
        if let Some(filter) = self.filter
            && !batch.columns[filter].is_true(row)
        {
            return;
        }
        let words = &mut words[self.at..];
        let Some(argument) = self.argument else {
            words[0] = words[0].wrapping_add(1);
            return;
        };
        let column = &batch.columns[argument];
        let valid = column.is_valid(row);
        if let Operation::Edge { last, ignore_nulls } = self.operation {
            if valid || !ignore_nulls {
                self.update_edge(words, blobs, column, row, batch.event_times[row], last);
            }
            return;
        }
        if !valid {
            return;
        }
        match self.operation {
            Operation::Count => words[0] = words[0].wrapping_add(1),
            Operation::SumDouble | Operation::Avg => {
                words[0] = (f64::from_bits(words[0]) + column.double(row)).to_bits();
                words[1] = words[1].wrapping_add(1);
            }
            Operation::SumLong => {
                let sum = wide(words[0], words[1]).wrapping_add(i128::from(column.long(row)));
                (words[0], words[1]) = (sum as u64, (sum >> 64) as u64);
                words[2] = words[2].wrapping_add(1);
            }
            Operation::ExtremeDouble { greatest } => {
                let value = column.double(row);
                if words[1] == 0 || beyond(value, f64::from_bits(words[0]), greatest) {
                    words[0] = value.to_bits();
                }
                words[1] = words[1].wrapping_add(1);
            }
            Operation::ExtremeLong { greatest } => {
                let (value, held) = (column.long(row), words[0] as i64);
                if words[1] == 0 || (if greatest { value > held } else { value < held }) {
                    words[0] = value as u64;
                }
                words[1] = words[1].wrapping_add(1);
            }
            Operation::Distinct => {
                let hash = column.hash(row);
                blobs.change(
                    &mut words[0],
                    || Blob::Distinct(Box::default()),
                    |blob| {
                        if let Blob::Distinct(sketch) = blob {
                            sketch.insert(hash);
                        }
                    },
                );
            }
            Operation::Quantile { .. } => {
                let value = column.double(row);
                blobs.change(
                    &mut words[0],
                    || Blob::Quantile(Box::default()),
                    |blob| {
                        if let Blob::Quantile(sketch) = blob {
                            sketch.insert(value);
                        }
                    },
                );
            }
            Operation::Edge { .. } => {}
        }
    }

    /// What [`Self::update`] makes of the words, without taking anything in.
    pub fn foresee(&self, words: &mut [u64], blobs: &Blobs, batch: &Batch<'_>, row: usize) {
        let keeps_blob = matches!(self.operation, Operation::Distinct | Operation::Quantile { .. })
            || matches!(self.operation, Operation::Edge { .. }) && self.output == ColumnType::Bytes;
        if keeps_blob {
            words[self.at] = words[self.at].max(blobs.places() as u64 + 1);
            if matches!(self.operation, Operation::Edge { .. }) {
                words[self.at + 1] = batch.event_times[row] as u64;
            }
        } else {
            self.update(words, &mut Blobs::default(), batch, row);
        }
    }

    fn update_edge(
        &self,
        words: &mut [u64],
        blobs: &mut Blobs,
        column: &Column<'_>,
        row: usize,
        time: i64,
        last: bool,
    ) {
        // Events come in offset order, so of equal times the first was first.
        let held = words[1] as i64;
        let replaces = words[2] & THERE == 0 || (if last { time >= held } else { time < held });
        if !replaces {
            return;
        }
        words[1] = time as u64;
        words[2] = THERE | if column.is_valid(row) { 0 } else { NULL };
        if !column.is_valid(row) {
            if self.output == ColumnType::Bytes {
                blobs.release(&mut words[0]);
            } else {
                words[0] = 0;
            }
            return;
        }
        match column.values {
            Values::Double(values) => words[0] = values[row].to_bits(),
            Values::Long(values) => words[0] = values[row] as u64,
            Values::Boolean(bits) => words[0] = u64::from(bits.get(row)),
            Values::Bytes(strings) => blobs.set_bytes(&mut words[0], strings.get(row)),
        }
    }

    /// The result over tiles from old to new.
    #[inline]
    pub fn finish<'a, C: Cell + 'a>(
        &self,
        tiles: impl Iterator<Item = Tile<'a, C>> + Clone,
        scratch: &mut Scratch,
        out: &mut OutColumn,
    ) {
        let at = self.at;
        match self.operation {
            Operation::Count => {
                let count = tiles.fold(0u64, |count, tile| count.wrapping_add(tile.words[at].number()));
                out.push(Value::Long(count as i64));
            }
            Operation::SumDouble | Operation::Avg => {
                let (mut sum, mut count) = (0.0, 0u64);
                for tile in tiles {
                    sum += tile.words[at].double();
                    count = count.wrapping_add(tile.words[at + 1].number());
                }
                out.push(match self.operation {
                    _ if count == 0 => Value::Null,
                    Operation::Avg => Value::Double(sum / count as f64),
                    _ => Value::Double(sum),
                });
            }
            Operation::SumLong => {
                let (mut sum, mut count) = (0i128, 0u64);
                for tile in tiles {
                    sum = sum.wrapping_add(wide(tile.words[at].number(), tile.words[at + 1].number()));
                    count = count.wrapping_add(tile.words[at + 2].number());
                }
                let sum = i64::try_from(sum).ok().filter(|_| count > 0);
                out.push(sum.map_or(Value::Null, Value::Long));
            }
            Operation::ExtremeDouble { greatest } => {
                let values = tiles.filter(|tile| tile.words[at + 1].number() > 0).map(|tile| tile.words[at].double());
                let best = values.reduce(|best, value| if beyond(value, best, greatest) { value } else { best });
                out.push(best.map_or(Value::Null, Value::Double));
            }
            Operation::ExtremeLong { greatest } => {
                let values =
                    tiles.filter(|tile| tile.words[at + 1].number() > 0).map(|tile| tile.words[at].number() as i64);
                let best = if greatest { values.max() } else { values.min() };
                out.push(best.map_or(Value::Null, Value::Long));
            }
            Operation::Edge { last, .. } => {
                let there = tiles.filter(|tile| tile.words[at + 2].number() & THERE != 0);
                let edge = there.reduce(|best, tile| {
                    let (time, held) = (tile.words[at + 1].number() as i64, best.words[at + 1].number() as i64);
                    let replaces = if last { time >= held } else { time < held };
                    if replaces { tile } else { best }
                });
                out.push(edge.map_or(Value::Null, |tile| self.edge_value(tile)));
            }
            Operation::Distinct => {
                scratch.distinct.clear();
                for tile in tiles {
                    if let Some(Blob::Distinct(sketch)) = tile.blobs.get(tile.words[at].number()) {
                        scratch.distinct.merge(sketch);
                    }
                }
                out.push(Value::Long(scratch.distinct.estimate() as i64));
            }
            Operation::Quantile { q } => {
                scratch.quantile.clear();
                for tile in tiles {
                    if let Some(Blob::Quantile(sketch)) = tile.blobs.get(tile.words[at].number()) {
                        scratch.quantile.merge(sketch);
                    }
                }
                out.push(scratch.quantile.quantile(q).map_or(Value::Null, Value::Double));
            }
        }
    }

    fn edge_value<'a, C: Cell>(&self, tile: Tile<'a, C>) -> Value<'a> {
        let cell = tile.words[self.at];
        if tile.words[self.at + 2].number() & NULL != 0 {
            return Value::Null;
        }
        match self.output {
            ColumnType::Double => Value::Double(cell.double()),
            ColumnType::Long => Value::Long(cell.number() as i64),
            ColumnType::Boolean => Value::Boolean(cell.number() != 0),
            ColumnType::Bytes => match tile.blobs.get(cell.number()) {
                Some(Blob::Bytes(bytes)) => Value::Bytes(bytes),
                _ => Value::Null,
            },
        }
    }
}

fn wide(low: u64, high: u64) -> i128 {
    (i128::from(high as i64) << 64) | i128::from(low)
}

/// Whether `value` replaces `held`: NaN is greater than every number, and of
/// equal values the first stays.
fn beyond(value: f64, held: f64, greatest: bool) -> bool {
    if greatest {
        value > held || (value.is_nan() && !held.is_nan())
    } else {
        value < held || (held.is_nan() && !value.is_nan())
    }
}

impl Column<'_> {
    #[inline]
    fn double(&self, row: usize) -> f64 {
        match self.values {
            Values::Double(values) => values[row],
            Values::Long(values) => values[row] as f64,
            _ => 0.0,
        }
    }

    #[inline]
    fn long(&self, row: usize) -> i64 {
        if let Values::Long(values) = self.values { values[row] } else { 0 }
    }

    /// The hash of a value: -0.0 is 0.0, and there is one NaN.
    fn hash(&self, row: usize) -> u64 {
        match self.values {
            Values::Double(values) if values[row].is_nan() => hash_word(f64::NAN.to_bits()),
            Values::Double(values) => hash_word((values[row] + 0.0).to_bits()),
            Values::Long(values) => hash_word(values[row] as u64),
            Values::Boolean(bits) => hash_word(u64::from(bits.get(row))),
            Values::Bytes(strings) => hash_bytes(strings.get(row)),
        }
    }
}
