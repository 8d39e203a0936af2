"""Events that are not what they were: a stream over files says so, once, and its rows are what they are without it."""

import json

import pytest

PIPELINE = """
kind = "stream"
[source]
files = "events"
[events]
time = "at"
max_future = "40000 days"
[events.fields]
nim = "string"
kind = "string"
flag = { type = "double", path = "event_data.attendance_flag" }
points = { type = "double", path = "event_data.points" }
at = { type = "timestamp", format = "seconds" }
[entity]
key = ["nim"]
[output]
table = "predictions.live"
[output.columns]
nim = "nim"
flag = "flag"
points = "points"
source_offset = "source_offset"
[stream]
freshness = "200 ms"
dead_letters = "predictions.dead"
"""

START = 1_767_225_600


@pytest.fixture
def live(empty_project):
    (empty_project.folder / "events").mkdir()
    (empty_project.folder / "pipelines" / "live.toml").write_text(PIPELINE)
    return empty_project


def event(index):
    """Attendance and grades in turn; `campus`, `room` and `teacher` are not declared, and never were."""
    data = {"attendance_flag": index % 3, "room": "A1"} if index % 2 else {"points": index % 100, "teacher": {"id": 7}}
    if index % 4 == 1:
        data = json.dumps(data)
    kind = "attendance" if index % 2 else "grade"
    return {"nim": f"{index % 40:04d}", "kind": kind, "campus": "north", "event_data": data, "at": START + index}


def renamed(old, new):
    def change(event):
        text = json.dumps(event)
        assert new not in text
        return json.loads(text.replace(old, new))
    return change


def stream(project, events):
    """The events through a stream: what it warned of, its rows by offset, and where each event stands."""
    offsets, lines, at = [], [], 0
    for event in events:
        line = f"{json.dumps(event)}\n"
        offsets.append(at)
        lines.append(line)
        at += len(line.encode())
    (project.folder / "events" / "a.ndjson").write_text("".join(lines))
    answer = project.call("stream", "live", "--until-end", "--format", "json")
    assert answer.code == 0, answer
    told = [line for line in answer.stderr.splitlines() if "warning" in line and "became dead letters" not in line]
    rows = project.table("predictions.live").scan().to_arrow().to_pylist()
    return told, {row["source_offset"]: row for row in rows}, offsets


def drift(project):
    status = project.json("stream", "status")[0]
    text = project.call("stream", "status").stdout
    found = status["live"]["drift"]
    assert text.count("  drift: ") == len(found) <= 20, text
    assert all(f"  drift: {news['says']}" in text for news in found), text
    return found


def value(event, name):
    data = event["event_data"]
    data = json.loads(data) if isinstance(data, str) else data
    found = data.get(name) if isinstance(data, dict) else None
    return None if found is None else float(found)


def check_rows(rows, offsets, events):
    assert rows.keys() == set(offsets)
    for offset, event in zip(offsets, events):
        row = rows[offset]
        wanted = (event["nim"], value(event, "attendance_flag"), value(event, "points"))
        assert (row["nim"], row["flag"], row["points"]) == wanted, event


def test_a_stream_of_usual_events_tells_nothing(live):
    events = [event(index) for index in range(6_000)]
    told, rows, offsets = stream(live, events)
    assert told == [] and drift(live) == []
    check_rows(rows, offsets, events)


def test_a_renamed_field_is_told_with_its_old_name_and_once_more_when_it_is_gone(live):
    change = renamed("attendance_flag", "attendanceFlag")
    # Attendance alone, so that the field is in most events.
    events = [event(2 * index + 1) for index in range(5_000)]
    events = events[:2_000] + [change(event) for event in events[2_000:]]
    told, rows, offsets = stream(live, events)
    check_rows(rows, offsets, events)
    assert len(told) == 2 and all("live: " in line for line in told), told
    new, gone = told
    for words in ["`event_data.attendanceFlag` is new", "`event_data.attendance_flag` is missing there",
                  "partition 0, offset", "[events.fields]"]:
        assert words in new, (words, new)
    assert "`event_data.attendance_flag` has no value any more" in gone and "attendanceFlag" in gone, gone
    noticed = drift(live)
    assert [(news["change"], news["field"], news["near"]) for news in noticed] == [
        ("new_field", "event_data.attendanceFlag", "event_data.attendance_flag"),
        ("gone", "event_data.attendance_flag", "event_data.attendanceFlag")]
    assert noticed[0]["offset"] in offsets[2_000:2_200], "one event in so many is looked at"
    assert (noticed[1]["partition"], noticed[1]["offset"]) == (0, offsets[2_000]), "values are counted of all events"
    assert all(news["remedy"] for news in noticed)


def test_a_name_that_is_wrong_from_the_first_event_on_is_told(live):
    events = [renamed("attendance_flag", "attendence_flag")(event(index)) for index in range(30)]
    told, rows, offsets = stream(live, events)
    check_rows(rows, offsets, events)
    assert len(told) == 1 and "no event so far has `event_data.attendance_flag`" in told[0], told
    assert "did you mean `event_data.attendence_flag`?" in told[0], told
    assert [news["change"] for news in drift(live)] == ["misspelt"]


def test_a_new_field_is_told_with_the_beginning_of_its_value(live):
    events = [event(index) for index in range(4_000)]
    long = "x" * 500
    for changed in events[2_000:]:
        changed["device"] = {"id": long}
    told, rows, offsets = stream(live, events)
    check_rows(rows, offsets, events)
    assert len(told) == 1 and "`device` is new in the events" in told[0], told
    assert '{"id": "xxx' in told[0] and "x" * 60 not in told[0], told
    noticed = drift(live)
    assert [(news["change"], news["field"], news["near"]) for news in noticed] == [("new_field", "device", None)]
    assert long[:20] not in json.dumps(live.json("stream", "status")), "values of events are not kept"


@pytest.mark.parametrize("other, words", [
    ([{"attendance_flag": 1}], "an array"), (17, "a number"), (True, "true or false")])
def test_another_value_in_the_place_of_an_object_is_told(live, other, words):
    events = [event(index) for index in range(3_000)]
    for changed in events[2_000:]:
        changed["event_data"] = other
    told, rows, offsets = stream(live, events)
    check_rows(rows, offsets, events)
    assert len(told) == 1 and f"`event_data` is {words}, not an object" in told[0], told
    assert f"as {json.dumps(other)})" in told[0], told
    assert [(news["change"], news["field"]) for news in drift(live)] == [("other_kind", "event_data")]


def test_a_number_that_becomes_a_string_is_told_beside_its_dead_letters(live):
    events = [event(index) for index in range(3_000)]
    for changed in events[2_000:]:
        if isinstance(changed["event_data"], dict) and "points" in changed["event_data"]:
            changed["event_data"]["points"] = str(changed["event_data"]["points"])
    told, rows, offsets = stream(live, events)
    assert len(rows) == 2_500 and live.table("predictions.dead").scan().to_arrow().num_rows == 500
    assert len(told) == 1 and "`event_data.points` is a string, not a number: such events are dead letters" in told[0]


def test_the_status_shows_twenty_and_the_stream_tells_fifty(live):
    events = [event(index) for index in range(12_000)]
    for index, changed in enumerate(events[1_500:]):
        changed[f"extra{index // 130}"] = index
    told, _, _ = stream(live, events)
    assert len(told) == 50 and len(drift(live)) == 20, told


def test_nobody_is_quoted_where_somebody_was_erased(live):
    events = [event(index) for index in range(3_000)]
    stream(live, events[:100])
    answer = live.call("table", "erase", "--entity", "nim=0007", "--reason", "request 1", "--yes")
    assert answer.code == 0, answer
    for changed in events[2_000:]:
        changed["device"] = f"phone of {changed['nim']}"
    told, _, _ = stream(live, events)
    assert len(told) == 1 and "`device` is new in the events" in told[0] and "phone of" not in told[0], told
