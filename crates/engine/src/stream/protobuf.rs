//! Protocol Buffers: a payload is a message of a schema, which is a `.proto`
//! file, its compiled form, or what a registry has. Fields are found by their
//! names in the schema.
//!
//! A field without presence that is not there has its default, as the language
//! says; one with presence (`optional`, messages, `oneof`) is null.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use insightera_events::{Scalar, Walk};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FileDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

/// The name of a registry's schema among those that it refers to.
const ROOT: &str = "insightera/schema.proto";
/// How deep messages may be within each other in a schema.
const DEPTH: u64 = 64;

/// What is wrong, in words.
type Result<T> = std::result::Result<T, String>;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    file: Option<FileDescriptor>,
    /// The message of all payloads; else each names its own.
    message: Option<MessageDescriptor>,
    /// Fields that payloads have and the schema has not, which were told.
    told: Mutex<BTreeSet<(String, u32)>>,
}

/// Texts by name.
struct Texts(HashMap<String, String>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> std::result::Result<File, protox::Error> {
        match self.0.get(name) {
            Some(text) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

impl Schema {
    /// The message `message` of a `.proto` file or of a compiled set of files.
    ///
    /// # Errors
    /// When it is none, or has no such message.
    pub fn of_file(path: &Path, bytes: &[u8], message: &str) -> Result<Self> {
        let pool = if path.extension().is_some_and(|extension| extension == "proto") {
            let (folder, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
            let mut files = ChainFileResolver::new();
            files.add(IncludeFileResolver::new(folder.to_owned()));
            files.add(GoogleFileResolver::new());
            compiled(files, &name.to_string_lossy())?
        } else {
            DescriptorPool::decode(bytes).map_err(|e| format!("it is neither a .proto file nor a compiled one: {e}"))?
        };
        let found = pool.get_message_by_name(message).ok_or_else(|| {
            let names: Vec<String> = pool.all_messages().map(|found| format!("`{}`", found.full_name())).collect();
            format!("it has no message `{message}`; it has {}", names.join(", "))
        })?;
        Ok(Self { file: None, message: Some(found), told: Mutex::default() })
    }

    /// The schema of a registry and those that it refers to; all payloads must
    /// be of `message`, where it is said.
    ///
    /// # Errors
    /// As [`Schema::of_file`].
    pub fn of_registry(text: &str, references: &[(String, String)], message: Option<&str>) -> Result<Self> {
        let mut texts: HashMap<String, String> = references.iter().cloned().collect();
        texts.insert(ROOT.to_owned(), text.to_owned());
        let mut files = ChainFileResolver::new();
        files.add(Texts(texts));
        files.add(GoogleFileResolver::new());
        let pool = compiled(files, ROOT)?;
        let message =
            message.map(|name| pool.get_message_by_name(name).ok_or_else(|| format!("it has no message `{name}`")));
        let file = pool.get_file_by_name(ROOT).ok_or("it has no file")?;
        Ok(Self { file: Some(file), message: message.transpose()?, told: Mutex::default() })
    }

    /// The names of the fields of the message, or of all of the file.
    pub fn names(&self) -> BTreeSet<String> {
        let own = |message: &MessageDescriptor| {
            message.fields().map(|field| field.name().to_owned()).collect::<BTreeSet<String>>()
        };
        match (&self.message, &self.file) {
            (Some(message), _) => own(message),
            (None, Some(file)) => file.messages().flat_map(|message| own(&message)).collect(),
            (None, None) => BTreeSet::new(),
        }
    }

    /// Reads a payload; answers what was not known of it before.
    ///
    /// # Errors
    /// When it is not written by this schema.
    pub fn read(&self, payload: &[u8], walk: &mut Walk<'_>) -> Result<Option<String>> {
        let mut rest = payload;
        let descriptor = match (&self.file, &self.message) {
            (Some(file), wanted) => {
                let found = named(file, &mut rest)?;
                if let Some(wanted) = wanted.as_ref().filter(|wanted| **wanted != found) {
                    return Err(format!("it is a `{}`, not a `{}`", found.full_name(), wanted.full_name()));
                }
                found
            }
            (None, Some(message)) => message.clone(),
            (None, None) => return Err("no message is named".to_owned()),
        };
        let message = DynamicMessage::decode(descriptor, rest).map_err(|e| e.to_string())?;
        let mut news = Vec::new();
        for field in message.unknown_fields() {
            let place = (message.descriptor().full_name().to_owned(), field.number());
            if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(place) {
                news.push(field.number().to_string());
            }
        }
        fields(&message, 0, walk)?;
        let name = message.descriptor().full_name().to_owned();
        Ok((!news.is_empty()).then(|| format!("`{name}` has fields that its schema has not: {}", news.join(", "))))
    }
}

fn compiled(files: ChainFileResolver, name: &str) -> Result<DescriptorPool> {
    let mut compiler = protox::Compiler::with_file_resolver(files);
    compiler.include_imports(true);
    compiler.open_file(name).map_err(|e| e.to_string())?;
    Ok(compiler.descriptor_pool())
}

/// The message that a payload names: how many numbers, then the number of the
/// message in its file, of that within it, and so on; none is the first.
fn named(file: &FileDescriptor, rest: &mut &[u8]) -> Result<MessageDescriptor> {
    let count = number(rest)?;
    if count > DEPTH {
        return Err(format!("its message is {count} deep"));
    }
    let mut path = Vec::new();
    for _ in 0..count {
        path.push(number(rest)?);
    }
    if path.is_empty() {
        path.push(0);
    }
    let missing = || format!("the schema has no message number {path:?}");
    let at = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let mut found = file.messages().nth(at(path[0])).ok_or_else(missing)?;
    for number in &path[1..] {
        // Entries of maps are messages that nobody wrote.
        let mut own = found.child_messages().filter(|message| !message.is_map_entry());
        let next = own.nth(at(*number)).ok_or_else(missing)?;
        drop(own);
        found = next;
    }
    Ok(found)
}

/// A whole number in zigzag that is not negative.
fn number(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let (byte, after) = rest.split_first().ok_or("the payload ends before its message")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return match value & 1 {
                0 => Ok(value >> 1),
                _ => Err("the number of its message is negative".to_owned()),
            };
        }
    }
    Err("the number of its message is too large".to_owned())
}

/// The wanted fields of a message.
fn fields(message: &DynamicMessage, at: usize, walk: &mut Walk<'_>) -> Result<()> {
    let descriptor = message.descriptor();
    let layout = walk.layout;
    for (name, child) in &layout.nodes[at].children {
        let found = descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name));
        let Some(field) = found else { continue };
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        value(&message.get_field(&field), &field.kind(), *child, walk)?;
    }
    Ok(())
}

fn value(value: &Value, kind: &Kind, at: usize, walk: &mut Walk<'_>) -> Result<()> {
    match value {
        Value::Bool(value) => walk.scalar(at, Scalar::Boolean(*value)),
        Value::I32(value) => walk.scalar(at, Scalar::Whole((*value).into())),
        Value::I64(value) => walk.scalar(at, Scalar::Whole(*value)),
        Value::U32(value) => walk.scalar(at, Scalar::Whole((*value).into())),
        Value::U64(value) => walk.scalar(
            at,
            match i64::try_from(*value) {
                Ok(value) => Scalar::Whole(value),
                Err(_) => Scalar::Number(*value as f64),
            },
        ),
        Value::F32(value) => walk.scalar(at, Scalar::Number((*value).into())),
        Value::F64(value) => walk.scalar(at, Scalar::Number(*value)),
        Value::String(text) => walk.string(at, text)?,
        Value::Bytes(_) => walk.other(at, "bytes"),
        Value::EnumNumber(number) => {
            let name = match kind {
                Kind::Enum(of) => of.get_value(*number).map(|value| value.name().to_owned()),
                _ => None,
            };
            walk.symbol(at, &name.unwrap_or_else(|| number.to_string()), (*number).into());
        }
        Value::Message(message) => self::message(message, at, walk)?,
        Value::List(_) => walk.other(at, "a list"),
        Value::Map(entries) => {
            walk.other(at, "a map");
            let Kind::Message(entry) = kind else { return Ok(()) };
            let Some(of) = entry.get_field_by_name("value") else { return Ok(()) };
            let layout = walk.layout;
            for (key, found) in entries {
                let name: Cow<'_, str> = match key {
                    MapKey::String(name) => name.as_str().into(),
                    MapKey::Bool(key) => key.to_string().into(),
                    MapKey::I32(key) => key.to_string().into(),
                    MapKey::I64(key) => key.to_string().into(),
                    MapKey::U32(key) => key.to_string().into(),
                    MapKey::U64(key) => key.to_string().into(),
                };
                let child = layout.nodes[at].children.iter().find(|(child, _)| *child == name);
                if let Some((_, child)) = child {
                    self::value(found, &of.kind(), *child, walk)?;
                }
            }
        }
    }
    Ok(())
}

/// A message, or the value that a well-known one stands for.
fn message(message: &DynamicMessage, at: usize, walk: &mut Walk<'_>) -> Result<()> {
    let descriptor = message.descriptor();
    let part =
        |name: &str| message.get_field_by_name(name).and_then(|part| part.as_i64().or(part.as_i32().map(i64::from)));
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => {
            let seconds = part("seconds").and_then(|seconds| seconds.checked_mul(1_000_000));
            let micros = part("nanos").map(|nanos| nanos.div_euclid(1_000));
            walk.moment(at, seconds.zip(micros).and_then(|(seconds, micros)| seconds.checked_add(micros)));
        }
        name if name.starts_with("google.protobuf.") && name.ends_with("Value") && descriptor.fields().len() == 1 => {
            if let Some(field) = descriptor.fields().next() {
                return value(&message.get_field(&field), &field.kind(), at, walk);
            }
        }
        _ => walk.other(at, "a message"),
    }
    fields(message, at, walk)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        syntax = "proto3";
        package campus;
        message First { map<string, string> marks = 1; message Inner { string nim = 1; } }
        message Second { optional int64 count = 1; }
    "#;

    #[test]
    fn a_payload_names_its_message_by_numbers() {
        let schema = Schema::of_registry(TEXT, &[], None).unwrap();
        let file = schema.file.as_ref().unwrap();
        let name = |mut bytes: &[u8]| named(file, &mut bytes).map(|found| (found.full_name().to_owned(), bytes.len()));
        assert_eq!(name(&[0, 9]), Ok(("campus.First".to_owned(), 1)));
        assert_eq!(name(&[2, 2]), Ok(("campus.Second".to_owned(), 0)));
        assert_eq!(name(&[4, 0, 0, 7, 7]), Ok(("campus.First.Inner".to_owned(), 2)), "entries of a map do not count");
        for (bytes, words) in [
            (&[][..], "ends before"),
            (&[2], "ends before"),
            (&[1], "negative"),
            (&[2, 4], "no message number [2]"),
            (&[0xff; 6], "too large"),
            (&[0x80, 0x80, 1], "deep"),
        ] {
            let why = name(bytes).unwrap_err();
            assert!(why.contains(words), "{bytes:?}: {why}");
        }
    }

    #[test]
    fn what_is_no_schema_says_so() {
        for (text, references, message, words) in [
            ("message {", vec![], None, "expected"),
            (TEXT, vec![], Some("campus.Third"), "no message `campus.Third`"),
            (r#"import "other.proto";"#, vec![], None, "other.proto"),
        ] {
            let why = Schema::of_registry(text, &references, message).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
        let other = [("other.proto".to_owned(), "syntax = \"proto3\"; message Other {}".to_owned())];
        let text = "syntax = \"proto3\"; import \"other.proto\"; message Event { Other other = 1; }";
        let schema = Schema::of_registry(text, &other, Some("Event")).unwrap();
        assert_eq!(schema.names(), ["other".to_owned()].into());
    }
}
