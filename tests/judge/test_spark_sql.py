"""Statements in Spark's words: our tables and Spark's end up the same, or we say why not."""

import datetime
import re

import pytest

import lakehouse
from lakehouse import multiset, read_with_duckdb, read_with_pyiceberg, read_with_spark

DROPOUT = """
CREATE TABLE IF NOT EXISTS {table} (
    nim STRING NOT NULL COMMENT 'student number',
    nama_mahasiswa STRING,
    prodi_nama STRING,
    risk_score INT,
    dropout_probability DOUBLE,
    risk_category STRING,
    predicted_dropout INT,

    -- Metadata
    feature_timestamp TIMESTAMP,
    prediction_timestamp TIMESTAMP NOT NULL,
    model_version STRING,
    inference_type STRING,  -- 'batch' or 'realtime'

    -- Partition columns
    prediction_date DATE
)
USING iceberg
PARTITIONED BY (days(prediction_date))
TBLPROPERTIES (
    'write.format.default' = 'parquet',
    'write.parquet.compression-codec' = 'snappy',
    'write.metadata.compression-codec' = 'gzip',
    'format-version' = '2'
);
"""
TYPES = """
CREATE TABLE {table} (a BOOLEAN, b TINYINT, c SMALLINT, d INT, e BIGINT, f FLOAT, g DOUBLE, h DECIMAL(12, 3), i STRING,
    j BINARY, k DATE, l TIMESTAMP, m TIMESTAMP_NTZ, n ARRAY<INT>, o MAP<STRING, ARRAY<DOUBLE>>,
    p STRUCT<x: INT, y: STRUCT<z: ARRAY<STRING>>>, q STRING)
USING iceberg PARTITIONED BY (bucket(8, e), truncate(4, i), months(l), q) COMMENT 'every type'
"""
ROWS = """INSERT INTO {table} VALUES
    ('a', 1, 0.5, DATE '2026-01-01', TIMESTAMP '2026-01-01 10:00:00', CAST(1.25 AS DECIMAL(6, 2))),
    ('b', 2, NULL, DATE '2026-01-01', TIMESTAMP '2026-01-01 11:00:00', NULL),
    ('c', NULL, -3.5, DATE '2026-01-02', NULL, CAST(-9.75 AS DECIMAL(6, 2))),
    ('d', 4, 1e10, NULL, TIMESTAMP '2026-01-03 00:00:00', CAST(0 AS DECIMAL(6, 2)))"""
STUDENTS = """CREATE TABLE {table} (id STRING, n INT, x DOUBLE, day DATE, at TIMESTAMP, amount DECIMAL(6, 2))
    USING iceberg PARTITIONED BY (day)"""
CHANGES = """CREATE TABLE {namespace}.changes (id STRING, n INT, x DOUBLE, day DATE, at TIMESTAMP, amount DECIMAL(6, 2))
    USING iceberg"""
CHANGE_ROWS = """INSERT INTO {namespace}.changes VALUES
    ('a', 10, 9.5, DATE '2026-01-01', NULL, NULL), ('d', 40, NULL, DATE '2026-02-01', NULL, NULL),
    ('z', 26, 2.5, DATE '2026-02-01', TIMESTAMP '2026-02-01 00:00:00', NULL)"""
STATEMENTS = [
    STUDENTS,
    ROWS,
    "INSERT INTO {table} (id, day) VALUES ('e', DATE '2026-01-02'), ('f', DATE '2026-01-05')",
    "INSERT INTO {table} SELECT concat(id, '2'), n + 1, x * 2, day, at, amount FROM {table} WHERE n IS NOT NULL",
    CHANGES,
    CHANGE_ROWS,
    "MERGE INTO {table} t USING {namespace}.changes s ON t.id = s.id WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *",
    "ALTER TABLE {table} ADD COLUMNS (note STRING COMMENT 'free text', score FLOAT)",
    "ALTER TABLE {table} ADD COLUMN first_one INT FIRST",
    "ALTER TABLE {table} ADD COLUMN rank INT AFTER n",
    "INSERT INTO {table} (id, n, note, score, first_one, rank) VALUES ('g', 7, 'new', 1.5, 3, 4)",
    "ALTER TABLE {table} ALTER COLUMN n TYPE BIGINT",
    "ALTER TABLE {table} ALTER COLUMN score TYPE DOUBLE",
    "ALTER TABLE {table} ALTER COLUMN amount TYPE DECIMAL(10, 2)",
    "ALTER TABLE {table} RENAME COLUMN note TO remark",
    "ALTER TABLE {table} ALTER COLUMN remark COMMENT 'still free'",
    "ALTER TABLE {table} ALTER COLUMN rank AFTER remark",
    "INSERT INTO {table} (id, n, remark, amount) VALUES ('h', 3000000000, 'renamed', 12345678.25)",
    "ALTER TABLE {table} DROP COLUMN first_one",
    "ALTER TABLE {table} ADD COLUMN first_one STRING",
    "ALTER TABLE {table} ADD PARTITION FIELD bucket(4, id)",
    "INSERT INTO {table} (id, day, first_one) VALUES ('i', DATE '2026-01-06', 'again'), ('j', DATE '2026-01-06', 'text')",
    "ALTER TABLE {table} REPLACE PARTITION FIELD day WITH months(at)",
    "INSERT INTO {table} (id, at) VALUES ('k', TIMESTAMP '2026-03-06 00:00:00')",
    "ALTER TABLE {table} DROP PARTITION FIELD bucket(4, id)",
    "UPDATE {table} SET n = n + 1, remark = concat('was ', id) WHERE day = DATE '2026-01-01' AND x IS NOT NULL",
    "UPDATE {table} AS t SET x = 0.0 WHERE t.id IN (SELECT id FROM {table} WHERE n > 3)",
    "DELETE FROM {table} WHERE n = 4 OR day IS NULL AND x > 1",
    "DELETE FROM {table} AS t WHERE t.id NOT IN (SELECT id FROM {table} WHERE id < 'h') AND amount IS NOT NULL",
    """MERGE INTO {table} AS target USING (SELECT * FROM {namespace}.changes) AS source ON target.id = source.id
        WHEN MATCHED AND source.n = 10 THEN UPDATE SET target.n = source.n, x = target.x + source.x
        WHEN MATCHED THEN DELETE
        WHEN NOT MATCHED AND source.id <> 'q' THEN INSERT (id, n, day) VALUES (source.id, source.n, source.day)""",
    """MERGE INTO {table} t USING {namespace}.changes s ON t.id = s.id AND t.n = s.n
        WHEN NOT MATCHED BY SOURCE AND t.id = 'b2' THEN UPDATE SET remark = 'alone'
        WHEN NOT MATCHED BY SOURCE AND t.id = 'c' THEN DELETE""",
    "ALTER TABLE {table} SET TBLPROPERTIES ('owner.team' = 'data', 'write.target-file-size-bytes' = '1048576')",
    "ALTER TABLE {table} UNSET TBLPROPERTIES ('owner.team')",
]


def shape(table):
    """Columns, partition fields and the properties that were given."""
    schema = table.schema()
    columns = [(f.name, str(f.field_type), f.required, f.doc) for f in schema.fields]
    fields = [(schema.find_column_name(f.source_id), str(f.transform), f.name) for f in table.spec().fields]
    ignored = ("created-at", "owner", "write.parquet.compression-codec", "write.metadata.compression-codec",
               "write.format.default")
    return columns, fields, {k: v for k, v in table.properties.items() if k not in ignored}


def with_every_column(statement, spark):
    """Spark 3.5 takes no INSERT that leaves columns out: the same rows, nulls written out."""
    found = re.match(r"INSERT INTO (\S+) \(([^)]*)\) VALUES (.*)", statement, re.DOTALL)
    if not found:
        return statement
    table, named, values = found.groups()
    named = [name.strip() for name in named.split(",")]
    columns = [name if name in named else f"NULL AS {name}" for name in spark.table(table).columns]
    return f"INSERT INTO {table} SELECT {', '.join(columns)} FROM VALUES {values} AS v({', '.join(named)})"


@pytest.fixture
def two(tmp_path, binary, open_in_spark):
    """Runs a statement here, and in Spark on a catalog of its own, which Spark keeps locked after a write."""
    ours, theirs = (lakehouse.Project(tmp_path / name, binary).create() for name in ("ours", "theirs"))
    for project in (ours, theirs):
        project.catalog().create_namespace("s")
    spark = open_in_spark(theirs)
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.ansi.enabled", "false")

    def run(statement):
        text = statement.format(table="s.t", namespace="s")
        answer = ours.call("sql", text)
        assert answer.code == 0, (text, answer)
        theirs_text = statement.format(table="insightera.s.t", namespace="insightera.s").strip().rstrip(";")
        spark.sql(with_every_column(theirs_text, spark))
        tables = [project.table("s.t") for project in (ours, theirs)]
        assert shape(tables[0]) == shape(tables[1]), statement
        columns = [field.name for field in tables[1].schema().fields]
        rows = [multiset(table.scan().to_arrow(), columns) for table in tables]
        assert rows[0] == rows[1], (statement, rows[0] - rows[1], rows[1] - rows[0])

    run.project = ours
    return run


@pytest.mark.parametrize("statement", [DROPOUT, TYPES], ids=["dropout", "types"])
def test_a_table_is_made_as_spark_makes_it(two, statement):
    two(statement)


def test_every_change_leaves_what_spark_leaves(two, open_in_spark):
    for statement in STATEMENTS:
        two(statement)
    ours = read_with_pyiceberg(two.project, "s.t")
    assert multiset(read_with_spark(open_in_spark(two.project), "s.t"), ours.column_names) == multiset(ours)
    assert multiset(read_with_duckdb(two.project, "s.t"), ours.column_names) == multiset(ours)


def test_the_designs_queries_run_as_they_are_written(empty_project):
    project = empty_project
    name = "ml_predictions.dropout_risk_predictions"
    project.json("sql", DROPOUT.format(table=name))
    insert = "INSERT INTO {0} (nim, risk_score, risk_category, prediction_timestamp, model_version, prediction_date) VALUES {1}"
    row = "('{0}', {1}, '{2}', current_timestamp(), '1', current_date())"
    project.json("sql", insert.format(name, ", ".join([row.format("1", 20, "Low"), row.format("2", 90, "High")])))
    first = project.json("sql", f"SELECT snapshot_id, committed_at FROM {name}.snapshots")[0]
    project.json("sql", f"ALTER TABLE {name} CREATE TAG `before-exams` AS OF VERSION {first['snapshot_id']} RETAIN 365 DAYS")
    project.json("sql", f"UPDATE {name} SET risk_score = 55 WHERE nim = '1'")
    now = project.json("sql", f"SELECT committed_at FROM {name}.snapshots ORDER BY committed_at DESC")[0]["committed_at"]
    before, after = first["committed_at"], now
    for form in ("TIMESTAMP AS OF", "FOR TIMESTAMP AS OF", "FOR SYSTEM_TIME AS OF", "SYSTEM_TIME AS OF"):
        found = project.sql(f"""
            SELECT current.nim, current.risk_score AS current_risk_score, previous.risk_score AS previous_risk_score,
                (current.risk_score - previous.risk_score) AS risk_score_change
            FROM {name} {form} '{after}' AS current
            JOIN {name} {form} '{before}' AS previous ON current.nim = previous.nim
            WHERE ABS(current.risk_score - previous.risk_score) > 10
            ORDER BY ABS(risk_score_change) DESC;""")
        assert [(r["nim"], r["risk_score_change"]) for r in found] == [("1", 35)], form
    for form in (f"VERSION AS OF {first['snapshot_id']}", f"VERSION AS OF '{first['snapshot_id']}'",
                 "VERSION AS OF 'before-exams'", "FOR VERSION AS OF 'before-exams'",
                 "FOR SYSTEM_VERSION AS OF 'before-exams'"):
        found = project.sql(f"WITH old AS (SELECT * FROM {name} {form} WHERE nim = '1') SELECT risk_score FROM old")
        assert found == [{"risk_score": 20}], form
    stats = project.sql(f"""
        SELECT DATE(prediction_timestamp) AS day, model_version, COUNT(*) AS prediction_count,
            AVG(risk_score) AS avg_risk_score, COUNT(CASE WHEN risk_category = 'High' THEN 1 END) AS high_risk_count,
            PERCENTILE_APPROX(risk_score, 0.95) AS p95
        FROM {name} WHERE prediction_timestamp >= current_date() - INTERVAL 30 DAYS
        GROUP BY DATE(prediction_timestamp), model_version ORDER BY day DESC;""")
    assert stats[0]["prediction_count"] == 2 and stats[0]["high_risk_count"] == 1 and stats[0]["avg_risk_score"] == 72.5
    assert stats[0]["day"] == datetime.datetime.now(datetime.timezone.utc).date().isoformat()


@pytest.mark.parametrize("statement, parts", [
    ("CREATE TABLE a.b (x INT, y STRING, X BIGINT) USING iceberg", ["`X` is defined twice", "as `x`"]),
    ("CREATE TABLE a.b (x INT) USING delta", ["USING delta", "USING iceberg"]),
    ("CREATE TABLE a.b (x INT) USING iceberg TBLPROPERTIES ('format-version' = '1')", ["format version 2"]),
    ("CREATE TABLE a.b (x INTEGR) USING iceberg", ["`INTEGR` is not a type", "BIGINT"]),
    ("CREATE TABLE a.b (x INT) USING iceberg PARTITIONED BY (weeks(x))", ["`weeks` is not a partition transform"]),
    ("CREATE TABLE a.b (x INT) USING iceberg PARTITIONED BY (y)", ["no such column"]),
    ("CREATE TABLE a.b (x INT) USING iceberg CLUSTERED BY (x)", ["syntax error", "line 1, column 40", "^"]),
    ("CREATE TABLE s.t (x INT) USING iceberg", ["there is a table `s.t` already", "IF NOT EXISTS"]),
    ("ALTER TABLE s.t ADD COLUMN y INT NOT NULL", ["NOT NULL", "rows that are there"]),
    ("ALTER TABLE s.t ADD COLUMN ID INT", ["has a column `id` already"]),
    ("ALTER TABLE s.t DROP COLUMN dayy", ["did you mean `day`?"]),
    ("ALTER TABLE s.t DROP COLUMN day", ["partition field `day`", "DROP PARTITION FIELD"]),
    ("ALTER TABLE s.t ALTER COLUMN id TYPE INT", ["cannot become `int`", "widen"]),
    ("ALTER TABLE s.t SET TBLPROPERTIES ('insightera.progress.x' = '1')", ["kept by Insightera itself"]),
    ("ALTER TABLE s.t CREATE TAG main", ["`main` is the table itself"]),
    ("ALTER TABLE s.t CREATE TAG x AS OF VERSION 5", ["no snapshot 5", ".snapshots"]),
    ("ALTER TABLE s.t DROP TAG nothing", ["has no tag `nothing`", "`main`"]),
    ("ALTER TABLE s.t FROBNICATE", ["Expected: ADD, DROP, RENAME", "^"]),
    ("SELECT * FROM s.t VERSION AS OF 'nothing'", ["no version 'nothing'", "tags and branches are `main`"]),
    ("SELECT * FROM s.t TIMESTAMP AS OF '1999-01-01'", ["no snapshot at or before", "its only snapshot is"]),
    ("SELECT * FROM s.t TIMESTAMP AS OF '30 days'", ["is not a time"]),
    ("CALL spark_catalog.system.expire_snapshots(table => 's.t', older_than => TIMESTAMP '30 days')", ["is not a time"]),
    ("CALL system.expire_snapshots(tabel => 's.t')", ["no argument `tabel`", "did you mean `table`?"]),
    ("CALL system.expire_snapshot(table => 's.t')", ["did you mean `expire_snapshots`?"]),
    ("CALL system.expire_snapshots()", ["argument `table` is missing"]),
    ("CALL other.system.expire_snapshots('s.t')", ["there is no procedure"]),
    ("CALL system.remove_orphan_files(table => 's.t', older_than => current_timestamp())", ["24 hours"]),
    ("CALL system.rewrite_data_files(table => 's.t', options => map('target-file-size', '1'))",
     ["no option `target-file-size`", "target-file-size-bytes"]),
    ("CALL system.rewrite_data_files(table => 's.t', strategy => 'sort')", ["needs a `sort_order`"]),
    ("CALL system.rewrite_data_files(table => 's.t', where => 'nothing = 1')", ["nothing"]),
    ("CALL system.rollback_to_snapshot('s.t', 12)", ["no snapshot 12"]),
    ("INSERT INTO s.t VALUES ('a')", ["gets 6 columns", "the query has 1"]),
    ("INSERT INTO s.t (id, nn) VALUES ('a', 1)", ["no column `nn`", "did you mean `n`?"]),
    ("INSERT INTO s.t (id, n) VALUES ('a', 'word')", ["column `n`", "does not fit"]),
    ("INSERT OVERWRITE s.t VALUES (1)", ["INSERT OVERWRITE is not supported"]),
    ("DELETE FROM s.t WHERE nope = 1", ["nope", "line 1, column 23"]),
    ("UPDATE s.t SET n = 'x' || id", ["column `n`", "does not fit"]),
    ("MERGE INTO s.t t USING (SELECT 'a' AS id UNION ALL SELECT 'a') s ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = 1",
     ["1 more rows of the source match", "GROUP BY"]),
    ("MERGE INTO s.t t USING (SELECT 1 AS q) s ON false WHEN NOT MATCHED THEN INSERT *", ["needs a column `id`"]),
    ("DROP TABLE s.nothing", ["there is no table `s.nothing`"]),
    ("CREATE VIEW s.v AS SELECT 1", ["is not supported", "MERGE, CALL"]),
])
def test_what_cannot_be_done_is_said(empty_project, statement, parts):
    project = empty_project
    project.json("sql", STUDENTS.format(table="s.t"))
    project.json("sql", ROWS.format(table="s.t"))
    before = project.metadata_location("s.t")
    answer = project.call("sql", statement)
    assert answer.code == 1 and not answer.stdout, answer
    for part in parts:
        assert part in answer.stderr, (part, answer.stderr)
    assert project.metadata_location("s.t") == before
