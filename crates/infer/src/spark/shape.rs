//! Stages that put vectors together, choose from them or combine their places.

use std::collections::HashMap;
use std::f64::consts::PI;

use super::explain::Slot;
use super::frame::{Frame, Made, missing, unseen};
use super::stage::{Attribute, Invalid, Kind, MAX_WIDTH, Plan, Source, Step, Work};
use super::store::{self, Matrix};
use super::sums::Sums;
use super::vectors::{Column, Sparsity, Vectors};
use crate::error::{Error, Result};
use crate::model::InputKind;

/// Terms of a PolynomialExpansion at most.
const MAX_TERMS: usize = 1 << 17;

/// Values of a DCT at most: it is computed term by term.
const MAX_COSINE: usize = 2048;

/// Columns side by side.
#[derive(Debug)]
struct Assembler {
    invalid: Invalid,
    since_4: bool,
}

impl Work for Assembler {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        let width = plan.reads.iter().map(|(_, kind)| kind.values()).sum::<usize>();
        if width > MAX_WIDTH {
            return Err(Error::invalid(format!("`{}` has {width} values, which is too wide", plan.makes[0])));
        }
        let known = plan.reads.iter().all(|(_, kind)| !matches!(kind, Kind::Vector { width: None, .. }));
        if !plan.attributes {
            return Ok(vec![Kind::Vector { width: known.then_some(width), attributes: None }]);
        }
        let mut all: Vec<Attribute> = Vec::with_capacity(width);
        for (name, kind) in &plan.reads {
            match kind {
                Kind::Raw => all.push(Attribute { name: Some((*name).to_owned()), ..Attribute::default() }),
                Kind::Number(attribute) => {
                    all.push(Attribute { name: Some((*name).to_owned()), ..attribute.clone() });
                }
                Kind::Vector { width, attributes } => {
                    for place in 0..width.unwrap_or(0) {
                        let inner = attributes.as_ref().map(|a| a[place].clone()).unwrap_or_default();
                        let part = inner.name.clone().unwrap_or_else(|| place.to_string());
                        all.push(Attribute { name: Some(format!("{name}_{part}")), ..inner });
                    }
                }
            }
        }
        Ok(vec![Kind::Vector { width: known.then_some(width), attributes: known.then(|| all.into()) }])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let mut out: Vec<Column> = Vec::new();
        for name in reads {
            match frame.get(name)? {
                Made::Vectors(vectors) => {
                    // A vector from the rows would make the width unknown.
                    if frame.raw(name).is_some() {
                        return Err(Error::invalid(format!(
                            "column `{name}` holds vectors where numbers were expected"
                        ))
                        .with_hint("vectors of the rows' own can be the model's features, not a part of them"));
                    }
                    if let Some(nulls) = vectors.nulls.as_ref().filter(|_| self.invalid != Invalid::Keep)
                        && let Some(row) = (0..vectors.rows).find(|row| nulls[*row])
                    {
                        return Err(missing(name, row, self.invalid));
                    }
                    // NaN inside a vector is passed on, whatever is said of numbers.
                    out.extend(vectors.columns.iter().cloned());
                }
                _ => {
                    let numbers = frame.numbers(name)?;
                    if self.invalid != Invalid::Keep
                        && let Some(row) = numbers.values.iter().position(|v| v.is_nan())
                    {
                        return Err(missing(name, row, self.invalid));
                    }
                    out.push(Column::Values(numbers.values));
                }
            }
        }
        Ok(vec![Made::Vectors(Vectors::compressed(frame.rows(), out, self.since_4))])
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        Some(reads.into_iter().flatten().collect())
    }
}

/// VectorAssembler.
pub fn assembler(source: &Source<'_>) -> Result<Vec<Step>> {
    let reads = source.parameters.columns("inputCols", "inputCol")?;
    let work = Assembler { invalid: source.invalid()?, since_4: source.since_4() };
    Ok(vec![source.many(reads, InputKind::Numeric, source.text("outputCol")?, work)])
}

/// Some places of a vector.
#[derive(Debug)]
struct Selector {
    class: String,
    places: Vec<usize>,
    names: Vec<String>,
}

impl Work for Selector {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        let width = plan.width(0)?;
        let known = match &plan.reads[0].1 {
            Kind::Vector { attributes, .. } => attributes.clone(),
            _ => None,
        };
        let (class, read) = (&self.class, plan.reads[0].0);
        for name in std::mem::take(&mut self.names) {
            let place = known.as_ref().and_then(|a| a.iter().position(|a| a.name.as_ref() == Some(&name)));
            let place = place.ok_or_else(|| Error::data(format!("{class} wants `{name}`, which `{read}` has not")))?;
            self.places.push(place);
        }
        let most = self.places.iter().max().copied().unwrap_or(0);
        if let Some(width) = width.filter(|width| most >= *width) {
            return Err(Error::data(format!("{class} wants place {most} of `{read}`, which has {width}")));
        }
        let attributes = known.map(|a| self.places.iter().map(|place| a[*place].clone()).collect());
        Ok(vec![Kind::Vector { width: Some(self.places.len()), attributes }])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let vectors = frame.vectors(&reads[0], None)?;
        let pick = |place: &usize| vectors.columns.get(*place).cloned();
        let columns: Option<Vec<Column>> = self.places.iter().map(pick).collect();
        let columns = columns.ok_or_else(|| {
            let width = vectors.width();
            Error::data(format!("column `{}` has vectors of {width} values, which are too few", reads[0]))
        })?;
        Ok(vec![Made::Vectors(Vectors { columns, ..vectors })])
    }

    fn slots(&self, reads: Vec<Vec<Slot>>) -> Option<Vec<Slot>> {
        let slots = reads.first()?;
        self.places.iter().map(|place| slots.get(*place).copied()).collect()
    }
}

/// VectorSlicer and the selectors of features.
pub fn selector(source: &Source<'_>) -> Result<Vec<Step>> {
    let class = source.class.to_owned();
    let (numbers, names) = if class == "VectorSlicer" {
        let names = source.parameters.texts("names")?.unwrap_or_default();
        (source.parameters.numbers("indices")?.unwrap_or_default(), names)
    } else {
        let rows = source.folder.rows("data")?;
        let mut places = store::list(store::column(&rows, "selectedFeatures")?, 0)?;
        places.sort_by(f64::total_cmp);
        (places, Vec::new())
    };
    let place = |n: &f64| (*n >= 0.0 && *n < MAX_WIDTH as f64 && n.fract() == 0.0).then_some(*n as usize);
    let places: Option<Vec<usize>> = numbers.iter().map(place).collect();
    let places = places.ok_or_else(|| Error::data(format!("{class} has an impossible place")))?;
    let column = if source.parameters.text("inputCol").is_some() { "inputCol" } else { "featuresCol" };
    let work = Selector { class, places, names };
    Ok(vec![source.step(source.text(column)?, source.text("outputCol")?, work)])
}

/// A product with a matrix.
#[derive(Debug)]
struct Projection(Sums);

impl Work for Projection {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        plan.fits("PCAModel", self.0.width)?;
        Ok(Kind::plain(self.0.count()))
    }

    fn held(&self) -> usize {
        self.0.width * self.0.count()
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let vectors = frame.vectors(&reads[0], Some(self.0.width))?;
        Ok(vec![Made::Vectors(Vectors::dense(vectors.rows, self.0.of(&vectors)))])
    }
}

/// PCA: the transpose of its components.
pub fn pca(source: &Source<'_>) -> Result<Vec<Step>> {
    let rows = source.folder.rows("data")?;
    let Matrix { rows: width, columns: count, values, transposed, sparse } =
        store::matrix(store::column(&rows, "pc")?, 0)?;
    let turned = (0..count).flat_map(|c| (0..width).map(move |r| r * count + c)).map(|at| values[at]).collect();
    let matrix = Matrix { rows: count, columns: width, values: turned, transposed: !transposed, sparse };
    source.single(Projection(Sums::product(source.library(), matrix, vec![0.0; count])))
}

/// Products of the places of several columns.
#[derive(Debug)]
struct Interaction {
    /// Of each column, each place's categories; 0 or 1 for a number.
    categories: Vec<Vec<usize>>,
    since_4: bool,
}

/// A column of an Interaction, over a block.
struct Factor<'a> {
    name: &'a str,
    columns: Vec<Column>,
    sparse: Sparsity,
    categories: &'a [usize],
}

impl Factor<'_> {
    /// Places of its own.
    fn width(&self) -> usize {
        self.categories.iter().map(|n| (*n).max(1)).sum()
    }

    /// Its places in a row, with their values: a category that is not there is
    /// no place, and neither is the 0 of a sparse vector, category 0 included.
    fn places(&self, row: usize) -> Result<Vec<(usize, f64)>> {
        let mut places = Vec::with_capacity(self.columns.len());
        let mut first = 0;
        for (column, count) in self.columns.iter().zip(self.categories) {
            let value = column.at(row);
            if value != 0.0 || !self.sparse.at(row) {
                if *count <= 1 {
                    places.push((first, value));
                } else if value >= 0.0 && value < *count as f64 && value.fract() == 0.0 {
                    places.push((first + value as usize, 1.0));
                } else {
                    return Err(unseen(self.name, Some(&value.to_string()), Invalid::Error));
                }
            }
            first += (*count).max(1);
        }
        Ok(places)
    }
}

impl Work for Interaction {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        let mut width = 1usize;
        for (name, kind) in &plan.reads {
            let categories = match kind {
                Kind::Raw => vec![0],
                Kind::Number(attribute) => vec![attribute.categories],
                Kind::Vector { attributes: Some(all), .. } => all.iter().map(|a| a.categories).collect(),
                Kind::Vector { width: Some(width), .. } => vec![0; *width],
                Kind::Vector { .. } => {
                    let error =
                        Error::invalid(format!("an Interaction of `{name}`, of unknown width, is not supported"));
                    return Err(error);
                }
            };
            width = width.saturating_mul(categories.iter().map(|n| (*n).max(1)).sum());
            self.categories.push(categories);
        }
        if width > MAX_WIDTH {
            return Err(Error::invalid(format!("`{}` has {width} values, which is too wide", plan.makes[0])));
        }
        Ok(Kind::plain(width))
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let rows = frame.rows();
        let factor = |(name, categories): (&'_ String, &'_ Vec<usize>)| -> Result<(Vec<Column>, Sparsity)> {
            if let Made::Vectors(_) = frame.get(name)? {
                let vectors = frame.vectors(name, Some(categories.len()))?;
                return Ok((vectors.columns, vectors.sparse));
            }
            let numbers = frame.numbers(name)?;
            if let Some(row) = (0..rows).find(|row| numbers.get(*row).is_none()) {
                return Err(missing(name, row, Invalid::Error));
            }
            Ok((vec![Column::Values(numbers.values)], Sparsity::All(false)))
        };
        let mut factors = Vec::with_capacity(reads.len());
        for pair in reads.iter().zip(&self.categories) {
            let (columns, sparse) = factor(pair)?;
            factors.push(Factor { name: pair.0, columns, sparse, categories: pair.1 });
        }
        let mut out: Vec<Option<Vec<f64>>> = vec![None; factors.iter().map(Factor::width).product()];
        for row in 0..rows {
            let mut products = vec![(0, 1.0)];
            let mut size = 1;
            for factor in factors.iter().rev() {
                let places = factor.places(row)?;
                let before = std::mem::take(&mut products);
                let by =
                    |(place, value): (usize, f64)| before.iter().map(move |(at, v)| (at + place * size, v * value));
                products = places.into_iter().flat_map(by).collect();
                size *= factor.width();
            }
            for (place, value) in products {
                out[place].get_or_insert_with(|| vec![0.0; rows])[row] = value;
            }
        }
        let columns = out.into_iter().map(|values| values.map_or(Column::Zero, Column::new)).collect();
        Ok(vec![Made::Vectors(Vectors::compressed(rows, columns, self.since_4))])
    }
}

/// Interaction.
pub fn interaction(source: &Source<'_>) -> Result<Vec<Step>> {
    let reads = source.parameters.columns("inputCols", "inputCol")?;
    let work = Interaction { categories: Vec::new(), since_4: source.since_4() };
    Ok(vec![source.many(reads, InputKind::Numeric, source.text("outputCol")?, work)])
}

/// All products of places up to a degree.
#[derive(Debug)]
struct Polynomial {
    degree: usize,
    /// Each term: the term that it multiplies, and the place by which.
    terms: Vec<(Option<usize>, usize)>,
    width: usize,
}

impl Work for Polynomial {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        let width = plan.width(0)?.ok_or_else(|| {
            Error::invalid(format!(
                "a PolynomialExpansion of `{}`, of unknown width, is not supported",
                plan.reads[0].0
            ))
        })?;
        self.width = width;
        self.terms = terms(width, self.degree)?;
        Ok(Kind::plain(self.terms.len()))
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let vectors = frame.vectors(&reads[0], Some(self.width))?;
        let mut columns: Vec<Column> = Vec::with_capacity(self.terms.len());
        for (before, place) in &self.terms {
            let column = &vectors.columns[*place];
            let by = |row: usize| {
                let value = column.at(row);
                match before.map(|before| columns[before].at(row)) {
                    // The zeros of sparse vectors are not multiplied, not even with infinity.
                    _ if value == 0.0 && vectors.sparse.at(row) => 0.0,
                    // A product that is 0 ends the term.
                    Some(0.0) => 0.0,
                    Some(before) if before * value == 0.0 => 0.0,
                    Some(before) => before * value,
                    None if value == 0.0 => 0.0,
                    None => value,
                }
            };
            let zero = match before.map(|before| columns[before].values()) {
                Some(None) => true,
                Some(Some(values)) => column.values().is_none() && values.iter().all(|value| value.is_finite()),
                None => column.values().is_none(),
            };
            columns.push(if zero { Column::Zero } else { Column::new((0..vectors.rows).map(by).collect()) });
        }
        Ok(vec![Made::Vectors(Vectors { columns, ..vectors })])
    }
}

/// The terms in Spark's order: by the exponent of the last place, then of the
/// one before; a term's factors are multiplied from the last place on.
fn terms(width: usize, degree: usize) -> Result<Vec<(Option<usize>, usize)>> {
    let mut exponents = vec![0usize; width];
    let mut total = 0;
    let mut terms = Vec::new();
    let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
    // The places of a term, each as often as its exponent, last place first.
    let mut factors: Vec<usize> = Vec::new();
    if width == 0 {
        return Ok(terms);
    }
    loop {
        if total < degree {
            exponents[0] += 1;
            total += 1;
            factors.push(0);
        } else {
            let lowest = factors.last().copied().unwrap_or(0);
            if lowest + 1 == width || factors.is_empty() {
                return Ok(terms);
            }
            let dropped = exponents[lowest];
            factors.truncate(factors.len() - dropped);
            exponents[lowest] = 0;
            exponents[lowest + 1] += 1;
            factors.push(lowest + 1);
            total = total - dropped + 1;
        }
        let place = factors.last().copied().unwrap_or(0);
        let before = known.get(&factors[..factors.len() - 1]).copied();
        if factors.len() < degree {
            known.insert(factors.clone(), terms.len());
        }
        terms.push((before, place));
        if terms.len() > MAX_TERMS {
            return Err(Error::invalid(format!("a PolynomialExpansion of more than {MAX_TERMS} terms is too wide")));
        }
    }
}

/// PolynomialExpansion.
pub fn polynomial(source: &Source<'_>) -> Result<Vec<Step>> {
    let degree = source.number("degree")?;
    if !(1.0..=100.0).contains(&degree) || degree.fract() != 0.0 {
        return Err(Error::invalid(format!("a PolynomialExpansion of degree {degree} is not supported")));
    }
    source.single(Polynomial { degree: degree as usize, terms: Vec::new(), width: 0 })
}

/// The discrete cosine transform, scaled to keep lengths.
///
/// Spark's library takes a fast algorithm, here are the sums of the definition:
/// each value is within 1e-15 of the vector's length, not within 1e-12 of a value
/// that is almost 0.
#[derive(Debug)]
struct Cosine {
    inverse: bool,
}

impl Work for Cosine {
    fn plan(&mut self, plan: &Plan<'_>) -> Result<Vec<Kind>> {
        let width = plan.width(0)?;
        if let Some(width) = width.filter(|width| *width > MAX_COSINE) {
            return Err(Error::invalid(format!("a DCT of {width} values is not supported")));
        }
        Ok(vec![Kind::Vector { width, attributes: None }])
    }

    fn apply(&self, frame: &Frame<'_>, reads: &[String]) -> Result<Vec<Made>> {
        let vectors = frame.vectors(&reads[0], None)?;
        let count = vectors.width();
        if count > MAX_COSINE {
            return Err(Error::invalid(format!("a DCT of {count} values is not supported")));
        }
        // Entry (k, n) of the transform; the inverse is its transpose.
        let entry = |k: usize, n: usize| {
            let scale = if k == 0 { (1.0 / count as f64).sqrt() } else { (2.0 / count as f64).sqrt() };
            // The angle is reduced in whole numbers first.
            let turns = (2 * n + 1) * k % (4 * count);
            scale * (PI * turns as f64 / (2 * count) as f64).cos()
        };
        let mut out = vec![vec![0.0; vectors.rows]; count];
        for (to, sums) in out.iter_mut().enumerate() {
            for (from, column) in vectors.columns.iter().enumerate() {
                let Some(values) = column.values() else { continue };
                let factor = if self.inverse { entry(from, to) } else { entry(to, from) };
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value * factor);
            }
        }
        Ok(vec![Made::Vectors(Vectors::dense(vectors.rows, out))])
    }
}

/// DCT.
pub fn cosine(source: &Source<'_>) -> Result<Vec<Step>> {
    source.single(Cosine { inverse: source.parameters.flag("inverse") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_come_in_the_order_of_spark() {
        // Of x, y and degree 2: x, x², y, xy, y².
        let found = terms(2, 2).unwrap();
        assert_eq!(found, [(None, 0), (Some(0), 0), (None, 1), (Some(2), 0), (Some(2), 1)]);
        assert_eq!(terms(3, 3).unwrap().len(), 19);
        assert_eq!(terms(5, 1).unwrap().len(), 5);
        assert!(terms(10_000, 3).is_err());
    }
}
