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
source_partition = "source_partition"
source_offset = "source_offset"
[stream]
freshness = "200 ms"
dead_letters = "predictions.dead"
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
    name = "formats-" + "".join(c if c.isalnum() else "-" for c in request.node.name)[-60:]
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


def test_a_registry_by_tls_is_believed_with_its_certificate_and_not_without(project, broker, topic, tmp_path):  # noqa: F811
    name, pipeline = topic
    key, certificate = tmp_path / "key.pem", project.folder / "pipelines" / "ca.pem"
    done = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key,
                           "-out", certificate, "-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1",
                           "-addext", "basicConstraints=critical,CA:FALSE"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    registry = Registry(both)
    try:
        registry.add(1, FIRST)
        broker.send(name, 0, [framed(1, write(FIRST, first(number))) for number in range(20)])
        pipeline(of_registry(registry))
        answer = project.call("stream", "live", "--until-end")
        assert answer.code == 1 and "certificate" in answer.stderr and "`ca`" in answer.stderr, answer
        pipeline(of_registry(registry, ', ca = "ca.pem"'))
        assert project.json("stream", "live", "--until-end")[0]["rows"] == 20
        same(project, {number: wanted(first(number)) for number in range(20)})
    finally:
        registry.close()


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


def test_what_is_wrong_about_a_format_is_named_with_its_place(project):
    path = project.folder / "pipelines" / "live.toml"
    (project.folder / "pipelines" / "event.avsc").write_text(json.dumps(FIRST))
    url = 'registry = { url = "http://127.0.0.1:9" }'
    for kind, says in [
        ('format = "avro"', "needs a schema"),
        ('format = "avo"', "did you mean `avro`"),
        ('schema = "event.avsc"', "goes with `format = "),
        ('format = "avro"\nschema = "no.avsc"', "cannot be read"),
        (f'format = "avro"\nschema = "event.avsc"\n{url}', "not both"),
        (f'format = "avro"\nmessage = "Event"\n{url}', "`message` goes with"),
        ('format = "protobuf"\nschema = "event.avsc"', "`message` is missing"),
        ('format = "avro"\nregistry = { url = "127.0.0.1" }', "no address of the web"),
        ('format = "avro"\nregistry = { url = "http://127.0.0.1:9", password = "x" }', "without `username`"),
        ('format = "avro"\nregistry = { url = "http://a:b3c@127.0.0.1:9" }', "has credentials"),
        ('format = "avro"\nregistry = { uri = "http://127.0.0.1:9" }', "did you mean `url`"),
        ('format = "avro"\nregistry = { url = "http://127.0.0.1:9", username = "x", password = "env:NO_SUCH_SECRET" }',
         "no variable `NO_SUCH_SECRET`"),
    ]:
        path.write_text(PIPELINE.format(topic="t", broker="127.0.0.1:9", format=kind))
        answer = project.call("check", "live")
        assert answer.code == 1 and says in answer.stderr, (kind, answer)
        assert "live.toml" in answer.stderr or "[events.registry]" in answer.stderr, (kind, answer)
        assert "b3c" not in answer.stderr, answer
    text = PIPELINE.format(topic="t", broker="b", format='format = "avro"\nschema = "event.avsc"')
    head, rest = text.split("[events]", 1)
    path.write_text('kind = "stream"\n[source]\nfiles = "events"\n[events]' + rest)
    answer = project.call("check", "live")
    assert answer.code == 1 and "lines of JSON" in answer.stderr, answer


# ---- Protocol Buffers, written by Google's library

PROTO = """syntax = "proto3";
package campus;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "campus/detail.proto";
message Ignored { string nothing = 1; }
message Event {
  enum Kind { attendance = 0; grade = 1; fee = 2; }
  string nim = 1;
  Kind kind = 2;
  Detail detail = 3;
  map<string, string> fees = 4;
  google.protobuf.StringValue id = 5;
  sint64 count = 6;
  optional bool good = 7;
  google.protobuf.Timestamp at = 8;
  string room = 9;
%s}
"""
DETAIL = """syntax = "proto3";
package campus;
message Detail { optional double points = 1; repeated int32 history = 2; }
"""


def message_class(*more):
    """The same schema by descriptors, and Google's class of its events; `more` are further int32 fields."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2, wrappers_pb2

    field_type = descriptor_pb2.FieldDescriptorProto
    pool = descriptor_pool.DescriptorPool()
    for module in (timestamp_pb2, wrappers_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)

    def add(message, name, number, kind, optional=False, repeated=False, type_name=None):
        field = message.field.add(name=name, number=number, type=kind)
        field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
        if type_name:
            field.type_name = type_name
        if optional:
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")

    detail = descriptor_pb2.FileDescriptorProto(name="campus/detail.proto", package="campus", syntax="proto3")
    message = detail.message_type.add(name="Detail")
    add(message, "points", 1, field_type.TYPE_DOUBLE, optional=True)
    add(message, "history", 2, field_type.TYPE_INT32, repeated=True)
    pool.Add(detail)
    file = descriptor_pb2.FileDescriptorProto(name="campus/event.proto", package="campus", syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto", "campus/detail.proto"])
    add(file.message_type.add(name="Ignored"), "nothing", 1, field_type.TYPE_STRING)
    event = file.message_type.add(name="Event")
    kinds = event.enum_type.add(name="Kind")
    for number, name in enumerate(["attendance", "grade", "fee"]):
        kinds.value.add(name=name, number=number)
    entry = event.nested_type.add(name="FeesEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field_type.TYPE_STRING)
    add(entry, "value", 2, field_type.TYPE_STRING)
    add(event, "nim", 1, field_type.TYPE_STRING)
    add(event, "kind", 2, field_type.TYPE_ENUM, type_name=".campus.Event.Kind")
    add(event, "detail", 3, field_type.TYPE_MESSAGE, type_name=".campus.Detail")
    add(event, "fees", 4, field_type.TYPE_MESSAGE, repeated=True, type_name=".campus.Event.FeesEntry")
    add(event, "id", 5, field_type.TYPE_MESSAGE, type_name=".google.protobuf.StringValue")
    add(event, "count", 6, field_type.TYPE_SINT64)
    add(event, "good", 7, field_type.TYPE_BOOL, optional=True)
    add(event, "at", 8, field_type.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp")
    add(event, "room", 9, field_type.TYPE_STRING)
    for name, number in more:
        add(event, name, number, field_type.TYPE_INT32)
    pool.Add(file)
    files = descriptor_pb2.FileDescriptorSet(file=[
        *(descriptor_pb2.FileDescriptorProto.FromString(m.DESCRIPTOR.serialized_pb) for m in (timestamp_pb2, wrappers_pb2)),
        detail, file])
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("campus.Event")), files.SerializeToString()


def google(made, number, **more):
    event = made(nim=f"{number % 11:06d}", kind=number % 3, count=-number * 10**12, **more)
    micros = number * 137_001
    event.at.seconds = int(START.timestamp()) + micros // 1_000_000
    event.at.nanos = micros % 1_000_000 * 1000
    row = {"nim": event.nim, "kind": ["attendance", "grade", "fee"][number % 3], "count": event.count, "room": "",
           "points": None, "fee": None, "id": None, "good": None,
           "at": START + datetime.timedelta(microseconds=micros)}
    if number % 2:
        event.detail.points = row["points"] = number / 7
        event.detail.history.extend([1, -2, number])
        event.room = row["room"] = f"R-é{number}"
    if number % 3:
        event.fees["total"] = row["fee"] = f"{number}.50"
        event.fees["paid"] = "0"
        event.id.value = row["id"] = f"id-{number}"
    if number % 5:
        event.good = row["good"] = number % 2 == 0
    return event.SerializeToString(), row


def proto_pipeline(project, pipeline, kind):
    pipeline(kind)
    path = project.folder / "pipelines" / "live.toml"
    text = path.read_text()
    for old, new in [('fee = "string"\n', 'fee = { type = "string", path = "fees.total" }\n'),
                     ('fee_number = { type = "double", path = "fee" }\n', ""), ('fee_number = "fee_number"\n', ""),
                     ('day = "string"\n', ""), ('day = "day"\n', "")]:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)


def test_messages_of_googles_library_are_read_by_the_schemas_of_a_registry(project, broker, topic, registry):  # noqa: F811
    name, pipeline = topic
    proto_pipeline(project, pipeline, of_registry(registry).replace("avro", "protobuf"))
    registry.add(3, DETAIL, "PROTOBUF", subject="campus-detail")
    reference = [("campus/detail.proto", "campus-detail", 1)]
    registry.add(4, PROTO % "", "PROTOBUF", reference)
    registry.add(5, PROTO % "  int32 seat = 10;\n", "PROTOBUF", reference)
    plain, _ = message_class()
    seated, _ = message_class(("seat", 10))
    strange, _ = message_class(("later", 11))
    # How many numbers, and the message's own: the second of the file.
    index = b"\x02\x02"
    payloads, expected, dead = [], {}, {}
    for number in range(200):
        made, schema = ((plain, 4), (seated, 5), (strange, 4))[0 if number < 60 else number % 3]
        more = {} if made is plain else {"seat": 7} if made is seated else {"later": 1}
        data, row = google(made, number, **more)
        payload, kind = framed(schema, index + data), None
        if number % 40 == 11:
            payload, kind = payload[:-1] + b"\xff\xff", "protobuf"
        elif number % 40 == 12:
            payload, kind = framed(schema, b"\x02\x08" + data), "protobuf"
        elif number % 40 == 13:
            payload, kind = framed(404, index + data), "schema"
        payloads.append(payload)
        if kind:
            dead[number] = (kind, payload)
        else:
            expected[number] = row
    broker.send(name, 0, payloads)
    answer = project.call("stream", "live", "--until-end", "--format", "json")
    assert answer.code == 0, answer
    same(project, expected)
    found = rows(project, "predictions.dead")
    assert {offset: (row["error_class"], row["payload"]) for offset, row in found.items()} == dead
    assert "fields that its schema has not: 11" in answer.stderr and "new fields `seat`" in answer.stderr, answer.stderr
    again = project.json("stream", "replay", "live")["compared"]
    assert (again["equal"], again["different"]) == (len(expected), 0), again


@pytest.mark.parametrize("compiled", [False, True])
def test_messages_are_read_by_a_proto_file_or_its_compiled_form(project, broker, topic, compiled):  # noqa: F811
    name, pipeline = topic
    folder = project.folder / "pipelines" / "schemas"
    (folder / "campus").mkdir(parents=True)
    made, files = message_class()
    (folder / "event.proto").write_text(PROTO % "")
    (folder / "campus" / "detail.proto").write_text(DETAIL)
    (folder / "event.binpb").write_bytes(files)
    schema = "schemas/event.binpb" if compiled else "schemas/event.proto"
    proto_pipeline(project, pipeline, f'format = "protobuf"\nschema = "{schema}"\nmessage = "campus.Event"')
    made_of = [google(made, number) for number in range(50)]
    broker.send(name, 0, [data for data, _ in made_of])
    assert project.json("stream", "live", "--until-end")[0]["rows"] == 50
    same(project, {number: row for number, (_, row) in enumerate(made_of)})
    path = project.folder / "pipelines" / "live.toml"
    path.write_text(path.read_text().replace("campus.Event", "campus.Even"))
    answer = project.call("check", "live")
    assert answer.code == 1 and "has no message `campus.Even`" in answer.stderr and "`campus.Event`" in answer.stderr, answer
