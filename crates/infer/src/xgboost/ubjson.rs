//! A reader for UBJSON, draft 12, as XGBoost writes it: typed arrays with
//! `$` and `#`, big-endian numbers.

use serde_json::{Map, Number, Value};

/// Deeper nesting than any model has.
const MAX_DEPTH: usize = 64;

/// Parses one value.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = Reader { bytes, at: 0 };
    let marker = reader.byte()?;
    reader.value(marker, 0)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        let byte = self.bytes.get(self.at).copied().ok_or_else(|| "it ends too early".to_owned())?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| "it ends too early".to_owned())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn integer(&mut self, marker: u8) -> Result<i64, String> {
        Ok(match marker {
            b'i' => i64::from(i8::from_be_bytes(self.array()?)),
            b'U' => i64::from(self.byte()?),
            b'I' => i64::from(i16::from_be_bytes(self.array()?)),
            b'l' => i64::from(i32::from_be_bytes(self.array()?)),
            b'L' => i64::from_be_bytes(self.array()?),
            other => return Err(format!("byte {} is no integer marker: 0x{other:02x}", self.at - 1)),
        })
    }

    fn length(&mut self) -> Result<usize, String> {
        let marker = self.byte()?;
        let length = self.integer(marker)?;
        let left = self.bytes.len() - self.at;
        // Every element of a typed array takes at least one byte.
        usize::try_from(length)
            .ok()
            .filter(|n| *n <= left)
            .ok_or_else(|| format!("a length of {length} at byte {}", self.at))
    }

    fn string(&mut self) -> Result<String, String> {
        let length = self.length()?;
        let start = self.at;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| format!("a string at byte {start} is no UTF-8"))
    }

    fn value(&mut self, marker: u8, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deep".into());
        }
        Ok(match marker {
            b'Z' => Value::Null,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'i' | b'U' | b'I' | b'l' | b'L' => Value::Number(self.integer(marker)?.into()),
            b'd' => float(f64::from(f32::from_be_bytes(self.array()?))),
            b'D' => float(f64::from_be_bytes(self.array()?)),
            b'S' | b'H' => Value::String(self.string()?),
            b'C' => Value::String(char::from(self.byte()?).to_string()),
            b'[' => self.list(depth)?,
            b'{' => self.object(depth)?,
            other => return Err(format!("byte {} is no type marker: 0x{other:02x}", self.at - 1)),
        })
    }

    fn list(&mut self, depth: usize) -> Result<Value, String> {
        let mut next = self.byte()?;
        let mut kind = None;
        if next == b'$' {
            kind = Some(self.byte()?);
            next = self.byte()?;
        }
        if next == b'#' {
            let count = self.length()?;
            let mut list = Vec::with_capacity(count);
            for _ in 0..count {
                let marker = match kind {
                    Some(kind) => kind,
                    None => self.byte()?,
                };
                list.push(self.value(marker, depth + 1)?);
            }
            return Ok(Value::Array(list));
        }
        if kind.is_some() {
            return Err(format!("a typed list without a length at byte {}", self.at));
        }
        let mut list = Vec::new();
        while next != b']' {
            if next != b'N' {
                list.push(self.value(next, depth + 1)?);
            }
            next = self.byte()?;
        }
        Ok(Value::Array(list))
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        if self.bytes.get(self.at) == Some(&b'#') {
            self.at += 1;
            for _ in 0..self.length()? {
                let key = self.string()?;
                let marker = self.byte()?;
                map.insert(key, self.value(marker, depth + 1)?);
            }
            return Ok(Value::Object(map));
        }
        while self.bytes.get(self.at) != Some(&b'}') {
            let key = self.string()?;
            let marker = self.byte()?;
            map.insert(key, self.value(marker, depth + 1)?);
        }
        self.at += 1;
        Ok(Value::Object(map))
    }
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_lists_and_objects_are_read() {
        let bytes = b"{i\x01a[$d#i\x02\x3f\x80\x00\x00\x40\x00\x00\x00i\x01bSi\x02hi}";
        let value = parse(bytes).unwrap();
        assert_eq!(value, serde_json::json!({"a": [1.0, 2.0], "b": "hi"}));
    }

    #[test]
    fn nothing_cut_short_or_garbled_panics() {
        let bytes = b"{i\x01a[$d#i\x02\x3f\x80\x00\x00\x40\x00\x00\x00i\x01b[#i\x02TFi\x01c{}}";
        assert!(parse(bytes).is_ok());
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x40, 0x80, 0xff] {
                let mut bad = bytes.to_vec();
                bad[at] ^= flip;
                let _ = parse(&bad);
            }
        }
    }
}
