"""Debezium's change events in Avro, written by its own classes with a registry's converter, and by fastavro with schemas
like that converter's; the same changes in JSON; read by PyIceberg."""

import datetime
import decimal
import json

import pytest

from conftest import missing
from schema_registry import Registry
from test_stream_formats import framed, registry, rows, write  # noqa: F401
from test_stream_kafka import broker  # noqa: F401

UTC = datetime.timezone.utc
START = datetime.datetime(2026, 1, 5, 8, tzinfo=UTC)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = datetime.timedelta(microseconds=1)
TOMBSTONE = "TOMBSTONE"

PIPELINE = """
kind = "stream"
[source]
topic = "{topic}"
partition_key = ["nim"]
[source.kafka]
"bootstrap.servers" = "{broker}"
[events]
{format}
time = "{time}"
time_zone = "Asia/Jakarta"
max_future = "40000 days"
[events.fields]
{fields}
[entity]
key = ["nim"]
[output]
table = "{name}.live"
[output.columns]
{columns}
source_partition = "source_partition"
source_offset = "source_offset"
[stream]
freshness = "200 ms"
dead_letters = "{name}.dead"
"""

FIELDS = {
    "nim": '"string"', "credits": '"long"', "gpa": '"double"', "active": '"boolean"', "note": '"string"', "born": '"long"',
    "enrolled": '{ type = "timestamp", format = "milliseconds" }',
    "changed": '{ type = "timestamp", format = "microseconds" }', "zoned": '"timestamp"',
    "seat": '{ type = "string", path = "extra.seat" }',
}
CHANGE = ("change_op", "change_timestamp")


def connect(kind, name, **more):
    """A type as the converter writes it."""
    return {"type": kind, "connect.version": 1, "connect.name": name} | more


def time_of(kind, name):
    return connect(kind, f"io.debezium.time.{name}")


def optional(kind):
    return ["null", kind]


COLUMNS = {
    "nim": "string", "credits": optional({"type": "int", "connect.type": "int16"}), "gpa": optional("double"),
    "active": optional("boolean"), "note": optional("string"), "born": optional(time_of("int", "Date")),
    "enrolled": optional(time_of("long", "Timestamp")), "changed": time_of("long", "MicroTimestamp"),
    "zoned": optional(time_of("string", "ZonedTimestamp")), "extra": optional(connect("string", "io.debezium.data.Json")),
}


def record(name, columns, **more):
    fields = [{"name": column, "type": kind} | ({"default": None} if isinstance(kind, list) and kind[0] == "null" else {})
              for column, kind in columns.items()]
    return {"type": "record", "name": name, "fields": fields} | more


def envelope(columns, table="campus.public.students", **more):
    """The schema of a table's changes."""
    source = record("Source", {
        "version": "string", "connector": "string", "name": "string", "ts_ms": "long",
        "snapshot": [connect("string", "io.debezium.data.Enum", **{
            "connect.parameters": {"allowed": "true,first,last,false"}, "connect.default": "false"}), "null"],
        "table": "string", "lsn": optional("long")}, namespace="io.debezium.connector.postgresql")
    block = record("block", {"id": "string", "total_order": "long"}, namespace="event")
    value = record("Value", columns, **{"connect.name": f"{table}.Value"})
    fields = {"before": optional(value), "after": optional("Value"), "source": source, "transaction": optional(block),
              "op": "string", "ts_ms": optional("long"), "ts_us": optional("long")} | more
    return record("Envelope", fields, namespace=table, **{"connect.version": 1, "connect.name": f"{table}.Envelope"})


ENVELOPE = envelope(COLUMNS)


def student(number, nim):
    """A row of the database."""
    some = number % 4 != 3
    return {
        "nim": nim, "credits": number - 20, "gpa": number / 7 if some else None, "active": number % 2 == 0 if some else None,
        "note": f"n-é{number}" if some else None, "born": datetime.date(1969, 12, 1) + datetime.timedelta(days=number) if some else None,
        "enrolled": datetime.datetime(1969, 12, 31, 23, 59, 59, 7000, UTC) + datetime.timedelta(seconds=number) if some else None,
        "changed": START + datetime.timedelta(microseconds=number * 137_001), "zoned": START + datetime.timedelta(hours=number),
        "seat": f"S{number}" if some else None,
    }


def micros(time):
    return (time - EPOCH) // MICROSECOND


def sent(row):
    """A row as the connector has it."""
    if row is None:
        return None
    return row | {
        "born": row["born"] and (row["born"] - EPOCH.date()).days,
        "enrolled": row["enrolled"] and micros(row["enrolled"]) // 1000, "changed": micros(row["changed"]),
        "zoned": row["zoned"].astimezone(datetime.timezone(datetime.timedelta(hours=7))).isoformat(),
        "extra": json.dumps({"seat": row["seat"]}) if row["seat"] else None,
    }


def change(op, before, after, at):
    source = {"version": "3.1.0.Final", "connector": "postgresql", "name": "campus", "ts_ms": at or 0, "snapshot": "false",
              "table": "students", "lsn": 7}
    return {"before": before, "after": after, "source": source, "transaction": None, "op": op, "ts_ms": at,
            "ts_us": at and at * 1000}


def history(count):
    """Changes to a few students: op, the row before and after it, and when the connector saw it; None is a tombstone."""
    now, changes = {}, []
    for number in range(count):
        nim = f"{number % 7:06d}"
        before, after = now.get(nim), student(number, nim)
        at = 1_767_600_000_000 + number
        if before is None:
            changes.append(("r" if number < 7 else "c", None, after, at))
        elif number % 5 == 4:
            changes += [("d", before, None, at), None]
            after = None
        else:
            changes.append(("u", before, after, at if number % 3 else None))
        now[nim] = after
    return changes


def in_avro(one, number=1, schema=ENVELOPE):
    if one is None:
        return TOMBSTONE
    op, before, after, at = one
    return framed(number, write(schema, change(op, sent(before), sent(after), at)))


def in_json(one, number):
    """As the JSON converter writes it, with its schema or without."""
    if one is None:
        return TOMBSTONE
    op, before, after, at = one
    payload = change(op, sent(before), sent(after), at)
    return json.dumps({"schema": {"type": "struct", "fields": []}, "payload": payload} if number % 3 == 0 else payload)


def wanted(one):
    op, before, after, at = one
    row = dict(before if op == "d" else after)
    row["born"] = row["born"] and (row["born"] - EPOCH.date()).days
    return row | {"change_op": op, "change_timestamp": at and EPOCH + datetime.timedelta(milliseconds=at)}


@pytest.fixture
def stream(project, broker, request):  # noqa: F811
    """A function that writes a pipeline over a topic of its own, and answers the topic's name."""

    def make(name, kind, fields=FIELDS, time="changed", of=None):
        topic = f"{of or name}-" + "".join(c if c.isalnum() else "-" for c in request.node.name)[-60:]
        declared = [*fields, *(CHANGE if "debezium" in kind else ())]
        text = PIPELINE.format(
            topic=topic, broker=broker.address, format=kind, time=time, name=name,
            fields="\n".join(f"{field} = {kind}" for field, kind in fields.items()),
            columns="\n".join(f'{column} = "{column}"' for column in declared))
        (project.folder / "pipelines" / f"{name}.toml").write_text(text)
        return topic

    return make


def checked(project, name):
    answer = project.call("check", name)
    if "built without Kafka" in answer.stderr:
        missing("Kafka", "the binary was built without the feature `kafka`")
    assert answer.code == 0, answer


def of_registry(registry, kind="debezium"):  # noqa: F811
    return f'format = "{kind}"\nregistry = {{ url = "{registry.url}" }}'


def run(project, name):
    answer = project.call("stream", name, "--until-end", "--format", "json")
    assert answer.code == 0, answer
    return json.loads(answer.stdout)[0], answer.stderr


def compare(project, name, expected):
    found = rows(project, f"{name}.live")
    assert found.keys() == expected.keys()
    for offset, row in expected.items():
        assert {column: found[offset][column] for column in row} == row, offset
    return found


def dead_of(project, name):
    return {offset: (row["error_class"], row["error_message"], row["payload"])
            for offset, row in rows(project, f"{name}.dead").items()}


def test_changes_in_avro_are_the_rows_of_the_same_changes_in_json(project, broker, stream, registry):  # noqa: F811
    registry.add(1, ENVELOPE)
    changes = history(120)
    # A delete of a table that logs no rows, a truncated table, a key that changed away, and a kind that is none.
    changes[50:50] = [("d", None, None, 5), ("t", None, None, 6), ("u", student(1, "000001"), None, 7),
                      ("m", None, student(2, "000002"), 8)]
    bad = range(50, 54)
    expected = {offset: wanted(one) for offset, one in enumerate(changes) if one and offset not in bad}
    assert {row["change_op"] for row in expected.values()} == set("crud") and None in changes
    found, dead = {}, {}
    for name, kind, payloads in [
        ("plain", 'format = "debezium"', [in_json(one, number) for number, one in enumerate(changes)]),
        ("avro", of_registry(registry), [in_avro(one) for one in changes]),
    ]:
        topic = stream(name, kind)
        checked(project, name)
        broker.topic(topic, 1)
        assert broker.send(topic, 0, payloads) == list(range(len(changes)))
        report, _ = run(project, name)
        assert (report["rows"], report["dead"]) == (len(expected), len(bad)), report
        found[name], dead[name] = compare(project, name, expected), dead_of(project, name)
        for offset, (_, _, payload) in dead[name].items():
            sent_payload = payloads[offset]
            assert payload == (sent_payload if isinstance(sent_payload, bytes) else sent_payload.encode())
        again = project.json("stream", "replay", name)["compared"]
        assert (again["equal"], again["different"]) == (len(expected), 0), again
    ours = {"run_id", "prediction_timestamp", "prediction_date", "pipeline", "definition_hash", "model_version"}
    for offset, row in found["plain"].items():
        assert {k: v for k, v in row.items() if k not in ours} == {
            k: v for k, v in found["avro"][offset].items() if k not in ours}, offset
    assert dead["plain"].keys() == dead["avro"].keys() == set(bad)
    for offset, (kind, message, _) in dead["plain"].items():
        assert dead["avro"][offset][:2] == (kind.replace("json", "avro"), message), offset
    words = {50: "has no `changed`", 51: "of kind `t` has no row", 52: "has no `changed`", 53: "of kind `m` has no row"}
    assert all(word in dead["avro"][offset][1] for offset, word in words.items()), dead["avro"]
    assert {dead["avro"][offset][0] for offset in (51, 53)} == {"avro"}
    assert registry.asked == ["/schemas/ids/1"] * 2, "once by the stream, once by its replay"


@pytest.fixture(scope="session")
def debezium(tmp_path_factory):
    try:
        from debezium_writer import Writer

        return Writer(tmp_path_factory.mktemp("debezium"))
    except Exception as error:  # no Java, no Maven, no network
        missing("Debezium", (str(error).splitlines() or ["?"])[0])


def test_what_debezium_and_its_converters_write_is_read_as_what_it_was(project, broker, stream, registry, debezium):  # noqa: F811
    changes = [("crud"[number % 4] if number > 4 else "r", f"{number % 6:06d}", number) for number in range(100)]
    changes[40:40] = [("t", "000000", 40)]
    schema, in_avro_, in_json_ = debezium.write(changes)
    altered, later, _ = debezium.write(changes[60:], "later")
    registry.add(1, schema)
    registry.add(2, altered)
    payloads = [framed(1, data) for data in in_avro_[:60]] + [framed(2, data) for data in later]
    plain = {
        "nim": '"string"', "gpa": '"double"', "active": '"boolean"',
        "changed": '{ type = "timestamp", format = "microseconds" }', "zoned": '"timestamp"', "fee": '"double"',
        "enrolled": '{ type = "timestamp", format = "milliseconds" }', "exact": '"long"', "born": '"long"',
        "clock": '{ type = "timestamp", format = "microseconds" }', "day": '"long"',
        "moment": '{ type = "timestamp", format = "milliseconds" }', "seat": '{ type = "string", path = "extra.seat" }',
        "places": '{ type = "long", path = "balance.scale" }',
    }
    typed = plain | {name: '"timestamp"' for name in ("changed", "enrolled", "exact", "moment")} | {
        "born": '"string"', "day": '"string"', "fee": '"string"', "balance": '"double"', "clock": '"long"', "level": '"long"'}
    json_topic = stream("plain", 'format = "debezium"', plain)
    avro_topic = stream("avro", of_registry(registry), plain)
    assert stream("typed", of_registry(registry), typed, of="avro") == avro_topic
    checked(project, "typed")
    for topic, sent_ in [(json_topic, in_json_), (avro_topic, payloads)]:
        broker.topic(topic, 1)
        broker.send(topic, 0, sent_)
    ours = {"run_id", "prediction_timestamp", "prediction_date", "pipeline", "definition_hash", "model_version"}
    found = {}
    for name in ("plain", "avro", "typed"):
        report, _ = run(project, name)
        assert (report["rows"], report["dead"]) == (100, 1), dead_of(project, name)
        assert "of kind `t` has no row" in dead_of(project, name)[40][1]
        found[name] = {offset: {k: v for k, v in row.items() if k not in ours}
                       for offset, row in rows(project, f"{name}.live").items()}
    assert found["plain"] == found["avro"]
    for offset, row in found["typed"].items():
        op, nim, number = changes[offset]
        at = START + datetime.timedelta(microseconds=number * 137_001)
        whole = at.replace(microsecond=at.microsecond // 1000 * 1000)
        some = number % 4 != 3
        expected = {
            "nim": nim, "change_op": op, "change_timestamp": START + datetime.timedelta(milliseconds=number),
            # A null is the column's default, as both converters have it.
            "active": number % 2 == 0 if some else True, "changed": at, "fee": f"{decimal.Decimal(number * 101 - 5000) / 100:.2f}",
            "level": number if offset >= 60 else None,
        } | {name: value if some else None for name, value in {
            "gpa": number / 7, "enrolled": whole, "exact": at, "moment": whole, "zoned": at, "clock": number * 1_000_003,
            "born": (datetime.date(1969, 12, 1) + datetime.timedelta(days=number)).isoformat(),
            "day": (EPOCH.date() + datetime.timedelta(days=number)).isoformat(), "seat": f"S{number}",
            "balance": float(decimal.Decimal(-number).scaleb(-(number % 4))), "places": number % 4}.items()}
        assert {column: row[column] for column in expected} == expected, offset


def test_a_table_that_is_altered_is_read_by_the_schema_of_each_change(project, broker, stream, registry):  # noqa: F811
    later = dict(COLUMNS)
    del later["note"]
    # Columns in another order, a new one, and another precision of the same times.
    later = {"level": {"type": "int", "connect.default": 1}, **later, "enrolled": optional(time_of("long", "NanoTimestamp")),
             "changed": connect("long", "org.apache.kafka.connect.data.Timestamp", logicalType="timestamp-millis"),
             "fee": connect("bytes", "org.apache.kafka.connect.data.Decimal", logicalType="decimal", scale=2, precision=10,
                            **{"connect.parameters": {"scale": "2", "connect.decimal.precision": "10"}})}
    fields = FIELDS | {"enrolled": '"timestamp"', "changed": '"timestamp"', "level": '"long"', "fee": '"string"',
                       "fee_number": '{ type = "double", path = "fee" }', "balance": '"double"',
                       "places": '{ type = "long", path = "balance.scale" }'}
    # A decimal that is never null and has a default, of which Avro's default is the bytes as text.
    second = envelope(later)
    value = second["fields"][0]["type"][1]
    value["fields"][-1]["default"] = "\u0000"
    value["fields"].append({"name": "balance", "default": None, "type": ["null", record(
        "VariableScaleDecimal", {"scale": "int", "value": "bytes"}, namespace="io.debezium.data",
        **{"connect.version": 1, "connect.name": "io.debezium.data.VariableScaleDecimal"})]})
    registry.add(1, ENVELOPE)
    registry.add(9, json.dumps(second))
    topic = stream("avro", of_registry(registry), fields)
    checked(project, "avro")
    broker.topic(topic, 1)
    payloads, expected = [], {}
    for number in range(80):
        row = student(number, f"{number % 5:06d}")
        row["changed"] = row["changed"].replace(microsecond=row["changed"].microsecond // 1000 * 1000)
        one = ("c", None, row, 5)
        at = len(payloads)
        if number < 30 or number % 3 == 0:
            payloads.append(in_avro(one))
            expected[at] = wanted(one) | {"level": None, "fee": None, "balance": None, "places": None}
            continue
        fee = decimal.Decimal(number * 101 - 5000) / 100
        after = sent(row)
        after |= {"level": number, "fee": fee, "changed": row["changed"],
                  "enrolled": after["enrolled"] and after["enrolled"] * 10**6 + 999,
                  "balance": None if number % 2 else {"scale": number % 4, "value": (-number).to_bytes(2, "big", signed=True)}}
        del after["note"]
        payloads.append(framed(9, fixed_decimal(second, change("c", None, after, 5))))
        expected[at] = wanted(one) | {
            "note": None, "level": number, "fee": f"{fee:.2f}", "fee_number": float(fee),
            "balance": None if number % 2 else float(decimal.Decimal(-number).scaleb(-(number % 4))),
            "places": None if number % 2 else number % 4}
    broker.send(topic, 0, payloads)
    report, said = run(project, "avro")
    assert (report["rows"], report["dead"]) == (80, 0), dead_of(project, "avro")
    compare(project, "avro", expected)
    told = [line for line in said.splitlines() if "another schema now" in line]
    assert len(told) == 1 and "9: new fields `balance`, `fee`, `level`, without `note`" in told[0], said


def fixed_decimal(schema, value):
    """Written by the schema without the default of its decimal, which no writer needs."""
    schema = json.loads(json.dumps(schema))
    for field in schema["fields"][0]["type"][1]["fields"]:
        if field["name"] == "fee":
            del field["default"]
    return write(schema, value)


def test_what_is_no_change_is_a_dead_letter_with_why_and_is_scored_when_the_pipeline_is_mended(
        project, broker, stream, registry):  # noqa: F811
    registry.add(1, ENVELOPE)
    registry.add(2, record("Value", COLUMNS, namespace="flat"))
    registry.add(3, envelope(COLUMNS | {"credits": "string"}))
    registry.add(4, envelope(COLUMNS | {"changed": time_of("long", "MicroTime")}))
    registry.add(5, envelope(COLUMNS | {"changed": time_of("int", "Date")}))
    registry.add(6, json.dumps({"type": "object"}), "JSON")
    registry.add(7, envelope(COLUMNS | {"changed": time_of("long", "NanoTimestamp")}))
    registry.add(8, envelope(COLUMNS | {"changed": "long"}))
    # Milliseconds, which the schema says it is not.
    fields = FIELDS | {"changed": '{ type = "timestamp", format = "milliseconds" }'}
    topic = stream("avro", of_registry(registry), fields)
    checked(project, "avro")
    broker.topic(topic, 1)
    rows_ = [student(number, f"{number:06d}") for number in range(12)]
    changes = [("c", None, row, 5) for row in rows_]
    whole = in_avro(changes[0])
    after = sent(rows_[1])

    def of(number, more):
        return framed(number, write(json.loads(registry.schemas[number]["schema"]), change("c", None, after | more, 5)))

    cases = [
        (whole, "time", "`changed` is a time in microseconds by its schema, not a time of the declared format"),
        (in_avro(changes[2]), "time", "a time in microseconds by its schema"),
        (framed(2, write(json.loads(registry.schemas[2]["schema"]), after)), "schema", "no field `op`"),
        (of(3, {"credits": "many"}), "type", "`credits` is a string, not a whole number"),
        (of(4, {}), "time", "`changed` is a span in microseconds by its schema"),
        (of(5, {"changed": 20_458}), "time", "`changed` is a day by its schema"),
        (framed(6, whole[5:]), "schema", "schema 6 of the registry: it is of type JSON"),
        (of(7, {}), "time", "`changed` is a time in nanoseconds by its schema"),
        (framed(404, whole[5:]), "schema", "no schema 404"),
        (whole[:-4], "avro", "ends early"),
        (whole + b"\0", "avro", "1 bytes follow"),
        (b'{"op": "c"}', "schema", "begins with byte 123"),
        (in_avro(("d", rows_[3], None, 5)), "time", "a time in microseconds by its schema"),
        # A number that its schema says nothing of is what the pipeline says.
        (of(8, {"changed": 1_767_600_000_123}), None, None),
    ]
    broker.send(topic, 0, [payload for payload, _, _ in cases])
    report, said = run(project, "avro")
    assert (report["rows"], report["dead"]) == (1, len(cases) - 1), report
    found = dead_of(project, "avro")
    for offset, (payload, kind, words) in enumerate(cases[:-1]):
        assert found[offset][0] == kind and words in found[offset][1] and found[offset][2] == payload, (words, found[offset])
    assert rows(project, "avro.live")[len(cases) - 1]["changed"] == EPOCH + datetime.timedelta(milliseconds=1_767_600_000_123)
    assert "schema 2 of the registry" in said and 'format = "avro"' in said, said

    # Without a format the schema alone says what the numbers are.
    stream("avro", of_registry(registry), FIELDS | {"changed": '"timestamp"'})
    done = project.json("stream", "replay-dlq", "avro")[0]
    mended = {0: (changes[0], 0), 1: (changes[2], 0), 12: (("d", rows_[3], None, 5), 0)}
    # The day is midnight in the pipeline's zone, the nanoseconds are what they were as microseconds, by a thousandth.
    assert (done["scored"], done["unreadable"]) == (5, len(cases) - 6), done
    replayed = rows(project, "avro.live")
    for offset, (one, _) in mended.items():
        expected = wanted(one)
        assert {column: replayed[offset][column] for column in expected} == expected, offset
    assert replayed[5]["changed"] == datetime.datetime(2026, 1, 4, 17, tzinfo=UTC)
    assert replayed[7]["changed"] == EPOCH + datetime.timedelta(microseconds=micros(rows_[1]["changed"]) // 1000)
    again = project.json("stream", "replay-dlq", "avro")[0]
    assert (again["scored"], again["snapshot_id"]) == (0, None), again


def test_changes_by_the_schema_of_a_file_and_by_the_time_of_the_connector(project, broker, stream):  # noqa: F811
    path = project.folder / "pipelines" / "change.avsc"
    path.write_text(json.dumps(ENVELOPE))
    topic = stream("avro", 'format = "debezium"\nschema = "change.avsc"', time="change_timestamp")
    checked(project, "avro")
    broker.topic(topic, 1)
    changes = [one for one in history(60) if one is None or one[3]]
    payloads = [one if one == TOMBSTONE else one[5:] for one in map(in_avro, changes)]
    broker.send(topic, 0, [*payloads, write(ENVELOPE, change("c", None, sent(student(1, "000001")), None))])
    run(project, "avro")
    compare(project, "avro", {offset: wanted(one) for offset, one in enumerate(changes) if one})
    dead = dead_of(project, "avro")
    assert list(dead) == [len(changes)] and dead[len(changes)][:2] == ("time", "the event has no `change_timestamp`"), dead


def test_rows_that_kafka_connect_writes_without_an_envelope_have_their_times_too(project, broker, stream, registry):  # noqa: F811
    flat = record("Value", COLUMNS, namespace="campus.public.students")
    registry.add(1, flat)
    fields = FIELDS | {"enrolled": '"timestamp"', "changed": '"timestamp"', "born": '"string"'}
    topic = stream("flat", of_registry(registry, "avro"), fields)
    checked(project, "flat")
    broker.topic(topic, 1)
    students = [student(number, f"{number % 5:06d}") for number in range(40)]
    broker.send(topic, 0, [framed(1, write(flat, {k: v for k, v in sent(row).items() if k != "seat"})) for row in students])
    run(project, "flat")
    compare(project, "flat", {offset: row | {"born": row["born"] and row["born"].isoformat()}
                              for offset, row in enumerate(students)})


def test_what_is_wrong_about_a_schema_of_changes_is_named_with_its_place(project, stream):
    path = project.folder / "pipelines" / "change.avsc"
    path.write_text(json.dumps(ENVELOPE))
    url = 'registry = { url = "http://127.0.0.1:9" }'

    def refused(kind, *says):
        stream("avro", kind)
        answer = project.call("check", "avro")
        assert answer.code == 1 and "avro.toml" in answer.stderr and all(word in answer.stderr for word in says), (kind, answer)

    refused(f'format = "debezium"\nschema = "change.avsc"\n{url}', "not both")
    refused('format = "debezium"\nschema = "no.avsc"', "cannot be read")
    refused(f'format = "debezium"\nmessage = "Event"\n{url}', "`message` goes with")
    refused('format = "json"\nschema = "change.avsc"', '`"debezium"`', "JSON has no schema")
    for schema, says in [
        (record("Value", COLUMNS, namespace="flat"), "no field `op`"),
        (record("Other", {"op": "string"}), "no field `after`"),
        (envelope(COLUMNS | {"fee": connect("bytes", "org.apache.kafka.connect.data.Decimal",
                                            **{"connect.parameters": {"scale": "two"}})}), 'the scale "two"'),
    ]:
        path.write_text(json.dumps(schema))
        refused('format = "debezium"\nschema = "change.avsc"', "`", "is no schema of change events", says)
    path.write_text(json.dumps(ENVELOPE))
    stream("avro", 'format = "debezium"\nschema = "change.avsc"')
    pipeline = project.folder / "pipelines" / "avro.toml"
    text = pipeline.read_text()
    pipeline.write_text('kind = "stream"\n[source]\nfiles = "events"\n[events]' + text.split("[events]", 1)[1])
    answer = project.call("check", "avro")
    assert answer.code == 1 and "change events with a schema are Avro" in answer.stderr, answer
