"""Another peer: the same streams on Pathway, as far as it can be without a licence key.

    python bench/stream_pathway.py dropout|anomaly EVENTS KNOWN.csv SCRATCH

Reads all files of EVENTS once and ends. It does less than the others: its
connectors to Iceberg and Delta want a key, so what comes out is lines of JSON in
files that nothing makes durable, and there is no model of Spark's that it could
load. `anomaly`: every payment against the statistics of its unit. `dropout`:
windows of seven days that slide by a day, joined with the features of the
students, a row for each window and student when all events are read; no score.
Prints how long it ran.
"""

import datetime
import json
import sys
import time

import pathway as pw


class Payment(pw.Schema):
    transaksi_id: str
    unit_kerja_sk: str
    jumlah_transaksi: float
    timestamp: int


class Statistics(pw.Schema):
    unit_kerja_sk: str
    avg_amount: float
    stddev_amount: float


class Event(pw.Schema):
    nim: str
    event_type: str
    event_data: str
    timestamp: str


class Features(pw.Schema):
    nim: str
    ipk: float
    attendance_rate: float


def anomaly(events, known):
    payments = pw.io.jsonlines.read(events, schema=Payment, mode="static")
    known = pw.io.csv.read(known, schema=Statistics, mode="static")
    difference = payments.jumlah_transaksi - known.avg_amount
    judged = payments.join(known, payments.unit_kerja_sk == known.unit_kerja_sk).select(
        payments.transaksi_id, payments.unit_kerja_sk, payments.jumlah_transaksi,
        z_score=pw.if_else(difference < 0, -difference, difference) / known.stddev_amount)
    judged = judged.with_columns(is_anomaly=pw.this.z_score > 3)
    return {"detections": judged, "alerts": judged.filter(pw.this.is_anomaly)}


def dropout(events, known):
    lines = pw.io.jsonlines.read(events, schema=Event, mode="static")
    known = pw.io.csv.read(known, schema=Features, mode="static")
    attended = pw.apply_with_type(lambda text: float(json.loads(text)["attendance_flag"]), float, pw.this.event_data)
    wanted = (pw.this.event_type == "attendance") | (pw.this.event_type == "grade_update") | (pw.this.event_type == "enrollment_change")
    read = lines.filter(wanted).select(
        pw.this.nim, at=pw.this.timestamp.dt.strptime("%Y-%m-%dT%H:%M:%S.%f%z", contains_timezone=True), attended=attended)
    day = datetime.timedelta(days=1)
    windows = read.windowby(read.at, window=pw.temporal.sliding(hop=day, duration=7 * day), instance=read.nim).reduce(
        nim=pw.this._pw_instance, window_start=pw.this._pw_window_start, event_count_7d=pw.reducers.count(),
        attendance_rate_7d=pw.reducers.avg(pw.this.attended))
    return {"windows": windows.join(known, windows.nim == known.nim).select(*windows, known.ipk, known.attendance_rate)}


def main():
    kind, events, known, scratch = sys.argv[1:]
    for name, table in {"dropout": dropout, "anomaly": anomaly}[kind](events, known).items():
        pw.io.jsonlines.write(table, f"{scratch}/{name}.jsonl")
    started = time.monotonic()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    print(json.dumps({"seconds": time.monotonic() - started, "version": pw.__version__}))


if __name__ == "__main__":
    main()
