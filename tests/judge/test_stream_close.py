"""Rows of closed windows (`emit = "on_close"`): against a fold in Python, Spark Structured Streaming, and kill -9."""

import datetime
import json
import random
import subprocess
import time

import pytest

from test_stream import DAY, EPOCH, NOW, Files, added, append, events, feed_and_end, one_more_with_rows, runs_with_rows

WEEK = 7 * DAY

PIPELINE = """
kind = "stream"
[source]
files = "events"
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
hopping = { size = "7 days", slide = "1 day" }
[windows.week.columns]
seen = "count(*)"
x = "avg(value)"
[join]
key = ["nim"]
sql = "SELECT nim, y FROM features.student"
[model]
name = "risk_model"
[output]
table = "predictions.weekly"
[output.columns]
nim = "nim"
window_start = "window_start"
window_end = "window_end"
probability = "probability"
seen = "seen"
x = "x"
y = "y"
[alerts.low]
when = "x < -1"
table = "predictions.low"
[stream]
emit = "on_close"
freshness = "200 ms"
dead_letters = "predictions.dead"
late_events = "predictions.late"
"""


@pytest.fixture
def weekly(project):
    (project.folder / "events").mkdir()
    (project.folder / "pipelines" / "weekly.toml").write_text(PIPELINE)
    return project


def read(line):
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if event["kind"] == "noise":
        return None
    data = event["data"]
    return event["nim"], event["at"], (json.loads(data) if isinstance(data, str) else data)["value"]


def fold(project):
    """(window start, student) -> (events, mean) of the windows that are closed, and how many events were too late.

    A window has one sum, in the order of arrival.

    At the end of all files nothing is waited for: the file that is furthest decides.
    """
    windows, late, marks = {}, 0, []
    for path in sorted((project.folder / "events").iterdir()):
        newest = None
        for line in path.read_text().splitlines():
            event = read(line)
            if event is None:
                continue
            student, at, value = event
            starts = range((at // DAY - 6) * DAY, at + 1, DAY)
            open_ = [start for start in starts if newest is None or start + WEEK > newest - DAY]
            for start in open_:
                windows.setdefault((start, student), []).append(value)
            late += not open_
            newest = max(at, newest or at)
        marks.append(newest - DAY)
    closed = {}
    for (start, student), values in windows.items():
        if start + WEEK <= max(marks):
            known = [value for value in values if value is not None]
            closed[start, student] = (len(values), added(known) / len(known) if known else None)
    return closed, late


def micros(time_):
    return (time_ - EPOCH) // datetime.timedelta(microseconds=1)


def found(project, table="predictions.weekly"):
    listed = project.table(table).scan().to_arrow().to_pylist()
    by_place = {(micros(row["window_start"]), row["nim"]): row for row in listed}
    assert len(by_place) == len(listed), f"{len(listed) - len(by_place)} rows of {table} are there twice"
    return by_place


def check(project, small_model):
    import numpy as np
    import xgboost

    wanted, late = fold(project)
    rows = found(project)
    assert rows.keys() == wanted.keys() and len(wanted) > 100
    for place, (seen, mean) in wanted.items():
        row = rows[place]
        assert (row["seen"], row["x"], micros(row["window_end"])) == (seen, mean, place[0] + WEEK), place
    assert project.table("predictions.late").scan().to_arrow().num_rows == late
    low = {place for place, row in rows.items() if row["x"] is not None and row["x"] < -1}
    assert found(project, "predictions.low").keys() == low and low
    booster = xgboost.Booster(model_file=str(small_model))
    listed = list(rows.values())
    values = np.array([[row["x"], row["y"]] for row in listed], dtype=float).astype(np.float32)
    expected = booster.predict(xgboost.DMatrix(values, feature_names=["x", "y"]))
    assert np.max(np.abs(expected - np.array([row["probability"] for row in listed]))) < 1e-6
    assert {row["score_reason"] for row in listed} == {"window"}


def test_check_says_what_the_mode_needs(weekly):
    checked = weekly.json("check", "weekly")[0]
    assert (checked["status"], checked["strategy"]) == ("ok", "on_close")
    for old, new, says in [
        ('key = ["nim"]\n[windows', 'key = ["nim", "kind"]\n[windows', "is about a key of the window"),
        ('time = "at"', 'time = "at"\nlate_grace = "1 day"', "late_grace"),
        ('[windows.week]', '[windows.day]\ntumbling = { size = "1 day" }\ncolumns = { n = "count(*)" }\n[windows.week]',
         "needs one window"),
        ('window_end = "window_end"', 'window_end = "event_timestamp"', "event_timestamp"),
        ('emit = "on_close"', 'emit = "each_event"\nidle_after = "5 s"', "idle_after"),
    ]:
        assert old in PIPELINE
        text = PIPELINE.replace(old, new)
        if "is about" in says:
            text = text.replace('slide = "1 day" }', 'slide = "1 day" }\nkey = ["nim"]')
        (weekly.folder / "pipelines" / "weekly.toml").write_text(text)
        answer = weekly.call("check", "weekly")
        assert answer.code == 1 and says in answer.stderr and "weekly.toml" in answer.stderr, (old, answer)
    (weekly.folder / "pipelines" / "weekly.toml").write_text(PIPELINE)
    answer = weekly.call("stream", "weekly", "--partitions", "0")
    assert answer.code == 1 and "one process" in answer.stderr, answer


def test_closed_windows_are_a_fold_of_the_events(weekly, small_model):
    for file in range(2):
        append(weekly, file, events(file, 1500))
    report = weekly.json("stream", "weekly", "--until-end")[0]
    assert report["events"] == 3000, report
    check(weekly, small_model)
    again = weekly.json("stream", "weekly", "--until-end")[0]
    assert (again["events"], again["rows"]) == (0, 0)
    check(weekly, small_model)
    partitions = weekly.json("stream", "status", "weekly")[0]["partitions"]
    assert [p["partition"] for p in partitions] == [0, 1]


def test_kill_9_loses_and_repeats_no_window(weekly, small_model):
    numbers, feed = random.Random(12), Files(weekly, 40, 2)
    for round_ in range(8):
        committed = one_more_with_rows(weekly, "predictions.weekly") if round_ % 2 == 0 else None
        feed_and_end(weekly, ["weekly"], feed, numbers.uniform(0.3, 1.2), committed)
    assert len(runs_with_rows(weekly, "predictions.weekly")) >= 4, "else the last run has done it all"
    weekly.json("stream", "weekly", "--until-end")
    check(weekly, small_model)


def event(student, at):
    return json.dumps({"nim": student, "kind": "a", "at": at, "data": {"value": 1}})


def test_a_window_that_closed_without_an_idle_partition_stays_closed_after_a_restart(weekly):
    path = weekly.folder / "pipelines" / "weekly.toml"
    path.write_text(PIPELINE.replace('emit = "on_close"', 'emit = "on_close"\nidle_after = "1 second"'))
    append(weekly, 0, [event("000001", NOW)])
    append(weekly, 1, [event("000002", NOW)])
    process = subprocess.Popen([weekly.binary, "--project", str(weekly.folder), "stream", "weekly"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    append(weekly, 0, [event("000001", NOW + 20 * DAY)])
    deadline = time.monotonic() + 30
    while not (weekly.metadata_location("predictions.weekly") and len(found(weekly)) == 14):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.kill()
    process.wait()
    before = found(weekly)
    assert {student for _, student in before} == {"000001", "000002"}
    # Not late for its own file, but its windows have their rows.
    append(weekly, 1, [event("000002", NOW + DAY // 2)])
    weekly.json("stream", "weekly", "--until-end")
    assert found(weekly) == before
    late = weekly.table("predictions.late").scan().to_arrow().to_pylist()
    assert [json.loads(row["payload"])["at"] for row in late] == [NOW + DAY // 2]


def test_windows_are_built_again_when_their_state_is_lost(weekly, small_model):
    append(weekly, 0, events(0, 1000))
    weekly.json("stream", "weekly", "--until-end")
    for state in (weekly.folder / "warehouse" / "_streams" / "weekly").iterdir():
        state.unlink()
    append(weekly, 0, events(0, 1000, start=1000))
    weekly.json("stream", "weekly", "--until-end")
    check(weekly, small_model)


def test_spark_structured_streaming_gives_the_same_rows(weekly, spark_driver, tmp_path):
    from pyspark.sql import functions as F

    # In Spark what is too late depends on how batches are cut: here nothing is.
    kept, newest = [], 0
    for line in events(3, 2000):
        event = read(line)
        if event is not None and event[1] >= newest - DAY:
            newest = max(newest, event[1])
            kept.append(line)
    append(weekly, 0, kept)
    weekly.json("stream", "weekly", "--until-end")

    spark = spark_driver.newSession()
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    spark.conf.set("spark.sql.streaming.checkpointLocation", str(tmp_path / "checkpoints"))
    text = spark.readStream.text(str(weekly.folder / "events"))
    parsed = text.select(F.from_json("value", "nim string, kind string, at long, data string").alias("e")).select("e.*")
    stream = parsed.select(
        "nim", F.timestamp_micros("at").alias("time"),
        F.get_json_object("data", "$.value").cast("double").alias("value"))
    weeks = (stream.withWatermark("time", "1 day").groupBy(F.window("time", "7 days", "1 day"), "nim")
             .agg(F.count("*").alias("seen"), F.avg("value").alias("x")))
    query = weeks.writeStream.format("memory").queryName("weeks").outputMode("append").trigger(availableNow=True).start()
    query.awaitTermination(200)
    assert query.exception() is None
    theirs = {
        (start, nim): (seen, x) for start, nim, seen, x in
        spark.sql("SELECT unix_micros(window.start), nim, seen, x FROM weeks").collect()
    }
    ours = found(weekly)
    assert len(theirs) > 200 and ours.keys() == theirs.keys()
    for place, (seen, x) in theirs.items():
        row = ours[place]
        assert row["seen"] == seen and (row["x"] is None) == (x is None), place
        assert x is None or abs(row["x"] - x) < 1e-9, place
