//! Students: who they are, how they study, whether they leave.
//!
//! Three hidden causes stand behind every column: aptitude, engagement and
//! means (money). A *revision* is a later observation of the same student:
//! engagement has moved, and what depends on it was measured again.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::University;
use super::calendar::{CUTOFF, DAY};
use super::column::{self, field, key, time};
use super::draw::{Draw, round, sigmoid};
use super::names::{self, PROGRAMMES};

/// Entry years (two digits) with their share; sorted, because student numbers
/// start with them.
const COHORTS: &[(u64, f64)] = &[(19, 0.02), (20, 0.06), (21, 0.12), (22, 0.19), (23, 0.20), (24, 0.20), (25, 0.21)];

/// Six digits of a student number count within a year and a programme.
const SERIALS: u64 = 1_000_000;

const STATUSES: [(&str, f64); 4] = [("active", 0.90), ("on_leave", 0.04), ("graduated", 0.04), ("inactive", 0.02)];

/// How many students each entry year and programme has, as cumulated bounds.
#[derive(Debug)]
pub(super) struct Enrolment {
    bounds: Vec<u64>,
}

impl Enrolment {
    pub(super) fn new(students: u64) -> Self {
        let total: f64 = PROGRAMMES.iter().map(|(_, share)| share).sum();
        let mut sum = 0.0;
        let mut bounds: Vec<u64> = COHORTS
            .iter()
            .flat_map(|(_, cohort)| PROGRAMMES.iter().map(move |(_, share)| cohort * share / total))
            .map(|share| {
                sum += share;
                (students as f64 * sum).round() as u64
            })
            .collect();
        if let Some(last) = bounds.last_mut() {
            *last = students;
        }
        Self { bounds }
    }

    /// The cell of a row: its index, the rank of the row in it, its size.
    fn cell(&self, row: u64) -> (usize, u64, u64) {
        let cell = self.bounds.partition_point(|bound| *bound <= row);
        let first = if cell == 0 { 0 } else { self.bounds[cell - 1] };
        (cell, row - first, self.bounds[cell] - first)
    }
}

/// One student: the number, what it says, and the hidden causes.
#[derive(Debug, Clone)]
pub(super) struct Student {
    pub(super) nim: String,
    draw: Draw,
    programme: usize,
    /// Completed semesters.
    semester: i32,
    aptitude: f64,
    engagement: f64,
    means: f64,
    entry_path: &'static str,
    scholarship: &'static str,
}

impl Student {
    /// The student of a row of day one. Serials are even and grow with the
    /// row, so that rows are sorted by number without being consecutive.
    pub(super) fn of_row(university: &University, enrolment: &Enrolment, row: u64) -> Self {
        let draw = Draw::new(university.seed, "student", row);
        let (cell, rank, size) = enrolment.cell(row);
        let stride = (SERIALS / size) & !1;
        let serial = rank * stride + 2 * draw.below("serial", stride / 2);
        Self::new(draw, cell, serial)
    }

    /// The `number`th of `count` students who arrive on the next day. Their
    /// serials are odd, so they meet nobody.
    pub(super) fn arriving(university: &University, enrolment: &Enrolment, number: u64, count: u64) -> Self {
        let draw = Draw::new(university.seed, "student", university.students + number);
        let (cell, ..) = enrolment.cell(draw.below("cell", university.students));
        let stride = (SERIALS / 2) / count;
        let serial = 2 * (number * stride + draw.below("serial", stride)) + 1;
        Self::new(draw, cell, serial)
    }

    fn new(draw: Draw, cell: usize, serial: u64) -> Self {
        let (cohort, _) = COHORTS[cell / PROGRAMMES.len()];
        let programme = cell % PROGRAMMES.len();
        let aptitude = draw.normal("aptitude");
        let engagement = 0.35 * aptitude + 0.94 * draw.normal("engagement");
        let means = draw.normal("means");
        let on_time = 2 * (26 - cohort) as i32;
        let breaks = draw.pick("breaks", &[0.93, 0.05, 0.02]) as i32;
        let entry_path = if draw.chance("transfer", 0.05) {
            "Transfer"
        } else {
            match aptitude + draw.normal("entry") {
                rank if rank > 0.75 => "SNBP",
                rank if rank > -0.65 => "SNBT",
                _ => "Mandiri",
            }
        };
        let scholarship = if means < -0.5 && draw.chance("kip", 0.45) {
            "KIP-Kuliah"
        } else {
            ["none", "PPA", "yayasan"][draw.pick("scholarship", &[0.84, 0.10, 0.06])]
        };
        Self {
            nim: format!("{cohort:02}{:02}{serial:06}", programme + 11),
            draw,
            programme,
            semester: (on_time - breaks).max(1),
            aptitude,
            engagement,
            means,
            entry_path,
            scholarship,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        status(self) == "active"
    }

    /// A number that decides who changes on the next day.
    pub(super) fn lot(&self) -> u64 {
        self.draw.bits("lot")
    }

    /// Engagement as of a revision (0 is day one).
    fn engagement_at(&self, revision: u64) -> f64 {
        if revision == 0 {
            self.engagement
        } else {
            self.engagement - 0.25 + 0.9 * self.draw.at(revision).normal("engagement shock")
        }
    }

    /// The share of the lectures that the student attends.
    pub(super) fn presence(&self) -> f64 {
        (0.84 + 0.075 * self.engagement + 0.04 * self.draw.normal("rate")).clamp(0.05, 1.0)
    }

    /// The grade average over all semesters, before any revision.
    fn grade(&self) -> f64 {
        2.95 + 0.40 * self.aptitude + 0.17 * self.engagement + 0.20 * self.draw.normal("ipk")
    }

    /// The grade average of the last semester as of a revision.
    fn last_grade(&self, revision: u64) -> f64 {
        let noise = self.draw.at(revision).normal("ips");
        (self.grade() + 0.16 * self.engagement_at(revision) + 0.26 * noise).clamp(0.0, 4.0)
    }

    /// Credits planned for the semester: good grades allow more of them. A
    /// revision adds or drops a course.
    fn load(&self, revision: u64) -> i32 {
        let planned = match self.last_grade(0) {
            grade if grade >= 3.0 => 20 + self.draw.below("load", 5),
            grade if grade >= 2.5 => 17 + self.draw.below("load", 5),
            _ => 12 + self.draw.below("load", 6),
        } as i32;
        let moved = 1 + self.draw.at(revision).below("load change", 3) as i32;
        match revision {
            0 => planned,
            _ if planned > 15 => planned - moved,
            _ => planned + moved,
        }
    }

    /// Unpaid tuition: rare, log-normal, a multiple of a thousand rupiah.
    fn arrears(&self) -> f64 {
        let covered = self.scholarship == "KIP-Kuliah";
        if covered || !self.draw.chance("in arrears", sigmoid(-2.0 - 1.2 * self.means)) {
            return 0.0;
        }
        let amount = (14.9 + 0.6 * self.draw.normal("arrears") - 0.2 * self.means).exp();
        (amount / 1000.0).round() * 1000.0
    }
}

fn status(student: &Student) -> &'static str {
    STATUSES[student.draw.pick("status", &STATUSES.map(|(_, share)| share))].0
}

/// One row of the academic features.
#[derive(Debug, Clone)]
pub(super) struct Academic {
    pub(super) nim: String,
    pub(super) feature_timestamp: i64,
    ipk: Option<f64>,
    ips_last: Option<f64>,
    ip_trend: Option<f64>,
    semester: i32,
    sks_lulus: Option<i32>,
    failed_courses: Option<i32>,
    repeat_courses: i32,
    sks_load: i32,
    arrears_idr: Option<f64>,
    scholarship_type: Option<&'static str>,
    entry_path: &'static str,
}

impl Academic {
    /// The same, observed at another time.
    pub(super) fn observed_at(self, feature_timestamp: i64) -> Self {
        Self { feature_timestamp, ..self }
    }
}

/// The grades of a student. A revision differs from day one in `sks_load` at
/// least: whoever's grades are corrected changes the study plan, too.
pub(super) fn academic(student: &Student, revision: u64) -> Academic {
    let Student { draw, aptitude, semester, .. } = *student;
    let (now, engagement) = (draw.at(revision), student.engagement_at(revision));
    let (grade, last) = (student.grade(), student.last_grade(revision));
    let drift = if revision == 0 { 0.0 } else { 0.15 * (last - grade) };
    let ipk = round((grade + drift).clamp(0.3, 4.0), 2);
    let ips_last = now.missing("ips missing", 0.05, round(last, 2));
    let pace = (0.86 + 0.07 * aptitude + 0.05 * engagement + 0.06 * now.normal("pace")).clamp(0.1, 1.05);
    let sks_lulus = (f64::from(semester) * 20.0 * pace).min(150.0) as i32;
    let failed =
        draw.poisson("failed", (-0.9 - 0.65 * aptitude - 0.35 * engagement + 0.06 * f64::from(semester)).exp()).min(12);
    let repeated = draw.poisson("repeated", (-0.8 - 0.5 * aptitude).exp()).min(failed);
    Academic {
        nim: student.nim.clone(),
        feature_timestamp: observed(draw, "grades observed"),
        ipk: draw.missing("ipk missing", 0.01, ipk),
        ips_last,
        ip_trend: ips_last.map(|last| round(last - ipk, 2)),
        semester,
        sks_lulus: draw.missing("sks missing", 0.02, sks_lulus),
        failed_courses: draw.missing("failed missing", 0.02, failed),
        repeat_courses: repeated,
        sks_load: student.load(revision),
        arrears_idr: draw.missing("arrears missing", 0.03, student.arrears()),
        scholarship_type: draw.missing("scholarship missing", 0.015, student.scholarship),
        entry_path: student.entry_path,
    }
}

/// One row of the attendance features.
#[derive(Debug, Clone)]
pub(super) struct Attendance {
    pub(super) nim: String,
    pub(super) feature_timestamp: i64,
    event_count_7d: i64,
    attendance_rate_7d: Option<f64>,
    attendance_rate: Option<f64>,
    attendance_rate_30d: Option<f64>,
    late_count: i32,
    absent_count: Option<i32>,
    lms_hours_week: Option<f64>,
    days_since_last_login: Option<f64>,
}

impl Attendance {
    /// The same, observed at another time.
    pub(super) fn observed_at(self, feature_timestamp: i64) -> Self {
        Self { feature_timestamp, ..self }
    }
}

/// The attendance of a student. A revision differs from day one in
/// `event_count_7d` at least: a further day brought further events.
pub(super) fn attendance(student: &Student, revision: u64) -> Attendance {
    let (draw, engagement) = (student.draw, student.engagement_at(revision));
    let now = draw.at(revision);
    let rate = student.presence();
    let month = (rate + 0.05 * engagement + 0.06 * now.normal("month")).clamp(0.0, 1.0);
    let meetings = 4 + draw.below("meetings", 6) as u32;
    let more = if revision == 0 { 0 } else { 1 + now.below("more events", 4) as u32 };
    let met = meetings + more;
    let present = now.binomial("present", met, month.clamp(0.02, 0.99));
    let others = draw.poisson("other events", (-0.4 + 0.35 * student.engagement).exp());
    Attendance {
        nim: student.nim.clone(),
        feature_timestamp: observed(draw, "attendance observed"),
        event_count_7d: i64::from(met) + i64::from(others),
        attendance_rate_7d: now.missing("week missing", 0.03, round(f64::from(present) / f64::from(met), 4)),
        attendance_rate: draw.missing("rate missing", 0.01, round(rate, 4)),
        attendance_rate_30d: now.missing("month missing", 0.06, round(month, 4)),
        late_count: now.poisson("late", (0.5 - 0.3 * engagement).exp()),
        absent_count: draw.missing("absent missing", 0.03, now.poisson("absent", (0.7 - 0.6 * engagement).exp())),
        lms_hours_week: draw.missing(
            "lms missing",
            0.08,
            round((1.8 + 0.45 * engagement + 0.5 * now.normal("lms")).exp().min(80.0), 2),
        ),
        days_since_last_login: draw.missing(
            "login missing",
            0.04,
            round((0.8 - 0.65 * engagement + 0.9 * now.normal("login")).exp().min(180.0), 1),
        ),
    }
}

/// One row of the student dimension.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) nim: String,
    nama_mahasiswa: String,
    prodi_nama: &'static str,
    status_mahasiswa: &'static str,
}

impl Identity {
    /// The same with another status.
    pub(super) fn now(self, status_mahasiswa: &'static str) -> Self {
        Self { status_mahasiswa, ..self }
    }
}

/// Who the student is; `revision` changes nothing.
pub(super) fn identity(student: &Student, _revision: u64) -> Identity {
    Identity {
        nim: student.nim.clone(),
        nama_mahasiswa: names::person(student.draw),
        prodi_nama: PROGRAMMES[student.programme].0,
        status_mahasiswa: status(student),
    }
}

/// Whether the student will leave without a degree within a year.
pub(super) fn drops_out(student: &Student) -> bool {
    let Student { draw, aptitude, means, semester, engagement, .. } = *student;
    let grades = academic(student, 0);
    let failed = f64::from(grades.failed_courses.unwrap_or(0).min(8));
    let arrears = grades.arrears_idr.unwrap_or(0.0);
    let behind = (0.80 - f64::from(grades.sks_lulus.unwrap_or(0)) / (20.0 * f64::from(semester))).clamp(-0.2, 0.5);
    let late_stage = f64::from((semester - 8).max(0));
    let logit = -3.00 - 0.56 * aptitude - 1.02 * engagement - 0.34 * means
        + 0.27 * failed
        + 2.2 * behind
        + if arrears > 0.0 { 0.6 + 0.2 * (arrears / 3e6).ln() } else { 0.0 }
        + if student.entry_path == "Transfer" { 0.5 } else { 0.0 }
        - if student.scholarship == "KIP-Kuliah" { 0.45 } else { 0.0 }
        + 0.15 * late_stage
        - 0.05 * f64::from(semester.min(8));
    draw.chance("drops out", sigmoid(logit))
}

/// When a row was observed: mostly within the last day, some arrive late.
fn observed(draw: Draw, name: &str) -> i64 {
    let draw = draw.at(draw.bits(name));
    let age = if draw.chance("late arrival", 0.05) { draw.between("age", 1.0, 14.0) } else { draw.unit("age") };
    CUTOFF - (age * DAY as f64) as i64
}

/// Rows of day one, by any of the functions above.
pub(super) fn day_one<T>(university: &University, rows: Range<u64>, observe: fn(&Student, u64) -> T) -> Vec<T> {
    let enrolment = Enrolment::new(university.students);
    rows.map(|row| observe(&Student::of_row(university, &enrolment, row), 0)).collect()
}

pub(super) fn academic_schema() -> SchemaRef {
    let mut fields = vec![key("nim"), time("feature_timestamp")];
    fields.extend(academic_features());
    column::schema(fields)
}

pub(super) fn academic_features() -> Vec<Field> {
    vec![
        field("ipk", DataType::Float64),
        field("ips_last", DataType::Float64),
        field("ip_trend", DataType::Float64),
        field("semester", DataType::Int32),
        field("sks_lulus", DataType::Int32),
        field("failed_courses", DataType::Int32),
        field("repeat_courses", DataType::Int32),
        field("sks_load", DataType::Int32),
        field("arrears_idr", DataType::Float64),
        field("scholarship_type", DataType::Utf8),
        field("entry_path", DataType::Utf8),
    ]
}

pub(super) fn academic_batch(rows: &[Academic]) -> RecordBatch {
    let columns = vec![
        column::strings(rows, |row| &row.nim),
        column::times(rows, |row| row.feature_timestamp),
        column::optional_doubles(rows, |row| row.ipk),
        column::optional_doubles(rows, |row| row.ips_last),
        column::optional_doubles(rows, |row| row.ip_trend),
        column::ints(rows, |row| row.semester),
        column::optional_ints(rows, |row| row.sks_lulus),
        column::optional_ints(rows, |row| row.failed_courses),
        column::ints(rows, |row| row.repeat_courses),
        column::ints(rows, |row| row.sks_load),
        column::optional_doubles(rows, |row| row.arrears_idr),
        column::optional_strings(rows, |row| row.scholarship_type),
        column::strings(rows, |row| row.entry_path),
    ];
    column::batch(academic_schema(), columns)
}

pub(super) fn attendance_schema() -> SchemaRef {
    let mut fields = vec![key("nim"), time("feature_timestamp")];
    fields.extend(attendance_features());
    column::schema(fields)
}

pub(super) fn attendance_features() -> Vec<Field> {
    vec![
        field("event_count_7d", DataType::Int64),
        field("attendance_rate_7d", DataType::Float64),
        field("attendance_rate", DataType::Float64),
        field("attendance_rate_30d", DataType::Float64),
        field("late_count", DataType::Int32),
        field("absent_count", DataType::Int32),
        field("lms_hours_week", DataType::Float64),
        field("days_since_last_login", DataType::Float64),
    ]
}

pub(super) fn attendance_batch(rows: &[Attendance]) -> RecordBatch {
    let columns = vec![
        column::strings(rows, |row| &row.nim),
        column::times(rows, |row| row.feature_timestamp),
        column::longs(rows, |row| row.event_count_7d),
        column::optional_doubles(rows, |row| row.attendance_rate_7d),
        column::optional_doubles(rows, |row| row.attendance_rate),
        column::optional_doubles(rows, |row| row.attendance_rate_30d),
        column::ints(rows, |row| row.late_count),
        column::optional_ints(rows, |row| row.absent_count),
        column::optional_doubles(rows, |row| row.lms_hours_week),
        column::optional_doubles(rows, |row| row.days_since_last_login),
    ];
    column::batch(attendance_schema(), columns)
}

pub(super) fn identity_schema() -> SchemaRef {
    column::schema(vec![
        key("nim"),
        field("nama_mahasiswa", DataType::Utf8),
        field("prodi_nama", DataType::Utf8),
        field("status_mahasiswa", DataType::Utf8),
    ])
}

pub(super) fn identity_batch(rows: &[Identity]) -> RecordBatch {
    let columns = vec![
        column::strings(rows, |row| &row.nim),
        column::strings(rows, |row| &row.nama_mahasiswa),
        column::strings(rows, |row| row.prodi_nama),
        column::strings(rows, |row| row.status_mahasiswa),
    ];
    column::batch(identity_schema(), columns)
}
