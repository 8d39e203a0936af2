//! The next day: who changes, who arrives, who leaves.
//!
//! The active students draw lots. The lowest lots withdraw, the following ones
//! change; so the sets cannot overlap and their sizes are exact. Everybody who
//! arrives is new by number.

use arrow::array::RecordBatch;

use super::calendar::{CUTOFF, DAY};
use super::draw::Draw;
use super::students::{self, Academic, Attendance, Enrolment, Identity, Student};
use super::{ACADEMIC, ATTENDANCE, STUDENT, University};

/// Which observation the changes are.
const REVISION: u64 = 1;

/// The share of the active students who change.
const CHANGED: f64 = 0.10;

/// One in so many arrives, and as many withdraw.
const MOVED: u64 = 200;

/// Changes that arrive late: older than rows that were there before.
const LATE: f64 = 0.05;

/// What changed.
#[derive(Debug, Clone)]
pub struct NextDay {
    /// Per table the rows that replace those with the same key, or are new,
    /// sorted by key.
    pub upserts: Vec<(&'static str, RecordBatch)>,
    /// How many students that concerns.
    pub summary: NextDaySummary,
}

/// Numbers of students; nobody is counted twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextDaySummary {
    /// Active students with new grades, new attendance, or both.
    pub changed: u64,
    /// Students with a row in all three tables who had none before.
    pub added: u64,
    /// Active students who are now `withdrawn`.
    pub withdrawn: u64,
}

/// What a changed student brings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Grades,
    Attendance,
    Both,
}

pub(super) fn next_day(university: &University) -> NextDay {
    let enrolment = Enrolment::new(university.students);
    let (changed, withdrawn) = draw_lots(university, &enrolment);
    let added = (university.students / MOVED).max(1);

    let (mut grades, mut attendance): (Vec<Academic>, Vec<Attendance>) = (Vec::new(), Vec::new());
    for row in &changed {
        let student = Student::of_row(university, &enrolment, *row);
        let draw = Draw::new(university.seed, "next day", *row);
        let change = [Change::Grades, Change::Attendance, Change::Both][draw.pick("change", &[0.3, 0.5, 0.2])];
        if change != Change::Attendance {
            let new = students::academic(&student, REVISION);
            let time = observed(draw.at(0), new.feature_timestamp);
            grades.push(new.observed_at(time));
        }
        if change != Change::Grades {
            let new = students::attendance(&student, REVISION);
            let time = observed(draw.at(1), new.feature_timestamp);
            attendance.push(new.observed_at(time));
        }
    }

    let mut identities: Vec<Identity> = Vec::new();
    for row in &withdrawn {
        let student = Student::of_row(university, &enrolment, *row);
        identities.push(students::identity(&student, REVISION).now("withdrawn"));
    }
    for number in 0..added {
        let student = Student::arriving(university, &enrolment, number, added);
        let draw = Draw::new(university.seed, "arrival", number);
        grades.push(students::academic(&student, 0).observed_at(fresh(draw.at(0))));
        attendance.push(students::attendance(&student, 0).observed_at(fresh(draw.at(1))));
        identities.push(students::identity(&student, 0).now("active"));
    }
    grades.sort_by(|a, b| a.nim.cmp(&b.nim));
    attendance.sort_by(|a, b| a.nim.cmp(&b.nim));
    identities.sort_by(|a, b| a.nim.cmp(&b.nim));

    NextDay {
        upserts: vec![
            (ACADEMIC, students::academic_batch(&grades)),
            (ATTENDANCE, students::attendance_batch(&attendance)),
            (STUDENT, students::identity_batch(&identities)),
        ],
        summary: NextDaySummary { changed: changed.len() as u64, added, withdrawn: withdrawn.len() as u64 },
    }
}

/// The rows that change and the rows that withdraw.
fn draw_lots(university: &University, enrolment: &Enrolment) -> (Vec<u64>, Vec<u64>) {
    let mut active: Vec<(u64, u64)> = (0..university.students)
        .map(|row| (Student::of_row(university, enrolment, row), row))
        .filter(|(student, _)| student.is_active())
        .map(|(student, row)| (student.lot(), row))
        .collect();
    active.sort_unstable();
    let withdrawn = ((university.students / MOVED).max(1) as usize).min(active.len());
    let changed = ((active.len() as f64 * CHANGED).round() as usize).min(active.len() - withdrawn);
    let rows = |lots: &[(u64, u64)]| lots.iter().map(|(_, row)| *row).collect();
    (rows(&active[withdrawn..withdrawn + changed]), rows(&active[..withdrawn]))
}

/// The time of a changed row, later than that of the row it replaces. A late
/// one lies before the cut-off of day one, where others already are.
fn observed(draw: Draw, before: i64) -> i64 {
    if draw.chance("late", LATE) {
        before + 1 + ((CUTOFF - before - 1).max(0) as f64 * draw.unit("observed")) as i64
    } else {
        fresh(draw)
    }
}

/// A time within the 24 hours after the cut-off of day one.
fn fresh(draw: Draw) -> i64 {
    CUTOFF + 1 + draw.below("observed", DAY as u64) as i64
}
