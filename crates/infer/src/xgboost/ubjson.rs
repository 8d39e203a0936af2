//! A reader for UBJSON, draft 12, as XGBoost writes it: typed lists with
//! `$` and `#`, big-endian numbers.

use crate::document::{Document, ListBuilder};

/// Deeper nesting than any model has.
const MAX_DEPTH: usize = 64;

/// Parses one value, which must be all there is; the lists of numbers with these
/// names are left out.
pub fn parse(bytes: &[u8], unused: &[&str]) -> Result<Document, String> {
    let mut reader = Reader { bytes, at: 0, unused, skip: false };
    let marker = reader.byte()?;
    let value = reader.value(marker, 0)?;
    if reader.at < bytes.len() {
        return Err(format!("something follows its end at byte {}", reader.at));
    }
    Ok(value)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    unused: &'a [&'a str],
    /// Whether the next list of numbers is left out.
    skip: bool,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
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
        // Every element of anything takes at least one byte.
        let left = self.bytes.len() - self.at;
        let length = usize::try_from(length).ok().filter(|n| *n <= left);
        length.ok_or_else(|| format!("byte {} is the end of an impossible length", self.at))
    }

    fn string(&mut self) -> Result<String, String> {
        let length = self.length()?;
        let start = self.at;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| format!("the text at byte {start} is no UTF-8"))
    }

    fn value(&mut self, marker: u8, depth: usize) -> Result<Document, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deep".into());
        }
        Ok(match marker {
            b'Z' => Document::Null,
            b'T' => Document::Number(1.0),
            b'F' => Document::Number(0.0),
            b'i' | b'U' | b'I' | b'l' | b'L' => Document::Number(self.integer(marker)? as f64),
            b'd' => Document::Number(f64::from(f32::from_be_bytes(self.array()?))),
            b'D' => Document::Number(f64::from_be_bytes(self.array()?)),
            b'S' | b'H' => Document::Text(self.string()?),
            b'C' => Document::Text(char::from(self.byte()?).to_string()),
            b'[' => self.list(depth)?,
            b'{' => self.map(depth)?,
            other => return Err(format!("byte {} is no type marker: 0x{other:02x}", self.at - 1)),
        })
    }

    fn list(&mut self, depth: usize) -> Result<Document, String> {
        let mut next = self.byte()?;
        let mut kind = None;
        if next == b'$' {
            kind = Some(self.byte()?);
            next = self.byte()?;
        }
        let mut list = ListBuilder::Numbers(Vec::new());
        if next == b'#' {
            let count = self.length()?;
            if let Some(numbers) = kind.map(|kind| self.typed(kind, count)).transpose()?.flatten() {
                return Ok(numbers);
            }
            // Their elements take no bytes, so that no file is too short for any number of them.
            if matches!(kind, Some(b'Z' | b'T' | b'F' | b'N')) {
                return Err(format!("a list of a type without values at byte {}", self.at));
            }
            for _ in 0..count {
                let marker = match kind {
                    Some(kind) => kind,
                    None => self.byte()?,
                };
                list.push(self.value(marker, depth + 1)?);
            }
            return Ok(list.finish());
        }
        if kind.is_some() {
            return Err(format!("a typed list without a length at byte {}", self.at));
        }
        while next != b']' {
            if next != b'N' {
                list.push(self.value(next, depth + 1)?);
            }
            next = self.byte()?;
        }
        Ok(list.finish())
    }

    /// `count` numbers of one type; `None` when the type is no number.
    fn typed(&mut self, kind: u8, count: usize) -> Result<Option<Document>, String> {
        let width = match kind {
            b'i' | b'U' => 1,
            b'I' => 2,
            b'l' | b'd' => 4,
            b'L' | b'D' => 8,
            _ => return Ok(None),
        };
        let skip = self.skip;
        let bytes = self.take(count.checked_mul(width).ok_or("a list is too long")?)?;
        Ok(Some(match kind {
            _ if skip => Document::Null,
            b'i' => Document::Integers(bytes.iter().map(|b| i32::from(*b as i8)).collect()),
            b'U' => Document::Bytes(bytes.to_vec()),
            b'I' => Document::Integers(each(bytes, |b| i32::from(i16::from_be_bytes(b)))),
            b'l' => Document::Integers(each(bytes, i32::from_be_bytes)),
            b'd' => Document::Singles(each(bytes, f32::from_be_bytes)),
            b'L' => Document::Numbers(each(bytes, |b| i64::from_be_bytes(b) as f64)),
            _ => Document::Numbers(each(bytes, f64::from_be_bytes)),
        }))
    }

    fn map(&mut self, depth: usize) -> Result<Document, String> {
        let mut map = Vec::new();
        if self.bytes.get(self.at) == Some(&b'#') {
            self.at += 1;
            for _ in 0..self.length()? {
                map.push(self.entry(depth)?);
            }
            return Ok(Document::Map(map));
        }
        while self.bytes.get(self.at) != Some(&b'}') {
            map.push(self.entry(depth)?);
        }
        self.at += 1;
        Ok(Document::Map(map))
    }

    fn entry(&mut self, depth: usize) -> Result<(String, Document), String> {
        let key = self.string()?;
        let marker = self.byte()?;
        self.skip = self.unused.contains(&key.as_str());
        let value = self.value(marker, depth + 1)?;
        self.skip = false;
        Ok((key, value))
    }
}

fn each<T, const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (items, _) = bytes.as_chunks::<N>();
    items.iter().map(|item| number(*item)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"a": [1f, 2f], "b": "hi", "c": [-1, 258], "d": [true, {}], "e": 7}`.
    const SAMPLE: &[u8] =
        b"{i\x01a[$d#i\x02\x3f\x80\x00\x00\x40\x00\x00\x00i\x01bSi\x02hii\x01c[$I#i\x02\xff\xff\x01\x02i\x01d[#i\x02T{}i\x01ei\x07}";

    #[test]
    fn it_reads_what_json_says() {
        let json = r#"{"a": [1.0, 2.0], "b": "hi", "c": [-1, 258], "d": [true, {}], "e": 7}"#;
        let (found, said) = (parse(SAMPLE, &[]).unwrap(), crate::json::parse(json.as_bytes()).unwrap());
        for name in ["a", "c"] {
            assert_eq!(found.numbers(name).unwrap(), said.numbers(name).unwrap(), "{name}");
        }
        for name in ["b", "d", "e"] {
            assert_eq!(found.get(name).unwrap(), said.get(name).unwrap(), "{name}");
        }
    }

    #[test]
    fn only_the_lists_that_are_named_are_left_out() {
        let found = parse(SAMPLE, &["a", "b", "d"]).unwrap();
        assert_eq!(found.get("a"), Some(&Document::Null));
        assert_eq!(found.numbers("c").unwrap().as_ref(), [-1.0, 258.0]);
        assert_eq!(found.get("b").and_then(Document::text), Some("hi"));
        assert_eq!(found.field("d").unwrap().items().unwrap().len(), 2);
    }

    #[test]
    fn nothing_cut_short_is_read_and_nothing_garbled_panics() {
        for cut in 0..SAMPLE.len() {
            assert!(parse(&SAMPLE[..cut], &["a"]).is_err(), "{cut}");
        }
        for at in 0..SAMPLE.len() {
            for flip in 1..=255 {
                let mut bad = SAMPLE.to_vec();
                bad[at] ^= flip;
                let _ = parse(&bad, &["a"]);
            }
        }
        let deep = [b"[".repeat(10_000), b"]".repeat(10_000)].concat();
        assert!(parse(&deep, &[]).unwrap_err().contains("deep"));
    }
}
