//! Avro: a payload is read by its writer's schema, once, and only what is
//! wanted of it is kept. Fields are found by their names, so that writer and
//! pipeline may go different ways as long as the names stay.
//!
//! The schema is checked by Avro's own library. What is read here is compiled
//! from its JSON, since the library's form of it forgets how a uuid is written.

use std::collections::{BTreeSet, HashMap};

use insightera_events::{Scalar, Walk};
use serde_json::Value;

/// Values within each other.
const DEPTH: usize = 128;

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
    Bytes(Option<u32>),
    String,
    Fixed(usize, Option<u32>),
    /// 16 bytes that are a uuid.
    Uuid,
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<(String, usize)>),
}

/// What a whole number means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meaning {
    Number,
    /// Days since 1970.
    Date,
    /// This many of a second since 1970, UTC.
    Instant(i64),
    /// The same, of a clock on the wall.
    Local(i64),
}

impl Schema {
    /// Compiles a schema and those that it refers to.
    ///
    /// # Errors
    /// When it is no Avro schema.
    pub fn new(text: &str, references: &[String]) -> Result<Self> {
        apache_avro::Schema::parse_str_with_list(text, references).map_err(|e| e.to_string())?;
        let mut compiler = Compiler { shapes: Vec::new(), names: HashMap::new() };
        let parsed = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| e.to_string());
        // They may stand in any order.
        let mut left = references.iter().map(|text| parsed(text)).collect::<Result<Vec<_>>>()?;
        while !left.is_empty() {
            let before = left.len();
            let mut stuck = Vec::new();
            for value in left {
                let (shapes, names) = (compiler.shapes.len(), compiler.names.clone());
                if compiler.compile(&value, "").is_err() {
                    compiler.shapes.truncate(shapes);
                    compiler.names = names;
                    stuck.push(value);
                }
            }
            if stuck.len() == before {
                compiler.compile(&stuck[0], "")?;
            }
            left = stuck;
        }
        let root = compiler.compile(&parsed(text)?, "")?;
        Ok(Self { shapes: compiler.shapes, root })
    }

    /// The names of the outermost record's fields.
    pub fn names(&self) -> BTreeSet<String> {
        match &self.shapes[self.root] {
            Shape::Record(fields) => fields.iter().map(|(name, _)| name.clone()).collect(),
            _ => BTreeSet::new(),
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
    let micros = |unit: i64| match unit {
        1_000 => value.checked_mul(1_000),
        1_000_000 => Some(value),
        _ => Some(value.div_euclid(1_000)),
    };
    match meaning {
        Meaning::Number => walk.scalar(at, Scalar::Whole(value)),
        Meaning::Date => walk.date(at, value),
        Meaning::Instant(unit) => walk.moment(at, micros(unit), Some(value)),
        Meaning::Local(unit) => walk.local_moment(at, micros(unit), Some(value)),
    }
}

/// Bytes that are a decimal, or just bytes.
fn plain(bytes: &[u8], scale: Option<u32>, at: usize, walk: &mut Walk<'_>) {
    match scale.and_then(|scale| decimal(bytes, scale)) {
        Some(text) => walk.decimal(at, &text),
        None if scale.is_some() => walk.other(at, "a decimal of more than 38 digits"),
        None => walk.other(at, "bytes"),
    }
}

/// A big-endian number in two's complement, with a point in it.
fn decimal(bytes: &[u8], scale: u32) -> Option<String> {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    let spare = bytes.len().saturating_sub(16);
    if bytes[..spare].iter().any(|byte| *byte != fill) {
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
    let scale = scale as usize;
    if digits.len() <= scale {
        digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
    }
    if scale > 0 {
        digits.insert(digits.len() - scale, '.');
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

struct Compiler {
    shapes: Vec<Shape>,
    names: HashMap<String, usize>,
}

impl Compiler {
    fn add(&mut self, shape: Shape) -> usize {
        self.shapes.push(shape);
        self.shapes.len() - 1
    }

    /// A schema within the namespace `space`.
    fn compile(&mut self, value: &Value, space: &str) -> Result<usize> {
        match value {
            Value::String(name) => match primitive(name, None) {
                Some(shape) => Ok(self.add(shape)),
                None => {
                    let full = full_name(name, space);
                    let known = self.names.get(&full).or_else(|| self.names.get(name));
                    known.copied().ok_or_else(|| format!("the schema has no type `{full}`"))
                }
            },
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.compile(branch, space)).collect::<Result<_>>()?;
                Ok(self.add(Shape::Union(branches)))
            }
            Value::Object(object) => self.object(object, space),
            other => Err(format!("`{other}` is no schema")),
        }
    }

    fn object(&mut self, object: &serde_json::Map<String, Value>, space: &str) -> Result<usize> {
        let missing = |key: &str| format!("a schema has no `{key}`");
        let inner = object.get("type").ok_or_else(|| missing("type"))?;
        let Value::String(kind) = inner else { return self.compile(inner, space) };
        let logical = object.get("logicalType").and_then(Value::as_str);
        let scale = || {
            let scale = object.get("scale").and_then(Value::as_u64).unwrap_or(0);
            (logical == Some("decimal")).then_some(scale).and_then(|scale| u32::try_from(scale).ok())
        };
        let array = |key: &str| object.get(key).and_then(Value::as_array).ok_or_else(|| missing(key));
        match kind.as_str() {
            "array" => {
                let items = self.compile(object.get("items").ok_or_else(|| missing("items"))?, space)?;
                Ok(self.add(Shape::Array(items)))
            }
            "map" => {
                let values = self.compile(object.get("values").ok_or_else(|| missing("values"))?, space)?;
                Ok(self.add(Shape::Map(values)))
            }
            "bytes" => Ok(self.add(Shape::Bytes(scale()))),
            "record" | "error" | "enum" | "fixed" => {
                let name = object.get("name").and_then(Value::as_str).ok_or_else(|| missing("name"))?;
                let own = object.get("namespace").and_then(Value::as_str).unwrap_or(space);
                let full = full_name(name, own);
                let at = self.add(Shape::Open);
                self.names.insert(full.clone(), at);
                let within = full.rsplit_once('.').map_or("", |(space, _)| space);
                self.shapes[at] = match kind.as_str() {
                    "enum" => {
                        let symbols = array("symbols")?.iter().filter_map(Value::as_str).map(str::to_owned);
                        Shape::Enum(symbols.collect())
                    }
                    "fixed" => {
                        let size = object.get("size").and_then(Value::as_u64).ok_or_else(|| missing("size"))?;
                        let size = usize::try_from(size).map_err(|e| e.to_string())?;
                        match (logical, size) {
                            (Some("uuid"), 16) => Shape::Uuid,
                            _ => Shape::Fixed(size, scale()),
                        }
                    }
                    _ => {
                        let mut fields = Vec::new();
                        for field in array("fields")? {
                            let name = field.get("name").and_then(Value::as_str).ok_or_else(|| missing("name"))?;
                            let shape = self.compile(field.get("type").ok_or_else(|| missing("type"))?, within)?;
                            fields.push((name.to_owned(), shape));
                        }
                        Shape::Record(fields)
                    }
                };
                Ok(at)
            }
            other => match primitive(other, logical) {
                Some(shape) => Ok(self.add(shape)),
                None => self.compile(inner, space),
            },
        }
    }
}

/// A name with its namespace.
fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") }
}

fn primitive(name: &str, logical: Option<&str>) -> Option<Shape> {
    Some(match name {
        "null" => Shape::Null,
        "boolean" => Shape::Boolean,
        "int" if logical == Some("date") => Shape::Int(Meaning::Date),
        "int" => Shape::Int(Meaning::Number),
        "long" => Shape::Long(match logical {
            Some("timestamp-millis") => Meaning::Instant(1_000),
            Some("timestamp-micros") => Meaning::Instant(1_000_000),
            Some("timestamp-nanos") => Meaning::Instant(1_000_000_000),
            Some("local-timestamp-millis") => Meaning::Local(1_000),
            Some("local-timestamp-micros") => Meaning::Local(1_000_000),
            Some("local-timestamp-nanos") => Meaning::Local(1_000_000_000),
            _ => Meaning::Number,
        }),
        "float" => Shape::Float,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes(None),
        "string" => Shape::String,
        _ => return None,
    })
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
        ] {
            assert_eq!(decimal(bytes, scale).as_deref(), Some(text));
        }
        assert_eq!(decimal(&[1; 17], 0), None, "more than 128 bits");
        let mut over = [0; 17];
        over[1] = 0x80;
        assert_eq!(decimal(&over, 0), None, "its sign would turn");
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
