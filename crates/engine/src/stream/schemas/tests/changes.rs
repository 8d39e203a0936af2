//! Debezium's change events in Avro, with schemas as Kafka Connect's converter
//! registers them; written by Avro's own library.

use arrow::array::{Array, ArrayRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Value as Json, json};

use super::*;

const ENVELOPE: &str = r#"{"type": "record", "name": "Envelope", "namespace": "campus.public.students", "fields": [
    {"name": "before", "type": ["null", {"type": "record", "name": "Value", "fields": [
        {"name": "nim", "type": "string"},
        {"name": "credits", "type": ["null", {"type": "int", "connect.type": "int16"}], "default": null},
        {"name": "gpa", "type": ["null", "double"], "default": null},
        {"name": "active", "type": [{"type": "boolean", "connect.default": true}, "null"], "default": true},
        {"name": "changed", "type": {"type": "long", "connect.version": 1,
            "connect.name": "io.debezium.time.MicroTimestamp"}},
        {"name": "enrolled", "type": ["null", {"type": "long", "connect.version": 1,
            "connect.name": "io.debezium.time.Timestamp"}], "default": null},
        {"name": "zoned", "type": ["null", {"type": "string", "connect.version": 1,
            "connect.name": "io.debezium.time.ZonedTimestamp"}], "default": null},
        {"name": "notes", "type": ["null", {"type": "string", "connect.version": 1,
            "connect.name": "io.debezium.data.Json"}], "default": null},
        {"name": "fee", "type": {"type": "bytes", "scale": 2, "precision": 10, "connect.version": 1,
            "connect.parameters": {"scale": "2", "connect.decimal.precision": "10"}, "connect.default": "\u0000",
            "connect.name": "org.apache.kafka.connect.data.Decimal", "logicalType": "decimal"}, "default": "\u0000"},
        {"name": "balance", "type": ["null", {"type": "record", "name": "VariableScaleDecimal",
            "namespace": "io.debezium.data", "fields": [
                {"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
            "connect.version": 1, "connect.name": "io.debezium.data.VariableScaleDecimal"}], "default": null}
        ], "connect.name": "campus.public.students.Value"}], "default": null},
    {"name": "after", "type": ["null", "Value"], "default": null},
    {"name": "source", "type": {"type": "record", "name": "Source", "namespace": "io.debezium.connector.postgresql",
        "fields": [{"name": "version", "type": "string"}, {"name": "ts_ms", "type": "long"}]}},
    {"name": "op", "type": "string"},
    {"name": "ts_ms", "type": ["null", "long"], "default": null}
    ], "connect.version": 1, "connect.name": "campus.public.students.Envelope"}"#;

fn changes(schema: Option<&str>) -> EventSettings {
    let file =
        |text: &str| SchemaSettings::File { path: "change.avsc".into(), bytes: text.into(), hash: String::new() };
    let fields = [
        ("nim", FieldKind::String),
        ("credits", FieldKind::Long),
        ("gpa", FieldKind::Double),
        ("active", FieldKind::Boolean),
        ("changed", FieldKind::Timestamp(TimeFormat::Microseconds)),
        ("enrolled", FieldKind::Timestamp(TimeFormat::Milliseconds)),
        ("zoned", FieldKind::Timestamp(TimeFormat::Iso)),
    ];
    let mut fields: Vec<_> =
        fields.map(|(name, kind)| FieldSettings { name: name.into(), kind, path: vec![name.into()] }).into();
    let number =
        FieldSettings { name: "zone".into(), kind: FieldKind::Long, path: vec!["notes".into(), "zone".into()] };
    fields.push(number);
    EventSettings {
        format: EventFormat::Debezium,
        schema: schema.map(file),
        fields,
        time: "changed".into(),
        ..settings(file(""))
    }
}

fn read_by(events: &EventSettings) -> std::result::Result<Decoder, Error> {
    let decoder = events.decoder(&["nim".into()]);
    let schemas = Schemas::new(Path::new("live.toml"), events)?;
    Ok(schemas.into_iter().fold(decoder, |decoder, schemas| decoder.with_written(Arc::new(schemas))))
}

fn maybe(value: Option<Value>) -> Value {
    value.map_or_else(nothing, some)
}

fn row(row: &Json) -> Value {
    let text = |name: &str| row[name].as_str().map(|text| Value::String(text.into()));
    let long = |name: &str| row[name].as_i64();
    let active = row["active"].as_bool().map(Value::Boolean);
    let balance = [("scale".to_owned(), Value::Int(3)), ("value".to_owned(), Value::Bytes(vec![0x30, 0x39]))];
    let fields: Vec<(&str, Value)> = vec![
        ("nim", text("nim").unwrap()),
        ("credits", maybe(long("credits").map(|credits| Value::Int(credits as i32)))),
        ("gpa", maybe(row["gpa"].as_f64().map(Value::Double))),
        ("active", active.map_or(Value::Union(1, Box::new(Value::Null)), |active| Value::Union(0, Box::new(active)))),
        ("changed", Value::Long(long("changed").unwrap())),
        ("enrolled", maybe(long("enrolled").map(Value::Long))),
        ("zoned", maybe(text("zoned"))),
        ("notes", maybe(text("notes"))),
        ("fee", Value::Decimal(apache_avro::Decimal::from([0x04, 0xd2]))),
        ("balance", some(Value::Record(balance.into()))),
    ];
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn change(op: &str, before: &Json, after: &Json, milliseconds: &Json) -> (String, Vec<u8>) {
    let text = json!({"before": before, "after": after, "source": {"version": "3", "ts_ms": 7}, "op": op,
        "ts_ms": milliseconds});
    let row_of = |value: &Json| maybe((!value.is_null()).then(|| row(value)));
    let source = [("version".to_owned(), Value::String("3".into())), ("ts_ms".to_owned(), Value::Long(7))];
    let fields: Vec<(&str, Value)> = vec![
        ("before", row_of(before)),
        ("after", row_of(after)),
        ("source", Value::Record(source.into())),
        ("op", Value::String(op.into())),
        ("ts_ms", maybe(milliseconds.as_i64().map(Value::Long))),
    ];
    let value = Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    // Avro's library takes no default of a decimal.
    let schema = ENVELOPE.replace(r#""decimal"}, "default": "\u0000"}"#, r#""decimal"}}"#);
    let schema = apache_avro::Schema::parse_str(&schema).unwrap();
    (text.to_string(), apache_avro::to_avro_datum(&schema, value).unwrap())
}

fn first() -> Json {
    json!({"nim": "1", "credits": 12, "gpa": 3.25, "active": false, "changed": 1_767_600_000_123_456i64,
        "enrolled": 1_600_000_000_007i64, "zoned": "2026-01-05T15:00:00.5+07:00", "notes": "{\"zone\":7}"})
}

#[test]
fn a_change_in_avro_is_the_same_event_as_in_json() {
    let (in_json, in_avro) = (read_by(&changes(None)).unwrap(), read_by(&changes(Some(ENVELOPE))).unwrap());
    let nothing = json!({"nim": "2", "credits": null, "gpa": null, "active": null, "changed": -1, "enrolled": null,
        "zoned": null, "notes": null});
    let soon = json!({"nim": "3", "changed": 5, "zoned": "soon"});
    let notes = json!({"nim": "4", "changed": 6, "notes": "no object"});
    let (none, at) = (Json::Null, json!(1_767_600_000_999i64));
    let cases = [
        ("c", &none, &first(), &at, true),
        ("r", &none, &nothing, &at, true),
        ("u", &first(), &nothing, &none, true),
        ("u", &soon, &first(), &at, true),
        ("d", &first(), &none, &at, true),
        ("d", &nothing, &soon, &at, true),
        ("d", &none, &none, &at, false),
        ("d", &soon, &none, &at, false),
        ("u", &first(), &soon, &at, false),
        ("c", &none, &none, &at, false),
        ("c", &none, &notes, &at, false),
        ("t", &none, &none, &at, false),
        ("x", &none, &first(), &at, false),
    ];
    let (mut of_json, mut of_avro) = (in_json.columns(8), in_avro.columns(8));
    for (op, before, after, at, is_event) in cases {
        let (text, bytes) = change(op, before, after, at);
        let found = in_json.read(text.as_bytes(), &mut of_json);
        assert_eq!(found.is_ok(), is_event, "{text}: {found:?}");
        let wanted = found.map_err(|(problem, why)| match problem {
            Problem::Json => (Problem::Avro, why),
            other => (other, why),
        });
        assert_eq!(in_avro.read(&bytes, &mut of_avro), wanted, "{text}");
    }
    assert_eq!(of_json.times, of_avro.times);
    assert_eq!(of_json.times.len(), 6);
    let names: Vec<String> = in_avro.fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names[8..], ["change_op", "change_timestamp"]);
    assert_eq!(of_json.finish(), of_avro.finish());
}

/// As the connector of a database of documents has them.
#[test]
fn a_row_that_is_json_in_a_string_is_read_in_avro_as_in_json() {
    let schema = r#"{"type": "record", "name": "Envelope", "fields": [
        {"name": "before", "type": ["null", {"type": "string", "connect.name": "io.debezium.data.Json"}]},
        {"name": "after", "type": ["null", {"type": "string", "connect.name": "io.debezium.data.Json"}]},
        {"name": "op", "type": "string"}, {"name": "ts_ms", "type": "long"}]}"#;
    let (in_json, in_avro) = (read_by(&changes(None)).unwrap(), read_by(&changes(Some(schema))).unwrap());
    let parsed = apache_avro::Schema::parse_str(schema).unwrap();
    let (mut of_json, mut of_avro) = (in_json.columns(2), in_avro.columns(2));
    for (op, name, row) in
        [("c", "after", first().to_string()), ("d", "before", first().to_string()), ("u", "after", "{".into())]
    {
        let text = json!({"op": op, "ts_ms": 7, name: row}).to_string();
        let there = |field: &str| if field == name { some(Value::String(row.clone())) } else { nothing() };
        let fields = [
            ("before", there("before")),
            ("after", there("after")),
            ("op", Value::String(op.into())),
            ("ts_ms", Value::Long(7)),
        ];
        let value = Value::Record(fields.map(|(name, value)| (name.to_owned(), value)).into());
        let bytes = apache_avro::to_avro_datum(&parsed, value).unwrap();
        let (json, avro) = (in_json.read(text.as_bytes(), &mut of_json), in_avro.read(&bytes, &mut of_avro));
        assert_eq!((json.is_ok(), avro.is_ok()), (row.len() > 1, row.len() > 1), "{json:?} {avro:?}");
        let why = |read: std::result::Result<(), (Problem, String)>| read.err().map(|(_, why)| why);
        assert_eq!(why(json), why(avro));
    }
    assert_eq!(of_json.finish(), of_avro.finish());
}

#[test]
fn a_change_that_is_cut_or_altered_never_panics_and_leaves_the_columns_alone() {
    let decoder = read_by(&changes(Some(ENVELOPE))).unwrap();
    let (_, whole) = change("u", &first(), &first(), &json!(1));
    let mut columns = decoder.columns(1);
    for end in 0..whole.len() {
        let (problem, why) = decoder.read(&whole[..end], &mut columns).unwrap_err();
        assert_eq!(problem, Problem::Avro, "{end}: {why}");
    }
    assert!(columns.times.is_empty());
    let (mut good, mut bad) = (0, 0);
    for at in 0..whole.len() {
        for byte in 0..=255 {
            let mut altered = whole.clone();
            altered[at] = byte;
            match decoder.read(&altered, &mut columns) {
                Ok(()) => good += 1,
                Err(_) => bad += 1,
            }
        }
    }
    assert!(good > 100 && bad > 1_000, "{good} {bad}");
    assert_eq!(columns.times.len(), good);
    assert!(columns.finish().iter().all(|array| array.len() == good));
}

/// What a field `x` of a kind reads of a value of a type, or why not; `plain`
/// is the type as Avro's library needs to know it.
fn read_value(kind: FieldKind, path: &str, (plain, typed): (&str, &str), value: Value) -> Result<String, String> {
    let schema = |x: &str| {
        format!(
            r#"{{"type": "record", "name": "E", "fields": [{{"name": "nim", "type": "string"}},
            {{"name": "at", "type": "long"}}, {{"name": "x", "type": {x}}}]}}"#
        )
    };
    let field = |name: &str, kind, path: &str| FieldSettings {
        name: name.into(),
        kind,
        path: path.split('.').map(str::to_owned).collect(),
    };
    let fields = vec![
        field("nim", FieldKind::String, "nim"),
        field("at", FieldKind::Timestamp(TimeFormat::Seconds), "at"),
        field("value", kind, path),
    ];
    let file = SchemaSettings::File { path: "e.avsc".into(), bytes: schema(typed).into(), hash: String::new() };
    let decoder = read_by(&EventSettings { fields, ..settings(file) }).map_err(|error| error.to_string())?;
    let record = [("nim", Value::String("1".into())), ("at", Value::Long(1)), ("x", value)];
    let record = Value::Record(record.map(|(name, value)| (name.to_owned(), value)).into());
    let payload = apache_avro::to_avro_datum(&apache_avro::Schema::parse_str(&schema(plain)).unwrap(), record).unwrap();
    let mut columns = decoder.columns(1);
    decoder.read(&payload, &mut columns).map_err(|(problem, why)| format!("{}: {why}", problem.as_str()))?;
    let arrays: Vec<ArrayRef> = columns.finish();
    let number = arrays[2].as_primitive_opt::<TimestampMicrosecondType>().map(|times| times.value(0).to_string());
    let options = FormatOptions::default();
    Ok(number.unwrap_or_else(|| ArrayFormatter::try_new(&arrays[2], &options).unwrap().value(0).to_string()))
}

/// The zone of the test's pipeline is seven hours before UTC's.
const HOURS: i64 = 7 * 3_600_000_000;

#[test]
fn a_time_is_what_its_schema_says_and_a_format_that_contradicts_it_makes_a_dead_letter() {
    let named = |kind: &str, name: &str| {
        (format!("\"{kind}\""), format!(r#"{{"type": "{kind}", "connect.version": 1, "connect.name": "{name}"}}"#))
    };
    let debezium = |kind: &str, name: &str| named(kind, &format!("io.debezium.time.{name}"));
    let connect = |kind: &str, name: &str| named(kind, &format!("org.apache.kafka.connect.data.{name}"));
    let logical = |kind: &str, name: &str, more: &str| {
        (format!("\"{kind}\""), format!(r#"{{"type": "{kind}", "logicalType": "{name}"{more}}}"#))
    };
    let (iso, seconds) = (FieldKind::Timestamp(TimeFormat::Iso), FieldKind::Timestamp(TimeFormat::Seconds));
    let millis = FieldKind::Timestamp(TimeFormat::Milliseconds);
    let micros = FieldKind::Timestamp(TimeFormat::Microseconds);
    let pattern = FieldKind::Timestamp(TimeFormat::Pattern("%d/%m/%Y %H.%M %z".into()));
    let at = 1_767_600_000_123_456i64;
    let ok = |value: i64| Ok(value.to_string());
    let text = |value: &str| Ok(value.to_owned());
    let zoned = || Value::String("2026-01-05T15:00:00.123456+07:00".into());
    let strange = || Value::String("05/01/2026 15.00 +0700".into());
    let cases = vec![
        (debezium("long", "MicroTimestamp"), Value::Long(at), &iso, ok(at)),
        (debezium("long", "MicroTimestamp"), Value::Long(at), &micros, ok(at)),
        (debezium("long", "MicroTimestamp"), Value::Long(at), &millis, Err("a time in microseconds by its schema")),
        (debezium("long", "MicroTimestamp"), Value::Long(at), &seconds, Err("not a time of the declared format")),
        (debezium("long", "MicroTimestamp"), Value::Long(at), &pattern, Err("a time in microseconds by its schema")),
        (debezium("long", "MicroTimestamp"), Value::Long(at), &FieldKind::Long, ok(at)),
        (debezium("long", "MicroTimestamp"), Value::Long(7), &FieldKind::Double, text("7.0")),
        (debezium("long", "MicroTimestamp"), Value::Long(at), &FieldKind::String, text("2026-01-05T08:00:00.123456Z")),
        (debezium("long", "MicroTimestamp"), Value::Long(at), &FieldKind::Boolean, Err("not true or false")),
        (debezium("long", "Timestamp"), Value::Long(at / 1_000), &iso, ok(at / 1_000 * 1_000)),
        (debezium("long", "Timestamp"), Value::Long(-1), &millis, ok(-1_000)),
        (debezium("long", "Timestamp"), Value::Long(1), &micros, Err("a time in milliseconds by its schema")),
        (debezium("long", "Timestamp"), Value::Long(i64::MAX), &iso, Err("a time in milliseconds by its schema")),
        (debezium("long", "NanoTimestamp"), Value::Long(at * 1_000 + 999), &iso, ok(at)),
        (debezium("long", "NanoTimestamp"), Value::Long(-1), &iso, ok(-1)),
        (debezium("long", "NanoTimestamp"), Value::Long(1), &micros, Err("a time in nanoseconds by its schema")),
        (connect("long", "Timestamp"), Value::Long(at / 1_000), &iso, ok(at / 1_000 * 1_000)),
        (logical("long", "timestamp-micros", ""), Value::Long(at), &millis, Err("a time in microseconds")),
        (logical("long", "local-timestamp-micros", ""), Value::Long(at), &micros, ok(at - HOURS)),
        (logical("long", "local-timestamp-millis", ""), Value::Long(1), &micros, Err("a local time in milliseconds")),
        // A converter that has made it a number says so by Avro's own word.
        (
            logical("long", "timestamp-millis", r#", "connect.name": "io.debezium.time.ZonedTimestamp""#),
            Value::Long(7),
            &iso,
            ok(7_000),
        ),
        (debezium("string", "ZonedTimestamp"), zoned(), &iso, ok(at)),
        (debezium("string", "ZonedTimestamp"), zoned(), &micros, Err("a string, not a time of the declared format")),
        (debezium("string", "ZonedTimestamp"), strange(), &pattern, ok(at / 1_000_000 * 1_000_000)),
        (debezium("string", "IsoTimestamp"), Value::String("2026-01-05T08:00:00Z".into()), &iso, ok(at - 123_456)),
        (debezium("int", "Date"), Value::Int(20_458), &iso, ok(at - 123_456 - 8 * 3_600_000_000 - HOURS)),
        (debezium("int", "Date"), Value::Int(20_458), &FieldKind::String, text("2026-01-05")),
        (debezium("int", "Date"), Value::Int(20_458), &FieldKind::Long, ok(20_458)),
        (debezium("int", "Date"), Value::Int(-1), &FieldKind::Double, text("-1.0")),
        (debezium("int", "Date"), Value::Int(20_458), &millis, Err("a day by its schema")),
        (debezium("int", "Date"), Value::Int(20_458), &pattern, Err("a day by its schema")),
        (connect("int", "Date"), Value::Int(1), &FieldKind::String, text("1970-01-02")),
        (logical("int", "date", ""), Value::Int(1), &seconds, Err("a day by its schema")),
        (debezium("long", "MicroTime"), Value::Long(5), &FieldKind::Long, ok(5)),
        (debezium("long", "MicroTime"), Value::Long(5), &FieldKind::Double, text("5.0")),
        (debezium("long", "MicroTime"), Value::Long(5), &micros, ok(5)),
        (debezium("long", "MicroTime"), Value::Long(5), &millis, Err("a span in microseconds by its schema")),
        (debezium("long", "MicroTime"), Value::Long(5), &iso, Err("a span in microseconds by its schema")),
        (debezium("int", "Time"), Value::Int(5), &millis, ok(5_000)),
        (connect("int", "Time"), Value::Int(5), &micros, Err("a span in milliseconds by its schema")),
        (logical("int", "time-millis", ""), Value::Int(5), &iso, Err("a span in milliseconds by its schema")),
        (debezium("long", "NanoTime"), Value::Long(5), &micros, Err("a span in nanoseconds by its schema")),
        (debezium("int", "Year"), Value::Int(2026), &FieldKind::Long, ok(2026)),
    ];
    for ((plain, typed), value, kind, wanted) in cases {
        let found = read_value(kind.clone(), "x", (&plain, &typed), value);
        match wanted {
            Ok(wanted) => assert_eq!(found, Ok(wanted), "{typed} as {kind:?}"),
            Err(words) => {
                assert!(found.as_ref().is_err_and(|why| why.contains(words)), "{typed} as {kind:?}: {found:?}")
            }
        }
    }
}

#[test]
fn a_decimal_has_the_scale_of_its_schema_or_its_own() {
    let connect = |scale: &str| {
        format!(
            r#"{{"type": "bytes", "connect.parameters": {{"scale": {scale}}},
            "connect.name": "org.apache.kafka.connect.data.Decimal"}}"#
        )
    };
    let bytes = || Value::Bytes(vec![0x30, 0x39]);
    let read = |kind, typed: &str, value| read_value(kind, "x", ("\"bytes\"", typed), value);
    for (kind, scale, wanted) in [
        (FieldKind::Double, "\"2\"", "123.45"),
        (FieldKind::String, "\"-2\"", "1234500"),
        (FieldKind::Long, "\"0\"", "12345"),
        (FieldKind::String, "7", "0.0012345"),
    ] {
        assert_eq!(read(kind, &connect(scale), bytes()), Ok(wanted.to_owned()), "{scale}");
    }
    let why = read(FieldKind::Double, &connect("\"two\""), bytes()).unwrap_err();
    assert!(why.contains("a decimal has the scale \"two\""), "{why}");

    let record = |name: &str, scale: &str| {
        format!(
            r#"{{"type": "record", "name": "VariableScaleDecimal", "namespace": "io.debezium.{name}", "fields": [
            {{"name": "scale", "type": {scale}}}, {{"name": "value", "type": "bytes"}}]}}"#
        )
    };
    let scaled = |scale: i32| Value::Record(vec![("scale".into(), Value::Int(scale)), ("value".into(), bytes())]);
    let known = record("data", "\"int\"");
    let read = |kind, path: &str, typed: &str, value| read_value(kind, path, (&known, typed), value);
    assert_eq!(read(FieldKind::Double, "x", &known, scaled(3)), Ok("12.345".to_owned()));
    assert_eq!(read(FieldKind::Long, "x", &known, scaled(-1)), Ok("123450".to_owned()));
    assert_eq!(read(FieldKind::Long, "x.scale", &known, scaled(3)), Ok("3".to_owned()));
    for (kind, typed, scale, words) in [
        (FieldKind::Long, &known, 3, "a decimal, not a whole number"),
        (FieldKind::Double, &known, i32::MAX, "a decimal of more than 38 digits"),
        (FieldKind::Double, &record("other", "\"int\""), 3, "a record, not a number"),
    ] {
        let why = read(kind, "x", typed, scaled(scale)).unwrap_err();
        assert!(why.contains(words), "{typed}: {why}");
    }
}

#[test]
fn a_schema_without_an_envelope_is_no_schema_of_changes() {
    for (missing, schema) in [
        ("op", ENVELOPE.replace("{\"name\": \"op\", \"type\": \"string\"},", "")),
        ("after", ENVELOPE.replace("{\"name\": \"after\", \"type\": [\"null\", \"Value\"], \"default\": null},", "")),
        ("op", SCHEMA.to_owned()),
        ("op", "\"string\"".to_owned()),
    ] {
        let error = read_by(&changes(Some(&schema))).unwrap_err().to_string();
        assert!(
            error.contains("`change.avsc` is no schema of change events") && error.contains("live.toml"),
            "{error}"
        );
        assert!(error.contains(&format!("no field `{missing}`")) && error.contains("`format = \"avro\"`"), "{error}");
    }
}

#[test]
fn a_registry_of_changes_tells_what_is_new_in_the_row() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let answer = |schema: &str| &*json!({"schema": schema}).to_string().leak();
    let wider =
        ENVELOPE.replace("{\"name\": \"gpa\",", "{\"name\": \"room\", \"type\": \"int\"}, {\"name\": \"mean\",");
    let answers: Vec<(&'static str, u16, &'static str)> = vec![
        ("/schemas/ids/1", 200, answer(ENVELOPE)),
        ("/schemas/ids/2", 200, answer(&wider)),
        ("/schemas/ids/3", 200, answer(SCHEMA)),
    ];
    let registry = registry(answers.leak(), &ASKED);
    let events = EventSettings { schema: Some(SchemaSettings::Registry(registry)), ..changes(None) };
    let schemas = Arc::new(Schemas::new(Path::new("live.toml"), &events).unwrap().unwrap());
    let decoder = events.decoder(&["nim".into()]).with_written(schemas.clone());
    let (_, value) = change("c", &Json::Null, &first(), &json!(1));
    let mut part = RawPart::default();
    for schema in 1..=3 {
        part.payload.extend_from_slice(&[0, 0, 0, 0, schema]);
        part.payload.extend_from_slice(&value);
        part.ends.push(part.payload.len());
        part.offsets.push(i64::from(schema));
        part.arrivals.push(0);
    }
    in_runtime(|| schemas.learn_all(std::slice::from_ref(&part))).unwrap();
    let news = schemas.news();
    assert!(news.iter().any(|news| news.contains("2: new fields `mean`, `room`, without `gpa`")), "{news:?}");
    let mut columns = decoder.columns(1);
    decoder.read(part.payload(0), &mut columns).unwrap();
    let (problem, why) = decoder.read(part.payload(2), &mut columns).unwrap_err();
    assert!(problem == Problem::Schema && why.contains("schema 3") && why.contains("no field `op`"), "{why}");
}
