"""Streams against Spark Structured Streaming, on the same kind of events, in one run.

    python bench/stream.py                  # writes STREAM.md
    python bench/stream.py --pathway PYTHON # the same beside Pathway, which that Python has (pip install pathway)
    python bench/stream.py topic            # from a filled Kafka topic of four partitions; writes STREAM-KAFKA.md
    python bench/stream.py live             # from an open-loop producer to the live output topic; the same

Events are lines of JSON in files, so that no broker's speed is in the figures.
Ours: `insightera stream NAME --until-end` in a new process over files that are
there: every event decoded, its windows updated, joined with the features of the
students, scored by the shipped random forest, and committed to Iceberg, fsync
on. The peer is `stream_job.py`. Rates are events divided by the seconds from
the start of the query to its last commit; start-up is left out on both sides
and shown apart. The peer gets fewer events, or it would take hours. Pathway does
less than the others, and `stream_pathway.py` says what.

`topic` and `live` start Apache Kafka beside the stream, on the same cores; the
peer reads a topic of its own, of fewer events, and answers fewer a second. In
`live` an event is due at a fixed time, which it carries in a header, and its
latency is from then until its prediction was read from the output topic, by a
consumer in the producer's process. How soon rows can be queried is what the
stream itself wrote to `ml_monitoring.inference_metrics`.
"""

import argparse
import datetime
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache" / "bench" / "stream"
MODEL = ROOT / "crates/insightera/assets/university/models/student_dropout_risk_model/v1"
PIPELINES = {"dropout": ("dropout_risk_realtime", "student-events"),
             "anomaly": ("transaction_anomaly_realtime", "financial-transactions")}


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


def write_events(folder, kind, known, count, files, seed):
    """The last hour's events; an entity is always in the same file of four."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    numbers, lanes = random.Random(seed), 4
    start = time.time() - 3600
    opened = [open(folder / f"events-{number:05d}.ndjson", "w") for number in range(lanes * files)]
    for index in range(count):
        at = start + 3600 * index / count
        entity = numbers.randrange(len(known))
        if kind == "dropout":
            moment = datetime.datetime.fromtimestamp(at, datetime.timezone.utc).isoformat()
            line = (f'{{"nim":"{known[entity][0]}","event_type":"attendance",'
                    f'"event_data":"{{\\"attendance_flag\\":{int(numbers.random() < 0.85)}}}","timestamp":"{moment}"}}\n')
        else:
            unit, average, deviation = known[entity]
            amount = round((average or 1e6) + numbers.gauss(0, 1) * (deviation or 0), 2)
            line = (f'{{"transaksi_id":"S{index}","unit_kerja_sk":"{unit}","jumlah_transaksi":{amount},'
                    f'"timestamp":{int(at * 1000)}}}\n')
        opened[(index * files // count) * lanes + entity % lanes].write(line)
    for file in opened:
        file.close()


def ours(project, kind, events, count):
    pipeline, topic = PIPELINES[kind]
    folder = WORK / "run"
    shutil.rmtree(folder, ignore_errors=True)
    # Paths in tables are absolute: the project itself moves in and out.
    saved = WORK / "saved"
    shutil.rmtree(saved, ignore_errors=True)
    shutil.copytree(project, saved)
    try:
        target = project / "events" / topic
        for file in sorted(events.iterdir()):
            os.link(file, target / file.name)
        cost, report = measured([binary(), "--project", project, "stream", pipeline, "--until-end", "--format", "json"])
    finally:
        shutil.rmtree(project)
        shutil.move(saved, project)
    report = report[0]
    if (report["events"], report["dead"], report["late"]) != (count, 0, 0):
        sys.exit(f"{kind}: {report}")
    return {"rate": count / report["seconds"], "seconds": report["seconds"], "cpu": cost["cpu"], "peak": cost["peak"],
            "p99": report["latency_p99_ms"]}


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


def keyed_events(kind, known, count):
    """A file of events with their keys before them."""
    folder, file = WORK / "keyed", WORK / "keyed.tsv"
    write_events(folder, kind, known, count, 1, 3)
    field = "nim" if kind == "dropout" else "unit_kerja_sk"
    with open(file, "w") as out:
        for part in sorted(folder.iterdir()):
            out.writelines(f"{json.loads(line)[field]}\t{line}" for line in open(part))
    return file


def from_topic(project, kind, topic, address, output=None):
    """The pipeline of `kind` reads a topic, and sends its predictions to `output`."""
    pipeline, files = PIPELINES[kind]
    path = project / "pipelines" / f"{pipeline}.toml"
    text = path.read_text()
    old = f'files = "events/{files}"'
    if old not in text:
        sys.exit(f"{path} has no line `{old}`")
    key = "nim" if kind == "dropout" else "unit_kerja_sk"
    kafka = f'"bootstrap.servers" = "{address}"'
    new = f'topic = "{topic}"\npartition_key = ["{key}"]\n[source.kafka]\n{kafka}'
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
    kept = WORK / "kafka.json"
    figures = json.loads(kept.read_text()) if kept.exists() else {}
    version = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    figures[f"{kind}, {what}"] = f"{text} ({datetime.date.today()}, {machine()}, {version}, load {os.getloadavg()[0]:.1f} at the end)"
    kept.write_text(json.dumps(figures))
    lines = [f"- {name}: {figure}" for name, figure in sorted(figures.items())]
    (ROOT / "bench/STREAM-KAFKA.md").write_text("\n".join([
        "# Streams from a Kafka topic", "",
        "`python bench/stream.py topic` and `live` print and write this; the broker, the producer and the reader of the output run "
        "on the same processors. One run a line.", "", *lines, ""]))


def machine():
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown")
    return f"{os.cpu_count()} cores {model}"


def spark_version():
    import pyspark

    return f"Spark {pyspark.__version__} local[2]"


def rate_of(seconds, events, cost):
    return (f"{events:,} events of 4 partitions in {seconds:.1f} s, first poll to last commit: **{events / seconds:,.0f} events/s**, "
            f"{1e6 * cost['cpu'] / events:.1f} us of processor an event, {cost['peak'] / 2**20:,.0f} MiB")


def latencies(found, options):
    return (f"{options.seconds} s: scheduled send to live output p50 **{found['p50']:,.1f} ms**, p99 **{found['p99']:,.1f} ms**, "
            f"max {found['max']:,.0f} ms of {found['measured']:,}; {found['missing']} of {found['sent']:,} missing; the producer was "
            f"{found['producer_behind_ms']:.1f} ms behind at most, linger {options.linger} ms")


def filled_topic(project, kind, known, options):
    """All events of a topic of four partitions, from the first poll to the last commit."""
    file = keyed_events(kind, known, min(options.events, 2_000_000))
    kafka = Kafka()
    try:
        kafka.load("fill", f"{kind}-filled", 4, file, options.events)

        def run():
            from_topic(project, kind, f"{kind}-filled", kafka.broker.address)
            return measured([binary(), "--project", project, "stream", PIPELINES[kind][0], "--until-end", "--format", "json"])

        cost, report = with_project(project, run)
        found = None
        if options.peer_events:
            kafka.load("fill", f"{kind}-peer", 4, file, options.peer_events)
            found = peer(project, kind, f"kafka:{kafka.broker.address}/{kind}-peer", options.peer_events)
    finally:
        kafka.broker.close()
    report = report[0]
    if (report["events"], report["dead"], report["late"]) != (options.events, 0, 0):
        sys.exit(f"{kind}: {report}")
    told(kind, "filled topic", rate_of(report["seconds"], options.events, cost))
    if found:
        told(kind, f"filled topic, {spark_version()}", rate_of(found["seconds"], options.peer_events, found))


def live_topic(project, kind, known, options):
    """Due time to prediction read from the live output."""
    file = keyed_events(kind, known, 200_000)
    kafka = Kafka()
    try:
        kafka.load("create", f"{kind}-live", 4)
        kafka.load("create", f"{kind}-out", options.output_partitions)

        def run():
            from_topic(project, kind, f"{kind}-live", kafka.broker.address, f"{kind}-out")
            log = open(WORK / "live.log", "w")
            stream = subprocess.Popen([binary(), "--project", project, "stream", PIPELINES[kind][0]], stdout=log, stderr=log)
            try:
                # A few seconds for the group; what is sent at the beginning is not measured.
                time.sleep(8)
                found = kafka.load("live", f"{kind}-live", f"{kind}-out", options.rate, options.seconds, file, options.linger)
                if stream.poll() is not None:
                    sys.exit(f"the stream ended: {(WORK / 'live.log').read_text()[-3000:]}")
            finally:
                stream.terminate()
                stream.wait()
            return found, queryable(project, PIPELINES[kind][0])

        found, ages = with_project(project, run)
        spark = spark_live(project, kind, kafka, file, options) if options.peer_rate else None
    finally:
        kafka.broker.close()
    told(kind, f"live, {options.rate:,} events/s, output of {options.output_partitions} partitions", f"{latencies(found, options)}; arrival to queryable in Iceberg "
         f"p50 {ages['p50']:.1f} s, **p99 {ages['p99']:.1f} s** in the worst of {ages['intervals']} intervals")
    print("99th percentiles of each second, ms:", found["p99_by_second"])
    if spark:
        told(kind, f"live, {options.peer_rate:,} events/s, {spark_version()}", latencies(spark, options))
    if found["missing"]:
        sys.exit("predictions are missing")


def queryable(project, pipeline):
    """The age at which rows could be queried, in the worst of the intervals that the stream measured."""
    (p50, p99, intervals), = keys(project, f"""
        SELECT max(CASE stage WHEN 'arrival_to_queryable_p50' THEN latency_ms END) / 1000 AS p50,
               max(CASE stage WHEN 'arrival_to_queryable_p99' THEN latency_ms END) / 1000 AS p99,
               count(CASE stage WHEN 'arrival_to_queryable_p99' THEN 1 END) AS intervals
        FROM ml_monitoring.inference_metrics WHERE pipeline = '{pipeline}'""")
    return {"p50": p50, "p99": p99, "intervals": intervals}


def spark_live(project, kind, kafka, file, options):
    """The same events to the peer, at the rate that is its."""
    scratch = WORK / "spark"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    kafka.load("create", f"{kind}-peer", 4)
    kafka.load("create", f"{kind}-peer-out", 4)
    where = f"kafka:{kafka.broker.address}/{kind}-peer/{kind}-peer-out"
    log = open(WORK / "spark.log", "w")
    job = subprocess.Popen([sys.executable, ROOT / "bench/stream_job.py", kind, project, where, MODEL, scratch],
                           stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        if not any(line == "ready\n" for line in job.stdout):
            sys.exit(f"Spark ended: {(WORK / 'spark.log').read_text()[-3000:]}")
        found = kafka.load("live", f"{kind}-peer", f"{kind}-peer-out", options.peer_rate, options.seconds, file, options.linger)
        if job.poll() is not None:
            sys.exit(f"Spark ended: {(WORK / 'spark.log').read_text()[-3000:]}")
        return found
    finally:
        job.terminate()
        job.wait()


def peer(project, kind, events, count):
    scratch = WORK / "spark"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    cost, report = measured([sys.executable, ROOT / "bench/stream_job.py", kind, project, events, MODEL, scratch])
    if report["events"] != count:
        sys.exit(f"{kind}: Spark read {report['events']} of {count} events")
    return {"rate": count / report["seconds"], "seconds": report["seconds"], "cpu": cost["cpu"], "peak": cost["peak"],
            "p99": None}


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
    return {"rate": count / report["seconds"], "seconds": report["seconds"], "cpu": cost["cpu"], "peak": cost["peak"],
            "p99": None, "version": report["version"]}


def main():
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("mode", nargs="?", choices=["files", "topic", "live"], default="files")
    parse.add_argument("--rate", type=int, default=10_000, help="live: events a second")
    parse.add_argument("--seconds", type=int, default=60, help="live")
    parse.add_argument("--linger", type=int, default=1, help="live: `linger.ms` of the producer")
    parse.add_argument("--output-partitions", type=int, default=4,
                       help="live: partitions of the output topic; the client sends a request for each")
    parse.add_argument("--students", type=int, default=112_000, help="about nine in ten of them are active")
    parse.add_argument("--events", type=int, default=4_000_000,
                       help="topic: 15,000,000 take a minute or more")
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
    if options.mode != "files":
        work = filled_topic if options.mode == "topic" else live_topic
        for kind in options.only or ["dropout", "anomaly"]:
            work(project, kind, known[kind], options)
        return
    # A run of one kind leaves the rows of the other.
    kept = WORK / "files.json"
    rows, beside = json.loads(kept.read_text()) if kept.exists() else {}, ""
    for kind in options.only or ["dropout", "anomaly"]:
        many, few = WORK / "events-many", WORK / "events-few"
        write_events(many, kind, known[kind], options.events, 1, 1)
        write_events(few, kind, known[kind], options.peer_events, 8, 2)
        counts = {"insightera": options.events, "Spark": options.peer_events}
        if options.pathway:
            counts["Pathway"] = options.pathway_events
            some = WORK / "events-some"
            write_events(some, kind, known[kind], options.pathway_events, 1, 4)
        results, rows[kind] = {name: [] for name in counts}, []
        for _ in range(options.repeats):
            results["insightera"].append(ours(project, kind, many, options.events))
            results["Spark"].append(peer(project, kind, few, options.peer_events))
            if options.pathway:
                results["Pathway"].append(pathway(project, kind, some, options.pathway_events, options.pathway))
                beside = f"; Pathway {results['Pathway'][0]['version']}, which does less (stream_pathway.py)"
        for name, runs in results.items():
            count = counts[name]
            middle = {key: statistics.median(run[key] for run in runs) for key in ("rate", "seconds", "cpu", "peak")}
            spread = f"{min(run['rate'] for run in runs):,.0f}-{max(run['rate'] for run in runs):,.0f}"
            rows[kind].append((kind, name, f"{count:,}", f"{middle['rate']:,.0f} ({spread})", f"{middle['seconds']:.1f}",
                               f"{1e6 * middle['cpu'] / count:.1f}", f"{middle['peak'] / 2**20:,.0f}"))
            print(*rows[kind][-1], sep="\t", flush=True)
        kept.write_text(json.dumps(rows))
    version = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    import pyspark

    table = "\n".join("| " + " | ".join(row) + " |" for _, group in sorted(rows.items(), reverse=True) for row in group)
    (ROOT / "bench/STREAM.md").write_text(f"""# Streams

Printed by `python bench/stream.py`; what is measured stands there.

- machine: {machine()}; {version}; pyspark {pyspark.__version__} local[2], Iceberg 1.10.2{beside}
- median of {options.repeats} runs (minimum-maximum), {datetime.date.today()}

| stream | engine | events | events/s | seconds | CPU us an event | peak MiB |
|---|---|---:|---:|---:|---:|---:|
{table}
""")


if __name__ == "__main__":
    main()
