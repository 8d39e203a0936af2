//! Gaussian mixtures: the share of each component in a row's density.
//!
//! A covariance is decomposed once, when the model is loaded; directions
//! without variance are left out, as Spark does.

use arrow::array::AsArray;

use super::head::{Function, Output, numbered};
use super::stage::Source;
use super::store::{self, Matrix};
use super::sums::{Library, Sums};
use super::vectors::Vectors;
use crate::error::{Error, Result};

/// Features at most, and decomposition steps: the work grows with the cube.
const MAX_FEATURES: usize = 256;
const MAX_WORK: usize = 1 << 26;

/// The least density of a component, as in Spark.
const EPSILON: f64 = f64::EPSILON;

#[derive(Debug)]
struct Mixture {
    width: usize,
    library: Library,
    components: Vec<Component>,
}

/// A normal distribution.
#[derive(Debug)]
struct Component {
    weight: f64,
    /// To coordinates of variance 1, minus the mean's own.
    root: Sums,
    /// Logarithm of the density at the mean.
    peak: f64,
}

impl Function for Mixture {
    fn width(&self) -> Option<usize> {
        Some(self.width)
    }

    fn score(&self, features: &Vectors, _offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let mut point = vec![0.0; self.width];
        let density = |component: &Component| -> Vec<f64> {
            let coordinates = component.root.of(features);
            let mut at = |row: usize| {
                point.iter_mut().zip(&coordinates).for_each(|(value, column)| *value = column[row]);
                let density = (component.peak - 0.5 * self.library.dot(&point, &point)).exp();
                EPSILON + component.weight * density
            };
            (0..features.rows).map(&mut at).collect()
        };
        let mut density = density;
        let mut shares: Vec<Vec<f64>> = self.components.iter().map(&mut density).collect();
        for row in 0..features.rows {
            let total = shares.iter().fold(0.0, |sum, share| sum + share[row]);
            shares.iter_mut().for_each(|share| share[row] /= total);
        }
        Ok(shares)
    }
}

/// GaussianMixture.
pub fn load(source: &Source<'_>) -> Result<(Box<dyn Function>, Output)> {
    let rows = source.folder.rows("data")?;
    let weights = store::list(store::column(&rows, "weights")?, 0)?;
    let list = |name: &str| {
        let lists = store::column(&rows, name)?.as_list_opt::<i32>();
        let list = lists.filter(|l| l.offsets().len() > 1).map(|l| l.value(0));
        list.filter(|l| l.len() == weights.len())
            .ok_or_else(|| Error::data(format!("GaussianMixtureModel has `{name}` that do not fit its weights")))
    };
    let (means, covariances) = (list("mus")?, list("sigmas")?);
    let mut components = Vec::new();
    let mut width = 0;
    for (number, weight) in weights.iter().enumerate() {
        let mean = store::vector(&means, number)?;
        let covariance = store::matrix(&covariances, number)?;
        width = if number == 0 { mean.len() } else { width };
        if covariance.values.iter().any(|value| !value.is_finite()) {
            return Err(Error::data("GaussianMixtureModel has a covariance that is no covariance"));
        }
        if mean.len() != width || covariance.rows != width || covariance.columns != width {
            return Err(Error::data("GaussianMixtureModel has components that do not fit together"));
        }
        if width == 0 || width > MAX_FEATURES || width.pow(3).saturating_mul(weights.len()) > MAX_WORK {
            return Err(Error::invalid(format!(
                "a GaussianMixtureModel of {} components over {width} features is not supported",
                weights.len()
            )));
        }
        components.push(component(source.library(), *weight, &mean, covariance)?);
    }
    if components.is_empty() {
        return Err(Error::data("GaussianMixtureModel has no components"));
    }
    let labels = numbered(components.len());
    Ok((Box::new(Mixture { width, library: source.library(), components }), Output::Mixture(labels)))
}

fn component(library: Library, weight: f64, mean: &[f64], covariance: Matrix) -> Result<Component> {
    let width = mean.len();
    let (values, vectors) = eigen(covariance.values, width);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let tolerance = EPSILON * most * width as f64;
    let mut logarithm = 0.0;
    let mut root = vec![0.0; width * width];
    for (place, value) in values.iter().enumerate().filter(|(_, value)| **value > tolerance) {
        logarithm += value.ln();
        let scale = (1.0 / value).sqrt();
        // The sign is turned, so that the product is added to the mean's own.
        for at in 0..width {
            root[place * width + at] = -scale * vectors[at * width + place];
        }
    }
    if !logarithm.is_finite() || values.iter().all(|value| *value <= tolerance) {
        return Err(Error::data("GaussianMixtureModel has a covariance that is no covariance"));
    }
    let own = |place: usize| -library.dot(&root[place * width..(place + 1) * width], mean);
    let start = (0..width).map(own).collect();
    let peak = -0.5 * (width as f64 * (2.0 * std::f64::consts::PI).ln() + logarithm);
    let matrix = Matrix { rows: width, columns: width, values: root, transposed: true, sparse: false };
    Ok(Component { weight, root: Sums::product(library, matrix, start), peak })
}

/// Values and vectors, column by column, of a symmetric matrix: rotations of
/// pairs of axes until nothing is left beside the diagonal.
fn eigen(mut matrix: Vec<f64>, width: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; width * width];
    (0..width).for_each(|place| vectors[place * width + place] = 1.0);
    for _sweep in 0..30 {
        let mut turned = false;
        for p in 0..width {
            for q in p + 1..width {
                let (off, a, b) = (matrix[p * width + q], matrix[p * width + p], matrix[q * width + q]);
                if off == 0.0 || off.abs() <= 1e-300 || off.abs() < 1e-20 * (a.abs() * b.abs()).sqrt() {
                    continue;
                }
                turned = true;
                let theta = (b - a) / (2.0 * off);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                // Small changes to what was there, which rounds less than a sum of two products.
                let tau = s / (1.0 + c);
                let turn = |x: f64, y: f64| (x - s * (y + tau * x), y + s * (x - tau * y));
                for k in 0..width {
                    if k != p && k != q {
                        let (x, y) = turn(matrix[k * width + p], matrix[k * width + q]);
                        (matrix[k * width + p], matrix[p * width + k]) = (x, x);
                        (matrix[k * width + q], matrix[q * width + k]) = (y, y);
                    }
                    let (x, y) = turn(vectors[k * width + p], vectors[k * width + q]);
                    (vectors[k * width + p], vectors[k * width + q]) = (x, y);
                }
                matrix[p * width + p] = a - t * off;
                matrix[q * width + q] = b + t * off;
                matrix[p * width + q] = 0.0;
                matrix[q * width + p] = 0.0;
            }
        }
        if !turned {
            break;
        }
    }
    ((0..width).map(|place| matrix[place * width + place]).collect(), vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvectors_put_the_matrix_together_again() {
        let matrix = vec![4.0, 1.0, 0.5, 1.0, 3.0, -0.25, 0.5, -0.25, 1e-3];
        let (values, vectors) = eigen(matrix.clone(), 3);
        for r in 0..3 {
            for c in 0..3 {
                let sum: f64 = (0..3).map(|k| vectors[r * 3 + k] * values[k] * vectors[c * 3 + k]).sum();
                assert!((sum - matrix[r * 3 + c]).abs() < 1e-14, "{r} {c}: {sum}");
            }
        }
    }
}
