//! Stages about labels and categories.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use super::explain::{Slot, without_means};
use super::frame::{Frame, Made, unseen};
use super::stage::{Attribute, Invalid, Kind, MAX_WIDTH, Plan, Source, Step, Work};
use super::store::{self, Folder};
use super::vectors::{Column, Numbers, Sparsity, Vectors};
use crate::columns;
use crate::error::{Error, Result};
use crate::model::InputKind;

/// Labels to their numbers.
#[derive(Debug)]
struct Indexer {
    labels: Vec<String>,
    numbers: HashMap<String, u32>,
    /// The labels that a column of doubles can have: Spark indexes the text of
    /// a number, so what is compared is the number of the text.
    doubles: HashMap<u64, u32>,
    /// The same in single precision, widened.
    singles: HashMap<u64, u32>,
    invalid: Invalid,
}

impl Indexer {
    fn new(labels: Vec<String>, invalid: Invalid) -> Self {
        // Java writes a finite number of a floating type with a point.
        let floats = || {
            let float = |l: &str| l.contains('.') || matches!(l, "NaN" | "Infinity" | "-Infinity");
            labels.iter().zip(0u32..).filter(move |(l, _)| float(l))
        };
        let doubles = floats().filter_map(|(l, n)| l.parse::<f64>().ok().map(|v| (v.to_bits(), n))).collect();
        let singles =
            floats().filter_map(|(l, n)| l.parse::<f32>().ok().map(|v| (f64::from(v).to_bits(), n))).collect();
        let numbers = labels.iter().cloned().zip(0u32..).collect();
        Self { labels, numbers, doubles, singles, invalid }
    }

    fn number(&self, name: &str, known: Option<&u32>, shown: impl Fn() -> Option<String>) -> Result<f64> {
        match known {
            Some(number) => Ok(f64::from(*number)),
            None if self.invalid == Invalid::Keep => Ok(self.labels.len() as f64),
            None => Err(unseen(name, shown().as_deref(), self.invalid)),
        }
    }

    fn floats(&self, name: &str, known: &HashMap<u64, u32>, values: &Numbers) -> Result<Vec<f64>> {
        let canonical = |v: f64| if v.is_nan() { f64::NAN } else { v };
        let number = |v: Option<f64>| {
            let found = v.and_then(|v| known.get(&canonical(v).to_bits()));
            self.number(name, found, || v.map(|v| v.to_string()))
        };
        values.iter().map(number).collect()
    }
}

impl Work for Indexer {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        plan.number(0)?;
        let mut labels = self.labels.clone();
        if self.invalid == Invalid::Keep {
            labels.push("__unknown".into());
        }
        let categories = labels.len();
        Ok(vec![Kind::Number(Attribute { name: None, categories, labels: Some(labels.into()) })])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let name = reads[0].as_str();
        let numbers = match (frame.raw(name), frame.get(name)?) {
            (None, Made::Numbers(numbers)) => self.floats(name, &self.doubles, &numbers)?,
            (None, _) => return Err(Error::data(format!("column `{name}` holds vectors where labels were expected"))),
            (Some(source), _) => {
                let wrong = || columns::wrong(name, "labels", source.data_type());
                let floats = match columns::value_type(source) {
                    DataType::Float64 => Some(&self.doubles),
                    DataType::Float32 => Some(&self.singles),
                    DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => None,
                    DataType::Null | DataType::Boolean => None,
                    t if t.is_integer() => None,
                    _ => return Err(wrong()),
                };
                if let Some(known) = floats {
                    let plain = cast(source, &DataType::Float64).map_err(|_| wrong())?;
                    let values: Numbers = plain.as_primitive::<Float64Type>().iter().collect();
                    self.floats(name, known, &values)?
                } else {
                    let plain = cast(source, &DataType::Utf8).map_err(|_| wrong())?;
                    let number = |l: Option<&str>| {
                        self.number(name, l.and_then(|l| self.numbers.get(l)), || l.map(str::to_owned))
                    };
                    plain.as_string::<i32>().iter().map(number).collect::<Result<_>>()?
                }
            }
        };
        Ok(vec![Made::Numbers(Numbers::new(numbers))])
    }

    fn labels(&self) -> Option<&[String]> {
        Some(&self.labels)
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        reads.into_iter().next().map(without_means)
    }
}

/// StringIndexer: a step for each of its columns.
pub fn indexer(source: &Source<'_>) -> Result<Vec<Step>> {
    let (pairs, lists, invalid) = (source.pairs()?, label_lists(source.folder)?, source.invalid()?);
    if lists.len() != pairs.len() {
        return Err(Error::data("StringIndexerModel has another number of label lists than columns"));
    }
    let step = |((read, make), labels): ((String, String), Vec<String>)| {
        source.many(vec![read], InputKind::Categorical, make, Indexer::new(labels, invalid))
    };
    Ok(pairs.into_iter().zip(lists).map(step).collect())
}

/// The label lists of a StringIndexer: one list per column, before Spark 3 one.
pub fn label_lists(folder: &Folder<'_>) -> Result<Vec<Vec<String>>> {
    let rows = folder.rows("data")?;
    let Some(nested) = rows.column_by_name("labelsArray") else {
        return Ok(vec![store::strings(store::column(&rows, "labels")?, 0)?]);
    };
    let outer: Option<&ListArray> = nested.as_list_opt();
    let inner = outer.filter(|l| !l.is_empty()).map(|l| l.value(0));
    let inner = inner.ok_or_else(|| Error::data("StringIndexerModel has no labels"))?;
    (0..inner.len()).map(|i| store::strings(&inner, i)).collect()
}

/// Numbers back to their labels.
#[derive(Debug)]
struct Labels(Option<Vec<String>>);

impl Work for Labels {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        plan.number(0)?;
        if self.0.is_none() {
            let known = match &plan.reads[0].1 {
                Kind::Number(attribute) => attribute.labels.as_ref().map(|l| l.to_vec()),
                _ => None,
            };
            let name = plan.reads[0].0;
            let known = known.ok_or_else(|| Error::invalid(format!("IndexToString has no labels for `{name}`")))?;
            self.0 = Some(known);
        }
        Ok(vec![Kind::Raw])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let labels = self.0.as_deref().unwrap_or_default();
        let label = |value: Option<f64>| {
            // Spark cuts off the fraction.
            let place = value.filter(|v| *v >= 0.0).map(|v| v as usize);
            let found = place.and_then(|place| labels.get(place));
            let shown = value.map(|v| v.to_string());
            found.map(Some).ok_or_else(|| unseen(&reads[0], shown.as_deref(), Invalid::Error))
        };
        let labels = frame.numbers(&reads[0])?.iter().map(label).collect::<Result<StringArray>>()?;
        Ok(vec![Made::Raw(Arc::new(labels) as ArrayRef)])
    }
}

/// IndexToString before the estimator.
pub fn index_to_string(source: &Source<'_>) -> Result<Vec<Step>> {
    source.single(Labels(source.parameters.texts("labels")?.filter(|labels| !labels.is_empty())))
}

/// Numbers to one-hot vectors.
#[derive(Debug)]
struct OneHot {
    /// Categories it was fitted on.
    size: u32,
    width: usize,
    drop_last: bool,
    invalid: Invalid,
}

impl Work for OneHot {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        plan.number(0)?;
        if !plan.attributes {
            return Ok(Kind::plain(self.width));
        }
        let known = match &plan.reads[0].1 {
            Kind::Number(Attribute { labels: Some(labels), .. }) => labels.to_vec(),
            _ => (0..self.size).map(|place| place.to_string()).collect(),
        };
        let keep = self.invalid == Invalid::Keep;
        let mut names = known;
        match (self.drop_last, keep) {
            (true, false) => names.truncate(names.len().saturating_sub(1)),
            (false, true) => names.push("invalidValues".into()),
            _ => {}
        }
        let fits = names.len() == self.width;
        let attribute = |name: String| Attribute { name: Some(name), ..Attribute::default() };
        let attributes: Rc<[Attribute]> = names.into_iter().map(attribute).collect();
        Ok(vec![Kind::Vector { width: Some(self.width), attributes: fits.then_some(attributes) }])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let values = frame.numbers(&reads[0])?;
        let rows = frame.rows();
        let mut columns: Vec<Option<Vec<f64>>> = vec![None; self.width];
        let mut nulls = vec![false; rows];
        for (row, value) in values.iter().enumerate() {
            let place = match value {
                None => {
                    nulls[row] = true;
                    continue;
                }
                Some(value) if value >= 0.0 && value < f64::from(self.size) => value as usize,
                Some(_) if self.invalid == Invalid::Keep => self.size as usize,
                Some(value) => return Err(unseen(&reads[0], Some(&value.to_string()), self.invalid)),
            };
            if let Some(column) = columns.get_mut(place) {
                column.get_or_insert_with(|| vec![0.0; rows])[row] = 1.0;
            }
        }
        let some = nulls.contains(&true);
        let column = |values: Option<Vec<f64>>| {
            if !some {
                return values.map_or(Column::Zero, Column::new);
            }
            let mut values = values.unwrap_or_else(|| vec![0.0; rows]);
            values.iter_mut().zip(&nulls).filter(|(_, null)| **null).for_each(|(value, _)| *value = f64::NAN);
            Column::new(values)
        };
        let columns = columns.into_iter().map(column).collect();
        let nulls = some.then(|| Rc::new(nulls.clone()));
        Ok(vec![Made::Vectors(Vectors { rows, columns, sparse: Sparsity::All(true), nulls })])
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        let slot = *reads.first()?.first()?;
        Some(vec![Slot { mean: 0.0, ..slot }; self.width])
    }
}

/// OneHotEncoder: a step for each of its columns.
pub fn one_hot(source: &Source<'_>) -> Result<Vec<Step>> {
    let rows = source.folder.rows("data")?;
    let sizes = store::list(store::column(&rows, "categorySizes")?, 0)?;
    let (pairs, invalid) = (source.pairs()?, source.invalid()?);
    if sizes.len() != pairs.len() || sizes.iter().any(|s| !(*s >= 0.0 && *s < MAX_WIDTH as f64)) {
        return Err(Error::data("OneHotEncoderModel has category sizes that do not fit its columns"));
    }
    let drop_last = source.parameters.flag("dropLast");
    let keep = usize::from(invalid == Invalid::Keep);
    let step = |((read, make), size): ((String, String), f64)| {
        let width = (size as usize + keep).saturating_sub(usize::from(drop_last));
        source.step(read, make, OneHot { size: size as u32, width, drop_last, invalid })
    };
    Ok(pairs.into_iter().zip(sizes).map(step).collect())
}

/// Some places of a vector to category numbers.
#[derive(Debug)]
struct VectorIndexer {
    width: usize,
    /// By place: the values' bits, 0 without its sign.
    categories: HashMap<usize, HashMap<u64, f64>>,
    invalid: Invalid,
}

impl Work for VectorIndexer {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        plan.fits("VectorIndexerModel", self.width)?;
        let width = Some(self.width);
        let keep = self.invalid == Invalid::Keep;
        let known = match &plan.reads[0].1 {
            Kind::Vector { attributes: Some(attributes), .. } => attributes.to_vec(),
            _ => vec![Attribute::default(); if plan.attributes { self.width } else { 0 }],
        };
        let change = |(place, attribute): (usize, Attribute)| match self.categories.get(&place) {
            None => attribute,
            // Two categories are binary, which Spark takes for a number.
            Some(map) if map.len() == 2 && !keep => Attribute { name: attribute.name, ..Attribute::default() },
            Some(map) => Attribute { name: attribute.name, categories: map.len() + usize::from(keep), labels: None },
        };
        let attributes: Rc<[Attribute]> = known.into_iter().enumerate().map(change).collect();
        Ok(vec![Kind::Vector { width, attributes: plan.attributes.then_some(attributes) }])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let mut vectors = frame.vectors(&reads[0], Some(self.width))?;
        for (place, categories) in &self.categories {
            let mut values = Vec::with_capacity(vectors.rows);
            for row in 0..vectors.rows {
                let value = vectors.columns[*place].at(row);
                // A zero that is not stored stays one.
                if value == 0.0 && vectors.sparse.at(row) {
                    values.push(0.0);
                    continue;
                }
                let known = categories.get(&bits(value)).filter(|_| !value.is_nan());
                values.push(match known {
                    Some(number) => *number,
                    None if self.invalid == Invalid::Keep => categories.len() as f64,
                    None => return Err(unseen(&reads[0], Some(&value.to_string()), self.invalid)),
                });
            }
            vectors.columns[*place] = Column::new(values);
        }
        Ok(vec![Made::Vectors(vectors)])
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        let mut slots = reads.into_iter().next()?;
        for place in self.categories.keys() {
            slots.get_mut(*place)?.mean = 0.0;
        }
        Some(slots)
    }
}

/// The bits of a number; both zeros are the same number.
fn bits(value: f64) -> u64 {
    if value == 0.0 { 0 } else { value.to_bits() }
}

/// VectorIndexer.
pub fn vector_indexer(source: &Source<'_>) -> Result<Vec<Step>> {
    let rows = source.folder.rows("data")?;
    let width = store::integers(store::column(&rows, "numFeatures")?)?.first().copied().unwrap_or(-1);
    let width = usize::try_from(width).ok().filter(|w| *w <= MAX_WIDTH);
    let width = width.ok_or_else(|| Error::data("VectorIndexerModel has an impossible number of features"))?;
    let mut categories = HashMap::new();
    for (place, map) in store::categories(store::column(&rows, "categoryMaps")?)? {
        if place >= width {
            return Err(Error::data(format!("VectorIndexerModel has categories of feature {place} of {width}")));
        }
        categories.insert(place, map.into_iter().map(|(value, number)| (bits(value), number)).collect());
    }
    source.single(VectorIndexer { width, categories, invalid: source.invalid()? })
}

/// Columns of any kind to places found by a hash of their names and values.
#[derive(Debug)]
struct Hasher {
    width: usize,
    /// Numbers to be taken for labels.
    categorical: Vec<bool>,
}

impl Hasher {
    fn place(&self, term: &str) -> usize {
        (murmur3(term.as_bytes()) as i64).rem_euclid(self.width as i64) as usize
    }
}

impl Work for Hasher {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        (0..plan.reads.len()).try_for_each(|place| plan.number(place))?;
        Ok(Kind::plain(self.width))
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let rows = frame.rows();
        let mut columns: HashMap<usize, Vec<f64>> = HashMap::new();
        let mut add = |place: usize, row: usize, value: f64| {
            columns.entry(place).or_insert_with(|| vec![0.0; rows])[row] += value;
        };
        for (name, categorical) in reads.iter().zip(&self.categorical) {
            let source = frame.raw(name);
            let text = source.is_some_and(|s| {
                !columns::value_type(s).is_numeric() || (*categorical && columns::value_type(s).is_integer())
            });
            match source.filter(|_| text) {
                Some(source) => {
                    let wrong = || columns::wrong(name, "numbers, labels or booleans", source.data_type());
                    match columns::value_type(source) {
                        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {}
                        DataType::Boolean | DataType::Null => {}
                        t if t.is_integer() => {}
                        _ => return Err(wrong()),
                    }
                    let plain = cast(source, &DataType::Utf8).map_err(|_| wrong())?;
                    for (row, label) in plain.as_string::<i32>().iter().enumerate() {
                        if let Some(label) = label {
                            add(self.place(&format!("{name}={label}")), row, 1.0);
                        }
                    }
                }
                None if *categorical => {
                    return Err(Error::invalid(format!(
                        "the column `{name}` of fractions as categories is not supported"
                    ))
                    .with_hint("cast the column to text or to whole numbers before the FeatureHasher"));
                }
                None => {
                    let place = self.place(name);
                    for (row, value) in frame.numbers(name)?.iter().enumerate() {
                        if let Some(value) = value {
                            add(place, row, value);
                        }
                    }
                }
            }
        }
        let mut all = vec![Column::Zero; self.width];
        columns.into_iter().for_each(|(place, values)| all[place] = Column::new(values));
        Ok(vec![Made::Vectors(Vectors { rows, columns: all, sparse: Sparsity::All(true), nulls: None })])
    }
}

/// FeatureHasher.
pub fn hasher(source: &Source<'_>) -> Result<Vec<Step>> {
    let width = source.parameters.number("numFeatures")?.unwrap_or(262_144.0);
    if !(width >= 1.0 && width <= MAX_WIDTH as f64 && width.fract() == 0.0) {
        return Err(Error::invalid(format!("FeatureHasher makes vectors of {width} values, which is not supported")));
    }
    let reads = source.parameters.columns("inputCols", "inputCol")?;
    let known = source.parameters.texts("categoricalCols")?.unwrap_or_default();
    let categorical = reads.iter().map(|name| known.contains(name)).collect();
    let work = Hasher { width: width as usize, categorical };
    Ok(vec![source.many(reads, InputKind::Categorical, source.text("outputCol")?, work)])
}

/// MurmurHash3 of 32 bits with the seed 42.
fn murmur3(bytes: &[u8]) -> i32 {
    let mix = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = 42u32;
    let chunks = bytes.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        let word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        hash = (hash ^ mix(word)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let tail = rest.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
    hash ^= mix(tail);
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    (hash ^ (hash >> 16)) as i32
}
