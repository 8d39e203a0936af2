//! Avro: a payload is read by its writer's schema, once, and only what is
//! wanted of it is kept. Fields are found by their names, so that writer and
//! pipeline may go different ways as long as the names stay.
//!
//! The schema is checked by Avro's own library. What is read here is compiled
//! from its JSON ([`compiler`]), since the library's form of it forgets how a
//! uuid is written, and what Kafka Connect says of a type.

mod compiler;

use std::collections::BTreeSet;

use insightera_events::{Scalar, Unit, Walk};

use self::compiler::compiled;

/// Values within each other.
const DEPTH: usize = 128;
/// Digits of a decimal behind its point, or noughts before it.
const SCALE: u32 = 16_384;

/// What is wrong, in words.
type Result<T> = std::result::Result<T, String>;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    shapes: Vec<Shape>,
    root: usize,
}

/// How a value is written; numbers are places among the shapes.
#[derive(Debug, Clone)]
enum Shape {
    /// A named type whose definition has only begun.
    Open,
    Null,
    Boolean,
    Int(Meaning),
    Long(Meaning),
    Float,
    Double,
    /// Bytes, or a decimal of this scale.
    Bytes(Option<i32>),
    String,
    Fixed(usize, Option<i32>),
    /// 16 bytes that are a uuid.
    Uuid,
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<(String, usize)>),
    /// A record of `scale` and `value`: a decimal whose scale is its own.
    Scaled(Vec<(String, usize)>),
}

/// What a whole number means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meaning {
    Number,
    /// Days since 1970.
    Date,
    /// Since 1970, UTC.
    Instant(Unit),
    /// The same, of a clock on the wall.
    Local(Unit),
    /// Since midnight, or between two points in time.
    Span(Unit),
}

impl Schema {
    /// Compiles a schema and those that it refers to.
    ///
    /// # Errors
    /// When it is no Avro schema.
    pub fn new(text: &str, references: &[String]) -> Result<Self> {
        let (shapes, root) = compiled(text, references)?;
        Ok(Self { shapes, root })
    }

    /// Only change events may be written by it.
    ///
    /// # Errors
    /// When they are not.
    pub fn check_envelope(&self) -> Result<()> {
        let fields = self.fields(self.root).unwrap_or_default();
        for wanted in ["op", "after"] {
            if fields.iter().all(|(name, _)| name != wanted) {
                return Err(format!(
                    "it is no envelope of Debezium's: it has no field `{wanted}`; rows without an envelope are \
                     `format = \"avro\"`"
                ));
            }
        }
        Ok(())
    }

    /// The names of the outermost record's fields; of change events, those of
    /// the row.
    pub fn names(&self, is_change: bool) -> BTreeSet<String> {
        let mut fields = self.fields(self.root);
        if is_change {
            let after = fields.unwrap_or_default().iter().find(|(name, _)| name == "after");
            fields = after.and_then(|(_, shape)| self.fields(*shape));
        }
        fields.unwrap_or_default().iter().map(|(name, _)| name.clone()).collect()
    }

    /// The fields of a record, which may be there or not.
    fn fields(&self, shape: usize) -> Option<&[(String, usize)]> {
        match &self.shapes[shape] {
            Shape::Record(fields) => Some(fields),
            // No union stands in another one.
            Shape::Union(branches) => branches.iter().find_map(|branch| match &self.shapes[*branch] {
                Shape::Record(fields) => Some(fields.as_slice()),
                _ => None,
            }),
            _ => None,
        }
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is not written by this schema.
    pub fn read(&self, payload: &[u8], walk: &mut Walk<'_>) -> Result<()> {
        let mut bytes = Bytes { rest: payload, depth: 0 };
        self.value(self.root, Some(0), &mut bytes, walk)?;
        match bytes.rest.len() {
            0 => Ok(()),
            more => Err(format!("{more} bytes follow the value: it is written by another schema")),
        }
    }

    /// A value, for the place `at` or for none.
    fn value(&self, shape: usize, at: Option<usize>, bytes: &mut Bytes<'_>, walk: &mut Walk<'_>) -> Result<()> {
        bytes.depth += 1;
        if bytes.depth > DEPTH {
            return Err("values are too deep in each other".to_owned());
        }
        match &self.shapes[shape] {
            Shape::Open => return Err("a type of the schema is not defined".to_owned()),
            Shape::Null => {}
            Shape::Boolean => {
                let value = match bytes.take(1)? {
                    [0] => false,
                    [1] => true,
                    other => return Err(format!("{} is neither true nor false", other[0])),
                };
                at.into_iter().for_each(|at| walk.scalar(at, Scalar::Boolean(value)));
            }
            Shape::Int(meaning) => {
                let value = bytes.long()?;
                if i32::try_from(value).is_err() {
                    return Err(format!("{value} is no int of 32 bits"));
                }
                at.into_iter().for_each(|at| whole(*meaning, value, at, walk));
            }
            Shape::Long(meaning) => {
                let value = bytes.long()?;
                at.into_iter().for_each(|at| whole(*meaning, value, at, walk));
            }
            Shape::Float => {
                let value = f32::from_le_bytes(bytes.array()?);
                at.into_iter().for_each(|at| walk.scalar(at, Scalar::Number(f64::from(value))));
            }
            Shape::Double => {
                let value = f64::from_le_bytes(bytes.array()?);
                at.into_iter().for_each(|at| walk.scalar(at, Scalar::Number(value)));
            }
            Shape::Bytes(scale) => {
                let value = bytes.sized()?;
                at.into_iter().for_each(|at| plain(value, *scale, at, walk));
            }
            Shape::Fixed(size, scale) => {
                let value = bytes.take(*size)?;
                at.into_iter().for_each(|at| plain(value, *scale, at, walk));
            }
            Shape::Uuid => {
                let value = uuid::Uuid::from_bytes(bytes.array()?);
                if let Some(at) = at {
                    walk.string(at, &value.hyphenated().to_string())?;
                }
            }
            Shape::String => {
                let value = bytes.sized()?;
                if let Some(at) = at {
                    walk.string(at, std::str::from_utf8(value).map_err(|e| format!("a string is not UTF-8: {e}"))?)?;
                }
            }
            Shape::Enum(symbols) => {
                let number = bytes.long()?;
                let symbol = usize::try_from(number).ok().and_then(|number| symbols.get(number));
                let symbol = symbol.ok_or_else(|| format!("{number} is no symbol of an enum"))?;
                at.into_iter().for_each(|at| walk.symbol(at, symbol, number));
            }
            Shape::Array(items) => {
                at.into_iter().for_each(|at| walk.other(at, "an array"));
                self.blocks(bytes, at.is_none(), self.is_empty(*items, 0), &mut |bytes| {
                    self.value(*items, None, bytes, walk)
                })?;
            }
            Shape::Map(values) => {
                at.into_iter().for_each(|at| walk.other(at, "a map"));
                self.blocks(bytes, at.is_none(), false, &mut |bytes| {
                    let key = bytes.sized()?;
                    let child = at.and_then(|at| walk.child(at, std::str::from_utf8(key).ok()?));
                    self.value(*values, child, bytes, walk)
                })?;
            }
            Shape::Union(branches) => {
                let number = bytes.long()?;
                let branch = usize::try_from(number).ok().and_then(|number| branches.get(number));
                self.value(*branch.ok_or_else(|| format!("{number} is no branch of a union"))?, at, bytes, walk)?;
            }
            Shape::Record(fields) => {
                at.into_iter().for_each(|at| walk.other(at, "a record"));
                for (name, shape) in fields {
                    let child = at.and_then(|at| walk.child(at, name));
                    self.value(*shape, child, bytes, walk)?;
                }
            }
            Shape::Scaled(fields) => {
                let (mut scale, mut value) = (0, &[][..]);
                for (name, shape) in fields {
                    let mut ahead = Bytes { rest: bytes.rest, depth: 0 };
                    match self.shapes[*shape] {
                        Shape::Int(_) => scale = ahead.long()?,
                        _ => value = ahead.sized()?,
                    }
                    let child = at.and_then(|at| walk.child(at, name));
                    self.value(*shape, child, bytes, walk)?;
                }
                // One of more than 32 bits was refused as an int.
                let scale = i32::try_from(scale).ok();
                at.into_iter().for_each(|at| plain(value, scale, at, walk));
            }
        }
        bytes.depth -= 1;
        Ok(())
    }

    /// The blocks of an array or a map; ones that say how long they are need
    /// not be looked at when nothing of them is wanted.
    fn blocks(
        &self,
        bytes: &mut Bytes<'_>,
        unwanted: bool,
        weightless: bool,
        item: &mut dyn FnMut(&mut Bytes<'_>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let mut count = bytes.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                count = count.checked_neg().ok_or("a block of too many items")?;
                let size = bytes.long()?;
                if unwanted {
                    bytes.take(usize::try_from(size).map_err(|_| format!("a block of {size} bytes"))?)?;
                    continue;
                }
            }
            if weightless {
                continue;
            }
            if count as u64 > bytes.rest.len() as u64 {
                return Err("the payload ends early".to_owned());
            }
            for _ in 0..count {
                item(bytes)?;
            }
        }
    }

    /// Whether values of a shape take no bytes.
    fn is_empty(&self, shape: usize, depth: usize) -> bool {
        match &self.shapes[shape] {
            Shape::Null | Shape::Fixed(0, _) => true,
            Shape::Record(fields) => depth < DEPTH && fields.iter().all(|(_, shape)| self.is_empty(*shape, depth + 1)),
            _ => false,
        }
    }
}

fn whole(meaning: Meaning, value: i64, at: usize, walk: &mut Walk<'_>) {
    match meaning {
        Meaning::Number => walk.scalar(at, Scalar::Whole(value)),
        Meaning::Date => walk.date(at, value),
        Meaning::Instant(unit) => walk.counted_moment(at, value, unit),
        Meaning::Local(unit) => walk.local_moment(at, value, unit),
        Meaning::Span(unit) => walk.span(at, value, unit),
    }
}

/// Bytes that are a decimal, or just bytes.
fn plain(bytes: &[u8], scale: Option<i32>, at: usize, walk: &mut Walk<'_>) {
    match scale.and_then(|scale| decimal(bytes, scale)) {
        Some(text) => walk.decimal(at, &text),
        None if scale.is_some() => walk.other(at, "a decimal of more than 38 digits"),
        None => walk.other(at, "bytes"),
    }
}

/// A big-endian number in two's complement, with a point in it: so many digits
/// stand behind it, or so many noughts more before it.
fn decimal(bytes: &[u8], scale: i32) -> Option<String> {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    let spare = bytes.len().saturating_sub(16);
    if bytes[..spare].iter().any(|byte| *byte != fill) || scale.unsigned_abs() > SCALE {
        return None;
    }
    let mut all = [fill; 16];
    let own = &bytes[spare..];
    all[16 - own.len()..].copy_from_slice(own);
    let unscaled = i128::from_be_bytes(all);
    if (unscaled < 0) != negative {
        return None;
    }
    let mut digits = unscaled.unsigned_abs().to_string();
    let places = scale.unsigned_abs() as usize;
    if scale > 0 {
        if digits.len() <= places {
            digits.insert_str(0, &"0".repeat(places + 1 - digits.len()));
        }
        digits.insert(digits.len() - places, '.');
    } else if unscaled != 0 {
        digits.push_str(&"0".repeat(places));
    }
    Some(if negative { format!("-{digits}") } else { digits })
}

struct Bytes<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("the payload ends early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "the payload ends early".to_owned())
    }

    fn sized(&mut self) -> Result<&'a [u8]> {
        let size = self.long()?;
        self.take(usize::try_from(size).map_err(|_| format!("a length of {size} bytes"))?)
    }

    /// A number in zigzag, seven bits a byte.
    fn long(&mut self) -> Result<i64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number of more than 64 bits".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        for (bytes, scale, text) in [
            (&[0x04, 0xd2][..], 2, "12.34"),
            (&[0xff, 0x85], 2, "-1.23"),
            (&[0xff], 3, "-0.001"),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], 0, "7"),
            (&[], 1, "0.0"),
            (&[0xff, 0x85], -2, "-12300"),
            (&[0], -2, "0"),
        ] {
            assert_eq!(decimal(bytes, scale).as_deref(), Some(text));
        }
        assert_eq!(decimal(&[1; 17], 0), None, "more than 128 bits");
        let mut over = [0; 17];
        over[1] = 0x80;
        assert_eq!(decimal(&over, 0), None, "its sign would turn");
        assert_eq!((decimal(&[1], i32::MAX), decimal(&[1], i32::MIN)), (None, None), "noughts without an end");
    }

    #[test]
    fn numbers_are_those_of_the_specification_and_no_longer_than_64_bits() {
        let long = |bytes: &[u8]| Bytes { rest: bytes, depth: 0 }.long();
        for (bytes, value) in [(&[0][..], 0), (&[1], -1), (&[2], 1), (&[0x7f], -64), (&[0x80, 1], 64)] {
            assert_eq!(long(bytes), Ok(value));
        }
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(long(&most), Ok(i64::MIN));
        most[9] = 2;
        assert!(long(&most).is_err() && long(&[0x80]).is_err() && long(&[]).is_err());
    }
}
