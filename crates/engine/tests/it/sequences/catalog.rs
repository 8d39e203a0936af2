//! A catalog in memory with a crash model: a swap is atomic and durable, may
//! be lost, may be done with its answer lost, and may be done late, when the
//! caller has given up on it. And a schedule: between any two questions to the
//! catalog another writer can be let in, the same one for the same seed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use insightera_engine::lake::catalog::{Catalog, Loaded, Next, Swap};
use insightera_engine::lake::faults::{self, Bug, Stage};
use insightera_engine::lake::{Table, TableName};
use insightera_engine::{Error, Result};

type Visit = Box<dyn FnOnce() + Send>;

/// Pointers of tables.
pub struct MemoryCatalog {
    /// A path below the folder of the sequence: accidents are planned by it.
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tables: BTreeMap<TableName, String>,
    /// Who is let in, after so many questions.
    visit: Option<(usize, Visit)>,
    /// The next swap arrives after so many questions.
    delay: Option<usize>,
    /// A swap on its way: the questions before it arrives, table, base, next.
    late: Option<(usize, TableName, String, String)>,
}

impl fmt::Debug for MemoryCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCatalog").finish_non_exhaustive()
    }
}

impl MemoryCatalog {
    pub fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets another in after so many questions.
    pub fn let_in(&self, after: usize, visit: impl FnOnce() + Send + 'static) {
        self.state().visit = Some((after, Box::new(visit)));
    }

    /// Whoever has not been let in yet.
    pub fn waiting(&self) -> Option<Visit> {
        self.state().visit.take().map(|(_, visit)| visit)
    }

    /// The next swap is not answered and done after so many questions.
    pub fn delay_next_swap(&self, questions: usize) {
        self.state().delay = Some(questions);
    }

    /// What is on its way arrives, or, after a crash, may be lost.
    pub fn settle(&self, arrives: bool) {
        let mut state = self.state();
        state.delay = None;
        if arrives {
            state.arrive();
        }
        state.late = None;
    }

    /// The pointers.
    pub fn pointers(&self) -> BTreeMap<TableName, String> {
        self.state().tables.clone()
    }

    fn asked(&self) {
        let visit = {
            let mut state = self.state();
            match &mut state.late {
                Some((0, ..)) => state.arrive(),
                Some((left, ..)) => *left -= 1,
                None => {}
            }
            match &mut state.visit {
                Some((0, _)) => state.visit.take(),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, visit)) = visit {
            visit();
        }
    }

    fn change(&self, act: impl FnOnce(&mut State) -> bool) -> Swap {
        let done = faults::step(Stage::Swap, "commit", &self.path, || Ok(act(&mut self.state())));
        match done {
            Ok(true) => Swap::Done(None),
            Ok(false) => Swap::Conflict,
            Err(error) => Swap::Unknown(Error::unavailable(format!("the catalog did not answer: {error}"))),
        }
    }
}

impl State {
    fn arrive(&mut self) {
        if let Some((_, table, base, next)) = self.late.take()
            && self.tables.get(&table) == Some(&base)
        {
            self.tables.insert(table, next);
        }
    }
}

impl Catalog for MemoryCatalog {
    fn namespaces(&self) -> Result<BTreeMap<String, HashMap<String, String>>> {
        Ok(self.state().tables.keys().map(|table| (table.namespace.clone(), HashMap::new())).collect())
    }

    fn has_namespace(&self, _: &str) -> Result<bool> {
        Ok(true)
    }

    fn ensure_namespace(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn tables(&self) -> Result<Vec<TableName>> {
        self.asked();
        Ok(self.state().tables.keys().cloned().collect())
    }

    fn load(&self, table: &TableName) -> Result<Option<Loaded>> {
        self.asked();
        let location = self.state().tables.get(table).cloned();
        Ok(location.map(|location| Loaded { location, metadata: None, properties: HashMap::new() }))
    }

    fn create(&self, table: &TableName, next: Next<'_>) -> Swap {
        self.asked();
        self.change(|state| match state.tables.contains_key(table) {
            true => false,
            false => state.tables.insert(table.clone(), next.location.to_owned()).is_none(),
        })
    }

    fn swap(&self, base: &Table, next: Next<'_>) -> Swap {
        self.asked();
        let (table, old) = (base.name(), base.metadata_location());
        {
            let mut state = self.state();
            if let Some(questions) = state.delay.take() {
                state.late = Some((questions, table.clone(), old.to_owned(), next.location.to_owned()));
                return Swap::Unknown(Error::unavailable("the catalog has not answered yet"));
            }
        }
        self.change(|state| {
            let there = state.tables.get(table);
            if there.is_none_or(|there| there != old) && !(there.is_some() && faults::bug(Bug::BlindSwap)) {
                return false;
            }
            state.tables.insert(table.clone(), next.location.to_owned());
            true
        })
    }

    fn rename(&self, _: &TableName, _: &TableName) -> Swap {
        Swap::Refused(Error::invalid("tables of this catalog keep their names"))
    }

    fn drop_table(&self, table: &TableName) -> Result<bool> {
        match self.change(|state| state.tables.remove(table).is_some()) {
            Swap::Done(_) => Ok(true),
            Swap::Conflict => Ok(false),
            Swap::Unknown(error) | Swap::Refused(error) => Err(error),
        }
    }
}
