//! The laws of drift: payloads in, news out.

use std::collections::BTreeSet;

use super::*;
use crate::{FieldKind, FieldSettings, Payloads, TimeFormat};

fn field(name: &str, kind: FieldKind, path: &str) -> FieldSettings {
    FieldSettings { name: name.into(), kind, path: path.split('.').map(str::to_owned).collect() }
}

fn decoder_of(is_change: bool) -> Decoder {
    let fields = vec![
        field("nim", FieldKind::String, "nim"),
        field("attendance_flag", FieldKind::Double, "event_data.attendance_flag"),
        field("grade", FieldKind::Double, "event_data.grade"),
        field("timestamp", FieldKind::Timestamp(TimeFormat::Seconds), "timestamp"),
    ];
    let (time, time_zone, key) = ("timestamp", "UTC", &["nim".to_owned()]);
    Decoder::new(Payloads { fields: &fields, time, time_zone, key, is_change })
}

/// Reads events as a stream does: in polls of some size.
struct Reading {
    decoder: Decoder,
    drift: Drift,
    read: usize,
    poll: usize,
}

impl Reading {
    fn new() -> Self {
        Self::of(decoder_of(false))
    }

    fn of(decoder: Decoder) -> Self {
        Self { drift: Drift::of(&decoder).unwrap(), decoder, read: 0, poll: 300 }
    }

    /// What is new after `count` events.
    fn read(&mut self, count: usize, event: impl Fn(usize) -> String) -> Vec<News> {
        let payloads: Vec<String> = (0..count).map(event).collect();
        for payloads in payloads.chunks(self.poll) {
            let origin = |index: usize| Origin { partition: 7, offset: (self.read + index) as i64 };
            let mut columns = self.decoder.columns(payloads.len());
            let mut rows = Vec::new();
            for (index, payload) in payloads.iter().enumerate() {
                if self.decoder.read(payload.as_bytes(), &mut columns).is_ok() {
                    rows.push(index);
                }
            }
            for (number, index) in self.drift.choose(payloads.len()) {
                self.drift.look(&self.decoder, number, payloads[index].as_bytes(), origin(index));
            }
            self.drift.count(&columns.finish(), &|row| origin(rows[row]));
            self.read += payloads.len();
        }
        self.drift.news()
    }
}

/// Two kinds of events in turn, with fields that nobody declared.
fn usual(index: usize) -> String {
    let data = match index % 2 {
        0 => r#"{"attendance_flag":1,"room":"a"}"#.to_owned(),
        _ => format!(r#""{{\"attendance_flag\":0,\"grade\":{}.5}}""#, index % 5),
    };
    format!(r#"{{"nim":"{index}","campus":"x","event_data":{data},"timestamp":{index}}}"#)
}

fn told(news: &[News]) -> Vec<(Change, &str, Option<&str>)> {
    news.iter().map(|news| (news.change, news.field.as_str(), news.near.as_deref())).collect()
}

#[test]
fn usual_events_are_no_news_whatever_is_not_declared() {
    let mut reading = Reading::new();
    assert_eq!(reading.read(20_000, usual), []);
    reading.drift.end();
    assert_eq!((reading.drift.news(), reading.drift.noticed().len()), (vec![], 0));
}

#[test]
fn a_renamed_field_is_told_at_once_and_when_it_is_gone() {
    let mut reading = Reading::new();
    assert_eq!(reading.read(2_000, usual), []);
    let renamed = |index| usual(index).replace("attendance_flag", "attendanceFlag");
    let news = reading.read(1_000, renamed);
    let (new, old) = ("event_data.attendanceFlag", "event_data.attendance_flag");
    assert_eq!(
        told(&news),
        [(Change::NewField, new, Some(old)), (Change::Gone, old, Some(new))],
        "the second name is of the events beside it"
    );
    let words = news[0].to_string();
    for word in
        ["partition 7, offset 2032", "as 1)", "`event_data.attendance_flag` is missing there", "[events.fields]"]
    {
        assert!(words.contains(word), "{word}: {words}");
    }
    assert_eq!((news[1].offset, news[1].example.as_deref()), (2_000, None), "{}", news[1]);
    assert_eq!(reading.read(5_000, renamed), [], "each is told once");
    assert_eq!(told(&reading.read(2_000, usual)), [(Change::Came, old, None)]);
    assert_eq!(reading.read(3_000, renamed), []);
    assert_eq!(reading.drift.noticed().len(), 3);
}

#[test]
fn a_name_like_a_declared_one_that_no_event_has_is_told_from_the_beginning() {
    let misspelt = |index| usual(index).replace("attendance_flag", "attendance_flags");
    let mut reading = Reading::new();
    assert_eq!(reading.read(100, misspelt), []);
    let news = reading.read(1, misspelt);
    let fields = ("event_data.attendance_flags", Some("event_data.attendance_flag"));
    assert_eq!(told(&news), [(Change::Misspelt, fields.0, fields.1)]);
    assert!(news[0].offset == 0 && news[0].to_string().contains("did you mean"), "{}", news[0]);
    // A short stream is judged when it ends.
    let mut reading = Reading::new();
    assert_eq!(reading.read(3, misspelt), []);
    reading.drift.end();
    assert_eq!(told(&reading.drift.news()), [(Change::Misspelt, fields.0, fields.1)]);
    reading.drift.end();
    assert_eq!(reading.drift.news(), []);
}

#[test]
fn a_field_at_another_place_is_found_by_its_name() {
    let mut reading = Reading::new();
    let flat = |index| format!(r#"{{"nim":"1","attendance_flag":1,"grade":2,"timestamp":{index}}}"#);
    let news = reading.read(200, flat);
    let wanted = [
        (Change::Misspelt, "attendance_flag", Some("event_data.attendance_flag")),
        (Change::Misspelt, "grade", Some("event_data.grade")),
    ];
    assert_eq!(told(&news), wanted);
}

#[test]
fn a_new_field_is_told_with_the_beginning_of_its_value() {
    let mut reading = Reading::new();
    reading.read(1_500, usual);
    let long = "é\\u0009".repeat(50);
    let news = reading
        .read(500, |index| usual(index).replace(r#""campus":"#, &format!("\"se\\u001bat\":[\"{long}\n\"],\"c\":")));
    assert_eq!(news, [], "that is no JSON: the line break is not escaped");
    let news = reading.read(500, |index| {
        usual(index).replace(r#""campus":"#, &format!("\"se\\u001bat\":[\"{long}\",\n1],\"campus\":"))
    });
    assert_eq!(told(&news), [(Change::NewField, "se\\u{1b}at", None)]);
    let example = news[0].example.as_deref().unwrap();
    assert!(example.starts_with("[\"é") && example.ends_with('…') && example.chars().count() == 61, "{example}");
    assert!(!news[0].to_string().contains(char::is_control));
    let json = serde_json::to_string(&news[0]).unwrap();
    assert!(!json.contains("example") && json.contains(r#""change":"new_field""#), "{json}");
    assert_eq!(serde_json::from_str::<News>(&json).unwrap(), News { example: None, ..news[0].clone() });
}

#[test]
fn another_kind_of_value_is_told_of_objects_at_once_and_of_fields_when_it_is_unusual() {
    let mut reading = Reading::new();
    let array = |index: usize| format!(r#"{{"nim":"1","event_data":[{{"grade":1}}],"timestamp":{index}}}"#);
    let news = reading.read(5, array);
    assert_eq!(told(&news), [(Change::OtherKind, "event_data", None)]);
    assert!(news[0].says.contains("`event_data` is an array, not an object"), "{}", news[0]);
    assert_eq!(news[0].example.as_deref(), Some(r#"[{"grade":1}]"#));
    let text = |index: usize| format!(r#"{{"nim":"1","event_data":"none","timestamp":{index}}}"#);
    assert_eq!(reading.read(5, text), [], "once for a place");
    assert!(Reading::new().read(1, text)[0].says.contains("holds no object"));
    assert!(Reading::new().read(1, |_| "[]".to_owned())[0].says.starts_with("the event is an array"));
    assert_eq!(Reading::new().read(1, |_| r#"{"event_data":null,"nim":null}"#.to_owned()), []);

    let quoted = |index: usize| usual(index).replace(r#""attendance_flag":1"#, r#""attendance_flag":"1""#);
    let mut reading = Reading::new();
    assert_eq!(reading.read(1_000, usual), []);
    let news = reading.read(300, quoted);
    assert_eq!(told(&news), [(Change::OtherKind, "event_data.attendance_flag", None)]);
    assert!(news[0].says.contains("is a string, not a number: such events are dead letters"), "{}", news[0]);
    assert_eq!(Reading::new().read(2_000, quoted), [], "they always were dead letters");
}

#[test]
fn names_that_are_data_are_no_news() {
    let keyed = |index: usize| {
        format!(
            r#"{{"nim":"1","event_data":{{"attendance_flag":1,"s{index}":1}},"timestamp":{index},"n{}":1}}"#,
            index / 900
        )
    };
    let mut reading = Reading::new();
    let news = reading.read(30_000, keyed);
    assert!(news.iter().all(|news| !news.field.starts_with("event_data")), "{news:?}");
    let fields: BTreeSet<&str> = news.iter().map(|news| news.field.as_str()).collect();
    assert_eq!((fields.len(), fields.len()), (news.len(), 32), "other objects are not affected");
    assert_eq!(reading.drift.places[0].names.len(), 34);
    assert!(reading.drift.places.iter().all(|place| place.names.len() <= MOST_NAMES));
}

#[test]
fn only_so_many_names_are_told() {
    let mut reading = Reading::new();
    reading.read(2_000, usual);
    let numbered = |index: usize| usual(index).replace(r#""campus":"#, &format!(r#""new{index}":1,"campus":"#));
    assert_eq!(reading.read(127 * 200, numbered).len(), MOST_TOLD);
}

#[test]
fn news_do_not_depend_on_the_size_of_polls() {
    let event = |index: usize| match index {
        0..2_345 => usual(index),
        2_345..5_000 => usual(index).replace("attendance_flag", "attendance").replace("campus", "site"),
        _ => usual(index).replace("grade", "mark"),
    };
    let told = |poll: usize| {
        let mut reading = Reading { poll, ..Reading::new() };
        let news: Vec<News> = reading.read(9_000, event);
        news.into_iter().map(|news| news.to_string()).collect::<BTreeSet<_>>()
    };
    let wanted = told(1);
    assert!(wanted.len() >= 5, "{wanted:?}");
    for poll in [7, 999, 1_000, 4_096, 9_000] {
        assert_eq!(told(poll), wanted);
    }
}

#[test]
fn a_field_of_some_events_is_neither_gone_nor_come() {
    let mut reading = Reading::new();
    let rare = |every: usize| {
        move |index: usize| match index % every {
            0 => usual(index),
            _ => format!(r#"{{"nim":"1","event_data":{{"attendance_flag":null}},"timestamp":{index}}}"#),
        }
    };
    assert_eq!(reading.read(4_000, rare(10)), []);
    assert_eq!(reading.read(4_000, rare(1_000_000)), [], "one in ten is not most");
    assert_eq!(told(&reading.read(4_000, usual)), [(Change::Came, "event_data.attendance_flag", None)]);
}

#[test]
fn examples_are_not_kept_where_none_may_be() {
    let mut reading = Reading::new();
    let misspelt = |index| usual(index).replace("attendance_flag", "attendance_flags");
    reading.read(50, misspelt);
    reading.drift.without_examples();
    let news = reading.read(1_000, misspelt);
    assert_eq!((news.len(), news[0].example.as_deref()), (1, None));
    let news = reading.read(500, |index| misspelt(index).replace("campus", "secret"));
    assert_eq!((news.len(), news[0].example.as_deref()), (1, None));
}

#[test]
fn change_events_are_watched_in_their_rows() {
    let change = |name: &'static str, op: &'static str| {
        move |index: usize| {
            let row = format!(r#"{{"nim":"1","event_data":{{"{name}":1,"grade":1}},"timestamp":{index}}}"#);
            let (before, after) = if op == "d" { (row.as_str(), "null") } else { ("null", row.as_str()) };
            format!(
                r#"{{"schema":{{}},"payload":{{"before":{before},"after":{after},"source":{{}},"op":"{op}","ts_ms":1}}}}"#
            )
        }
    };
    let mut reading = Reading::of(decoder_of(true));
    assert_eq!(reading.read(2_000, change("attendance_flag", "c")), []);
    assert_eq!(reading.read(2_000, change("attendance_flag", "d")), []);
    let news = reading.read(2_000, change("attendanceFlag", "u"));
    let path = "payload.after.event_data.attendanceFlag";
    assert_eq!(told(&news)[0], (Change::NewField, path, Some("payload.after.event_data.attendance_flag")));
    assert_eq!((news.len(), news[1].change, news[1].near.as_deref()), (2, Change::Gone, Some(path)));
}
