//! Multilayer perceptrons: sigmoid layers, a softmax on top.

use super::head::{Classes, Decision, Function, Link, Output};
use super::stage::Source;
use super::store;
use super::vectors::Vectors;
use crate::error::{Error, Result};

/// Layers of weights.
#[derive(Debug)]
struct Perceptron {
    width: usize,
    layers: Vec<Layer>,
}

/// `weights · x + bias`, the weights column by column.
#[derive(Debug)]
struct Layer {
    outputs: usize,
    weights: Vec<f64>,
    bias: Vec<f64>,
}

impl Function for Perceptron {
    fn width(&self) -> Option<usize> {
        Some(self.width)
    }

    fn score(&self, features: &Vectors, _offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let mut values: Vec<Vec<f64>> =
            features.columns.iter().map(|column| (0..features.rows).map(|row| column.at(row)).collect()).collect();
        for (number, layer) in self.layers.iter().enumerate() {
            let neuron = |output: usize| -> Vec<f64> {
                let mut sums = vec![0.0f64; features.rows];
                for (input, column) in values.iter().enumerate() {
                    let weight = layer.weights[input * layer.outputs + output];
                    sums.iter_mut().zip(column).for_each(|(sum, value)| *sum = weight.mul_add(*value, *sum));
                }
                sums.iter_mut().for_each(|sum| *sum += layer.bias[output]);
                if number + 1 < self.layers.len() {
                    sums.iter_mut().for_each(|sum| *sum = 1.0 / (1.0 + (-*sum).exp()));
                }
                sums
            };
            values = (0..layer.outputs).map(neuron).collect();
        }
        Ok(values)
    }
}

/// MultilayerPerceptronClassifier.
pub fn load(source: &Source<'_>) -> Result<(Box<dyn Function>, Output)> {
    let rows = source.folder.rows("data")?;
    // Spark 2 kept the sizes of the layers in the data.
    let sizes = match source.parameters.numbers("layers")? {
        Some(sizes) => sizes,
        None => store::list(store::column(&rows, "layers")?, 0)?,
    };
    let size = |n: &f64| (*n >= 1.0 && *n <= 1e6 && n.fract() == 0.0).then_some(*n as usize);
    let sizes: Option<Vec<usize>> = sizes.iter().map(size).collect();
    let sizes = sizes.filter(|sizes| sizes.len() >= 2);
    let sizes = sizes.ok_or_else(|| Error::data("MultilayerPerceptronClassificationModel has impossible layers"))?;
    let weights = store::vector(store::column(&rows, "weights")?, 0)?;
    let wanted: usize = sizes.windows(2).map(|pair| (pair[0] + 1) * pair[1]).sum();
    if weights.len() != wanted {
        return Err(Error::data(format!(
            "MultilayerPerceptronClassificationModel has {} weights, its layers want {wanted}",
            weights.len()
        )));
    }
    let mut rest = weights.as_slice();
    let mut layers = Vec::new();
    for pair in sizes.windows(2) {
        let (matrix, after) = rest.split_at(pair[0] * pair[1]);
        let (bias, after) = after.split_at(pair[1]);
        rest = after;
        layers.push(Layer { outputs: pair[1], weights: matrix.to_vec(), bias: bias.to_vec() });
    }
    let count = sizes[sizes.len() - 1];
    let classes = Classes::new(count, Link::Softmax, Decision::of(source.parameters)?);
    Ok((Box::new(Perceptron { width: sizes[0], layers }), Output::Classes(classes)))
}
