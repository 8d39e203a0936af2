//! Payloads to columns: they are walked once, and only the declared fields are
//! kept. An event is taken whole or set aside whole.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, TimeUnit};

use super::cells::{Cell, Event, Layout, Node, Walk, Wanted};
use super::field::{CHANGE_COLUMNS, CHANGE_TIMESTAMP, FieldKind, FieldSettings, TimeFormat};
use super::json::{self, Next, Reader};
use super::time::TimeReader;

/// Why an event was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The payload is not JSON.
    Json,
    /// The payload is not written by its Avro schema.
    Avro,
    /// The payload is no such message of Protocol Buffers.
    Protobuf,
    /// The payload names no schema, or one that the registry has not got.
    Schema,
    /// A field holds something else than was declared.
    Type,
    /// A time cannot be read, or the event has none.
    Time,
    /// A column of the entity key is missing.
    Key,
    /// The event's time is too far after its arrival.
    Future,
    /// It is older than its partition's watermark.
    Late,
    /// An expression or the model cannot take one of its values.
    Value,
}

impl Problem {
    /// Its word in the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Avro => "avro",
            Self::Protobuf => "protobuf",
            Self::Schema => "schema",
            Self::Type => "type",
            Self::Time => "time",
            Self::Key => "key",
            Self::Future => "future",
            Self::Late => "late",
            Self::Value => "value",
        }
    }
}

/// What is wanted of payloads.
#[derive(Debug, Clone, Copy)]
pub struct Payloads<'a> {
    /// The fields, in the order of the columns.
    pub fields: &'a [FieldSettings],
    /// The field with the event's time.
    pub time: &'a str,
    /// The zone of times without one.
    pub time_zone: &'a str,
    /// Fields without which an event is set aside.
    pub key: &'a [String],
    /// Whether payloads are Debezium's change events.
    pub is_change: bool,
}

/// Reads payloads that are no JSON.
pub trait Written: std::fmt::Debug + Send + Sync {
    /// Takes a payload's values in.
    ///
    /// # Errors
    /// What is wrong with the event.
    fn read(&self, payload: &[u8], walk: &mut Walk<'_>) -> Result<(), (Problem, String)>;
}

/// Reads payloads.
#[derive(Debug)]
pub struct Decoder {
    layout: Layout,
    time: usize,
    key: Vec<usize>,
    is_change: bool,
    /// What reads payloads that are no JSON.
    written: Option<Arc<dyn Written>>,
}

/// Columns that are being filled.
#[derive(Debug)]
pub struct Columns {
    builders: Vec<Builder>,
    /// Event times, microseconds UTC.
    pub times: Vec<i64>,
    event: Event,
}

#[derive(Debug)]
enum Builder {
    Text(StringBuilder),
    Long(Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
}

impl Decoder {
    /// Reads what is wanted of JSON.
    pub fn new(wanted: Payloads<'_>) -> Self {
        let Payloads { fields, time, time_zone, key, is_change } = wanted;
        let layout = Layout { wanted: Vec::new(), nodes: vec![Node::default()], count: 0 };
        let mut decoder = Self { layout, time: 0, key: Vec::new(), is_change, written: None };
        // A converter that keeps schemas puts the event into `payload`.
        let rows =
            |row: &[&[&'static str]]| -> Vec<Vec<&'static str>> { row.iter().map(|path| path.to_vec()).collect() };
        let after = if is_change { rows(&[&["after"], &["payload", "after"]]) } else { rows(&[&[]]) };
        for field in fields {
            decoder.want(&field.name, &field.kind, time_zone, &after, &field.path);
        }
        if is_change {
            let whole = rows(&[&[], &["payload"]]);
            let moment = FieldKind::Timestamp(TimeFormat::Milliseconds);
            decoder.want(CHANGE_COLUMNS[0], &FieldKind::String, "UTC", &whole, &["op".to_owned()]);
            decoder.want(CHANGE_TIMESTAMP, &moment, "UTC", &whole, &["ts_ms".to_owned()]);
        }
        decoder.layout.count = decoder.layout.wanted.len();
        if is_change {
            let before = rows(&[&["before"], &["payload", "before"]]);
            for field in fields {
                decoder.want(&field.name, &field.kind, time_zone, &before, &field.path);
            }
            if time == CHANGE_TIMESTAMP {
                decoder.time = decoder.layout.count - 1;
            }
        }
        for (index, field) in fields.iter().enumerate() {
            if field.name == time {
                decoder.time = index;
            }
            if key.contains(&field.name) {
                decoder.key.push(index);
            }
        }
        decoder
    }

    /// Payloads are read by `written`.
    pub fn with_written(mut self, written: Arc<dyn Written>) -> Self {
        self.written = Some(written);
        self
    }

    /// Another field, at `path` below each of `roots`.
    fn want(&mut self, name: &str, kind: &FieldKind, zone: &str, roots: &[Vec<&str>], path: &[String]) {
        let time = match kind {
            FieldKind::Timestamp(format) => Some(TimeReader::new(format, zone)),
            _ => None,
        };
        for root in roots {
            let mut at = 0;
            for name in root.iter().copied().chain(path.iter().map(String::as_str)) {
                at = self.child(at, name);
            }
            self.layout.nodes[at].fields.push(self.layout.wanted.len());
        }
        self.layout.wanted.push(Wanted { name: name.to_owned(), kind: kind.clone(), time });
    }

    fn child(&mut self, at: usize, name: &str) -> usize {
        if let Some((_, child)) = self.layout.nodes[at].children.iter().find(|(child, _)| child == name) {
            return *child;
        }
        self.layout.nodes.push(Node::default());
        let child = self.layout.nodes.len() - 1;
        self.layout.nodes[at].children.push((name.to_owned(), child));
        child
    }

    /// Where the fields stand in payloads that are JSON.
    pub(crate) fn json_layout(&self) -> Option<&Layout> {
        self.written.is_none().then_some(&self.layout)
    }

    /// The columns that come out.
    pub fn fields(&self) -> Vec<Field> {
        let of = |kind: &FieldKind| match kind {
            FieldKind::String => DataType::Utf8,
            FieldKind::Long => DataType::Int64,
            FieldKind::Double => DataType::Float64,
            FieldKind::Boolean => DataType::Boolean,
            FieldKind::Timestamp(_) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        };
        self.layout.wanted[..self.layout.count]
            .iter()
            .map(|wanted| Field::new(&wanted.name, of(&wanted.kind), true))
            .collect()
    }

    /// Empty columns for about `rows` events.
    pub fn columns(&self, rows: usize) -> Columns {
        let builder = |wanted: &Wanted| match wanted.kind {
            FieldKind::String => Builder::Text(StringBuilder::with_capacity(rows, rows * 12)),
            FieldKind::Long => Builder::Long(Int64Builder::with_capacity(rows)),
            FieldKind::Double => Builder::Double(Float64Builder::with_capacity(rows)),
            FieldKind::Boolean => Builder::Boolean(BooleanBuilder::with_capacity(rows)),
            FieldKind::Timestamp(_) => Builder::Time(TimestampMicrosecondBuilder::with_capacity(rows)),
        };
        let builders = self.layout.wanted[..self.layout.count].iter().map(builder).collect();
        Columns { builders, times: Vec::with_capacity(rows), event: Event::default() }
    }

    /// Takes in one event, or says why not and leaves the columns as they
    /// were.
    pub fn read(&self, payload: &[u8], columns: &mut Columns) -> Result<(), (Problem, String)> {
        let event = &mut columns.event;
        event.clear(&self.layout);
        let mut walk = Walk { layout: &self.layout, event: &mut *event };
        let walked = match &self.written {
            None => {
                let text = std::str::from_utf8(payload).map_err(|error| (Problem::Json, error.to_string()))?;
                let mut json = Reader::new(text);
                walk.value(0, &mut json).and_then(|()| json.end()).map_err(|error| (Problem::Json, error))
            }
            Some(written) => written.read(payload, &mut walk),
        };
        if !self.is_change
            && let Some(problem) = event.problem.take()
        {
            return Err(problem);
        }
        walked?;
        if self.is_change {
            self.choose_row(event)?;
        }
        let Cell::Long(time) = event.cells[self.time] else {
            return Err((Problem::Time, format!("the event has no `{}`", self.layout.wanted[self.time].name)));
        };
        for index in &self.key {
            if let Cell::Null = event.cells[*index] {
                return Err((Problem::Key, format!("the event has no `{}`", self.layout.wanted[*index].name)));
            }
        }
        for (builder, cell) in columns.builders.iter_mut().zip(&event.cells) {
            match (builder, *cell) {
                (Builder::Text(text), Cell::Text(from, to)) => text.append_value(&event.text[from..to]),
                (Builder::Text(text), _) => text.append_null(),
                (Builder::Long(numbers), Cell::Long(number)) => numbers.append_value(number),
                (Builder::Long(numbers), _) => numbers.append_null(),
                (Builder::Double(numbers), Cell::Double(number)) => numbers.append_value(number),
                (Builder::Double(numbers), _) => numbers.append_null(),
                (Builder::Boolean(flags), Cell::Boolean(flag)) => flags.append_value(flag),
                (Builder::Boolean(flags), _) => flags.append_null(),
                (Builder::Time(times), Cell::Long(time)) => times.append_value(time),
                (Builder::Time(times), _) => times.append_null(),
            }
        }
        columns.times.push(time);
        Ok(())
    }
}

impl Decoder {
    /// Of a deletion the row before it, else the row after the change.
    fn choose_row(&self, event: &mut Event) -> Result<(), (Problem, String)> {
        let fields = self.layout.count - CHANGE_COLUMNS.len();
        let malformed = if self.written.is_some() { Problem::Avro } else { Problem::Json };
        let Cell::Text(from, to) = event.cells[fields] else {
            return Err((malformed, "it is no Debezium change event: it has no `op`".to_owned()));
        };
        let problem = match &event.text[from..to] {
            "c" | "u" | "r" => event.problem.take(),
            "d" => {
                let (row, before) = event.cells.split_at_mut(self.layout.count);
                row[..fields].copy_from_slice(before);
                event.problem_before.take()
            }
            op => return Err((malformed, format!("a change event of kind `{}` has no row", op.escape_debug()))),
        };
        problem.map_or(Ok(()), Err)
    }
}

impl Columns {
    /// The filled columns.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        let finish = |builder: &mut Builder| -> ArrayRef {
            match builder {
                Builder::Text(text) => Arc::new(text.finish()),
                Builder::Long(numbers) => Arc::new(numbers.finish()),
                Builder::Double(numbers) => Arc::new(numbers.finish()),
                Builder::Boolean(flags) => Arc::new(flags.finish()),
                Builder::Time(times) => Arc::new(times.finish().with_timezone("UTC")),
            }
        };
        self.builders.iter_mut().map(finish).collect()
    }
}

/// JSON.
impl Walk<'_> {
    fn value(&mut self, at: usize, json: &mut Reader<'_>) -> json::Result<()> {
        match json.peek()? {
            Next::String => {
                let text = json.string()?;
                self.string(at, &text)
            }
            Next::Array => {
                self.other(at, "an array");
                json.skip()
            }
            Next::Object => {
                self.other(at, "an object");
                self.object(at, json)
            }
            Next::Scalar => {
                let scalar = json.scalar()?;
                self.scalar(at, scalar);
                Ok(())
            }
        }
    }

    /// A string, which may hold JSON.
    pub fn string(&mut self, at: usize, value: &str) -> json::Result<()> {
        self.text(at, value);
        if self.layout.nodes[at].children.is_empty() {
            return Ok(());
        }
        let mut inner = Reader::new(value);
        let read = match inner.peek() {
            Ok(Next::Object) => self.object(at, &mut inner).and_then(|()| inner.end()),
            Ok(_) => Err("it is no object".to_owned()),
            Err(error) => Err(error),
        };
        read.map_err(|error| format!("in a string that holds JSON: {error}"))
    }

    fn object(&mut self, at: usize, json: &mut Reader<'_>) -> json::Result<()> {
        let mut more = json.enter()?;
        while more {
            let name = json.name()?;
            match self.child(at, &name) {
                None => json.skip()?,
                Some(child) => {
                    // What a name means that stands twice nobody knows.
                    if std::mem::replace(&mut self.event.seen[child], true) {
                        return Err(format!("`{name}` stands twice"));
                    }
                    self.value(child, json)?;
                }
            }
            more = json.more(b'}')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};

    fn decoder() -> Decoder {
        let field = |name: &str, kind, path: &str| FieldSettings {
            name: name.into(),
            kind,
            path: path.split('.').map(str::to_owned).collect(),
        };
        let fields = vec![
            field("nim", FieldKind::String, "nim"),
            field("flag", FieldKind::Double, "event_data.attendance_flag"),
            field("raw", FieldKind::String, "event_data"),
            field("deep", FieldKind::Boolean, "a.b.c"),
            field("timestamp", FieldKind::Timestamp(TimeFormat::Iso), "timestamp"),
        ];
        let (time, time_zone, is_change) = ("timestamp", "UTC", false);
        Decoder::new(Payloads { fields: &fields, time, time_zone, key: &["nim".to_owned()], is_change })
    }

    #[test]
    fn fields_are_found_by_path_also_in_a_string_that_holds_json() {
        let decoder = decoder();
        let mut columns = decoder.columns(3);
        for payload in [
            r#"{"nim":"1","x":[1,{"y":2}],"event_data":"{\"attendance_flag\":1,\"z\":{}}","timestamp":"1970-01-01T00:00:01Z"}"#,
            r#" {"timestamp":"1970-01-01 00:00:02","nim":"2\n","a":{"b":{"c":true},"d":null},"event_data":null} "#,
        ] {
            decoder.read(payload.as_bytes(), &mut columns).unwrap();
        }
        assert_eq!(columns.times, [1_000_000, 2_000_000]);
        let arrays = columns.finish();
        assert_eq!(arrays[0].as_string::<i32>().value(1), "2\n");
        assert_eq!(arrays[1].as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(1.0), None]);
        assert_eq!(arrays[2].as_string::<i32>().value(0), r#"{"attendance_flag":1,"z":{}}"#);
        assert_eq!(arrays[3].as_boolean().iter().collect::<Vec<_>>(), [None, Some(true)]);
        assert_eq!(arrays[4].as_primitive::<TimestampMicrosecondType>().value(0), 1_000_000);
    }

    #[test]
    fn a_change_event_gives_the_row_after_it_or_before_a_deletion() {
        let field = |name: &str, kind| FieldSettings { name: name.into(), kind, path: vec![name.into()] };
        let fields: Vec<_> = vec![field("nim", FieldKind::String), field("n", FieldKind::Long)];
        let (time, time_zone, is_change) = (CHANGE_TIMESTAMP, "UTC", true);
        let decoder = Decoder::new(Payloads { fields: &fields, time, time_zone, key: &["nim".to_owned()], is_change });
        let names: Vec<String> = decoder.fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["nim", "n", "change_op", "change_timestamp"]);
        let mut columns = decoder.columns(4);
        for payload in [
            r#"{"before":null,"after":{"nim":"1","n":5},"source":{"table":"t"},"op":"c","ts_ms":1000}"#,
            r#"{"before":{"nim":"1","n":"five"},"after":{"nim":"1","n":6},"op":"u","ts_ms":2000}"#,
            r#"{"schema":{"type":"struct"},"payload":{"before":{"nim":"1","n":6},"after":null,"op":"d","ts_ms":3000}}"#,
        ] {
            decoder.read(payload.as_bytes(), &mut columns).unwrap();
        }
        for (payload, problem, words) in [
            (r#"{"after":{"nim":"1"},"ts_ms":1}"#, Problem::Json, "has no `op`"),
            (
                r#"{"op":"u","before":{"nim":"1","n":6},"after":{"nim":"1","n":"six"},"ts_ms":1}"#,
                Problem::Type,
                "`n` is a string",
            ),
            (r#"{"op":"d","before":{"nim":"1","n":"six"},"ts_ms":1}"#, Problem::Type, "`n` is a string"),
            (r#"{"op":"t","ts_ms":1}"#, Problem::Json, "of kind `t`"),
            (r#"{"op":"d","before":null,"ts_ms":1}"#, Problem::Key, "has no `nim`"),
            (r#"{"op":"c","after":{"nim":"1"}}"#, Problem::Time, "has no `change_timestamp`"),
        ] {
            let (found, message) = decoder.read(payload.as_bytes(), &mut columns).unwrap_err();
            assert!(found == problem && message.contains(words), "{payload}: {message}");
        }
        assert_eq!(columns.times, [1_000_000, 2_000_000, 3_000_000]);
        let arrays = columns.finish();
        assert_eq!(arrays[1].as_primitive::<Int64Type>().values().as_ref(), [5, 6, 6]);
        let ops: Vec<_> = arrays[2].as_string::<i32>().iter().flatten().collect();
        assert_eq!(ops, ["c", "u", "d"]);
    }

    #[test]
    fn names_of_many_fields_are_told_apart() {
        let names: Vec<String> = (0..130).map(|n| format!("f{n}")).collect();
        let field = |name: &String| FieldSettings {
            name: name.clone(),
            kind: if name == "f0" { FieldKind::Timestamp(TimeFormat::Seconds) } else { FieldKind::Long },
            path: vec![name.clone()],
        };
        let fields: Vec<_> = names.iter().map(field).collect();
        let (time, time_zone, is_change) = ("f0", "UTC", false);
        let decoder = Decoder::new(Payloads { fields: &fields, time, time_zone, key: &["f1".to_owned()], is_change });
        let mut columns = decoder.columns(2);
        let entries: Vec<String> = (0..130).rev().map(|n| format!(r#""f{n}":{n}"#)).collect();
        decoder.read(format!("{{{}}}", entries.join(",")).as_bytes(), &mut columns).unwrap();
        let twice = format!(r#"{{{},"f129":0}}"#, entries.join(","));
        let (problem, message) = decoder.read(twice.as_bytes(), &mut columns).unwrap_err();
        assert_eq!((problem, message.contains("`f129` stands twice")), (Problem::Json, true), "{message}");
        assert_eq!(columns.finish()[129].as_primitive::<Int64Type>().values().as_ref(), [129]);
    }

    #[test]
    fn what_cannot_be_read_says_why_and_leaves_the_columns_alone() {
        let decoder = decoder();
        let mut columns = decoder.columns(3);
        let time = r#""timestamp":"1970-01-01T00:00:01Z""#;
        for (payload, problem, words) in [
            ("".to_owned(), Problem::Json, "ends early"),
            ("[]".to_owned(), Problem::Time, "has no `timestamp`"),
            (format!(r#"{{"nim":"1",{time}"#), Problem::Json, "ends early"),
            (format!(r#"{{"nim":"1",{time}}} x"#), Problem::Json, "something follows"),
            (format!(r#"{{"nim":7,{time}}}"#), Problem::Type, "`nim` is a number, not a string"),
            (format!(r#"{{"nim":null,{time}}}"#), Problem::Key, "has no `nim`"),
            (format!(r#"{{"nim":"1","nim":"2",{time}}}"#), Problem::Json, "stands twice"),
            (r#"{"nim":"1"}"#.to_owned(), Problem::Time, "has no `timestamp`"),
            (r#"{"nim":"1","timestamp":"soon"}"#.to_owned(), Problem::Time, "not a time of the declared format"),
            (format!(r#"{{"nim":"1","event_data":"{{",{time}}}"#), Problem::Json, "in a string that holds JSON"),
            (format!(r#"{{"nim":"1","a":{{"b":{{"c":1}}}},{time}}}"#), Problem::Type, "`deep` is a number"),
            ("{\"nim\":\"\u{0}\"".to_owned(), Problem::Json, "control character"),
        ] {
            let (found, message) = decoder.read(payload.as_bytes(), &mut columns).unwrap_err();
            assert_eq!(found, problem, "{payload}: {message}");
            assert!(message.contains(words), "{payload}: {message}");
        }
        assert!(columns.times.is_empty() && columns.finish()[0].is_empty());
    }
}
