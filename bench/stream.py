"""Streams against Spark Structured Streaming, on the same kind of events, in one run.

    python bench/stream.py                  # writes STREAM.md
    python bench/stream.py --pathway PYTHON # the same beside Pathway, which that Python has (pip install pathway)
    python bench/stream.py topic            # from a filled Kafka topic of four partitions; writes STREAM-KAFKA.md
    python bench/stream.py live             # from an open-loop producer to the live output topic; the same

Events are lines of JSON in files, so that no broker's speed is in the figures.
Ours: `insightera stream NAME --until-end` in a new process over files that are
there: every event decoded, its windows updated, joined with the features of the
students, scored by a random forest, and committed to Iceberg, fsync on. The
forest is the shipped pipeline with 100 trees instead of 80 (`stream_job.py
train`), registered as a version of its own; the peer gets the same files. The
peer is `stream_job.py`. Rates are events divided by the seconds from the start
of the query to its last commit; start-up is left out on both sides, the seconds
of the whole process are shown apart. The peer gets fewer events, or it would
take hours. Pathway does less than the others, and `stream_pathway.py` says what.

After every run DuckDB counts what is in the tables. The benchmark ends if an
event has no row or two, is late or set aside, or if an alert is missing or too
much: for payments by what was drawn, for students by the predictions in order.
How many trees scored is read from the files of the version that the rows name.

`topic` and `live` start Apache Kafka beside the stream, on the same cores; the
peer reads a topic of its own, of fewer events, and answers fewer a second. A
`topic` of ours has to last a minute. In `live` an event is due at a fixed time,
which it carries in a header, and its latency is from then until its prediction
was read from the output topic, by a consumer in the producer's process; the lag
grows if the last third of the seconds is more than twice as late as the first.
How soon rows can be queried is from the same due time to the time of the
snapshot that has the row; beside it stands how long after its time a snapshot
was seen in the catalog, which is looked at every 50 ms.

INSIGHTERA_BENCH_WORK is another folder for all that is made, the figures too.
"""

import argparse
import datetime
import glob
import gzip
import json
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
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


def ours(project, kind, events, count, anomalies):
    pipeline, topic = PIPELINES[kind]

    def run():
        for file in sorted(events.iterdir()):
            os.link(file, project / "events" / topic / file.name)
        done = measured([binary(), "--project", project, "stream", pipeline, "--until-end", "--format", "json"])
        return *done, counted(project, kind, count, anomalies)

    cost, report, (found, wrong) = with_project(project, run)
    wrong += misreported(report[0], count)
    if wrong:
        sys.exit(f"{kind}: {wrong[0]}")
    return {"rate": count / report[0]["seconds"], "seconds": report[0]["seconds"], **cost, **found}


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


def filled_topic(project, kind, known, model, options):
    """All events of a topic of four partitions, from the first poll to the last commit. Answers what is wrong."""
    count = options.events or EVENTS["topic"][kind]
    file, anomalies = keyed_events(kind, known, min(count, 2_000_000))
    kafka = Kafka()
    try:
        kafka.load("fill", f"{kind}-filled", 4, file, count)

        def run():
            from_topic(project, kind, f"{kind}-filled", kafka.broker.address)
            done = measured([binary(), "--project", project, "stream", PIPELINES[kind][0], "--until-end", "--format", "json"])
            return *done, counted(project, kind, count, anomalies_of(anomalies, count))

        cost, report, (found, wrong) = with_project(project, run)
        wrong += misreported(report[0], count)
        seconds = report[0]["seconds"]
        text = f"{rate_of(seconds, count, cost)}; {tables_of(kind, found)}"
        if options.events is None and seconds < LONG:
            wrong.append(f"{count:,} events lasted {seconds:.1f} s and not {LONG}: give --only {kind} --events "
                         f"{int(1.2 * count * LONG / seconds)}")
        if wrong:
            print(f"{kind}, filled topic, not kept: {text}", flush=True)
            return [f"{kind}: {each}" for each in wrong]
        told(kind, f"filled topic{by_trees(found)}", text)
        if options.peer_events:
            kafka.load("fill", f"{kind}-peer", 4, file, options.peer_events)
            found = peer(project, kind, f"kafka:{kafka.broker.address}/{kind}-peer", options.peer_events,
                         anomalies_of(anomalies, options.peer_events), model)
            told(kind, f"filled topic{by_trees(found)}, {spark_version()}",
                 f"{rate_of(found['seconds'], options.peer_events, found)}; {tables_of(kind, found)}")
    finally:
        kafka.close()
    return []


def lag(by_second):
    """The medians of the first and the last third of the seconds."""
    third = max(1, len(by_second) // 3)
    # A second without an answer is endlessly late.
    first, last = ([each if each >= 0 else float("inf") for each in part] for part in (by_second[:third], by_second[-third:]))
    return statistics.median(first), statistics.median(last)


def latencies(found, options):
    """What a load says, and what is wrong with it."""
    (first, last), (first_99, last_99) = lag(found["p50_by_second"]), lag(found["p99_by_second"])
    growing = last > 2 * first and last > 100
    text = (f"{options.seconds} s: scheduled send to live output p50 **{found['p50']:,.1f} ms**, p99 **{found['p99']:,.1f} ms**, "
            f"max {found['max']:,.0f} ms of {found['measured']:,}; {found['missing']} of {found['sent']:,} missing; "
            f"{'**a lag that grows**' if growing else 'no growing lag'}: median of the seconds' p50 {first:,.1f} ms in the first third, "
            f"{last:,.1f} in the last (p99 {first_99:,.1f} and {last_99:,.1f}); the producer was "
            f"{found['producer_behind_ms']:.1f} ms behind at most, linger {options.linger} ms")
    wrong = [f"the lag grows from {first:,.1f} to {last:,.1f} ms"] if growing else []
    if found["missing"]:
        wrong.append(f"{found['missing']} predictions are missing")
    return text, wrong


class Commits(threading.Thread):
    """When another process could see each snapshot of a table: its sequence number, by looking at the catalog every 50 ms."""

    def __init__(self, project, table):
        super().__init__(daemon=True)
        self.project, self.table, self.stop, self.seen, self.last = project, table, threading.Event(), [], None

    def run(self):
        while not self.stop.wait(0.05):
            self.look()
        self.look()

    def look(self):
        now, location = time.time(), pointers(self.project).get(self.table)
        if location and location != self.last:
            text = Path(location).read_bytes()
            metadata = json.loads(gzip.decompress(text) if text.startswith(b"\x1f\x8b") else text)
            self.last = location
            self.seen.append((metadata["last-sequence-number"], now))


def queryable(project, kind, commits, start, rate):
    """Seconds from due time to the snapshot that has the row, and from a snapshot's time until it was seen."""
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.manifest import ManifestEntryStatus

    lake, ages, unseen = reader(), [], 0
    due = [numpy.fromfile(WORK / f"due-{partition}", ">i8") for partition in range(4)]
    table = SqlCatalog("insightera", uri=f"sqlite:///{project}/warehouse/catalog.db").load_table(commits.table)
    for snapshot in table.snapshots():
        # Rows of compacted files were there before.
        manifests = snapshot.manifests(table.io) if snapshot.summary.operation.value == "append" else []
        files = [entry.data_file.file_path.removeprefix("file://") for manifest in manifests
                 if manifest.added_snapshot_id == snapshot.snapshot_id
                 for entry in manifest.fetch_manifest_entry(table.io) if entry.status == ManifestEntryStatus.ADDED]
        if not files:
            continue
        rows = f"read_parquet({files}) WHERE pipeline = '{PIPELINES[kind][0]}'"
        if kind == "dropout":
            found = lake.sql(f"SELECT source_partition AS p, source_offset AS o FROM {rows}").fetchnumpy()
            scheduled = numpy.concatenate([times[found["o"][found["p"] == partition]] for partition, times in enumerate(due)])
        else:
            found = lake.sql(f"SELECT replace(anomaly_id, 'financial:S', '')::BIGINT AS number FROM {rows}").fetchnumpy()
            scheduled = start + found["number"] * (1e6 / rate)
        ages.append(snapshot.timestamp_ms / 1e3 - scheduled / 1e6)
        if len(scheduled):
            seen = next(at for sequence, at in commits.seen if sequence >= snapshot.sequence_number)
            unseen = max(unseen, seen - snapshot.timestamp_ms / 1e3)
    if not ages:
        sys.exit(f"no snapshot has rows of {PIPELINES[kind][0]}: {(WORK / 'live.log').read_text()[-3000:]}")
    ages = numpy.concatenate(ages)
    p50, p99, longest = numpy.quantile(ages, [0.5, 0.99, 1])
    return {"rows": len(ages), "p50": p50, "p99": p99, "max": longest, "unseen": unseen}


def queryable_by_the_stream(project, pipeline):
    """The age since arrival at which rows could be queried, in the worst of the intervals that the stream measured."""
    (p50, p99, intervals), = keys(project, f"""
        SELECT max(CASE stage WHEN 'arrival_to_queryable_p50' THEN latency_ms END) / 1000 AS p50,
               max(CASE stage WHEN 'arrival_to_queryable_p99' THEN latency_ms END) / 1000 AS p99,
               count(CASE stage WHEN 'arrival_to_queryable_p99' THEN 1 END) AS intervals
        FROM ml_monitoring.inference_metrics WHERE pipeline = '{pipeline}'""")
    return {"p50": p50, "p99": p99, "intervals": intervals}


def live_topic(project, kind, known, model, options):
    """Due time to prediction read from the live output, and to a row that can be queried. Answers what is wrong."""
    file, anomalies = keyed_events(kind, known, 200_000)
    pipeline, count = PIPELINES[kind][0], int(options.rate * options.seconds)
    freshness = settings(project, kind)["stream"]["freshness"]
    kafka = Kafka()
    try:
        kafka.load("create", f"{kind}-live", 4)
        kafka.load("create", f"{kind}-out", options.output_partitions)

        def run():
            from_topic(project, kind, f"{kind}-live", kafka.broker.address, f"{kind}-out")
            log = open(WORK / "live.log", "w")
            stream = subprocess.Popen([binary(), "--project", project, "stream", pipeline], stdout=log, stderr=log)
            commits = Commits(project, settings(project, kind)["output"]["table"])
            commits.start()
            try:
                # A few seconds for the group; what is sent at the beginning is not measured.
                time.sleep(8)
                found = kafka.load("live", f"{kind}-live", f"{kind}-out", options.rate, options.seconds, file, options.linger, WORK / "due-")
                # The last rows are committed when they are due, not because the stream ends.
                time.sleep(int(freshness.split()[0]) + 3)
                if stream.poll() is not None:
                    sys.exit(f"the stream ended: {(WORK / 'live.log').read_text()[-3000:]}")
            finally:
                stream.terminate()
                ended = stream.wait()
                commits.stop.set()
                commits.join()
            if ended:
                sys.exit(f"the stream ended with {ended}: {(WORK / 'live.log').read_text()[-3000:]}")
            (WORK / f"live-{kind}-{options.rate}.json").write_text(json.dumps(found))
            return (found, queryable(project, kind, commits, found["start"], options.rate), queryable_by_the_stream(project, pipeline),
                    counted(project, kind, count, anomalies_of(anomalies, count)))

        found, ages, own, (rows, wrong) = with_project(project, run)
        text, more = latencies(found, options)
        told(kind, f"live, {options.rate:,} events/s, output of {options.output_partitions} partitions{by_trees(rows)}",
             f"{text}; scheduled send to snapshot in Iceberg p50 {ages['p50']:.1f} s, **p99 {ages['p99']:.1f} s**, max {ages['max']:.2f} s of "
             f"{ages['rows']:,} rows, target {freshness}, seen in the catalog at most {ages['unseen']:.2f} s after its time (the stream's own, "
             f"from arrival to queryable, in the worst of {own['intervals']} intervals: p50 {own['p50']:.1f} s, p99 {own['p99']:.1f} s); "
             f"{tables_of(kind, rows)}")
        print("medians of each second, ms:", found["p50_by_second"], "\n99th percentiles:", found["p99_by_second"])
        wrong = more + wrong + ([f"{ages['rows']:,} rows have a snapshot"] if ages["rows"] != rows["rows"] else [])
        if options.peer_rate:
            spark, trees = spark_live(project, kind, kafka, file, model, options)
            count = int(options.peer_rate * options.seconds)
            rows, missing = counted_of_peer(kind, WORK / "spark", count, anomalies_of(anomalies, count))
            told(kind, f"live, {options.peer_rate:,} events/s{by_trees({'trees': trees})}, {spark_version()}",
                 "; ".join([latencies(spark, options)[0], tables_of(kind, rows), *missing]))
    finally:
        kafka.close()
    return [f"{kind}: {each}" for each in wrong]


def spark_live(project, kind, kafka, file, model, options):
    """The same events to the peer, at the rate that is its. Answers what the load says, and the trees of the peer's model."""
    scratch = WORK / "spark"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    kafka.load("create", f"{kind}-peer", 4)
    kafka.load("create", f"{kind}-peer-out", 4)
    where = f"kafka:{kafka.broker.address}/{kind}-peer/{kind}-peer-out"
    log = open(WORK / "spark.log", "w")
    job = subprocess.Popen([sys.executable, ROOT / "bench/stream_job.py", kind, project, where, model, scratch],
                           stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        ready = next((line.split() for line in job.stdout if line.startswith("ready ")), None)
        if not ready:
            sys.exit(f"Spark ended: {(WORK / 'spark.log').read_text()[-3000:]}")
        found = kafka.load("live", f"{kind}-peer", f"{kind}-peer-out", options.peer_rate, options.seconds, file, options.linger, WORK / "due-peer-")
        # It answers before it appends.
        time.sleep(15)
        if job.poll() is not None:
            sys.exit(f"Spark ended: {(WORK / 'spark.log').read_text()[-3000:]}")
        return found, None if ready[1] == "None" else int(ready[1])
    finally:
        job.terminate()
        job.wait()


def peer(project, kind, events, count, anomalies, model):
    scratch = WORK / "spark"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    cost, report = measured([sys.executable, ROOT / "bench/stream_job.py", kind, project, events, model, scratch])
    if report["events"] != count:
        sys.exit(f"{kind}: Spark read {report['events']} of {count} events")
    found, wrong = counted_of_peer(kind, scratch, count, anomalies)
    if wrong:
        sys.exit(f"{kind}: {wrong[0]}")
    return {"rate": count / report["seconds"], "seconds": report["seconds"], "trees": report["trees"], **cost, **found}


def pathway(project, kind, events, count, python):
    scratch = WORK / "pathway"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    # Pathway drops rows of CSV without a number, and ends at a division by zero.
    asked = {"dropout": "SELECT a.nim, coalesce(a.ipk, 0) AS ipk, coalesce(b.attendance_rate, 0) AS attendance_rate "
                        "FROM student_features.academic_performance_features a JOIN student_features.attendance_features b ON b.nim = a.nim",
             "anomaly": "SELECT unit_kerja_sk, coalesce(avg_amount, 0) AS avg_amount, CASE WHEN stddev_amount > 0 THEN stddev_amount ELSE 1 END AS stddev_amount "
                        "FROM gold_keuangan.transaction_statistics"}[kind]
    with open(scratch / "known.csv", "w") as known:
        subprocess.run([binary(), "--project", project, "sql", asked, "--format", "csv"], check=True, stdout=known)
    cost, report = measured([python, ROOT / "bench/stream_pathway.py", kind, events, scratch / "known.csv", scratch])
    rows = [json.loads(line) for line in open(scratch / ("windows.jsonl" if kind == "dropout" else "detections.jsonl"))]
    # An event is in seven windows.
    found = sum(row["event_count_7d"] for row in rows) / 7 if kind == "dropout" else len(rows)
    if found != count:
        sys.exit(f"{kind}: Pathway has {found} of {count} events")
    return {"rate": count / report["seconds"], "seconds": report["seconds"], "version": report["version"], "rows": len(rows),
            "alerts": None, **cost}


def main():
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("mode", nargs="?", choices=["files", "topic", "live"], default="files")
    parse.add_argument("--rate", type=int, default=10_000, help="live: events a second")
    parse.add_argument("--seconds", type=int, default=60, help="live")
    parse.add_argument("--linger", type=int, default=1, help="live: `linger.ms` of the producer")
    parse.add_argument("--output-partitions", type=int, default=4,
                       help="live: partitions of the output topic; the client sends a request for each")
    parse.add_argument("--students", type=int, default=112_000, help="about nine in ten of them are active")
    parse.add_argument("--events", type=int,
                       help="files: 4,000,000; topic: 33,000,000 of students and 66,000,000 payments, which have to last a minute")
    parse.add_argument("--peer-events", type=int, default=200_000, help="topic: 0 leaves the peer out")
    parse.add_argument("--peer-rate", type=int, default=0, help="live: events a second for the peer, which is left out otherwise")
    parse.add_argument("--pathway", help="a Python that has Pathway")
    parse.add_argument("--pathway-events", type=int, default=1_000_000)
    parse.add_argument("--repeats", type=int, default=3)
    parse.add_argument("--only", choices=["dropout", "anomaly"], action="append")
    options = parse.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    project = university(options.students)
    known = {
        "dropout": keys(project, "SELECT nim FROM student_features.academic_performance_features ORDER BY nim"),
        "anomaly": keys(project, "SELECT unit_kerja_sk, avg_amount, stddev_amount "
                                 "FROM gold_keuangan.transaction_statistics ORDER BY 1"),
    }
    model = forest(project)
    if options.mode != "files":
        work = filled_topic if options.mode == "topic" else live_topic
        wrong = [each for kind in options.only or ["dropout", "anomaly"] for each in work(project, kind, known[kind], model, options)]
        sys.exit("\n".join(wrong) or None)
    # A run of one kind leaves the rows of the other.
    kept = WORK / "in-files.json"
    rows, beside = json.loads(kept.read_text()) if kept.exists() else {}, ""
    for kind in options.only or ["dropout", "anomaly"]:
        many, few = WORK / "events-many", WORK / "events-few"
        events = options.events or EVENTS["files"][kind]
        anomalies = write_events(many, kind, known[kind], events, 1, 1)
        anomalies_of_few = write_events(few, kind, known[kind], options.peer_events, 8, 2)
        counts = {"insightera": events, "Spark": options.peer_events}
        if options.pathway:
            counts["Pathway"] = options.pathway_events
            some = WORK / "events-some"
            write_events(some, kind, known[kind], options.pathway_events, 1, 4)
        results, rows[kind] = {name: [] for name in counts}, []
        for _ in range(options.repeats):
            results["insightera"].append(ours(project, kind, many, events, anomalies))
            results["Spark"].append(peer(project, kind, few, options.peer_events, anomalies_of_few, model))
            if options.pathway:
                results["Pathway"].append(pathway(project, kind, some, options.pathway_events, options.pathway))
                beside = f"; Pathway {results['Pathway'][0]['version']}, which does less (stream_pathway.py)"
        for name, runs in results.items():
            count = counts[name]
            middle = {key: statistics.median(run[key] for run in runs) for key in ("rate", "seconds", "wall", "cpu", "peak")}
            spread = f"{min(run['rate'] for run in runs):,.0f}-{max(run['rate'] for run in runs):,.0f}"
            rows[kind].append((kind + by_trees(runs[0]), name, f"{count:,}", f"{middle['rate']:,.0f} ({spread})", f"{middle['seconds']:.1f}",
                               f"{middle['wall']:.1f}", f"{1e6 * middle['cpu'] / count:.1f}", f"{middle['peak'] / 2**20:,.0f}",
                               tables_of(kind, runs[0])))
            print(*rows[kind][-1], sep="\t", flush=True)
        kept.write_text(json.dumps(rows))
    version = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    import pyspark

    table = "\n".join("| " + " | ".join(row) + " |" for _, group in sorted(rows.items(), reverse=True) for row in group)
    (OUT / "STREAM.md").write_text(f"""# Streams

Printed by `python bench/stream.py`; what is measured stands there.

- machine: {machine()}; {version}; pyspark {pyspark.__version__} local[2], Iceberg 1.10.2{beside}
- median of {options.repeats} runs (minimum-maximum), {datetime.date.today()}

| stream | engine | events | events/s | seconds | of the process | CPU us an event | peak MiB | counted in its tables |
|---|---|---:|---:|---:|---:|---:|---:|---|
{table}
""")


if __name__ == "__main__":
    main()
