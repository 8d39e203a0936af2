//! Avro object container files, read by their own schema: as much of it as
//! manifests and manifest lists need.

use std::collections::HashMap;
use std::io::Read;

use serde_json::{Map, Value, json};

/// Values nest no deeper.
const DEEPEST: usize = 64;

/// The blocks of a file, unpacked, and its schema.
pub struct Container {
    schema: Value,
    blocks: Vec<(u64, Vec<u8>)>,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it is cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number is too long".into())
    }

    fn length(&mut self) -> Result<usize, String> {
        usize::try_from(self.long()?).map_err(|_| "a length is negative".into())
    }

    fn sized(&mut self) -> Result<&'a [u8], String> {
        let length = self.length()?;
        self.take(length)
    }

    /// Blocks of an array or a map: how many items come next, 0 at the end.
    fn items(&mut self) -> Result<u64, String> {
        let count = self.long()?;
        if count < 0 {
            self.long()?;
        }
        Ok(count.unsigned_abs())
    }
}

impl Container {
    /// Reads a file.
    pub fn read(file: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes(file);
        if bytes.take(4)? != b"Obj\x01" {
            return Err("it is no Avro file".into());
        }
        let mut metadata: HashMap<String, Vec<u8>> = HashMap::new();
        loop {
            let count = bytes.items()?;
            if count == 0 {
                break;
            }
            for _ in 0..count {
                let key = String::from_utf8_lossy(bytes.sized()?).into_owned();
                metadata.insert(key, bytes.sized()?.to_vec());
            }
        }
        let sync = bytes.take(16)?;
        let schema = metadata.get("avro.schema").ok_or("it has no schema")?;
        let schema = serde_json::from_slice(schema).map_err(|e| format!("its schema is no JSON: {e}"))?;
        let codec =
            metadata.get("avro.codec").map_or("null".into(), |codec| String::from_utf8_lossy(codec).into_owned());
        let mut blocks = Vec::new();
        while !bytes.0.is_empty() {
            let count = u64::try_from(bytes.long()?).map_err(|_| "a count is negative")?;
            let packed = bytes.sized()?;
            let block = match codec.as_str() {
                "null" => packed.to_vec(),
                "deflate" => {
                    let mut block = Vec::new();
                    let mut reader = flate2::read::DeflateDecoder::new(packed);
                    reader.read_to_end(&mut block).map_err(|e| format!("a block cannot be unpacked: {e}"))?;
                    block
                }
                other => return Err(format!("its codec `{other}` is not read here")),
            };
            if bytes.take(16)? != sync {
                return Err("a block has no end".into());
            }
            blocks.push((count, block));
        }
        Ok(Self { schema, blocks })
    }

    /// The unpacked bytes.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        self.blocks.iter().map(|(_, block)| block.as_slice())
    }

    /// The records; bytes are left out of them.
    pub fn records(&self) -> Result<Vec<Value>, String> {
        let mut named = HashMap::new();
        name_types(&self.schema, &mut named);
        let mut records = Vec::new();
        for (count, block) in &self.blocks {
            let mut bytes = Bytes(block);
            for _ in 0..*count {
                records.push(value(&self.schema, &named, &mut bytes, 0)?);
            }
        }
        Ok(records)
    }
}

fn name_types<'a>(schema: &'a Value, named: &mut HashMap<&'a str, &'a Value>) {
    match schema {
        Value::Array(branches) => branches.iter().for_each(|branch| name_types(branch, named)),
        Value::Object(object) => {
            if let Some(name) =
                object.get("name").and_then(Value::as_str).filter(|_| object.get("type").is_some_and(Value::is_string))
            {
                named.insert(name, schema);
            }
            for key in ["type", "items", "values"] {
                if let Some(inner) = object.get(key) {
                    name_types(inner, named);
                }
            }
            for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
                if let Some(inner) = field.get("type") {
                    name_types(inner, named);
                }
            }
        }
        _ => {}
    }
}

fn value(schema: &Value, named: &HashMap<&str, &Value>, bytes: &mut Bytes<'_>, depth: usize) -> Result<Value, String> {
    if depth > DEEPEST {
        return Err("values nest too deep".into());
    }
    let next = |schema: &Value, bytes: &mut Bytes<'_>| value(schema, named, bytes, depth + 1);
    if let Value::Array(branches) = schema {
        let branch = branches.get(bytes.length()?).ok_or("a union has no such branch")?;
        return next(branch, bytes);
    }
    let kind = match schema {
        Value::String(name) => name.as_str(),
        other => match other.get("type") {
            Some(Value::String(name)) => name.as_str(),
            Some(inner) => return next(inner, bytes),
            None => return Err("a schema has no type".into()),
        },
    };
    Ok(match kind {
        "null" => Value::Null,
        "boolean" => json!(bytes.take(1)?[0] != 0),
        "int" | "long" => json!(bytes.long()?),
        "float" => drop_bytes(bytes.take(4)?),
        "double" => drop_bytes(bytes.take(8)?),
        "bytes" => drop_bytes(bytes.sized()?),
        "string" => json!(String::from_utf8_lossy(bytes.sized()?)),
        "enum" => json!(bytes.long()?),
        "fixed" => {
            let size = schema.get("size").and_then(Value::as_u64).ok_or("a fixed type has no size")?;
            drop_bytes(bytes.take(usize::try_from(size).map_err(|e| e.to_string())?)?)
        }
        "record" => {
            let mut record = Map::new();
            for field in schema.get("fields").and_then(Value::as_array).ok_or("a record has no fields")? {
                let name = field.get("name").and_then(Value::as_str).ok_or("a field has no name")?;
                let inner = field.get("type").ok_or("a field has no type")?;
                record.insert(name.to_owned(), next(inner, bytes)?);
            }
            Value::Object(record)
        }
        "array" | "map" => {
            let inner = schema.get(if kind == "array" { "items" } else { "values" }).ok_or("it has no items")?;
            let mut items = Vec::new();
            loop {
                let count = bytes.items()?;
                if count == 0 {
                    break;
                }
                for _ in 0..count {
                    if kind == "map" {
                        bytes.sized()?;
                    }
                    items.push(next(inner, bytes)?);
                }
            }
            Value::Array(items)
        }
        other => return next(named.get(other).ok_or_else(|| format!("there is no type `{other}`"))?, bytes),
    })
}

fn drop_bytes(_: &[u8]) -> Value {
    Value::Null
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_an_error_and_no_panic() {
        let mut file = b"Obj\x01".to_vec();
        let schema = br#"{"type":"record","name":"r","fields":[{"name":"a","type":["null","string"]}]}"#;
        file.push(2);
        file.push(22);
        file.extend(b"avro.schema");
        file.extend([((schema.len() * 2) & 0x7f) as u8 | 0x80, ((schema.len() * 2) >> 7) as u8]);
        file.extend(schema);
        file.push(0);
        file.extend([7; 16]);
        file.extend([2, 8, 2, 4, b'x', b'y']);
        file.extend([7; 16]);
        let records = Container::read(&file).unwrap().records().unwrap();
        assert_eq!(records, [json!({"a": "xy"})]);
        for cut in 0..file.len() - 1 {
            let read = Container::read(&file[..cut]).and_then(|container| container.records());
            assert!(read.is_err() || read.is_ok_and(|records| records.is_empty()), "cut at {cut}");
        }
    }
}
