//! Encoders of `ai.onnx.ml`: labels to numbers and back, and columns picked
//! and put together.

use std::collections::HashMap;

use super::super::node::{Classes, Inputs, Run, Settings};
use super::super::tensor::{Data, Tensor, volume};
use crate::error::{Error, Result};

/// Prepares one of these operators.
pub fn build(settings: &mut Settings<'_>) -> Result<Option<Run>> {
    Ok(Some(match settings.node.operator.as_str() {
        "OneHotEncoder" => one_hot(settings)?,
        "LabelEncoder" => label_encoder(settings)?,
        "CategoryMapper" => category_mapper(settings)?,
        "ArrayFeatureExtractor" => Box::new(|inputs, _| Ok(vec![extract(inputs.get(0)?, inputs.get(1)?)?])),
        "FeatureVectorizer" => {
            let sizes = settings.ints("inputdimensions")?.to_vec();
            Box::new(move |inputs: Inputs<'_>, _| {
                let all: Vec<&Tensor> = inputs.all().collect();
                let rows = all.first().map_or(Ok(0), |t| t.matrix().map(|m| m.0))?;
                let widths = all.iter().map(|t| t.matrix()).collect::<Result<Vec<_>>>()?;
                let width: usize = sizes.iter().map(|size| usize::try_from(*size).unwrap_or(0)).sum();
                let fits = widths.len() == sizes.len()
                    && widths.iter().zip(&sizes).all(|(found, size)| found.0 == rows && found.1 as i64 == *size);
                if !fits {
                    return Err(Error::invalid("its inputs do not have the sizes it says"));
                }
                let values = all.iter().map(|t| t.singles()).collect::<Result<Vec<_>>>()?;
                let mut made = Vec::with_capacity(volume(&[rows, width])?);
                for row in 0..rows {
                    for (values, (_, width)) in values.iter().zip(&widths) {
                        made.extend_from_slice(&values[row * width..(row + 1) * width]);
                    }
                }
                Ok(vec![Tensor::new(vec![rows, width], Data::F32(made))?])
            })
        }
        // A map of every row's probabilities by class: here they stay a matrix.
        "ZipMap" => {
            let classes = Classes::read(settings, "classlabels_int64s", "classlabels_strings")?;
            let count = classes.len();
            settings.classes = Some(classes);
            Box::new(move |inputs: Inputs<'_>, _| {
                let input = inputs.get(0)?;
                let (_, width) = input.matrix()?;
                if width != count {
                    return Err(Error::invalid(format!("it names {count} classes and is given {width} columns")));
                }
                Ok(vec![input.clone()])
            })
        }
        _ => return Ok(None),
    }))
}

fn one_hot(settings: &mut Settings<'_>) -> Result<Run> {
    let (numbers, texts) = (settings.ints("cats_int64s")?, settings.texts("cats_strings")?);
    let zeros = settings.flag("zeros", true)?;
    let width = numbers.len().max(texts.len());
    if width == 0 || !numbers.is_empty() && !texts.is_empty() {
        return Err(Error::data("it has no categories, or two kinds of them"));
    }
    let numbers: HashMap<i64, usize> = numbers.iter().enumerate().map(|(at, value)| (*value, at)).collect();
    let texts: HashMap<u32, usize> =
        texts.iter().enumerate().map(|(at, text)| (settings.words.number(text), at)).collect();
    Ok(Box::new(move |inputs: Inputs<'_>, words| {
        let input = inputs.get(0)?;
        let shape = [input.shape.as_slice(), &[width]].concat();
        let mut made = vec![0f32; volume(&shape)?];
        let cut = |v: f64| if v.abs() < 9.2e18 { v as i64 } else { i64::MIN };
        for (at, row) in made.chunks_exact_mut(width).enumerate() {
            let found = match &input.data {
                Data::Text(values) => texts.get(&values[at]),
                Data::I64(values) => numbers.get(&values[at]),
                Data::I32(values) => numbers.get(&i64::from(values[at])),
                Data::F32(values) => numbers.get(&cut(f64::from(values[at]))),
                Data::F64(values) => numbers.get(&cut(values[at])),
                Data::Bool(_) => return Err(input.wrong("labels or numbers")),
            };
            match found {
                Some(place) => row[*place] = 1.0,
                None if zeros => {}
                None => {
                    let value = match &input.data {
                        Data::Text(values) => format!("`{}`", words.text(values[at])),
                        _ => "a number".to_owned(),
                    };
                    return Err(Error::data(format!("{value} is no category that it knows")).with_hint(
                        "fit the encoder with handle_unknown=\"ignore\", or replace the value in the feature SQL",
                    ));
                }
            }
        }
        Ok(vec![Tensor::new(shape, Data::F32(made))?])
    }))
}

/// A value as a key: numbers by their bits, NaN like NaN and zero like zero.
fn keys(data: &Data) -> Box<dyn Iterator<Item = u64> + '_> {
    match data {
        Data::Text(values) => Box::new(values.iter().map(|v| u64::from(*v))),
        Data::I64(values) => Box::new(values.iter().map(|v| *v as u64)),
        Data::I32(values) => Box::new(values.iter().map(|v| i64::from(*v) as u64)),
        Data::Bool(values) => Box::new(values.iter().map(|v| u64::from(*v))),
        Data::F32(values) => Box::new(
            values
                .iter()
                .map(|v| if v.is_nan() { u64::from(f32::NAN.to_bits()) } else { u64::from((*v + 0.0).to_bits()) }),
        ),
        Data::F64(values) => {
            Box::new(values.iter().map(|v| if v.is_nan() { f64::NAN.to_bits() } else { (*v + 0.0).to_bits() }))
        }
    }
}

/// Keys or values of an encoder: a list of one of three types, or a constant.
fn side(settings: &mut Settings<'_>, names: [&'static str; 4]) -> Result<Option<Data>> {
    let [ints, floats, texts, tensor] = names;
    let mut found = Vec::new();
    if settings.has(ints) {
        found.push(Data::I64(settings.ints(ints)?.to_vec()));
    }
    if settings.has(floats) {
        found.push(Data::F32(settings.floats(floats)?.to_vec()));
    }
    if settings.has(texts) {
        let list = settings.texts(texts)?;
        found.push(Data::Text(list.iter().map(|text| settings.words.number(text)).collect()));
    }
    if let Some(constant) = settings.tensor(tensor)? {
        found.push(constant.data.clone());
    }
    if found.len() > 1 {
        return Err(Error::data("it has two kinds of keys or of values"));
    }
    Ok(found.pop())
}

fn label_encoder(settings: &mut Settings<'_>) -> Result<Run> {
    if settings.version == 1 {
        return old_label_encoder(settings);
    }
    let keys_of = side(settings, ["keys_int64s", "keys_floats", "keys_strings", "keys_tensor"])?;
    let values = side(settings, ["values_int64s", "values_floats", "values_strings", "values_tensor"])?;
    let (Some(keys_of), Some(values)) = (keys_of, values) else {
        return Err(Error::data("it has no keys or no values"));
    };
    if keys_of.len() != values.len() {
        return Err(Error::data(format!("{} keys have {} values", keys_of.len(), values.len())));
    }
    let text = settings.text("default_string")?.unwrap_or("_Unused");
    let int = settings.int("default_int64")?.unwrap_or(-1);
    let float = settings.float("default_float")?.unwrap_or(-0.0);
    let otherwise = match (settings.tensor("default_tensor")?, &values) {
        (Some(constant), _) if constant.len() == 1 && constant.kind() == values.kind() => constant.data.clone(),
        (Some(_), _) => return Err(Error::data("its default is not one value of the type of its values")),
        (None, Data::Text(_)) => Data::Text(vec![settings.words.number(text)]),
        (None, Data::I64(_)) => Data::I64(vec![int]),
        (None, Data::F32(_)) => Data::F32(vec![float]),
        (None, Data::F64(_)) => Data::F64(vec![-0.0]),
        (None, Data::I32(_)) => Data::I32(vec![-1]),
        (None, Data::Bool(_)) => return Err(Error::invalid("values of truth are not supported")),
    };
    // The first of equal keys counts.
    let mut places: HashMap<u64, usize> = HashMap::with_capacity(keys_of.len());
    for (place, key) in keys(&keys_of).enumerate() {
        places.entry(key).or_insert(place);
    }
    let kind = keys_of.kind();
    let count = values.len();
    let mut all = values;
    all.append(&otherwise, 0..1)?;
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let input = inputs.get(0)?;
        if input.kind() != kind {
            return Err(input.wrong(kind.name()));
        }
        let found: Vec<usize> = keys(&input.data).map(|key| places.get(&key).copied().unwrap_or(count)).collect();
        Ok(vec![Tensor::new(input.shape.clone(), all.pick(&found))?])
    }))
}

/// The first version: from a text to its place in a list, or back.
fn old_label_encoder(settings: &mut Settings<'_>) -> Result<Run> {
    let list = settings.texts("classes_strings")?;
    let numbers: Vec<u32> = list.iter().map(|text| settings.words.number(text)).collect();
    let text = settings.text("default_string")?.unwrap_or("_Unused");
    let text = settings.words.number(text);
    let int = settings.int("default_int64")?.unwrap_or(-1);
    let places: HashMap<u32, i64> = numbers.iter().enumerate().map(|(at, word)| (*word, at as i64)).collect();
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let input = inputs.get(0)?;
        let data = match &input.data {
            Data::Text(values) => Data::I64(values.iter().map(|v| places.get(v).copied().unwrap_or(int)).collect()),
            Data::I64(values) => {
                let word = |v: &i64| usize::try_from(*v).ok().and_then(|v| numbers.get(v)).copied().unwrap_or(text);
                Data::Text(values.iter().map(word).collect())
            }
            _ => return Err(input.wrong("string or int64")),
        };
        Ok(vec![Tensor::new(input.shape.clone(), data)?])
    }))
}

fn category_mapper(settings: &mut Settings<'_>) -> Result<Run> {
    let (ints, texts) = (settings.ints("cats_int64s")?.to_vec(), settings.texts("cats_strings")?);
    if ints.len() != texts.len() {
        return Err(Error::data("its categories differ in number"));
    }
    let texts: Vec<u32> = texts.iter().map(|text| settings.words.number(text)).collect();
    let other = settings.text("default_string")?.unwrap_or("_Unused");
    let (other, int) = (settings.words.number(other), settings.int("default_int64")?.unwrap_or(-1));
    let to: HashMap<u32, i64> = texts.iter().copied().zip(ints.iter().copied()).collect();
    let back: HashMap<i64, u32> = ints.into_iter().zip(texts).collect();
    Ok(Box::new(move |inputs: Inputs<'_>, _| {
        let input = inputs.get(0)?;
        let data = match &input.data {
            Data::Text(values) => Data::I64(values.iter().map(|v| to.get(v).copied().unwrap_or(int)).collect()),
            Data::I64(values) => Data::Text(values.iter().map(|v| back.get(v).copied().unwrap_or(other)).collect()),
            _ => return Err(input.wrong("string or int64")),
        };
        Ok(vec![Tensor::new(input.shape.clone(), data)?])
    }))
}

/// Columns of the last dimension, by number.
fn extract(input: &Tensor, columns: &Tensor) -> Result<Tensor> {
    let columns = columns.ints()?;
    let (outer, width) = match input.shape.split_last() {
        Some((width, outer)) => (outer, *width),
        None => return Err(Error::invalid("it is given a single value")),
    };
    let rows: usize = outer.iter().product();
    let mut places = Vec::with_capacity(volume(&[rows, columns.len()])?);
    for row in 0..rows {
        for column in &columns {
            let column = usize::try_from(*column).ok().filter(|column| *column < width);
            let column = column.ok_or_else(|| Error::data(format!("it picks from outside of {width} columns")))?;
            places.push(row * width + column);
        }
    }
    // A list is one row.
    let shape = if outer.is_empty() { vec![1, columns.len()] } else { [outer, &[columns.len()]].concat() };
    Tensor::new(shape, input.data.pick(&places))
}
