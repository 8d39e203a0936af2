"""What the benchmarks of streams share: the project, the events, the broker, and what is in the tables after a run."""

import datetime
import glob
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(os.environ.get("INSIGHTERA_BENCH_WORK") or ROOT / ".cache/bench/stream").resolve()
OUT = WORK if os.environ.get("INSIGHTERA_BENCH_WORK") else ROOT / "bench"
SHIPPED = ROOT / "crates/insightera/assets/university/models/student_dropout_risk_model/v1"
PIPELINES = {"dropout": ("dropout_risk_realtime", "student-events"),
             "anomaly": ("transaction_anomaly_realtime", "financial-transactions")}
KEYS = {"dropout": "nim", "anomaly": "unit_kerja_sk"}
EVENTS = {"files": {"dropout": 4_000_000, "anomaly": 4_000_000}, "topic": {"dropout": 33_000_000, "anomaly": 66_000_000}}
# Seconds that a topic has to last.
LONG = 60
# Beyond so many deviations a payment is an anomaly.
UNUSUAL = 3


def binary():
    path = Path(os.environ.get("INSIGHTERA_BIN") or ROOT / "target/release/insightera")
    if not path.exists():
        sys.exit(f"there is no {path}: run `cargo build --release`, or set INSIGHTERA_BIN")
    return str(path)


def measured(command):
    report = WORK / "measure.json"
    done = subprocess.run([sys.executable, ROOT / "bench/measure.py", report, "--", *map(str, command)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr[-3000:]}")
    return json.loads(report.read_text()), json.loads(done.stdout[done.stdout.index("[" if "[" in done.stdout else "{"):])


def university(students):
    """A project with the demo's tables, without events."""
    folder = WORK / f"university-{students}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([binary(), "demo", "--students", str(students), "--events-for", "0", "--dir", folder / "project"],
                       check=True, stdout=subprocess.DEVNULL)
        (folder / "done").touch()
    return folder / "project"


def keys(project, sql):
    done = subprocess.run([binary(), "--project", project, "sql", sql, "--format", "json"], check=True,
                          capture_output=True, text=True)
    return [list(row.values()) for row in json.loads(done.stdout)]


def settings(project, kind):
    return tomllib.loads((project / "pipelines" / f"{PIPELINES[kind][0]}.toml").read_text())


def forest(project):
    """Has the pipeline score with 100 trees; answers the folder of the model."""
    folder = WORK / "forest"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        subprocess.run([binary(), "demo", "--export-training", folder / "data"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([sys.executable, ROOT / "bench/stream_job.py", "train", folder / "data/dropout.parquet", SHIPPED,
                        folder / "model", folder / "scratch"], check=True, stdout=subprocess.DEVNULL)
        (folder / "done").touch()
    model = settings(project, "dropout")["model"]
    subprocess.run([binary(), "--project", project, "model", "register", model["name"], folder / "model", "--if-absent",
                    "--alias", model["alias"]], check=True, stdout=subprocess.DEVNULL)
    return model_of(project, registered(project)["aliases"][model["alias"]])


def registered(project):
    done = subprocess.run([binary(), "--project", project, "model", "show", settings(project, "dropout")["model"]["name"],
                           "--format", "json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def model_of(project, version):
    """The files of a version."""
    found = next(each for each in registered(project)["versions"] if str(each["version"]) == str(version))
    return project / "registry/artifacts" / found["sha256"]


def trees_of(model):
    """How many trees are in the files of a forest."""
    return reader().sql(f"SELECT count(DISTINCT treeID) FROM '{model}/stages/*RandomForest*/data/*.parquet'").fetchone()[0]


def drawn(kind, known, count, seed):
    """The last hour's events, in the order of their times: the entity, the line, and whether it is an anomaly.

    `#` stands for the number of the event.
    """
    numbers = random.Random(seed)
    start = time.time() - 3600
    for index in range(count):
        at = start + 3600 * index / count
        entity = numbers.randrange(len(known))
        if kind == "dropout":
            moment = datetime.datetime.fromtimestamp(at, datetime.timezone.utc).isoformat()
            yield entity, (f'{{"nim":"{known[entity][0]}","event_type":"attendance",'
                           f'"event_data":"{{\\"attendance_flag\\":{int(numbers.random() < 0.85)}}}","timestamp":"{moment}"}}\n'), False
        else:
            unit, average, deviation = known[entity]
            amount = round((average or 1e6) + numbers.gauss(0, 1) * (deviation or 0), 2)
            unusual = average is not None and bool(deviation) and abs(amount - average) / deviation > UNUSUAL
            yield entity, (f'{{"transaksi_id":"S#","unit_kerja_sk":"{unit}","jumlah_transaksi":{amount},'
                           f'"timestamp":{int(at * 1000)}}}\n'), unusual


def write_events(folder, kind, known, count, files, seed):
    """An entity is always in the same file of four. Answers how many anomalies there are."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lanes, anomalies = 4, 0
    opened = [open(folder / f"events-{number:05d}.ndjson", "w") for number in range(lanes * files)]
    for index, (entity, line, unusual) in enumerate(drawn(kind, known, count, seed)):
        opened[(index * files // count) * lanes + entity % lanes].write(line.replace("#", str(index), 1))
        anomalies += unusual
    for file in opened:
        file.close()
    return anomalies


def keyed_events(kind, known, count):
    """A file of events with their keys before them, and which of them are anomalies."""
    file, anomalies = WORK / "keyed.tsv", numpy.zeros(count, numpy.int64)
    with open(file, "w") as out:
        for index, (entity, line, unusual) in enumerate(drawn(kind, known, count, 3)):
            out.write(f"{known[entity][0]}\t{line}")
            anomalies[index] = unusual
    return file, anomalies


def anomalies_of(flags, count):
    """How many there are of a file that is read from its beginning again at its end."""
    rounds, rest = divmod(count, len(flags))
    return int(rounds * flags.sum() + flags[:rest].sum())


def reader():
    """DuckDB, which reads Iceberg."""
    import duckdb
    import duckdb_extension_avro
    import duckdb_extension_iceberg

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true", "memory_limit": "4GB", "temp_directory": f"{WORK}/duckdb"})
    for module in (duckdb_extension_avro, duckdb_extension_iceberg):
        found = glob.glob(f"{os.path.dirname(module.__file__)}/**/*.duckdb_extension", recursive=True)
        connection.execute(f"LOAD '{found[0]}'")
    return connection


def pointers(project):
    """Where the catalog says that the metadata of each table is."""
    catalog = sqlite3.connect(f"file:{project}/warehouse/catalog.db?mode=ro", uri=True, timeout=30)
    found = catalog.execute("SELECT table_namespace || '.' || table_name, metadata_location FROM iceberg_tables").fetchall()
    catalog.close()
    return {name: location.removeprefix("file://") for name, location in found}


def counted(project, kind, count, anomalies):
    """What is in the tables of a pipeline, and what is wrong with it.

    An event is known by its place in the source or, where the table has no places, by the number in its id.
    """
    pipeline, where = settings(project, kind), pointers(project)
    lake = reader()
    lake.execute(f"CREATE VIEW predictions AS SELECT * FROM iceberg_scan('{where[pipeline['output']['table']]}') "
                 f"WHERE pipeline = '{PIPELINES[kind][0]}'")
    event, entity = {"dropout": ("(source_partition::BIGINT << 40) + source_offset", "nim"),
                     "anomaly": ("replace(anomaly_id, 'financial:S', '')::BIGINT", "entity_id")}[kind]
    rows, entities, versions = lake.sql(
        f"SELECT count(*), count(DISTINCT {entity}), list(DISTINCT model_version) FROM predictions").fetchone()
    # Distinct rows, since DuckDB is slower with the distinct values of an aggregate.
    events, = lake.sql(f"SELECT count(*) FROM (SELECT DISTINCT {event} FROM predictions)").fetchone()
    found = {"rows": rows, "events": events, "entities": entities, "versions": versions}
    alert, = pipeline["alerts"].values()
    beside = {"alerts": alert["table"], "dead": pipeline["stream"]["dead_letters"], "late": pipeline["stream"].get("late_events")}
    # Without windows nothing is late.
    found["late"] = 0
    for name, table in beside.items():
        if table is None:
            continue
        found[name], = lake.sql(f"SELECT count(*) FROM iceberg_scan('{where[table]}')").fetchone()
    if kind == "dropout":
        # Only students who are a high risk at some time: all others' rows in order would take long.
        anomalies, = lake.sql("""
            SELECT count(*) FROM (
                SELECT risk_category AS now, lag(risk_category) OVER (PARTITION BY nim ORDER BY source_partition, source_offset) AS before
                FROM predictions WHERE nim IN (SELECT nim FROM predictions WHERE risk_category = 'High'))
            WHERE now = 'High' AND before IS DISTINCT FROM 'High'""").fetchone()
        found["trees"] = " and ".join(str(trees_of(model_of(project, version))) for version in versions)
    return found, differing("the tables have", found, {"rows": count, "events": count, "alerts": anomalies, "dead": 0, "late": 0})


def differing(what, found, expected):
    wrong = [f"{found[name]:,} {name}, not {number:,}" for name, number in expected.items() if found[name] != number]
    return [f"{what} {', '.join(wrong)}"] if wrong else []


def misreported(report, count):
    return differing("the stream's report has", report, {"events": count, "dead": 0, "late": 0})


def counted_of_peer(kind, scratch, count, anomalies):
    """The same of the peer's tables, which have a row for each window and student of a batch."""
    lake = reader()
    for table in {"dropout": ["live"], "anomaly": ["detections", "alerts"]}[kind]:
        newest = max((scratch / "warehouse/ml_predictions" / table / "metadata").glob("v*.metadata.json"),
                     key=lambda path: int(path.name.split(".")[0][1:]))
        lake.execute(f"CREATE VIEW {table} AS SELECT * FROM iceberg_scan('{newest}')")
    if kind == "dropout":
        rows, = lake.sql("SELECT count(*) FROM live").fetchone()
        # An event is in seven windows.
        events, = lake.sql("SELECT coalesce(sum(n), 0) / 7 FROM (SELECT max(event_count_7d) AS n FROM live GROUP BY nim, window_start)").fetchone()
        found, expected = {"rows": rows, "events": events, "alerts": None}, {"events": count}
    else:
        rows, events = lake.sql("SELECT count(*), count(DISTINCT transaksi_id) FROM detections").fetchone()
        alerts, = lake.sql("SELECT count(*) FROM alerts").fetchone()
        found, expected = {"rows": rows, "events": events, "alerts": alerts}, {"rows": count, "events": count, "alerts": anomalies}
    return found, differing("Spark's tables have", found, expected)


class Kafka:
    """A broker, and what sends to it."""

    def __init__(self):
        sys.path.insert(0, str(ROOT / "tests/judge"))
        import kafka_broker

        shutil.rmtree(WORK / "kafka", ignore_errors=True)
        # As many threads as two processors need, and compiled once: a broker compiles its code for minutes otherwise.
        self.broker = kafka_broker.Broker(WORK / "kafka", more="num.network.threads=1\nnum.io.threads=2\n",
                                          java=["-XX:TieredStopAtLevel=1"]).start()
        subprocess.run(["javac", "-cp", self.broker.classpath, "-d", WORK / "kafka/classes",
                        ROOT / "bench/KafkaLoad.java"], check=True)

    def close(self):
        """Its data are gigabytes."""
        self.broker.close()
        shutil.rmtree(WORK / "kafka/data", ignore_errors=True)

    def java(self, what, *arguments):
        # One compiler and one collector: they run on the processors that are measured.
        return ["java", "-Xmx768m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{WORK}/kafka/classes:{self.broker.classpath}",
                "KafkaLoad", what, self.broker.address, *map(str, arguments)]

    def load(self, what, *arguments):
        """Answers what the process said; its last line is JSON."""
        done = subprocess.run(self.java(what, *arguments), capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"KafkaLoad {what}: {done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


def from_topic(project, kind, topic, address, output=None):
    """The pipeline of `kind` reads a topic, and sends its predictions to `output`."""
    pipeline, files = PIPELINES[kind]
    path = project / "pipelines" / f"{pipeline}.toml"
    text = path.read_text()
    old = f'files = "events/{files}"'
    if old not in text:
        sys.exit(f"{path} has no line `{old}`")
    kafka = f'"bootstrap.servers" = "{address}"'
    new = f'topic = "{topic}"\npartition_key = ["{KEYS[kind]}"]\n[source.kafka]\n{kafka}'
    live = f'\n[live]\ntopic = "{output}"\n[live.kafka]\n{kafka}\n' if output else ""
    path.write_text(text.replace(old, new) + live)


def with_project(project, work):
    """Lets `work` change the project, and brings it back: paths in its tables are absolute."""
    saved = WORK / "saved"
    shutil.rmtree(saved, ignore_errors=True)
    shutil.copytree(project, saved)
    try:
        return work()
    finally:
        shutil.rmtree(project)
        shutil.move(saved, project)


def told(kind, what, text):
    """Prints a figure, and keeps it with the others of topics."""
    print(f"{kind}, {what}: {text}", flush=True)
    kept = WORK / "topics.json"
    figures = json.loads(kept.read_text()) if kept.exists() else {}
    version = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    figures[f"{kind}, {what}"] = f"{text} ({datetime.date.today()}, {machine()}, {version}, load {os.getloadavg()[0]:.1f} at the end)"
    kept.write_text(json.dumps(figures))
    lines = [f"- {name}: {figure}" for name, figure in sorted(figures.items())]
    (OUT / "STREAM-KAFKA.md").write_text("\n".join([
        "# Streams from a Kafka topic", "",
        "`python bench/stream.py topic` and `live` print and write this; the broker, the producer and the reader of the output run "
        "on the same processors. One run a line; rows and alerts are what DuckDB counted in the tables after it.", "", *lines, ""]))


def machine():
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown")
    return f"{os.cpu_count()} cores {model}"


def spark_version():
    import pyspark

    return f"Spark {pyspark.__version__} local[2]"


def rate_of(seconds, events, cost):
    return (f"{events:,} events of 4 partitions in {seconds:.1f} s, first poll to last commit: **{events / seconds:,.0f} events/s** "
            f"({cost['wall']:.1f} s of the process), {1e6 * cost['cpu'] / events:.1f} us of processor an event, {cost['peak'] / 2**20:,.0f} MiB")


def tables_of(kind, found):
    alerts = "" if found["alerts"] is None else f", {found['alerts']:,} alerts"
    entities = "" if "entities" not in found else f" of {found['entities']:,} {'students' if kind == 'dropout' else 'units'}"
    return f"{found['rows']:,} rows{entities}{alerts}"


def by_trees(found):
    return f", {found['trees']} trees" if found.get("trees") else ""
