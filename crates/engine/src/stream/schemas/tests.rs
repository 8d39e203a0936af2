//! Payloads by Avro's own library, and a registry of a few lines.

mod changes;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use apache_avro::types::Value;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use insightera_core::ErrorKind;
use insightera_events::Decoder;

use super::*;
use crate::config::{FieldKind, FieldSettings, SchemaRegistrySettings, TimeFormat};

const SCHEMA: &str = r#"{"type": "record", "name": "Event", "namespace": "campus", "fields": [
    {"name": "nim", "type": "string"},
    {"name": "history", "type": {"type": "array", "items": ["null", "long"]}},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["attendance", "grade"]}},
    {"name": "data", "type": ["null", {"type": "record", "name": "Data", "fields": [
        {"name": "flag", "type": ["null", "double", "float"]},
        {"name": "again", "type": ["null", "Kind"]},
        {"name": "below", "type": ["null", "Data"]}]}]},
    {"name": "marks", "type": {"type": "map", "values": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}},
    {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "born", "type": {"type": "int", "logicalType": "date"}},
    {"name": "seen", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
    {"name": "count", "type": "int"},
    {"name": "good", "type": "boolean"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}"#;

fn settings(schema: SchemaSettings) -> EventSettings {
    let field = |(name, kind, path): (&str, FieldKind, &str)| FieldSettings {
        name: name.into(),
        kind,
        path: path.split('.').map(str::to_owned).collect(),
    };
    let fields = [
        ("nim", FieldKind::String, "nim"),
        ("kind", FieldKind::String, "kind"),
        ("flag", FieldKind::Double, "data.flag"),
        ("below", FieldKind::Double, "data.below.flag"),
        ("again", FieldKind::Long, "data.below.again"),
        ("mark", FieldKind::Double, "marks.math"),
        ("id", FieldKind::String, "id"),
        ("born", FieldKind::String, "born"),
        ("seen", FieldKind::Timestamp(TimeFormat::Iso), "seen"),
        ("count", FieldKind::Long, "count"),
        ("good", FieldKind::Boolean, "good"),
        ("at", FieldKind::Timestamp(TimeFormat::Iso), "at"),
        ("millis", FieldKind::Long, "at"),
    ];
    EventSettings {
        format: EventFormat::Avro,
        schema: Some(schema),
        message: None,
        fields: fields.map(field).into(),
        columns: Vec::new(),
        time: "at".into(),
        time_zone: "+07:00".into(),
        filter: None,
        allowed_lateness: 0,
        max_future: 0,
        late_grace: None,
    }
}

fn decoder(schema: SchemaSettings) -> (Decoder, Arc<Schemas>) {
    let events = settings(schema);
    let schemas = Arc::new(Schemas::new(Path::new("live.toml"), &events).unwrap().unwrap());
    (events.decoder(&["nim".into()]).with_written(schemas.clone()), schemas)
}

fn by_file() -> Decoder {
    decoder(SchemaSettings::File { path: "event.avsc".into(), bytes: SCHEMA.into(), hash: String::new() }).0
}

fn some(value: Value) -> Value {
    Value::Union(1, Box::new(value))
}

fn nothing() -> Value {
    Value::Union(0, Box::new(Value::Null))
}

fn data(flag: Value, again: Value, below: Value) -> Value {
    Value::Record(vec![("flag".into(), flag), ("again".into(), again), ("below".into(), below)])
}

fn event(nim: &str, data: Value) -> Value {
    let decimal = |unscaled: &[u8]| Value::Decimal(apache_avro::Decimal::from(unscaled));
    let marks = [("math".to_owned(), decimal(&[0x04, 0xd2])), ("other".to_owned(), decimal(&[1; 30]))];
    let fields: Vec<(&str, Value)> = vec![
        ("nim", Value::String(nim.into())),
        ("history", Value::Array(vec![some(Value::Long(7)), nothing()])),
        ("kind", Value::Enum(1, "grade".into())),
        ("data", data),
        ("marks", Value::Map(marks.into())),
        ("id", Value::Uuid(uuid::Uuid::parse_str("6ba7b810-9dad-11d1-80b4-00c04fd430c8").unwrap())),
        ("born", Value::Date(-1)),
        ("seen", Value::LocalTimestampMillis(7 * 3_600_000)),
        ("count", Value::Int(i32::MIN)),
        ("good", Value::Boolean(true)),
        ("at", Value::TimestampMillis(1_500)),
    ];
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn written(value: Value) -> Vec<u8> {
    apache_avro::to_avro_datum(&apache_avro::Schema::parse_str(SCHEMA).unwrap(), value).unwrap()
}

fn column(arrays: &[ArrayRef], decoder: &Decoder, name: &str) -> ArrayRef {
    arrays[decoder.fields().iter().position(|field| field.name() == name).unwrap()].clone()
}

#[test]
fn what_avros_library_writes_is_read_by_path() {
    let decoder = by_file();
    let mut columns = decoder.columns(2);
    let below =
        data(Value::Union(1, Box::new(Value::Double(0.1))), some(Value::Enum(0, "attendance".into())), nothing());
    let inner = data(Value::Union(2, Box::new(Value::Float(0.5))), nothing(), some(below));
    decoder.read(&written(event("1", some(inner))), &mut columns).unwrap();
    decoder.read(&written(event("2", nothing())), &mut columns).unwrap();
    assert_eq!(columns.times, [1_500_000, 1_500_000]);
    let arrays = columns.finish();
    let column = |name: &str| column(&arrays, &decoder, name);
    let double = |name: &str| column(name).as_primitive::<Float64Type>().iter().collect::<Vec<_>>();
    let long = |name: &str| column(name).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    assert_eq!(double("flag"), [Some(0.5), None]);
    assert_eq!(double("below"), [Some(0.1), None]);
    assert_eq!(long("again"), [Some(0), None]);
    assert_eq!(double("mark"), [Some(12.34), Some(12.34)]);
    assert_eq!(long("count"), [Some(i64::from(i32::MIN)); 2]);
    assert_eq!(long("millis"), [Some(1_500); 2]);
    for (name, text) in [("kind", "grade"), ("id", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"), ("born", "1969-12-31")] {
        assert_eq!(column(name).as_string::<i32>().value(0), text);
    }
    assert!(column("good").as_boolean().value(0));
    assert_eq!(column("seen").as_primitive::<TimestampMicrosecondType>().value(0), 0, "the time of its zone");
}

#[test]
fn a_payload_that_is_cut_or_changed_never_panics_and_leaves_the_columns_alone() {
    let decoder = by_file();
    let below = data(nothing(), nothing(), nothing());
    let whole = written(event("1", some(data(nothing(), nothing(), some(below)))));
    let mut columns = decoder.columns(1);
    for end in 0..whole.len() {
        let (problem, why) = decoder.read(&whole[..end], &mut columns).unwrap_err();
        assert_eq!(problem, Problem::Avro, "{end}: {why}");
    }
    assert!(columns.times.is_empty());
    let mut longer = whole.clone();
    longer.push(0);
    let (problem, why) = decoder.read(&longer, &mut columns).unwrap_err();
    assert!(problem == Problem::Avro && why.contains("1 bytes follow"), "{why}");
    let (mut good, mut bad) = (0, 0);
    for at in 0..whole.len() {
        for byte in 0..=255 {
            let mut changed = whole.clone();
            changed[at] = byte;
            match decoder.read(&changed, &mut columns) {
                Ok(()) => good += 1,
                Err(_) => bad += 1,
            }
        }
    }
    assert!(good > 100 && bad > 1_000, "{good} {bad}");
    assert_eq!(columns.times.len(), good);
    assert!(columns.finish().iter().all(|array| array.len() == good));
}

/// A registry that answers from a table of paths.
fn registry(
    answers: &'static [(&'static str, u16, &'static str)],
    asked: &'static AtomicUsize,
) -> SchemaRegistrySettings {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            asked.fetch_add(1, Ordering::SeqCst);
            let found = answers.iter().find(|(known, _, _)| path == format!("/api{known}"));
            let (_, status, body) = found.copied().unwrap_or(("", 404, "{\"error_code\":40403,\"message\":\"none\"}"));
            let authorized = text.to_ascii_lowercase().contains("authorization: basic bwu6c2vjcmv0");
            let (status, body) = if authorized { (status, body) } else { (401, "{}") };
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).unwrap();
        }
    });
    SchemaRegistrySettings {
        url,
        username: Some("me".into()),
        password: Some(crate::config::Secret::new("secret")),
        ca: None,
        timeout: 5_000_000,
    }
}

fn in_runtime<T>(work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    work()
}

const SMALL: &str = r#"{"schema": "{\"type\":\"record\",\"name\":\"E\",\"fields\":[{\"name\":\"nim\",\"type\":\"string\"},{\"name\":\"at\",\"type\":{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}}]}"}"#;
const WIDER: &str = r#"{"schema": "{\"type\":\"record\",\"name\":\"E\",\"fields\":[{\"name\":\"at\",\"type\":{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}},{\"name\":\"count\",\"type\":\"campus.Count\"},{\"name\":\"nim\",\"type\":\"string\"}]}", "schemaType": "AVRO", "references": [{"name": "campus.Count", "subject": "a/b", "version": 3}]}"#;
const COUNT: &str = r#"{"schema": "{\"type\":\"fixed\",\"name\":\"campus.Count\",\"size\":1,\"logicalType\":\"decimal\",\"precision\":2}"}"#;
const JSON: &str = r#"{"schema": "{}", "schemaType": "JSON"}"#;

#[test]
fn every_event_is_read_by_the_schema_that_it_names() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let answers: &[(&str, u16, &str)] = &[
        ("/schemas/ids/1", 200, SMALL),
        ("/schemas/ids/258", 200, WIDER),
        ("/subjects/a%2Fb/versions/3", 200, COUNT),
        ("/schemas/ids/5", 200, JSON),
    ];
    let (decoder, schemas) = decoder(SchemaSettings::Registry(registry(answers, &ASKED)));
    let mut columns = decoder.columns(4);
    let payloads: [&[u8]; 5] = [
        &[0, 0, 0, 0, 1, 2, b'x', 4],
        &[0, 0, 0, 1, 2, 6, 9, 2, b'y'],
        &[0, 0, 0, 0, 9, 2, b'x', 4],
        &[0, 0, 0, 0, 5, 1],
        &[0, 0, 0, 0, 1, 2, b'z', 8],
    ];
    let mut part = RawPart::default();
    for (offset, payload) in payloads.iter().chain(&[&b"plain text"[..], &b"0"[..]]).enumerate() {
        part.payload.extend_from_slice(payload);
        part.ends.push(part.payload.len());
        part.offsets.push(offset as i64);
        part.arrivals.push(0);
    }
    in_runtime(|| schemas.learn_all(std::slice::from_ref(&part))).unwrap();
    let asked = ASKED.load(Ordering::SeqCst);
    assert_eq!(asked, 5, "each schema once");
    in_runtime(|| schemas.learn_all(std::slice::from_ref(&part))).unwrap();
    assert_eq!(ASKED.load(Ordering::SeqCst), asked, "what is known is not asked for again");
    let problems: Vec<String> = (0..part.len())
        .filter_map(|at| decoder.read(part.payload(at), &mut columns).err())
        .map(|(problem, why)| format!("{}: {why}", problem.as_str()))
        .collect();
    for (problem, words) in problems.iter().zip(["no schema 9", "of type JSON", "begins with byte 112", "too few"]) {
        assert!(problem.starts_with("schema: ") && problem.contains(words), "{problem}");
    }
    assert_eq!((problems.len(), columns.times.as_slice()), (4, &[2, 3, 4][..]));
    let arrays = columns.finish();
    let counts = column(&arrays, &decoder, "count");
    assert_eq!(counts.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [None, Some(9), None]);
    let news = schemas.news();
    assert!(news.iter().any(|news| news.contains("258: new fields `count`, without none")), "{news:?}");
    assert!(schemas.news().is_empty());
}

#[test]
fn a_registry_that_is_away_is_no_dead_letter_and_one_that_refuses_is_an_error() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let answers: &[(&str, u16, &str)] =
        &[("/schemas/ids/1", 503, "busy"), ("/schemas/ids/2", 404, "<html>"), ("/schemas/ids/3", 200, "<html>")];
    let settings = registry(answers, &ASKED);
    let ask = |settings: &SchemaRegistrySettings, id: u32| {
        in_runtime(|| SchemaRegistry::open(settings).and_then(|registry| registry.schema(id)))
    };
    assert!(ask(&settings, 1).unwrap_err().retryable());
    for (id, words) in [(2, "not as a registry says so"), (3, "is no schema")] {
        let error = ask(&settings, id).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(words), "{error}");
    }
    assert_eq!(ask(&settings, 4).unwrap(), None);
    let stranger = SchemaRegistrySettings { password: Some(crate::config::Secret::new("wrong")), ..settings.clone() };
    let error = ask(&stranger, 1).unwrap_err();
    assert!(error.to_string().contains("refuses") && !error.to_string().contains("wrong"), "{error}");
    let away = SchemaRegistrySettings { url: "http://127.0.0.1:9".into(), ..settings.clone() };
    assert!(ask(&away, 1).unwrap_err().retryable());
    let inside = SchemaRegistrySettings { url: "http://me:secret@127.0.0.1:9".into(), ..settings };
    let error = ask(&inside, 1).unwrap_err();
    assert!(error.to_string().contains("credentials") && !error.to_string().contains("secret@"), "{error}");
}
