//! Events as the systems of the university send them: lines of JSON.

use chrono::{DateTime, SecondsFormat};
use serde_json::json;

use super::University;
use super::draw::{Draw, round};
use super::students::{Enrolment, Student};
use super::transactions;

/// How often a student is looked for who is still there.
const LOOKS: u64 = 8;

/// The events of a university. Each is a pure function of its number and of
/// the time at which it happens, microseconds since the epoch.
#[derive(Debug)]
pub struct Events {
    university: University,
    enrolment: Enrolment,
    /// Whose events are somebody else's.
    but: String,
}

impl Events {
    /// The events of this university, but for those of the student `but`.
    pub fn new(university: University, but: &str) -> Self {
        Self { university, enrolment: Enrolment::new(university.students), but: but.to_owned() }
    }

    /// A student comes to a lecture or misses it, gets a grade, or changes the
    /// enrolment.
    pub fn of_student(&self, number: u64, micros: i64) -> String {
        let draw = Draw::new(self.university.seed, "student event", number);
        let student = self.student(draw);
        match draw.pick("type", &[0.90, 0.07, 0.03]) {
            0 => attendance(&student.nim, draw.chance("present", student.presence()), micros),
            1 => {
                let data = json!({ "course_id": draw.below("course", 900) + 100, "grade": grade(draw) });
                student_event(&student.nim, "grade_update", &data, micros)
            }
            _ => {
                let data = json!({ "sks_load": 12 + 2 * draw.below("load", 7) });
                student_event(&student.nim, "enrollment_change", &data, micros)
            }
        }
    }

    /// A unit pays.
    pub fn of_payment(&self, number: u64, micros: i64) -> String {
        let payment = transactions::payment(&self.university, self.university.transactions + number);
        json!({
            "transaksi_id": payment.id,
            "unit_kerja_sk": payment.unit,
            "jumlah_transaksi": payment.amount,
            "timestamp": micros.div_euclid(1000),
        })
        .to_string()
    }

    fn student(&self, draw: Draw) -> Student {
        let mut found = Student::of_row(&self.university, &self.enrolment, 0);
        for look in 0..LOOKS {
            let row = draw.at(look).below("student", self.university.students);
            found = Student::of_row(&self.university, &self.enrolment, row);
            if found.is_active() && found.nim != self.but {
                break;
            }
        }
        found
    }
}

/// A student comes to a lecture, or does not.
pub fn attendance(nim: &str, present: bool, micros: i64) -> String {
    student_event(nim, "attendance", &json!({ "attendance_flag": u8::from(present) }), micros)
}

/// `event_data` is JSON within a string, as the portal sends it.
fn student_event(nim: &str, event_type: &str, data: &serde_json::Value, micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    json!({
        "nim": nim,
        "event_type": event_type,
        "event_data": data.to_string(),
        "timestamp": time.to_rfc3339_opts(SecondsFormat::Micros, true),
    })
    .to_string()
}

fn grade(draw: Draw) -> f64 {
    round((3.0 + 0.6 * draw.normal("grade")).clamp(0.0, 4.0), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn events_are_lines_of_json_that_depend_on_their_number_alone() {
        let events = Events::new(University::with_students(300, 7), "");
        for number in 0..200 {
            let line = events.of_student(number, 1_790_000_000_000_000);
            assert_eq!(line, events.of_student(number, 1_790_000_000_000_000));
            assert!(!line.contains('\n'));
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(event["timestamp"], "2026-09-21T14:13:20.000000Z");
            assert_eq!(event["nim"].as_str().unwrap().len(), 10);
            serde_json::from_str::<Value>(event["event_data"].as_str().unwrap()).unwrap();
        }
        let other = Events::new(University::with_students(300, 8), "");
        assert_ne!(events.of_student(0, 0), other.of_student(0, 0));
        let of = |events: &Events| serde_json::from_str::<Value>(&events.of_student(3, 0)).unwrap()["nim"].clone();
        let but = of(&events);
        assert_ne!(of(&Events::new(University::with_students(300, 7), but.as_str().unwrap())), but);
    }

    #[test]
    fn payments_are_new_and_some_are_unusual() {
        let university = University::with_students(300, 7);
        let events = Events::new(university, "");
        let known = university.batch("gold_keuangan.transactions", 0, university.transactions as usize);
        let known: Vec<String> =
            arrow::array::AsArray::as_string::<i32>(known.column(0)).iter().flatten().map(str::to_owned).collect();
        for number in 0..100 {
            let event: Value = serde_json::from_str(&events.of_payment(number, 5_000_000)).unwrap();
            assert_eq!(event["timestamp"], 5_000);
            assert!(event["jumlah_transaksi"].as_f64().unwrap() > 0.0);
            assert!(!known.iter().any(|id| event["transaksi_id"] == id.as_str()));
        }
    }
}
