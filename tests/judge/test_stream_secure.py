"""Topics of a real Apache Kafka by TLS and SASL: certificates by keytool, PLAIN and SCRAM; read by PyIceberg."""

import subprocess
import time

import pytest

from conftest import missing
from test_stream import check, write_pipeline
from test_stream_kafka import Partitions

USER, PASSWORD = "campus", "pa55word-of-the-test"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    try:
        import kafka_broker

        broker = kafka_broker.Broker(tmp_path_factory.mktemp("kafka-secure"), {USER: PASSWORD})
    except Exception as error:  # no Java, no Maven, no network
        missing("Kafka", (str(error).splitlines() or ["?"])[0])
    broker.start()
    yield broker
    broker.close()


def source(broker, topic, protocol, **options):
    """[source]; options of the client with _ for the dots."""
    options = {"bootstrap_servers": f"127.0.0.1:{broker.ports[protocol]}", "security_protocol": protocol} | options
    lines = "".join(f'\n"{key.replace("_", ".")}" = "{value}"' for key, value in options.items())
    return f'topic = "{topic}"\npartition_key = ["nim"]\n[source.kafka]{lines}'


def sasl(mechanism, **options):
    return {"sasl_mechanism": mechanism, "sasl_username": USER, "sasl_password": "env:CAMPUS_KAFKA"} | options


@pytest.fixture
def topic(project, broker, request):
    """A topic with events in it, and what was sent."""
    name = "secure-" + "".join(c if c.isalnum() else "-" for c in request.node.name)[-60:]
    broker.topic(name, 1)
    sent = Partitions(broker, name, 1)
    sent.send(0, 120)
    project.environment["CAMPUS_KAFKA"] = PASSWORD
    return name, sent


def stream(project):
    started = time.monotonic()
    answer = project.call("stream", "live", "--until-end")
    if "was built without TLS" in answer.stderr:
        assert "cargo build --release --features kafka-tls" in answer.stderr, answer
        assert "apt-get install libssl-dev" in answer.stderr and answer.code == 1, answer
        missing("Kafka by TLS", "the binary was built without the feature `kafka-tls`")
    assert PASSWORD not in answer.stdout + answer.stderr, answer
    return answer, time.monotonic() - started


@pytest.mark.parametrize("protocol, mechanism", [
    ("SASL_PLAINTEXT", "PLAIN"),
    ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
    ("SSL", None),
    ("SASL_SSL", "PLAIN"),
    ("SASL_SSL", "SCRAM-SHA-256"),
    ("SASL_SSL", "SCRAM-SHA-512"),
])
def test_events_come_by_every_protocol_and_mechanism(project, broker, topic, small_model, protocol, mechanism):
    name, sent = topic
    options = sasl(mechanism) if mechanism else {}
    if protocol.endswith("SSL"):
        options["ssl_ca_location"] = broker.folder / "broker.pem"
    write_pipeline(project, source(broker, name, protocol, **options))
    answer, _ = stream(project)
    assert answer.code == 0, answer
    check(project, sent.folds, small_model)


@pytest.mark.parametrize("protocol, mechanism", [
    ("SASL_PLAINTEXT", "PLAIN"), ("SASL_SSL", "PLAIN"), ("SASL_SSL", "SCRAM-SHA-512"),
])
def test_a_wrong_password_is_told_soon_and_not_shown(project, broker, topic, protocol, mechanism):
    name, _ = topic
    project.environment["CAMPUS_KAFKA"] = "wr0ng-of-the-test"
    options = sasl(mechanism)
    if protocol.endswith("SSL"):
        options["ssl_ca_location"] = broker.folder / "broker.pem"
    write_pipeline(project, source(broker, name, protocol, **options))
    answer, seconds = stream(project)
    assert answer.code == 1 and "uthenticat" in answer.stderr and "sasl.password" in answer.stderr, answer
    assert seconds < 10 and "wr0ng-of-the-test" not in answer.stderr + answer.stdout, (seconds, answer)


def test_a_broker_of_another_authority_is_told_soon(project, broker, topic):
    name, _ = topic
    write_pipeline(project, source(broker, name, "SSL", ssl_ca_location=broker.folder / "stranger.pem"))
    answer, seconds = stream(project)
    assert answer.code == 1 and "certificate" in answer.stderr and "ssl.ca.location" in answer.stderr, answer
    assert seconds < 10, seconds


def test_secrets_are_in_no_file_and_no_status(project, broker, topic, small_model):
    name, sent = topic
    options = sasl("SCRAM-SHA-256", ssl_ca_location=broker.folder / "broker.pem")
    write_pipeline(project, source(broker, name, "SASL_SSL", **options))
    answer, _ = stream(project)
    assert answer.code == 0, answer
    said = project.call("stream", "status").stdout + project.call("check", "live").stdout
    assert PASSWORD not in said
    found = subprocess.run(["grep", "-rl", PASSWORD, str(project.folder)], capture_output=True, text=True)
    assert found.stdout == "", found.stdout
    # It goes on from where the tables are.
    sent.send(0, 60)
    assert stream(project)[0].code == 0
    check(project, sent.folds, small_model)


def test_live_output_goes_by_tls_as_well(project, broker, topic):
    name, sent = topic
    broker.topic(f"{name}-live", 1)
    options = sasl("SCRAM-SHA-512", ssl_ca_location=broker.folder / "broker.pem")
    text = source(broker, name, "SASL_SSL", **options)
    client = text[text.index("[source.kafka]"):].replace("[source.kafka]", "[live.kafka]")
    write_pipeline(project, text)
    path = project.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace("[stream]", f'[live]\ntopic = "{name}-live"\n{client}\n[stream]'))
    answer, _ = stream(project)
    assert answer.code == 0, answer
    assert len(broker.command("read", f"{name}-live").split("\x01")) == len(sent.folds[0].predictions)
    project.environment["CAMPUS_KAFKA_LIVE"] = "wr0ng-of-the-test"
    path.write_text(path.read_text().replace(client, client.replace("env:CAMPUS_KAFKA", "env:CAMPUS_KAFKA_LIVE")))
    answer, seconds = stream(project)
    assert answer.code == 1 and "[live.kafka]" in answer.stderr and "uthenticat" in answer.stderr, answer
    assert seconds < 10 and "wr0ng-of-the-test" not in answer.stderr, answer
