//! Contributions, and the few that matter most in words.

use std::fmt;
use std::sync::Arc;

use arrow::array::StringBuilder;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, ListArray, ListBuilder, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::record_batch::RecordBatch;

use crate::columns;
use crate::error::{Error, Result};
use crate::model::{Description, Input, Predictions};

/// What every feature added to the raw score of every row.
///
/// Units are those of the raw score: log-odds for a binary logistic objective,
/// the predicted value itself for a plain regression, a probability for
/// Spark's forests and single trees. They add up: the values of a row and
/// output, bias included, sum to its raw score, as far as rounding allows.
#[derive(Debug, Clone)]
pub struct Contributions {
    /// The columns, in the order of the model's signature.
    pub features: Arc<[String]>,
    /// Raw scores of a row: the classes of a multi-class model, else one. Of
    /// two classes it is the positive one's.
    pub outputs: usize,
    /// For every row and output a value a feature, then the bias: what the
    /// model expects of a row it knows nothing of.
    pub values: Vec<f64>,
    /// The rows' own values, a column a feature.
    shown: Vec<Shown>,
}

/// One reason for a row's score.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// The feature's name.
    pub feature: String,
    /// What the row has there.
    pub value: ReasonValue,
    /// What it added to the raw score, in its units; never zero.
    pub contribution: f64,
}

/// A row's value of a feature.
#[derive(Debug, Clone, PartialEq)]
pub enum ReasonValue {
    /// Null or NaN.
    Missing,
    /// A number.
    Number(f64),
    /// A boolean.
    Flag(bool),
    /// A label.
    Label(String),
}

#[derive(Debug, Clone)]
enum Shown {
    Numbers(Float64Array),
    Flags(BooleanArray),
    Labels(StringArray),
}

impl Contributions {
    /// The contributions to the rows of `batch`, whose columns `inputs` they
    /// are for.
    pub(crate) fn new(batch: &RecordBatch, inputs: &[Input], outputs: usize, values: Vec<f64>) -> Result<Self> {
        debug_assert_eq!(values.len(), batch.num_rows() * outputs * (inputs.len() + 1));
        let shown = inputs.iter().map(|input| Shown::new(columns::find(batch, &input.name, inputs)?, &input.name));
        let shown = shown.collect::<Result<_>>()?;
        let features = inputs.iter().map(|input| input.name.clone()).collect();
        Ok(Self { features, outputs, values, shown })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.outputs * (self.features.len() + 1)).unwrap_or(0)
    }

    /// The values of a row and output: one a feature, then the bias.
    ///
    /// # Panics
    /// When there is no such row or output.
    pub fn of(&self, row: usize, output: usize) -> &[f64] {
        assert!(output < self.outputs, "output {output} of {}", self.outputs);
        let width = self.features.len() + 1;
        let from = (row * self.outputs + output) * width;
        &self.values[from..from + width]
    }

    /// The `k` features that moved the raw score of a row and output most, the
    /// largest first; of equals the first. One that moved nothing is no reason.
    ///
    /// # Panics
    /// When there is no such row or output.
    pub fn top(&self, k: usize, row: usize, output: usize) -> Vec<Reason> {
        let values = &self.of(row, output)[..self.features.len()];
        let mut order: Vec<usize> = (0..values.len()).filter(|at| values[*at].abs() > 0.0).collect();
        order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
        order.truncate(k);
        let reason = |at: usize| Reason {
            feature: self.features[at].clone(),
            value: self.shown[at].value(row),
            contribution: values[at],
        };
        order.into_iter().map(reason).collect()
    }
}

/// The top reasons of every row in words, a list a row: see [`Reason::words`].
/// Of a classifier's several classes they are those for the one it predicted.
///
/// # Panics
/// When the predictions are of other rows.
pub fn top_reasons(
    model: &Description,
    contributions: &Contributions,
    predictions: &Predictions,
    k: usize,
    score: &str,
) -> ListArray {
    let last = contributions.outputs.saturating_sub(1);
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..contributions.rows() {
        let class = if model.labels.is_empty() { 0 } else { predictions.prediction.value(row) as usize };
        for reason in contributions.top(k, row, class.min(last)) {
            lists.values().append_value(reason.words(score));
        }
        lists.append(true);
    }
    lists.finish()
}

impl Reason {
    /// Whether it makes the raw score larger.
    pub fn raises(&self) -> bool {
        self.contribution > 0.0
    }

    /// A sentence such as `attendance_rate_7d is 0.41 (raises the risk)`, where
    /// `score` is the word for what is scored, here `risk`. Numbers have three
    /// significant digits, or all those before the point.
    pub fn words(&self, score: &str) -> String {
        let direction = if self.raises() { "raises" } else { "lowers" };
        format!("{} is {} ({direction} the {score})", self.feature, self.value)
    }
}

impl fmt::Display for ReasonValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Label(label) if label.is_empty() => f.write_str("empty"),
            Self::Label(label) => f.write_str(label),
            Self::Number(number) => f.write_str(&rounded(*number)),
        }
    }
}

/// A number as a person would write it.
fn rounded(number: f64) -> String {
    let size = number.abs();
    if number.is_infinite() {
        return if number > 0.0 { "infinite".into() } else { "minus infinite".into() };
    }
    if size >= 1e15 || size > 0.0 && size < 1e-6 {
        return format!("{number:.2e}");
    }
    if number.fract() == 0.0 {
        return format!("{}", number + 0.0);
    }
    let decimals = (2.0 - size.log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{number:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

impl Shown {
    fn new(column: &ArrayRef, name: &str) -> Result<Self> {
        let kind = columns::value_type(column).clone();
        let plain = |to: &DataType| {
            cast(column, to).map_err(|e| Error::invalid(format!("column `{name}` cannot be shown: {e}")))
        };
        if kind.is_nested() {
            return Err(Error::invalid(format!(
                "column `{name}` is a vector, of which a reason cannot tell the value"
            ))
            .with_hint("give the model its features as columns, with a VectorAssembler as its first stage"));
        }
        Ok(match kind {
            DataType::Boolean => Self::Flags(plain(&DataType::Boolean)?.as_boolean().clone()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Self::Labels(plain(&DataType::Utf8)?.as_string::<i32>().clone())
            }
            _ => Self::Numbers(plain(&DataType::Float64)?.as_primitive::<Float64Type>().clone()),
        })
    }

    fn value(&self, row: usize) -> ReasonValue {
        let known = |array: &dyn Array| row < array.len() && array.is_valid(row);
        match self {
            Self::Numbers(numbers) if known(numbers) && !numbers.value(row).is_nan() => {
                ReasonValue::Number(numbers.value(row))
            }
            Self::Flags(flags) if known(flags) => ReasonValue::Flag(flags.value(row)),
            Self::Labels(labels) if known(labels) => ReasonValue::Label(labels.value(row).to_owned()),
            _ => ReasonValue::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InputKind;

    fn sample() -> Contributions {
        let number: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.412_345), None, Some(f64::NAN)]));
        let label: ArrayRef = Arc::new(StringArray::from(vec![Some("Batu"), Some(""), None]));
        let flag: ArrayRef = Arc::new(BooleanArray::from(vec![true, false, true]));
        let batch = RecordBatch::try_from_iter([("rate", number), ("town", label), ("active", flag)]).unwrap();
        let input = |name: &str| Input { name: name.into(), kind: InputKind::Numeric };
        let values = vec![0.5, -0.7, 0.0, 9.0, -1.0, 1.0, 2.0, 9.0, 0.1, 0.2, f64::NAN, 9.0];
        Contributions::new(&batch, &[input("rate"), input("town"), input("active")], 1, values).unwrap()
    }

    #[test]
    fn reasons_come_largest_first_and_what_moved_nothing_is_none() {
        let found: Vec<Vec<String>> =
            (0..3).map(|row| sample().top(3, row, 0).iter().map(|reason| reason.words("risk")).collect()).collect();
        assert_eq!(found[0], ["town is Batu (lowers the risk)", "rate is 0.412 (raises the risk)"]);
        assert_eq!(
            found[1],
            [
                "active is false (raises the risk)",
                "rate is missing (lowers the risk)",
                "town is empty (raises the risk)"
            ]
        );
        assert_eq!(found[2], ["town is missing (raises the risk)", "rate is missing (raises the risk)"]);
        assert_eq!(sample().top(1, 1, 0).len(), 1);
    }

    #[test]
    fn the_list_column_has_a_list_a_row() {
        let lists = top_reasons(&Description::default(), &sample(), &Predictions::plain(vec![0.0; 3]), 2, "score");
        assert_eq!((lists.len(), lists.value_length(0), lists.value_length(1)), (3, 2, 2));
        assert_eq!(lists.value(1).as_string::<i32>().value(0), "active is false (raises the score)");
    }

    #[test]
    fn numbers_are_rounded_as_a_person_would() {
        let cases = [
            (0.41, "0.41"),
            (2.34567, "2.35"),
            (61.25, "61.2"),
            (1234.56, "1235"),
            (-0.5, "-0.5"),
            (-0.0, "0"),
            (20_260_101.0, "20260101"),
            (0.000_123_4, "0.000123"),
            (9.999, "10"),
            (1e-9, "1.00e-9"),
            (4.2e20, "4.20e20"),
            (f64::NEG_INFINITY, "minus infinite"),
        ];
        for (number, wanted) in cases {
            assert_eq!(rounded(number), wanted);
        }
    }
}
