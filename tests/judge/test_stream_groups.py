"""Processes that share a real Kafka topic out: killed, stopped, paused and started during load; read by PyIceberg."""

import json
import os
import signal
import subprocess
import time

import pytest

from conftest import missing
from test_stream import Fold, check, events, summaries, write_pipeline
from test_stream_kafka import Partitions, begun_at, broker, older, source_of, stream  # noqa: F401

SESSION = 6


@pytest.fixture
def group(stream, broker):  # noqa: F811
    """Processes of one group, all ended when the test is."""
    project, topic = stream
    made = Group(project, topic, broker)
    made.options(session_timeout_ms=SESSION * 1000)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


class Group:
    def __init__(self, project, topic, broker):  # noqa: F811
        self.project, self.topic, self.broker, self.running, self.sent = project, topic, broker, [], None

    def options(self, **options):
        write_pipeline(self.project, source_of(self.topic, self.broker, **options))

    def create(self, partitions):
        self.broker.topic(self.topic, partitions)
        self.sent = Partitions(self.broker, self.topic, partitions)

    def start(self):
        log = open(self.project.folder / f"process-{len(self.running)}-{time.monotonic()}.log", "w+")
        process = subprocess.Popen([self.project.binary, "--project", str(self.project.folder), "stream", "live"],
                                   stdout=subprocess.DEVNULL, stderr=log, text=True)
        process.log = log
        self.running.append(process)
        return process

    def said(self, process):
        process.log.seek(0)
        return process.log.read()

    def kill(self, process):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        self.running.remove(process)

    def stop(self, process):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, self.said(process)
        self.running.remove(process)

    def load(self, count=10):
        for partition in range(len(self.sent.counts)):
            self.sent.send(partition, count)

    def until(self, condition, patience, what):
        """Sends events until the condition holds for the status; answers the seconds that it took."""
        start = time.monotonic()
        while True:
            for process in self.running:
                assert process.poll() is None, self.said(process)
            status = self.project.json("stream", "status")[0]
            if condition(status):
                return time.monotonic() - start
            assert time.monotonic() - start < patience, (what, status)
            self.load()
            time.sleep(0.1)

    def shares(self, status):
        return sorted((p["partitions"] for p in status["processes"]), key=len)

    def until_shared(self, sizes, patience=40):
        """All partitions are read, each by one process."""
        def shared(status):
            shares = self.shares(status)
            all_of_them = sorted(partition for share in shares for partition in share)
            return [len(share) for share in shares] == sizes and all_of_them == list(range(sum(sizes)))
        return self.until(shared, patience, sizes)

    def until_committed(self, patience):
        """What has been sent by now is in the table."""
        ends = dict(enumerate(self.ends()))
        def committed(status):
            positions = {p["partition"]: p["position"] for p in status["partitions"]}
            return all(positions.get(partition, 0) >= end for partition, end in ends.items())
        return self.until(committed, patience, ends)

    def ends(self):
        """Offsets behind what was sent; nothing here is a transaction."""
        return self.sent.counts

    def judge(self, small_model):
        for process in list(self.running):
            self.stop(process)
        self.project.json("stream", "live", "--until-end")
        check(self.project, self.sent.folds, small_model)


def test_three_processes_killed_stopped_paused_and_started_during_load(group, small_model):
    group.create(6)
    group.load()
    first, second, third = group.start(), group.start(), group.start()
    group.until_shared([2, 2, 2])
    group.until_committed(20)

    group.kill(second)
    taken = group.until_committed(60)
    assert taken < SESSION + 5, f"a lost process was taken over after {taken:.1f} s"
    group.until_shared([3, 3])

    fourth = group.start()
    group.until_shared([2, 2, 2])

    group.stop(third)
    left = group.until_committed(60)
    assert left < SESSION, f"one that left was waited for: {left:.1f} s"
    group.until_shared([3, 3])

    # One stands still for longer than the group waits, and wakes up with rows that others have written.
    group.load(50)
    first.send_signal(signal.SIGSTOP)
    group.until_committed(60)
    first.send_signal(signal.SIGCONT)
    fifth = group.start()
    group.until_shared([2, 2, 2])
    group.until_committed(20)

    group.kill(first)
    group.kill(fourth)
    group.until_committed(60)
    assert fifth.poll() is None
    epochs = [p["epoch"] for p in group.project.json("stream", "status")[0]["partitions"]]
    assert min(epochs) >= 2 and max(epochs) >= 4, epochs
    group.judge(small_model)


def test_only_partitions_that_move_change_their_epoch(group, small_model):
    group.create(4)
    group.start()
    group.until_shared([4])
    group.start()
    group.until_shared([2, 2])
    group.until_committed(20)
    epochs = sorted(p["epoch"] for p in group.project.json("stream", "status")[0]["partitions"])
    assert epochs == [1, 1, 2, 2], "the others were read on"
    group.judge(small_model)


def test_a_killed_process_has_its_partitions_back_at_once_when_it_is_started_again(group, small_model):
    group.options(session_timeout_ms=45_000)
    group.create(4)
    one = group.start()
    group.start()
    group.until_shared([2, 2])
    group.until_committed(20)
    group.kill(one)
    group.start()
    back = group.until_committed(60)
    assert back < 5, f"it took {back:.1f} s"
    group.until_shared([2, 2])
    group.judge(small_model)


def test_partitions_that_a_topic_gets_later_are_shared_out_as_well(group, small_model):
    group.options(session_timeout_ms=SESSION * 1000, topic_metadata_refresh_interval_ms=1000)
    group.create(2)
    group.start()
    group.start()
    group.until_shared([1, 1])
    group.broker.command("grow", group.topic, "4")
    for number in (2, 3):
        group.sent.folds.append(type(group.sent.folds[0])())
        group.sent.counts.append(0)
    group.until_shared([2, 2])
    group.until_committed(20)
    group.judge(small_model)


def test_processes_that_start_together_begin_a_topic_at_one_moment(group, small_model):
    """Each event from there on is predicted, whoever came to its partition first; none before it."""
    begun_at(group.project, group.topic, group.broker, "latest", session_timeout_ms=SESSION * 1000)
    group.create(6)
    older(group.broker, group.sent, 50)
    sent = []
    group.sent.folds = [Recorder(sent) for _ in range(6)]
    for _ in range(3):
        group.start()
        group.load()
    group.until_shared([2, 2, 2])
    group.until_committed(20)
    commits = [(json.loads(one["insightera.begun"]), json.loads(one["insightera.positions"]))
               for one in summaries(group.project) if "insightera.begun" in one]
    first = {int(partition): offset for partition, offset in commits[0][0].items()}
    assert sorted(first) == list(range(6)) and min(first.values()) >= 50, commits[0]
    assert {json.dumps(begun, sort_keys=True) for begun, _ in commits} == {json.dumps(commits[0][0], sort_keys=True)}
    assert list(commits[0][1].values()) == [commits[0][0]]
    group.sent.folds = [Fold() for _ in range(6)]
    for process in list(group.running):
        group.stop(process)
    group.project.json("stream", "live", "--until-end")
    for (partition, offset), line in sent:
        if offset >= first[partition]:
            group.sent.folds[partition].take((partition, offset), line)
    check(group.project, group.sent.folds, small_model)


class Recorder:
    """In the place of a fold, until it is known where the topic was begun."""

    def __init__(self, sent):
        self.sent = sent

    def take(self, place, line):
        self.sent.append((place, line))


def test_a_process_without_partitions_waits_until_another_ends(group, small_model):
    group.create(1)
    one = group.start()
    group.until_shared([1])
    group.start()
    group.until(lambda status: group.shares(status) == [[], [0]], 20, "one has none")
    group.stop(one)
    group.until_shared([1])
    group.until_committed(20)
    group.judge(small_model)


def test_a_key_that_comes_to_two_processes_is_an_error(group):
    group.create(2)
    processes = [group.start(), group.start()]
    group.until_shared([1, 1])
    # Students of partition 0, and not late.
    group.broker.send(group.topic, 1, events(0, 100, start=max(group.sent.counts)))
    deadline = time.monotonic() + 30
    while all(process.poll() is None for process in processes) and time.monotonic() < deadline:
        group.broker.send(group.topic, 0, events(0, 5))
        time.sleep(0.2)
    said = [group.said(process) for process in processes if process.poll() is not None]
    assert said and "came from partitions" in said[0] and "partition_key" in said[0], said


def test_check_says_who_may_share_a_topic_out(stream, broker):  # noqa: F811
    project, topic = stream
    broker.topic(topic, 2)
    path = project.folder / "pipelines" / "live.toml"
    whole = path.read_text()
    path.write_text(whole.replace('partition_key = ["nim"]', 'partition_key = ["kind"]'))
    answer = project.call("check", "live")
    assert answer.code == 1 and "window `week`" in answer.stderr and "partition_key" in answer.stderr, answer
    path.write_text(whole.replace('partition_key = ["nim"]', 'partition_key = ["student"]'))
    answer = project.call("check", "live")
    assert answer.code == 1 and "student" in answer.stderr, answer
    path.write_text(whole.replace('partition_key = ["nim"]\n', ""))
    checked = project.json("check", "live")[0]
    assert any("one process reads all partitions" in warning for warning in checked["warnings"]), checked
    answer = project.call("stream", "live", "--partitions", "0", "--until-end")
    assert answer.code == 1 and "partition_key" in answer.stderr, answer
    path.write_text(whole)
    assert not any("one process" in warning for warning in project.json("check", "live")[0]["warnings"])


def test_the_same_member_twice_is_an_error_of_the_first(group):
    group.options(group_instance_id="twin")
    group.create(2)
    first = group.start()
    group.until_shared([2])
    group.start()
    deadline = time.monotonic() + 30
    while first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert first.poll() == 1 and "`twin`" in group.said(first), group.said(first)
