//! Typed arrays: a shape, and the values row by row.
//!
//! Texts are numbers of a word list, so that encoders look up and compare
//! integers: the model's own words are numbered when it is loaded, other words
//! of the rows while they are scored.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::{Error, Result};

/// Values that an operator makes at most: what a small file can ask for.
pub const MAX_VALUES: usize = 1 << 24;
/// Dimensions of a tensor at most.
pub const MAX_RANK: usize = 16;

/// The values of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// `float`
    F32(Vec<f32>),
    /// `double`
    F64(Vec<f64>),
    /// `int64`
    I64(Vec<i64>),
    /// `int32`
    I32(Vec<i32>),
    /// `bool`
    Bool(Vec<bool>),
    /// `string`, as numbers of words.
    Text(Vec<u32>),
}

/// What a tensor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `float`
    F32,
    /// `double`
    F64,
    /// `int64`
    I64,
    /// `int32`
    I32,
    /// `bool`
    Bool,
    /// `string`
    Text,
}

impl Kind {
    /// From the number in a file.
    pub fn from_code(code: i64) -> Result<Self> {
        Ok(match code {
            1 => Self::F32,
            6 => Self::I32,
            7 => Self::I64,
            8 => Self::Text,
            9 => Self::Bool,
            11 => Self::F64,
            other => {
                return Err(Error::invalid(format!("the element type {other} is not supported"))
                    .with_hint("supported are 1 (float), 6 (int32), 7 (int64), 8 (string), 9 (bool) and 11 (double)"));
            }
        })
    }

    /// As ONNX calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::F64 => "double",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::Bool => "bool",
            Self::Text => "string",
        }
    }
}

/// Values with a shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// As many values as the sizes multiply to.
    pub data: Data,
}

/// How many values a shape has that is about to be filled.
pub fn volume(shape: &[usize]) -> Result<usize> {
    match extent(shape).filter(|extent| *extent <= MAX_VALUES && shape.len() <= MAX_RANK) {
        Some(extent) => Ok(if shape.contains(&0) { 0 } else { extent }),
        None => Err(Error::invalid(format!("a tensor of the shape {shape:?} is too large"))),
    }
}

/// The product of all sizes but zeros: also without values there are so many
/// rows to go through.
fn extent(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |count, size| count.checked_mul((*size).max(1)))
}

impl Tensor {
    /// Values in a shape.
    pub fn new(shape: Vec<usize>, data: Data) -> Result<Self> {
        let found = data.len();
        let extent = extent(&shape).filter(|extent| *extent <= found.max(MAX_VALUES));
        let wanted = extent.map(|extent| if shape.contains(&0) { 0 } else { extent });
        if wanted != Some(found) || shape.len() > MAX_RANK {
            return Err(Error::invalid(format!("{found} values do not have the shape {shape:?}")));
        }
        Ok(Self { shape, data })
    }

    /// A list.
    pub fn list(data: Data) -> Self {
        Self { shape: vec![data.len()], data }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// What it holds.
    pub fn kind(&self) -> Kind {
        self.data.kind()
    }

    /// As rows and columns; a list is one row.
    pub fn matrix(&self) -> Result<(usize, usize)> {
        match *self.shape.as_slice() {
            [columns] => Ok((1, columns)),
            [rows, columns] => Ok((rows, columns)),
            _ => Err(Error::invalid(format!("a tensor of the shape {:?} is no matrix", self.shape))),
        }
    }

    /// Its whole numbers.
    pub fn ints(&self) -> Result<Vec<i64>> {
        match &self.data {
            Data::I64(values) => Ok(values.clone()),
            Data::I32(values) => Ok(values.iter().map(|v| i64::from(*v)).collect()),
            _ => Err(self.wrong("whole numbers")),
        }
    }

    /// Its numbers in single precision.
    pub fn singles(&self) -> Result<Cow<'_, [f32]>> {
        Ok(Cow::Owned(match &self.data {
            Data::F32(values) => return Ok(Cow::Borrowed(values)),
            Data::F64(values) => values.iter().map(|v| *v as f32).collect(),
            Data::I64(values) => values.iter().map(|v| *v as f32).collect(),
            Data::I32(values) => values.iter().map(|v| *v as f32).collect(),
            Data::Bool(values) => values.iter().map(|v| f32::from(u8::from(*v))).collect(),
            Data::Text(_) => return Err(self.wrong("numbers")),
        }))
    }

    /// Its numbers in double precision.
    pub fn doubles(&self) -> Result<Vec<f64>> {
        match &self.data {
            Data::F32(values) => Ok(values.iter().map(|v| f64::from(*v)).collect()),
            Data::F64(values) => Ok(values.clone()),
            Data::I64(values) => Ok(values.iter().map(|v| *v as f64).collect()),
            Data::I32(values) => Ok(values.iter().map(|v| f64::from(*v)).collect()),
            Data::Bool(values) => Ok(values.iter().map(|v| f64::from(u8::from(*v))).collect()),
            Data::Text(_) => Err(self.wrong("numbers")),
        }
    }

    /// Its truth values.
    pub fn bools(&self) -> Result<&[bool]> {
        if let Data::Bool(values) = &self.data { Ok(values) } else { Err(self.wrong("truth values")) }
    }

    /// It holds something else.
    pub fn wrong(&self, wanted: &str) -> Error {
        Error::invalid(format!("it wants {wanted} and is given {}", self.kind().name()))
    }

    /// The same values in another shape.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self> {
        Self::new(shape, self.data.clone())
    }
}

impl Data {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    /// What they are.
    pub fn kind(&self) -> Kind {
        match self {
            Self::F32(_) => Kind::F32,
            Self::F64(_) => Kind::F64,
            Self::I64(_) => Kind::I64,
            Self::I32(_) => Kind::I32,
            Self::Bool(_) => Kind::Bool,
            Self::Text(_) => Kind::Text,
        }
    }

    /// The values at these places, in their order. A place beyond the end is
    /// left out: whoever calls has checked them.
    pub fn pick(&self, places: &[usize]) -> Self {
        fn of<T: Copy>(values: &[T], places: &[usize]) -> Vec<T> {
            places.iter().filter_map(|place| values.get(*place).copied()).collect()
        }
        match self {
            Self::F32(values) => Self::F32(of(values, places)),
            Self::F64(values) => Self::F64(of(values, places)),
            Self::I64(values) => Self::I64(of(values, places)),
            Self::I32(values) => Self::I32(of(values, places)),
            Self::Bool(values) => Self::Bool(of(values, places)),
            Self::Text(values) => Self::Text(of(values, places)),
        }
    }

    /// Puts `other` behind them.
    pub fn append(&mut self, other: &Self, range: std::ops::Range<usize>) -> Result<()> {
        match (self, other) {
            (Self::F32(all), Self::F32(more)) => all.extend(more.get(range).unwrap_or_default()),
            (Self::F64(all), Self::F64(more)) => all.extend(more.get(range).unwrap_or_default()),
            (Self::I64(all), Self::I64(more)) => all.extend(more.get(range).unwrap_or_default()),
            (Self::I32(all), Self::I32(more)) => all.extend(more.get(range).unwrap_or_default()),
            (Self::Bool(all), Self::Bool(more)) => all.extend(more.get(range).unwrap_or_default()),
            (Self::Text(all), Self::Text(more)) => all.extend(more.get(range).unwrap_or_default()),
            (this, other) => {
                return Err(Error::invalid(format!("it mixes {} and {}", this.kind().name(), other.kind().name())));
            }
        }
        Ok(())
    }

    /// Whether all values are the same, NaN and NaN too.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
            }
            (Self::F64(a), Self::F64(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
            }
            (a, b) => a == b,
        }
    }

    /// No values yet.
    pub fn empty(kind: Kind, capacity: usize) -> Self {
        match kind {
            Kind::F32 => Self::F32(Vec::with_capacity(capacity)),
            Kind::F64 => Self::F64(Vec::with_capacity(capacity)),
            Kind::I64 => Self::I64(Vec::with_capacity(capacity)),
            Kind::I32 => Self::I32(Vec::with_capacity(capacity)),
            Kind::Bool => Self::Bool(Vec::with_capacity(capacity)),
            Kind::Text => Self::Text(Vec::with_capacity(capacity)),
        }
    }
}

/// Words by number, and their numbers.
#[derive(Debug, Default)]
pub struct WordList {
    numbers: HashMap<String, u32>,
    texts: Vec<String>,
}

impl WordList {
    /// The number of a word, a new one where it is not known.
    pub fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.numbers.insert(text.to_owned(), number);
        self.texts.push(text.to_owned());
        number
    }

    /// A word.
    pub fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", String::as_str)
    }
}

/// The words of a model, and those that its rows add.
#[derive(Debug)]
pub struct Words<'a> {
    known: &'a WordList,
    new: WordList,
}

impl<'a> Words<'a> {
    /// Of a model.
    pub fn new(known: &'a WordList) -> Self {
        Self { known, new: WordList::default() }
    }

    /// The number of a word.
    pub fn number(&mut self, text: &str) -> u32 {
        match self.known.numbers.get(text) {
            Some(number) => *number,
            None => self.known.texts.len() as u32 + self.new.number(text),
        }
    }

    /// A word.
    pub fn text(&self, number: u32) -> &str {
        match number.checked_sub(self.known.texts.len() as u32) {
            None => self.known.text(number),
            Some(number) => self.new.text(number),
        }
    }
}
