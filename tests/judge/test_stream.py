"""A stream of events from a file, killed again and again, against a fold in Python and the model's own library; read by PyIceberg."""

import atexit
import datetime
import json
import os
import random
import signal
import subprocess
import time

import pytest

from lakehouse import FEATURES, rows

DAY = 86_400_000_000
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
NOW = 1_767_225_600_000_000

PIPELINE = """
kind = "stream"
[source]
%s
[events]
time = "at"
filter = "kind <> 'noise'"
[events.fields]
nim = "string"
kind = "string"
value = { type = "double", path = "data.value" }
at = { type = "timestamp", format = "microseconds" }
[entity]
key = ["nim"]
[windows.week]
rolling = { tile = "1 day", tiles = 7 }
[windows.week.columns]
seen = "count(*)"
x = "avg(value)"
[join]
key = ["nim"]
sql = "SELECT nim, y FROM features.student"
[model]
name = "risk_model"
[output]
table = "predictions.live"
[output.columns]
nim = "nim"
probability = "probability"
seen = "seen"
x = "x"
y = "y"
event_timestamp = "event_timestamp"
source_partition = "source_partition"
source_offset = "source_offset"
[stream]
freshness = "200 ms"
max_rows = 300
dead_letters = "predictions.dead"
late_events = "predictions.late"
"""


def write_pipeline(project, source):
    (project.folder / "pipelines" / "live.toml").write_text(PIPELINE % source)


def events(seed, count, students=40, start=0):
    """Lines of one file or partition, which has students of its own; a few are noise, late or broken."""
    numbers = random.Random(seed)
    made = []
    for index in range(start + count):
        dice = numbers.random()
        student = f"{seed * students + numbers.randrange(students):06d}"
        at = NOW - 20 * DAY + index * DAY // 60 - numbers.randrange(DAY // 4) - (4 * DAY if dice < 0.02 else 0)
        kind = "noise" if 0.02 <= dice < 0.1 else "attendance"
        value = None if 0.1 <= dice < 0.2 else numbers.uniform(-3, 3)
        data = json.dumps({"value": value})
        line = json.dumps({"nim": student, "kind": kind, "at": at, "data": data if dice > 0.5 else json.loads(data)})
        if 0.2 <= dice < 0.22:
            line = line[:-1]
        if index >= start:
            made.append(line)
    return made


def added(values):
    """One after the other, each rounded: `sum` makes up for its rounding since Python 3.12."""
    total = 0.0
    for value in values:
        total += value
    return total


class Fold:
    """What the tables must hold of one partition, by the definition of the windows alone."""

    def __init__(self):
        self.seen, self.newest = {}, None
        self.predictions, self.late, self.dead = {}, set(), set()

    def take(self, place, line):
        try:
            event = json.loads(line)
        except ValueError:
            self.dead.add(place)
            return
        if event["kind"] == "noise":
            return
        at, student = event["at"], event["nim"]
        if self.newest is not None and at < self.newest - DAY:
            self.late.add(place)
            return
        self.newest = at if self.newest is None else max(self.newest, at)
        data = event["data"]
        value = (json.loads(data) if isinstance(data, str) else data)["value"]
        days = self.seen.setdefault(student, {})
        days.setdefault(at // DAY, []).append(value)
        # As the windows define it: a sum per day in the order of arrival, then the days from old to new.
        window = [days.get(day, []) for day in range(at // DAY - 6, at // DAY + 1)]
        known = [[value for value in day if value is not None] for day in window]
        count = sum(len(day) for day in known)
        mean = added(added(day) for day in known) / count if count else None
        self.predictions[place] = (student, sum(len(day) for day in window), mean)


def check(project, folds, small_model, namespace="predictions"):
    """Every event once, in the right table, with the values of the fold to the bit and the probability of XGBoost."""
    import numpy as np
    import xgboost

    def places(table):
        found = project.table(table).scan(selected_fields=("source_partition", "source_offset")).to_arrow()
        listed = list(zip(found["source_partition"].to_pylist(), found["source_offset"].to_pylist()))
        assert len(listed) == len(set(listed)), f"{table} has rows twice"
        return set(listed)

    found = project.table(f"{namespace}.live").scan().to_arrow().to_pylist()
    wanted = {place: row for fold in folds for place, row in fold.predictions.items()}
    by_place = {(row["source_partition"], row["source_offset"]): row for row in found}
    assert len(by_place) == len(found), f"{len(found) - len(by_place)} events are predicted twice"
    assert by_place.keys() == wanted.keys()
    for place, (student, seen, mean) in wanted.items():
        row = by_place[place]
        assert (row["nim"], row["seen"], row["x"]) == (student, seen, mean), place
    assert places(f"{namespace}.late") == {place for fold in folds for place in fold.late}
    assert places(f"{namespace}.dead") == {place for fold in folds for place in fold.dead}
    booster = xgboost.Booster(model_file=str(small_model))
    values = np.array([[row["x"], row["y"]] for row in found], dtype=float).astype(np.float32)
    expected = booster.predict(xgboost.DMatrix(values, feature_names=["x", "y"]))
    assert np.max(np.abs(expected - np.array([row["probability"] for row in found]))) < 1e-6
    assert {row["score_reason"] for row in found} == {"event"} and {row["inference_type"] for row in found} == {"stream"}


def running(project, *names):
    """A process that reads on until it is ended; what it says is in a file."""
    log = open(project.folder / f"process-{time.monotonic()}.log", "w+")
    process = subprocess.Popen([project.binary, "--project", str(project.folder), "stream", *names],
                               stdout=subprocess.DEVNULL, stderr=log, text=True)
    process.log = log
    # One that a failed test has left behind reads on for ever.
    atexit.register(process.kill)
    return process


def said(process):
    process.log.seek(0)
    return process.log.read()


def kill(process):
    """Kills a process that works: one that has ended of itself never came to it."""
    assert process.poll() is None, said(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def stop(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, f"a graceful stop is no failure: {said(process)}"


def summaries(project, table="predictions.live"):
    """Those of all commits of a table, which may not be there yet."""
    commits = project.commits(table) if project.metadata_location(table) else []
    return [commit.summary.additional_properties for commit in commits]


def runs_with_rows(project, table="predictions.live"):
    """The runs whose commits added rows to a table."""
    return {one["insightera.run-id"] for one in summaries(project, table) if int(one.get("added-records", 0)) > 0}


def one_more_with_rows(project, table="predictions.live"):
    """A condition: a run has rows in the table that has none by now."""
    before = runs_with_rows(project, table)
    return lambda: runs_with_rows(project, table) != before


def feed_and_end(project, names, feed, seconds, until=None, end=kill):
    """A process that is fed for some seconds, and until a condition holds, if there is one; then it is killed."""
    process = running(project, *names)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or (until and not until()):
        assert process.poll() is None, said(process)
        assert time.monotonic() < deadline + 60, f"it does not come to what is waited for: {said(process)}"
        feed()
    end(process)


class Files:
    """Events that are appended to files, a few at a time."""

    def __init__(self, project, count, files):
        self.project, self.count, self.written = project, count, [0] * files

    def __call__(self):
        for file, start in enumerate(self.written):
            append(self.project, file, events(file, self.count, start=start))
            self.written[file] += self.count
        time.sleep(0.03)


@pytest.fixture
def live(project):
    (project.folder / "events").mkdir()
    write_pipeline(project, 'files = "events"')
    return project


def append(project, file, lines):
    with open(project.folder / "events" / f"{file}.ndjson", "a") as out:
        out.writelines(f"{line}\n" for line in lines)


def fold_files(project):
    folds = []
    for number, path in enumerate(sorted((project.folder / "events").iterdir())):
        fold, offset = Fold(), 0
        for line in path.read_bytes().splitlines(keepends=True):
            fold.take((number, offset), line)
            offset += len(line)
        folds.append(fold)
    return folds


def test_check_knows_streams_and_a_run_refuses_them(live):
    checked = live.json("check", "live")[0]
    assert (checked["status"], checked["table"], checked["strategy"]) == ("ok", "predictions.live", "each_event")
    assert checked["inputs"] == [FEATURES]
    answer = live.call("run", "live")
    assert answer.code == 1 and "insightera stream live" in answer.stderr, answer
    for old, new, says in [
        ('seen = "count(*)"', 'seen = "count(DISTINCT nim)"', "approx_distinct"),
        ('value = { type = "double"', 'value = { type = "float"', "the types are"),
        ('tiles = 7', 'tils = 7', "did you mean"),
        ('time = "at"', 'time = "kind"', "is no timestamp"),
        ('sql = "SELECT nim, y', 'sql = "SELECT y', "add `nim` to the SELECT list"),
        ('x = "avg(value)"', 'z = "avg(value)"', "[output.columns] x"),
        ('freshness = "200 ms"', 'freshness = "soon"', "a number and a unit"),
        ("kind <> 'noise'", "kinds <> 'noise'", "kinds"),
    ]:
        text = PIPELINE % 'files = "events"'
        assert old in text
        (live.folder / "pipelines" / "live.toml").write_text(text.replace(old, new))
        answer = live.call("check", "live")
        assert answer.code == 1 and says in answer.stderr and "live.toml" in answer.stderr, (old, answer)


def test_a_stream_is_a_fold_of_its_files_scored_by_the_model(live, small_model):
    for file in range(3):
        append(live, file, events(file, 400))
    report = live.json("stream", "live", "--until-end")[0]
    assert report["end"] == "end_of_events" and report["events"] == 1200, report
    check(live, fold_files(live), small_model)
    metrics = live.sql("SELECT stage, batch_size, latency_ms, throughput, snapshot_id, inference_type, strategy "
                       "FROM ml_monitoring.inference_metrics WHERE pipeline = 'live'")
    by_stage = {row["stage"]: row for row in metrics}
    kinds = ["arrival_to_prediction", "arrival_to_queryable"]
    assert set(by_stage) == {"total", "commit", *(f"{kind}_{p}" for kind in kinds for p in ("p50", "p95", "p99", "histogram"))}
    assert sum(row["batch_size"] for row in metrics if row["stage"] == "total") == report["rows"]
    assert {(row["inference_type"], row["strategy"]) for row in metrics} == {("stream", "each_event")}
    for kind in kinds:
        assert 0 <= by_stage[f"{kind}_p50"]["latency_ms"] <= by_stage[f"{kind}_p99"]["latency_ms"] < 60_000
    assert by_stage["arrival_to_prediction_p50"]["latency_ms"] <= by_stage["arrival_to_queryable_p50"]["latency_ms"]
    assert by_stage["total"]["snapshot_id"] == report["snapshot_id"] and by_stage["total"]["throughput"] > 0
    status = live.json("stream", "status")[0]
    assert [p["position"] == p["end"] for p in status["partitions"]] == [True] * 3, status
    assert status["live"]["ended"] and status["live"]["rows"] == report["rows"]
    append(live, 2, events(2, 10, start=400))
    append(live, 3, events(3, 10))
    grown = sum(len(f"{line}\n") for file, start in ((2, 400), (3, 0)) for line in events(file, 10, start=start))
    behind = live.json("stream", "status")[0]
    assert (behind["lag"], behind["lag_unit"], behind["source_error"]) == (grown, "bytes", None), behind
    assert [p["lag"] > 0 for p in behind["partitions"]] == [False, False, True, True], behind
    assert behind["partitions"][3]["name"] == "3.ndjson" and behind["partitions"][3]["position"] == 0, behind


def test_sums_and_averages_of_any_doubles_are_those_of_the_fold_to_the_bit(live):
    path = live.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace('x = "avg(value)"', 'x = "avg(value)"\ntotal = "sum(value)"')
                    .replace('x = "x"', 'x = "x"\ntotal = "total"'))
    numbers, days, wanted = random.Random(3), {}, []
    for number in range(900):
        value = numbers.choice([numbers.uniform(-1, 1) * 10.0 ** numbers.randint(-20, 20), 0.1, -0.0, 5e-324])
        student, day = f"{number % 3:06d}", number // 90
        at = NOW - 20 * DAY + day * DAY + number
        append(live, 0, [json.dumps({"nim": student, "kind": "a", "at": at, "data": {"value": value}})])
        days.setdefault((student, day), []).append(value)
        window = [days.get((student, one), []) for one in range(day - 6, day + 1)]
        total = added(added(one) for one in window)
        wanted.append((total.hex(), (total / sum(map(len, window))).hex()))
    live.json("stream", "live", "--until-end")
    rows_ = sorted(live.predictions("predictions.live"), key=lambda row: row["source_offset"])
    assert [(row["total"].hex(), row["x"].hex()) for row in rows_] == wanted


def test_kill_9_at_any_time_loses_and_repeats_nothing(live, small_model):
    numbers, feed = random.Random(11), Files(live, 30, 2)
    for round_ in range(12):
        # Half of them are killed wherever they are by then, the others after they have committed.
        end = stop if round_ % 4 == 3 else kill
        committed = one_more_with_rows(live) if round_ % 3 == 0 or end is stop else None
        feed_and_end(live, ["live"], feed, numbers.uniform(0.3, 1.2), committed, end)
    assert len(runs_with_rows(live)) >= 6, "else the last run has done it all"
    live.json("stream", "live", "--until-end")
    check(live, fold_files(live), small_model)


def test_an_alert_on_change_is_told_once_whatever_is_killed(live):
    path = live.folder / "pipelines" / "live.toml"
    text = path.read_text().replace("[stream]", """[alerts.rare]
when = "seen % 4 >= 2"
on_change = true
table = "predictions.rare"
[alerts.each]
when = "seen % 4 >= 2"
table = "predictions.each"
[stream]""")
    without_windows = text[:text.index("[windows.week]")] + text[text.index("[join]"):]
    for old, new in [('seen = "seen"\n', ''), ('x = "x"\n', 'v = "value"\n'), ("seen % 4 >= 2", "v > 0"),
                     ('[model]\nname = "risk_model"\n', ''), ('probability = "probability"\n', ''),
                     ('late_events = "predictions.late"\n', ''), ("predictions.", "plain.")]:
        assert old in without_windows
        without_windows = without_windows.replace(old, new)
    path.write_text(text)
    (live.folder / "pipelines" / "plain.toml").write_text(without_windows)
    numbers, feed = random.Random(5), Files(live, 30, 1)
    tables = ["predictions.live", "plain.live", "predictions.rare", "plain.rare"]
    for round_ in range(8):
        committed = one_more_with_rows(live, tables[round_]) if round_ < 4 else None
        feed_and_end(live, ["live", "plain"], feed, numbers.uniform(0.3, 1.0), committed)
    assert all(runs_with_rows(live, table) for table in tables)
    assert len(runs_with_rows(live)) >= 2, "else no alert is of a key that another run has seen"
    live.json("stream", "live", "plain", "--until-end")
    for name, holds in [("predictions", lambda row: row["seen"] % 4 >= 2),
                        ("plain", lambda row: row["v"] is not None and row["v"] > 0)]:
        began, each, before = [], [], {}
        for row in sorted(live.table(f"{name}.live").scan().to_arrow().to_pylist(), key=lambda r: r["source_offset"]):
            if holds(row):
                each.append(row["source_offset"])
                if not before.get(row["nim"]):
                    began.append(row["source_offset"])
            before[row["nim"]] = holds(row)
        for table, wanted in [("rare", began), ("each", each)]:
            rows_ = live.table(f"{name}.{table}").scan().to_arrow()
            assert sorted(rows_["source_offset"].to_pylist()) == wanted, (name, table)
        assert 10 < len(began) < len(each)


def test_old_metadata_files_of_a_stream_go_away(live):
    for number in range(13):
        append(live, 0, [json.dumps({"nim": "000001", "kind": "a", "at": NOW + number, "data": {"value": 1}})])
        live.json("stream", "live", "--until-end")
    table = live.table("predictions.live")
    assert len(table.metadata.snapshots) == 26 and table.scan().to_arrow().num_rows == 13
    there = {path.name for path in (live.folder / "warehouse/predictions/live/metadata").glob("*.metadata.json*")}
    kept = {entry.metadata_file.rsplit("/", 1)[1] for entry in table.metadata.metadata_log}
    assert len(kept) == 20 and there == kept | {table.metadata_location.rsplit("/", 1)[1]}


def test_an_event_from_the_future_stays_set_aside_when_it_is_read_again(live):
    path = live.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace('time = "at"', 'time = "at"\nmax_future = "2 seconds"'))
    soon = int(time.time() * 1e6) + 4_000_000
    event = {"nim": "000001", "kind": "a", "data": {"value": 1}}
    append(live, 0, [json.dumps({**event, "at": soon}), json.dumps({**event, "at": soon - 4_000_000})])
    report = live.json("stream", "live", "--until-end")[0]
    assert (report["dead"], report["rows"]) == (1, 1), report
    # By now it is no future any more; its windows are built again from the file.
    for state in (live.folder / "warehouse" / "_streams" / "live").iterdir():
        state.unlink()
    time.sleep(max(0, soon / 1e6 - time.time()))
    append(live, 0, [json.dumps({**event, "at": soon})])
    live.json("stream", "live", "--until-end")
    rows_ = live.table("predictions.live").scan().to_arrow().to_pylist()
    assert sorted(row["seen"] for row in rows_) == [1, 2]


def test_a_second_process_takes_over_and_the_first_ends(live, small_model):
    append(live, 0, events(0, 200))
    first = subprocess.Popen([live.binary, "--project", str(live.folder), "stream", "live"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (live.metadata_location("predictions.live") and live.predictions("predictions.live")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.1)
    live.json("stream", "live", "--until-end")
    append(live, 0, events(0, 200, start=200))
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1 and "has taken over the partitions 0" in said, said
    live.json("stream", "live", "--until-end")
    check(live, fold_files(live), small_model)


def test_a_promoted_model_scores_from_a_commit_on(live, small_model, tmp_path):
    import xgboost

    append(live, 0, events(0, 100))
    live.json("stream", "live", "--until-end")
    booster = xgboost.Booster(model_file=str(small_model))
    other = tmp_path / "other.json"
    booster[:10].save_model(other)
    live.register(other)
    append(live, 0, events(0, 100, start=100))
    live.json("stream", "live", "--until-end")
    versions = {}
    for commit in live.commits("predictions.live"):
        if "insightera.model-version" in commit.summary.additional_properties:
            versions[commit.snapshot_id] = commit.summary.additional_properties["insightera.model-version"]
    assert sorted(set(versions.values())) == ["1", "2"]
    assert {row["model_version"] for row in live.predictions("predictions.live")} == {"1", "2"}


def test_newer_features_are_joined_while_the_stream_runs(live):
    write_pipeline(live, 'files = "events"')
    path = live.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace("[join]\n", '[join]\nrefresh = "200 ms"\n'))
    line = json.dumps({"nim": "000001", "kind": "a", "at": NOW, "data": {"value": 1}})
    append(live, 0, [line])
    process = subprocess.Popen([live.binary, "--project", str(live.folder), "stream", "live"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        live.table(FEATURES).overwrite(rows(range(200), y=lambda n: 42.0))
        deadline = time.monotonic() + 30
        while True:
            append(live, 0, [line])
            time.sleep(0.5)
            if live.metadata_location("predictions.live") and \
                    42.0 in {row["y"] for row in live.predictions("predictions.live")}:
                break
            assert time.monotonic() < deadline and process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
