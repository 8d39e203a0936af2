//! Names of people, programmes and units.

use super::draw::Draw;

const GIVEN: &[&str] = &[
    "Budi", "Siti", "Agus", "Dewi", "Rina", "Joko", "Putri", "Ahmad", "Nur", "Eka", "Wahyu", "Fitri", "Andi", "Sri",
    "Hendra", "Maya", "Rizki", "Bayu", "Indah", "Dimas", "Ayu", "Fajar", "Ratna", "Yusuf", "Lina", "Arif", "Mega",
    "Teguh", "Wulan", "Galih", "Nadia", "Ilham", "Citra", "Reza", "Tari", "Made", "Ketut", "Gita", "Doni", "Anisa",
    "Rahmat", "Yuni", "Surya", "Intan", "Fauzi", "Mira", "Bagus", "Laras",
];

const FAMILY: &[&str] = &[
    "Santoso",
    "Wijaya",
    "Pratama",
    "Saputra",
    "Hidayat",
    "Nugroho",
    "Lestari",
    "Kusuma",
    "Siregar",
    "Simanjuntak",
    "Hutapea",
    "Rahman",
    "Putra",
    "Utami",
    "Wibowo",
    "Setiawan",
    "Halim",
    "Nasution",
    "Harahap",
    "Permana",
    "Gunawan",
    "Susanto",
    "Maulana",
    "Ramadhan",
    "Anggraini",
    "Purnama",
    "Suryadi",
    "Tanjung",
    "Lubis",
    "Sinaga",
    "Mahendra",
    "Prasetyo",
    "Firmansyah",
    "Hasanah",
    "Wardani",
    "Kurniawan",
];

/// Study programmes with their share of the students; the two-digit code in a
/// student number is the position plus eleven.
pub(super) const PROGRAMMES: &[(&str, f64)] = &[
    ("Manajemen", 0.105),
    ("Teknik Informatika", 0.098),
    ("Hukum", 0.085),
    ("Akuntansi", 0.080),
    ("Ilmu Komunikasi", 0.066),
    ("Psikologi", 0.058),
    ("Sistem Informasi", 0.055),
    ("Teknik Sipil", 0.048),
    ("Pendidikan Guru SD", 0.045),
    ("Farmasi", 0.040),
    ("Kedokteran", 0.036),
    ("Teknik Elektro", 0.034),
    ("Teknik Mesin", 0.032),
    ("Agribisnis", 0.030),
    ("Sastra Inggris", 0.028),
    ("Hubungan Internasional", 0.026),
    ("Arsitektur", 0.024),
    ("Peternakan", 0.020),
    ("Statistika", 0.018),
    ("Matematika", 0.016),
    ("Biologi", 0.015),
    ("Kimia", 0.013),
    ("Kehutanan", 0.011),
    ("Fisika", 0.009),
    ("Sejarah", 0.005),
    ("Filsafat", 0.003),
];

/// Kinds of units with their share; the first is code 0 in the budget models.
pub(super) const UNIT_KINDS: [(&str, f64); 4] = [("fakultas", 0.38), ("lembaga", 0.17), ("biro", 0.18), ("upt", 0.27)];

const UNIT_SUBJECTS: [&[&str]; 4] = [
    &[
        "Teknik",
        "Ekonomi dan Bisnis",
        "Hukum",
        "Kedokteran",
        "MIPA",
        "Pertanian",
        "Ilmu Sosial",
        "Ilmu Budaya",
        "Farmasi",
        "Kehutanan",
    ],
    &["Penelitian", "Pengabdian Masyarakat", "Penjaminan Mutu", "Pengembangan Pembelajaran"],
    &["Keuangan", "Akademik", "Umum", "Kepegawaian", "Perencanaan"],
    &["Perpustakaan", "Bahasa", "Laboratorium Terpadu", "Teknologi Informasi", "Kesehatan", "Asrama", "Kearsipan"],
];

/// A person's name.
pub(super) fn person(draw: Draw) -> String {
    format!("{} {}", draw.choose("given name", GIVEN), draw.choose("family name", FAMILY))
}

/// A unit's name, numbered because subjects repeat.
pub(super) fn unit(draw: Draw, kind: usize, number: u64) -> String {
    let subject = draw.choose("subject", UNIT_SUBJECTS[kind]);
    match kind {
        0 => format!("Departemen {number} Fakultas {subject}"),
        1 => format!("Lembaga {subject} {number}"),
        2 => format!("Bagian {number} Biro {subject}"),
        _ => format!("UPT {subject} {number}"),
    }
}
