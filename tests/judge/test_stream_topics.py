"""A stream of two topics of a real Kafka into one table: killed, shared out, with transactions; read by PyIceberg."""

import datetime
import json
import random
import re
import time

import pytest

from test_stream import (DAY, NOW, Fold, check, events, feed_and_end, kill, one_more_with_rows, running, runs_with_rows,
                         said, write_pipeline)
from test_stream_groups import SESSION, Group
from test_stream_kafka import broker, source_of, until_read  # noqa: F401

# The partitions of the second topic are numbered from here on.
SECOND = 65_536


class Topics:
    """What was sent to two topics, partition by partition, by the numbers that the stream gives them."""

    def __init__(self, broker, names, count):  # noqa: F811
        self.broker, self.names, self.dice = broker, names, random.Random(3)
        self.numbers = [SECOND * place + partition for place in range(len(names)) for partition in range(count)]
        self.folds, self.counts = {number: Fold() for number in self.numbers}, dict.fromkeys(self.numbers, 0)
        for name in names:
            broker.topic(name, count)

    def __call__(self, count=25, endings=("plain",)):
        for number in self.numbers:
            self.send(number, count, self.dice.choice(endings))

    def lines(self, number, count, start):
        """The students of a partition are in no other, of either topic."""
        return events(number // SECOND * 8 + number % SECOND, count, start=start)

    def raw(self, number, lines, ending="plain"):
        return self.broker.send(self.names[number // SECOND], number % SECOND, lines, ending)

    def send(self, number, count, ending="plain"):
        lines = self.lines(number, count, 0 if ending == "abort" else self.counts[number])
        offsets = self.raw(number, lines, ending)
        if ending != "abort":
            self.counts[number] += count
            self.take(number, offsets, lines)

    def take(self, number, offsets, lines):
        for offset, line in zip(offsets, lines, strict=True):
            self.folds[number].take((number, offset), line)

    def check(self, project, small_model):
        check(project, self.folds.values(), small_model)
        for row in project.table("predictions.live").scan().to_arrow().to_pylist():
            assert row["topic"] == self.names[row["source_partition"] // SECOND], row


def write(project, broker, names, key='partition_key = ["nim"]\n', **options):  # noqa: F811
    source = source_of("", broker, **options).replace('topic = ""\n', f"topics = {json.dumps(names)}\n")
    assert 'partition_key = ["nim"]\n' in source
    write_pipeline(project, source.replace('partition_key = ["nim"]\n', key))
    path = project.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace('source_offset = "source_offset"', 'source_offset = "source_offset"\ntopic = "source_topic"'))


@pytest.fixture
def names(request):
    name = re.sub("[^a-z0-9_]+", "-", request.node.name)[:60]
    return [f"{name}.one", f"{name}.two"]


def test_two_topics_are_one_stream_exactly_once_whatever_is_killed(project, broker, names, small_model):  # noqa: F811
    write(project, broker, names)
    sent, numbers = Topics(broker, names, 2), random.Random(8)
    for round_ in range(6):
        committed = one_more_with_rows(project) if round_ % 2 == 0 else None
        feed_and_end(project, ["live"], lambda: sent(25, ["plain", "commit", "abort"]), numbers.uniform(0.6, 1.5), committed)
    assert len(runs_with_rows(project)) >= 3, "else the last run has done it all"
    project.json("stream", "live", "--until-end")
    sent.check(project, small_model)
    # Some were set aside of either topic.
    for table in ("predictions.late", "predictions.dead"):
        places = project.table(table).scan().to_arrow()["source_partition"].to_pylist()
        assert {place // SECOND for place in places} == {0, 1}
    status = project.json("stream", "status", "live")[0]
    shown = [(one["partition"], one["name"]) for one in status["partitions"]]
    assert shown == [(0, f"{names[0]}/0"), (1, f"{names[0]}/1"), (SECOND, f"{names[1]}/0"), (SECOND + 1, f"{names[1]}/1")]
    assert status["source"].endswith(f"/{names[0]},{names[1]}"), status
    assert f"partition 65536 ({names[1]}/0): position" in project.call("stream", "status", "live").stdout
    compared = project.json("stream", "replay", "live")["compared"]
    assert compared["equal"] == sum(len(fold.predictions) for fold in sent.folds.values())
    assert compared["different"] + compared["missing"] + compared["extra"] + compared["repeated"] == 0, compared


def test_the_end_of_two_topics_is_found_behind_transactions_of_either(project, broker, names, small_model):  # noqa: F811
    """The client says which partition has ended, and not of which topic."""
    write(project, broker, names)
    sent = Topics(broker, names, 2)
    sent(40)

    def read():
        start = time.monotonic()
        report = project.json("stream", "live", "--until-end")[0]
        assert time.monotonic() - start < 20, "it waited for events that do not come"
        sent.check(project, small_model)
        return report["events"]

    assert read() == 160
    sent.send(SECOND, 60, "commit")
    sent.send(0, 30, "abort")
    assert read() == 60
    # Only what is behind the marks of transactions, and nothing that has an event.
    sent.send(1, 30, "abort")
    assert read() == 0
    begun = sent.lines(SECOND + 1, 30, sent.counts[SECOND + 1])
    offsets = sent.raw(SECOND + 1, begun, "open")
    sent.send(1, 50)
    assert read() == 50
    broker.command("end", "commit")
    sent.counts[SECOND + 1] += 30
    sent.take(SECOND + 1, offsets, begun)
    assert read() == 30


class GroupOfTopics(Group):
    def create(self, partitions):
        self.sent = Topics(self.broker, self.topic, partitions)

    def options(self, **options):
        write(self.project, self.broker, self.topic, **options)

    def load(self, count=10):
        self.sent(count)

    def until_shared(self, sizes, patience=40):
        def shared(status):
            shares = self.shares(status)
            return [len(share) for share in shares] == sizes and sorted(sum(shares, [])) == self.sent.numbers
        return self.until(shared, patience, sizes)

    def until_committed(self, patience):
        ends = dict(self.sent.counts)
        def committed(status):
            positions = {p["partition"]: p["position"] for p in status["partitions"]}
            return all(positions.get(number, 0) >= end for number, end in ends.items())
        return self.until(committed, patience, ends)

    def judge(self, small_model):
        for process in list(self.running):
            self.stop(process)
        self.project.json("stream", "live", "--until-end")
        self.sent.check(self.project, small_model)


@pytest.fixture
def group(project, broker, names):  # noqa: F811
    made = GroupOfTopics(project, names, broker)
    made.options(session_timeout_ms=SESSION * 1000, topic_metadata_refresh_interval_ms=1000)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def test_processes_of_a_group_share_the_partitions_of_both_topics(group, small_model):
    group.create(3)
    group.load()
    first, second, _ = group.start(), group.start(), group.start()
    group.until_shared([2, 2, 2])
    group.until_committed(20)
    text = group.project.call("stream", "status", "live").stdout
    readers = re.findall("process . reads the partitions (.*)", text)
    shown = sorted(name for reader in readers for name in reader.split(", "))
    assert shown == sorted(f"{name}/{partition}" for name in group.topic for partition in range(3)), text
    group.kill(second)
    group.until_shared([3, 3])
    group.until_committed(20)
    # One of the topics grows.
    group.broker.command("grow", group.topic[1], "4")
    group.sent.numbers.append(SECOND + 3)
    group.sent.folds[SECOND + 3], group.sent.counts[SECOND + 3] = Fold(), 0
    group.until(lambda status: sum(map(len, group.shares(status))) == 7, 40, "the new one as well")
    group.stop(first)
    group.until_shared([7])
    group.until_committed(20)
    group.judge(small_model)


def test_a_topic_is_added_at_the_end_and_no_other_change_goes_on(project, broker, names, small_model):  # noqa: F811
    one, two = names
    sent = Topics(broker, names, 2)
    write_pipeline(project, source_of(one, broker))
    sent(60)
    old = running(project, "live")
    until_read(project, {"live": old}, [60, 60])
    write(project, broker, names)
    behind = project.json("stream", "status", "live")[0]
    assert (behind["lag"], [p["position"] for p in behind["partitions"]]) == (120, [60, 60, 0, 0]), behind
    project.json("stream", "live", "--until-end")
    # The process that does not know the other topic must not go on as if it did.
    deadline = time.monotonic() + 60
    while old.poll() is None and time.monotonic() < deadline:
        sent.send(0, 5)
        time.sleep(0.2)
    assert old.poll() == 1 and "same `topics`" in said(old), said(old)
    sent(30)
    project.json("stream", "live", "--until-end")
    table = project.table("predictions.live").scan().to_arrow().to_pylist()
    assert {row["topic"] for row in table if row["source_partition"] >= SECOND} == {two}
    check(project, sent.folds.values(), small_model)
    # Also those of the time when there was one topic are looked at, and stay.
    dead = sum(len(fold.dead) for fold in sent.folds.values())
    replayed = project.json("stream", "replay-dlq", "live")[0]
    assert (replayed["letters"], replayed["unreadable"]) == (dead, dead), replayed
    for other in ([two, one], [one], [two], [one, two + "x", two]):
        write(project, broker, other)
        if two + "x" in other:
            broker.topic(two + "x", 1)
        answer = project.call("stream", "live", "--until-end")
        assert answer.code in (1, 2) and "but the table's positions are of" in answer.stderr, answer
        assert "source_error" in project.json("stream", "status", "live")[0]
    check(project, sent.folds.values(), small_model)


def test_each_of_the_topics_must_be_what_it_was(project, broker, names):  # noqa: F811
    write(project, broker, names)
    broker.topic(names[0], 1)
    answer = project.call("stream", "live", "--until-end")
    assert answer.code == 1 and f"there is no topic `{names[1]}`" in answer.stderr, answer
    broker.topic(names[1], 1)
    for name in names:
        broker.send(name, 0, events(names.index(name), 30))
    assert project.json("stream", "live", "--until-end")[0]["events"] == 60
    broker.command("delete", names[1])
    broker.topic(names[1], 1)
    broker.send(names[1], 0, events(5, 80))
    answer = project.call("stream", "live", "--until-end")
    assert answer.code in (1, 2) and f"`{names[1]}`" in answer.stderr and "it was made again" in answer.stderr, answer


def test_topics_are_begun_at_their_ends(project, broker, names, small_model):  # noqa: F811
    """Each as a whole, also one that is added."""
    sent = Topics(broker, names, 2)
    for number in sent.numbers:
        sent.raw(number, sent.lines(number, 40, 0))
        sent.counts[number] += 40
    write(project, broker, names[:1], 'start = "latest"\npartition_key = ["nim"]\n')
    assert project.json("stream", "live", "--until-end")[0]["events"] == 0
    write(project, broker, names, 'start = "latest"\npartition_key = ["nim"]\n')
    for number in (0, 1):
        sent.send(number, 30)
    assert project.json("stream", "live", "--until-end")[0]["events"] == 60
    sent(30)
    assert project.json("stream", "live", "--until-end")[0]["events"] == 120
    sent.check(project, small_model)


def test_a_key_of_a_window_in_two_topics_is_refused_by_check_or_ends_the_stream(project, broker, names):  # noqa: F811
    write(project, broker, names, "")
    answer = project.call("check", "live")
    assert answer.code == 1 and "the window `week` is kept by key" in answer.stderr and "partition_key" in answer.stderr, answer
    # It is said that no key is in both, and one is.
    write(project, broker, names)
    assert project.json("check", "live")[0]["status"] == "ok"
    for name in names:
        broker.topic(name, 1)
        broker.send(name, 0, events(0, 100))
    answer = project.call("stream", "live", "--until-end")
    assert answer.code in (1, 2) and f"{names[0]}/0 and {names[1]}/0" in answer.stderr, answer


CLOSING = """
kind = "stream"
[source]
topics = %s
[source.kafka]
"bootstrap.servers" = "%s"
[events]
time = "at"
allowed_lateness = "1 hour"
[events.fields]
nim = "string"
at = { type = "timestamp", format = "microseconds" }
[entity]
key = ["nim"]
[windows.day]
tumbling = { size = "1 day" }
[windows.day.columns]
seen = "count(*)"
of_two = "count(*) FILTER (WHERE source_topic = '%s')"
[output]
table = "predictions.days"
[output.columns]
nim = "nim"
seen = "seen"
of_two = "of_two"
window_start = "window_start"
[stream]
emit = "on_close"
freshness = "200 ms"
"""


def test_windows_that_close_count_a_key_over_both_topics(project, broker, names):  # noqa: F811
    text = CLOSING % (json.dumps(names), broker.address, names[1])
    (project.folder / "pipelines" / "days.toml").write_text(text)
    wanted, numbers = {}, random.Random(4)
    for place, name in enumerate(names):
        broker.topic(name, 2)
        for partition in range(2):
            lines = []
            for hour in range(10 * 24):
                at, student = NOW - 20 * DAY + hour * DAY // 24, f"{numbers.randrange(30):06d}"
                lines.append(json.dumps({"nim": student, "at": at}))
                seen = wanted.setdefault((at // DAY, student), [0, 0])
                seen[0] += 1
                seen[1] += place
            broker.send(name, partition, lines)
    project.json("stream", "days", "--until-end")
    rows = project.table("predictions.days").scan().to_arrow().to_pylist()
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    found = {((row["window_start"] - epoch).days, row["nim"]): [row["seen"], row["of_two"]] for row in rows}
    assert len(found) == len(rows) > 200
    last = max(day for day, _ in wanted)
    assert found == {place: seen for place, seen in wanted.items() if place[0] < last}
