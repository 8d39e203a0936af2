"""A stream from a real Apache Kafka: transactions, gaps, kills, restarts of the broker; read by PyIceberg."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

from conftest import missing
from test_stream import Fold, check, events, write_pipeline


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    try:
        import kafka_broker

        broker = kafka_broker.Broker(tmp_path_factory.mktemp("kafka"))
    except Exception as error:  # no Java, no Maven, no network
        missing("Kafka", (str(error).splitlines() or ["?"])[0])
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def stream(project, broker, request):
    """A project whose stream reads a topic of its own, and the topic's name."""
    topic = f"events-{request.node.name[:40]}"
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
    """What was sent, partition by partition."""

    def __init__(self, broker, topic, count):
        self.broker, self.topic = broker, topic
        self.folds, self.counts = [Fold() for _ in range(count)], [0] * count

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


def test_kill_9_and_a_restarted_broker_lose_and_repeat_nothing(stream, broker, small_model):
    project, topic = stream
    broker.topic(topic, 4)
    sent = Partitions(broker, topic, 4)
    numbers = random.Random(5)
    for round_ in range(8):
        process = subprocess.Popen([project.binary, "--project", str(project.folder), "stream", "live"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + numbers.uniform(0.6, 1.5)
        while time.monotonic() < deadline:
            for partition in range(4):
                sent.send(partition, 25, numbers.choice(["plain", "commit", "abort"]))
        if round_ == 3:
            broker.stop()
            time.sleep(1)
            broker.start()
            for partition in range(4):
                sent.send(partition, 25)
            time.sleep(2)
            assert process.poll() is None, process.stderr.read()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    project.json("stream", "live", "--until-end")
    check(project, sent.folds, small_model)


def test_two_processes_share_the_partitions_out(stream, broker, small_model):
    project, topic = stream
    broker.topic(topic, 4)
    sent = Partitions(broker, topic, 4)
    running = [subprocess.Popen([project.binary, "--project", str(project.folder), "stream", "live",
                                 "--partitions", partitions], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
               for partitions in ("0,1", "2,3")]
    for _ in range(10):
        for partition in range(4):
            sent.send(partition, 20)
        time.sleep(0.2)
    os.kill(running[0].pid, signal.SIGKILL)
    running[0].wait()
    for partition in range(4):
        sent.send(partition, 20)
    # The other takes over what is left when it is told to.
    taken = subprocess.run([project.binary, "--project", str(project.folder), "stream", "live", "--partitions", "0,1",
                            "--until-end"], capture_output=True, text=True, timeout=120)
    assert taken.returncode == 0, taken.stderr
    time.sleep(1)
    running[1].send_signal(signal.SIGTERM)
    _, said = running[1].communicate(timeout=60)
    assert running[1].returncode == 0, said
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
    for _ in range(5):
        process = subprocess.Popen([project.binary, "--project", str(project.folder), "stream", "live"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + numbers.uniform(0.5, 1.5)
        while time.monotonic() < deadline:
            for partition in range(2):
                sent.send(partition, 25)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
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
    time.sleep(2)
    broker.topic(topic, 1)
    answer = project.call("stream", "live", "--until-end")
    assert answer.code in (1, 2) and "it was made again" in answer.stderr, answer


def test_the_options_that_the_tables_decide_are_refused(stream, broker):
    project, topic = stream
    broker.topic(topic, 1)
    for option, says in [('"auto.offset.reset" = "latest"', "it is always `error`"),
                         ('"no.such.option" = "1"', "librdkafka's"),
                         ('"sasl.password" = "env:NO_SUCH_VARIABLE"', "no variable `NO_SUCH_VARIABLE`")]:
        write_pipeline(project, f'topic = "{topic}"\n[source.kafka]\n"bootstrap.servers" = "{broker.address}"\n{option}')
        answer = project.call("stream", "live", "--until-end")
        assert answer.code == 1 and says in answer.stderr, answer
