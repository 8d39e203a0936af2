//! The events of a simulation, and what must become of them: a fold over each
//! partition in the order of offsets that shares no code with the engine.

use std::collections::{BTreeMap, BTreeSet};

use crate::project::START;
use crate::sequences::Seeded;

pub const HOUR: i64 = 3_600_000_000;
pub const DAY: i64 = 24 * HOUR;
/// How far an event is ahead that comes from a future near enough to pass.
const AHEAD: i64 = 3 * HOUR;
/// As the pipeline says.
const LATENESS: i64 = DAY;
const MAX_FUTURE: i64 = 2 * HOUR;
const ALERT_AT: usize = 3;

/// One event of a partition.
#[derive(Debug, Clone)]
pub struct Event {
    pub offset: i64,
    pub arrival: i64,
    /// What it says; nothing where it cannot be read.
    said: Option<Said>,
    pub payload: String,
}

#[derive(Debug, Clone)]
struct Said {
    nim: String,
    kind: &'static str,
    at: i64,
    flag: Option<f64>,
}

/// The next event of a partition, which arrives at `now`.
pub fn next(partition: usize, before: &[Event], now: i64, random: &mut Seeded) -> Event {
    // Offsets of a topic have gaps.
    let offset = before.last().map_or(0, |last| last.offset + 1) + [0, 0, 0, 2][random.below(4)];
    let nim = format!("{}", partition * 100 + random.below(4));
    let mut at = START - 30 * DAY + before.len() as i64 * DAY / 4 - random.below(6) as i64 * HOUR;
    let flag = random.below(2) as f64;
    let mut kind = "attendance";
    let mut said = true;
    let mut data = format!("{{\"flag\":{flag}}}");
    let mut payload = None;
    match random.below(24) {
        0 => at -= 3 * DAY,
        1 => payload = Some("{\"nim\": \"broken".to_owned()),
        2 => payload = Some(format!("{{\"nim\":null,\"kind\":\"attendance\",\"at\":{at}}}")),
        3 => at = now + AHEAD,
        4 => at = START + 30_000 * DAY,
        5 | 6 => kind = "noise",
        // Of the one an expression before the windows fails, of the other one after them.
        20 => (kind, data) = ("unweighed", "null".to_owned()),
        21 => (kind, data) = ("unrated", "null".to_owned()),
        7..=10 => (kind, data) = ("grade", "null".to_owned()),
        11..=14 => data = format!("\"{{\\\"flag\\\":{flag}}}\""),
        _ => {}
    }
    said &= payload.is_none();
    let payload =
        payload.unwrap_or_else(|| format!("{{\"nim\":\"{nim}\",\"kind\":\"{kind}\",\"at\":{at},\"data\":{data}}}"));
    let flag = (kind == "attendance").then_some(flag);
    Event { offset, arrival: now, said: said.then_some(Said { nim, kind, at, flag }), payload }
}

impl Event {
    /// Whether an expression fails for it.
    pub fn is_refused(&self) -> bool {
        self.said.as_ref().is_some_and(|said| ["unweighed", "unrated"].contains(&said.kind))
    }

    /// Whether it is not ahead any more when it arrives later.
    fn passes(&self) -> bool {
        self.said.as_ref().is_some_and(|said| said.at == self.arrival + AHEAD)
    }
}

/// As the pipeline has it.
fn risk(flags: &[f64]) -> f64 {
    let rate = flags.iter().sum::<f64>() / flags.len() as f64;
    if !flags.is_empty() && rate < 0.5 { 1.0 } else { 0.0 }
}

/// Rows as text, sorted, by table.
pub type Rows = BTreeMap<&'static str, Vec<String>>;

/// What must be in the tables. Where events arrive whenever they are read,
/// `judged` are the dead letters: what was judged once stays.
pub fn wanted(partitions: &[Vec<Event>], judged: Option<&[String]>) -> Rows {
    let mut rows: Rows = super::world::TABLES.iter().map(|(table, _)| (*table, Vec::new())).collect();
    let mut put = |table: &'static str, row: String| rows.entry(table).or_default().push(row);
    for (partition, events) in partitions.iter().enumerate() {
        let (mut newest, mut first) = (i64::MIN, None);
        let mut seen: Vec<&Said> = Vec::new();
        let mut held = BTreeSet::new();
        for event in events {
            let place = format!("{partition} {}", event.offset);
            let Some(said) = &event.said else {
                put("dead", format!("{place} {}", event.payload));
                continue;
            };
            if said.kind == "noise" {
                continue;
            }
            let dead = format!("{place} {}", event.payload);
            if said.kind == "unweighed" {
                put("dead", dead);
                continue;
            }
            let future = match judged.filter(|_| event.passes()) {
                Some(judged) => judged.contains(&dead),
                None => said.at > event.arrival + MAX_FUTURE,
            };
            if future {
                put("dead", dead);
                continue;
            }
            if said.at < newest.saturating_sub(LATENESS) {
                put("late", format!("{place} {}", event.payload));
                continue;
            }
            newest = newest.max(said.at);
            let began: i64 = *first.get_or_insert(said.at);
            seen.push(said);
            let day = said.at.div_euclid(DAY);
            let days = day - 6..=day;
            let window: Vec<&&Said> =
                seen.iter().filter(|other| other.nim == said.nim && days.contains(&other.at.div_euclid(DAY))).collect();
            let flags: Vec<f64> = window.iter().filter_map(|said| said.flag).collect();
            let rate = match flags.len() {
                0 => "null".to_owned(),
                count => format!("{:.9}", flags.iter().sum::<f64>() / count as f64),
            };
            let complete = (day - 6) * DAY >= began;
            if said.kind == "unrated" {
                put("dead", dead);
                continue;
            }
            put("live", format!("{place} {} {} {rate} {complete} {:.9}", said.nim, window.len(), risk(&flags)));
            let row = format!("{place} {} {}", said.nim, window.len());
            if window.len() < ALERT_AT {
                held.remove(&said.nim);
            } else {
                if held.insert(&said.nim) {
                    put("began", row.clone());
                }
                put("alerts", row);
            }
        }
    }
    rows.values_mut().for_each(|rows| rows.sort());
    rows
}
