"""`namespace.table.snapshots` and the others: the columns and rows that Spark gives them."""

import json
import re

import pytest

from lakehouse import FEATURES, OUTPUT, rows

NAMES = ["snapshots", "history", "files", "entries", "manifests", "partitions", "refs", "metadata_log_entries"]
TIME = re.compile(r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d")


def plain(value):
    """One form for what two programs print: times in milliseconds, bytes in hexadecimal, maps as pairs."""
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if hasattr(value, "asDict"):
        value = value.asDict()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in sorted(value.items(), key=lambda pair: str(pair[0])) if v is not None}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "isoformat"):
        value = value.isoformat()
    if isinstance(value, str) and TIME.match(value):
        text = value.replace("T", " ").removesuffix("Z").removesuffix("+00:00")
        seconds, _, fraction = text.partition(".")
        return f"{seconds}.{fraction:<03.3}"
    if isinstance(value, float):
        return float(f"{value:.12g}")
    return value


def multiset(found):
    return sorted(json.dumps(plain(row), sort_keys=True, default=str) for row in found)


@pytest.fixture
def lively(project):
    """Two tables: predictions in a partition, features with deletes, an overwrite, a tag and a rollback."""
    project.run()
    table = project.table(FEATURES)
    first = table.current_snapshot().snapshot_id
    table.append(rows(range(200, 220)))
    table.manage_snapshots().create_tag(first, "before").commit()
    table.refresh()
    table.delete("nim = '" + rows(range(3, 4))["nim"].to_pylist()[0] + "'")
    project.run()
    return project


def test_spark_gives_the_same_columns_and_rows(lively, open_in_spark):
    spark = open_in_spark(lively)
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    wrong = []
    for table in (OUTPUT, FEATURES):
        for name in NAMES:
            theirs = spark.sql(f"SELECT * FROM insightera.{table}.{name}")
            ours = lively.sql(f"SELECT * FROM {table}.{name}")
            assert ours, (table, name)
            if list(ours[0]) != theirs.columns:
                wrong.append((table, name, list(ours[0]), theirs.columns))
                continue
            found, wanted = multiset(ours), multiset([row.asDict(recursive=True) for row in theirs.collect()])
            if found != wanted:
                wrong.append((table, name, *next(pair for pair in zip(found + [None], wanted + [None]) if pair[0] != pair[1])))
    assert not wrong, "\n".join(map(str, wrong))


def test_they_can_be_joined_filtered_and_read_as_of_a_snapshot(lively):
    answer = lively.sql(
        f"SELECT s.operation, count(*) AS n FROM {FEATURES}.snapshots s JOIN {FEATURES}.history h "
        f"ON s.snapshot_id = h.snapshot_id GROUP BY 1 ORDER BY 1")
    assert {row["operation"] for row in answer} >= {"append"}
    before = lively.sql(f"SELECT snapshot_id FROM {FEATURES}.refs WHERE name = 'before'")[0]["snapshot_id"]
    tagged = lively.sql(f"SELECT count(*) AS n FROM {FEATURES}.files VERSION AS OF {before}")[0]["n"]
    now = lively.sql(f"SELECT count(*) AS n FROM {FEATURES}.files f")[0]["n"]
    assert 0 < tagged < now
    assert lively.sql(f"SELECT name, type FROM {FEATURES}.refs ORDER BY name") == [
        {"name": "before", "type": "TAG"}, {"name": "main", "type": "BRANCH"}]
    answer = lively.call("sql", f"SELECT * FROM {FEATURES}.history VERSION AS OF {before}")
    assert answer.code == 1 and "has no versions" in answer.stderr and "files, entries" in answer.stderr, answer


@pytest.mark.parametrize("query, message, hint", [
    (f"SELECT * FROM {FEATURES}.snapshot", "has no metadata table `snapshot`", "did you mean `snapshots`?"),
    ("SELECT * FROM gold.nothing.files", "gold.nothing", ""),
])
def test_what_is_not_there_is_named(lively, query, message, hint):
    answer = lively.call("sql", query)
    assert answer.code == 1 and message in answer.stderr and hint in answer.stderr, answer
