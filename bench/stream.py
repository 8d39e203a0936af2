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
import json
import os
import shutil
import statistics
import subprocess
import sys

from stream_common import (
    EVENTS, LONG, OUT, PIPELINES, ROOT, WORK, Kafka, anomalies_of, binary, by_trees, counted, counted_of_peer,
    forest, from_topic, keyed_events, keys, machine, measured, misreported, rate_of, spark_version, tables_of, told,
    university, with_project, write_events,
)
from stream_live import live_topic


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
