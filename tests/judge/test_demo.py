"""The demo, read by other people's readers."""

import datetime
import json
import re
import subprocess
from collections import Counter

import pytest

from conftest import missing
from lakehouse import Project, multiset, read_with_duckdb, read_with_pyiceberg, read_with_spark

TABLES = {
    "ml_predictions.dropout_risk_predictions": [
        ("nim", "string", True), ("nama_mahasiswa", "string", False), ("prodi_nama", "string", False),
        ("risk_score", "int", False), ("dropout_probability", "double", False), ("risk_category", "string", False),
        ("predicted_dropout", "int", False), ("feature_timestamp", "timestamptz", False),
        ("prediction_timestamp", "timestamptz", True), ("model_version", "string", False),
        ("inference_type", "string", False), ("prediction_date", "date", False)],
    "ml_predictions.budget_forecast_predictions": [
        ("unit_kerja_sk", "string", True), ("unit_kerja_nama", "string", False), ("forecasted_amount", "double", False),
        ("forecast_lower_bound", "double", False), ("forecast_upper_bound", "double", False),
        ("forecast_date", "date", False), ("forecast_horizon_months", "int", False), ("as_of_date", "timestamptz", False),
        ("prediction_timestamp", "timestamptz", True), ("model_version", "string", False),
        ("inference_type", "string", False), ("prediction_date", "date", False)],
    "ml_predictions.publication_forecast_predictions": [
        ("peneliti_sk", "string", True), ("peneliti_nama", "string", False), ("predicted_pub_count", "int", False),
        ("forecast_year", "int", False), ("confidence_interval_lower", "int", False),
        ("confidence_interval_upper", "int", False), ("as_of_date", "timestamptz", False),
        ("prediction_timestamp", "timestamptz", True), ("model_version", "string", False),
        ("inference_type", "string", False), ("prediction_date", "date", False)],
    "ml_predictions.anomaly_detections": [
        ("anomaly_id", "string", True), ("domain", "string", False), ("entity_id", "string", False),
        ("anomaly_score", "int", False), ("z_score", "double", False), ("is_anomaly", "boolean", False),
        ("anomaly_reason", "string", False), ("detection_timestamp", "timestamptz", True),
        ("model_version", "string", False), ("detection_date", "date", False)],
}
RECORD = {"pipeline": "string", "model_name": "string", "run_id": "string", "score_reason": "string",
          "feature_hash": "long", "definition_hash": "long", "variant": "string", "propensity": "double"}


NIGHTLY, LIVE = "ml_predictions.dropout_risk_predictions", "ml_predictions.dropout_risk_predictions_realtime"


@pytest.fixture(scope="module")
def demo(tmp_path_factory, binary):
    folder = tmp_path_factory.mktemp("demo") / "university"
    done = subprocess.run([str(binary), "demo", "--students", "3000", "--seed", "7", "--events-for", "5", "--dir", str(folder)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    project = Project(folder, binary)
    project.said = done.stdout
    return project


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_the_universitys_own(demo, name):
    fields = demo.table(name).schema().fields
    found = [(field.name, str(field.field_type), field.required) for field in fields]
    assert found[: len(TABLES[name])] == TABLES[name]
    rest = {name: kind for name, kind, _ in found[len(TABLES[name]):]}
    assert RECORD.items() <= rest.items()
    properties = demo.table(name).properties
    assert properties["write.parquet.compression-codec"] == "snappy"
    assert properties["write.metadata.compression-codec"] == "gzip"
    assert demo.table(name).metadata.format_version == 2


@pytest.mark.parametrize("name", [
    *TABLES, "ml_monitoring.inference_metrics", "student_features.attendance_features", LIVE, "ml_predictions.dropout_risk_alerts",
    "ml_monitoring.student_events_dead_letters"])
def test_pyiceberg_duckdb_and_insightera_see_the_same_rows(demo, name):
    theirs = read_with_pyiceberg(demo, name)
    columns = theirs.column_names
    assert theirs.num_rows > 0
    assert multiset(read_with_duckdb(demo, name), columns) == multiset(theirs, columns)
    ours = demo.sql(f"SELECT count(*) AS n FROM {name}")
    assert ours == [{"n": theirs.num_rows}]


def test_spark_sees_the_same_rows(demo, open_in_spark):
    try:
        spark = open_in_spark(demo)
    except Exception as error:
        missing("Spark", str(error))
    for name in TABLES:
        theirs = read_with_pyiceberg(demo, name)
        columns = [c for c in theirs.column_names if "timestamp" not in c and c != "as_of_date"]
        assert multiset(read_with_spark(spark, name), columns) == multiset(theirs, columns), name


def test_the_second_day_scores_the_changed_the_new_and_the_removed(demo):
    found = Counter(row["score_reason"] for row in demo.predictions("ml_predictions.dropout_risk_predictions"))
    active = found["first"]
    assert found["update"] == pytest.approx(active / 10, rel=0.05)
    assert found["insert"] == found["removed"] > 0
    code, verified = demo.verify("dropout_risk")
    assert code == 0 and verified["entities"] == active


def test_a_second_demo_leaves_the_first_as_it_is(demo):
    name = "ml_predictions.dropout_risk_predictions"
    before = demo.metadata_location(name)
    done = subprocess.run([demo.binary, "demo", "--students", "3000", "--seed", "7", "--events-for", "0", "--dir", str(demo.folder)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert demo.metadata_location(name) == before


def test_every_row_of_a_run_is_joinable_to_its_commit(demo):
    name = "ml_predictions.dropout_risk_predictions"
    runs = {row["run_id"] for row in demo.predictions(name)}
    commits = demo.commits(name)
    assert runs == {c.summary.additional_properties["insightera.run-id"] for c in commits}


def lines_of(demo, name):
    """The events of a file by their offsets, and the offsets of the damaged lines."""
    events, damaged, offset = {}, set(), 0
    for line in (demo.folder / "events" / name / "demo.ndjson").read_bytes().splitlines(keepends=True):
        try:
            events[offset] = json.loads(line)
        except ValueError:
            damaged.add(offset)
        offset += len(line)
    return events, damaged


def printed_below(said, heading):
    """The cells of the first table after a heading."""
    lines = said[re.search(heading, said).end():].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("---")) + 1
    end = lines.index("", start)
    return [re.split(r"\s{2,}", line.rstrip()) for line in lines[start:end]]


def differences(found, wanted):
    """How many are missing or too many, and one of each; not what is the same in thousands of rows."""
    lost, more = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
    return [(what, sum(some.values()), next(iter(some))) for what, some in (("missing", lost), ("too many", more)) if some]


def counts_of(said, stream):
    """What the demo says of a stream: events, predictions, dead letters, alerts."""
    line = re.search(rf"^{stream}: .*$", said, re.MULTILINE)[0]
    return [int(re.search(rf"([\d,]+) {what}", line)[1].replace(",", ""))
            for what in ("events", "predictions", "dead letters", "alerts")]


def test_every_event_of_the_demo_has_its_prediction(demo):
    events, damaged = lines_of(demo, "student-events")
    assert len(events) > 4000 and damaged
    rows = sorted(demo.predictions(LIVE), key=lambda row: row["source_offset"])
    moment = datetime.datetime.fromisoformat
    assert not differences([(row["source_offset"], row["nim"], row["event_timestamp"]) for row in rows],
                           [(offset, event["nim"], moment(event["timestamp"])) for offset, event in events.items()])
    dead = demo.predictions("ml_monitoring.student_events_dead_letters")
    assert sorted(row["source_offset"] for row in dead) == sorted(damaged)
    seen, high, became = Counter(), {}, []
    for row in rows:
        seen[row["nim"]] += 1
        assert row["event_count_7d"] == seen[row["nim"]], row
        if row["risk_category"] == "High" and not high.get(row["nim"]):
            became.append((row["nim"], row["source_offset"]))
        high[row["nim"]] = row["risk_category"] == "High"
    alerts = demo.predictions("ml_predictions.dropout_risk_alerts")
    assert became and not differences([(row["nim"], row["source_offset"]) for row in alerts], became)
    assert counts_of(demo.said, "dropout_risk_realtime") == [len(events) + len(damaged), len(rows), len(dead), len(alerts)]


def test_every_payment_of_the_demo_is_judged(demo):
    events, damaged = lines_of(demo, "financial-transactions")
    assert len(events) > 800
    pipeline = "transaction_anomaly_realtime"
    rows = [row for row in demo.predictions("ml_predictions.anomaly_detections") if row["pipeline"] == pipeline]
    assert not differences([row["anomaly_id"] for row in rows],
                           [f"financial:{event['transaksi_id']}" for event in events.values()])
    alerts = demo.predictions("ml_predictions.anomaly_alerts")
    assert {row["anomaly_id"] for row in alerts} == {row["anomaly_id"] for row in rows if row["is_anomaly"]}
    assert counts_of(demo.said, pipeline) == [len(events) + len(damaged), len(rows), len(damaged), len(alerts)]
    highest = sorted(alerts, key=lambda row: -row["z_score"])[:3]
    printed = printed_below(demo.said, "seconds of events: insightera stream")
    assert [(unit, float(z), reason) for unit, z, reason in printed] == \
        [(row["entity_id"], round(row["z_score"], 1), row["anomaly_reason"]) for row in highest]
    assert len(printed) == 3


def test_what_the_demo_prints_of_the_absent_student_is_the_join_of_live_and_nightly_predictions(demo):
    import duckdb

    heading = r"Student (\d+) misses (\d+) lectures"
    student, absences = re.search(heading, demo.said).groups()
    live, nightly = read_with_pyiceberg(demo, LIVE), read_with_pyiceberg(demo, NIGHTLY)  # noqa: F841  DuckDB finds them by name
    joined = duckdb.sql(f"""
        SELECT live.event_timestamp, live.event_count_7d, live.attendance_rate_7d_realtime,
            night.probability, live.dropout_probability, live.risk_category
        FROM live JOIN (SELECT nim, arg_max(dropout_probability, prediction_timestamp) AS probability FROM nightly GROUP BY nim)
            AS night ON night.nim = live.nim
        WHERE live.nim = '{student}' ORDER BY live.event_timestamp""").fetchall()
    assert [count for _, count, *_ in joined] == list(range(1, int(absences) + 1)) and absences == "10"
    printed = [(datetime.datetime.fromisoformat(time), int(count), float(rate), float(night), float(now), category)
               for time, count, rate, night, now, category in printed_below(demo.said, heading)]
    assert printed == [(time, count, rate, round(night, 3), round(now, 3), category)
                       for time, count, rate, night, now, category in joined if count in (1, 4, 7, 10)]
    night, first, last = joined[0][3], joined[0][4], joined[-1][4]
    assert night < first < last and last - night >= 0.1, "ten absences do not raise the risk"
