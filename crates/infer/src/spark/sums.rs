//! Products of coefficients and features, in Spark's order of additions.
//!
//! Spark multiplies dense vectors by a Java library that adds fused products
//! in four interleaved sums ([`Order::Dot`]) or, for matrices, one product
//! after another; sparse vectors are plain products in the order of their
//! places. All is repeated here, column by column over a block of rows.

use super::store::{Matrix, Vector};
use super::vectors::Vectors;

/// How the products of dense vectors are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Four sums, and the start last.
    Dot,
    /// One sum after another place, and the start last: a matrix stored row by row.
    Rows,
    /// Upon the start, four places at a time backwards: a matrix stored column by column.
    Columns,
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
    /// Coefficients of 0 are not stored, so they meet no feature.
    sparse: bool,
}

impl Sums {
    /// One sum: `x · vector + start`.
    pub fn dot(vector: Vector, start: f64) -> Self {
        let width = vector.values.len();
        Self { width, coefficients: vector.values, start: vec![start], order: Order::Dot, sparse: vector.sparse }
    }

    /// A sum for each row of a matrix.
    pub fn product(matrix: Matrix, start: Vec<f64>) -> Self {
        let order = if matrix.transposed { Order::Rows } else { Order::Columns };
        Self { width: matrix.columns, coefficients: matrix.values, start, order, sparse: matrix.sparse }
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
            return self.fused(coefficients, start, features);
        }
        // A sparse vector is added last to the start, whatever the matrix.
        let mut sums = plain(features, coefficients, 0.0, false);
        sums.iter_mut().for_each(|sum| *sum += start);
        if dense {
            let fused = self.fused(coefficients, start, features);
            for (row, value) in fused.into_iter().enumerate().filter(|(row, _)| !features.sparse.at(*row)) {
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

    fn fused(&self, coefficients: &[f64], start: f64, features: &Vectors) -> Vec<f64> {
        let rows = features.rows;
        let add = |sums: &mut [f64], place: usize| {
            let Some(column) = features.columns[place].values() else { return };
            let coefficient = coefficients[place];
            sums.iter_mut().zip(column).for_each(|(sum, value)| *sum = value.mul_add(coefficient, *sum));
        };
        let fours = self.width / 4 * 4;
        match self.order {
            Order::Rows => {
                let mut sums = vec![0.0; rows];
                (0..self.width).for_each(|place| add(&mut sums, place));
                sums.iter_mut().for_each(|sum| *sum += start);
                sums
            }
            Order::Columns => {
                let mut sums = vec![start; rows];
                for four in (0..fours).step_by(4) {
                    (four..four + 4).rev().for_each(|place| add(&mut sums, place));
                }
                (fours..self.width).for_each(|place| add(&mut sums, place));
                sums
            }
            Order::Dot => {
                let mut lanes: [Vec<f64>; 4] = std::array::from_fn(|_| vec![0.0; rows]);
                (0..fours).for_each(|place| add(&mut lanes[place % 4], place));
                let [first, second, third, fourth] = lanes;
                let mut sums: Vec<f64> = first;
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = *sum + second[row] + third[row] + fourth[row];
                }
                (fours..self.width).for_each(|place| add(&mut sums, place));
                sums.iter_mut().for_each(|sum| *sum += start);
                sums
            }
        }
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

/// The product of two dense vectors.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let fours = a.len() / 4 * 4;
    let mut lanes = [0.0f64; 4];
    for place in 0..fours {
        lanes[place % 4] = a[place].mul_add(b[place], lanes[place % 4]);
    }
    let mut sum = lanes[0] + lanes[1] + lanes[2] + lanes[3];
    for place in fours..a.len() {
        sum = a[place].mul_add(b[place], sum);
    }
    sum
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
        let columns: Vec<Vec<f64>> = (0..7).map(|c| (0..3).map(|r| 0.1 + f64::from(c * 3 + r)).collect()).collect();
        let coefficients: Vec<f64> = (0..7).map(|c| 1.0 / f64::from(c + 3)).collect();
        let features = Vectors::dense(3, columns.clone());
        let sums = Sums::dot(Vector { values: coefficients.clone(), sparse: false }, 0.5).of(&features);
        for row in 0..3 {
            let row_values: Vec<f64> = columns.iter().map(|c| c[row]).collect();
            assert_eq!(sums[0][row].to_bits(), (dot(&row_values, &coefficients) + 0.5).to_bits());
        }
    }
}
