//! What model files in JSON and UBJSON hold alike: a tree whose lists of numbers are
//! kept as plain vectors, since they are nearly all of a model, and as narrow as the
//! file has them.

use std::borrow::Cow;

use crate::error::{Error, Result};

/// A value of a model file.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// Nothing.
    Null,
    /// A number; true is 1 and false 0.
    Number(f64),
    /// Text.
    Text(String),
    /// A list that holds only numbers, or nothing.
    Numbers(Vec<f64>),
    /// A list of single precision.
    Singles(Vec<f32>),
    /// A list of whole numbers.
    Integers(Vec<i32>),
    /// A list of small whole numbers.
    Bytes(Vec<u8>),
    /// Any other list.
    List(Vec<Document>),
    /// Names and values, in the order of the file.
    Map(Vec<(String, Document)>),
}

impl Document {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The value of a name that must be there.
    pub fn field(&self, name: &str) -> Result<&Self> {
        self.get(name).ok_or_else(|| Error::data(format!("it has no `{name}`")))
    }

    /// Text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number, also one written as text.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A whole number from 0 to a billion, which must be there.
    pub fn count(&self, name: &str) -> Result<usize> {
        let found = self.field(name)?.number().filter(|n| *n >= 0.0 && *n < 1e9 && n.fract() == 0.0);
        found.map(|n| n as usize).ok_or_else(|| Error::data(format!("`{name}` is no usable number")))
    }

    /// A list of numbers that must be there.
    pub fn numbers(&self, name: &str) -> Result<Cow<'_, [f64]>> {
        self.field(name)?.as_numbers().ok_or_else(|| Error::data(format!("`{name}` is no list of numbers")))
    }

    /// A list of numbers.
    pub fn as_numbers(&self) -> Option<Cow<'_, [f64]>> {
        Some(match self {
            Self::Numbers(numbers) => Cow::Borrowed(numbers),
            Self::Singles(numbers) => numbers.iter().map(|n| f64::from(*n)).collect(),
            Self::Integers(numbers) => numbers.iter().map(|n| f64::from(*n)).collect(),
            Self::Bytes(numbers) => numbers.iter().map(|n| f64::from(*n)).collect(),
            _ => return None,
        })
    }

    /// The items of a list that holds no numbers.
    pub fn items(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            other => other.as_numbers().filter(|numbers| numbers.is_empty()).map(|_| &[][..]),
        }
    }
}

/// Collects a list, as numbers for as long as it holds nothing else.
#[derive(Debug)]
pub enum ListBuilder {
    /// So far only numbers.
    Numbers(Vec<f64>),
    /// Something else.
    List(Vec<Document>),
}

impl ListBuilder {
    /// Adds an item.
    pub fn push(&mut self, item: Document) {
        match (&mut *self, item) {
            (Self::Numbers(numbers), Document::Number(number)) => numbers.push(number),
            (Self::Numbers(numbers), item) => {
                let mut list: Vec<Document> = numbers.drain(..).map(Document::Number).collect();
                list.push(item);
                *self = Self::List(list);
            }
            (Self::List(list), item) => list.push(item),
        }
    }

    /// The list.
    pub fn finish(self) -> Document {
        match self {
            Self::Numbers(numbers) => Document::Numbers(numbers),
            Self::List(list) => Document::List(list),
        }
    }
}
