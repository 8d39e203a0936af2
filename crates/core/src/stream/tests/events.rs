//! Events as rows, and the columns of a batch made from them.

use proptest::prelude::*;

use crate::stream::{
    Aggregate, Batch, Bits, Column, ColumnType, Disposition, EachEvent, EventOutput, Function, KeyType, Keys,
    LatePolicy, Settings, StreamError, Strings, Values, Window, WindowSet,
};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    pub offset: i64,
    pub time: i64,
    pub arrival: i64,
    pub name: String,
    pub id: u64,
    pub double: Option<f64>,
    pub long: Option<i64>,
    pub boolean: Option<bool>,
    pub bytes: Option<Vec<u8>>,
}

impl Event {
    pub fn at(offset: i64, time: i64, name: &str) -> Self {
        Self {
            offset,
            time,
            arrival: time,
            name: name.to_owned(),
            id: name.len() as u64,
            double: Some(1.5),
            long: Some(2),
            boolean: Some(true),
            bytes: Some(b"x".to_vec()),
        }
    }
}

fn strings<'a>(values: impl Iterator<Item = &'a [u8]>) -> (Vec<i32>, Vec<u8>) {
    let (mut offsets, mut data) = (vec![0], Vec::new());
    for value in values {
        data.extend_from_slice(value);
        offsets.push(data.len() as i32);
    }
    (offsets, data)
}

/// Bits that start at bit 3, as those of a slice do.
fn bits(values: impl Iterator<Item = bool>) -> Vec<u8> {
    let mut bytes = vec![0u8; 1];
    for (index, value) in values.enumerate() {
        let at = index + 3;
        bytes.resize(at / 8 + 1, 0);
        bytes[at / 8] |= u8::from(value) << (at % 8);
    }
    bytes.push(0);
    bytes
}

/// Calls `with` with the columns of the events.
pub(super) fn with_batch<T>(partition: u32, events: &[Event], with: impl FnOnce(&Batch<'_>) -> T) -> T {
    let offsets: Vec<i64> = events.iter().map(|event| event.offset).collect();
    let event_times: Vec<i64> = events.iter().map(|event| event.time).collect();
    let arrivals: Vec<i64> = events.iter().map(|event| event.arrival).collect();
    let (name_offsets, names) = strings(events.iter().map(|event| event.name.as_bytes()));
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    let doubles: Vec<f64> = events.iter().map(|event| event.double.unwrap_or(9e9)).collect();
    let longs: Vec<i64> = events.iter().map(|event| event.long.unwrap_or(77)).collect();
    let booleans = bits(events.iter().map(|event| event.boolean.unwrap_or(true)));
    let (value_offsets, data) = strings(events.iter().map(|event| event.bytes.as_deref().unwrap_or(b"null")));
    let valid = [
        bits(events.iter().map(|event| event.double.is_some())),
        bits(events.iter().map(|event| event.long.is_some())),
        bits(events.iter().map(|event| event.boolean.is_some())),
        bits(events.iter().map(|event| event.bytes.is_some())),
    ];
    let values = [
        Values::Double(&doubles),
        Values::Long(&longs),
        Values::Boolean(Bits::new(&booleans, 3)),
        Values::Bytes(Strings::new(&value_offsets, &data)),
    ];
    let columns: Vec<Column<'_>> = values
        .iter()
        .zip(&valid)
        .map(|(values, valid)| Column { values: *values, valid: Some(Bits::new(valid, 3)) })
        .collect();
    let keys = [Keys::Bytes(Strings::new(&name_offsets, &names)), Keys::Ids(&ids)];
    with(&Batch {
        partition,
        offsets: &offsets,
        event_times: &event_times,
        arrivals: &arrivals,
        keys: &keys,
        columns: &columns,
    })
}

fn aggregate(name: &str, function: Function, argument: Option<usize>, filter: Option<usize>) -> Aggregate {
    Aggregate { name: name.to_owned(), function, argument, filter }
}

/// Every aggregate over every type that it takes.
pub(super) fn all_aggregates() -> Vec<Aggregate> {
    let mut all = vec![
        aggregate("count", Function::Count, None, None),
        aggregate("count true", Function::Count, None, Some(2)),
        aggregate("count bytes", Function::Count, Some(3), None),
        aggregate("sum true", Function::Sum, Some(0), Some(2)),
        aggregate("avg long", Function::Avg, Some(1), None),
        aggregate("last number true", Function::Last { ignore_nulls: true }, Some(1), Some(2)),
    ];
    for column in 0..2 {
        for function in [Function::Sum, Function::Avg, Function::Min, Function::Max, Function::Quantile { q: 0.5 }] {
            all.push(aggregate("numeric", function, Some(column), None));
        }
    }
    for column in 0..4 {
        for ignore_nulls in [false, true] {
            all.push(aggregate("first", Function::First { ignore_nulls }, Some(column), None));
            all.push(aggregate("last", Function::Last { ignore_nulls }, Some(column), None));
        }
        all.push(aggregate("distinct", Function::ApproxDistinct, Some(column), None));
    }
    all
}

/// Three window sets over two keys: rolling, tumbling and hopping.
pub(super) fn settings() -> Settings {
    let set = |name: &str, key, window, aggregates| WindowSet { name: name.to_owned(), key, window, aggregates };
    let few = || vec![aggregate("count", Function::Count, None, None), aggregate("sum", Function::Sum, Some(0), None)];
    Settings {
        keys: vec![KeyType::Bytes, KeyType::Id],
        columns: vec![ColumnType::Double, ColumnType::Long, ColumnType::Boolean, ColumnType::Bytes],
        sets: vec![
            set("rolling", 0, Window::Rolling { tile: 10, tiles: 7, offset: 0 }, all_aggregates()),
            set("tumbling", 0, Window::Tumbling { size: 25, offset: -3 }, few()),
            set("hopping", 1, Window::Hopping { size: 30, slide: 20, offset: 4 }, few()),
        ],
        meaning: 0,
        allowed_lateness: 15,
        max_future: 1_000,
        late: LatePolicy::SideOutput,
        max_state_bytes: 64 << 20,
    }
}

/// Streams that are late, shuffled, skewed, with jumps and future times.
pub(super) fn streams(length: usize) -> impl Strategy<Value = Vec<Event>> {
    let event = (
        (0..100u32, 0..12i64, -60..20i64, 0..100u32),
        (proptest::option::weighted(0.8, -40..40i32), proptest::option::weighted(0.8, any::<i8>())),
        (proptest::option::weighted(0.8, any::<bool>()), proptest::option::weighted(0.8, 0..5u8), 1..3i64),
    );
    proptest::collection::vec(event, 1..length).prop_map(|drawn| {
        let (mut now, mut offset) = (0, 0);
        let mut events = Vec::new();
        for ((skew, step, shift, rare), (double, long), (boolean, bytes, gap)) in drawn {
            now += step + if rare == 0 { 300 } else { 0 };
            offset += gap;
            // Half of the events are in order, half are shuffled.
            let time = if rare % 2 == 0 { now } else { now + shift };
            let time = if rare == 99 { now + 5_000 } else { time };
            // One key has half of the events.
            let key = if skew < 50 { 0 } else { skew % 9 };
            events.push(Event {
                offset,
                time,
                arrival: now,
                name: format!("key-{key}"),
                id: u64::from(key % 4),
                double: double.map(|number| f64::from(number) / 8.0),
                long: long.map(i64::from),
                boolean,
                bytes: bytes.map(|byte| vec![b'v'; usize::from(byte)]),
            });
        }
        events
    })
}

/// Where a stream is cut into batches.
pub(super) fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1..20usize, 1..60)
}

/// The events in batches of the given lengths, then the rest.
pub(super) fn batches<'a>(events: &'a [Event], cuts: &[usize]) -> Vec<&'a [Event]> {
    let mut rest = events;
    let mut batches = Vec::new();
    for cut in cuts {
        let (head, tail) = rest.split_at((*cut).min(rest.len()));
        batches.push(head);
        rest = tail;
    }
    batches.push(rest);
    batches
}

/// Processes events without seeds.
pub(super) fn process(state: &mut EachEvent, events: &[Event], out: &mut EventOutput) -> Result<(), StreamError> {
    with_batch(state.partition(), events, |batch| state.process(batch, 0, &mut |_| Ok(Vec::new()), out))
}

pub(super) fn entered(dispositions: &[Disposition]) -> usize {
    dispositions.iter().filter(|disposition| disposition.entered()).count()
}
