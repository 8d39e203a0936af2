//! Trees of at most six levels, in bytes.
//!
//! A tree is filled up to a complete one: below node `n` are nodes `2n` and
//! `2n + 1`, its leaves are behind the last level. A row is a table of byte bins,
//! one a lane ([`bins`](super::super::bins)). All nodes of a tree decide at once:
//! 64 look-ups in the table are one instruction of AVX-512, 64 comparisons
//! another, and their outcome is the bits of one word. The way down is a shift and
//! an addition a level, in the words of eight trees at once. Without AVX-512 the
//! way down looks up the nodes it meets, several trees at a time.

use super::super::bins::{Fill, Limits, Plan};
use super::super::heaps::{self, heap};
use super::super::{Leaves, NodeBuilder, Sum, TreeBuilder, Value};
use super::Scratch;
use crate::vectors::Vectors;

/// Levels of every tree.
const LEVELS: usize = 6;
/// Places of nodes: the first is not used.
const PLACES: usize = 1 << LEVELS;
/// Thresholds of a lane: bins are 0 to 254, and 255 for a missing value.
const LIMITS: Limits = Limits { cuts: 254, lanes: 256 };
/// Bytes of the leaves of one tree at most.
const MAX_LEAVES: usize = 2048;
/// Trees that are walked together.
const ACROSS: usize = 8;
/// Trees whose outcome is kept until it is added up.
#[cfg(target_arch = "x86_64")]
const PART: usize = 64;

/// The bins of a row, by lane.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Row([u8; LIMITS.lanes]);

impl Default for Row {
    fn default() -> Self {
        Self([0; LIMITS.lanes])
    }
}

/// The nodes of a tree: right where the lane's bin is not below the threshold.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Tree {
    lanes: [u8; PLACES],
    thresholds: [u8; PLACES],
}

/// Small trees over byte lanes.
#[derive(Debug)]
pub struct Bytes<T, V> {
    fills: Vec<Fill<T>>,
    lanes: usize,
    trees: Vec<Tree>,
    /// By tree and place behind the last level, `width` numbers each.
    values: Vec<V>,
    width: usize,
    /// The output of every tree.
    outputs: Vec<usize>,
}

impl<T: Value, V: Sum> Bytes<T, V> {
    /// Checked trees filled up, if they suit this form.
    pub fn new(trees: &[TreeBuilder], slots: usize, leaves: &Leaves<V>) -> Option<Self> {
        if trees.iter().any(|tree| heaps::depth(tree).is_none_or(|depth| depth > LEVELS))
            || PLACES * leaves.width * size_of::<V>() > MAX_LEAVES
        {
            return None;
        }
        let mut plan = Plan::new(trees, slots, LIMITS)?;
        let mut packed = Vec::with_capacity(trees.len());
        let mut values = Vec::with_capacity(trees.len() * PLACES * leaves.width);
        for tree in trees {
            let heap = heap(tree, LEVELS);
            let mut nodes = Tree { lanes: [0; PLACES], thresholds: [0; PLACES] };
            for (place, at) in heap.iter().enumerate().take(PLACES).skip(1) {
                if let NodeBuilder::Split { feature, test, missing_left, .. } = &tree.nodes[*at as usize] {
                    let (lane, below) = plan.place(*feature, test, *missing_left)?;
                    (nodes.lanes[place], nodes.thresholds[place]) = (lane as u8, below as u8);
                }
            }
            packed.push(nodes);
            for at in &heap[PLACES..] {
                let NodeBuilder::Leaf(leaf) = &tree.nodes[*at as usize] else { return None };
                let from = *leaf as usize * leaves.width;
                values.extend_from_slice(&leaves.values[from..from + leaves.width]);
            }
        }
        let (fills, lanes, width) = (plan.fills, plan.lanes, leaves.width);
        let outputs = (0..trees.len()).map(|tree| leaves.output_of(tree)).collect();
        Some(Self { fills, lanes, trees: packed, values, width, outputs })
    }

    /// Lanes of a row.
    #[cfg(test)]
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Adds the leaves of a row to `sums`, one an output.
    pub fn add(&self, vectors: Vectors, row: &[T], scratch: &mut Scratch<T>, sums: &mut [V]) {
        #[cfg(target_arch = "x86_64")]
        {
            if vectors.avx512vbmi() {
                #[expect(unsafe_code, reason = "the processor has what the function is compiled for")]
                // SAFETY: `Vectors` says so only of what the processor has.
                return unsafe { avx512::add(self, row, &mut scratch.bytes, sums) };
            }
            if vectors.avx2() {
                #[expect(unsafe_code, reason = "the processor has what the function is compiled for")]
                // SAFETY: `Vectors` says so only of what the processor has.
                return unsafe { self.add_avx2(row, &mut scratch.bytes, sums) };
            }
        }
        self.add_portable(row, &mut scratch.bytes, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn add_avx2(&self, row: &[T], bins: &mut Row, sums: &mut [V]) {
        self.add_portable(row, bins, sums);
    }

    /// On any processor.
    #[inline(always)]
    fn add_portable(&self, row: &[T], bins: &mut Row, sums: &mut [V]) {
        self.fill(row, bins);
        for (number, group) in self.trees.chunks(ACROSS).enumerate() {
            // The last trees walk together with the first of them.
            let trees: [&Tree; ACROSS] = std::array::from_fn(|at| group.get(at).unwrap_or(&group[0]));
            let mut at = [1usize; ACROSS];
            for _ in 0..LEVELS {
                for (at, tree) in at.iter_mut().zip(trees) {
                    *at = step(tree, &bins.0, *at);
                }
            }
            self.add_leaves(number * ACROSS, &at.map(|at| at as u64)[..group.len()], sums);
        }
    }

    /// The bins of a row.
    #[inline(always)]
    fn fill(&self, row: &[T], bins: &mut Row) {
        for fill in &self.fills {
            let value = row[fill.feature];
            let bin = fill.bins.byte(value);
            for (lane, instead) in [(fill.left, 0), (fill.right, u8::MAX)] {
                if let Some(lane) = lane {
                    bins.0[lane % LIMITS.lanes] = if value.missing() { instead } else { bin };
                }
            }
        }
    }

    /// Adds the leaves at the places that trees found, from the tree `first` on, in
    /// their order.
    #[inline(always)]
    fn add_leaves(&self, first: usize, places: &[u64], sums: &mut [V]) {
        if let (1, [sum]) = (self.width, &mut *sums) {
            // In a register.
            let mut total = *sum;
            for (values, at) in self.values.as_chunks::<PLACES>().0[first..].iter().zip(places) {
                total += values[*at as usize % PLACES];
            }
            *sum = total;
            return;
        }
        for (tree, at) in (first..).zip(places) {
            let leaf = &self.values[(tree * PLACES + *at as usize % PLACES) * self.width..][..self.width];
            match leaf {
                [value] => sums[self.outputs[tree]] += *value,
                _ => sums.iter_mut().zip(leaf).for_each(|(sum, value)| *sum += *value),
            }
        }
    }
}

/// One level down.
#[inline(always)]
fn step(tree: &Tree, bins: &[u8; LIMITS.lanes], at: usize) -> usize {
    let (lane, threshold) = (tree.lanes[at % PLACES], tree.thresholds[at % PLACES]);
    2 * at + usize::from(bins[usize::from(lane)] >= threshold)
}

/// All nodes of a tree at once.
#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_cmpge_epu8_mask, _mm512_loadu_epi8, _mm512_mask_blend_epi8, _mm512_movepi8_mask,
        _mm512_permutex2var_epi8, _mm512_permutexvar_epi8,
    };

    use super::super::super::{Sum, Value};
    use super::{Bytes, LEVELS, PART, PLACES, Row, Tree};

    /// As [`Bytes::add`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2")]
    pub fn add<T: Value, V: Sum>(trees: &Bytes<T, V>, row: &[T], bins: &mut Row, sums: &mut [V]) {
        trees.fill(row, bins);
        match trees.lanes {
            0..=64 => walk::<T, V, 1>(trees, bins, sums),
            65..=128 => walk::<T, V, 2>(trees, bins, sums),
            _ => walk::<T, V, 4>(trees, bins, sums),
        }
    }

    /// The row's bins fill so many registers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2")]
    fn walk<T: Value, V: Sum, const TABLES: usize>(trees: &Bytes<T, V>, bins: &Row, sums: &mut [V]) {
        let [a, b, c, d] = bins.0.as_chunks::<PLACES>().0 else { unreachable!("four tables") };
        let [a, b, c, d] = [load(a), load(b), load(c), load(d)];
        let mut first = 0;
        for part in trees.trees.chunks(PART) {
            let mut right = [0u64; PART];
            for (right, tree) in right.iter_mut().zip(part) {
                *right = rights::<TABLES>(tree, [a, b, c, d]);
            }
            let mut places = [0u64; PART];
            for (place, right) in places.iter_mut().zip(&right) {
                let mut at = 1;
                for _ in 0..LEVELS {
                    at = 2 * at + (right >> at & 1);
                }
                *place = at;
            }
            trees.add_leaves(first, &places[..part.len()], sums);
            first += part.len();
        }
    }

    /// The nodes of a tree that send a row to the right.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2")]
    fn rights<const TABLES: usize>(tree: &Tree, [a, b, c, d]: [__m512i; 4]) -> u64 {
        let lanes = load(&tree.lanes);
        let found = match TABLES {
            1 => _mm512_permutexvar_epi8(lanes, a),
            2 => _mm512_permutex2var_epi8(a, lanes, b),
            _ => _mm512_mask_blend_epi8(
                _mm512_movepi8_mask(lanes),
                _mm512_permutex2var_epi8(a, lanes, b),
                _mm512_permutex2var_epi8(c, lanes, d),
            ),
        };
        _mm512_cmpge_epu8_mask(found, load(&tree.thresholds))
    }

    /// 64 bytes in a register.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn load(bytes: &[u8; PLACES]) -> __m512i {
        #[expect(unsafe_code, reason = "a load by its address")]
        // SAFETY: the reference is to as many bytes as are read.
        unsafe {
            _mm512_loadu_epi8(bytes.as_ptr().cast())
        }
    }
}
