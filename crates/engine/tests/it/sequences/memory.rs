//! Sequences in memory: the product's commit layer, maintenance and erasure on
//! files in a folder that memory holds, and on a catalog in memory; what a
//! crash and a power loss take is modelled by `lake::faults`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use insightera_engine::lake::faults::{self, Accident, Happened};
use insightera_engine::{Error, Result};

use super::Seeded;
use super::ledger::{Ledger, Step};
use super::walker::{self, Found, Walker};
use super::world::{self, Tools, World, age};

/// The shortest sequence.
const STEPS: usize = 20;

/// What was done, over all sequences.
#[derive(Debug, Default)]
pub struct Done {
    pub steps: AtomicU64,
    pub kinds: std::sync::Mutex<BTreeMap<&'static str, u64>>,
}

impl Done {
    fn note(&self, kind: &'static str) {
        *self.kinds.lock().unwrap().entry(kind).or_default() += 1;
    }
}

/// What goes wrong in a step.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    /// At the n-th durable operation.
    Accident(u64, Accident),
    /// A swap that is done after so many questions to the catalog.
    Late(usize),
}

struct Sequence<'a> {
    world: World,
    ledger: Ledger,
    random: Seeded,
    walker: Walker,
    found: Found,
    /// Students that were ever appended: each number is used once.
    used: usize,
    /// Columns that were ever added.
    columns: usize,
    /// Who was erased from the table that is there now.
    erased: Vec<usize>,
    /// Where the table is, and whether another was there before it.
    location: String,
    shared: bool,
    tools: &'a Tools,
    done: &'a Done,
    trace: Vec<String>,
}

/// Runs the sequence of a seed in an empty folder.
pub fn run(folder: &Path, seed: u64, tools: &Tools, done: &Done) -> std::result::Result<(), String> {
    faults::watch(folder);
    let mut random = Seeded(seed);
    let steps = STEPS + random.below(5);
    let world = World::new(folder, random.below(2) == 0, properties(&mut random));
    world.create(false).map_err(|e| e.to_string())?;
    let mut walker = Walker::default();
    let found = walker.walk(&world.pointer().unwrap_or_default())?;
    let ledger = Ledger { uuid: Some(found.uuid.clone()), ..Ledger::default() };
    let location = world.location().map_err(|e| e.to_string())?;
    let (used, columns, erased, shared, trace) = Default::default();
    let mut sequence =
        Sequence { world, ledger, random, walker, found, used, columns, erased, location, shared, tools, done, trace };
    let mut result = Ok(());
    for number in 0..steps {
        result = sequence.step().map_err(|problem| {
            format!(
                "seed {seed}, step {number}: {problem}\n  {}\nagain: INSIGHTERA_SEQUENCES=1 INSIGHTERA_SEQUENCE_SEED={seed}",
                sequence.trace.join("\n  ")
            )
        });
        if result.is_err() {
            break;
        }
        done.steps.fetch_add(1, Ordering::Relaxed);
    }
    faults::recover(folder);
    faults::forget(folder);
    result
}

fn properties(random: &mut Seeded) -> BTreeMap<String, String> {
    let mut pairs = vec![
        ("write.metadata.previous-versions-max", (1 + random.below(4)).to_string()),
        ("write.metadata.delete-after-commit.enabled", (random.below(3) > 0).to_string()),
        ("commit.manifest.min-count-to-merge", [2, 3, 100][random.below(3)].to_string()),
    ];
    if random.below(2) == 0 {
        pairs.push(("write.metadata.compression-codec", "none".into()));
    }
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

impl Sequence<'_> {
    fn somebody(&mut self) -> usize {
        self.random.below(self.used.max(1))
    }

    /// Somebody who is in the table, if anybody is.
    fn somebody_there(&mut self) -> usize {
        let rows: Vec<usize> = self.ledger.rows.keys().map(|row| row.0).collect();
        if rows.is_empty() { self.somebody() } else { rows[self.random.below(rows.len())] }
    }

    fn append(&mut self) -> Step {
        let (from, count) = (self.used, 1 + self.random.below(6));
        self.used += count;
        Step::Append { from, count, columns: self.random.below(self.ledger.columns + 1) }
    }

    fn add_column(&mut self) -> Step {
        self.columns += 1;
        Step::AddColumn(self.columns)
    }

    fn delete(&mut self) -> Step {
        let gone = (0..1 + self.random.below(3)).map(|_| self.somebody_there()).collect();
        match self.random.below(5) {
            0 => Step::DeleteCopy(self.random.below(3)),
            1 => Step::DeleteValues(gone),
            _ => Step::DeletePositions(gone),
        }
    }

    /// A step that another writer may be let into.
    fn shared(&mut self) -> Step {
        match self.random.below(8) {
            0 | 1 => self.append(),
            2 | 3 => self.delete(),
            4 => self.compact(),
            5 => Step::Expire { keep: 1 + self.random.below(3) },
            6 => self.add_column(),
            _ => Step::Manifests,
        }
    }

    fn compact(&mut self) -> Step {
        Step::Compact { all: self.random.below(3) > 0, parts: self.random.below(3) == 0 }
    }

    fn choose(&mut self) -> Step {
        let current = self.found.current;
        match self.random.below(28) {
            0..=4 => self.append(),
            5 => {
                let mut students: Vec<usize> = (0..2).map(|_| self.somebody_there()).collect();
                students.dedup();
                Step::Upsert { students, columns: self.random.below(self.ledger.columns + 1) }
            }
            6..=9 => self.delete(),
            10 => match self.random.below(3) {
                0 => Step::RenameColumn,
                _ => self.add_column(),
            },
            11 | 12 => self.compact(),
            13 => Step::Manifests,
            14 | 15 => Step::Expire { keep: 1 + self.random.below(3) },
            16 => Step::Orphans { sweep: self.random.below(3) == 0 },
            17 => {
                let (from, count) = (self.used, 1 + self.random.below(4));
                self.used += count;
                Step::OrphansBeside { from, count }
            }
            18 => match self.found.line().get(self.random.below(6)) {
                Some(to) => Step::Rollback { to: *to },
                None => self.append(),
            },
            19 => match current {
                Some(to) => {
                    let branch = self.random.below(3) == 0;
                    let number = self.random.below(3);
                    Step::SetRef { branch, name: format!("{}{number}", if branch { "b" } else { "t" }), to }
                }
                None => self.append(),
            },
            20 => match self.ledger.refs.keys().next().cloned() {
                Some(name) => Step::DropRef { branch: name.starts_with('b'), name },
                None => self.append(),
            },
            21 if self.random.below(3) == 0 => Step::DropAndCreate { elsewhere: self.random.below(3) > 0 },
            21..=24 => {
                let one = if self.random.below(6) == 0 { Step::Erase(self.somebody()) } else { self.shared() };
                let two = if one.erases().is_none() && self.random.below(6) == 0 {
                    Step::Erase(self.somebody())
                } else {
                    self.shared()
                };
                Step::Two(Box::new(one), Box::new(two), self.random.below(5))
            }
            _ if self.used == 0 => self.append(),
            _ => Step::Erase(self.somebody_there()),
        }
    }

    fn trouble(&mut self) -> Trouble {
        if self.random.below(5) > 1 {
            return Trouble::None;
        }
        let most = [3, 15, 15, 40][self.random.below(4)];
        let n = 1 + self.random.below(most) as u64;
        let after = self.random.below(2) == 0;
        // Every fourth power loss takes all it can.
        let seed = if self.random.below(4) == 0 { 0 } else { self.random.next() };
        match self.random.below(8) {
            0..=2 => Trouble::Accident(n, Accident::Stop { after, power: Some(seed) }),
            3 | 4 => Trouble::Accident(n, Accident::Stop { after, power: None }),
            5 => Trouble::Accident(n, Accident::Fails),
            6 => Trouble::Accident(n, Accident::ReplyLost),
            _ => Trouble::Late(self.random.below(4)),
        }
    }

    /// Does the step with its trouble; answers whether the machine stopped.
    fn act(&mut self, step: &Step, trouble: Trouble) -> (Result<()>, Happened) {
        match trouble {
            Trouble::None => {}
            Trouble::Accident(n, accident) => faults::plan_accident(&self.world.folder, n, accident),
            Trouble::Late(questions) => self.world.catalog.delay_next_swap(questions),
        }
        let result = self.world.act(step, self.tools);
        let happened = faults::recover(&self.world.folder);
        let lost = happened == Happened::Stop && self.random.below(2) == 0;
        self.world.catalog.settle(!lost);
        if happened == Happened::Stop {
            self.world.restart();
        }
        self.done.note(match (trouble, happened) {
            (_, Happened::Nothing) => "no accident",
            (Trouble::Accident(_, Accident::Stop { power: Some(_), .. }), _) => "power loss",
            (Trouble::Accident(_, Accident::Stop { .. }), _) => "crash",
            (Trouble::Accident(_, Accident::Fails), _) => "failed operation",
            _ => "lost reply",
        });
        (result, happened)
    }

    fn step(&mut self) -> std::result::Result<(), String> {
        self.world.clock.advance(60_000_000);
        let (step, trouble) = (self.choose(), self.trouble());
        self.trace.push(format!("{step:?} {trouble:?}"));
        self.done.note(step.kind());
        if matches!(step, Step::Orphans { .. } | Step::OrphansBeside { .. }) {
            age(&self.world.warehouse());
        }
        let line_before = self.found.line().len();
        let (result, happened) = self.act(&step, trouble);
        let (mut outcomes, mut sure) = step.outcomes(&self.ledger);
        let told = result.as_ref().err().filter(|error| !self.may_fail(&step, error));
        if let Some(error) = told.filter(|_| happened == Happened::Nothing && !matches!(trouble, Trouble::Late(_))) {
            return Err(format!("failed without an accident: {error}"));
        }
        if told.is_some() || happened == Happened::Stop || self.lost_a_race(&step, &result) {
            sure = outcomes.len();
        }
        if let Some(student) = step.erases().filter(|_| sure == outcomes.len()) {
            // Everybody else is there at any time; the same command goes on.
            self.look(&outcomes)?;
            self.world
                .act(&Step::Erase(student), self.tools)
                .map_err(|e| format!("the erasure does not go on: {e}"))?;
            outcomes = outcomes.iter().map(|ledger| ledger.after(&Step::Erase(student))).collect();
        }
        if self.world.pointer().is_none() {
            self.world.create(false).map_err(|e| format!("no table after the accident: {e}"))?;
        }
        let before = self.ledger.uuid.clone();
        let chosen = self.look(&outcomes[outcomes.len() - sure..])?;
        let (ledger, found) = chosen;
        self.check_snapshots(&step, &ledger, &found, line_before)?;
        self.found = found;
        self.ledger = ledger;
        match (self.ledger.uuid == before, matches!(step, Step::DropAndCreate { .. })) {
            (true, true) if sure == 1 => return Err("the table was not dropped".into()),
            (false, false) => return Err("it is another table".into()),
            (false, true) => {
                self.erased.clear();
                let location = self.world.location().map_err(|e| e.to_string())?;
                self.shared = location == self.location;
                self.location = location;
            }
            _ => {}
        }
        self.check_erased(&step, happened)?;
        if self.random.below(6) == 0 { self.check_reader() } else { Ok(()) }
    }

    /// Whether the step may answer this without an accident.
    fn may_fail(&self, step: &Step, error: &Error) -> bool {
        match step {
            // Files of two tables in one folder.
            Step::Orphans { .. } | Step::OrphansBeside { .. } => {
                self.shared && error.to_string().contains("belongs to a table with the uuid")
            }
            // An erasure between the parts of a rewrite takes its files away.
            Step::Two(one, two, _) => {
                let in_parts = |step: &Step| matches!(step, Step::Compact { parts: true, .. });
                step.erases().is_some() && (in_parts(one) || in_parts(two))
            }
            _ => false,
        }
    }

    /// Whether one of two writers may have given up.
    fn lost_a_race(&self, step: &Step, result: &Result<()>) -> bool {
        matches!(step, Step::Two(..)) && result.is_err()
    }

    /// Walks the table, and finds the first of the ledgers that fits.
    fn look(&mut self, outcomes: &[Ledger]) -> std::result::Result<(Ledger, Found), String> {
        let pointer = self.world.pointer().ok_or("the table is gone")?;
        let found = self.walker.walk(&pointer)?;
        let mut wrong = Vec::new();
        for ledger in outcomes.iter().rev() {
            match ledger.fits(&found) {
                Ok(()) => {
                    let mut ledger = ledger.clone();
                    ledger.uuid = Some(found.uuid.clone());
                    return Ok((ledger, found));
                }
                Err(problem) => wrong.push(problem),
            }
        }
        Err(wrong.join("; or "))
    }

    /// No snapshot is lost that nothing expired; what is there is remembered.
    fn check_snapshots(
        &self,
        step: &Step,
        ledger: &Ledger,
        found: &Found,
        line_before: usize,
    ) -> std::result::Result<(), String> {
        match step.keeps() {
            None => {
                if let Some(lost) = ledger.snapshots.keys().find(|id| !found.snapshots.contains_key(id)) {
                    return Err(format!("snapshot {lost} is lost"));
                }
            }
            Some(keep) if found.line().len() < keep.min(line_before) => {
                return Err(format!("{} of {line_before} snapshots are left, not {keep}", found.line().len()));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Who was erased is in no file of the table.
    fn check_erased(&mut self, step: &Step, happened: Happened) -> std::result::Result<(), String> {
        self.ledger.snapshots =
            self.found.snapshots.iter().map(|(id, snapshot)| (*id, snapshot.rows.clone())).collect();
        self.erased.retain(|student| !step.writes(*student));
        let left = self.world.left.lock().unwrap().len();
        if let Some(student) = step.erases() {
            if left > 0 || step.writes(student) {
                return Ok(());
            }
            self.erased.push(student);
        } else if happened != Happened::Stop || self.erased.is_empty() {
            return Ok(());
        }
        let table = self.world.table().map_err(|e| e.to_string())?;
        let folders = [walker::path_of(table.metadata().location()), self.world.warehouse().join(".quarantine")];
        folders.iter().try_for_each(|folder| self.walker.look_for(folder, &self.erased))
    }

    /// The engine's own reader finds the rows that the walker has found.
    fn check_reader(&mut self) -> std::result::Result<(), String> {
        let ids = self.found.ordered();
        if ids.is_empty() {
            return Ok(());
        }
        let id = ids[self.random.below(ids.len())];
        let table = self.world.table().map_err(|e| e.to_string())?;
        let read = self.tools.count(&table, id).map_err(|e| format!("snapshot {id} cannot be read: {e}"))?;
        let wanted = world::counted(&self.found.snapshots[&id].rows);
        if read == wanted { Ok(()) } else { Err(format!("snapshot {id} is read as {read:?}, not {wanted:?}")) }
    }
}
