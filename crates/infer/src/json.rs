//! A JSON reader that rounds every number once: what a text says is what a
//! model gets, to the last bit.

use crate::document::{Document, ListBuilder};

/// Deeper nesting than any model has.
const MAX_DEPTH: usize = 200;

/// Parses one value, which must be all there is. The words `NaN`, `Infinity`
/// and `-Infinity`, which XGBoost writes, are numbers.
pub fn parse(bytes: &[u8]) -> Result<Document, String> {
    parse_without(bytes, &[])
}

/// [`parse`], leaving the lists of numbers with these names out.
pub fn parse_without(bytes: &[u8], unused: &[&str]) -> Result<Document, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("it is no UTF-8: {e}"))?;
    let mut reader = Reader { text, at: 0, unused };
    let value = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(format!("something follows its end at byte {}", reader.at));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    unused: &'a [&'a str],
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn wrong<T>(&self, wanted: &str) -> Result<T, String> {
        Err(match self.peek() {
            None => "it ends too early".to_owned(),
            Some(_) => format!("{wanted} is due at byte {}", self.at),
        })
    }

    /// Takes `byte` after any space, if it is next.
    fn next_is(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Document, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deep".into());
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.map(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => self.string().map(Document::Text),
            Some(b'-' | b'0'..=b'9') => self.number().map(Document::Number),
            _ => {
                let words = [
                    ("null", Document::Null),
                    ("true", Document::Number(1.0)),
                    ("false", Document::Number(0.0)),
                    ("NaN", Document::Number(f64::NAN)),
                    ("Infinity", Document::Number(f64::INFINITY)),
                ];
                let rest = &self.text[self.at..];
                match words.into_iter().find(|(word, _)| rest.starts_with(word)) {
                    Some((word, value)) => {
                        self.at += word.len();
                        Ok(value)
                    }
                    None => self.wrong("a value"),
                }
            }
        }
    }

    fn number(&mut self) -> Result<f64, String> {
        if let Some((number, length)) = short_number(&self.text.as_bytes()[self.at..]) {
            self.at += length;
            return Ok(number);
        }
        let start = self.at;
        if self.text[start..].starts_with("-Infinity") {
            self.at += "-Infinity".len();
            return Ok(f64::NEG_INFINITY);
        }
        while self.peek().is_some_and(in_number) {
            self.at += 1;
        }
        self.text[start..self.at].parse().map_err(|_| format!("a number is due at byte {start}"))
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(end) = rest.find(['"', '\\']) else { return Err("it ends within a text".into()) };
            if rest.bytes().take(end).any(|b| b < b' ') {
                return Err(format!("a control character stands in the text at byte {}", self.at));
            }
            out.push_str(&rest[..end]);
            self.at += end + 1;
            if rest.as_bytes()[end] == b'"' {
                return Ok(out);
            }
            out.push(self.escaped()?);
        }
    }

    fn escaped(&mut self) -> Result<char, String> {
        let byte = self.peek().ok_or("it ends within a text")?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.unit()?;
                let mut code = high;
                if (0xd800..0xdc00).contains(&high) && self.text[self.at..].starts_with("\\u") {
                    self.at += 2;
                    let low = self.unit()?.wrapping_sub(0xdc00) & 0xffff;
                    code = 0x1_0000 + ((high - 0xd800) << 10) + low.min(0x3ff);
                }
                char::from_u32(code).ok_or_else(|| format!("no character is escaped before byte {}", self.at))?
            }
            _ => return Err(format!("an unknown escape before byte {}", self.at)),
        })
    }

    fn unit(&mut self) -> Result<u32, String> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|d| u32::from_str_radix(d, 16).ok());
        self.at += 4;
        code.ok_or_else(|| format!("four digits are due before byte {}", self.at))
    }

    fn list(&mut self, depth: usize) -> Result<Document, String> {
        self.at += 1;
        let mut numbers = Vec::new();
        if self.next_is(b']') {
            return Ok(Document::Numbers(numbers));
        }
        // Nearly all of a model is lists of numbers.
        while matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            numbers.push(self.number()?);
            if self.next_is(b']') {
                return Ok(Document::Numbers(numbers));
            }
            if !self.next_is(b',') {
                return self.wrong("a comma");
            }
            self.space();
        }
        let mut list = ListBuilder::Numbers(numbers);
        loop {
            list.push(self.value(depth + 1)?);
            if self.next_is(b']') {
                return Ok(list.finish());
            }
            if !self.next_is(b',') {
                return self.wrong("a comma");
            }
        }
    }

    /// Passes a list if it holds numbers alone; else nothing is passed.
    fn pass_numbers(&mut self) -> bool {
        let start = self.at;
        let mut passed = self.next_is(b'[');
        while passed {
            self.space();
            let from = self.at;
            while self.peek().is_some_and(in_number) {
                self.at += 1;
            }
            if from < self.at && self.next_is(b']') {
                return true;
            }
            passed = from < self.at && self.next_is(b',');
        }
        self.at = start;
        false
    }

    fn map(&mut self, depth: usize) -> Result<Document, String> {
        self.at += 1;
        let mut map = Vec::new();
        if self.next_is(b'}') {
            return Ok(Document::Map(map));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.wrong("a name");
            }
            let name = self.string()?;
            if !self.next_is(b':') {
                return self.wrong("a colon");
            }
            let value = if self.unused.contains(&name.as_str()) && self.pass_numbers() {
                Document::Null
            } else {
                self.value(depth + 1)?
            };
            map.push((name, value));
            if self.next_is(b'}') {
                return Ok(Document::Map(map));
            }
            if !self.next_is(b',') {
                return self.wrong("a comma");
            }
        }
    }
}

/// Whether numbers have this byte.
fn in_number(byte: u8) -> bool {
    matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E' | b'0'..=b'9')
}

/// Powers of ten that are exact.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// A number of few digits, as most numbers of a tree are, and its length: where
/// its digits as one whole number and the power of ten are both exact, one
/// operation rounds as it must (Clinger 1990). Nothing of any other.
fn short_number(bytes: &[u8]) -> Option<(f64, usize)> {
    let digits = |from: usize, number: &mut u64| {
        let mut at = from;
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            // Past 15 digits it is refused below, whatever it wraps to.
            *number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            at += 1;
        }
        at
    };
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut whole = 0;
    let mut at = digits(start, &mut whole);
    let mut count = at - start;
    if count == 0 {
        return None;
    }
    let mut power = 0i64;
    if bytes.get(at) == Some(&b'.') {
        let end = digits(at + 1, &mut whole);
        let behind = end - at - 1;
        if behind == 0 {
            return None;
        }
        (at, count, power) = (end, count + behind, -(behind as i64));
    }
    if count > 15 {
        return None;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = bytes.get(at + 1).copied();
        let from = at + 1 + usize::from(matches!(sign, Some(b'+' | b'-')));
        let mut exponent = 0;
        let end = digits(from, &mut exponent);
        if end == from || end - from > 3 {
            return None;
        }
        at = end;
        power += if sign == Some(b'-') { -(exponent as i64) } else { exponent as i64 };
    }
    if bytes.get(at).copied().is_some_and(in_number) {
        return None;
    }
    let scale = *POWERS.get(usize::try_from(power.unsigned_abs()).ok()?)?;
    let number = if power < 0 { whole as f64 / scale } else { whole as f64 * scale };
    Some((if negative { -number } else { number }, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_rust_reads() {
        for text in [
            "0.1",
            "-0.80740740740740746",
            "1e-310",
            "17976931348623157e292",
            "0.30000000000000004",
            "-0",
            "5",
            "-17",
            "000",
            "999999999999999",
            "1000000000000001",
            "12345678901234567890",
            "-8.0740740E-1",
            "1.17549435E-38",
            "3.4028235e38",
            "123456789012345e22",
            "123456789012345e23",
            "1e22",
            "1e-22",
            "9007199254740993e-5",
            "0.000000000000001",
            "-0.0",
            "-0E5",
            "1E+05",
            "1e007",
            "1e0005",
            "00012.50",
            "5e-324",
            "1e400",
        ] {
            let Document::Number(found) = parse(text.as_bytes()).unwrap() else { panic!("{text}") };
            assert_eq!(found.to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn numbers_of_every_length_are_rounded_once() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 11
        };
        for _ in 0..200_000 {
            let digits = (next() % 10u64.pow(1 + (next() % 17) as u32)).to_string();
            let point = next() as usize % (digits.len() + 1);
            let sign = if next() % 2 == 0 { "-" } else { "" };
            let mut text = match point {
                0 => format!("{sign}0.{digits}"),
                _ if point == digits.len() => format!("{sign}{digits}"),
                _ => format!("{sign}{}.{}", &digits[..point], &digits[point..]),
            };
            if next() % 2 == 0 {
                text.push_str(&format!("e{}", next() as i64 % 50 - 25));
            }
            let Document::Numbers(found) = parse(format!("[{text}]").as_bytes()).unwrap() else { panic!("{text}") };
            assert_eq!(found[0].to_bits(), text.parse::<f64>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn texts_and_structures_are_read_as_serde_reads_them() {
        let text = r#" {"a\"\\\u0041\ud83d\ude00\n": [1, [], {}, null, "x", [true, false]], "b": {"c": "é"}} "#;
        let Document::Map(map) = parse(text.as_bytes()).unwrap() else { panic!() };
        let serde: serde_json::Value = serde_json::from_str(text).unwrap();
        for (name, _) in &map {
            assert!(serde.get(name).is_some(), "{name}");
        }
        assert_eq!(map[0].1.items().unwrap().len(), 6);
        assert_eq!(map[1].1.field("c").unwrap().text(), Some("é"));
        assert_eq!(parse(b"[NaN, -Infinity]").unwrap().items(), None);
    }

    #[test]
    fn only_the_lists_of_numbers_that_are_named_are_left_out() {
        let text = br#"{"a": [1, -2.5e3 ], "b": [3], "c": ["a", 1], "d": [], "e": [1, null], "f": 7}"#;
        let found = parse_without(text, &["a", "c", "d", "e", "f"]).unwrap();
        assert_eq!(found.get("a"), Some(&Document::Null));
        assert_eq!(found.numbers("b").unwrap().as_ref(), [3.0]);
        let whole = parse(text).unwrap();
        for name in ["c", "d", "e", "f"] {
            assert_eq!(found.get(name), whole.get(name), "{name}");
        }
        for bad in [&b"{\"a\": [1"[..], b"{\"a\": [1,]}", b"{\"a\": [1 2]}", b"{\"a\": [,]}"] {
            assert!(parse_without(bad, &["a"]).is_err());
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for bad in [
            "",
            "{",
            "[1,",
            "[1 2]",
            "{\"a\" 1}",
            "{a:1}",
            "\"x",
            "1 2",
            "\"\\u12\"",
            "\"\\ud800\"",
            "tru",
            "-",
            "+1",
            "1.5.2",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).unwrap_err().contains("deep"));
        let good = r#"{"a": ["\u00e9", 1.5e3, {"b": null}]}"#.as_bytes();
        for at in 0..good.len() {
            assert!(parse(&good[..at]).is_err());
            for other in [b'"', b'\\', b'{', b'u', 0xff, b'0'] {
                let mut bad = good.to_vec();
                bad[at] = other;
                let _ = parse(&bad);
            }
        }
    }
}
