"""Synthetic students with a fixed seed, as Parquet files.

    python bench/students.py N FOLDER [--changed M]

Words: a *part* is a slice of the students that is drawn by itself from
(seed, what, part), so any N is made part by part in little memory and the
first part of 10 million students has the distribution of any other.

Writes, as one Snappy file per part:

    base/{academic,attendance}/   one row per student
    students/                     name, study programme, status (about 90% active)
    labels/                       who left, for the training
    changed/{academic,attendance} M active students, spread uniformly, with
                                  other features and a later feature_timestamp
    updated/{academic,attendance} base with the changed rows in place

and students.json: the counts. Rows are in an order unrelated to the number of
the student, as a warehouse dumps them.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SEED = 20261123
PART = 250_000
LARGE_PART = 1_000_000
# Feature times are data, not the clock. CHANGED_AT lies in the future of every
# run, because the original job compares it with the time of its last write.
OBSERVED_AT = np.datetime64("2026-10-01T02:00:00", "us")
CHANGED_AT = np.datetime64("2035-01-01T02:00:00", "us")

FIRST = "Agus Ahmad Andi Ayu Bagus Bambang Citra Dewi Dian Eka Fajar Gita Hendra Indah Joko Kartika Lina Made Nur Putri".split()
LAST = "Gunawan Halim Hidayat Kusuma Lestari Nasution Nugroho Pratama Rahman Santoso Saputra Siregar Susanto Utami Wibowo Wijaya".split()
PROGRAMMES = """Agribisnis Akuntansi Arsitektur Biologi Farmasi Fisika Hukum Kedokteran Kehutanan Kimia Manajemen
Matematika Peternakan Psikologi Sosiologi Statistika Teknik_Elektro Teknik_Industri Teknik_Informatika Teknik_Mesin
Teknik_Sipil Sistem_Informasi Sastra_Inggris Ilmu_Komunikasi""".replace("_", "\u00a0").split()
STATUS = (["active", "on_leave", "graduated", "inactive"], [0.90, 0.04, 0.04, 0.02])
SCHOLARSHIP = (["none", "bidikmisi", "ppa", "mandiri"], [0.70, 0.15, 0.10, 0.05])
ENTRY = (["SNBP", "SNBT", "Mandiri", "Transfer"], [0.30, 0.40, 0.25, 0.05])


def draw(what, part):
    return np.random.default_rng([SEED, sum(what.encode()), part])


def student_numbers(start, stop):
    """Ten digits, unique: an odd multiplier permutes the numbers below 10^8 (no factor 2 or 5)."""
    number = (np.arange(start, stop, dtype=np.int64) * 48_271_937 + 17) % 10**8
    return pc.binary_join_element_wise("18", pc.utf8_lpad(pc.cast(number, pa.string()), 8, "0"), "")


def choose(random, words_and_shares, count):
    words, shares = words_and_shares
    index = random.choice(len(words), count, p=shares).astype(np.int32) if shares else random.integers(0, len(words), count, dtype=np.int32)
    return index, pa.DictionaryArray.from_arrays(index, [word.replace("\u00a0", " ") for word in words]).cast(pa.string())


def with_nulls(random, values, share):
    return pa.array(values, mask=random.random(len(values)) < share)


def features(random, count):
    """Academic and attendance columns, and the label that they explain in part."""
    ability, effort, means = random.normal(0, 1, (3, count))
    effort = effort + 0.3 * ability
    ipk = np.clip(2.9 + 0.45 * ability + 0.15 * effort + random.normal(0, 0.25, count), 0, 4).round(2)
    ips = np.clip(ipk + 0.1 * effort + random.normal(0, 0.3, count), 0, 4).round(2)
    trend = (ips - ipk).round(3)
    semester = random.integers(1, 13, count).astype(np.int32)
    credits = np.clip(semester * 18 * np.clip(0.75 + 0.1 * ability + random.normal(0, 0.08, count), 0.1, 1.1), 0, 160)
    failed = random.poisson(np.exp(-0.2 - 0.7 * ability - 0.2 * effort)).astype(np.int32)
    repeated = random.poisson(np.exp(-1 - 0.5 * ability)).astype(np.int32)
    load = random.integers(9, 25, count).astype(np.int32)
    arrears = np.where(means < -0.8, random.gamma(2, 1.5e6, count), 0).round(0)
    scholarship, scholarship_words = choose(random, SCHOLARSHIP, count)
    entry, entry_words = choose(random, ENTRY, count)
    attendance = np.clip(0.82 + 0.08 * effort + random.normal(0, 0.05, count), 0, 1).round(4)
    recent = np.clip(attendance + 0.05 * effort + random.normal(0, 0.08, count), 0, 1).round(4)
    week = np.clip(recent + random.normal(0, 0.1, count), 0, 1).round(4)
    events = random.poisson(np.exp(1.8 + 0.3 * effort)).astype(np.int64)
    late = random.poisson(np.exp(0.5 - 0.3 * effort)).astype(np.int32)
    absent = random.poisson(np.exp(0.6 - 0.6 * effort)).astype(np.int32)
    hours = (random.gamma(3, 4, count) * np.exp(0.3 * effort)).round(2)
    silence = (random.integers(0, 60, count) * np.exp(-0.3 * effort)).round(1)
    logit = (-2.6 - 1.6 * (ipk - 2.9) - 0.6 * effort + 0.35 * failed + 0.25 * absent + 0.5 * (arrears > 0)
             - trend + 0.25 * (scholarship == 0) - 0.08 * semester + 0.4 * (entry == 3))
    dropout = (random.random(count) < 1 / (1 + np.exp(-logit))).astype(np.int32)
    academic = {
        "ipk": with_nulls(random, ipk, 0.01), "ips_last": with_nulls(random, ips, 0.05),
        "ip_trend": with_nulls(random, trend, 0.05), "semester": pa.array(semester),
        "sks_lulus": with_nulls(random, credits.astype(np.int32), 0.02),
        "failed_courses": with_nulls(random, failed, 0.02), "repeat_courses": pa.array(repeated),
        "sks_load": pa.array(load), "arrears_idr": with_nulls(random, arrears, 0.03),
        "scholarship_type": scholarship_words, "entry_path": entry_words,
    }
    present = {
        "event_count_7d": pa.array(events), "attendance_rate_7d": with_nulls(random, week, 0.06),
        "attendance_rate": with_nulls(random, attendance, 0.01),
        "attendance_rate_30d": with_nulls(random, recent, 0.04), "late_count": pa.array(late),
        "absent_count": with_nulls(random, absent, 0.03), "lms_hours_week": with_nulls(random, hours, 0.08),
        "days_since_last_login": with_nulls(random, silence, 0.04),
    }
    return academic, present, dropout


def feature_table(nim, columns, times):
    return pa.table({"nim": nim, **columns, "feature_timestamp": pa.array(times, pa.timestamp("us", tz="UTC"))})


def write(table, folder, part):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"part-{part:05d}.parquet", compression="snappy")


def replace_rows(table, rows, places):
    """`table` with `rows` at `places` (sorted)."""
    index = np.arange(table.num_rows)
    index[places] = table.num_rows + np.arange(len(places))
    return pa.concat_tables([table, rows]).combine_chunks().take(pa.array(index))


def make(count, folder, changed=10_000):
    size = LARGE_PART if count >= 10 * LARGE_PART else PART
    starts = list(range(0, count, size))
    active_total = changed_total = 0
    changed_rows = {"academic": [], "attendance": []}
    for part, start in enumerate(starts):
        stop = min(start + size, count)
        rows = stop - start
        nim = student_numbers(start, stop)
        random = draw("identity", part)
        name = pc.binary_join_element_wise(choose(random, (FIRST, None), rows)[1], choose(random, (LAST, None), rows)[1], " ")
        programme = choose(random, (PROGRAMMES, None), rows)[1]
        status, status_words = choose(random, STATUS, rows)
        students = pa.table({"nim": nim, "nama_mahasiswa": name, "prodi_nama": programme, "status_mahasiswa": status_words})
        academic, present, dropout = features(draw("features", part), rows)
        times = OBSERVED_AT - draw("times", part).integers(0, 86_400_000_000, rows).astype("timedelta64[us]")
        tables = {"academic": feature_table(nim, academic, times), "attendance": feature_table(nim, present, times)}
        write(students, folder / "students", part)
        write(pa.table({"nim": nim, "dropout": dropout}), folder / "labels", part)
        for what, table in tables.items():
            write(table, folder / "base" / what, part)
        active = np.flatnonzero(status == 0)
        active_total += len(active)
        share = changed * (stop) // count - changed * start // count
        places = np.sort(draw("changed", part).choice(active, share, replace=False))
        changed_total += len(places)
        academic, present, _ = features(draw("new features", part), len(places))
        times = np.full(len(places), CHANGED_AT)
        for what, columns in (("academic", academic), ("attendance", present)):
            rows_now = feature_table(nim.take(pa.array(places)), columns, times)
            changed_rows[what].append(rows_now)
            if size == PART:
                write(replace_rows(tables[what], rows_now, places), folder / "updated" / what, part)
    for what, tables in changed_rows.items():
        write(pa.concat_tables(tables).combine_chunks(), folder / "changed" / what, 0)
    summary = {"students": count, "active": active_total, "changed": changed_total, "seed": SEED}
    (folder / "students.json").write_text(json.dumps(summary) + "\n")
    return summary


def ensure(count, folder, changed=10_000):
    """The summary of the students in `folder`, made now if they are not there."""
    marker = folder / "students.json"
    if marker.exists():
        summary = json.loads(marker.read_text())
        if (summary["students"], summary["changed"], summary["seed"]) == (count, changed, SEED):
            return summary
    shutil.rmtree(folder, ignore_errors=True)
    return make(count, folder, changed)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Synthetic students with a fixed seed")
    arguments.add_argument("count", type=int)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--changed", type=int, default=10_000)
    chosen = arguments.parse_args()
    print(json.dumps(ensure(chosen.count, chosen.folder, chosen.changed)))
