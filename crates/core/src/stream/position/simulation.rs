//! Writers, faults and one table, from a seed.
//!
//! Writers crash, are paused and wake as zombies, lose replies, have requests
//! apply late, lose partitions without being told, and get events twice, while
//! maintenance compacts and expires. At the end every event must be in the
//! table exactly once, in a file that is there. Bugs known from others are put
//! in behind [`Bug`], and the simulation must find each.

use super::*;

const PARTITIONS: u32 = 4;
const WRITERS: usize = 3;
const EVENTS: i64 = 40;
const SEEDS: u64 = 400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// A position at or beyond `lo` is taken for `lo`.
    AtLeastForEquality,
    /// Decided on one base, swapped on another.
    CheckOutsideSwap,
    /// Compaction does not carry positions forward.
    PositionsDropped,
    /// One epoch for all partitions.
    OneEpoch,
    /// Intent ids begin again after a crash.
    RestartedCounter,
    /// The file of an attempt with unknown outcome is deleted.
    DeleteOnUnknown,
    /// A new intent is begun while the outcome of the last is unknown, for
    /// ranges that follow it.
    GoOnWhenUnknown,
    /// The source's identity is not compared.
    SourceUnchecked,
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

type Rows = Vec<(String, u32, i64)>;

#[derive(Clone)]
struct Request {
    version: u64,
    after: Committed,
    intent: Intent,
    file: Option<usize>,
}

struct Attempt {
    intent: Intent,
    file: Option<usize>,
    ready: Option<Request>,
}

#[derive(Default)]
struct Writer {
    /// What it believes to have been assigned, and the epochs that it acquired.
    assigned: BTreeSet<u32>,
    epochs: BTreeMap<u32, u64>,
    positions: BTreeMap<u32, i64>,
    source: String,
    attempt: Option<Attempt>,
    counter: u64,
    asleep: u64,
}

struct World {
    bug: Bug,
    random: Random,
    version: u64,
    state: Committed,
    live: Vec<usize>,
    /// Rows of every file; `None` once deleted.
    files: Vec<Option<Rows>>,
    network: Vec<Request>,
    writers: Vec<Writer>,
    owners: BTreeMap<u32, usize>,
    /// Who acquired a partition last, as the table applied it.
    acquired: BTreeMap<u32, String>,
    source: String,
    ids: u64,
    trace: u64,
    calm: bool,
}

impl World {
    fn new(seed: u64, bug: Bug) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let owners = (0..PARTITIONS).map(|partition| (partition, random.below(WRITERS as u64) as usize)).collect();
        let mut world = Self {
            bug,
            random,
            version: 0,
            state: Committed::new("t"),
            live: Vec::new(),
            files: Vec::new(),
            network: Vec::new(),
            writers: (0..WRITERS).map(|_| Writer::default()).collect(),
            owners,
            acquired: BTreeMap::new(),
            source: "topic-1".to_owned(),
            ids: 0,
            trace: seed,
            calm: false,
        };
        (0..WRITERS).for_each(|writer| world.tell(writer));
        world
    }

    fn note(&mut self, what: u64) {
        self.trace = (self.trace ^ what).wrapping_mul(0x100_0000_01b3).rotate_left(17);
    }

    /// The group tells a writer what it owns: what it lost it forgets.
    fn tell(&mut self, writer: usize) {
        let owned: BTreeSet<u32> =
            self.owners.iter().filter(|(_, owner)| **owner == writer).map(|(partition, _)| *partition).collect();
        let state = &mut self.writers[writer];
        state.epochs.retain(|partition, _| owned.contains(partition));
        state.source.clone_from(&self.source);
        state.assigned = owned;
    }

    fn decide(&self, intent: &Intent) -> Decision {
        let mut base = self.state.clone();
        match self.bug {
            Bug::AtLeastForEquality => {
                for (partition, claim) in &intent.claims {
                    if let Some(position) = base.positions.get_mut(partition).filter(|at| **at >= claim.lo) {
                        *position = claim.lo;
                    }
                }
            }
            Bug::OneEpoch => base = self.one_epoch(),
            Bug::SourceUnchecked => base.source = Some(intent.source.clone()),
            _ => {}
        }
        decide(&base, intent)
    }

    fn one_epoch(&self) -> Committed {
        let mut base = self.state.clone();
        let highest = base.owners.values().map(|owner| owner.epoch).max().unwrap_or(0);
        base.owners.values_mut().for_each(|owner| owner.epoch = highest);
        base
    }

    /// The catalog swaps, if the base has not moved.
    fn swap(&mut self, request: &Request) -> bool {
        let rebased = self.bug == Bug::CheckOutsideSwap;
        if request.version != self.version && !rebased {
            return false;
        }
        if request.version != self.version && self.state.intents.contains(&request.intent.id) {
            return false;
        }
        self.state = if rebased { self.state.with(&request.intent) } else { request.after.clone() };
        self.version += 1;
        self.live.extend(request.file);
        if request.intent.act == Act::Acquire {
            for partition in request.intent.claims.keys() {
                self.acquired.insert(*partition, request.intent.id.clone());
            }
        }
        self.note(self.version);
        true
    }

    fn new_id(&mut self, writer: usize) -> String {
        self.ids += 1;
        self.writers[writer].counter += 1;
        match self.bug {
            Bug::RestartedCounter => format!("{writer}-{}", self.writers[writer].counter),
            _ => format!("{writer}-{}", self.ids),
        }
    }

    /// One step of a writer; an error is a broken promise.
    fn step(&mut self, writer: usize) -> Result<(), String> {
        if self.writers[writer].asleep > 0 && !self.calm {
            self.writers[writer].asleep -= 1;
            return Ok(());
        }
        match self.writers[writer].attempt.take() {
            None => self.begin(writer),
            Some(Attempt { intent, file, ready: None }) => self.judge(writer, intent, file),
            Some(Attempt { intent, file, ready: Some(request) }) => {
                self.send(writer, intent, file, &request);
                Ok(())
            }
        }
    }

    /// Acquires what is assigned, or reads events and makes a file of them.
    fn begin(&mut self, writer: usize) -> Result<(), String> {
        let source = self.writers[writer].source.clone();
        let state = &self.writers[writer];
        let missing: BTreeMap<u32, i64> = state
            .assigned
            .iter()
            .filter(|partition| !state.epochs.contains_key(partition))
            .map(|partition| (*partition, 0))
            .collect();
        if !missing.is_empty() {
            let id = self.new_id(writer);
            let base = if self.bug == Bug::OneEpoch { self.one_epoch() } else { self.state.clone() };
            let intent = acquire(&base, id, source, &missing).map_err(|reason| reason.to_string())?;
            self.writers[writer].attempt = Some(Attempt { intent, file: None, ready: None });
            return Ok(());
        }
        let (mut claims, mut rows) = (BTreeMap::new(), Rows::new());
        for (partition, epoch) in self.writers[writer].epochs.clone() {
            let lo = self.writers[writer].positions[&partition];
            let hi = (lo + self.random.below(6) as i64).min(EVENTS);
            if hi <= lo {
                continue;
            }
            // The source may deliver again what it delivered before.
            let from = if self.random.one_in(4) { (lo - 3).max(0) } else { lo };
            rows.extend((from..hi).filter(|offset| *offset >= lo).map(|at| (source.clone(), partition, at)));
            claims.insert(partition, Claim { epoch, lo, hi });
        }
        if claims.is_empty() {
            return Ok(());
        }
        self.files.push(Some(rows));
        let id = self.new_id(writer);
        let intent = Intent { id, table: "t".into(), source, act: Act::Append, claims };
        self.writers[writer].attempt = Some(Attempt { intent, file: Some(self.files.len() - 1), ready: None });
        Ok(())
    }

    /// Reloads and decides.
    fn judge(&mut self, writer: usize, intent: Intent, file: Option<usize>) -> Result<(), String> {
        let decision = self.decide(&intent);
        match decision {
            Decision::Done => self.adopt(writer, &intent),
            Decision::Proceed(after) => {
                let request = Request { version: self.version, after, intent: intent.clone(), file };
                self.writers[writer].attempt = Some(Attempt { intent, file, ready: Some(request) });
            }
            Decision::Fenced(partitions) => {
                for partition in partitions.keys() {
                    let by = self.acquired.get(partition);
                    if by.is_none_or(|by| by.starts_with(&format!("{writer}-"))) && intent.act == Act::Append {
                        return Err(format!("writer {writer} is fenced from partition {partition}, which is its own"));
                    }
                    self.writers[writer].epochs.remove(partition);
                }
                // The group has heard of it by now.
                self.tell(writer);
            }
            Decision::Rebuild(from) => self.writers[writer].positions.extend(from),
            Decision::Fatal(Reason::SourceReplaced { .. }) => self.tell(writer),
            Decision::Fatal(reason) => return Err(reason.to_string()),
        }
        Ok(())
    }

    fn adopt(&mut self, writer: usize, intent: &Intent) {
        for (partition, claim) in &intent.claims {
            let state = &mut self.writers[writer];
            state.positions.insert(*partition, claim.hi);
            if intent.act == Act::Acquire && state.assigned.contains(partition) {
                state.epochs.insert(*partition, claim.epoch);
            }
        }
    }

    /// Sends the swap, and hears of it or not.
    fn send(&mut self, writer: usize, intent: Intent, file: Option<usize>, request: &Request) {
        let fate = if self.calm { 9 } else { self.random.below(10) };
        self.note(fate);
        let again = Attempt { intent: intent.clone(), file, ready: None };
        match fate {
            // The request is lost; or it waits somewhere and applies late.
            0 => {}
            1 => self.network.push(request.clone()),
            // It applies and the reply is lost.
            2 | 3 => drop(self.swap(request)),
            _ => {
                if self.swap(request) {
                    self.adopt(writer, &intent);
                } else {
                    self.writers[writer].attempt = Some(again);
                }
                return;
            }
        }
        // The outcome is unknown.
        match self.bug {
            Bug::DeleteOnUnknown => {
                if let Some(file) = file {
                    self.files[file] = None;
                }
            }
            Bug::GoOnWhenUnknown => self.adopt(writer, &intent),
            _ => self.writers[writer].attempt = Some(again),
        }
    }

    /// Something happens to the world.
    fn fault(&mut self) {
        let writer = self.random.below(WRITERS as u64) as usize;
        let fault = self.random.below(8);
        self.note(fault);
        match fault {
            // It dies and starts again with nothing but its assignment.
            0 => {
                self.writers[writer] = Writer::default();
                self.tell(writer);
            }
            // It stands still, and its partitions may go to another.
            1 => self.writers[writer].asleep = 5 + self.random.below(60),
            2 | 3 => {
                let partition = self.random.below(u64::from(PARTITIONS)) as u32;
                self.owners.insert(partition, writer);
                self.tell(writer);
            }
            4 => self.tell(writer),
            // Compaction; at times it expires old snapshots too.
            5 => {
                self.version += 1;
                if self.random.one_in(3) {
                    self.state.intents.clear();
                }
                if self.bug == Bug::PositionsDropped {
                    self.state.positions.clear();
                }
            }
            _ if !self.network.is_empty() => {
                let at = self.random.below(self.network.len() as u64) as usize;
                let request = self.network.swap_remove(at);
                self.swap(&request);
            }
            _ => {}
        }
    }

    fn run(mut self) -> Result<u64, String> {
        for _ in 0..600 {
            if self.random.one_in(4) {
                self.fault();
            }
            let writer = self.random.below(WRITERS as u64) as usize;
            self.step(writer)?;
        }
        self.calm = true;
        for request in std::mem::take(&mut self.network) {
            self.swap(&request);
        }
        (0..WRITERS).for_each(|writer| self.tell(writer));
        for _ in 0..200 {
            for writer in 0..WRITERS {
                self.step(writer)?;
            }
        }
        self.check()
    }

    fn check(&self) -> Result<u64, String> {
        let mut rows = Rows::new();
        for file in &self.live {
            rows.extend(self.files[*file].clone().ok_or(format!("file {file} is gone and the table has it"))?);
        }
        rows.sort();
        let wanted: Rows =
            (0..PARTITIONS).flat_map(|p| (0..EVENTS).map(move |at| ("topic-1".to_owned(), p, at))).collect();
        if rows == wanted {
            return Ok(self.trace);
        }
        let twice = rows.windows(2).filter(|pair| pair[0] == pair[1]).count();
        let missing = wanted.iter().filter(|row| rows.binary_search(row).is_err()).count();
        Err(format!("{twice} events are there twice, {missing} are missing, of {}", wanted.len()))
    }
}

fn run(seed: u64, bug: Bug) -> Result<u64, String> {
    World::new(seed, bug).run()
}

#[test]
fn every_event_is_committed_exactly_once_whatever_fails() {
    for seed in 0..SEEDS {
        let first = run(seed, Bug::None);
        assert!(first.is_ok(), "seed {seed}: {first:?}");
        assert_eq!(first, run(seed, Bug::None), "the same seed gives the same trace");
    }
}

#[test]
fn known_bugs_put_back_are_found() {
    for bug in [
        Bug::AtLeastForEquality,
        Bug::CheckOutsideSwap,
        Bug::PositionsDropped,
        Bug::OneEpoch,
        Bug::RestartedCounter,
        Bug::DeleteOnUnknown,
        Bug::GoOnWhenUnknown,
    ] {
        let found = (0..SEEDS).find(|seed| run(*seed, bug).is_err());
        assert!(found.is_some_and(|seed| seed < 50), "{bug:?} was found with seed {found:?}");
    }
}

#[test]
fn a_topic_made_again_under_its_name_is_not_read_as_the_old_one() {
    let with_new_topic = |bug: Bug| {
        let mut world = World::new(1, bug);
        world.calm = true;
        for _ in 0..16 {
            for writer in 0..WRITERS {
                world.step(writer).unwrap();
            }
        }
        let before = world.live.len();
        world.source = "topic-2".to_owned();
        for writer in 0..WRITERS {
            world.writers[writer] = Writer::default();
            world.tell(writer);
        }
        for _ in 0..40 {
            for writer in 0..WRITERS {
                world.step(writer).unwrap();
            }
        }
        let mixed = world.files.iter().flatten().flatten().any(|(source, ..)| source == "topic-2");
        (before > 0, mixed)
    };
    assert_eq!(with_new_topic(Bug::None), (true, false));
    assert_eq!(with_new_topic(Bug::SourceUnchecked), (true, true));
}
