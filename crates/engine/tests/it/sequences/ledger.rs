//! What happens, and what must be in the table afterwards, kept outside of it.

use std::collections::BTreeMap;

use super::walker::{Found, Row, Rows};

/// One thing that happens. Students are given by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// New students, each of whose first so many later columns have a value.
    Append {
        from: usize,
        count: usize,
        columns: usize,
    },
    /// New rows in the place of those that the students have.
    Upsert {
        students: Vec<usize>,
        columns: usize,
    },
    /// Position deletes.
    DeletePositions(Vec<usize>),
    /// Equality deletes.
    DeleteValues(Vec<usize>),
    /// Copy on write: every third student.
    DeleteCopy(usize),
    /// A column, its name by number.
    AddColumn(usize),
    RenameColumn,
    Compact {
        all: bool,
        parts: bool,
    },
    Manifests,
    Expire {
        keep: usize,
    },
    /// Everything is old.
    Orphans {
        sweep: bool,
    },
    /// Everything is old but the files of a commit in progress.
    OrphansBeside {
        from: usize,
        count: usize,
    },
    Rollback {
        to: i64,
    },
    SetRef {
        branch: bool,
        name: String,
        to: i64,
    },
    DropRef {
        branch: bool,
        name: String,
    },
    DropAndCreate {
        elsewhere: bool,
    },
    Erase(usize),
    /// The second is let in while the first works.
    Two(Box<Step>, Box<Step>, usize),
}

impl Step {
    /// Its name, for the count of what was done.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Append { .. } => "append",
            Self::Upsert { .. } => "upsert",
            Self::DeletePositions(_) => "delete by position",
            Self::DeleteValues(_) => "delete by value",
            Self::DeleteCopy(_) => "delete by copy",
            Self::AddColumn(_) | Self::RenameColumn => "evolve",
            Self::Compact { .. } => "compact",
            Self::Manifests => "rewrite manifests",
            Self::Expire { .. } => "expire",
            Self::Orphans { .. } | Self::OrphansBeside { .. } => "orphans",
            Self::Rollback { .. } => "rollback",
            Self::SetRef { .. } => "tag or branch",
            Self::DropRef { .. } => "drop tag or branch",
            Self::DropAndCreate { .. } => "drop and create",
            Self::Erase(_) => "erase",
            Self::Two(..) => "two writers",
        }
    }

    /// How many snapshots of a line it leaves, where it expires some.
    pub fn keeps(&self) -> Option<usize> {
        match self {
            Self::Expire { keep } => Some(*keep),
            Self::Two(one, two, _) => one.keeps().into_iter().chain(two.keeps()).min(),
            _ => None,
        }
    }

    /// The student that it erases.
    pub fn erases(&self) -> Option<usize> {
        match self {
            Self::Erase(student) => Some(*student),
            Self::Two(one, two, _) => one.erases().or(two.erases()),
            _ => None,
        }
    }

    /// Whether it writes the student's key, if only to delete.
    pub fn writes(&self, student: usize) -> bool {
        match self {
            Self::Append { from, count, .. } | Self::OrphansBeside { from, count } => {
                (*from..from + count).contains(&student)
            }
            Self::Upsert { students, .. } | Self::DeleteValues(students) => students.contains(&student),
            Self::Two(one, two, _) => one.writes(student) || two.writes(student),
            _ => false,
        }
    }

    /// The ledgers that may hold after the step when something went wrong, and
    /// those that may hold when nothing did, the latter last.
    pub fn outcomes(&self, before: &Ledger) -> (Vec<Ledger>, usize) {
        let Self::Two(one, two, _) = self else { return (vec![before.clone(), before.after(self)], 1) };
        let (first, second) = (before.after(one), before.after(two));
        let both = [first.after(two), second.after(one)];
        let mut all = vec![before.clone(), first, second];
        all.extend(both);
        (all, 2)
    }
}

/// What must be in the table.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub rows: Rows,
    /// Columns that came later.
    pub columns: usize,
    /// Tags and branches.
    pub refs: BTreeMap<String, i64>,
    /// What each snapshot held.
    pub snapshots: BTreeMap<i64, Rows>,
    /// The table, unless it is a new one.
    pub uuid: Option<String>,
}

fn add(rows: &mut Rows, row: Row) {
    *rows.entry(row).or_default() += 1;
}

impl Ledger {
    /// The ledger after a step.
    pub fn after(&self, step: &Step) -> Self {
        let mut after = self.clone();
        let mut keep = |wanted: &dyn Fn(usize) -> bool| after.rows.retain(|row, _| wanted(row.0));
        match step {
            Step::Append { from, count, columns } => {
                (*from..from + count).for_each(|student| add(&mut after.rows, (student, *columns)));
            }
            Step::OrphansBeside { from, count } => {
                (*from..from + count).for_each(|student| add(&mut after.rows, (student, 0)));
            }
            Step::Upsert { students, columns } => {
                keep(&|student| !students.contains(&student));
                students.iter().for_each(|student| add(&mut after.rows, (*student, *columns)));
            }
            Step::DeletePositions(students) | Step::DeleteValues(students) => {
                keep(&|student| !students.contains(&student));
            }
            Step::DeleteCopy(rest) => keep(&|student| student % 3 != *rest),
            Step::AddColumn(_) => after.columns += 1,
            Step::Rollback { to } => after.rows = self.snapshots.get(to).cloned().unwrap_or_default(),
            Step::SetRef { name, to, .. } => drop(after.refs.insert(name.clone(), *to)),
            Step::DropRef { name, .. } => drop(after.refs.remove(name)),
            Step::DropAndCreate { .. } => after = Self::default(),
            Step::Erase(gone) => {
                keep(&|student| student != *gone);
                after.snapshots.values_mut().for_each(|rows| rows.retain(|row, _| row.0 != *gone));
            }
            Step::RenameColumn
            | Step::Compact { .. }
            | Step::Manifests
            | Step::Expire { .. }
            | Step::Orphans { .. } => {}
            Step::Two(one, two, _) => after = self.after(one).after(two),
        }
        after
    }

    /// Whether this is what was found; the error says what is not.
    pub fn fits(&self, found: &Found) -> Result<(), String> {
        if self.uuid.as_ref().is_some_and(|uuid| *uuid != found.uuid) {
            return Err(format!("the table is {}, not {:?}", found.uuid, self.uuid));
        }
        let rows = found.rows();
        if rows != self.rows {
            return Err(format!("the rows are {rows:?}, not {:?}", self.rows));
        }
        if found.columns != self.columns {
            return Err(format!("there are {} later columns, not {}", found.columns, self.columns));
        }
        if found.refs != self.refs {
            return Err(format!("tags and branches are {:?}, not {:?}", found.refs, self.refs));
        }
        for (id, snapshot) in &found.snapshots {
            if let Some(wanted) = self.snapshots.get(id).filter(|wanted| **wanted != snapshot.rows) {
                return Err(format!("snapshot {id} holds {:?}, not {wanted:?}", snapshot.rows));
            }
        }
        Ok(())
    }
}
