//! A topic in memory, and what a process of a group gets of it: its partitions
//! come and go at polls that a plan names, an event may come more than once.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use insightera_core::{Clock, ManualClock};
use insightera_engine::Result;
use insightera_engine::lake::faults;
use insightera_engine::stream::{Feed, Partition, RawPart, Rebalance, Source};
use serde_json::Value;

use super::events::Event;
use crate::sequences::Seeded;

/// All partitions of a topic.
pub type Topic = Arc<Vec<Vec<Event>>>;

/// What the group and the broker do with a process.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides what a poll holds.
    pub seed: u64,
    /// The partitions that it has at first, in a group.
    pub own: Vec<u32>,
    /// From which poll on they are to be others.
    pub moves: VecDeque<(usize, Rebalance)>,
    /// It is told to end after so many polls.
    pub polls: usize,
    /// Whether it goes on when it has joined the group again.
    pub rejoins: bool,
    /// Whether events come more than once.
    pub repeats: bool,
    /// Whether they arrive when they are read: the topic does not say when they
    /// came.
    pub timeless: bool,
}

/// What a process has of the topic.
struct Deliveries {
    topic: Topic,
    clock: Arc<ManualClock>,
    folder: PathBuf,
    plan: Plan,
    random: Seeded,
    group: bool,
    positions: BTreeMap<u32, i64>,
    polls: usize,
    asked: Option<Rebalance>,
    stop: Arc<AtomicBool>,
    waits: Arc<AtomicBool>,
}

/// Feeds a process that `stop` ends.
pub fn feed(topic: &Topic, clock: &Arc<ManualClock>, folder: PathBuf, plan: Plan, stop: Arc<AtomicBool>) -> Feed {
    let (topic, clock) = (topic.clone(), clock.clone());
    let (waits, opened) = (Arc::new(AtomicBool::new(true)), AtomicU64::new(0));
    let own = waits.clone();
    Feed {
        open: Arc::new(move |group| {
            let again = opened.fetch_add(1, Ordering::SeqCst);
            let mut plan = plan.clone();
            if again > 0 {
                plan.moves.clear();
                if !plan.rejoins {
                    stop.store(true, Ordering::SeqCst);
                }
            }
            let group = group.member.is_some();
            Ok(Box::new(Deliveries {
                topic: topic.clone(),
                clock: clock.clone(),
                folder: folder.clone(),
                random: Seeded::new(plan.seed.wrapping_add(again)),
                group,
                positions: BTreeMap::new(),
                polls: 0,
                asked: group.then(|| Rebalance::Gained(plan.own.clone())),
                plan,
                stop: stop.clone(),
                waits: own.clone(),
            }))
        }),
        waits: Arc::new(move || waits.load(Ordering::SeqCst)),
    }
}

impl Deliveries {
    fn ended(&self) -> bool {
        self.positions.iter().all(|(partition, position)| self.after(*partition, *position).is_empty())
    }

    fn after(&self, partition: u32, position: i64) -> &[Event] {
        let events = &self.topic[partition as usize];
        &events[events.partition_point(|event| event.offset < position)..]
    }

    fn give(&mut self, partition: u32) -> Option<RawPart> {
        let position = self.positions[&partition];
        let back = if self.plan.repeats && self.random.below(4) == 0 { 1 + self.random.below(4) } else { 0 };
        let count = self.random.below(8);
        let events = &self.topic[partition as usize];
        let new = events.partition_point(|event| event.offset < position);
        let given = &events[new.saturating_sub(back)..(new + count).min(events.len())];
        let mut part = RawPart { partition, ..RawPart::default() };
        for event in given {
            part.offsets.push(event.offset);
            part.arrivals.push(if self.plan.timeless { self.clock.now_micros() } else { event.arrival });
            part.payload.extend_from_slice(event.payload.as_bytes());
            part.ends.push(part.payload.len());
            part.next_offset = event.offset + 1;
        }
        self.positions.insert(partition, position.max(part.next_offset));
        (!part.is_empty()).then_some(part)
    }
}

impl Source for Deliveries {
    fn identity(&self) -> &str {
        "topic:in memory"
    }

    fn partitions(&mut self, _: &BTreeMap<u32, Value>) -> Result<BTreeMap<u32, Partition>> {
        let all = 0..self.topic.len() as u32;
        Ok(all.map(|number| (number, Partition { description: Value::Null, start: 0 })).collect())
    }

    fn assign(&mut self, positions: &BTreeMap<u32, i64>) -> Result<()> {
        self.positions = positions.clone();
        let answered = match &self.asked {
            Some(Rebalance::Gained(gained)) => gained.iter().all(|partition| positions.contains_key(partition)),
            Some(Rebalance::Lost(lost)) => !lost.iter().any(|partition| positions.contains_key(partition)),
            None => false,
        };
        if answered {
            self.asked = None;
        }
        Ok(())
    }

    fn poll(&mut self, _: usize, _: Duration) -> Result<Vec<RawPart>> {
        self.polls += 1;
        if faults::is_off(&self.folder) {
            self.stop.store(true, Ordering::SeqCst);
            return Ok(Vec::new());
        }
        if self.asked.is_none() && self.plan.moves.front().is_some_and(|(poll, _)| *poll <= self.polls) {
            self.asked = self.plan.moves.pop_front().map(|(_, what)| what);
        }
        let done = self.asked.is_none() && self.plan.moves.is_empty() && self.ended();
        if self.polls >= self.plan.polls || (self.group && done) {
            self.stop.store(true, Ordering::SeqCst);
        }
        let waits = self.random.below(2) == 0;
        self.waits.store(waits || self.asked.is_some(), Ordering::SeqCst);
        let own: Vec<u32> = self.positions.keys().copied().collect();
        Ok(own.into_iter().filter_map(|partition| self.give(partition)).collect())
    }

    fn ends(&mut self, positions: &BTreeMap<u32, i64>) -> Result<BTreeMap<u32, i64>> {
        let end = |partition: &u32| self.topic[*partition as usize].last().map_or(0, |event| event.offset + 1);
        Ok(positions.keys().map(|partition| (*partition, end(partition))).collect())
    }

    fn at_end(&mut self) -> Result<bool> {
        Ok(self.ended())
    }

    fn rebalance(&mut self) -> Option<Rebalance> {
        self.asked.clone()
    }
}
