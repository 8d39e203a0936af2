//! One simulation: steps drawn from a seed, and the comparison at the end.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use insightera_core::ErrorKind;
use insightera_engine::lake::faults::{self, Accident, Happened};
use insightera_engine::stream::Rebalance;

use super::catalog::Late;
use super::events::{self, Event, HOUR, Rows};
use super::source::{Plan, Topic};
use super::world::{Done, Ended, Fate, Job, Share, TABLES, World, is_of_others};
use crate::sequences::{Seeded, age};

/// The shortest simulation.
const STEPS: usize = 5;

/// What goes wrong in a step.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    /// At the n-th durable operation.
    Accident(u64, Accident),
    /// To one process.
    Process(usize, Fate),
}

impl Plan {
    /// Everything that is there, each event once.
    pub fn to_the_end(seed: u64, timeless: bool) -> Self {
        let (own, moves) = Default::default();
        Self { seed, own, moves, polls: usize::MAX, rejoins: false, repeats: false, timeless }
    }
}

struct Simulation<'a> {
    world: World,
    random: Seeded,
    events: Vec<Vec<Event>>,
    /// Whether the topic does not say when an event came.
    timeless: bool,
    /// Whether the files of the windows were lost.
    lost: bool,
    done: &'a Done,
    trace: Vec<String>,
}

/// Runs the simulation of a seed in an empty folder; answers its trace.
pub fn run(folder: &Path, seed: u64, done: &Done) -> Result<Vec<String>, String> {
    faults::watch(folder);
    let mut random = Seeded::new(seed);
    let (steps, partitions) = (STEPS + random.below(4), 1 + random.below(3));
    let (events, trace) = (vec![Vec::new(); partitions], Vec::new());
    let (timeless, lost) = (random.below(4) == 0, false);
    let world = World::new(folder);
    let mut simulation = Simulation { world, random, events, timeless, lost, done, trace };
    let mut result = Ok(());
    for number in 0..=steps {
        result = if number < steps { simulation.step() } else { simulation.compare() };
        if let Err(problem) = &result {
            result = Err(format!(
                "seed {seed}, step {number}: {problem}\n  {}\nagain: INSIGHTERA_SIMULATIONS=1 INSIGHTERA_SIMULATION_SEED={seed}",
                simulation.trace.join("\n  ")
            ));
            break;
        }
        done.steps.fetch_add(1, Ordering::Relaxed);
    }
    faults::recover(folder);
    faults::forget(folder);
    result.map(|()| simulation.trace)
}

impl Simulation<'_> {
    fn one_in(&mut self, n: usize) -> bool {
        self.random.below(n) == 0
    }

    fn append(&mut self) {
        use insightera_core::Clock;
        let now = self.world.clock.now_micros();
        for partition in 0..self.events.len() {
            for _ in 0..self.random.below(12) {
                let event = events::next(partition, &self.events[partition], now, &mut self.random);
                self.events[partition].push(event);
            }
        }
    }

    fn plan(&mut self, own: Vec<u32>) -> Plan {
        let polls = if self.one_in(3) { 1 + self.random.below(8) } else { 500 };
        let (seed, rejoins, repeats) = (self.random.next(), self.one_in(2), self.one_in(2));
        Plan { seed, own, moves: VecDeque::new(), polls, rejoins, repeats, timeless: self.timeless }
    }

    /// Partitions that come and go, from poll to poll.
    fn moves(&mut self, own: &[u32]) -> VecDeque<(usize, Rebalance)> {
        let (mut own, mut moves): (BTreeSet<u32>, _) = (own.iter().copied().collect(), VecDeque::new());
        let mut poll = 1;
        for _ in 0..self.random.below(4) {
            poll += 1 + self.random.below(4);
            let partition = self.random.below(self.events.len()) as u32;
            let change = if own.remove(&partition) {
                Rebalance::Lost(vec![partition])
            } else {
                own.insert(partition);
                Rebalance::Gained(vec![partition])
            };
            moves.push_back((poll, change));
        }
        moves
    }

    fn streams(&mut self) -> Vec<Job> {
        let count = [1, 1, 1, 2, 2, 3][self.random.below(6)];
        let all: Vec<u32> = (0..self.events.len() as u32).collect();
        let mut own = vec![BTreeSet::new(); count];
        for partition in &all {
            let owner = self.random.below(count);
            own[owner].insert(*partition);
            // The group has it wrong, or the other is a process that was paused.
            if self.one_in(3) {
                let other = self.random.below(count);
                own[other].insert(*partition);
            }
        }
        let mut jobs = Vec::new();
        for own in own {
            let own: Vec<u32> = own.into_iter().collect();
            let mut plan = self.plan(own.clone());
            let share = match self.random.below(6) {
                0 => Share::All,
                1 if count == 1 => Share::All,
                1 | 2 if !own.is_empty() => Share::Named(own.clone()),
                _ => {
                    plan.moves = self.moves(&own);
                    Share::Group
                }
            };
            self.done.note(if plan.moves.is_empty() { "stream" } else { "stream with rebalances" });
            if plan.repeats {
                self.done.note("stream with duplicates");
            }
            jobs.push(Job::Stream { share, plan });
        }
        jobs
    }

    fn maintenance(&mut self) -> Job {
        let table = ["live", "live", "live", "dead", "late", "alerts", "began"][self.random.below(7)];
        let (job, kind) = match self.random.below(9) {
            0 | 1 => (Job::Compact(table), "compaction"),
            2 | 8 => (Job::Maintain(table, 1 + self.random.below(2)), "compaction and expiry"),
            3 => (Job::Manifests(table), "rewrite of manifests"),
            4..=6 => (Job::Expire(table, 1 + self.random.below(3)), "expiry"),
            _ => (Job::Orphans(table), "removal of orphans"),
        };
        self.done.note(kind);
        job
    }

    fn trouble(&mut self, processes: usize) -> Trouble {
        let most = [12, 60, 150, 300][self.random.below(4)];
        let n = 1 + self.random.below(most) as u64;
        let after = self.one_in(2);
        // Every fourth power loss takes all it can.
        let seed = if self.one_in(4) { 0 } else { self.random.next() };
        match self.random.below(16) {
            0..=2 => Trouble::Accident(n, Accident::Stop { after, power: Some(seed) }),
            3 | 4 => Trouble::Accident(n, Accident::Stop { after, power: None }),
            5 => Trouble::Accident(n, Accident::Fails),
            6 => Trouble::Accident(n, Accident::ReplyLost),
            7 | 8 => Trouble::Process(self.random.below(processes), Fate::Dies(1 + self.random.below(60))),
            9 | 10 => {
                let swap = 1 + self.random.below(14);
                let late = Late { swap, questions: [0, 1, 2, 5, 12, 30][self.random.below(6)], dies: self.one_in(2) };
                Trouble::Process(self.random.below(processes), Fate::Late(late))
            }
            _ => Trouble::None,
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let passes = if self.one_in(4) { 5 * HOUR } else { HOUR / 60 };
        self.world.clock.advance(passes);
        self.append();
        if self.one_in(3) {
            age(&self.world.folder.join("warehouse"));
        }
        if self.one_in(12) {
            self.world.lose_windows();
            self.lost = true;
            self.done.note("loss of the windows' files");
            self.trace.push("the windows' files are lost".to_owned());
        }
        let mut jobs = if self.one_in(6) { vec![self.maintenance()] } else { self.streams() };
        for _ in 0..[0, 0, 1, 1, 2][self.random.below(5)] {
            let job = self.maintenance();
            jobs.push(job);
        }
        let trouble = self.trouble(jobs.len());
        let counts: Vec<usize> = self.events.iter().map(Vec::len).collect();
        self.trace.push(format!("{counts:?} events; {jobs:?}; {trouble:?}"));
        let (topic, seed): (Topic, u64) = (Arc::new(self.events.clone()), self.random.next());
        let mut fate = None;
        match trouble {
            Trouble::None => {}
            Trouble::Accident(n, accident) => faults::plan_accident(&self.world.folder, n, accident),
            Trouble::Process(who, what) => fate = Some((who, what)),
        }
        let ended = self.world.run(&jobs, fate, &topic, seed);
        let happened = faults::recover(&self.world.folder);
        let (switches, pauses) = self.world.pointers.turns.counted();
        self.done.add("switch to another process", switches);
        self.done.add("pause until others had ended", pauses);
        let arrives = happened != Happened::Stop || self.one_in(2);
        self.world.pointers.settle(arrives);
        self.note(trouble, happened, &ended);
        self.judge(&jobs, &ended, happened)?;
        let positions = self.world.positions().map_err(|error| format!("the tables cannot be read: {error}"))?;
        self.trace.push(format!("= {positions}"));
        Ok(())
    }

    fn note(&self, trouble: Trouble, happened: Happened, ended: &[Ended]) {
        let fated = ended.iter().any(|ended| ended.happened);
        self.done.note(match (trouble, happened) {
            (Trouble::Accident(_, Accident::Stop { power: Some(_), .. }), Happened::Stop) => "power loss",
            (Trouble::Accident(_, Accident::Stop { .. }), Happened::Stop) => "crash",
            (Trouble::Accident(_, Accident::Fails), Happened::Error) => "failed operation",
            (Trouble::Accident(_, Accident::ReplyLost), Happened::Error) => "lost reply",
            (Trouble::Process(_, Fate::Dies(_)), _) if fated => "death of one process",
            (Trouble::Process(_, Fate::Late(Late { dies: true, .. })), _) if fated => "late swap of one that died",
            (Trouble::Process(_, Fate::Late(_)), _) if fated => "late swap",
            _ => "no accident",
        });
    }

    /// What the processes answered is what they may.
    fn judge(&mut self, jobs: &[Job], ended: &[Ended], happened: Happened) -> Result<(), String> {
        if happened == Happened::Stop {
            self.trace.push("- the machine stopped".to_owned());
            return Ok(());
        }
        let streams = jobs.iter().filter(|job| matches!(job, Job::Stream { .. })).count();
        let troubled = happened == Happened::Error || ended.iter().any(|ended| ended.happened);
        for (job, ended) in jobs.iter().zip(ended) {
            let stream = matches!(job, Job::Stream { .. });
            let said = match &ended.result {
                _ if ended.died => "died".to_owned(),
                Ok(None) => "done".to_owned(),
                Ok(Some(summary)) => {
                    let counts = summary.counts;
                    format!("{:?}: {} events, {} commits", summary.end, counts.events, summary.commits)
                }
                Err(error) => {
                    let allowed = match error.kind() {
                        ErrorKind::Unavailable => troubled,
                        ErrorKind::Conflict if stream => streams > 1 || troubled,
                        kind => !stream && is_of_others(kind),
                    };
                    if !allowed {
                        return Err(format!("{job:?} ended with: {error}"));
                    }
                    if stream && error.kind() == ErrorKind::Conflict {
                        self.done.note("process that was overtaken");
                    }
                    format!("{:?}", error.kind())
                }
            };
            self.trace.push(format!("- {said}, {} questions", ended.questions));
        }
        Ok(())
    }

    /// A run to which nothing happens, and then every row.
    fn compare(&mut self) -> Result<(), String> {
        self.world.clock.advance(HOUR);
        let topic: Topic = Arc::new(self.events.clone());
        let job = Job::Stream { share: Share::All, plan: Plan::to_the_end(self.random.next(), self.timeless) };
        let ended = self.world.run(&[job], None, &topic, 0);
        self.world.pointers.settle(true);
        if let Err(error) = &ended[0].result {
            return Err(format!("the last run ended with: {error}"));
        }
        let found = self.world.rows().map_err(|error| format!("the tables cannot be read: {error}"))?;
        let judged = self.timeless.then(|| found["dead"].as_slice());
        let mut wanted = events::wanted(&self.events, judged);
        if self.lost {
            // With the windows' files goes what is remembered of alerts: others may be told once more.
            let (began, alerts) = (found["began"].iter().collect::<BTreeSet<_>>(), &wanted["alerts"]);
            let wrong = wanted["began"].iter().find(|row| !began.contains(row));
            let wrong = wrong.or_else(|| found["began"].iter().find(|row| !alerts.contains(row)));
            if let Some(row) = wrong {
                return Err(format!("began: `{row}` is missing, or no alert"));
            }
            if began.len() != found["began"].len() {
                return Err(format!("began has rows twice: {:?}", found["began"]));
            }
            wanted.remove("began");
        }
        let refused = self.events.iter().flatten().filter(|event| event.is_refused()).count();
        self.done.add("event that an expression refuses", refused as u64);
        match difference(&found, &wanted) {
            None => Ok(()),
            Some(difference) => Err(difference),
        }
    }
}

fn difference(found: &Rows, wanted: &Rows) -> Option<String> {
    for (table, wanted) in wanted {
        let found = &found[table];
        if found == wanted {
            continue;
        }
        let count = |rows: &[String], row: &String| rows.iter().filter(|other| *other == row).count();
        let all: BTreeSet<&String> = found.iter().chain(wanted).collect();
        let wrong = all.into_iter().filter(|row| count(found, row) != count(wanted, row));
        let told: Vec<String> = wrong
            .take(4)
            .map(|row| format!("`{row}` {} times, not {}", count(found, row), count(wanted, row)))
            .collect();
        return Some(format!("{table} has {} rows, not {}: {}", found.len(), wanted.len(), told.join("; ")));
    }
    None
}

/// Two processes of a stream that has no tables yet; afterwards orphans can be
/// told in each of them.
pub fn begin_at_once(folder: &Path, seed: u64) {
    let world = World::new(folder);
    let stream =
        |number| Job::Stream { share: Share::Group, plan: Plan { own: vec![number], ..Plan::to_the_end(seed, false) } };
    let topic: Topic = Arc::new(vec![Vec::new(); 2]);
    for ended in world.run(&[stream(0), stream(1)], None, &topic, seed) {
        ended.result.unwrap();
    }
    age(&world.folder.join("warehouse"));
    let jobs: Vec<Job> = TABLES.iter().map(|(table, _)| Job::Orphans(table)).collect();
    for ended in world.run(&jobs, None, &topic, seed) {
        ended.result.unwrap();
    }
}
