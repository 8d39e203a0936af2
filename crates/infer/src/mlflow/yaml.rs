//! The YAML that MLflow writes: maps and lists by indentation, plain and quoted
//! texts, also over several lines. Anything else (anchors, tags, flow
//! collections that hold something) is an error with its line.

/// Deeper nesting than any `MLmodel` has.
const MAX_DEPTH: usize = 32;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// Nothing.
    Null,
    /// A text, or anything that is written as one.
    Text(String),
    /// A list.
    List(Vec<Yaml>),
    /// Names and values.
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.entries().iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Names and values of a map.
    pub fn entries(&self) -> &[(String, Self)] {
        match self {
            Self::Map(entries) => entries,
            _ => &[],
        }
    }

    /// A text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads a file.
pub fn parse(text: &str) -> Result<Yaml, String> {
    let mut lines: Vec<(usize, &str)> = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_end())).collect();
    if lines.first().is_some_and(|(_, line)| *line == "---") {
        lines.remove(0);
    }
    let mut reader = Reader { lines, at: 0 };
    let value = reader.block(0, 0)?;
    reader.skip();
    match reader.lines.get(reader.at) {
        None => Ok(value),
        Some((line, _)) => Err(format!("line {line} is indented in an unexpected way")),
    }
}

struct Reader<'a> {
    lines: Vec<(usize, &'a str)>,
    at: usize,
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn is_item(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}

impl<'a> Reader<'a> {
    /// Goes over empty lines and comments.
    fn skip(&mut self) {
        while self.lines.get(self.at).is_some_and(|(_, line)| line.is_empty() || line.trim_start().starts_with('#')) {
            self.at += 1;
        }
    }

    /// The next line, if it is indented by at least `least`.
    fn next(&mut self, least: usize) -> Option<(usize, usize, &'a str)> {
        self.skip();
        let (number, line) = *self.lines.get(self.at)?;
        let depth = indent(line);
        (depth >= least).then(|| (number, depth, &line[depth..]))
    }

    fn block(&mut self, least: usize, depth: usize) -> Result<Yaml, String> {
        let Some((number, column, text)) = self.next(least) else { return Ok(Yaml::Null) };
        if depth > MAX_DEPTH {
            return Err(format!("line {number} is nested too deep"));
        }
        if is_item(text) { self.list(column, depth) } else { self.map(column, depth) }
    }

    fn list(&mut self, column: usize, depth: usize) -> Result<Yaml, String> {
        let mut items = Vec::new();
        while let Some((number, at, text)) = self.next(column) {
            if at != column || !is_item(text) {
                break;
            }
            let rest = text[1..].trim_start();
            if rest.is_empty() {
                self.at += 1;
                items.push(self.block(column + 1, depth + 1)?);
            } else if split(rest).is_some() {
                return Err(format!("line {number}: a map within a list is not supported"));
            } else {
                items.push(self.scalar(rest, column)?);
            }
        }
        Ok(Yaml::List(items))
    }

    fn map(&mut self, column: usize, depth: usize) -> Result<Yaml, String> {
        let mut entries: Vec<(String, Yaml)> = Vec::new();
        while let Some((number, at, text)) = self.next(column) {
            if at != column || is_item(text) {
                break;
            }
            let (key, rest) = split(text).ok_or_else(|| format!("line {number} has no name"))?;
            if entries.iter().any(|(known, _)| known == key) {
                return Err(format!("line {number} has `{key}` again"));
            }
            let value = if rest.is_empty() {
                self.at += 1;
                // A list may stand as far left as the name that it belongs to.
                match self.next(column) {
                    Some((_, at, text)) if at == column && is_item(text) => self.list(column, depth + 1)?,
                    _ => self.block(column + 1, depth + 1)?,
                }
            } else {
                self.scalar(rest, column)?
            };
            entries.push((key.to_owned(), value));
        }
        Ok(Yaml::Map(entries))
    }

    /// A text that begins with `first` and goes on in lines right of `column`.
    fn scalar(&mut self, first: &str, column: usize) -> Result<Yaml, String> {
        let number = self.lines[self.at].0;
        self.at += 1;
        match first.as_bytes()[0] {
            b'\'' | b'"' => return self.quoted(first, number).map(Yaml::Text),
            b'{' | b'[' if !matches!(first, "{}" | "[]") => {
                return Err(format!("line {number}: a collection in brackets is not supported"));
            }
            b'&' | b'*' | b'!' | b'|' | b'>' | b'%' | b'@' | b'`' => {
                return Err(format!("line {number}: `{first}` is not supported"));
            }
            _ => {}
        }
        let mut text = first.to_owned();
        while let Some((_, line)) = self.lines.get(self.at).filter(|(_, l)| !l.is_empty() && indent(l) > column) {
            text.push(' ');
            text.push_str(line.trim());
            self.at += 1;
        }
        Ok(match text.as_str() {
            "null" | "~" => Yaml::Null,
            "{}" => Yaml::Map(Vec::new()),
            "[]" => Yaml::List(Vec::new()),
            _ => Yaml::Text(text),
        })
    }

    /// A quoted text: a line break is a space, an empty line a line break.
    fn quoted(&mut self, first: &str, number: usize) -> Result<String, String> {
        let quote = first.as_bytes()[0] as char;
        let mut out = String::new();
        let mut rest = &first[1..];
        loop {
            let mut joined = false;
            let mut chars = rest.char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '\'' if quote == '\'' && rest[at + 1..].starts_with('\'') => {
                        out.push('\'');
                        chars.next();
                    }
                    c if c == quote => {
                        let after = rest[at + 1..].trim_start();
                        let good = after.is_empty() || after.starts_with('#');
                        return if good {
                            Ok(out)
                        } else {
                            Err(format!("something follows the text of line {number}"))
                        };
                    }
                    '\\' if quote == '"' => {
                        if at + 1 == rest.len() {
                            joined = true;
                        } else {
                            escape(&mut chars, &mut out)
                                .ok_or_else(|| format!("a bad escape in the text of line {number}"))?;
                        }
                    }
                    c => out.push(c),
                }
            }
            let mut breaks = 0;
            loop {
                let (_, line) =
                    self.lines.get(self.at).ok_or_else(|| format!("the text of line {number} does not end"))?;
                self.at += 1;
                rest = line.trim_start();
                if !rest.is_empty() {
                    break;
                }
                breaks += 1;
            }
            if breaks > 0 {
                out.extend(std::iter::repeat_n('\n', breaks));
            } else if !joined {
                out.truncate(out.trim_end_matches(' ').len());
                out.push(' ');
            }
        }
    }
}

/// Name and value of a line; the name may be quoted.
fn split(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'));
    if let Some(quote) = quote {
        let (key, rest) = text[1..].split_once(quote)?;
        return Some((key, rest.strip_prefix(':')?.trim_start()));
    }
    if let Some(key) = text.strip_suffix(':').filter(|key| !key.contains(": ")) {
        return Some((key, ""));
    }
    text.split_once(": ").map(|(key, rest)| (key, rest.trim_start()))
}

fn escape(chars: &mut std::str::CharIndices<'_>, out: &mut String) -> Option<()> {
    let (_, kind) = chars.next()?;
    let digits = match kind {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => {
            out.push(match kind {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                '"' | '\\' | '/' | ' ' => kind,
                'N' => '\u{85}',
                '_' => '\u{a0}',
                'L' => '\u{2028}',
                'P' => '\u{2029}',
                _ => return None,
            });
            return Some(());
        }
    };
    let mut code = 0u32;
    for _ in 0..digits {
        code = code.checked_mul(16)?.checked_add(chars.next()?.1.to_digit(16)?)?;
    }
    out.push(char::from_u32(code)?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mlflow_writes_is_read() {
        let text = "flavors:\n  xgboost:\n    code: null\n    data: model.ubj\nsignature:\n  inputs: '[{\"name\": \"a ''b''\",\n    \"type\": \"double\"}]'\n  outputs: \"x\\xE9 \\\n    y\"\nlist:\n- a\n- b c\nempty: {}\nutc_time_created: '2026-11-23 12:58:59.8'\n";
        let yaml = parse(text).unwrap();
        assert_eq!(yaml.get("flavors").unwrap().get("xgboost").unwrap().get("code"), Some(&Yaml::Null));
        let signature = yaml.get("signature").unwrap();
        assert_eq!(signature.get("inputs").unwrap().text(), Some("[{\"name\": \"a 'b'\", \"type\": \"double\"}]"));
        assert_eq!(signature.get("outputs").unwrap().text(), Some("xé y"));
        assert_eq!(yaml.get("list"), Some(&Yaml::List(vec![Yaml::Text("a".into()), Yaml::Text("b c".into())])));
        assert_eq!(yaml.get("empty"), Some(&Yaml::Map(Vec::new())));
        assert_eq!(yaml.get("utc_time_created").unwrap().text(), Some("2026-11-23 12:58:59.8"));
    }

    #[test]
    fn what_is_not_supported_is_an_error_with_its_line() {
        for (text, line) in [
            ("a: 1\nb: &x 2\n", "line 2"),
            ("a: {b: 1}\n", "line 1"),
            ("a: 'x\n", "line 1"),
            ("a:\n  b: 1\n c: 2\n", "line 3"),
            ("a: 1\na: 2\n", "line 2"),
            ("just text\n", "line 1"),
            ("a: \"\\q\"\n", "line 1"),
            ("- a: 1\n", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(line), "{text:?}: {error}");
        }
        let deep: String = (0..500).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(parse(&deep).unwrap_err().contains("deep"));
    }

    #[test]
    fn garbage_never_panics() {
        let good = "a:\n  b: 'x ''y\n    z'\n  c: \"q\\u00e9\"\n- d\n";
        let mut state = 3u64;
        for _ in 0..20_000 {
            let mut bad = good.as_bytes().to_vec();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % bad.len();
                bad[at] = b"'\"\\:- \n#{}[]xu0"[(state >> 20) as usize % 15];
            }
            let _ = parse(&String::from_utf8_lossy(&bad));
        }
    }
}
