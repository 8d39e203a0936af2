//! A catalog in memory that several processes of a simulation share. Each has
//! a door of its own: between any two questions to the catalog the turn may go
//! to another process, a process may die at a question, and a swap may be done
//! when whoever sent it has stopped to wait. The same seed gives the same
//! order.
//!
//! A swap is atomic and durable, may be lost, and may be done with its answer
//! lost.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use insightera_engine::lake::catalog::{Catalog, Loaded, Next, Swap};
use insightera_engine::lake::faults::{self, Bug, Stage};
use insightera_engine::lake::{Table, TableName};
use insightera_engine::{Error, Result};

use crate::sequences::Seeded;

/// Of so many questions one gives the turn to another process.
const SWITCH: usize = 10;

/// Which of the processes goes on: one at a time.
#[derive(Default)]
pub struct Turns {
    turn: Mutex<Turn>,
    changed: Condvar,
    /// How often a process was left in the middle, and how often until all
    /// others had ended.
    switches: AtomicU64,
    pauses: AtomicU64,
}

#[derive(Default)]
struct Turn {
    random: Option<Seeded>,
    ready: Vec<usize>,
    /// Paused until all that are ready have ended.
    paused: Vec<usize>,
    /// Nobody's outside of steps.
    current: Option<usize>,
}

impl Turn {
    fn below(&mut self, n: usize) -> usize {
        self.random.as_mut().map_or(0, |random| random.below(n))
    }

    fn one_of_the_ready(&mut self) -> Option<usize> {
        let count = self.ready.len();
        let at = self.below(count);
        self.ready.get(at).copied()
    }
}

impl Turns {
    /// So many processes begin.
    pub fn begin(&self, processes: usize, seed: u64) {
        let mut turn = self.turn.lock().unwrap();
        *turn = Turn { random: Some(Seeded::new(seed)), ready: (0..processes).collect(), ..Turn::default() };
        turn.current = turn.one_of_the_ready();
    }

    fn wait<'a>(&'a self, mut turn: MutexGuard<'a, Turn>, who: usize) -> MutexGuard<'a, Turn> {
        while turn.current.is_some_and(|current| current != who) {
            turn = self.changed.wait(turn).unwrap();
        }
        turn
    }

    /// Waits until it is a process's turn for the first time.
    pub fn first(&self, who: usize) {
        drop(self.wait(self.turn.lock().unwrap(), who));
    }

    /// A process may be stopped here for a while.
    fn pass(&self, who: usize) {
        let mut turn = self.wait(self.turn.lock().unwrap(), who);
        if turn.current.is_none() || turn.ready.len() < 2 || turn.below(SWITCH) > 0 {
            return;
        }
        let all: Vec<usize> = turn.ready.iter().copied().filter(|other| *other != who).collect();
        self.switches.fetch_add(1, Ordering::Relaxed);
        if turn.below(3) == 0 {
            self.pauses.fetch_add(1, Ordering::Relaxed);
            turn.ready.retain(|other| *other != who);
            turn.paused.push(who);
        }
        let at = turn.below(all.len());
        turn.current = Some(all[at]);
        self.changed.notify_all();
        drop(self.wait(turn, who));
    }

    /// How often a process was left in the middle since the last question, and
    /// how often until all others had ended.
    pub fn counted(&self) -> (u64, u64) {
        (self.switches.swap(0, Ordering::Relaxed), self.pauses.swap(0, Ordering::Relaxed))
    }

    /// A process has ended.
    pub fn end(&self, who: usize) {
        let mut turn = self.turn.lock().unwrap();
        turn.ready.retain(|other| *other != who);
        if turn.ready.is_empty() {
            turn.ready = std::mem::take(&mut turn.paused);
        }
        turn.current = turn.one_of_the_ready();
        self.changed.notify_all();
    }
}

/// Where the pointers of all tables stand.
pub struct Pointers {
    /// The folder of the simulation: accidents are planned by it.
    folder: PathBuf,
    tables: Mutex<Tables>,
    pub turns: Turns,
    /// What ends the processes.
    stops: Mutex<Vec<Arc<AtomicBool>>>,
}

#[derive(Default)]
struct Tables {
    pointers: BTreeMap<TableName, String>,
    /// A swap on its way: the questions before it arrives, table, base, next.
    late: Option<(usize, TableName, String, String)>,
}

impl Tables {
    fn arrive(&mut self) {
        if let Some((_, table, base, next)) = self.late.take()
            && self.pointers.get(&table) == Some(&base)
        {
            self.pointers.insert(table, next);
        }
    }
}

impl Pointers {
    pub fn new(folder: PathBuf) -> Self {
        let (tables, turns, stops) = Default::default();
        Self { folder, tables, turns, stops }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    /// What is on its way arrives, or is lost.
    pub fn settle(&self, arrives: bool) {
        let mut tables = self.tables();
        if arrives {
            tables.arrive();
        }
        tables.late = None;
        self.stops.lock().unwrap().clear();
    }
}

/// A swap that is done late.
#[derive(Debug, Clone, Copy)]
pub struct Late {
    /// Which of the process's swaps.
    pub swap: usize,
    /// After how many questions it is done.
    pub questions: usize,
    /// The process ends before it knows.
    pub dies: bool,
}

#[derive(Default)]
struct Troubles {
    questions: usize,
    swaps: usize,
    dies_at: Option<usize>,
    late: Option<Late>,
    dead: bool,
    happened: bool,
}

/// A process's way to the catalog.
pub struct Door {
    pointers: Arc<Pointers>,
    who: usize,
    stop: Arc<AtomicBool>,
    troubles: Mutex<Troubles>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("who", &self.who).finish_non_exhaustive()
    }
}

fn gone() -> Error {
    Error::unavailable("the process is gone")
}

impl Door {
    /// The door of a process that `stop` ends.
    pub fn new(pointers: &Arc<Pointers>, who: usize, stop: &Arc<AtomicBool>) -> Self {
        pointers.stops.lock().unwrap().push(stop.clone());
        Self { pointers: pointers.clone(), who, stop: stop.clone(), troubles: Mutex::default() }
    }

    /// The process ends at its n-th question.
    pub fn dies_at(&self, question: usize) {
        self.troubles.lock().unwrap().dies_at = Some(question);
    }

    /// One of its swaps is done late.
    pub fn delays(&self, late: Late) {
        self.troubles.lock().unwrap().late = Some(late);
    }

    /// Whether the process ended before it was done.
    pub fn died(&self) -> bool {
        self.troubles.lock().unwrap().dead
    }

    /// Whether what was planned for it has happened.
    pub fn happened(&self) -> bool {
        self.troubles.lock().unwrap().happened
    }

    /// How many questions it has asked.
    pub fn questions(&self) -> usize {
        self.troubles.lock().unwrap().questions
    }

    fn ask(&self) -> Result<()> {
        self.pointers.turns.pass(self.who);
        let mut tables = self.pointers.tables();
        match &mut tables.late {
            Some((0, ..)) => tables.arrive(),
            Some((left, ..)) => *left -= 1,
            None => {}
        }
        drop(tables);
        if faults::is_off(&self.pointers.folder) {
            self.pointers.stops.lock().unwrap().iter().for_each(|stop| stop.store(true, Ordering::SeqCst));
        }
        let mut troubles = self.troubles.lock().unwrap();
        troubles.questions += 1;
        if troubles.dies_at.is_some_and(|at| troubles.questions >= at) {
            self.die(&mut troubles);
        }
        if troubles.dead { Err(gone()) } else { Ok(()) }
    }

    fn die(&self, troubles: &mut Troubles) {
        (troubles.dead, troubles.happened) = (true, true);
        self.stop.store(true, Ordering::SeqCst);
    }

    fn change(&self, act: impl FnOnce(&mut BTreeMap<TableName, String>) -> bool) -> Swap {
        let path = self.pointers.folder.join("catalog");
        let done = faults::step(Stage::Swap, "commit", &path, || Ok(act(&mut self.pointers.tables().pointers)));
        match done {
            Ok(true) => Swap::Done(None),
            Ok(false) => Swap::Conflict,
            Err(error) => Swap::Unknown(Error::unavailable(format!("the catalog did not answer: {error}"))),
        }
    }
}

impl Catalog for Door {
    fn namespaces(&self) -> Result<BTreeMap<String, HashMap<String, String>>> {
        let tables = self.pointers.tables();
        Ok(tables.pointers.keys().map(|table| (table.namespace.clone(), HashMap::new())).collect())
    }

    fn has_namespace(&self, _: &str) -> Result<bool> {
        Ok(true)
    }

    fn ensure_namespace(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn tables(&self) -> Result<Vec<TableName>> {
        self.ask()?;
        Ok(self.pointers.tables().pointers.keys().cloned().collect())
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        self.ask()?;
        let location = self.pointers.tables().pointers.get(table).cloned();
        Ok(location.map(|location| Loaded { location, metadata: None, properties: HashMap::new() }))
    }

    fn create(&self, table: &TableName, next: Next<'_>) -> Swap {
        if let Err(error) = self.ask() {
            return Swap::Unknown(error);
        }
        self.change(|pointers| match pointers.contains_key(table) {
            true => false,
            false => pointers.insert(table.clone(), next.location.to_owned()).is_none(),
        })
    }

    fn swap(&self, base: &Table, next: Next<'_>) -> Swap {
        if let Err(error) = self.ask() {
            return Swap::Unknown(error);
        }
        let (table, old) = (base.name(), base.metadata_location());
        {
            let mut troubles = self.troubles.lock().unwrap();
            troubles.swaps += 1;
            if let Some(late) = troubles.late.filter(|late| late.swap == troubles.swaps) {
                let sent = (late.questions, table.clone(), old.to_owned(), next.location.to_owned());
                self.pointers.tables().late = Some(sent);
                troubles.happened = true;
                if late.dies {
                    self.die(&mut troubles);
                }
                return Swap::Unknown(Error::unavailable("the catalog has not answered yet"));
            }
        }
        self.change(|pointers| {
            let there = pointers.get(table);
            if there.is_none_or(|there| there != old) && !(there.is_some() && faults::bug(Bug::BlindSwap)) {
                return false;
            }
            pointers.insert(table.clone(), next.location.to_owned());
            true
        })
    }

    fn rename(&self, _: &TableName, _: &TableName) -> Swap {
        Swap::Refused(Error::invalid("tables of this catalog keep their names"))
    }

    fn drop_table(&self, _: &TableName) -> Result<bool> {
        Err(Error::invalid("tables of this catalog stay"))
    }
}
