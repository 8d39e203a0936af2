//! Naive Bayes of all four kinds.

use super::head::{Classes, Decision, Function, Link, Output};
use super::stage::Source;
use super::store::{self, Matrix};
use super::sums::Sums;
use super::vectors::Vectors;
use crate::error::{Error, Result};

/// Counts or presences: sums of logarithms.
#[derive(Debug)]
struct Counts {
    sums: Sums,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Multinomial,
    Complement,
    Bernoulli,
}

impl Function for Counts {
    fn width(&self) -> Option<usize> {
        Some(self.sums.width)
    }

    fn score(&self, features: &Vectors, _offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let good = |value: &&f64| match self.kind {
            Kind::Bernoulli => **value == 0.0 || **value == 1.0,
            Kind::Multinomial | Kind::Complement => **value >= 0.0,
        };
        let bad = |values: &[f64]| values.iter().find(|value| !good(value)).copied();
        if let Some((place, value)) =
            features.columns.iter().enumerate().find_map(|(p, c)| c.values().and_then(bad).map(|value| (p, value)))
        {
            let wants = if self.kind == Kind::Bernoulli { "0 or 1" } else { "no negative value" };
            return Err(Error::data(format!("naive Bayes wants {wants}, feature {place} has `{value}`"))
                .with_hint("Spark refuses such rows too: filter them in the feature SQL"));
        }
        let mut scores = self.sums.of(features);
        if self.kind == Kind::Complement {
            for row in 0..features.rows {
                let most = scores.iter().map(|s| s[row]).fold(f64::NEG_INFINITY, f64::max);
                let sum = scores.iter().fold(0.0, |sum, s| sum + (s[row] - most).exp());
                let total = sum.ln() + most;
                scores.iter_mut().for_each(|s| s[row] -= total);
            }
        }
        Ok(scores)
    }
}

/// Normal distributions.
#[derive(Debug)]
struct Normal {
    priors: Vec<f64>,
    means: Matrix,
    variances: Vec<f64>,
    /// Of each class, the sum of the logarithms of its variances.
    logarithms: Vec<f64>,
}

impl Function for Normal {
    fn width(&self) -> Option<usize> {
        Some(self.means.columns)
    }

    fn score(&self, features: &Vectors, _offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let width = self.means.columns;
        let class = |class: usize| -> Vec<f64> {
            let mut sums = vec![0.0; features.rows];
            for (place, column) in features.columns.iter().enumerate() {
                let (mean, variance) =
                    (self.means.values[class * width + place], self.variances[class * width + place]);
                for (row, sum) in sums.iter_mut().enumerate() {
                    let distance = column.at(row) - mean;
                    *sum += distance * distance / variance;
                }
            }
            sums.into_iter().map(|sum| self.priors[class] - (sum + self.logarithms[class]) / 2.0).collect()
        };
        Ok((0..self.priors.len()).map(class).collect())
    }
}

/// NaiveBayes.
pub fn load(source: &Source<'_>) -> Result<(Box<dyn Function>, Output)> {
    let rows = source.folder.rows("data")?;
    let priors = store::vector(store::column(&rows, "pi")?, 0)?;
    let theta = store::matrix(store::column(&rows, "theta")?, 0)?;
    if priors.is_empty() || theta.rows != priors.len() {
        return Err(Error::data("NaiveBayesModel has conditionals that do not fit its classes"));
    }
    let classes = Classes::new(priors.len(), Link::Softmax, Decision::of(source.parameters)?);
    let library = source.library();
    let counts = |kind, matrix, start| Box::new(Counts { sums: Sums::product(library, matrix, start), kind });
    let function: Box<dyn Function> = match source.parameters.text("modelType").unwrap_or("multinomial") {
        "multinomial" => counts(Kind::Multinomial, theta, priors),
        "complement" => {
            let start = vec![0.0; priors.len()];
            counts(Kind::Complement, theta, start)
        }
        "bernoulli" => {
            // Of what is absent: log(1 - p), summed once; of what is present the difference.
            let absent: Vec<f64> = theta.values.iter().map(|value| (-value.exp()).ln_1p()).collect();
            let values = theta.values.iter().zip(&absent).map(|(value, absent)| value - absent).collect();
            let ones = Vectors::dense(1, vec![vec![1.0]; theta.columns]);
            let start = Sums::product(library, Matrix { values: absent, ..theta.clone() }, priors).of(&ones);
            let start = start.into_iter().flatten().collect();
            counts(Kind::Bernoulli, Matrix { values, ..theta }, start)
        }
        "gaussian" => {
            let sigma = store::matrix(store::column(&rows, "sigma")?, 0)?;
            if (sigma.rows, sigma.columns) != (theta.rows, theta.columns) {
                return Err(Error::data("NaiveBayesModel has variances that do not fit its means"));
            }
            let sum = |row: &[f64]| row.iter().fold(0.0, |sum, variance| sum + variance.ln());
            let logarithms = if sigma.columns == 0 {
                vec![0.0; sigma.rows]
            } else {
                sigma.values.chunks_exact(sigma.columns).map(sum).collect()
            };
            Box::new(Normal { priors, means: theta, variances: sigma.values, logarithms })
        }
        other => return Err(Error::invalid(format!("NaiveBayesModel has the modelType `{other}`"))),
    };
    Ok((function, Output::Classes(classes)))
}
