//! A schema's JSON to shapes.

use std::collections::HashMap;

use insightera_events::Unit;
use serde_json::Value;

use super::{Meaning, Result, Shape};

type Object = serde_json::Map<String, Value>;

/// What Debezium calls a decimal whose digits behind the point are written with
/// it.
const SCALED: &str = "io.debezium.data.VariableScaleDecimal";

/// The shapes of a schema and of those that it refers to, and which of them is
/// that of a payload.
///
/// # Errors
/// When it is no Avro schema.
pub(super) fn compiled(text: &str, references: &[String]) -> Result<(Vec<Shape>, usize)> {
    let parsed = |text: &str| {
        let mut value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        drop_defaults(&mut value);
        Ok::<_, String>(value)
    };
    let schema = parsed(text)?;
    let mut left = references.iter().map(|text| parsed(text)).collect::<Result<Vec<_>>>()?;
    let texts: Vec<String> = left.iter().map(Value::to_string).collect();
    apache_avro::Schema::parse_str_with_list(&schema.to_string(), &texts).map_err(|e| e.to_string())?;
    let mut compiler = Compiler { shapes: Vec::new(), names: HashMap::new() };
    // They may stand in any order.
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
    let root = compiler.compile(&schema, "")?;
    Ok((compiler.shapes, root))
}

/// Takes the defaults of fields away: they are for readers with other schemas
/// than the writer's, and Avro's library takes none of a decimal.
fn drop_defaults(schema: &mut Value) {
    match schema {
        Value::Array(branches) => branches.iter_mut().for_each(drop_defaults),
        Value::Object(object) => {
            for inner in ["type", "items", "values"] {
                object.get_mut(inner).into_iter().for_each(drop_defaults);
            }
            for field in object.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Value::Object(field) = field {
                    field.remove("default");
                }
                drop_defaults(field);
            }
        }
        _ => {}
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

    fn object(&mut self, object: &Object, space: &str) -> Result<usize> {
        let missing = |key: &str| format!("a schema has no `{key}`");
        let inner = object.get("type").ok_or_else(|| missing("type"))?;
        let Value::String(kind) = inner else { return self.compile(inner, space) };
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
            "bytes" => Ok(self.add(Shape::Bytes(scale(object)?))),
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
                        match (text(object, "logicalType"), size) {
                            (Some("uuid"), 16) => Shape::Uuid,
                            _ => Shape::Fixed(size, scale(object)?),
                        }
                    }
                    _ => {
                        let mut fields = Vec::new();
                        for field in array("fields")? {
                            let name = field.get("name").and_then(Value::as_str).ok_or_else(|| missing("name"))?;
                            let shape = self.compile(field.get("type").ok_or_else(|| missing("type"))?, within)?;
                            fields.push((name.to_owned(), shape));
                        }
                        match text(object, "connect.name").unwrap_or(&full) {
                            SCALED if self.is_scaled(&fields) => Shape::Scaled(fields),
                            _ => Shape::Record(fields),
                        }
                    }
                };
                Ok(at)
            }
            other => match primitive(other, Some(object)) {
                Some(shape) => Ok(self.add(shape)),
                None => self.compile(inner, space),
            },
        }
    }

    /// Whether a record has a number of digits and a value, and nothing else.
    fn is_scaled(&self, fields: &[(String, usize)]) -> bool {
        let is = |(name, shape): &(String, usize)| {
            let field = (name.as_str(), &self.shapes[*shape]);
            matches!(field, ("scale", Shape::Int(Meaning::Number)) | ("value", Shape::Bytes(None)))
        };
        fields.len() == 2 && fields[0].0 != fields[1].0 && fields.iter().all(is)
    }
}

fn text<'v>(object: &'v Object, key: &str) -> Option<&'v str> {
    object.get(key).and_then(Value::as_str)
}

/// A name with its namespace.
fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") }
}

/// A type without a name of its own; `object` says what it means.
fn primitive(name: &str, object: Option<&Object>) -> Option<Shape> {
    let meaning = || object.map_or(Meaning::Number, |object| meaning(name, object));
    Some(match name {
        "null" => Shape::Null,
        "boolean" => Shape::Boolean,
        "int" => Shape::Int(meaning()),
        "long" => Shape::Long(meaning()),
        "float" => Shape::Float,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes(None),
        "string" => Shape::String,
        _ => return None,
    })
}

/// What a whole number means: by its logicalType, which is Avro's own word for
/// what is written; without one by the name that it had in Kafka Connect, where
/// Debezium's times have theirs. Those without a zone are counted as if it were
/// UTC.
fn meaning(kind: &str, object: &Object) -> Meaning {
    let logical = match (kind, text(object, "logicalType")) {
        ("int", Some("date")) => Meaning::Date,
        ("int", Some("time-millis")) => Meaning::Span(Unit::Milliseconds),
        ("long", Some("time-micros")) => Meaning::Span(Unit::Microseconds),
        ("long", Some("timestamp-millis")) => Meaning::Instant(Unit::Milliseconds),
        ("long", Some("timestamp-micros")) => Meaning::Instant(Unit::Microseconds),
        ("long", Some("timestamp-nanos")) => Meaning::Instant(Unit::Nanoseconds),
        ("long", Some("local-timestamp-millis")) => Meaning::Local(Unit::Milliseconds),
        ("long", Some("local-timestamp-micros")) => Meaning::Local(Unit::Microseconds),
        ("long", Some("local-timestamp-nanos")) => Meaning::Local(Unit::Nanoseconds),
        _ => Meaning::Number,
    };
    match text(object, "connect.name") {
        Some(name) if logical == Meaning::Number => named_meaning(name),
        _ => logical,
    }
}

fn named_meaning(name: &str) -> Meaning {
    if let Some(name) = name.strip_prefix("org.apache.kafka.connect.data.") {
        return match name {
            "Date" => Meaning::Date,
            "Time" => Meaning::Span(Unit::Milliseconds),
            "Timestamp" => Meaning::Instant(Unit::Milliseconds),
            _ => Meaning::Number,
        };
    }
    match name.strip_prefix("io.debezium.time.") {
        Some("Date") => Meaning::Date,
        Some("Timestamp") => Meaning::Instant(Unit::Milliseconds),
        Some("MicroTimestamp") => Meaning::Instant(Unit::Microseconds),
        Some("NanoTimestamp") => Meaning::Instant(Unit::Nanoseconds),
        Some("Time") => Meaning::Span(Unit::Milliseconds),
        Some("MicroTime" | "MicroDuration") => Meaning::Span(Unit::Microseconds),
        Some("NanoTime" | "NanoDuration") => Meaning::Span(Unit::Nanoseconds),
        _ => Meaning::Number,
    }
}

/// The digits behind the point, where bytes are a decimal. A negative number of
/// them is no logicalType of Avro's, so that only Kafka Connect says it.
fn scale(object: &Object) -> Result<Option<i32>> {
    let connected = object.get("connect.parameters").and_then(|parameters| parameters.get("scale"));
    let found = match (text(object, "logicalType"), text(object, "connect.name")) {
        (Some("decimal"), _) => object.get("scale").or(connected),
        (_, Some("org.apache.kafka.connect.data.Decimal")) => connected,
        _ => return Ok(None),
    };
    let Some(found) = found else { return Ok(Some(0)) };
    let scale = found.as_i64().or_else(|| found.as_str()?.parse().ok()).and_then(|scale| i32::try_from(scale).ok());
    scale.map(Some).ok_or_else(|| format!("a decimal has the scale {found}"))
}
