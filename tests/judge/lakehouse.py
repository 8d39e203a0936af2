"""A project folder as its users have it, and other people's readers for what is in it.

`Project` builds the folder, runs the command line and parses its JSON; the
readers (PyIceberg, DuckDB, Spark) give rows in one canonical form, so that two
answers are equal exactly if they hold the same multiset of rows.
"""

import datetime
import glob
import json
import math
import os
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import pyarrow as pa

FEATURES = "features.student"
PIPELINE = "risk"
MODEL = "risk_model"
OUTPUT = "predictions.risk"
SQL = "SELECT nim, x, y, feature_timestamp FROM features.student"
COLUMNS = {
    "nim": "nim",
    "margin": "margin",
    "probability": "probability",
    "label": "CAST(prediction AS INT)",
    "feature_timestamp": "feature_timestamp",
}
SCHEMA = pa.schema([
    pa.field("nim", pa.string()),
    pa.field("x", pa.float64()),
    pa.field("y", pa.float64()),
    pa.field("feature_timestamp", pa.timestamp("us", tz="UTC")),
])
START = datetime.datetime(2026, 10, 1, 2, tzinfo=datetime.timezone.utc)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class Answer:
    """What one call of the command line gave."""

    def __init__(self, done, seconds):
        self.code, self.stdout, self.stderr, self.seconds = done.returncode, done.stdout, done.stderr, seconds

    @property
    def json(self):
        return json.loads(self.stdout)

    def __repr__(self):
        return f"exit {self.code}\n--- stdout\n{self.stdout[-3000:]}\n--- stderr\n{self.stderr[-3000:]}"


def rows(numbers, x=None, y=None, time=START, schema=SCHEMA):
    """Feature rows of the students `numbers`; `x` and `y` are functions of the number."""
    numbers = list(numbers)
    x = x or (lambda n: math.sin(n) * 3)
    y = y or (lambda n: math.cos(n * 1.7) * 2)
    return pa.table({
        "nim": pa.array([f"{n:06d}" for n in numbers]),
        "x": pa.array([x(n) for n in numbers], pa.float64()),
        "y": pa.array([y(n) for n in numbers], pa.float64()),
        "feature_timestamp": pa.array([time] * len(numbers), pa.timestamp("us", tz="UTC")),
    }).cast(schema)


class Project:
    """One project folder."""

    def __init__(self, folder, binary, environment=None):
        self.folder, self.binary = Path(folder).resolve(), str(binary)
        self.environment = dict(environment or {})

    def create(self, inputs=None):
        """Writes insightera.toml; `inputs` maps a table to its Parquet folder."""
        (self.folder / "pipelines").mkdir(parents=True, exist_ok=True)
        (self.folder / "warehouse").mkdir(exist_ok=True)
        lines = ["format = 1", ""]
        for table, path in (inputs or {}).items():
            lines += [f'[inputs."{table}"]', f'parquet = "{path}"', ""]
        (self.folder / "insightera.toml").write_text("\n".join(lines))
        return self

    def pipeline(self, name=PIPELINE, sql=SQL, strategy="auto", columns=None, table=OUTPUT, key=("nim",), model=MODEL,
                 partition_by=("days(prediction_date)",), features="", feature_time="feature_timestamp"):
        quoted = lambda text: json.dumps(str(text))  # noqa: E731  TOML's basic strings are JSON's
        lines = ['kind = "batch"']
        if model:
            lines += ["[model]", f"name = {quoted(model)}"]
        lines += ["[entity]", f"key = {json.dumps(list(key))}", "[features]", f'sql = """\n{sql}\n"""']
        if feature_time:
            lines.append(f"feature_time = {quoted(feature_time)}")
        lines += [f"strategy = {quoted(strategy)}", features, "[output]", f"table = {quoted(table)}",
                  f"partition_by = {json.dumps(list(partition_by))}", "[output.columns]"]
        lines += [f"{column} = {quoted(expression)}" for column, expression in (columns or COLUMNS).items()]
        (self.folder / "pipelines" / f"{name}.toml").write_text("\n".join(lines) + "\n")
        return self

    # ---- the command line

    def call(self, *arguments, environment=None, **options):
        """Runs the command; a panic is never an answer."""
        import time

        started = time.monotonic()
        done = subprocess.run(
            [self.binary, "--project", str(self.folder), *map(str, arguments)], capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=300, **options,
            env={**os.environ, **self.environment, **(environment or {})})
        answer = Answer(done, time.monotonic() - started)
        assert answer.code in (0, 1, 2), f"ended by a signal or a panic: {answer}"
        assert "panicked at" not in answer.stderr, answer
        return answer

    def process(self, *arguments, environment=None):
        """The exit status of a call that may be killed."""
        return subprocess.run(
            [self.binary, "--project", str(self.folder), *map(str, arguments)], capture_output=True, timeout=300,
            env={**os.environ, **self.environment, **(environment or {})}).returncode

    def json(self, *arguments, **options):
        """The JSON of a command that must succeed."""
        answer = self.call(*arguments, "--format", "json", **options)
        assert answer.code == 0, answer
        return answer.json

    def plan(self, name=PIPELINE):
        return self.json("plan", name)

    def run(self, name=PIPELINE, *options):
        return self.json("run", name, *options)

    def verify(self, name=PIPELINE):
        """Exit code and JSON."""
        answer = self.call("verify", name, "--format", "json")
        assert answer.code in (0, 1), answer
        return answer.code, answer.json

    def sql(self, query):
        return self.json("sql", query)

    def register(self, path, name=MODEL, *options):
        answer = self.call("model", "register", name, path, *options)
        assert answer.code == 0, answer
        version = sum(1 for _ in self.versions(name))
        answer = self.call("model", "promote", name, version)
        assert answer.code == 0, answer
        return version

    def versions(self, name):
        """Counts the promotions of this object: versions are numbered from 1."""
        self._versions = getattr(self, "_versions", {})
        self._versions[name] = self._versions.get(name, 0) + 1
        return range(self._versions[name])

    # ---- the lake, through PyIceberg

    @property
    def database(self):
        return self.folder / "warehouse" / "catalog.db"

    def catalog(self):
        from pyiceberg.catalog.sql import SqlCatalog

        return SqlCatalog("insightera", uri=f"sqlite:///{self.database}", warehouse=f"file://{self.folder}/warehouse")

    def table(self, name):
        return self.catalog().load_table(name)

    def make_table(self, name, *batches, properties=None, schema=None):
        """An Iceberg table with one commit per batch."""
        catalog = self.catalog()
        catalog.create_namespace_if_not_exists(name.split(".")[0])
        table = catalog.create_table(name, schema=schema or batches[0].schema,
                                     properties={"format-version": "2", **(properties or {})})
        for batch in batches:
            table.append(batch)
        return table

    def metadata_location(self, name):
        namespace, table = name.rsplit(".", 1)
        with sqlite3.connect(self.database) as connection:
            found = connection.execute(
                "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = 'insightera' "
                "AND table_namespace = ? AND table_name = ?", (namespace, table)).fetchone()
        connection.close()
        return found and found[0]

    def predictions(self, table=OUTPUT, run_id=None):
        """Rows as dictionaries, of one run or of all."""
        found = self.table(table).scan().to_arrow().to_pylist()
        return [row for row in found if run_id is None or row["run_id"] == run_id]

    def commits(self, table=OUTPUT):
        """Snapshots in the order of the ancestry, oldest first."""
        loaded = self.table(table)
        by_id = {snapshot.snapshot_id: snapshot for snapshot in loaded.metadata.snapshots}
        chain, at = [], loaded.metadata.current_snapshot_id
        while at in by_id:
            chain.append(by_id[at])
            at = by_id[at].parent_snapshot_id
        return chain[::-1]


# ---- readers

def canonical(value):
    """One spelling per value: timestamps in microseconds, floats by their bits, dates in ISO form."""
    if isinstance(value, datetime.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)
        return ("time", (aware - EPOCH) // datetime.timedelta(microseconds=1))
    if isinstance(value, datetime.date):
        return ("date", value.isoformat())
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else value.hex())
    return value


def multiset(table, columns=None):
    """The rows of an Arrow table, counted."""
    columns = columns or table.column_names
    return Counter(tuple(canonical(value) for value in row)
                   for row in zip(*(table[column].to_pylist() for column in columns), strict=True))


def duckdb_connection():
    import duckdb
    import duckdb_extension_avro
    import duckdb_extension_iceberg

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    for module in (duckdb_extension_avro, duckdb_extension_iceberg):
        found = glob.glob(f"{os.path.dirname(module.__file__)}/**/*.duckdb_extension", recursive=True)
        connection.execute(f"LOAD '{found[0]}'")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def read_with_duckdb(project, table):
    location = project.metadata_location(table)
    return duckdb_connection().sql(f"SELECT * FROM iceberg_scan('{location}')").to_arrow_table()


def read_with_pyiceberg(project, table):
    return project.table(table).scan().to_arrow()


def read_with_spark(spark, table):
    frame = spark.table(f"insightera.{table}")
    found = [row.asDict() for row in frame.collect()]
    return pa.table({column: [row[column] for row in found] for column in frame.columns})
