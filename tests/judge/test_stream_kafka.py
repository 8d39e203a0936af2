"""A stream from a real Apache Kafka: transactions, gaps, kills, restarts of the broker; read by PyIceberg."""

import json
import random
import re
import signal
import time

import pytest

from conftest import missing
from test_stream import (Fold, append, check, events, feed_and_end, fold_files, kill, one_more_with_rows, running,
                         runs_with_rows, said, stop, write_pipeline)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    try:
        import kafka_broker

        # What can be compacted is compacted at once.
        broker = kafka_broker.Broker(tmp_path_factory.mktemp("kafka"), more="log.cleaner.backoff.ms=100\n")
    except Exception as error:  # no Java, no Maven, no network
        missing("Kafka", (str(error).splitlines() or ["?"])[0])
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def stream(project, broker, request):
    """A project whose stream reads a topic of its own, and the topic's name."""
    topic = "events-" + re.sub("[^a-z0-9_]+", "-", request.node.name)
    write_pipeline(project, source_of(topic, broker))
    answer = project.call("check", "live")
    assert answer.code == 0, answer
    answer = project.call("stream", "live", "--until-end")
    if "built without Kafka" in answer.stderr:
        missing("Kafka", "the binary was built without the feature `kafka`")
    assert answer.code == 1 and topic in answer.stderr, answer
    return project, topic


def source_of(topic, broker, **options):
    """[source]; options of the client with _ for the dots."""
    more = "".join(f'\n"{key.replace("_", ".")}" = "{value}"' for key, value in options.items())
    return (f'topic = "{topic}"\npartition_key = ["nim"]\n[source.kafka]\n'
            f'"bootstrap.servers" = "{broker.address}"{more}')


class Partitions:
    """What was sent, partition by partition. Called it sends a few events to each."""

    def __init__(self, broker, topic, count):
        self.broker, self.topic, self.numbers = broker, topic, random.Random(5)
        self.folds, self.counts = [Fold() for _ in range(count)], [0] * count

    def __call__(self, count=25, endings=("plain",)):
        for partition in range(len(self.counts)):
            self.send(partition, count, self.numbers.choice(endings))

    def send(self, partition, count, ending="plain"):
        """The students of a partition are its own, as a producer's key sees to."""
        start = 0 if ending == "abort" else self.counts[partition]
        lines = events(partition, count, start=start)
        offsets = self.broker.send(self.topic, partition, lines, ending)
        if ending != "abort":
            self.counts[partition] += count
            for offset, line in zip(offsets, lines, strict=True):
                self.folds[partition].take((partition, offset), line)


def test_several_partitions_with_transactions_and_aborted_records(stream, broker, small_model):
    project, topic = stream
    broker.topic(topic, 3)
    sent = Partitions(broker, topic, 3)
    for partition in range(3):
        sent.send(partition, 150)
        sent.send(partition, 20, "abort")
        sent.send(partition, 100, "commit")
        broker.send(topic, partition, ["TOMBSTONE"])
    report = project.json("stream", "live", "--until-end")[0]
    assert report["events"] == 750, report
    check(project, sent.folds, small_model)
    again = project.json("stream", "live", "--until-end")[0]
    assert (again["events"], again["commits"]) == (0, 0), again


def test_the_status_says_how_far_a_stream_is_behind_its_topic(stream, broker):
    project, topic = stream
    broker.topic(topic, 2)
    sent = Partitions(broker, topic, 2)
    sent.send(0, 30)
    project.json("stream", "live", "--until-end")
    sent.send(0, 12)
    sent.send(1, 5)
    status = project.json("stream", "status", "live")[0]
    assert (status["lag"], status["lag_unit"], status["source_error"]) == (17, "events", None), status
    assert [(p["position"], p["end"], p["lag"]) for p in status["partitions"]] == [(30, 42, 12), (0, 5, 5)], status
    assert (status["live"]["events"], status["live"]["ended"]) == (30, True) and status["live"]["watermark"], status
    said = project.call("stream", "status", "live").stdout
    assert "17 events behind its source" in said and "position 30, 12 behind" in said and "watermark 20" in said, said
    project.json("stream", "live", "--until-end")
    assert project.json("stream", "status", "live")[0]["lag"] == 0
    broker.command("delete", topic)
    status = project.json("stream", "status", "live")[0]
    assert status["lag"] is None and f"there is no topic `{topic}`" in status["source_error"], status
    assert [p["position"] for p in status["partitions"]] == [42, 5], status


def test_an_open_transaction_is_the_end_of_a_topic(stream, broker, small_model):
    project, topic = stream
    broker.topic(topic, 2)
    sent = Partitions(broker, topic, 2)
    sent(100)
    lines = iter(range(100, 1000, 50))

    def opened_and_followed():
        """A transaction that has not ended, and events behind it in its partition and in another."""
        begun = events(0, 50, start=next(lines))
        offsets = broker.send(topic, 0, begun, "open")
        behind = events(0, 50, start=next(lines))
        more = broker.send(topic, 0, behind)
        sent.send(1, 50)
        assert max(offsets) < min(more)
        return zip(offsets, begun), zip(more, behind)

    def read():
        start = time.monotonic()
        report = project.json("stream", "live", "--until-end")[0]
        assert time.monotonic() - start < 20, "it waited for the transaction"
        check(project, sent.folds, small_model)
        return report["events"]

    for ending, count in [("commit", 100), ("abort", 50)]:
        begun, behind = opened_and_followed()
        assert read() == (250 if ending == "commit" else 50)
        broker.command("end", ending)
        for offset, line in [*(begun if ending == "commit" else []), *behind]:
            sent.folds[0].take((0, offset), line)
        assert read() == count
    assert read() == 0


def keyed(lines, hour):
    """Each with its student as its key, some hours ago."""
    return [(line, line.split('"')[3], int(time.time() - 3600 * hour) * 1000) for line in lines]


def until_compacted(broker, topic, below):
    """The records of a topic, once those before an offset of each partition are one for each key."""
    deadline = time.monotonic() + 60
    while True:
        records = broker.records(topic)
        keys = [(partition, key) for partition, offset, key, _ in records if offset < below[partition]]
        if len(keys) == len(set(keys)):
            return records
        assert time.monotonic() < deadline, f"{len(keys)} records of {len(set(keys))} keys are not compacted"
        time.sleep(0.1)


def test_a_compacted_topic_is_read_as_it_is_when_it_is_read(stream, broker, small_model):
    """What was read is not forgotten, what went unread is no loss, and tombstones are no events."""
    project, topic = stream
    # A segment is an hour of the records' own times.
    broker.topic(topic, 2, cleanup_policy="compact", segment_ms=3_600_000, min_cleanable_dirty_ratio=0)
    folds = [Fold(), Fold()]
    for partition, fold in enumerate(folds):
        lines = events(partition, 300, students=300)
        for offset, line in zip(broker.send(topic, partition, keyed(lines, 6)), lines, strict=True):
            fold.take((partition, offset), line)
    project.json("stream", "live", "--until-end")
    check(project, folds, small_model)
    below = []
    for partition in range(2):
        broker.send(topic, partition, keyed(events(partition, 1500, students=300, start=300), 4))
        gone = keyed([f'{{"nim": "{300 * partition + student:06d}"}}' for student in range(0, 300, 9)], 4)
        broker.send(topic, partition, [("TOMBSTONE", key, time_) for _, key, time_ in gone])
        below += broker.send(topic, partition, keyed(events(partition, 600, students=300, start=1800), 2))[:1]
    records = until_compacted(broker, topic, below)
    for partition, fold in enumerate(folds):
        there = [(offset, value) for one, offset, _, value in records if one == partition]
        unread = [(offset, value) for offset, value in there if offset >= 300]
        assert unread[0][0] > 300, "the position itself is in a gap"
        assert there[0][0] > 0 and 800 < len(unread) < 900 + len(gone)
        assert sum(value == "TOMBSTONE" for _, value in unread) == len(gone)
        for offset, value in unread:
            if value != "TOMBSTONE":
                fold.take((partition, offset), value)
    before = runs_with_rows(project)
    # Three swaps take the partitions over; a commit is one or two of late and broken events, and one of predictions.
    for swap in (5, 6):
        died = project.process("stream", "live", "--until-end", environment={"INSIGHTERA_FAULT": f"kill:after:swap@{swap}"})
        assert died < 0, f"it was not killed after swap {swap}"
    assert runs_with_rows(project) - before
    assert project.json("stream", "live", "--until-end")[0]["rows"] > 0
    check(project, folds, small_model)
    assert broker.records(topic) == records, "else other events were read than those above"


def test_kill_9_at_any_time_loses_and_repeats_nothing(stream, broker, small_model):
    project, topic = stream
    broker.topic(topic, 4)
    sent, numbers = Partitions(broker, topic, 4), random.Random(5)
    for round_ in range(8):
        committed = one_more_with_rows(project) if round_ % 2 == 0 else None
        feed_and_end(project, ["live"], lambda: sent(25, ["plain", "commit", "abort"]), numbers.uniform(0.6, 1.5), committed)
    assert len(runs_with_rows(project)) >= 4, "else the last run has done it all"
    project.json("stream", "live", "--until-end")
    check(project, sent.folds, small_model)


def alone(project):
    """A pipeline `alone` that is `live` and in no group, with tables of its own."""
    text = (project.folder / "pipelines" / "live.toml").read_text()
    assert 'partition_key = ["nim"]\n' in text
    text = text.replace('partition_key = ["nim"]\n', "").replace("predictions.", "alone.")
    (project.folder / "pipelines" / "alone.toml").write_text(text)


def until_read(project, processes, ends):
    """Each process, by its pipeline, goes on until the tables have all events before `ends`."""
    deadline = time.monotonic() + 60
    for name, process in processes.items():
        while True:
            assert process.poll() is None, said(process)
            positions = [p["position"] for p in project.json("stream", "status", name)[0]["partitions"]]
            if positions == ends:
                break
            assert time.monotonic() < deadline, f"`{name}` is at {positions} of {ends}: {said(process)}"
            time.sleep(0.1)


def test_a_process_reads_on_when_its_broker_comes_back(stream, broker, small_model):
    """One process of a group and one of none, through a broker that is stopped and one that is killed."""
    project, topic = stream
    # Else it waits up to ten seconds before it asks again.
    write_pipeline(project, source_of(topic, broker, reconnect_backoff_max_ms=2000))
    alone(project)
    broker.topic(topic, 4)
    sent = Partitions(broker, topic, 4)
    processes = {name: running(project, name) for name in ("live", "alone")}
    sent()
    until_read(project, processes, sent.counts)
    for end in (broker.stop, broker.kill):
        end()
        broker.start()
        sent()
        until_read(project, processes, sent.counts)
    for name, namespace in [("live", "predictions"), ("alone", "alone")]:
        kill(processes[name])
        assert len(runs_with_rows(project, f"{namespace}.live")) == 1
        check(project, sent.folds, small_model, namespace)


def test_two_processes_share_the_partitions_out(stream, broker, small_model):
    project, topic = stream
    broker.topic(topic, 4)
    sent = Partitions(broker, topic, 4)
    first, second = (running(project, "live", "--partitions", partitions) for partitions in ("0,1", "2,3"))
    deadline = time.monotonic() + 60
    while len(runs_with_rows(project)) < 2:
        assert time.monotonic() < deadline and first.poll() is None and second.poll() is None, said(first) + said(second)
        sent(20)
    kill(first)
    sent(20)
    # The other takes over what is left when it is told to.
    project.json("stream", "live", "--partitions", "0,1", "--until-end")
    until_read(project, {"live": second}, sent.counts)
    stop(second)
    check(project, sent.folds, small_model)


def test_every_prediction_is_sent_to_the_live_topic_at_least_once_with_its_id(stream, broker, small_model):
    project, topic = stream
    broker.topic(topic, 2)
    sent = Partitions(broker, topic, 2)
    path = project.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace("[stream]", f"""[live]
topic = "{topic}-out"
[live.kafka]
"bootstrap.servers" = "{broker.address}"
[stream]"""))
    answer = project.call("stream", "live", "--until-end")
    assert answer.code == 1 and f"there is no topic `{topic}-out`" in answer.stderr, answer
    broker.topic(f"{topic}-out", 3)
    numbers = random.Random(9)
    for round_ in range(5):
        committed = one_more_with_rows(project) if round_ % 2 == 0 else None
        feed_and_end(project, ["live"], sent, numbers.uniform(0.5, 1.5), committed)
    assert len(runs_with_rows(project)) >= 3, "else the last run has done it all"
    project.json("stream", "live", "--until-end")
    check(project, sent.folds, small_model)
    table = {f"live/{row['source_partition']}/{row['source_offset']}": row
             for row in project.table("predictions.live").scan().to_arrow().to_pylist()}
    records = [record.split("\x02") for record in broker.command("read", f"{topic}-out").split("\x01")]
    assert {record[0] for record in records} == table.keys() and len(records) >= len(table)
    for id_, key, value in records:
        row, message = table[id_], json.loads(value)
        assert key == row["nim"] == message["nim"]
        assert (message["seen"], message.get("x"), message["probability"]) == (row["seen"], row["x"], row["probability"])


def test_a_live_topic_that_is_away_is_waited_for(project, broker, small_model):
    topic = "risk-of-files"
    (project.folder / "events").mkdir()
    write_pipeline(project, 'files = "events"')
    path = project.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace("[stream]", f"""[live]
topic = "{topic}"
[live.kafka]
"bootstrap.servers" = "{broker.address}"
"queue.buffering.max.messages" = "400"
[stream]"""))
    append(project, 0, events(0, 100))
    answer = project.call("stream", "live", "--until-end")
    if "built without Kafka" in answer.stderr:
        missing("Kafka", "the binary was built without the feature `kafka`")
    assert answer.code == 1 and "there is no topic" in answer.stderr, answer
    broker.topic(topic, 2)

    def until(what, seconds):
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline and process.poll() is None, said(process)
            time.sleep(0.2)

    def rows():
        return project.table("predictions.live").scan().to_arrow().num_rows

    process = running(project, "live")
    until(lambda: rows() == len(fold_files(project)[0].predictions), 60)
    broker.stop()
    before = rows()
    # More than its queue takes.
    append(project, 0, events(0, 700, start=100))
    until(lambda: f"predictions wait for the topic `{topic}` of [live] since 3" in said(process), 60)
    assert rows() == before
    broker.start()
    until(lambda: rows() == len(fold_files(project)[0].predictions), 90)
    # Away again: told to stop it ends at once, and loses nothing.
    broker.stop()
    append(project, 0, events(0, 700, start=800))
    time.sleep(2)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 1 and time.monotonic() - told < 15, said(process)
    assert "told to stop" in said(process) and "nothing is lost" in said(process), said(process)
    broker.start()
    project.json("stream", "live", "--until-end")
    check(project, fold_files(project), small_model)
    records = [record.split("\x02") for record in broker.command("read", topic).split("\x01")]
    table = project.table("predictions.live").scan().to_arrow().to_pylist()
    assert {record[0] for record in records} == {f"live/0/{row['source_offset']}" for row in table}


def test_events_that_were_removed_unread_stop_the_stream(stream, broker):
    project, topic = stream
    broker.topic(topic, 1)
    sent = Partitions(broker, topic, 1)
    sent.send(0, 50)
    project.json("stream", "live", "--until-end")
    sent.send(0, 50)
    broker.command("trim", topic, "0", "80")
    answer = project.call("stream", "live", "--until-end")
    assert answer.code in (1, 2) and "were removed before they were read" in answer.stderr, answer


def test_a_topic_that_was_made_again_stops_the_stream(stream, broker):
    project, topic = stream
    broker.topic(topic, 1)
    sent = Partitions(broker, topic, 1)
    sent.send(0, 50)
    project.json("stream", "live", "--until-end")
    broker.command("delete", topic)
    broker.topic(topic, 1)
    answer = project.call("stream", "live", "--until-end")
    assert answer.code in (1, 2) and "it was made again" in answer.stderr, answer
    # By its positions it could be the old one: it has more events.
    sent.send(0, 80)
    before = project.table("predictions.live").scan().to_arrow().num_rows
    answer = project.call("stream", "live", "--until-end")
    assert answer.code in (1, 2) and "it was made again" in answer.stderr, answer
    assert project.table("predictions.live").scan().to_arrow().num_rows == before > 40


def rows_by_table(project, *namespaces):
    tables = [f"{namespace}.{table}" for namespace in namespaces for table in ("live", "late", "dead")]
    return {table: len(project.predictions(table)) for table in tables}


def made_again(topic, broker, count):
    """By the same name, with events of others."""
    broker.command("delete", topic)
    broker.topic(topic, 2)
    for partition in range(2):
        broker.send(topic, partition, events(7 + partition, count, start=200))


@pytest.mark.parametrize("then", ["stays away", "is empty", "has more", "has more after a pause"])
def test_a_topic_that_is_made_again_ends_the_streams_that_run(stream, broker, then):
    project, topic = stream
    # Members of a group look for it as often as this.
    write_pipeline(project, source_of(topic, broker, topic_metadata_refresh_interval_ms=1000))
    alone(project)
    broker.topic(topic, 2)
    sent = Partitions(broker, topic, 2)
    processes = {name: running(project, name) for name in ("live", "alone")}
    sent(50)
    until_read(project, processes, sent.counts)
    before = rows_by_table(project, "predictions", "alone")
    assert before["predictions.live"] == before["alone.live"] > 80
    if "pause" in then:
        for process in processes.values():
            process.send_signal(signal.SIGSTOP)
    if then == "stays away":
        broker.command("delete", topic)
        reasons = ["is gone", "there is no topic"]
    else:
        made_again(topic, broker, 200 if "more" in then else 0)
        reasons = ["is gone", "it was made again"]
    for process in processes.values():
        process.send_signal(signal.SIGCONT)
        process.wait(timeout=60)
    assert rows_by_table(project, "predictions", "alone") == before
    for process in processes.values():
        assert process.returncode == 1 and any(reason in said(process) for reason in reasons), said(process)


class Member:
    """A process of a group that commits once a minute, or when it must, after one that has read what there was."""

    def __init__(self, project, topic, broker):
        self.project, self.topic, self.broker = project, topic, broker
        write_pipeline(project, source_of(topic, broker, session_timeout_ms=6000))
        broker.topic(topic, 2)
        self.sent = Partitions(broker, topic, 2)
        self.sent(50)
        project.json("stream", "live", "--until-end")
        path = project.folder / "pipelines" / "live.toml"
        path.write_text(path.read_text().replace('"200 ms"', '"60 s"').replace("max_rows = 300", "max_rows = 100000"))
        self.before = self.rows()
        self.process = running(project, "live")
        self.until(lambda: self.own("ended") is False and self.own("partitions") == [0, 1])
        assert self.process.poll() is None, said(self.process)

    def rows(self):
        return rows_by_table(self.project, "predictions")

    def own(self, key):
        return next((one[key] for one in self.project.json("stream", "status", "live")[0]["processes"]), None)

    def until(self, condition, patience=60):
        """Or until the process ends, or the patience does."""
        deadline = time.monotonic() + patience
        while self.process.poll() is None and time.monotonic() < deadline and not condition():
            time.sleep(0.05)

    def until_read(self, events):
        self.until(lambda: self.own("events") == events)
        assert self.process.poll() is not None or self.own("events") == events, said(self.process)

    def has_committed(self):
        return self.rows() != self.before


@pytest.mark.parametrize("then", ["is gone as well", "cannot be asked"])
def test_what_was_read_of_a_topic_is_committed_only_if_it_is_still_that_topic(stream, broker, then):
    """Events of another topic are read, and when they are to be committed nobody says any more which topic it was."""
    member = Member(*stream, broker)
    member.process.send_signal(signal.SIGSTOP)
    made_again(member.topic, broker, 200)
    member.process.send_signal(signal.SIGCONT)
    # Or it has seen by then what it reads, and has ended.
    member.until_read(300)
    try:
        if then == "is gone as well":
            broker.command("delete", member.topic)
        else:
            broker.process.send_signal(signal.SIGSTOP)
            # Its session ends: it gives its partitions up.
            member.until(member.has_committed, 8)
        member.process.send_signal(signal.SIGTERM)
        member.until(member.has_committed, 3)
    finally:
        broker.process.send_signal(signal.SIGCONT)
    member.process.wait(timeout=60)
    assert not member.has_committed(), said(member.process)


def test_a_member_goes_on_after_its_broker_stood_still_for_longer_than_its_session(stream, broker, small_model):
    """It was told once that another process had its name: by its own commit of offsets, from before it was back."""
    member = Member(*stream, broker)
    member.sent(25)
    member.until_read(50)
    broker.process.send_signal(signal.SIGSTOP)
    try:
        member.until(member.has_committed, 8)
    finally:
        broker.process.send_signal(signal.SIGCONT)
    member.sent(25)
    # What it had not committed when it was missed it reads again.
    member.until(lambda: member.own("events") >= 100)
    stop(member.process)
    member.project.json("stream", "live", "--until-end")
    check(member.project, member.sent.folds, small_model)


def begun_at(project, topic, broker, start, **options):
    """The pipeline with `start`."""
    write_pipeline(project, f'start = "{start}"\n' + source_of(topic, broker, **options))


def older(broker, sent, count):
    """Events that are there before a stream begins behind them, of the same students."""
    for partition in range(len(sent.counts)):
        broker.send(sent.topic, partition, events(partition, count))
        sent.counts[partition] += count


def positions(project):
    return [partition["position"] for partition in project.json("stream", "status", "live")[0]["partitions"]]


def test_a_stream_begins_at_the_end_of_its_topic_once_and_for_all_partitions(stream, broker, small_model):
    """Killed before it has read an event, shared out, grown, and with windows that are built again."""
    project, topic = stream
    broker.topic(topic, 4)
    sent = Partitions(broker, topic, 4)
    older(broker, sent, 60)
    begun_at(project, topic, broker, "latest")
    status = project.json("stream", "status", "live")[0]
    assert (status["lag"], status["source_error"]) == (0, None) and positions(project) == [60] * 4, status
    # The first swap is all that it came to, and it was to read half of the partitions.
    died = project.process("stream", "live", "--partitions", "0,1", "--until-end", environment={"INSIGHTERA_FAULT": "kill:after:swap@1"})
    assert died < 0, "it was not killed"
    sent(50)
    assert project.json("stream", "live", "--partitions", "0,1", "--until-end")[0]["events"] == 100
    assert project.json("stream", "live", "--partitions", "2,3", "--until-end")[0]["events"] == 100
    check(project, sent.folds, small_model)
    # What comes to a partition that the topic gets now is not skipped, whatever `start` says.
    broker.command("grow", topic, "5")
    sent.folds.append(Fold())
    sent.counts.append(0)
    sent(50)
    assert project.json("stream", "live", "--until-end")[0]["events"] == 250
    check(project, sent.folds, small_model)
    for file in (project.folder / "warehouse" / "_streams").rglob("*"):
        if file.is_file():
            file.unlink()
    sent(50)
    answer = project.call("stream", "live", "--until-end")
    assert answer.code == 0 and "read again from offset 60" in answer.stderr and "from offset 0" in answer.stderr, answer
    check(project, sent.folds, small_model)
    again = project.json("stream", "replay", "live")
    assert again["compared"]["different"] == again["compared"]["missing"] == again["compared"]["extra"] == 0, again


def test_a_stream_begins_at_a_time(stream, broker, small_model):
    """At Kafka's first record that is not before it, by partition; where there is none at the end."""
    project, topic = stream
    # Its records are of years ago, by their own times.
    broker.topic(topic, 4, retention_ms=-1)
    sent = Partitions(broker, topic, 4)
    at = 1_767_000_000_000
    # Before it, around it, after it, and none at all.
    times = [[at - 1] * 40, [at - 1000 + 50 * number for number in range(40)], [at] * 40, []]
    for partition, stamps in enumerate(times):
        lines = events(partition, len(stamps))
        offsets = broker.send(topic, partition, [(line, "key", stamp) for line, stamp in zip(lines, stamps)])
        sent.counts[partition] += len(stamps)
        for offset, line, stamp in zip(offsets, lines, stamps):
            if stamp >= at:
                sent.folds[partition].take((partition, offset), line)
    begun_at(project, topic, broker, "2025-12-29T16:20:00+07:00")
    assert positions(project) == [40, 20, 0, 0]
    assert project.json("stream", "live", "--until-end")[0]["events"] == 60
    sent(30)
    # It is over once the stream has begun.
    begun_at(project, topic, broker, "2030-01-01T00:00:00Z")
    assert project.json("stream", "live", "--until-end")[0]["events"] == 120
    check(project, sent.folds, small_model)


def test_check_says_where_a_topic_can_be_begun(stream, broker):
    project, topic = stream
    for start, says in [("yesterday", "`yesterday` is not where a topic can be begun"),
                        ("2026-01-31T00:00:00", "a time with its zone")]:
        begun_at(project, topic, broker, start)
        answer = project.call("check", "live")
        assert answer.code == 1 and says in answer.stderr and "live.toml" in answer.stderr, answer
    write_pipeline(project, 'files = "events"\nstart = "latest"')
    answer = project.call("check", "live")
    assert answer.code == 1 and "`start` goes with `topic`" in answer.stderr, answer


def test_the_options_that_the_tables_decide_are_refused(stream, broker):
    project, topic = stream
    broker.topic(topic, 1)
    for option, says in [('"auto.offset.reset" = "latest"', "it is always `error`"),
                         ('"no.such.option" = "1"', "librdkafka's"),
                         ('"sasl.password" = "env:NO_SUCH_VARIABLE"', "no variable `NO_SUCH_VARIABLE`")]:
        write_pipeline(project, f'topic = "{topic}"\n[source.kafka]\n"bootstrap.servers" = "{broker.address}"\n{option}')
        answer = project.call("stream", "live", "--until-end")
        assert answer.code == 1 and says in answer.stderr, answer
