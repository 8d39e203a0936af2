//! Estimators whose score is a sum of products, and isotonic regression.

use serde_json::Value;

use super::explain::{self, Slot};
use super::head::{Classes, Decision, Function, Link, Output, first};
use super::stage::{MAX_WIDTH, Source};
use super::store::{self, Matrix};
use super::sums::Sums;
use super::vectors::Vectors;
use crate::error::{Error, Result};
use crate::explain::check_size;

type Loaded = (Box<dyn Function>, Output);

/// Sums, and what is made of each.
#[derive(Debug)]
struct Linear {
    sums: Sums,
    /// From the sum to the score.
    mean: Mean,
}

/// The mean of a response by its linear predictor.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mean {
    /// The sum itself.
    Identity,
    /// `exp`.
    Exponential,
    /// Of a generalized linear model.
    Response(Inverse, Family),
}

/// The inverse of a link function.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Inverse {
    Identity,
    Logit,
    Log,
    Reciprocal,
    Probit,
    ComplementaryLogLog,
    Sqrt,
    Power(f64),
}

/// Where a mean may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Gaussian,
    Binomial,
    /// Poisson, gamma, Tweedie.
    Positive,
}

impl Mean {
    fn of(self, sum: f64) -> f64 {
        match self {
            Self::Identity => sum,
            Self::Exponential => sum.exp(),
            Self::Response(inverse, family) => family.project(inverse.of(sum)),
        }
    }
}

impl Inverse {
    fn of(self, eta: f64) -> f64 {
        match self {
            Self::Identity => eta,
            Self::Logit => 1.0 / (1.0 + (-eta).exp()),
            Self::Log => eta.exp(),
            Self::Reciprocal => 1.0 / eta,
            Self::Probit => 0.5 * (1.0 + erf(eta / 2f64.sqrt())),
            Self::ComplementaryLogLog => 1.0 - (-eta.exp()).exp(),
            Self::Sqrt => eta * eta,
            Self::Power(power) => eta.powf(1.0 / power),
        }
    }
}

impl Family {
    fn project(self, mean: f64) -> f64 {
        const EPSILON: f64 = 1e-16;
        match self {
            Self::Gaussian => mean.clamp(f64::MIN, f64::MAX),
            Self::Binomial | Self::Positive if mean < EPSILON => EPSILON,
            Self::Binomial if mean > 1.0 - EPSILON => 1.0 - EPSILON,
            Self::Positive if mean == f64::INFINITY => f64::MAX,
            _ => mean,
        }
    }
}

impl Function for Linear {
    fn width(&self) -> Option<usize> {
        Some(self.sums.width)
    }

    fn score(&self, features: &Vectors, offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let mut sums = self.sums.of(features);
        if let Some(offset) = offset {
            if let Some(row) = offset.iter().position(|v| v.is_nan()) {
                return Err(Error::data(format!("the offset has no value in row {row} of a block")));
            }
            sums.iter_mut().for_each(|sums| sums.iter_mut().zip(offset).for_each(|(sum, offset)| *sum += offset));
        }
        if self.mean != Mean::Identity {
            sums.iter_mut().flatten().for_each(|sum| *sum = self.mean.of(*sum));
        }
        Ok(sums)
    }

    fn contributions(
        &self,
        features: &[Vec<f64>],
        slots: &[Slot],
        columns: usize,
        rows: usize,
    ) -> Option<Result<(usize, Vec<f64>)>> {
        if self.mean != Mean::Identity {
            return None;
        }
        let sets = self.sums.sets();
        let sets = if sets.len() == 2 { &sets[1..] } else { &sets };
        let values = || (sets.len(), explain::linear(features, sets, slots, columns, rows));
        Some(check_size(rows, columns, sets.len()).map(|()| values()))
    }
}

/// The coefficients and the intercept that most linear models have.
fn single(source: &Source<'_>, mean: Mean) -> Result<Box<dyn Function>> {
    let rows = source.folder.rows("data")?;
    let coefficients = store::stored_vector(store::column(&rows, "coefficients")?, 0)?;
    Ok(Box::new(Linear { sums: Sums::dot(source.library(), coefficients, first(&rows, "intercept")?), mean }))
}

/// LinearRegression, of either loss.
pub fn regression(source: &Source<'_>) -> Result<Loaded> {
    Ok((single(source, Mean::Identity)?, Output::Value))
}

/// AFTSurvivalRegression: the expected survival time.
pub fn survival(source: &Source<'_>) -> Result<Loaded> {
    Ok((single(source, Mean::Exponential)?, Output::Value))
}

/// LinearSVC: the threshold is one of the raw score.
pub fn machine(source: &Source<'_>) -> Result<Loaded> {
    let threshold = source.parameters.number("threshold")?.unwrap_or(0.0);
    let classes = Classes::new(2, Link::Margin, Decision::Above(threshold));
    Ok((single(source, Mean::Identity)?, Output::Classes(classes)))
}

/// GeneralizedLinearRegression.
pub fn generalized(source: &Source<'_>) -> Result<Loaded> {
    let class = source.class;
    let name = source.parameters.text("family").unwrap_or("gaussian").to_lowercase();
    let variance = source.parameters.number("variancePower")?.unwrap_or(0.0);
    let (family, usual) = match (name.as_str(), variance) {
        ("gaussian", _) | ("tweedie", 0.0) => (Family::Gaussian, Inverse::Identity),
        ("binomial", _) => (Family::Binomial, Inverse::Logit),
        ("poisson", _) | ("tweedie", 1.0) => (Family::Positive, Inverse::Log),
        ("gamma", _) | ("tweedie", 2.0) => (Family::Positive, Inverse::Reciprocal),
        ("tweedie", power) => (Family::Positive, Inverse::Power(1.0 - power)),
        (other, _) => return Err(Error::invalid(format!("{class} has the family `{other}`, which is not supported"))),
    };
    let link = if name == "tweedie" {
        match source.parameters.number("linkPower")? {
            None => usual,
            Some(0.0) => Inverse::Log,
            Some(1.0) => Inverse::Identity,
            Some(-1.0) => Inverse::Reciprocal,
            Some(0.5) => Inverse::Sqrt,
            Some(power) => Inverse::Power(power),
        }
    } else {
        match source.parameters.text("link").map(str::to_lowercase).as_deref() {
            None => usual,
            Some("identity") => Inverse::Identity,
            Some("logit") => Inverse::Logit,
            Some("log") => Inverse::Log,
            Some("inverse") => Inverse::Reciprocal,
            Some("probit") => Inverse::Probit,
            Some("cloglog") => Inverse::ComplementaryLogLog,
            Some("sqrt") => Inverse::Sqrt,
            Some(other) => {
                return Err(Error::invalid(format!("{class} has the link `{other}`, which is not supported")));
            }
        }
    };
    Ok((single(source, Mean::Response(link, family))?, Output::Value))
}

/// LogisticRegression of two classes or several.
pub fn logistic(source: &Source<'_>) -> Result<Loaded> {
    let (parameters, rows) = (source.parameters, source.folder.rows("data")?);
    let classes = first(&rows, "numClasses")?;
    let intercepts = store::vector(store::column(&rows, "interceptVector")?, 0)?;
    let matrix = store::matrix(store::column(&rows, "coefficientMatrix")?, 0)?;
    let flag = store::column(&rows, "isMultinomial")?;
    let multinomial = arrow::array::AsArray::as_boolean_opt(flag).is_some_and(|b| !b.is_empty() && b.value(0));
    let expected = if multinomial { classes } else { 1.0 };
    let fits = classes >= 2.0 && (multinomial || classes == 2.0);
    if !fits || matrix.rows as f64 != expected || intercepts.len() != matrix.rows {
        return Err(Error::data("LogisticRegressionModel has coefficients that do not fit its classes"));
    }
    let count = classes as usize;
    if multinomial {
        let classes = Classes::new(count, Link::Softmax, Decision::of(parameters)?);
        let sums = Sums::product(source.library(), matrix, intercepts);
        return Ok((Box::new(Linear { sums, mean: Mean::Identity }), Output::Classes(classes)));
    }
    // Two thresholds are one: the probability that class 1 must exceed.
    let threshold = match parameters.numbers("thresholds")?.as_deref() {
        Some([zero, one]) => 1.0 / (1.0 + zero / one),
        Some(other) => {
            return Err(Error::data(format!("LogisticRegressionModel has {} thresholds for 2 classes", other.len())));
        }
        None => parameters.number("threshold")?.unwrap_or(0.5),
    };
    let raw = if threshold == 0.0 {
        f64::NEG_INFINITY
    } else if threshold == 1.0 {
        f64::INFINITY
    } else {
        (threshold / (1.0 - threshold)).ln()
    };
    let vector = store::Vector { values: matrix.values, sparse: matrix.sparse };
    let sums = Sums::dot(source.library(), vector, intercepts[0]);
    let classes = Classes::new(2, Link::Logistic, Decision::Above(raw));
    Ok((Box::new(Linear { sums, mean: Mean::Identity }), Output::Classes(classes)))
}

/// A factorization machine of degree 2.
#[derive(Debug)]
struct Factorization {
    linear: Sums,
    factors: Matrix,
}

impl Function for Factorization {
    fn width(&self) -> Option<usize> {
        Some(self.linear.width)
    }

    fn score(&self, features: &Vectors, _offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let mut scores = self.linear.of(features);
        let rows = features.rows;
        let (mut sums, mut squares) = (vec![0.0; rows], vec![0.0; rows]);
        for factor in 0..self.factors.columns {
            sums.fill(0.0);
            squares.fill(0.0);
            for (place, column) in features.columns.iter().enumerate() {
                let Some(values) = column.values() else { continue };
                let weight = self.factors.values[place * self.factors.columns + factor];
                for (row, value) in values.iter().enumerate() {
                    if *value != 0.0 {
                        let product = weight * value;
                        squares[row] += product * product;
                        sums[row] += product;
                    }
                }
            }
            for score in &mut scores {
                for (row, score) in score.iter_mut().enumerate() {
                    *score += 0.5 * (sums[row] * sums[row] - squares[row]);
                }
            }
        }
        Ok(scores)
    }
}

/// FMClassifier and FMRegressor.
pub fn factorization(source: &Source<'_>) -> Result<Loaded> {
    let rows = source.folder.rows("data")?;
    let vector = store::stored_vector(store::column(&rows, "linear")?, 0)?;
    let factors = store::matrix(store::column(&rows, "factors")?, 0)?;
    if factors.rows != vector.values.len() {
        return Err(Error::data(format!("{} has factors that do not fit its coefficients", source.class)));
    }
    let linear = Sums::dot(source.library(), vector, first(&rows, "intercept")?);
    let function = Box::new(Factorization { linear, factors });
    if source.class == "FMRegressionModel" {
        return Ok((function, Output::Value));
    }
    let classes = Classes::new(2, Link::Sigmoid, Decision::of_margin(source.parameters)?);
    Ok((function, Output::Classes(classes)))
}

/// Points of a monotone function, straight lines between them.
#[derive(Debug)]
struct Isotonic {
    place: usize,
    boundaries: Vec<f64>,
    predictions: Vec<f64>,
}

impl Isotonic {
    fn at(&self, value: f64) -> f64 {
        let value = if value.is_nan() { f64::NAN } else { value };
        // Java's search, which finds a certain one of equal boundaries.
        let (mut low, mut end) = (0, self.boundaries.len());
        while low < end {
            let middle = (low + end - 1) / 2;
            match self.boundaries[middle].total_cmp(&value) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => end = middle,
                std::cmp::Ordering::Equal => return self.predictions[middle],
            }
        }
        if low == 0 {
            return self.predictions[0];
        }
        let Some(right) = self.boundaries.get(low) else { return self.predictions[low - 1] };
        let (left, from, to) = (self.boundaries[low - 1], self.predictions[low - 1], self.predictions[low]);
        from + (to - from) * (value - left) / (right - left)
    }
}

impl Function for Isotonic {
    fn width(&self) -> Option<usize> {
        None
    }

    fn place(&self) -> Option<usize> {
        Some(self.place)
    }

    fn score(&self, features: &Vectors, _offset: Option<&[f64]>) -> Result<Vec<Vec<f64>>> {
        let column = features.columns.get(self.place).ok_or_else(|| {
            let width = features.width();
            Error::data(format!("IsotonicRegressionModel looks at place {} of {width} features", self.place))
        })?;
        Ok(vec![(0..features.rows).map(|row| self.at(column.at(row))).collect()])
    }
}

/// IsotonicRegression.
pub fn isotonic(source: &Source<'_>) -> Result<Loaded> {
    let rows = source.folder.rows("data")?;
    let list = |name: &str| store::list(store::column(&rows, name)?, 0);
    let (boundaries, predictions) = (list("boundaries")?, list("predictions")?);
    let place = source.parameters.get("featureIndex").and_then(Value::as_u64).unwrap_or(0);
    let place = usize::try_from(place).ok().filter(|place| *place < MAX_WIDTH);
    let place = place.ok_or_else(|| Error::data("IsotonicRegressionModel has an impossible featureIndex"))?;
    let ordered = boundaries.windows(2).all(|pair| pair[0] <= pair[1]);
    if boundaries.is_empty() || boundaries.len() != predictions.len() || !ordered {
        return Err(Error::data("IsotonicRegressionModel has boundaries that do not fit its predictions"));
    }
    Ok((Box::new(Isotonic { place, boundaries, predictions }), Output::Value))
}

/// The error function by the regularized gamma function P(1/2, x²): a series
/// below 1.5, a continued fraction above, as Spark's library has it.
fn erf(x: f64) -> f64 {
    const LOG_GAMMA_OF_HALF: f64 = 0.572_364_942_924_700_1;
    if x.is_nan() {
        return x;
    }
    if x.abs() > 40.0 {
        return x.signum();
    }
    let (a, square): (f64, f64) = (0.5, x * x);
    if square == 0.0 {
        return 0.0;
    }
    let scale = (-square + a * square.ln() - LOG_GAMMA_OF_HALF).exp();
    let share = if square >= a + 1.0 {
        1.0 - scale / continued_fraction(a, square)
    } else {
        let (mut n, mut term, mut sum) = (0.0, 1.0 / a, 1.0 / a);
        while (term / sum).abs() > 1e-15 && n < 10_000.0 {
            n += 1.0;
            term *= square / (a + n);
            sum += term;
        }
        scale * sum
    };
    if x < 0.0 { -share } else { share }
}

/// `b0 + a1/(b1 + a2/(b2 + ...))` of the upper gamma function, by Lentz.
fn continued_fraction(a: f64, x: f64) -> f64 {
    let part = |n: f64| 2.0 * n + 1.0 - a + x;
    let mut value = part(0.0);
    let (mut d, mut c) = (0.0, value);
    for n in 1..10_000 {
        let n = f64::from(n);
        let (top, bottom) = (n * (a - n), part(n));
        d = 1.0 / (bottom + top * d);
        c = bottom + top / c;
        let delta: f64 = c * d;
        value *= delta;
        if (delta - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_known_values() {
        for (x, wanted) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (-1.0, -0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (50.0, 1.0),
        ] {
            assert!((erf(x) - wanted).abs() < 1e-15, "{x}: {}", erf(x));
        }
    }
}
