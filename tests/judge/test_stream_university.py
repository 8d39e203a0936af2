"""The university's two streams, as the demo leaves them: what an absence does to a risk, and what is unusual in a payment."""

import datetime
import json
import math
import subprocess
from collections import Counter

import pytest

from lakehouse import Project

HOUR = 3_600_000_000
DAY = 24 * HOUR
NOW = 1_767_225_600_000_000
RISK, PAYMENTS = "ml_predictions.dropout_risk_predictions_realtime", "ml_predictions.anomaly_detections"


@pytest.fixture(scope="module")
def demo(tmp_path_factory, binary):
    folder = tmp_path_factory.mktemp("demo") / "university"
    done = subprocess.run([str(binary), "demo", "--students", "4000", "--seed", "7", "--events-for", "0", "--dir", str(folder)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return Project(folder, binary)


def iso(micros):
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=micros)).isoformat() + "Z"


def micros(time):
    """Of a time, or of its text."""
    time = datetime.datetime.fromisoformat(time) if isinstance(time, str) else time
    return (time - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)


def known_until(observed):
    """The midnight that records are of."""
    return (observed + DAY // 2) // DAY * DAY


def test_ten_absences_raise_the_risk_of_students_who_never_missed_a_lecture(demo):
    full = demo.sql("SELECT nim, feature_timestamp FROM student_features.attendance_features WHERE attendance_rate_7d = 1.0 ORDER BY nim "
                    "LIMIT 1000")
    students = [row["nim"] for row in full]
    assert len(students) == 1000
    count = 2 * 11
    # Present once and then absent ten times; forty days later, when no window knows of it any more, all of that again.
    pipeline = demo.folder / "pipelines" / "dropout_risk_realtime.toml"
    pipeline.write_text(pipeline.read_text().replace("[events]\n", '[events]\nmax_future = "40000 days"\n'))
    after = known_until(max(micros(row["feature_timestamp"]) for row in full)) + DAY
    times = [after + (step % 11) * 8 * HOUR + step // 11 * 40 * DAY for step in range(count)]
    # The second run begins while students are at high risk.
    for steps in (range(8), range(8, count)):
        with open(demo.folder / "events" / "student-events" / "attendance.ndjson", "a") as out:
            for step in steps:
                for student in students:
                    data = {"attendance_flag": 0 if step % 11 else 1, "room": "A1"}
                    event = {"nim": student, "event_type": "attendance", "timestamp": iso(times[step]),
                             "event_data": json.dumps(data) if step % 2 else data}
                    out.write(json.dumps(event) + "\n")
        report = demo.json("stream", "dropout_risk_realtime", "--until-end")[0]
        events = len(steps) * 1000
        assert (report["events"], report["rows"], report["dead"]) == (events, events, 0), report
    risks = {}
    for row in demo.table(RISK).scan().to_arrow().to_pylist():
        risks.setdefault(row["nim"], {})[row["source_offset"]] = row
    raised, became, high_at_restart = [0, 0], [], 0
    for student in students:
        rows = [risks[student][offset] for offset in sorted(risks[student])]
        assert [row["event_count_7d"] for row in rows] == 2 * list(range(1, 12))
        assert [row["attendance_rate_7d_realtime"] for row in rows] == pytest.approx(2 * [1 / n for n in range(1, 12)])
        probabilities = [row["dropout_probability"] for row in rows]
        raised = [so_far + (probabilities[first + 10] - probabilities[first] >= 0.05) for so_far, first in zip(raised, (0, 11))]
        # A student who becomes a high risk is an alert once, not at each event.
        high = [row["risk_category"] == "High" for row in rows]
        became += [(student, rows[n]["source_offset"]) for n in range(count) if high[n] and not (n and high[n - 1])]
        high_at_restart += high[7] and high[8]
    assert min(raised) >= 800, f"raised for {raised} of 1000"
    firsts = {min(risks[student]) for student in students}
    assert high_at_restart and any(offset not in firsts for _, offset in became), "nobody becomes a high risk by an absence"
    times_told = Counter(student for student, _ in became)
    assert 2 in times_told.values(), "nobody leaves the high risks and comes back"
    alerts = demo.table("ml_predictions.dropout_risk_alerts").scan().to_arrow().to_pylist()
    assert Counter((row["nim"], row["source_offset"]) for row in alerts) == Counter(became)


def test_an_absence_that_the_records_have_is_not_counted_again(demo):
    """What the model gets: absences of the records, and those since the midnight that is nearest to them."""
    pipeline = (demo.folder / "pipelines" / "dropout_risk_realtime.toml").read_text()
    inputs = ["absent_count", "attendance_rate", "known_absent_count", "known_attendance_rate"]
    columns = "".join(f'{column} = "{column}"\n' for column in inputs)
    changed = (pipeline.replace('table = "ml_predictions.dropout_risk_predictions_realtime"', 'table = "ml_predictions.inputs"')
               .replace('"ml_predictions.dropout_risk_alerts"', '"ml_predictions.inputs_alerts"')
               .replace("student_events_", "inputs_").replace('"events/student-events"', '"events/inputs"')
               .replace("[output.columns]\n", f"[output.columns]\n{columns}"))
    (demo.folder / "pipelines" / "inputs.toml").write_text(changed)
    students = demo.sql("SELECT nim, feature_timestamp FROM student_features.attendance_features ORDER BY nim LIMIT 300")
    (demo.folder / "events" / "inputs").mkdir()
    wanted, lines = {}, []
    for number, student in enumerate(students):
        known = known_until(micros(student["feature_timestamp"]))
        absent = {}
        for step, hours in enumerate((-20, -2, 3, 20, 26, 47)[: 1 + number % 6]):
            at = known + hours * HOUR
            absent[at] = step % 3 != 2
            data = json.dumps({"attendance_flag": 0 if absent[at] else 1})
            event = {"nim": student["nim"], "event_type": "attendance", "timestamp": iso(at), "event_data": data}
            lines.append((at, json.dumps(event)))
            since = [was for then, was in absent.items() if known <= then]
            wanted[student["nim"], at] = (sum(since), len(since))
    # None of them is late.
    (demo.folder / "events" / "inputs" / "a.ndjson").write_text("".join(f"{line}\n" for _, line in sorted(lines)))
    demo.json("stream", "inputs", "--until-end")
    rows = demo.table("ml_predictions.inputs").scan().to_arrow().to_pylist()
    assert len(rows) == len(lines)
    known = [row for row in rows if row["known_absent_count"] is not None and row["known_attendance_rate"] is not None]
    assert len(known) > 800
    for row in known:
        absences, lectures = wanted[row["nim"], micros(row["event_timestamp"])]
        assert row["absent_count"] == row["known_absent_count"] + absences, row
        rate = (18 * row["known_attendance_rate"] + lectures - absences) / (18 + lectures)
        assert row["attendance_rate"] == pytest.approx(rate, abs=1e-12), row
    assert {absences for absences, _ in wanted.values()} >= {0, 1, 2}


def test_every_payment_is_judged_by_the_statistics_of_its_unit(demo):
    statistics = {row["unit_kerja_sk"]: row for row in demo.sql(
        "SELECT unit_kerja_sk, avg_amount, stddev_amount FROM gold_keuangan.transaction_statistics")}
    units = sorted(statistics)
    lines, wanted = [], {}
    for index in range(2000):
        unit = "nobody" if index % 97 == 0 else units[index % len(units)]
        known = statistics.get(unit)
        amount = 1e6 if known is None else known["avg_amount"] + (index % 60 - 20) / 6 * (known["stddev_amount"] or 0)
        lines.append({"transaksi_id": f"live-{index}", "unit_kerja_sk": unit, "jumlah_transaksi": amount,
                      "timestamp": NOW // 1000 + index})
        z = abs(amount - known["avg_amount"]) / known["stddev_amount"] if known and known["stddev_amount"] else None
        score = None if z is None else 0 if z <= 3 else int(min(100.0, max(1.0, math.ceil(20 * (z - 3)))))
        wanted[f"financial:live-{index}"] = (z, score, None if z is None else z > 3)
    before = len(demo.predictions(PAYMENTS))
    path = demo.folder / "events" / "financial-transactions" / "payments.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = demo.call("stream", "transaction_anomaly_realtime", "--until-end", "--format", "json")
    assert answer.code == 0, answer
    rows = [row for row in demo.predictions(PAYMENTS) if row["pipeline"] == "transaction_anomaly_realtime"]
    assert len(demo.predictions(PAYMENTS)) == before + len(lines) == before + len(rows)
    for row in rows:
        z, score, anomalous = wanted[row["anomaly_id"]]
        assert (row["anomaly_score"], row["is_anomaly"]) == (score, anomalous), row
        assert (row["z_score"] is None) == (z is None) and (z is None or math.isclose(row["z_score"], z)), row
        assert (row["anomaly_reason"] == "no statistics") == (z is None)
    alerts = demo.table("ml_predictions.anomaly_alerts").scan().to_arrow().to_pylist()
    assert {row["anomaly_id"] for row in alerts} == {key for key, value in wanted.items() if value[2]}
    assert len(alerts) == answer.stderr.count("alert `unusual_payment` of `transaction_anomaly_realtime`") > 0
    # The batch pipeline of the same table goes on as before.
    assert demo.json("run", "transaction_anomaly")["status"] == "unchanged"
    assert demo.verify("transaction_anomaly")[0] == 0
