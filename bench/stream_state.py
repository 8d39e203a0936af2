"""A stream with the windows of a million students: memory, and a restart after a crash. Writes STREAM-STATE.md.

    python bench/stream_state.py [--students 1120000] [--events 3000000]

The shipped dropout pipeline (windows of 1 to 30 days, joined with the features
of all students), with the random forest of 100 trees of bench/stream.py, reads a
topic of four partitions whose events lie in the last seven days, so that every
active student has windows. When all of them are committed the process is killed with SIGKILL;
memory is the kernel's own peak of it until then. Then another thousand events
come, and a new process is started: it is timed from its start until the first
of them is predicted (read from the live output topic by this process' clock) and
until all are committed.
"""

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from stream_common import (
    ROOT, WORK, Kafka, binary, forest, from_topic, keys, machine, trees_of, university, with_project,
)

PIPELINE = "dropout_risk_realtime"
AFTER = 1000


def write(path, known, count, days, seed):
    """Lines `KEY TAB EVENT`, in the order of their times; every student comes in the first ones."""
    numbers, start = random.Random(seed), time.time() - days * 86400
    order = list(range(len(known)))
    numbers.shuffle(order)
    with open(path, "w") as out:
        for index in range(count):
            student = known[order[index] if index < len(order) else numbers.randrange(len(known))][0]
            moment = datetime.datetime.fromtimestamp(start + days * 86400 * index / count, datetime.timezone.utc).isoformat()
            out.write(f'{student}\t{{"nim":"{student}","event_type":"attendance",'
                      f'"event_data":"{{\\"attendance_flag\\":{int(numbers.random() < 0.85)}}}","timestamp":"{moment}"}}\n')


def status(project):
    return json.loads(subprocess.run([binary(), "--project", project, "stream", "status", PIPELINE, "--format", "json"],
                                            check=True, capture_output=True, text=True).stdout)[0]


def kilobytes(pid, name):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def start(project):
    log = open(WORK / "state.log", "w")
    return subprocess.Popen([binary(), "--project", project, "stream", PIPELINE], stdout=log, stderr=log)


def until(stream_process, done, what, seconds=900):
    """Asks until it is done; answers the seconds it took."""
    begun = time.monotonic()
    while not done():
        if stream_process.poll() is not None or time.monotonic() - begun > seconds:
            sys.exit(f"{what}: {(WORK / 'state.log').read_text()[-3000:]}")
        time.sleep(0.2)
    return time.monotonic() - begun


def measure(project, known, options):
    first, after = WORK / "state.tsv", WORK / "state-after.tsv"
    write(first, known, options.events, 7, 5)
    write(after, known, AFTER, 0.001, 6)
    kafka = Kafka()
    try:
        kafka.load("fill", "state", 4, first, options.events)
        kafka.load("create", "state-out", 4)

        def run():
            from_topic(project, "dropout", "state", kafka.broker.address, "state-out")
            process = start(project)
            committed = lambda: sum(p["position"] or 0 for p in status(project)["partitions"])  # noqa: E731
            try:
                took = until(process, lambda: committed() >= options.events, "the first events")
                time.sleep(3)
                live = status(project)["live"]
                peak, now = kilobytes(process.pid, "VmHWM"), kilobytes(process.pid, "VmRSS")
                process.send_signal(signal.SIGKILL)
                process.wait()
                more = subprocess.Popen(kafka.java("watch", "state-out"), stdout=subprocess.PIPE, text=True)
                more.stdout.readline()
                kafka.load("more", "state", after, AFTER)
                begun = time.time()
                process = start(project)
                predicted = float(more.stdout.readline()) / 1000 - begun
                more.kill()
                until(process, lambda: committed() >= options.events + AFTER, "the events after the crash")
                again = kilobytes(process.pid, "VmHWM")
            finally:
                process.terminate()
                process.wait()
            return took, live, peak, now, predicted, again

        return with_project(project, run)
    finally:
        kafka.broker.close()


def main():
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--students", type=int, default=1_120_000, help="about nine in ten of them are active")
    parse.add_argument("--events", type=int, default=3_000_000)
    options = parse.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    project = university(options.students)
    trees = trees_of(forest(project))
    known = keys(project, "SELECT nim FROM student_features.academic_performance_features ORDER BY nim")
    took, live, peak, now, predicted, again = measure(project, known, options)
    version = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    text = f"""# A stream with the windows of a million students

Printed by `python bench/stream_state.py`; what is measured stands there.

- machine: {machine()}; {version}; {datetime.date.today()}; load {os.getloadavg()[0]:.1f} at the end; one run
- {live["state_keys"]:,} students with windows of 1 to 30 days: {live["state_bytes"] / live["state_keys"]:.0f} bytes each, {live["state_bytes"] / 2**20:,.0f} MiB; {len(known):,} students joined
- {options.events:,} events in {took:.0f} s, all committed, scored by {trees} trees
- memory of the process: **{peak / 1024:,.0f} MiB** at most, {now / 1024:,.0f} MiB at the end
- killed and started again: **{predicted:.2f} s** until the first prediction was at its topic, {again / 1024:,.0f} MiB at most
"""
    (ROOT / "bench/STREAM-STATE.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
