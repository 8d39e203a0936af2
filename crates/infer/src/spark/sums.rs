//! Products of coefficients and features, in Spark's order of additions.
//!
//! Sparse vectors are plain products in the order of their places. Dense
//! vectors and matrices go through a Java library whose order depends on
//! whether Java offers it vector instructions, which is so from Spark 4 on:
//! [`Library`] says which. All is repeated here, column by column over a block
//! of rows. Spark 4 adds as many sums at once as Java's vectors are wide; what
//! is here are four (AVX2, and Java's default on most machines). Where Java uses
//! eight (AVX-512) or Spark has a native library, its own sums differ by their
//! rounding: `n` products by at most `n` units in the last place of the sum of
//! their sizes.

use super::store::{Matrix, Vector};
use super::vectors::Vectors;

/// How the products of dense vectors are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A product of two vectors.
    Dot,
    /// A matrix stored row by row.
    Rows,
    /// A matrix stored column by column.
    Columns,
}

/// The library that adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Spark 3: fused products throughout. Dot products are four interleaved
    /// sums, rows one, and the start is last; columns are added upon the start,
    /// four places at a time backwards.
    Plain,
    /// Spark 4: four interleaved fused sums for dot products and rows, then
    /// plain products for the places that are left, and the start last. Of
    /// columns whole groups of four sums are added as in Spark 3, those that
    /// are left four plain products at a time.
    Vector,
}

/// Interleaved sums of a dot product.
const LANES: usize = 4;

impl Library {
    /// The product of two dense vectors.
    pub fn dot(self, a: &[f64], b: &[f64]) -> f64 {
        let whole = a.len() / LANES * LANES;
        let mut sums = [0.0f64; LANES];
        for place in 0..whole {
            sums[place % LANES] = a[place].mul_add(b[place], sums[place % LANES]);
        }
        let mut sum = sums.iter().fold(0.0, |sum, lane| sum + lane);
        for place in whole..a.len() {
            sum = if self == Self::Plain { a[place].mul_add(b[place], sum) } else { sum + a[place] * b[place] };
        }
        sum
    }
}

/// Coefficients of one or several sums over `width` features.
#[derive(Debug, Clone)]
pub struct Sums {
    /// Features.
    pub width: usize,
    /// `width` coefficients a sum.
    coefficients: Vec<f64>,
    /// What each sum begins with.
    start: Vec<f64>,
    order: Order,
    library: Library,
    /// Coefficients of 0 are not stored, so they meet no feature.
    sparse: bool,
}

impl Sums {
    /// One sum: `x · vector + start`.
    pub fn dot(library: Library, vector: Vector, start: f64) -> Self {
        let (width, start, sparse) = (vector.values.len(), vec![start], vector.sparse);
        Self { width, coefficients: vector.values, start, order: Order::Dot, library, sparse }
    }

    /// A sum for each row of a matrix.
    pub fn product(library: Library, matrix: Matrix, start: Vec<f64>) -> Self {
        let order = if matrix.transposed { Order::Rows } else { Order::Columns };
        Self { width: matrix.columns, coefficients: matrix.values, start, order, library, sparse: matrix.sparse }
    }

    /// Sums.
    pub fn count(&self) -> usize {
        self.start.len()
    }

    /// The coefficients of each sum, and what it begins with.
    pub fn sets(&self) -> Vec<(&[f64], f64)> {
        let each = |sum: usize| (&self.coefficients[sum * self.width..(sum + 1) * self.width], self.start[sum]);
        (0..self.start.len()).map(each).collect()
    }

    /// A column of sums for each.
    pub fn of(&self, features: &Vectors) -> Vec<Vec<f64>> {
        (0..self.start.len()).map(|sum| self.one(sum, features)).collect()
    }

    fn one(&self, sum: usize, features: &Vectors) -> Vec<f64> {
        let coefficients = &self.coefficients[sum * self.width..(sum + 1) * self.width];
        let start = self.start[sum];
        let (sparse, dense) = features.sparse.kinds();
        if self.sparse {
            return self.plain(coefficients, start, features);
        }
        if !sparse {
            return self.dense(sum, features);
        }
        // A sparse vector is added last to the start, whatever the matrix.
        let mut sums = plain(features, coefficients, 0.0, false);
        sums.iter_mut().for_each(|sum| *sum += start);
        if dense {
            let found = self.dense(sum, features);
            for (row, value) in found.into_iter().enumerate().filter(|(row, _)| !features.sparse.at(*row)) {
                sums[row] = value;
            }
        }
        sums
    }

    /// By coefficients that are stored without their zeros.
    fn plain(&self, coefficients: &[f64], start: f64, features: &Vectors) -> Vec<f64> {
        if self.order == Order::Columns {
            return plain(features, coefficients, start, true);
        }
        let mut sums = plain(features, coefficients, 0.0, true);
        sums.iter_mut().for_each(|sum| *sum += start);
        sums
    }

    /// Over dense vectors.
    fn dense(&self, sum: usize, features: &Vectors) -> Vec<f64> {
        let column = Columns { coefficients: &self.coefficients[sum * self.width..(sum + 1) * self.width], features };
        let whole_group = sum < self.start.len() / LANES * LANES;
        match (self.order, self.library) {
            (Order::Rows, Library::Plain) => column.interleaved(1, true, self.start[sum]),
            (Order::Dot, Library::Plain) => column.interleaved(LANES, true, self.start[sum]),
            (Order::Rows | Order::Dot, Library::Vector) => column.interleaved(LANES, false, self.start[sum]),
            (Order::Columns, Library::Vector) if !whole_group => column.by_fours(self.start[sum]),
            (Order::Columns, _) => column.upon(self.start[sum]),
        }
    }
}

/// The coefficients of one sum and what they are multiplied with.
struct Columns<'a> {
    coefficients: &'a [f64],
    features: &'a Vectors,
}

impl Columns<'_> {
    fn add(&self, sums: &mut [f64], place: usize, fused: bool) {
        let Some(column) = self.features.columns[place].values() else { return };
        let coefficient = self.coefficients[place];
        if fused {
            sums.iter_mut().zip(column).for_each(|(sum, value)| *sum = value.mul_add(coefficient, *sum));
        } else {
            sums.iter_mut().zip(column).for_each(|(sum, value)| *sum += value * coefficient);
        }
    }

    /// So many fused sums, put together one after another, then the places that
    /// are left and the start.
    fn interleaved(&self, lanes: usize, fused_rest: bool, start: f64) -> Vec<f64> {
        let (rows, width) = (self.features.rows, self.coefficients.len());
        let whole = width / lanes * lanes;
        let mut sums = vec![0.0; rows];
        let mut lane_sums = vec![0.0; rows];
        for lane in 0..if whole > 0 { lanes } else { 0 } {
            lane_sums.fill(0.0);
            (lane..whole).step_by(lanes).for_each(|place| self.add(&mut lane_sums, place, true));
            sums.iter_mut().zip(&lane_sums).for_each(|(sum, lane)| *sum += lane);
        }
        (whole..width).for_each(|place| self.add(&mut sums, place, fused_rest));
        sums.iter_mut().for_each(|sum| *sum += start);
        sums
    }

    /// Fused upon the start, four places at a time backwards.
    fn upon(&self, start: f64) -> Vec<f64> {
        let width = self.coefficients.len();
        let fours = width / 4 * 4;
        let mut sums = vec![start; self.features.rows];
        for four in (0..fours).step_by(4) {
            (four..four + 4).rev().for_each(|place| self.add(&mut sums, place, true));
        }
        (fours..width).for_each(|place| self.add(&mut sums, place, true));
        sums
    }

    /// Upon the start, four plain products at a time.
    fn by_fours(&self, start: f64) -> Vec<f64> {
        let (rows, width) = (self.features.rows, self.coefficients.len());
        let fours = width / 4 * 4;
        let mut sums = vec![start; rows];
        let mut products = vec![0.0; rows];
        for four in (0..fours).step_by(4) {
            products.fill(0.0);
            (four..four + 4).for_each(|place| self.add(&mut products, place, false));
            sums.iter_mut().zip(&products).for_each(|(sum, product)| *sum += product);
        }
        (fours..width).for_each(|place| self.add(&mut sums, place, false));
        sums
    }
}

/// Plain products, place after place.
fn plain(features: &Vectors, coefficients: &[f64], start: f64, stored_only: bool) -> Vec<f64> {
    let mut sums = vec![start; features.rows];
    for (column, coefficient) in features.columns.iter().zip(coefficients) {
        let Some(column) = column.values() else { continue };
        if stored_only && *coefficient == 0.0 {
            continue;
        }
        sums.iter_mut().zip(column).for_each(|(sum, value)| *sum += value * coefficient);
    }
    sums
}

/// The product with a sparse vector.
pub fn sparse_dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

/// The Euclidean norm.
pub fn norm(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |sum, v| sum + v * v).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_over_columns_is_the_product_of_each_row() {
        let columns: Vec<Vec<f64>> = (0..21).map(|c| (0..3).map(|r| 0.1 + f64::from(c * 3 + r)).collect()).collect();
        let coefficients: Vec<f64> = (0..21).map(|c| 1.0 / f64::from(c + 3)).collect();
        let features = Vectors::dense(3, columns.clone());
        for library in [Library::Plain, Library::Vector] {
            let vector = Vector { values: coefficients.clone(), sparse: false };
            let sums = Sums::dot(library, vector, 0.5).of(&features);
            for row in 0..3 {
                let row_values: Vec<f64> = columns.iter().map(|c| c[row]).collect();
                assert_eq!(sums[0][row].to_bits(), (library.dot(&row_values, &coefficients) + 0.5).to_bits());
            }
        }
    }

    #[test]
    fn spark_4_does_not_fuse_the_places_that_are_left() {
        // 1 + 2^-27, squared, keeps its last bit only where it is fused.
        let near = 1.0 + 2f64.powi(-27);
        let rest = near * near - 1.0 - 2f64.powi(-26);
        assert_eq!(rest, 0.0);
        let (a, b) = ([-1.0 - 2f64.powi(-26), 0.0, 0.0, 0.0, near], [1.0, 0.0, 0.0, 0.0, near]);
        assert_eq!(Library::Vector.dot(&a, &b), 0.0);
        assert_eq!(Library::Plain.dot(&a, &b), 2f64.powi(-54));
    }
}
