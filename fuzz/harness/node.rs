//! JSON and UBJSON as one tree, so that mutations keep a file readable.

/// Deeper files are mutated as bytes.
const MAX_DEPTH: usize = 80;

#[derive(Debug, Clone)]
pub enum Node {
    /// A number, true, false or null, as JSON writes it.
    Atom(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    /// A list of numbers of one UBJSON type.
    Typed(u8, Vec<f64>),
}

pub fn from_json(bytes: &[u8]) -> Option<Node> {
    let mut reader = Reader { bytes, at: 0 };
    let node = reader.json(0)?;
    reader.space();
    (reader.at == bytes.len()).then_some(node)
}

pub fn from_ubj(bytes: &[u8]) -> Option<Node> {
    let mut reader = Reader { bytes, at: 0 };
    let marker = reader.byte()?;
    let node = reader.ubj(marker, 0)?;
    (reader.at == bytes.len()).then_some(node)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.at += 1;
        self.bytes.get(self.at - 1).copied()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn json(&mut self, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.space();
        match self.peek()? {
            b'"' => self.json_text().map(Node::Text),
            open @ (b'[' | b'{') => {
                self.at += 1;
                let (mut list, mut map) = (Vec::new(), Vec::new());
                let close = if open == b'[' { b']' } else { b'}' };
                loop {
                    self.space();
                    match self.peek()? {
                        b if b == close => break,
                        b',' => self.at += 1,
                        _ if open == b'[' => list.push(self.json(depth + 1)?),
                        _ => {
                            let key = self.json_text()?;
                            self.space();
                            (self.byte()? == b':').then_some(())?;
                            map.push((key, self.json(depth + 1)?));
                        }
                    }
                }
                self.at += 1;
                Some(if open == b'[' { Node::List(list) } else { Node::Map(map) })
            }
            _ => {
                let end = |b: &u8| matches!(b, b',' | b']' | b'}') || b.is_ascii_whitespace();
                let rest = &self.bytes[self.at..];
                let length = rest.iter().position(end).unwrap_or(rest.len());
                let atom = std::str::from_utf8(self.take(length)?).ok().filter(|atom| !atom.is_empty())?;
                Some(Node::Atom(atom.to_owned()))
            }
        }
    }

    /// Text with its escapes, as it stands.
    fn json_text(&mut self) -> Option<String> {
        (self.byte()? == b'"').then_some(())?;
        let start = self.at;
        loop {
            match self.byte()? {
                b'"' => break,
                b'\\' => self.at += 1,
                _ => {}
            }
        }
        std::str::from_utf8(self.bytes.get(start..self.at - 1)?).ok().map(str::to_owned)
    }

    fn number(&mut self, kind: u8) -> Option<f64> {
        Some(match kind {
            b'i' => f64::from(self.byte()? as i8),
            b'U' => f64::from(self.byte()?),
            b'I' => f64::from(i16::from_be_bytes(self.array()?)),
            b'l' => f64::from(i32::from_be_bytes(self.array()?)),
            b'L' => i64::from_be_bytes(self.array()?) as f64,
            b'd' => f64::from(f32::from_be_bytes(self.array()?)),
            b'D' => f64::from_be_bytes(self.array()?),
            _ => return None,
        })
    }

    fn length(&mut self) -> Option<usize> {
        let kind = self.byte()?;
        self.number(kind).filter(|n| *n >= 0.0 && *n <= self.bytes.len() as f64).map(|n| n as usize)
    }

    fn ubj_text(&mut self) -> Option<String> {
        let length = self.length()?;
        Some(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn ubj(&mut self, marker: u8, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        Some(match marker {
            b'Z' => Node::Atom("null".into()),
            b'T' => Node::Atom("true".into()),
            b'F' => Node::Atom("false".into()),
            b'S' | b'H' => Node::Text(self.ubj_text()?),
            b'{' => {
                let mut map = Vec::new();
                while self.peek()? != b'}' {
                    let key = self.ubj_text()?;
                    let marker = self.byte()?;
                    map.push((key, self.ubj(marker, depth + 1)?));
                }
                self.at += 1;
                Node::Map(map)
            }
            b'[' => {
                let mut kind = None;
                if self.peek()? == b'$' {
                    self.at += 1;
                    kind = self.byte();
                }
                if self.peek()? == b'#' {
                    self.at += 1;
                    let count = self.length()?;
                    return match kind {
                        Some(kind) => {
                            Some(Node::Typed(kind, (0..count).map(|_| self.number(kind)).collect::<Option<_>>()?))
                        }
                        None => {
                            let mut list = Vec::new();
                            for _ in 0..count {
                                let marker = self.byte()?;
                                list.push(self.ubj(marker, depth + 1)?);
                            }
                            Some(Node::List(list))
                        }
                    };
                }
                let mut list = Vec::new();
                loop {
                    match self.byte()? {
                        b']' => break,
                        marker => list.push(self.ubj(marker, depth + 1)?),
                    }
                }
                Node::List(list)
            }
            other => Node::Atom(self.number(other)?.to_string()),
        })
    }
}

pub fn to_json(node: &Node, out: &mut Vec<u8>) {
    let mut join = |open: u8, parts: &mut dyn Iterator<Item = Vec<u8>>, close: u8| {
        out.push(open);
        for (at, part) in parts.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend(part);
        }
        out.push(close);
    };
    let json = |node: &Node| {
        let mut out = Vec::new();
        to_json(node, &mut out);
        out
    };
    match node {
        Node::Atom(atom) => out.extend_from_slice(atom.as_bytes()),
        Node::Text(text) => out.extend(format!("\"{text}\"").into_bytes()),
        Node::List(list) => join(b'[', &mut list.iter().map(json), b']'),
        Node::Typed(_, list) => join(b'[', &mut list.iter().map(|n| n.to_string().into_bytes()), b']'),
        Node::Map(map) => {
            let mut parts = map.iter().map(|(key, value)| [format!("\"{key}\":").into_bytes(), json(value)].concat());
            join(b'{', &mut parts, b'}');
        }
    }
}

pub fn to_ubj(node: &Node, out: &mut Vec<u8>) {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.push(b'L');
        out.extend_from_slice(&(text.len() as i64).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    match node {
        Node::Atom(atom) => match (atom.as_str(), atom.parse::<i32>(), atom.parse::<i64>()) {
            ("null", ..) => out.push(b'Z'),
            ("true", ..) => out.push(b'T'),
            ("false", ..) => out.push(b'F'),
            (_, Ok(number), _) => out.extend([&b"l"[..], &number.to_be_bytes()].concat()),
            (_, _, Ok(number)) => out.extend([&b"L"[..], &number.to_be_bytes()].concat()),
            _ => out.extend([&b"D"[..], &atom.parse().unwrap_or(f64::NAN).to_be_bytes()].concat()),
        },
        Node::Text(value) => {
            out.push(b'S');
            text(value, out);
        }
        Node::List(list) => {
            out.extend_from_slice(b"[#L");
            out.extend_from_slice(&(list.len() as i64).to_be_bytes());
            list.iter().for_each(|node| to_ubj(node, out));
        }
        Node::Map(map) => {
            out.push(b'{');
            for (key, value) in map {
                text(key, out);
                to_ubj(value, out);
            }
            out.push(b'}');
        }
        Node::Typed(kind, list) => {
            out.extend([b'[', b'$', *kind, b'#', b'L']);
            out.extend_from_slice(&(list.len() as i64).to_be_bytes());
            for number in list {
                match kind {
                    b'i' => out.extend((*number as i8).to_be_bytes()),
                    b'U' => out.push(*number as u8),
                    b'I' => out.extend((*number as i16).to_be_bytes()),
                    b'l' => out.extend((*number as i32).to_be_bytes()),
                    b'L' => out.extend((*number as i64).to_be_bytes()),
                    b'd' => out.extend((*number as f32).to_be_bytes()),
                    _ => out.extend(number.to_be_bytes()),
                }
            }
        }
    }
}
