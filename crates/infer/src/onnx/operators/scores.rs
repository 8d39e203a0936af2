//! What becomes of the scores of a classifier or regressor of `ai.onnx.ml`.

use super::functions::Approximated;
use super::math::Number;
use crate::error::{Error, Result};

/// The last step of an operator, in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// As they are.
    None,
    /// `1 / (1 + exp(-x))`
    Logistic,
    /// Shares of one.
    Softmax,
    /// Shares of one, zero counts nothing.
    SoftmaxZero,
    /// The inverse of the normal distribution's function.
    Probit,
}

/// What a single score becomes when the classes are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    /// Stays alone.
    Not,
    /// A share and its rest.
    Rest,
    /// Scores around zero: the other class has the opposite.
    Opposite,
}

impl Transform {
    /// By its name in a file.
    pub fn named(name: Option<&str>) -> Result<Self> {
        Ok(match name.unwrap_or("NONE") {
            "NONE" => Self::None,
            "LOGISTIC" => Self::Logistic,
            "SOFTMAX" => Self::Softmax,
            "SOFTMAX_ZERO" => Self::SoftmaxZero,
            "PROBIT" => Self::Probit,
            other => return Err(Error::invalid(format!("its `post_transform` of `{other}` is not supported"))),
        })
    }

    /// Of the scores of a row, in place.
    pub fn of(self, scores: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Self::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            Self::Softmax => {
                let most = scores.iter().fold(f32::MIN, |most, v| if *v > most { *v } else { most });
                let mut sum = 0.0;
                for score in scores.iter_mut() {
                    *score = (*score - most).exp();
                    sum += *score;
                }
                scores.iter_mut().for_each(|score| *score /= sum);
            }
            Self::SoftmaxZero => {
                let most = scores.iter().fold(f32::MIN, |most, v| if *v > most { *v } else { most });
                let other = (-most).exp();
                let mut sum = 0.0;
                for score in scores.iter_mut() {
                    if score.abs() > 0.000_000_1 {
                        *score = (*score - most).exp();
                        sum += *score;
                    } else {
                        *score *= other;
                    }
                }
                scores.iter_mut().for_each(|score| *score /= sum);
            }
        }
    }

    /// Of the scores of a linear model's rows, which ONNX Runtime computes with
    /// its approximations.
    pub fn of_linear(self, mut scores: Vec<f32>, width: usize) -> Vec<f32> {
        if self == Self::Logistic {
            return Approximated::Sigmoid.of(&scores);
        }
        scores.chunks_exact_mut(width).for_each(|row| self.of(row));
        scores
    }

    /// Puts a row's scores at the end of `all`. A single one may get a second.
    pub fn write(self, scores: &mut [f32], second: Second, all: &mut Vec<f32>) {
        let [score] = *scores else {
            self.of(scores);
            all.extend_from_slice(scores);
            return;
        };
        match second {
            _ if self == Self::Probit => all.push(probit(score)),
            Second::Not => all.push(score),
            Second::Rest => all.extend([1.0 - score, score]),
            _ if self == Self::Logistic => all.extend([logistic(-score), logistic(score)]),
            Second::Opposite => all.extend([-score, score]),
        }
    }
}

/// A score in either precision.
pub trait Score: Number {
    /// In single precision.
    fn single(self) -> f32;
}

impl Score for f32 {
    fn single(self) -> f32 {
        self
    }
}

impl Score for f64 {
    fn single(self) -> f32 {
        self as f32
    }
}

/// As [`Transform::write`], for scores that are rounded to single precision
/// only now. `work` is room for them.
pub fn write<T: Score>(transform: Transform, scores: &[T], second: Second, work: &mut Vec<f32>, all: &mut Vec<f32>) {
    if let ([score], Transform::None, Second::Rest) = (scores, transform, second) {
        all.extend([T::ONE.sub(*score).single(), score.single()]);
        return;
    }
    work.clear();
    work.extend(scores.iter().map(|score| score.single()));
    transform.write(work, second, all);
}

/// Stable on both sides of zero.
pub fn logistic(value: f32) -> f32 {
    let share = 1.0 / (1.0 + (-value.abs()).exp());
    if value < 0.0 { 1.0 - share } else { share }
}

#[expect(clippy::approx_constant, reason = "ONNX Runtime's own constant, of six digits")]
fn probit(value: f32) -> f32 {
    let value = 2.0 * value - 1.0;
    let sign = if value < 0.0 { -1.0f32 } else { 1.0 };
    let log = ((1.0 - value) * (1.0 + value)).ln();
    let v = 2.0 / (3.141_59 * 0.147) + 0.5 * log;
    let v2 = 1.0 / 0.147 * log;
    std::f32::consts::SQRT_2 * (sign * (-v + (v * v - v2).sqrt()).sqrt())
}
