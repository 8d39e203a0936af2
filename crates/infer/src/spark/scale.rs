//! Stages that change values one by one.

use std::rc::Rc;

use super::explain::{Slot, without_means};
use super::frame::{Frame, Made, missing};
use super::stage::{Attribute, Invalid, Kind, Plan, Source, Step, Work};
use super::store;
use super::vectors::{Numbers, Sparsity, Vectors};
use crate::columns;
use crate::error::{Error, Result};
use arrow::datatypes::DataType;

/// Missing numbers to a constant.
#[derive(Debug)]
struct Imputer {
    surrogate: f64,
    missing: f64,
    /// Whether the surrogate is the mean of the others.
    mean: bool,
}

impl Work for Imputer {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        plan.number(0)?;
        Ok(vec![Kind::Number(Attribute::default())])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        // Spark casts the value to the column's own type.
        let surrogate = match frame.raw(&reads[0]).map(columns::value_type) {
            Some(t) if t.is_integer() => self.surrogate.trunc(),
            Some(DataType::Float32) => f64::from(self.surrogate as f32),
            _ => self.surrogate,
        };
        let fill = |value: Option<f64>| match value {
            Some(value) if value != self.missing && !(value.is_nan() && self.missing.is_nan()) => value,
            _ => surrogate,
        };
        let values = frame.numbers(&reads[0])?.iter().map(fill).collect();
        Ok(vec![Made::Numbers(Numbers::new(values))])
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        let mean = if self.mean { self.surrogate } else { 0.0 };
        Some(reads.into_iter().next()?.into_iter().map(|slot| Slot { mean, ..slot }).collect())
    }
}

/// Imputer: a step for each of its columns.
pub fn imputer(source: &Source<'_>) -> Result<Vec<Step>> {
    let rows = source.folder.rows("data")?;
    let missing = source.parameters.number("missingValue")?.unwrap_or(f64::NAN);
    let mean = source.parameters.text("strategy").unwrap_or("mean") == "mean";
    let step = |(read, make): (String, String)| {
        let value = store::numbers(store::column(&rows, &read)?)?.first().copied();
        let surrogate = value.ok_or_else(|| Error::data(format!("ImputerModel has no value for `{read}`")))?;
        Ok(source.step(read, make, Imputer { surrogate, missing, mean }))
    };
    source.pairs()?.into_iter().map(step).collect()
}

/// Numbers to the numbers of the buckets that they are in.
#[derive(Debug)]
struct Bucketizer {
    splits: Vec<f64>,
    invalid: Invalid,
}

impl Bucketizer {
    fn bucket(&self, value: f64) -> Option<f64> {
        let last = self.splits.len() - 1;
        if value.is_nan() {
            return (self.invalid == Invalid::Keep).then_some(last as f64);
        }
        if value == self.splits[last] {
            return Some((last - 1) as f64);
        }
        // Java's search: -0.0 is less than 0.0.
        match self.splits.binary_search_by(|split| split.total_cmp(&value)) {
            Ok(place) => Some(place as f64),
            Err(place) if place == 0 || place > last => None,
            Err(place) => Some((place - 1) as f64),
        }
    }
}

impl Work for Bucketizer {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        plan.number(0)?;
        Ok(vec![Kind::Number(Attribute { categories: self.splits.len() - 1, ..Attribute::default() })])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let name = &reads[0];
        let bucket = |(row, value): (usize, Option<f64>)| {
            let Some(value) = value else {
                return if self.invalid == Invalid::Skip { Err(missing(name, row, self.invalid)) } else { Ok(None) };
            };
            let hint = match self.invalid {
                Invalid::Skip if value.is_nan() => "Spark would drop the row: filter such rows in the feature SQL",
                _ => "begin the splits with -infinity and end them with infinity; NaN wants handleInvalid = \"keep\"",
            };
            let refused = || Error::data(format!("column `{name}` has the value `{value}`, which is in no bucket"));
            self.bucket(value).map(Some).ok_or_else(|| refused().with_hint(hint))
        };
        Ok(vec![Made::Numbers(frame.numbers(name)?.iter().enumerate().map(bucket).collect::<Result<_>>()?)])
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        reads.into_iter().next().map(without_means)
    }
}

/// Bucketizer, which QuantileDiscretizer is saved as too: a step for each of
/// its columns.
pub fn bucketizer(source: &Source<'_>) -> Result<Vec<Step>> {
    let (pairs, invalid) = (source.pairs()?, source.invalid()?);
    let many = source.parameters.get("splitsArray").and_then(serde_json::Value::as_array);
    let lists = match (many, source.parameters.numbers("splits")?) {
        (Some(lists), _) => {
            let list = |list: &serde_json::Value| -> Option<Vec<f64>> {
                list.as_array()?.iter().map(store::json_number).collect()
            };
            let lists: Option<Vec<Vec<f64>>> = lists.iter().map(list).collect();
            lists.ok_or_else(|| Error::data("Bucketizer has splits that are no numbers"))?
        }
        (None, Some(splits)) => vec![splits],
        (None, None) => return Err(Error::data("Bucketizer has no splits")),
    };
    let good = |splits: &Vec<f64>| splits.len() >= 3 && splits.windows(2).all(|pair| pair[0] < pair[1]);
    if lists.len() != pairs.len() || !lists.iter().all(good) {
        return Err(Error::data("Bucketizer has splits that do not fit its columns or do not increase"));
    }
    let step = |((read, make), splits)| source.step(read, make, Bucketizer { splits, invalid });
    Ok(pairs.into_iter().zip(lists).map(step).collect())
}

/// 1 above a threshold, 0 elsewhere.
#[derive(Debug)]
struct Binarizer {
    threshold: f64,
    /// Before Spark 4 a number that is null stays null.
    since_4: bool,
}

impl Work for Binarizer {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        Ok(vec![match &plan.reads[0].1 {
            Kind::Vector { width, .. } => Kind::Vector { width: *width, attributes: None },
            Kind::Raw => Kind::Raw,
            Kind::Number(_) => Kind::Number(Attribute::default()),
        }])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let above = |value: f64| f64::from(u8::from(value > self.threshold));
        if let Made::Vectors(_) = frame.get(&reads[0])? {
            // In a vector only what is known to be at most the threshold is 0.
            let kept = |value: f64| if self.threshold < 0.0 && value.is_nan() { 1.0 } else { above(value) };
            let vectors = frame.vectors(&reads[0], None)?.map(|_, value| kept(value));
            return Ok(vec![Made::Vectors(Vectors::compressed(vectors.rows, vectors.columns, self.since_4))]);
        }
        let null = self.since_4.then_some(0.0);
        let values = frame.numbers(&reads[0])?.iter().map(|value| value.map(above).or(null)).collect();
        Ok(vec![Made::Numbers(values)])
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        reads.into_iter().next().map(without_means)
    }
}

/// Binarizer: a step for each of its columns.
pub fn binarizer(source: &Source<'_>) -> Result<Vec<Step>> {
    let pairs = source.pairs()?;
    let thresholds = match source.parameters.numbers("thresholds")? {
        Some(list) => list,
        None => vec![source.number("threshold")?; pairs.len()],
    };
    if thresholds.len() != pairs.len() {
        return Err(Error::data("Binarizer has another number of thresholds than columns"));
    }
    let since_4 = source.since_4();
    let step = |((read, make), threshold)| source.step(read, make, Binarizer { threshold, since_4 });
    Ok(pairs.into_iter().zip(thresholds).map(step).collect())
}

/// `(x - shift) * scale`, place by place.
#[derive(Debug)]
struct Scaler {
    class: String,
    shift: Option<Vec<f64>>,
    scale: Option<Vec<f64>>,
    /// The means of the values before, where known: only explaining needs them.
    mean: Vec<f64>,
}

impl Work for Scaler {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        for part in [&self.shift, &self.scale].into_iter().flatten() {
            plan.fits(&self.class, part.len())?;
        }
        let width = self.shift.as_ref().or(self.scale.as_ref()).map(Vec::len);
        Ok(vec![Kind::Vector { width: plan.width(0)?.or(width), attributes: None }])
    }

    fn held(&self) -> usize {
        [&self.shift, &self.scale].into_iter().flatten().map(Vec::len).sum()
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let width = self.shift.as_ref().or(self.scale.as_ref()).map(Vec::len);
        let vectors = frame.vectors(&reads[0], width)?;
        Ok(vec![Made::Vectors(match (&self.shift, &self.scale) {
            (Some(shift), Some(scale)) => {
                let scaled = vectors.map(|place, v| (v - shift[place]) * scale[place]);
                Vectors { sparse: Sparsity::All(false), ..scaled }
            }
            (Some(shift), None) => Vectors { sparse: Sparsity::All(false), ..vectors.map(|place, v| v - shift[place]) },
            (None, Some(scale)) => vectors.map(|place, v| v * scale[place]),
            (None, None) => vectors,
        })])
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        let at = |list: &Option<Vec<f64>>, place: usize| list.as_ref().and_then(|l| l.get(place)).copied();
        let scaled = |(place, slot): (usize, Slot)| {
            let mean = self.mean.get(place).copied().unwrap_or(slot.mean);
            let mean = (mean - at(&self.shift, place).unwrap_or(0.0)) * at(&self.scale, place).unwrap_or(1.0);
            Slot { mean, ..slot }
        };
        Some(reads.into_iter().next()?.into_iter().enumerate().map(scaled).collect())
    }
}

/// StandardScaler, RobustScaler, MaxAbsScaler and ElementwiseProduct.
pub fn scaler(source: &Source<'_>) -> Result<Vec<Step>> {
    let class = source.class.to_owned();
    let flag = |name: &str| source.parameters.flag(name);
    let vector = |name: &str| -> Result<Vec<f64>> {
        let rows = source.folder.rows("data")?;
        store::vector(store::column(&rows, name)?, 0)
    };
    let inverse = |values: Vec<f64>, of_zero: f64| -> Vec<f64> {
        values.into_iter().map(|v| if v == 0.0 { of_zero } else { 1.0 / v }).collect()
    };
    let when = |wanted: bool, name: &str| wanted.then(|| vector(name)).transpose();
    let (shift, scale) = match source.class {
        "StandardScalerModel" => {
            (when(flag("withMean"), "mean")?, when(flag("withStd"), "std")?.map(|v| inverse(v, 0.0)))
        }
        "RobustScalerModel" => {
            (when(flag("withCentering"), "median")?, when(flag("withScaling"), "range")?.map(|v| inverse(v, 0.0)))
        }
        "MaxAbsScalerModel" => (None, Some(inverse(vector("maxAbs")?, 1.0))),
        _ => {
            let scale = source.parameters.get("scalingVec").and_then(store::json_vector);
            (None, Some(scale.ok_or_else(|| Error::data("ElementwiseProduct has no scalingVec"))?.values))
        }
    };
    if let (Some(shift), Some(scale)) = (&shift, &scale)
        && shift.len() != scale.len()
    {
        return Err(Error::data(format!("{class} has vectors of different widths")));
    }
    let standard = source.class == "StandardScalerModel";
    let mean = if standard { vector("mean").unwrap_or_default() } else { Vec::new() };
    source.single(Scaler { class, shift, scale, mean })
}

/// To a range, place by place; a place that was constant goes to its middle.
#[derive(Debug)]
struct MinMax {
    low: Vec<f64>,
    scale: Vec<f64>,
    min: f64,
    constant: f64,
    since_4: bool,
}

impl Work for MinMax {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        plan.fits("MinMaxScalerModel", self.low.len())?;
        Ok(Kind::plain(self.low.len()))
    }

    fn held(&self) -> usize {
        2 * self.low.len()
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let vectors = frame.vectors(&reads[0], Some(self.low.len()))?.map(|place, value| {
            if value.is_nan() {
                value
            } else if self.scale[place] != 0.0 {
                (value - self.low[place]) * self.scale[place] + self.min
            } else {
                self.constant
            }
        });
        Ok(vec![Made::Vectors(Vectors::compressed(vectors.rows, vectors.columns, self.since_4))])
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        reads.into_iter().next().map(without_means)
    }
}

/// MinMaxScaler.
pub fn min_max(source: &Source<'_>) -> Result<Vec<Step>> {
    let rows = source.folder.rows("data")?;
    let vector = |name: &str| store::vector(store::column(&rows, name)?, 0);
    let (low, high) = (vector("originalMin")?, vector("originalMax")?);
    if low.len() != high.len() {
        return Err(Error::data("MinMaxScalerModel has vectors of different widths"));
    }
    let (min, max) = (source.number("min")?, source.number("max")?);
    let part = |(low, high): (&f64, &f64)| if high - low != 0.0 { (max - min) / (high - low) } else { 0.0 };
    let scale = low.iter().zip(&high).map(part).collect();
    source.single(MinMax { low, scale, min, constant: (min + max) / 2.0, since_4: source.since_4() })
}

/// Vectors divided by their norm.
#[derive(Debug)]
struct Normalizer(f64);

impl Work for Normalizer {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        plan.width(0)?;
        Ok(plan.same())
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let vectors = frame.vectors(&reads[0], None)?;
        let mut norms = vec![0.0f64; vectors.rows];
        for column in &vectors.columns {
            let Some(values) = column.values() else { continue };
            for (norm, value) in norms.iter_mut().zip(values) {
                let size = value.abs();
                match self.0 {
                    1.0 => *norm += size,
                    2.0 => *norm += value * value,
                    f64::INFINITY => *norm = if size > *norm { size } else { *norm },
                    p => *norm += size.powf(p),
                }
            }
        }
        match self.0 {
            1.0 | f64::INFINITY => {}
            2.0 => norms.iter_mut().for_each(|norm| *norm = norm.sqrt()),
            p => norms.iter_mut().for_each(|norm| *norm = norm.powf(1.0 / p)),
        }
        let mut out = vectors.clone();
        for column in &mut out.columns {
            let Some(values) = column.values() else { continue };
            let divide = |(value, norm): (&f64, &f64)| if *norm == 0.0 { *value } else { value / norm };
            let values = values.iter().zip(&norms).map(divide).collect();
            *column = super::vectors::Column::Values(Rc::new(values));
        }
        Ok(vec![Made::Vectors(out)])
    }
}

/// Normalizer.
pub fn normalizer(source: &Source<'_>) -> Result<Vec<Step>> {
    let p = source.parameters.number("p")?.unwrap_or(2.0);
    if p.is_nan() || p < 1.0 {
        return Err(Error::data(format!("Normalizer has p = {p}")));
    }
    source.single(Normalizer(p))
}
