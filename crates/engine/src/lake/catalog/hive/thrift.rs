//! Thrift's binary protocol in its strict form, values by the ids of their
//! fields: what this build does not know of a record is kept and sent back.
//!
//! What comes from a server is not trusted: a message has a largest size, a
//! largest number of values and a largest depth, and nothing is reserved for a
//! length that is only claimed.

use std::io::{self, Error, ErrorKind, Read};

/// Bytes of one message.
pub(super) const MESSAGE_BYTES: u64 = 64 << 20;
/// Values in one message.
const MESSAGE_VALUES: u64 = 2_000_000;
/// Values inside of one another; a table has six.
const DEPTH: usize = 16;
/// Bytes of a method's name.
const NAME_BYTES: u64 = 256;
/// The first half word of a strict message.
const VERSION: u32 = 0x8001_0000;

/// A record: values by the ids of their fields, in the order of the wire.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Record(Vec<(i16, Value)>);

/// A value of the protocol; sets are not among what a metastore's calls need.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// True or false.
    Bool(bool),
    /// Eight bits.
    Byte(i8),
    /// A floating-point number, by its bits.
    Double(u64),
    /// Sixteen bits.
    Short(i16),
    /// Thirty-two bits; enumerations too.
    Int(i32),
    /// Sixty-four bits.
    Long(i64),
    /// A string, or bytes.
    Text(Vec<u8>),
    /// A record.
    Record(Record),
    /// Pairs, with the codes of their types.
    Map(u8, u8, Vec<(Value, Value)>),
    /// Items, with the code of their type.
    List(u8, Vec<Value>),
}

const BOOL: u8 = 2;
const BYTE: u8 = 3;
const DOUBLE: u8 = 4;
const SHORT: u8 = 6;
const INT: u8 = 8;
const LONG: u8 = 10;
const TEXT: u8 = 11;
const RECORD: u8 = 12;
const MAP: u8 = 13;
const SET: u8 = 14;
const LIST: u8 = 15;

impl Value {
    /// A string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into().into_bytes())
    }

    /// Strings by strings.
    pub fn texts_by_text<K: Into<String>, V: Into<String>>(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::Map(TEXT, TEXT, entries.into_iter().map(|(key, value)| (Self::text(key), Self::text(value))).collect())
    }

    /// A list of strings.
    pub fn texts<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(TEXT, items.into_iter().map(Self::text).collect())
    }

    /// A list of records.
    pub fn records(items: impl IntoIterator<Item = Record>) -> Self {
        Self::List(RECORD, items.into_iter().map(Self::Record).collect())
    }

    /// The string, if it is one in UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The items of a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(_, items) => Some(items),
            _ => None,
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Bool(_) => BOOL,
            Self::Byte(_) => BYTE,
            Self::Double(_) => DOUBLE,
            Self::Short(_) => SHORT,
            Self::Int(_) => INT,
            Self::Long(_) => LONG,
            Self::Text(_) => TEXT,
            Self::Record(_) => RECORD,
            Self::Map(..) => MAP,
            Self::List(..) => LIST,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::Byte(value) => out.extend(value.to_be_bytes()),
            Self::Double(value) => out.extend(value.to_be_bytes()),
            Self::Short(value) => out.extend(value.to_be_bytes()),
            Self::Int(value) => out.extend(value.to_be_bytes()),
            Self::Long(value) => out.extend(value.to_be_bytes()),
            Self::Text(bytes) => write_text(out, bytes),
            Self::Record(record) => record.write(out),
            Self::Map(key, value, entries) => {
                out.extend([*key, *value]);
                out.extend(length(entries.len()));
                for (key, value) in entries {
                    key.write(out);
                    value.write(out);
                }
            }
            Self::List(code, items) => {
                out.push(*code);
                out.extend(length(items.len()));
                items.iter().for_each(|item| item.write(out));
            }
        }
    }
}

impl Record {
    /// A record of fields.
    pub fn new(fields: impl IntoIterator<Item = (i16, Value)>) -> Self {
        Self(fields.into_iter().collect())
    }

    /// A field's value.
    pub fn get(&self, id: i16) -> Option<&Value> {
        self.0.iter().find_map(|(field, value)| (*field == id).then_some(value))
    }

    /// A field's string.
    pub fn text(&self, id: i16) -> Option<&str> {
        self.get(id).and_then(Value::as_text)
    }

    /// A field's number of thirty-two bits.
    pub fn int(&self, id: i16) -> Option<i32> {
        match self.get(id) {
            Some(Value::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// A field's number of sixty-four bits.
    pub fn long(&self, id: i16) -> Option<i64> {
        match self.get(id) {
            Some(Value::Long(value)) => Some(*value),
            _ => None,
        }
    }

    /// A field's record.
    pub fn record(&self, id: i16) -> Option<&Self> {
        match self.get(id) {
            Some(Value::Record(record)) => Some(record),
            _ => None,
        }
    }

    /// A field's strings by strings; what is neither is left out.
    pub fn texts_by_text(&self, id: i16) -> std::collections::BTreeMap<String, String> {
        let Some(Value::Map(_, _, entries)) = self.get(id) else { return Default::default() };
        let pairs = entries.iter().filter_map(|(key, value)| Some((key.as_text()?.into(), value.as_text()?.into())));
        pairs.collect()
    }

    /// Puts a value in the place of a field's.
    pub fn set(&mut self, id: i16, value: Value) {
        match self.0.iter_mut().find(|(field, _)| *field == id) {
            Some((_, old)) => *old = value,
            None => self.0.push((id, value)),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (id, value) in &self.0 {
            out.push(value.code());
            out.extend(id.to_be_bytes());
            value.write(out);
        }
        out.push(0);
    }
}

fn length(length: usize) -> [u8; 4] {
    // What is sent here is far below: a table, or the names of a hundred.
    i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes()
}

fn write_text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(length(bytes.len()));
    out.extend(bytes);
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A call.
    Call,
    /// The answer to one.
    Reply,
    /// The server's word that it could not answer.
    Exception,
}

/// A message with its envelope.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    /// Call, reply or exception.
    pub kind: Kind,
    /// The method.
    pub method: String,
    /// The call's number.
    pub sequence: i32,
    /// Arguments or results.
    pub body: Record,
}

impl Message {
    /// The message on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Reply => 2,
            Kind::Exception => 3,
        };
        let mut out = Vec::with_capacity(512);
        out.extend((VERSION | kind).to_be_bytes());
        write_text(&mut out, self.method.as_bytes());
        out.extend(self.sequence.to_be_bytes());
        self.body.write(&mut out);
        out
    }

    /// Reads one message.
    ///
    /// # Errors
    /// `InvalidData` when it is not one, or larger than any of a metastore;
    /// else why nothing could be read.
    pub fn decode(input: impl Read) -> io::Result<Self> {
        let mut decoder = Decoder { input, bytes: MESSAGE_BYTES, values: MESSAGE_VALUES };
        let head = u32::from_be_bytes(decoder.array()?);
        let kind = match (head & 0xFFFF_0000, head & 0xFF) {
            (VERSION, 1) => Kind::Call,
            (VERSION, 2) => Kind::Reply,
            (VERSION, 3) => Kind::Exception,
            _ => return Err(wrong(format!("`{head:08x}` begins no message of the strict binary protocol"))),
        };
        let method = decoder.text(NAME_BYTES)?;
        let method = String::from_utf8(method).map_err(|_| wrong("a method's name is not UTF-8"))?;
        let sequence = i32::from_be_bytes(decoder.array()?);
        let body = decoder.record(DEPTH)?;
        Ok(Self { kind, method, sequence, body })
    }
}

/// Reads values while the message may go on.
struct Decoder<R> {
    input: R,
    bytes: u64,
    values: u64,
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, message.into())
}

impl<R: Read> Decoder<R> {
    fn spend(&mut self, bytes: u64) -> io::Result<()> {
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .ok_or_else(|| wrong(format!("a message is larger than {} MB", MESSAGE_BYTES >> 20)))?;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.spend(N as u64)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ErrorKind::UnexpectedEof.into(),
            _ => error,
        })?;
        Ok(bytes)
    }

    fn text(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let claimed = i32::from_be_bytes(self.array()?);
        let length = u64::try_from(claimed).map_err(|_| wrong(format!("a string has the length {claimed}")))?;
        if length > most {
            return Err(wrong(format!("a string of {length} bytes is longer than {most}")));
        }
        self.spend(length)?;
        let mut bytes = Vec::new();
        self.input.by_ref().take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }

    /// How many items follow: no more than there can be bytes for.
    fn count(&mut self) -> io::Result<u64> {
        let claimed = i32::from_be_bytes(self.array()?);
        match u64::try_from(claimed) {
            Ok(count) if count <= self.values && count <= self.bytes => Ok(count),
            _ => Err(wrong(format!("a collection claims {claimed} items"))),
        }
    }

    fn record(&mut self, depth: usize) -> io::Result<Record> {
        let mut record = Record::default();
        loop {
            let [code] = self.array()?;
            if code == 0 {
                return Ok(record);
            }
            let id = i16::from_be_bytes(self.array()?);
            let value = self.value(code, depth)?;
            if record.get(id).is_some() {
                return Err(wrong(format!("a record has the field {id} twice")));
            }
            record.0.push((id, value));
        }
    }

    fn value(&mut self, code: u8, depth: usize) -> io::Result<Value> {
        let inner = depth.checked_sub(1).ok_or_else(|| wrong(format!("values are nested deeper than {DEPTH}")))?;
        self.values = self
            .values
            .checked_sub(1)
            .ok_or_else(|| wrong(format!("a message has more than {MESSAGE_VALUES} values")))?;
        Ok(match code {
            BOOL => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(wrong(format!("`{other}` is neither true nor false"))),
            },
            BYTE => Value::Byte(i8::from_be_bytes(self.array()?)),
            DOUBLE => Value::Double(u64::from_be_bytes(self.array()?)),
            SHORT => Value::Short(i16::from_be_bytes(self.array()?)),
            INT => Value::Int(i32::from_be_bytes(self.array()?)),
            LONG => Value::Long(i64::from_be_bytes(self.array()?)),
            TEXT => Value::Text(self.text(MESSAGE_BYTES)?),
            RECORD => Value::Record(self.record(inner)?),
            MAP => {
                let [key, value] = self.array()?;
                let count = self.count()?;
                let mut entries = Vec::new();
                for _ in 0..count {
                    entries.push((self.value(key, inner)?, self.value(value, inner)?));
                }
                Value::Map(key, value, entries)
            }
            SET => return Err(wrong("a set, which no answer of a metastore has")),
            LIST => {
                let [code] = self.array()?;
                let count = self.count()?;
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.value(code, inner)?);
                }
                Value::List(code, items)
            }
            other => return Err(wrong(format!("`{other}` is no type of Thrift's"))),
        })
    }
}

#[cfg(test)]
mod tests;
