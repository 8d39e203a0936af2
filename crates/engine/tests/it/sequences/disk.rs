//! Sequences on disk: statements and whole commands, as people give them, on
//! the SQLite catalog, with the erasure's ledger and proof.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use insightera_core::Clock;
use insightera_engine::lake::faults;
use insightera_engine::sql::Shell;
use insightera_engine::{Error, Workspace};

use super::Seeded;
use super::walker::Walker;
use super::world::{age, counted};
use crate::changed::try_delete;
use crate::project::{PIPELINE, TestProject, block_on, nim};

const STEPS: usize = 24;
const TABLE: &str = "gold.grades";

/// Rows by student: the number of times that a student stands in the table.
type Rows = BTreeMap<String, usize>;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Append(usize, usize),
    Delete(usize),
    PositionDelete(Vec<usize>),
    Evolve,
    Compact,
    Manifests,
    Expire(usize),
    Orphans,
    Rollback(usize),
    Tag,
    DropTag,
    DropAndCreate,
    TwoWriters(usize, usize),
    Erase(usize),
}

/// What must be in the table, kept outside of it.
#[derive(Debug, Clone, Default)]
struct Ledger {
    rows: Rows,
    /// What each snapshot of this table held.
    snapshots: BTreeMap<i64, Rows>,
    tags: BTreeMap<String, i64>,
    /// Students that were ever appended: each number is used once.
    used: usize,
    columns: usize,
}

struct Sequence {
    project: TestProject,
    ledger: Ledger,
    random: Seeded,
    walker: Walker,
    /// Whether files of a table that was dropped may be in this one's folder.
    shared: bool,
    trace: Vec<String>,
}

fn add(rows: &mut Rows, from: usize, count: usize) {
    for student in from..from + count {
        *rows.entry(nim(student)).or_default() += 1;
    }
}

impl Sequence {
    fn new(folder: &Path, seed: u64) -> Self {
        faults::watch(folder);
        let project = TestProject::at(folder, PIPELINE);
        let sequence = Self {
            project,
            ledger: Ledger::default(),
            random: Seeded(seed),
            walker: Walker::default(),
            shared: false,
            trace: Vec::new(),
        };
        sequence.create().unwrap();
        sequence
    }

    fn sql(&self, statement: &str) -> Result<(), Error> {
        block_on(Shell::new(&self.project.workspace).run(statement)).map(drop)
    }

    fn create(&self) -> Result<(), Error> {
        self.sql(&format!(
            "CREATE TABLE IF NOT EXISTS {TABLE} (nim STRING NOT NULL, gpa DOUBLE, feature_timestamp TIMESTAMP) \
             USING iceberg TBLPROPERTIES ('write.metadata.previous-versions-max' = '3', \
             'write.metadata.delete-after-commit.enabled' = 'true')"
        ))
    }

    fn choose(&mut self) -> Step {
        let used = self.ledger.used;
        match self.random.below(22) {
            0..=4 => Step::Append(used, 1 + self.random.below(6)),
            5 => Step::Delete(self.random.below(3)),
            6 | 7 => Step::PositionDelete((0..3).map(|_| self.random.below(used.max(1))).collect()),
            8 => Step::Evolve,
            9 | 10 => Step::Compact,
            11 => Step::Manifests,
            12 | 13 => Step::Expire(1 + self.random.below(3)),
            14 => Step::Orphans,
            15 => Step::Rollback(self.random.below(8)),
            16 => Step::Tag,
            17 => Step::DropTag,
            18 => {
                if self.random.below(3) == 0 {
                    Step::DropAndCreate
                } else {
                    Step::Compact
                }
            }
            19 => Step::TwoWriters(used, 1 + self.random.below(3)),
            _ => Step::Erase(self.random.below(used.max(1))),
        }
    }

    /// Does a step; answers the ledgers that may hold afterwards, the last of
    /// them if nothing went wrong.
    fn act(&mut self, step: &Step) -> (Vec<Ledger>, Result<(), Error>) {
        let before = self.ledger.clone();
        let mut after = before.clone();
        let lake = self.project.workspace.lake();
        let result = match step {
            Step::Append(from, count) => {
                add(&mut after.rows, *from, *count);
                after.used = from + count;
                append(&self.project.workspace, *from, *count)
            }
            Step::Delete(rest) => {
                after.rows.retain(|student, _| last_digit(student) % 3 != *rest);
                self.sql(&format!("DELETE FROM {TABLE} WHERE CAST(substr(nim, 8, 1) AS INT) % 3 = {rest}"))
            }
            Step::PositionDelete(students) => {
                for student in students {
                    after.rows.remove(&nim(*student));
                }
                try_delete(&self.project, students)
            }
            Step::Evolve => {
                after.columns += 1;
                self.sql(&format!("ALTER TABLE {TABLE} ADD COLUMN c{} INT", before.columns))
            }
            Step::Compact => self.sql(&format!(
                "CALL system.rewrite_data_files(table => '{TABLE}', options => map('rewrite-all', 'true'))"
            )),
            Step::Manifests => self.sql(&format!("CALL system.rewrite_manifests('{TABLE}')")),
            Step::Expire(keep) => {
                let now = chrono::DateTime::from_timestamp_micros(self.project.clock.now_micros()).unwrap();
                self.sql(&format!(
                    "CALL system.expire_snapshots(table => '{TABLE}', older_than => TIMESTAMP '{}', retain_last => {keep})",
                    now.format("%Y-%m-%d %H:%M:%S%.3fZ")
                ))
            }
            Step::Orphans => {
                age(&self.project.folder.join("warehouse"));
                self.sql(&format!("CALL system.remove_orphan_files(table => '{TABLE}', dry_run => false)"))
            }
            Step::Rollback(back) => {
                let table = lake.table(&TestProject::name(TABLE)).unwrap();
                let line: Vec<i64> = table.ancestry().map(|s| s.snapshot_id()).collect();
                let to = line.get(*back).copied();
                match to {
                    None => Ok(()),
                    Some(to) => {
                        after.rows = before.snapshots.get(&to).cloned().unwrap_or_default();
                        self.sql(&format!("CALL system.rollback_to_snapshot('{TABLE}', {to})"))
                    }
                }
            }
            Step::Tag => {
                let table = lake.table(&TestProject::name(TABLE)).unwrap();
                match table.current_snapshot_id() {
                    None => Ok(()),
                    Some(id) => {
                        let name = format!("t{}", self.random.below(4));
                        after.tags.insert(name.clone(), id);
                        self.sql(&format!("ALTER TABLE {TABLE} CREATE OR REPLACE TAG {name}"))
                    }
                }
            }
            Step::DropTag => match before.tags.keys().next() {
                None => Ok(()),
                Some(name) => {
                    after.tags.remove(name);
                    self.sql(&format!("ALTER TABLE {TABLE} DROP TAG {name}"))
                }
            },
            Step::DropAndCreate => {
                after = Ledger { used: before.used, ..Ledger::default() };
                // Between the two there is no table: made again before the look.
                self.sql(&format!("DROP TABLE {TABLE}")).and_then(|()| self.create())
            }
            Step::Erase(student) => {
                let gone = nim(*student);
                after.rows.remove(&gone);
                for rows in after.snapshots.values_mut() {
                    rows.remove(&gone);
                }
                block_on(insightera_engine::erase::carry_out(
                    &self.project.workspace,
                    &crate::erasures::order(*student, &[TABLE]),
                    &|_| {},
                ))
                .map(drop)
            }
            Step::TwoWriters(from, count) => {
                let (one, two) = (*from, from + count);
                let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
                    let tasks = [one, two].map(|at| {
                        let workspace = self.project.workspace.clone();
                        scope.spawn(move || append(&workspace, at, *count))
                    });
                    tasks.into_iter().map(|task| task.join().unwrap()).collect()
                });
                let mut only = [before.clone(), before.clone()];
                for (ledger, at) in only.iter_mut().zip([one, two]) {
                    add(&mut ledger.rows, at, *count);
                    ledger.used = two + count;
                }
                add(&mut after.rows, one, 2 * count);
                after.used = two + count;
                let [first, second] = only;
                let result = results.into_iter().collect();
                return (vec![before, first, second, after], result);
            }
        };
        (vec![before, after], result)
    }

    fn step(&mut self) -> Result<(), String> {
        self.project.clock.advance(60_000_000);
        let step = self.choose();
        let accident = (self.random.below(3) == 0).then(|| {
            let n = 1 + self.random.below(25) as u64;
            let after = self.random.below(2) == 0;
            let power =
                (self.random.below(2) == 0).then(|| (self.random.below(4) as u64).wrapping_mul(self.random.next()));
            (n, faults::Accident::Stop { after, power })
        });
        self.trace.push(format!("{step:?} {accident:?}"));
        self.shared |= matches!(step, Step::DropAndCreate);
        let folder = self.project.folder.clone();
        if let Some((n, accident)) = accident {
            faults::plan_accident(&folder, n, accident);
        }
        let (mut ledgers, mut result) = self.act(&step);
        let mut happened = faults::recover(&folder) == faults::Happened::Stop;
        if happened && matches!(step, Step::Erase(_)) {
            // The same command goes on, and then all of it has happened.
            self.project.reopen();
            (ledgers, result) = self.act(&step);
            happened = false;
        }
        if happened {
            self.project.reopen();
            // A crash between dropping and making again leaves no table.
            self.create().map_err(|e| format!("no table after the crash: {e}"))?;
        } else if let Err(error) = &result {
            // Two incarnations in one folder: orphans cannot be told apart, and that is said.
            let told = matches!(step, Step::Orphans)
                && self.shared
                && error.to_string().contains("belongs to a table with the uuid");
            if !told {
                return Err(format!("failed without a crash: {error}"));
            }
        }
        let rows = self.rows("")?;
        let fits = |ledger: &&Ledger| ledger.rows == rows;
        let found = match happened {
            // A table that was dropped and not yet made again is empty.
            true => ledgers.iter().rev().find(fits).cloned(),
            false => ledgers.last().filter(fits).cloned(),
        };
        let Some(mut ledger) = found else {
            return Err(format!(
                "the rows are {rows:?}, not one of {:?}",
                ledgers.iter().map(|l| &l.rows).collect::<Vec<_>>()
            ));
        };
        let dropped = matches!(step, Step::DropAndCreate) && self.is_new(&ledger);
        if dropped {
            ledger = Ledger { used: ledger.used, ..Ledger::default() };
        }
        ledger.used = ledgers.iter().map(|l| l.used).max().unwrap_or_default();
        ledger.columns = ledgers.iter().map(|l| l.columns).max().unwrap_or_default();
        self.ledger = ledger;
        if matches!(step, Step::Erase(_)) {
            for (id, wanted) in &self.ledger.snapshots {
                let found = self.rows(&format!("VERSION AS OF {id}"))?;
                if found != *wanted {
                    return Err(format!("after an erasure snapshot {id} holds {found:?}, not {wanted:?}"));
                }
            }
        }
        self.look(&rows, happened)
    }

    /// Whether the table is not the one of the ledger any more.
    fn is_new(&self, ledger: &Ledger) -> bool {
        let table = self.project.table(TABLE);
        !ledger.snapshots.is_empty()
            && !table.metadata().snapshots().any(|s| ledger.snapshots.contains_key(&s.snapshot_id()))
    }

    fn rows(&self, version: &str) -> Result<Rows, String> {
        let sql = format!("SELECT nim, count(*) AS n FROM {TABLE} {version} GROUP BY nim");
        let result = block_on(insightera_engine::sql::query(&self.project.workspace, &sql));
        let batches = result.map_err(|e| format!("{sql}: {e}"))?.batches;
        let mut rows = Rows::new();
        for batch in batches {
            use arrow::array::AsArray;
            let names = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
            let counts = batch.column(1).as_primitive::<arrow::datatypes::Int64Type>().clone();
            for row in 0..batch.num_rows() {
                rows.insert(names.as_string::<i32>().value(row).to_owned(), counts.value(row) as usize);
            }
        }
        Ok(rows)
    }

    /// What must hold after every step.
    fn look(&mut self, rows: &Rows, happened: bool) -> Result<(), String> {
        walk(&self.project.folder, &mut self.walker, &self.ledger)?;
        let table = self.project.table(TABLE);
        let there: BTreeSet<i64> = table.metadata().snapshots().map(|s| s.snapshot_id()).collect();
        if let Some(current) = table.current_snapshot_id() {
            self.ledger.snapshots.entry(current).or_insert_with(|| rows.clone());
        }
        // A step may have made several.
        for id in &there {
            if !self.ledger.snapshots.contains_key(id) {
                let held = self.rows(&format!("VERSION AS OF {id}"))?;
                self.ledger.snapshots.insert(*id, held);
            }
        }
        self.ledger.snapshots.retain(|id, _| there.contains(id));
        let refs = table.refs().map_err(|e| e.to_string())?;
        if happened {
            // A tag that was being made or dropped may be there or not.
            self.ledger.tags.retain(|name, id| refs.get(name).is_some_and(|r| r.snapshot_id == *id));
            for (name, reference) in &refs {
                if name != "main" && self.ledger.snapshots.contains_key(&reference.snapshot_id) {
                    self.ledger.tags.insert(name.clone(), reference.snapshot_id);
                }
            }
        }
        for (name, id) in &self.ledger.tags {
            if refs.get(name).is_none_or(|r| r.snapshot_id != *id) {
                return Err(format!("the tag {name} of snapshot {id} is lost"));
            }
        }
        let remembered: Vec<(i64, Rows)> = self.ledger.snapshots.iter().map(|(id, rows)| (*id, rows.clone())).collect();
        if !remembered.is_empty() {
            let (id, wanted) = &remembered[self.random.below(remembered.len())];
            let found = self.rows(&format!("VERSION AS OF {id}"))?;
            if found != *wanted {
                return Err(format!("snapshot {id} holds {found:?}, not {wanted:?}"));
            }
        }
        Ok(())
    }
}

fn last_digit(student: &str) -> usize {
    student.bytes().last().map_or(0, |b| usize::from(b - b'0'))
}

fn append(workspace: &Workspace, from: usize, count: usize) -> Result<(), Error> {
    let rows: Vec<String> = (from..from + count).map(|i| format!("('{}', {i}.5)", nim(i))).collect();
    let sql = format!("INSERT INTO {TABLE} (nim, gpa) VALUES {}", rows.join(", "));
    block_on(Shell::new(workspace).run(&sql)).map(drop)
}

/// Walks every table of the catalog, which SQLite itself reads; of the one
/// that the ledger knows, all snapshots hold what it says.
fn walk(folder: &Path, walker: &mut Walker, ledger: &Ledger) -> Result<(), String> {
    let catalog = rusqlite::Connection::open(folder.join("warehouse/catalog.db")).map_err(|e| e.to_string())?;
    let mut query = catalog.prepare("SELECT metadata_location FROM iceberg_tables").map_err(|e| e.to_string())?;
    let pointers = query.query_map([], |row| row.get::<_, String>(0)).map_err(|e| e.to_string())?;
    for pointer in pointers {
        let found = walker.walk(&pointer.map_err(|e| e.to_string())?)?;
        for (id, snapshot) in found.snapshots {
            let Some(wanted) = ledger.snapshots.get(&id) else { continue };
            let rows: Rows = counted(&snapshot.rows).into_iter().map(|(student, n)| (nim(student), n)).collect();
            if rows != *wanted {
                return Err(format!("snapshot {id} holds {rows:?}, not {wanted:?}"));
            }
        }
    }
    Ok(())
}

pub fn run(folder: &Path, seed: u64) -> Result<(), String> {
    let mut sequence = Sequence::new(folder, seed);
    for number in 0..STEPS {
        sequence
            .step()
            .map_err(|problem| format!("seed {seed}, step {number}: {problem}\n  {}", sequence.trace.join("\n  ")))?;
    }
    faults::forget(folder);
    Ok(())
}
