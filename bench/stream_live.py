"""Live events at a rate: how soon they are predicted, and how soon they are in Iceberg."""

import gzip
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy

from stream_common import (
    PIPELINES, ROOT, WORK, Kafka, anomalies_of, binary, by_trees, counted, counted_of_peer, from_topic, keyed_events,
    keys, pointers, reader, settings, spark_version, tables_of, told, with_project,
)


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
