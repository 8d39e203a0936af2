//! A reader of JSON texts that keeps nothing: the caller asks for what comes
//! next and passes over the rest. Every text that is not JSON is refused, and
//! a number is the double that is nearest to its digits.

use std::borrow::Cow;

/// Arrays and objects within each other.
const DEPTH: usize = 128;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar {
    /// `null`
    Null,
    /// `true` or `false`
    Boolean(bool),
    /// Digits alone, within 64 bits.
    Whole(i64),
    /// Any other number.
    Number(f64),
}

/// The kind of the value that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
    /// Null, a boolean or a number.
    Scalar,
}

/// What is wrong, and at which byte.
pub type Result<T> = std::result::Result<T, String>;

/// A text and a place in it.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// The beginning of a text.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    fn wrong<T>(&self, what: &str) -> Result<T> {
        Err(format!("{what} at byte {}", self.at))
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The byte that is read next.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The text from byte `from` on that has been read.
    pub fn since(&self, from: usize) -> &'a str {
        &self.text[from..self.at]
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
    }

    /// What comes next.
    pub fn peek(&mut self) -> Result<Next> {
        self.skip_blanks();
        match self.byte() {
            Some(b'"') => Ok(Next::String),
            Some(b'[') => Ok(Next::Array),
            Some(b'{') => Ok(Next::Object),
            Some(_) => Ok(Next::Scalar),
            None => self.wrong("the text ends early"),
        }
    }

    /// Nothing but blanks may be left.
    pub fn end(&mut self) -> Result<()> {
        self.skip_blanks();
        if self.at == self.text.len() { Ok(()) } else { self.wrong("something follows the value") }
    }

    /// Begins an array or object; whether it has a first element.
    pub fn enter(&mut self) -> Result<bool> {
        self.depth += 1;
        if self.depth > DEPTH {
            return self.wrong("arrays and objects are too deep in each other");
        }
        let end = if self.byte() == Some(b'[') { b']' } else { b'}' };
        self.at += 1;
        self.skip_blanks();
        if self.byte() == Some(end) {
            return self.leave().map(|()| false);
        }
        Ok(true)
    }

    fn leave(&mut self) -> Result<()> {
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    /// After an element: whether there is another one before `end`.
    pub fn more(&mut self, end: u8) -> Result<bool> {
        self.skip_blanks();
        match self.byte() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(found) if found == end => self.leave().map(|()| false),
            None => self.wrong("the text ends early"),
            Some(_) => self.wrong("a comma or the end is missing"),
        }
    }

    /// The name of an entry, and the colon after it.
    pub fn name(&mut self) -> Result<Cow<'a, str>> {
        self.skip_blanks();
        if self.byte() != Some(b'"') {
            return self.wrong("a name in quotes is missing");
        }
        let name = self.string()?;
        self.skip_blanks();
        if self.byte() != Some(b':') {
            return self.wrong("a colon is missing");
        }
        self.at += 1;
        Ok(name)
    }

    /// A string, whose quote is next.
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let from = self.at;
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Borrowed(&self.text[from..self.at - 1]));
                }
                Some(b'\\') => return self.escaped(from).map(Cow::Owned),
                Some(0..=31) => return self.wrong("a control character in a string"),
                Some(_) => self.at += 1,
                None => return self.wrong("the text ends within a string"),
            }
        }
    }

    /// The rest of a string with escapes, from its beginning.
    fn escaped(&mut self, from: usize) -> Result<String> {
        let mut out = self.text[from..self.at].to_owned();
        loop {
            let plain = self.at;
            while !matches!(self.byte(), None | Some(b'"' | b'\\' | 0..=31)) {
                self.at += 1;
            }
            out.push_str(&self.text[plain..self.at]);
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 2;
                    let escape = self.text.as_bytes().get(self.at - 1).copied();
                    out.push(match escape {
                        Some(plain @ (b'"' | b'\\' | b'/')) => char::from(plain),
                        Some(b'b') => '\u{8}',
                        Some(b'f') => '\u{c}',
                        Some(b'n') => '\n',
                        Some(b'r') => '\r',
                        Some(b't') => '\t',
                        Some(b'u') => self.unicode()?,
                        _ => return self.wrong("an escape that is none"),
                    });
                }
                Some(_) => return self.wrong("a control character in a string"),
                None => return self.wrong("the text ends within a string"),
            }
        }
    }

    fn unit(&mut self) -> Result<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else { return self.wrong("four hexadecimal digits are missing") };
        let number = digits.iter().fold(0, |n, digit| n * 16 + char::from(*digit).to_digit(16).unwrap_or(0));
        self.at += 4;
        Ok(number)
    }

    fn unicode(&mut self) -> Result<char> {
        let first = self.unit()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).map_or_else(|| self.wrong("half a character"), Ok);
        }
        if self.text.as_bytes().get(self.at..self.at + 2) != Some(b"\\u") {
            return self.wrong("half a character");
        }
        self.at += 2;
        let second = self.unit()?;
        if !(0xdc00..0xe000).contains(&second) {
            return self.wrong("half a character");
        }
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        char::from_u32(code).map_or_else(|| self.wrong("half a character"), Ok)
    }

    /// Null, a boolean or a number.
    pub fn scalar(&mut self) -> Result<Scalar> {
        for (word, value) in
            [("null", Scalar::Null), ("true", Scalar::Boolean(true)), ("false", Scalar::Boolean(false))]
        {
            if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.number()
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - from
    }

    fn number(&mut self) -> Result<Scalar> {
        let from = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        let leads_with_zero = self.byte() == Some(b'0');
        match self.digits() {
            0 => return self.wrong("a value is missing"),
            1 => {}
            _ if leads_with_zero => return self.wrong("a number begins with 0"),
            _ => {}
        }
        let mut whole = true;
        if self.byte() == Some(b'.') {
            self.at += 1;
            whole = false;
            if self.digits() == 0 {
                return self.wrong("digits are missing");
            }
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            whole = false;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            if self.digits() == 0 {
                return self.wrong("digits are missing");
            }
        }
        let text = &self.text[from..self.at];
        // `-0` is a double: no integer has that sign.
        if whole
            && text != "-0"
            && let Ok(number) = text.parse()
        {
            return Ok(Scalar::Whole(number));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Scalar::Number(number)),
            _ => self.wrong("a number is too large"),
        }
    }

    /// Passes over a value.
    pub fn skip(&mut self) -> Result<()> {
        match self.peek()? {
            Next::String => self.string().map(drop),
            Next::Scalar => self.scalar().map(drop),
            Next::Array => {
                let mut more = self.enter()?;
                while more {
                    self.skip()?;
                    more = self.more(b']')?;
                }
                Ok(())
            }
            Next::Object => {
                let mut more = self.enter()?;
                while more {
                    self.name()?;
                    self.skip()?;
                    more = self.more(b'}')?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_json(text: &str) -> bool {
        let mut reader = Reader::new(text);
        reader.skip().and_then(|()| reader.end()).is_ok()
    }

    #[test]
    fn texts_are_json_exactly_when_serde_json_says_so() {
        let seed = r#" {"a" : [1, -2.5e3, 0.0, "x\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é", null, true, false, {}, []], "b":{"c":-0}} "#;
        assert!(is_json(seed));
        let mut numbers = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = |below: usize| {
            numbers ^= numbers << 13;
            numbers ^= numbers >> 7;
            numbers ^= numbers << 17;
            (numbers % below as u64) as usize
        };
        let letters: Vec<char> = "{}[]:,\"\\ue+-.0159nultrfasE x\u{1}é".chars().collect();
        let (mut good, mut bad) = (0, 0);
        for _ in 0..60_000 {
            let mut text: Vec<char> = seed.chars().collect();
            for _ in 0..=random(2) {
                let at = random(text.len());
                match random(3) {
                    0 => drop(text.remove(at)),
                    1 => text.insert(at, letters[random(letters.len())]),
                    _ => text[at] = letters[random(letters.len())],
                }
            }
            let text: String = text.into_iter().collect();
            let wanted = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            assert_eq!(is_json(&text), wanted, "{text}");
            if wanted { good += 1 } else { bad += 1 }
        }
        assert!(good > 1_000 && bad > 1_000, "{good} {bad}");
    }

    #[test]
    fn numbers_are_the_nearest_doubles() {
        for text in ["0.1", "123456789012345678901234567890", "1e-320", "9007199254740993.0", "3.1415926535897931159e0"]
        {
            let wanted = text.parse::<f64>().unwrap();
            assert_eq!(Reader::new(text).scalar(), Ok(Scalar::Number(wanted)), "{text}");
        }
        assert_eq!(Reader::new("-9223372036854775808").scalar(), Ok(Scalar::Whole(i64::MIN)));
        assert_eq!(Reader::new("9223372036854775808").scalar(), Ok(Scalar::Number(9_223_372_036_854_775_808.0)));
        assert!(Reader::new("1e999").scalar().is_err());
    }

    #[test]
    fn depth_is_bounded() {
        assert!(is_json(&("[".repeat(DEPTH) + &"]".repeat(DEPTH))));
        assert!(!is_json(&("[".repeat(DEPTH + 1) + &"]".repeat(DEPTH + 1))));
        assert!(!is_json(&"[".repeat(1_000_000)));
    }
}
