"""Files of events that are replaced, taken back, cut, removed and too long, and pipelines that change: nothing is taken
for what it is not, and nothing of it stops a stream that could go on. Read by PyIceberg."""

import json
import os
import signal
import subprocess
import time

import pytest

PIPELINE = """
kind = "stream"
[source]
files = "events"
[events]
time = "ts"
FILTER
[events.fields]
k = "string"
v = "double"
n = "long"
ts = { type = "timestamp", format = "iso" }
[entity]
key = ["k"]
[windows.week]
rolling = { tile = "1 day", tiles = 7 }
[windows.week.columns]
c = "count(*)"
s = "sum(v)"
[output]
table = "files.live"
[output.columns]
k = "k"
c = "c"
s = "s"
source_partition = "source_partition"
source_offset = "source_offset"
[stream]
freshness = "200 ms"
dead_letters = "files.dead"
late_events = "files.late"
"""


def event(k, v=1, n=1, **more):
    return json.dumps({"k": k, "v": v, "n": n, "ts": "2025-11-30T20:00:00Z", **more}) + "\n"


@pytest.fixture
def stream(project):
    """A stream over an empty folder, and its file."""
    (project.folder / "events").mkdir(exist_ok=True)
    change(project)
    return project


def change(project, *changes):
    text = PIPELINE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (project.folder / "pipelines" / "live.toml").write_text(text.replace("FILTER\n", ""))


def write(project, name, *events, mode="a"):
    with open(project.folder / "events" / name, mode) as file:
        file.writelines(events)


def run(project):
    answer = project.call("stream", "live", "--until-end")
    assert answer.code == 0, answer
    return answer


def rows(project, *columns, table="files.live"):
    found = project.table(table).scan().to_arrow().sort_by([("source_partition", "ascending"), ("source_offset", "ascending")])
    return list(zip(*(found[column].to_pylist() for column in columns)))


@pytest.mark.parametrize("old, new, sums", [
    ('s = "sum(v)"', 's = "sum(v * 1000)"', [1, 2, 3, 4000]),
    ("FILTER\n", 'filter = "n > 1"\n', [1, 2, 3, 1]),
    ('v = "double"', 'v = { type = "double", path = "w" }', [1, 2, 3, 20]),
])
def test_windows_of_other_expressions_fields_or_filters_are_built_again(stream, old, new, sums):
    write(stream, "a.ndjson", *(event("a", w=5) for _ in range(3)))
    run(stream)
    change(stream, (old, new))
    write(stream, "a.ndjson", event("a", n=2, w=5))
    answer = run(stream)
    assert [s for s, in rows(stream, "s")] == sums
    assert "its windows cannot be taken up where they were" in answer.stderr and "1 event" in answer.stdout, answer


def test_events_that_were_lost_are_noticed_also_when_windows_are_built_again(stream):
    write(stream, "a.ndjson", *(event("a") for _ in range(5)))
    run(stream)
    path = stream.folder / "events" / "a.ndjson"
    os.truncate(path, len(event("a")) * 2)
    change(stream, ("tiles = 7", "tiles = 8"))
    answer = stream.call("stream", "live", "--until-end")
    assert answer.code == 1 and "it was cut" in answer.stderr, answer


def test_a_file_that_was_replaced_behind_the_same_first_line_is_another_one(stream):
    write(stream, "a.ndjson", event("head"), *(event(f"old{n}") for n in range(3)))
    run(stream)
    write(stream, "a.ndjson", event("head"), *(event(f"new{n}") for n in range(5)), mode="w")
    answer = stream.call("stream", "live", "--until-end")
    assert answer.code == 1 and "is another file now" in answer.stderr and "a.ndjson" in answer.stderr, answer
    assert [k for k, in rows(stream, "k")] == ["head", "old0", "old1", "old2"]


def wait_for(found, wanted):
    deadline = time.monotonic() + 30
    while found() != wanted:
        assert time.monotonic() < deadline, found()
        time.sleep(0.1)


@pytest.fixture
def running(stream):
    started = []

    def start():
        process = subprocess.Popen([stream.binary, "--project", str(stream.folder), "stream", "live"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process
    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def names(project):
    try:
        return [k for k, in rows(project, "k")]
    except Exception:  # no table yet
        return []


def test_a_line_that_its_writer_takes_back_is_no_event(stream, running):
    write(stream, "a.ndjson", event("a1"), event("a2"))
    process = running()
    wait_for(lambda: names(stream), ["a1", "a2"])
    path = stream.folder / "events" / "a.ndjson"
    length = path.stat().st_size
    write(stream, "a.ndjson", '{"k":"XX","v":9')
    time.sleep(0.5)
    os.truncate(path, length)
    write(stream, "a.ndjson", event("a3"), event("a4"))
    wait_for(lambda: names(stream), ["a1", "a2", "a3", "a4"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0, process.stderr.read()


def test_a_file_that_another_takes_the_name_of_while_it_is_read_stops_the_stream(stream, running):
    write(stream, "a.ndjson", event("head"), event("old"))
    process = running()
    wait_for(lambda: names(stream), ["head", "old"])
    write(stream, "b.other", event("head"), *(event(f"new{n}") for n in range(9)))
    os.rename(stream.folder / "events" / "b.other", stream.folder / "events" / "a.ndjson")
    assert process.wait(timeout=60) == 1
    assert "is another file now" in process.stderr.read()
    assert names(stream) == ["head", "old"]


@pytest.mark.parametrize("while_it_runs", [True, False])
def test_a_file_that_was_read_to_its_end_may_go(stream, running, while_it_runs):
    write(stream, "a.ndjson", event("a"))
    write(stream, "b.ndjson", event("b1"))
    if while_it_runs:
        process = running()
        wait_for(lambda: len(names(stream)), 2)
    else:
        run(stream)
    os.remove(stream.folder / "events" / "a.ndjson")
    if while_it_runs:
        # It looks every two seconds.
        time.sleep(3)
    write(stream, "b.ndjson", event("b2"))
    write(stream, "c.ndjson", event("c"))
    if while_it_runs:
        wait_for(lambda: sorted(names(stream)), ["a", "b1", "b2", "c"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert "is gone; it was read to its end" in process.stderr.read()
    else:
        assert "is gone; it was read to its end" in run(stream).stderr
    assert sorted(names(stream)) == ["a", "b1", "b2", "c"]
    assert stream.json("stream", "status", "live")[0]["lag"] == 0


def test_a_file_that_goes_unread_stops_the_stream(stream):
    write(stream, "a.ndjson", event("a"))
    run(stream)
    write(stream, "a.ndjson", event("b"))
    write(stream, "a.ndjson", '{"k"')
    run(stream)
    os.remove(stream.folder / "events" / "a.ndjson")
    answer = stream.call("stream", "live", "--until-end")
    assert answer.code == 1 and "is gone" in answer.stderr, answer


def test_a_line_that_is_too_long_is_a_dead_letter_and_the_others_go_on(stream):
    limit = 16 << 20
    fits = event("fits", x="")
    fits = event("fits", x="y" * (limit - len(fits) + 1))
    assert len(fits) == limit + 1
    longer = event("longer", x="y" * limit)
    write(stream, "a.ndjson", event("first"), longer, event("third"), fits)
    write(stream, "b.ndjson", event("big", x="y" * (50 << 20)), event("b1"))
    run(stream)
    assert sorted(names(stream)) == ["b1", "first", "fits", "third"]
    dead = rows(stream, "source_partition", "source_offset", "error_message", "payload", table="files.dead")
    assert [(partition, offset) for partition, offset, _, _ in dead] == [(0, len(event("first"))), (1, 0)]
    for (_, _, message, payload), line in zip(dead, [longer, event("big", x="y" * (50 << 20))]):
        assert f"the event has {len(line) - 1} bytes" in message and payload == line[:64 << 10].encode()


@pytest.mark.parametrize("changes", [
    [('c = "c"', 'c = "10 / n"')],
    [("FILTER\n", 'filter = "10 / n > 0"\n')],
    [('s = "sum(v)"', 's = "sum(10 / n)"')],
    [('[entity]', '[events.columns]\nt = "10 / n"\n[entity]')],
    [("[output]\n", '[features.columns]\nt = "10 / n"\n[output]\n')],
    [("[stream]\n", '[alerts.many]\nwhen = "10 / c > 0 AND 10 / t > 0"\ntable = "files.many"\n[stream]\n'),
     ('c = "c"', 'c = "c"\nt = "n"')],
])
def test_a_value_that_an_expression_cannot_take_is_a_dead_letter(stream, changes):
    change(stream, *changes)
    events = [event("a"), event("a", n=0), event("b"), event("a"), event("b", n=0), event("c")]
    write(stream, "a.ndjson", *events)
    answer = run(stream)
    starts = [sum(map(len, events[:n])) for n in range(6)]
    assert [offset for offset, in rows(stream, "source_offset")] == [starts[n] for n in (0, 2, 3, 5)]
    dead = rows(stream, "source_offset", "error_class", "error_message", "payload", table="files.dead")
    assert [(offset, kind) for offset, kind, _, _ in dead] == [(starts[1], "value"), (starts[4], "value")]
    assert all("ivide by zero" in message and payload == events[n][:-1].encode()
               for n, (_, _, message, payload) in zip((1, 4), dead))
    assert "2 of 6 events became dead letters, in table `files.dead`" in answer.stderr, answer


def test_what_is_left_unread_is_said(stream):
    write(stream, "a.ndjson", event("a"), '{"k": "half')
    write(stream, "b.log", event("b"))
    answer = run(stream)
    assert "the last 11 bytes of" in answer.stderr and "1 entries of the folder" in answer.stderr, answer
    assert "`b.log` for example" in answer.stderr, answer


@pytest.mark.parametrize("runs", [1, 2])
def test_a_window_key_in_two_files_names_both_and_what_to_do(stream, runs):
    """A file for each day has the same students in each."""
    folder = stream.folder / "events"
    (folder / "2025-11-29.ndjson").write_text(event("anna") + event("budi"))
    if runs == 2:
        stream.json("stream", "live", "--until-end")
    (folder / "2025-11-30.ndjson").write_text(event("citra") + event("budi"))
    answer = stream.call("stream", "live", "--until-end")
    assert answer.code == 1, answer
    for words in ("key `budi`", "`2025-11-29.ndjson`", "`2025-11-30.ndjson`", "one file that grows", "a file for each group"):
        assert words in answer.stderr, answer
    for words in ("partition", "producer"):
        assert words not in answer.stderr, answer
