"""A stream whose broker stands still: it ends soon after it is told to, closes no window, and does not end of itself
before everything is committed; read by PyIceberg."""

import contextlib
import json
import signal
import time

import pytest

from test_notify import Server, committed, told, until
from test_notify import event as alerting
from test_stream import DAY, NOW, check, running, said, write_pipeline
from test_stream_formats import FIRST, framed, of_registry, registry, rows, same, topic, wanted, write  # noqa: F401
from test_stream_formats import first as event_of
from test_stream_kafka import Partitions, broker, source_of, stream, until_read  # noqa: F401

# From the signal to the end of a process.
SOON = 15


@contextlib.contextmanager
def away(broker):  # noqa: F811
    """The broker stands still."""
    broker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        broker.process.send_signal(signal.SIGCONT)


def seconds_to_end(process):
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=100)
    return time.monotonic() - told


# Seconds from events to the outage, and from there to the signal: around a commit and its offsets, at once, and when
# the session has ended.
MOMENTS = [(0.0, 0.5), (0.1, 0.5), (0.2, 0.5), (0.3, 0.5), (0.5, 0.5), (0.3, 0.0), (0.3, 3.0), (0.3, 9.0)]


def test_a_process_of_a_group_ends_soon_after_it_is_told_to(stream, broker, small_model):  # noqa: F811
    project, topic = stream  # noqa: F811
    write_pipeline(project, source_of(topic, broker, session_timeout_ms=6000, reconnect_backoff_max_ms=1000))
    broker.topic(topic, 2)
    sent = Partitions(broker, topic, 2)
    sent(25)
    process, times = running(project, "live"), []
    for before, after in MOMENTS:
        until_read(project, {"live": process}, sent.counts)
        sent(25)
        time.sleep(before)
        with away(broker):
            time.sleep(after)
            times.append((before, after, round(seconds_to_end(process), 1), process.returncode))
            assert process.returncode == 0, said(process)
        process = running(project, "live")
    assert max(seconds for _, _, seconds, _ in times) < SOON, times
    # With the broker there it leaves the group at once.
    until_read(project, {"live": process}, sent.counts)
    assert seconds_to_end(process) < 5 and process.returncode == 0, said(process)
    project.json("stream", "live", "--until-end")
    check(project, sent.folds, small_model)


def test_a_stop_does_not_wait_for_the_offsets_of_a_commit_that_its_broker_has_not_taken(stream, broker):  # noqa: F811
    """The broker goes while a commit waits for a slow notifier: its offsets are told after that."""
    project, topic = stream  # noqa: F811
    broker.topic(topic, 1)
    server = Server({"/slow": ["slow"]})
    told(project, f'\n[notifiers.hook]\nkind = "webhook"\nurl = "{server.url("/slow")}"\n', ["hook"])
    process = running(project, "live")
    try:
        broker.send(topic, 0, [alerting("000001", 2.5)])
        until(lambda: server.asked, process)
        time.sleep(1)
        assert committed(project) == 0
        with away(broker):
            until(lambda: committed(project) == 1, process)
            time.sleep(0.5)
            assert seconds_to_end(process) < SOON - 3 and process.returncode == 0, said(process)
    finally:
        server.shutdown()
    # What it has not told its broker nobody misses.
    assert project.json("stream", "live", "--until-end")[0]["events"] == 0


def test_a_process_that_begins_while_its_broker_is_away_ends_soon_after_it_is_told_to(stream, broker):  # noqa: F811
    project, topic = stream  # noqa: F811
    broker.topic(topic, 2)
    with away(broker):
        process = running(project, "live")
        time.sleep(3)
        assert process.poll() is None, said(process)
        assert seconds_to_end(process) < 10, said(process)


CLOSING = """
kind = "stream"
[source]
topic = "%s"
[source.kafka]
"bootstrap.servers" = "%s"
[events]
time = "at"
[events.fields]
nim = "string"
at = { type = "timestamp", format = "microseconds" }
[entity]
key = ["nim"]
[windows.day]
tumbling = { size = "1 day" }
[windows.day.columns]
seen = "count(*)"
[output]
table = "predictions.days"
[output.columns]
nim = "nim"
seen = "seen"
window_start = "window_start"
[stream]
emit = "on_close"
idle_after = "5 s"
freshness = "200 ms"
"""


def test_windows_that_close_wait_for_a_broker_that_is_away_and_a_stop_does_not(stream, broker):  # noqa: F811
    """After half a minute without an event it is asked of each partition where it ends."""
    project, topic = stream  # noqa: F811
    broker.topic(topic, 6)
    (project.folder / "pipelines" / "days.toml").write_text(CLOSING % (topic, broker.address))
    for partition in range(6):
        # The windows of all but the first would close without them.
        at = NOW + (20 * DAY if partition == 0 else 0)
        broker.send(topic, partition, [json.dumps({"nim": f"{partition:06d}", "at": at})])
    process = running(project, "days")
    until_read(project, {"days": process}, [1] * 6)
    with away(broker):
        time.sleep(40)
        assert process.poll() is None, said(process)
        assert seconds_to_end(process) < SOON and process.returncode == 0, said(process)
    assert project.table("predictions.days").scan().to_arrow().num_rows == 0
    project.json("stream", "days", "--until-end")
    closed = project.table("predictions.days").scan().to_arrow().to_pylist()
    assert sorted((row["nim"], row["seen"]) for row in closed) == [(f"{n:06d}", 1) for n in range(1, 6)]


@pytest.mark.parametrize("then", ["comes back", "stays away"])
def test_the_end_of_events_is_when_they_are_committed(project, broker, topic, registry, then):  # noqa: F811
    """The broker goes while events wait for their schema: the client has them all, and their end."""
    name, pipeline = topic
    pipeline(of_registry(registry))
    registry.add(1, FIRST)
    broker.send(name, 0, [framed(1, write(FIRST, event_of(number))) for number in range(50)])
    registry.away = True
    process = running(project, "live", "--until-end")
    deadline = time.monotonic() + 30
    while len(registry.asked) < 4:
        assert process.poll() is None and time.monotonic() < deadline, said(process)
        time.sleep(0.05)
    with away(broker):
        registry.away = False
        while "committed when it can be told" not in said(process):
            assert process.poll() is None and time.monotonic() < deadline, said(process)
            time.sleep(0.1)
        time.sleep(8)
        assert process.poll() is None and not rows(project), said(process)
        if then == "stays away":
            assert seconds_to_end(process) < SOON, said(process)
    assert process.wait(timeout=60) == 0, said(process)
    if then == "stays away":
        assert not rows(project)
        project.json("stream", "live", "--until-end")
    same(project, {number: wanted(event_of(number)) for number in range(50)})
