//! Values as bins: what a comparison with a threshold needs of a number.
//!
//! A feature's *bin* is the number of that feature's thresholds that it
//! reaches: `x < threshold[k]` is then `bin <= k`. A kernel has a *lane* of bins
//! per feature, and several for a feature with more thresholds than a bin can
//! count. A missing value is the smallest bin where it goes left and the largest
//! where it goes right, so a feature whose splits disagree about that has a lane
//! for each. A set of categories is a lane of its own, 0 inside and 1 outside.

use std::collections::{BTreeMap, HashMap};

use super::{NodeBuilder, Test, TreeBuilder, Value, bits, contains, words};

/// 64-bit words of all category sets: one large category needs as many as all below it.
const MAX_SET_WORDS: usize = 1 << 20;

/// How lanes are filled.
#[derive(Debug)]
pub struct Fill<T> {
    /// The feature they are made of.
    pub feature: usize,
    /// Its bins.
    pub bins: Bins<T>,
    /// The lane in which a missing value goes left.
    pub left: Option<usize>,
    /// The lane in which it goes right.
    pub right: Option<usize>,
}

/// How a value's bin is found.
#[derive(Debug)]
pub enum Bins<T> {
    /// Few thresholds: all are compared.
    Few(Vec<T>),
    /// Up to 255: those of the value's cell.
    Many(Box<Cells<T>>),
    /// Up to 255 that lie too unevenly for cells: sixteen groups of sixteen,
    /// first the group, then the place in it. NaN, which nothing reaches, fills up.
    Uneven(Box<[[T; 16]; 17]>),
    /// More, by buckets.
    Most(Box<Buckets<T>>),
    /// Categories.
    Set(Vec<u64>),
}

impl<T: Value> Bins<T> {
    /// Of ascending thresholds.
    pub fn of(cuts: &[T]) -> Self {
        if cuts.len() <= 24 {
            return Self::Few(cuts.to_vec());
        }
        if cuts.len() > 255 {
            return Self::Most(Box::new(Buckets::of(cuts)));
        }
        if let Some(cells) = Cells::of(cuts) {
            return Self::Many(Box::new(cells));
        }
        let mut groups = Box::new([[T::NAN; 16]; 17]);
        for (at, cut) in cuts.iter().enumerate() {
            groups[at / 16][at % 16] = *cut;
        }
        for group in 0..16 {
            groups[16][group] = groups[group][15];
        }
        Self::Uneven(groups)
    }

    /// The bin of one value, where at most 255 thresholds can be reached.
    #[inline(always)]
    pub fn byte(&self, value: T) -> u8 {
        match self {
            Self::Few(cuts) => cuts.partition_point(|cut| value >= *cut) as u8,
            Self::Many(cells) => cells.reached(value),
            // By halves, without a branch.
            Self::Uneven(groups) => {
                let cuts = groups.as_flattened();
                let mut reached = 0;
                for step in [128, 64, 32, 16, 8, 4, 2, 1] {
                    let next = reached + step;
                    reached = if value >= cuts[(next - 1) % 256] { next } else { reached };
                }
                reached as u8
            }
            Self::Set(_) | Self::Most(_) => self.bytes(&[value])[0],
        }
    }

    /// The bins of values, where at most 255 thresholds can be reached.
    #[inline(always)]
    pub fn bytes<const N: usize>(&self, values: &[T; N]) -> [u8; N] {
        let mut bins = [0u8; N];
        match self {
            Self::Few(cuts) => {
                for cut in cuts {
                    for (bin, value) in bins.iter_mut().zip(values) {
                        *bin += u8::from(*value >= *cut);
                    }
                }
            }
            Self::Many(cells) => cells.fill(values, &mut bins),
            Self::Uneven(groups) => {
                for (bin, value) in bins.iter_mut().zip(values) {
                    let group = reached(&groups[16], *value);
                    *bin = 16 * group + reached(&groups[group as usize & 15], *value);
                }
            }
            Self::Set(set) => {
                for (bin, value) in bins.iter_mut().zip(values) {
                    *bin = u8::from(!contains(set, *value));
                }
            }
            Self::Most(_) => unreachable!("a bin of one byte counts 255 thresholds"),
        }
        bins
    }

    /// The bins of values.
    #[inline(always)]
    pub fn words<const N: usize>(&self, values: &[T; N]) -> [u16; N] {
        let mut bins = [0u16; N];
        if let Self::Most(buckets) = self {
            for (bin, value) in bins.iter_mut().zip(values) {
                *bin = buckets.reached(*value);
            }
        } else {
            for (bin, byte) in bins.iter_mut().zip(self.bytes(values)) {
                *bin = u16::from(byte);
            }
        }
        bins
    }
}

/// At most 255 thresholds in cells of equal width. A value's cell is a monotone
/// function of it: the value reaches all thresholds of lower cells and none of
/// higher ones, so only as many thresholds are compared as the fullest cell has.
#[derive(Debug)]
pub struct Cells<T> {
    low: T,
    scale: T,
    /// The thresholds of lower cells, by cell.
    before: Box<[u8; CELLS]>,
    /// Ascending, then NaN, which nothing reaches.
    cuts: Box<[T; 256 + MAX_TOGETHER]>,
    /// Thresholds of the fullest cell.
    together: usize,
}

/// Cells of a lane's thresholds: the tables of a lane stay in the first-level cache.
const CELLS: usize = 2048;
/// Thresholds of a cell.
const MAX_TOGETHER: usize = 8;

impl<T: Value> Cells<T> {
    /// Unless too many thresholds fall into one cell.
    fn of(cuts: &[T]) -> Option<Self> {
        let (low, scale) = T::buckets(cuts, CELLS);
        let mut counts = [0u16; CELLS];
        for cut in cuts {
            counts[cut.cell(low, scale, CELLS)] += 1;
        }
        let together = counts.iter().max().map_or(0, |count| usize::from(*count));
        if together > MAX_TOGETHER || cuts.len() > 255 {
            return None;
        }
        let mut before = Box::new([0; CELLS]);
        let mut all = 0;
        for (before, count) in before.iter_mut().zip(counts) {
            *before = all as u8;
            all += count;
        }
        let mut padded = Box::new([T::NAN; 256 + MAX_TOGETHER]);
        padded[..cuts.len()].copy_from_slice(cuts);
        Some(Self { low, scale, before, cuts: padded, together })
    }

    #[inline(always)]
    fn reached(&self, value: T) -> u8 {
        let before = self.before[value.cell(self.low, self.scale, CELLS)];
        let cuts = &self.cuts[usize::from(before)..][..self.together];
        before + cuts.iter().filter(|cut| value >= **cut).count() as u8
    }

    #[inline(always)]
    fn fill<const N: usize>(&self, values: &[T; N], bins: &mut [u8; N]) {
        match self.together {
            0..=1 => self.fill_of::<N, 1>(values, bins),
            2 => self.fill_of::<N, 2>(values, bins),
            3 => self.fill_of::<N, 3>(values, bins),
            4 => self.fill_of::<N, 4>(values, bins),
            _ => self.fill_of::<N, MAX_TOGETHER>(values, bins),
        }
    }

    #[inline(always)]
    fn fill_of<const N: usize, const TOGETHER: usize>(&self, values: &[T; N], bins: &mut [u8; N]) {
        let mut cells = [0u32; N];
        for (cell, value) in cells.iter_mut().zip(values) {
            *cell = value.cell(self.low, self.scale, CELLS) as u32;
        }
        for ((bin, value), cell) in bins.iter_mut().zip(values).zip(cells) {
            let before = self.before[cell as usize % CELLS];
            let mut count = before;
            for more in 0..TOGETHER {
                count += u8::from(*value >= self.cuts[usize::from(before) + more]);
            }
            *bin = count;
        }
    }
}

/// Thresholds in buckets of equal width. A value's bucket is a monotone
/// function of it: the value reaches all thresholds of lower buckets and none
/// of higher ones, so only those of its own bucket are compared.
#[derive(Debug)]
pub struct Buckets<T> {
    /// Ascending.
    cuts: Vec<T>,
    low: T,
    scale: T,
    /// The first threshold of every bucket, and the end.
    starts: Vec<u16>,
    /// A power of two that no bucket's thresholds are more than.
    most: usize,
}

impl<T: Value> Buckets<T> {
    fn of(cuts: &[T]) -> Self {
        let count = 4 * cuts.len();
        let (low, scale) = T::buckets(cuts, count);
        let mut buckets = Self { cuts: cuts.to_vec(), low, scale, starts: vec![0; count + 1], most: 1 };
        for cut in cuts {
            let bucket = buckets.bucket(*cut);
            buckets.starts[bucket + 1] += 1;
        }
        let largest = buckets.starts.iter().max().copied().unwrap_or(0);
        buckets.most = (largest as usize).next_power_of_two();
        for bucket in 0..count {
            buckets.starts[bucket + 1] += buckets.starts[bucket];
        }
        buckets
    }

    #[inline(always)]
    fn bucket(&self, value: T) -> usize {
        value.cell(self.low, self.scale, self.starts.len() - 1)
    }

    #[inline(always)]
    fn reached(&self, value: T) -> u16 {
        let bucket = self.bucket(value);
        let (mut at, end) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        let mut step = self.most;
        while step > 0 {
            let next = at + step;
            let reached = next <= end && value >= self.cuts[next - 1];
            at = if reached { next } else { at };
            step /= 2;
        }
        at as u16
    }
}

/// How many of the thresholds a value reaches.
#[inline(always)]
fn reached<T: Value>(cuts: &[T; 16], value: T) -> u8 {
    let mut count = 0;
    for cut in cuts {
        count += u32::from(value >= *cut);
    }
    count as u8
}

/// What a kernel has room for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Thresholds of a lane, fewer than the largest bin, which is a missing value's.
    pub cuts: usize,
    /// Lanes.
    pub lanes: usize,
}

/// A numeric test: which lane, and below which bin it goes left.
pub type Place = (usize, usize);

/// Finds the lanes that trees need.
pub struct Plan<T> {
    /// How the lanes found so far are filled.
    pub fills: Vec<Fill<T>>,
    /// How many they are.
    pub lanes: usize,
    limits: Limits,
    /// The thresholds of every feature, ascending.
    cuts: Vec<Vec<T>>,
    /// The first fill of every feature.
    first: Vec<usize>,
    sets: HashMap<(u32, bool, Vec<u64>), usize>,
}

impl<T: Value> Plan<T> {
    /// Collects the thresholds; none when they need more lanes, or sets of
    /// categories more memory, than there may be.
    pub fn new(trees: &[TreeBuilder], slots: usize, limits: Limits) -> Option<Self> {
        Self::of_nodes(|| trees.iter().flat_map(|tree| &tree.nodes), slots, limits)
    }

    /// As [`new`](Self::new), of some nodes alone.
    pub fn of_nodes<'a, I: Iterator<Item = &'a NodeBuilder>>(
        nodes: impl Fn() -> I,
        slots: usize,
        limits: Limits,
    ) -> Option<Self> {
        let sets = nodes().map(|node| match node {
            NodeBuilder::Split { test: Test::In(categories), .. } => words(categories),
            _ => 0,
        });
        if sets.fold(0, usize::saturating_add) > MAX_SET_WORDS {
            return None;
        }
        let mut cuts: BTreeMap<usize, Vec<T>> = BTreeMap::new();
        for node in nodes() {
            if let NodeBuilder::Split { feature, test: Test::Less(threshold), .. } = node {
                cuts.entry(*feature as usize).or_default().push(T::from_f64(*threshold));
            }
        }
        let mut plan = Self {
            fills: Vec::new(),
            lanes: 0,
            limits,
            cuts: vec![Vec::new(); slots],
            first: vec![0; slots],
            sets: HashMap::new(),
        };
        for (feature, mut found) in cuts {
            found.sort_unstable_by(Value::order);
            found.dedup_by(|a, b| a == b);
            found.shrink_to_fit();
            plan.first[feature] = plan.fills.len();
            for chunk in found.chunks(limits.cuts) {
                plan.fills.push(Fill { feature, bins: Bins::of(chunk), left: None, right: None });
            }
            plan.cuts[feature] = found;
        }
        (plan.fills.len() <= limits.lanes).then_some(plan)
    }

    /// The lane of a fill for one direction of missing values.
    fn lane(&mut self, fill: usize, missing_left: bool) -> usize {
        let next = self.lanes;
        let fill = &mut self.fills[fill];
        let lane = if missing_left { &mut fill.left } else { &mut fill.right };
        if lane.is_none() {
            self.lanes += 1;
        }
        *lane.get_or_insert(next)
    }

    /// Where a test looks; none when the lanes are used up.
    pub fn place(&mut self, feature: u32, test: &Test, missing_left: bool) -> Option<Place> {
        let place = self.find(feature, test, missing_left);
        (self.lanes <= self.limits.lanes).then_some(place)
    }

    fn find(&mut self, feature: u32, test: &Test, missing_left: bool) -> Place {
        match test {
            Test::Less(threshold) => {
                let threshold = T::from_f64(*threshold);
                let at = self.cuts[feature as usize].partition_point(|cut| *cut < threshold);
                let fill = self.first[feature as usize] + at / self.limits.cuts;
                (self.lane(fill, missing_left), at % self.limits.cuts + 1)
            }
            Test::In(categories) => {
                let key = (feature, missing_left, bits(categories));
                let fill = match self.sets.get(&key) {
                    Some(fill) => *fill,
                    None => {
                        let bins = Bins::Set(key.2.clone());
                        self.fills.push(Fill { feature: feature as usize, bins, left: None, right: None });
                        self.sets.insert(key, self.fills.len() - 1);
                        self.fills.len() - 1
                    }
                };
                (self.lane(fill, missing_left), 1)
            }
        }
    }
}
