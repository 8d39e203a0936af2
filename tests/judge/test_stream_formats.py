"""Events in Avro, written by fastavro, with schemas of a registry or of a file; read by PyIceberg."""

import datetime
import decimal
import io
import json
import os
import subprocess
import time
import uuid

import pytest

from conftest import missing
from schema_registry import Registry
from test_stream_kafka import broker  # noqa: F401

UTC = datetime.timezone.utc
START = datetime.datetime(2026, 1, 5, 8, tzinfo=UTC)

PIPELINE = """
kind = "stream"
[source]
topic = "{topic}"
partition_key = ["nim"]
[source.kafka]
"bootstrap.servers" = "{broker}"
[events]
{format}
time = "at"
allowed_lateness = "9 days"
max_future = "40000 days"
[events.fields]
nim = "string"
kind = "string"
points = {{ type = "double", path = "detail.points" }}
fee = "string"
fee_number = {{ type = "double", path = "fee" }}
id = "string"
day = "string"
room = "string"
count = "long"
good = "boolean"
at = "timestamp"
[entity]
key = ["nim"]
[output]
table = "predictions.live"
[output.columns]
nim = "nim"
kind = "kind"
points = "points"
fee = "fee"
fee_number = "fee_number"
id = "id"
day = "day"
room = "room"
count = "count"
good = "good"
at = "at"
source_offset = "source_offset"
[stream]
freshness = "200 ms"
dead_letters = "predictions.dead"
late_events = "predictions.late"
"""

KIND = {"type": "enum", "name": "Kind", "symbols": ["attendance", "grade", "fee"]}


def record(*fields):
    return {"type": "record", "name": "Event", "namespace": "campus", "fields": [
        {"name": name, "type": kind} | ({"default": None} if isinstance(kind, list) and kind[0] == "null" else {})
        for name, kind in fields]}


FIRST = record(
    ("nim", "string"),
    ("kind", KIND),
    ("detail", ["null", {"type": "record", "name": "Detail", "fields": [
        {"name": "points", "type": ["null", "double"], "default": None},
        {"name": "history", "type": {"type": "array", "items": "int"}}]}]),
    ("fee", {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}),
    ("id", {"type": "string", "logicalType": "uuid"}),
    ("day", {"type": "int", "logicalType": "date"}),
    ("count", "long"),
    ("good", ["null", "boolean"]),
    ("at", {"type": "long", "logicalType": "timestamp-millis"}),
)
# Fields in another order, one more and one less, other widths of the same: the names stay.
SECOND = record(
    ("at", {"type": "long", "logicalType": "timestamp-micros"}),
    ("room", ["null", "string"]),
    ("good", "boolean"),
    ("nim", "string"),
    ("kind", KIND),
    ("count", "int"),
    ("fee", {"type": "fixed", "name": "Fee", "size": 9, "logicalType": "decimal", "precision": 20, "scale": 3}),
    ("tags", {"type": "map", "values": "string"}),
    ("detail", {"type": "record", "name": "Detail", "fields": [{"name": "points", "type": "float"}]}),
    ("day", {"type": "int", "logicalType": "date"}),
)


def write(schema, value):
    import fastavro

    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), value)
    return out.getvalue()


def framed(number, data):
    return b"\0" + number.to_bytes(4, "big") + data


def first(number):
    detail = None if number % 3 == 0 else {"points": None if number % 3 == 1 else number / 7, "history": [1, -2, number]}
    return {
        "nim": f"{number % 11:06d}", "kind": ["attendance", "grade", "fee"][number % 3], "detail": detail,
        "fee": decimal.Decimal(number * 1001 - 5000) / 100, "id": uuid.UUID(int=number << 64 | 7),
        "day": datetime.date(1969, 12, 1) + datetime.timedelta(days=number), "count": number * 10**12 - 5,
        "good": None if number % 5 == 0 else number % 2 == 0, "at": START + datetime.timedelta(milliseconds=number * 137),
    }


def second(number):
    event = first(number)
    return {
        "nim": event["nim"], "kind": event["kind"], "detail": {"points": number / 8}, "tags": {"a": "b", "c": "d"},
        "fee": decimal.Decimal(number * 1001 - 5000) / 1000, "day": event["day"], "count": -number,
        "room": None if number % 2 else f"R-é{number}", "good": number % 2 == 0,
        "at": START + datetime.timedelta(microseconds=number * 137_001),
    }


def wanted(event):
    """The row of an event."""
    fee, detail = event["fee"], event["detail"] or {}
    return {
        "nim": event["nim"], "kind": event["kind"], "points": detail.get("points"), "fee": f"{fee:.{2 if 'id' in event else 3}f}",
        "fee_number": float(fee), "id": str(event["id"]) if "id" in event else None, "day": event["day"].isoformat(),
        "room": event.get("room"), "count": event["count"], "good": event["good"], "at": event["at"],
    }


def rows(project, table="predictions.live"):
    found = project.table(table).scan().to_arrow().to_pylist()
    assert len({row["source_offset"] for row in found}) == len(found), f"{table} has events twice"
    return {row["source_offset"]: row for row in found}


def same(project, expected):
    found = rows(project)
    assert found.keys() == expected.keys()
    for offset, row in expected.items():
        assert {name: found[offset][name] for name in row} == row, offset


@pytest.fixture
def registry():
    registry = Registry()
    yield registry
    registry.close()


@pytest.fixture
def topic(project, broker, request):  # noqa: F811
    """The topic's name, and a function that writes the pipeline."""
    name = f"formats-{request.node.name[:40]}".replace("[", "-").replace("]", "")
    broker.topic(name, 1)

    def pipeline(kind):
        text = PIPELINE.format(topic=name, broker=broker.address, format=kind)
        (project.folder / "pipelines" / "live.toml").write_text(text)
        answer = project.call("check", "live")
        if "built without Kafka" in answer.stderr:
            missing("Kafka", "the binary was built without the feature `kafka`")
        assert answer.code == 0, answer

    return name, pipeline


def of_registry(registry, more=""):
    return f'format = "avro"\nregistry = {{ url = "{registry.url}"{more} }}'


def test_events_of_several_schemas_are_each_read_by_their_own(project, broker, topic, registry):  # noqa: F811
    name, pipeline = topic
    pipeline(of_registry(registry))
    registry.add(1, FIRST)
    registry.add(70_000, SECOND)
    registry.add(8, "{}", "JSON")
    expected, dead = {}, {}
    payloads = []
    for number in range(300):
        early = number < 120 or number % 4 == 0
        event = (first if early else second)(number)
        payload = framed(1 if early else 70_000, write(FIRST if early else SECOND, event))
        kind = None
        if number % 50 == 7:
            payload, kind = payload[:-3], "avro"
        elif number % 50 == 8:
            payload, kind = payload + b"\0", "avro"
        elif number % 50 == 9:
            payload, kind = framed(404, payload[5:]), "schema"
        elif number % 50 == 10:
            payload, kind = b'{"nim": "1"}', "schema"
        elif number % 50 == 11:
            payload, kind = framed(8, payload[5:]), "schema"
        payloads.append(payload)
        if kind:
            dead[number] = (kind, payload)
        else:
            expected[number] = wanted(event)
    offsets = broker.send(name, 0, payloads)
    assert offsets == list(range(300))
    answer = project.call("stream", "live", "--until-end", "--format", "json")
    assert answer.code == 0, answer
    report = json.loads(answer.stdout)[0]
    assert (report["rows"], report["dead"]) == (len(expected), len(dead)), report
    same(project, expected)
    found = rows(project, "predictions.dead")
    assert {offset: (row["error_class"], row["payload"]) for offset, row in found.items()} == dead
    assert any("no schema 404" in row["error_message"] for row in found.values())
    # What changed about the schema is told once, by name.
    told = [line for line in answer.stderr.splitlines() if "another schema now" in line]
    assert len(told) == 1 and "70000" in told[0] and "`room`, `tags`" in told[0] and "`id`" in told[0], answer.stderr
    assert sorted(registry.asked) == [f"/schemas/ids/{n}" for n in (1, 404, 70_000, 8)], "each schema is fetched once"


def test_a_registry_that_is_away_makes_events_wait_and_no_dead_letters(project, broker, topic, registry):  # noqa: F811
    name, pipeline = topic
    registry.credentials = ("campus", "s3cret-of-the-test")
    os.environ["CAMPUS_REGISTRY"] = "s3cret-of-the-test"
    pipeline(of_registry(registry, ', username = "campus", password = "env:CAMPUS_REGISTRY"'))
    registry.add(1, FIRST)
    broker.send(name, 0, [framed(1, write(FIRST, first(number))) for number in range(50)])
    registry.away = True
    log = open(project.folder / "log", "w+")
    process = subprocess.Popen([project.binary, "--project", str(project.folder), "stream", "live"],
                               stdout=subprocess.DEVNULL, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while len(registry.asked) < 4:
            assert process.poll() is None and time.monotonic() < deadline, open(log.name).read()
            time.sleep(0.05)
        assert project.call("sql", "SELECT count(*) FROM predictions.live").code == 0
        registry.away = False
        while not rows(project):
            assert process.poll() is None and time.monotonic() < deadline, open(log.name).read()
            time.sleep(0.2)
        broker.send(name, 0, [framed(1, write(FIRST, first(number))) for number in range(50, 60)])
        while len(rows(project)) < 60:
            assert process.poll() is None and time.monotonic() < deadline, open(log.name).read()
            time.sleep(0.2)
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
    said = open(log.name).read()
    assert said.count("the events wait") == 1 and "503" in said, said
    same(project, {number: wanted(first(number)) for number in range(60)})
    assert not rows(project, "predictions.dead")

    # A password that is refused ends the stream with the address, and never shows it.
    registry.credentials = ("campus", "another")
    answer = project.call("stream", "live", "--until-end")
    broker.send(name, 0, [framed(1, write(FIRST, first(60)))])
    answer = project.call("stream", "live", "--until-end")
    assert answer.code == 1 and registry.url in answer.stderr and "password" in answer.stderr, answer
    assert "s3cret-of-the-test" not in answer.stderr + said + json.dumps(project.json("check", "live"))
    assert len(rows(project)) == 60 and not rows(project, "predictions.dead")


def test_a_schema_of_a_file_reads_values_without_a_number(project, broker, topic):  # noqa: F811
    name, pipeline = topic
    (project.folder / "pipelines" / "event.avsc").write_text(json.dumps(FIRST))
    pipeline('format = "avro"\nschema = "event.avsc"')
    broker.send(name, 0, [write(FIRST, first(number)) for number in range(40)])
    assert project.json("stream", "live", "--until-end")[0]["rows"] == 40
    same(project, {number: wanted(first(number)) for number in range(40)})
    # What the stream made of it is made of it again.
    found = project.json("stream", "replay", "live")["compared"]
    assert (found["equal"], found["different"]) == (40, 0), found
    path = project.folder / "pipelines" / "event.avsc"
    path.write_text(json.dumps(FIRST)[:-1])
    answer = project.call("check", "live")
    assert answer.code == 1 and "event.avsc" in answer.stderr and "no schema" in answer.stderr, answer
