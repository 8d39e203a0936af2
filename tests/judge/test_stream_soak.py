"""A stream under load for minutes, a process killed again and again: nothing lost, nothing twice, nothing grows.

Three minutes with a kill every twenty seconds; with INSIGHTERA_TEST_LONG thirty minutes with a kill every minute.
"""

import os
import threading
import time
from pathlib import Path

import pytest

from test_stream_groups import group, stream, broker  # noqa: F401

LONG = bool(os.environ.get("INSIGHTERA_TEST_LONG"))
SECONDS, KILL_EVERY = (1800, 60) if LONG else (180, 20)
RATE = 20_000
PARTITIONS, STUDENTS = 4, 5000
SLICE = 0.5


class Load:
    """Events at a rate, whatever the stream does, on a thread of its own. An event's student is of its partition."""

    def __init__(self, broker, topic, folder):  # noqa: F811
        self.broker, self.topic, self.file = broker, topic, folder / "slice.tsv"
        self.counts, self.seen = [0] * PARTITIONS, [0] * STUDENTS
        self.stop, self.failed, self.behind = threading.Event(), None, 0.0
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            number, due = 0, time.monotonic()
            while not self.stop.is_set():
                now, lines = time.time_ns() // 1000, []
                for _ in range(int(RATE * SLICE)):
                    student = number * 7919 % STUDENTS
                    partition = student % PARTITIONS
                    lines.append(f'{partition}\t{{"nim": "{student:06d}", "kind": "attendance", "at": {now}, '
                                 f'"data": {{"value": {number % 7 - 3}.5}}}}\n')
                    self.counts[partition] += 1
                    self.seen[student] += 1
                    number += 1
                self.file.write_text("".join(lines))
                self.broker.command("file", self.topic, str(self.file))
                due += SLICE
                self.behind = max(self.behind, time.monotonic() - due)
                time.sleep(max(0.0, due - time.monotonic()))
        except Exception as error:  # told by the test
            self.failed = error


def resident(process):
    try:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def test_minutes_of_load_with_kills_lose_and_repeat_nothing_and_nothing_grows(group):  # noqa: F811
    pytest.importorskip("duckdb")
    project = group.project
    pipeline = project.folder / "pipelines" / "live.toml"
    group.create(PARTITIONS)
    text = pipeline.read_text().replace('freshness = "200 ms"\nmax_rows = 300', 'freshness = "1 s"')
    pipeline.write_text(text)
    group.start(), group.start()
    load = Load(group.broker, group.topic, project.folder)
    load.thread.start()
    start, peaks, kills = time.monotonic(), [], 0
    try:
        while (elapsed := time.monotonic() - start) < SECONDS:
            time.sleep(1)
            assert load.failed is None, load.failed
            for process in group.running:
                assert process.poll() is None, group.said(process)
            peaks.append(max(map(resident, group.running)))
            if elapsed > (kills + 1) * KILL_EVERY and elapsed < SECONDS - 10:
                group.kill(group.running[0])
                group.start()
                kills += 1
    finally:
        load.stop.set()
        load.thread.join()
    for process in list(group.running):
        group.stop(process)
    caught_up = time.monotonic()
    project.json("stream", "live", "--until-end")
    caught_up = time.monotonic() - caught_up

    rows = project.table("predictions.live").scan(selected_fields=("nim", "seen", "source_partition", "source_offset")).to_arrow()
    places = rows.group_by(["source_partition"]).aggregate(
        [("source_offset", "count"), ("source_offset", "count_distinct"), ("source_offset", "min"), ("source_offset", "max")])
    found = {row["source_partition"]: tuple(row[f"source_offset_{what}"] for what in ("count", "count_distinct", "min", "max"))
             for row in places.to_pylist()}
    assert found == {number: (count, count, 0, count - 1) for number, count in enumerate(load.counts)}
    # Each event of a student has seen one more than the one before.
    students = rows.group_by(["nim"]).aggregate([("seen", "count"), ("seen", "max"), ("seen", "sum")]).to_pylist()
    assert len(students) == sum(count > 0 for count in load.seen)
    for row in students:
        count = load.seen[int(row["nim"])]
        assert (row["seen_count"], row["seen_max"], row["seen_sum"]) == (count, count, count * (count + 1) // 2), row

    table = project.table("predictions.live")
    folder = Path(table.metadata.location.removeprefix("file://"))
    snapshots, files = len(table.metadata.snapshots), len(table.inspect.files())
    metadata = sum(path.stat().st_size for path in (folder / "metadata").iterdir())
    third = len(peaks) // 3
    early, middle, late = max(peaks[:third]), max(peaks[third:-third]), max(peaks[-third:])
    print(f"{sum(load.counts):,} events in {SECONDS} s, {kills} kills; at most {load.behind:.1f} s behind in sending, "
          f"{caught_up:.1f} s to catch up; {early / 2**20:.0f}, {middle / 2**20:.0f} and {late / 2**20:.0f} MiB in each third; "
          f"{snapshots} snapshots, {files} files, {metadata / 1e6:.1f} MB of metadata")
    assert kills >= SECONDS // KILL_EVERY - 2
    assert sum(load.counts) > 0.9 * RATE * SECONDS
    # Windows and joins, and what the upkeep of the tables takes while it runs.
    assert max(peaks) < 768 * 2**20
    # Minutes are too short to tell one from the other.
    assert not LONG or late < 1.25 * middle + 64 * 2**20
    assert snapshots < 2300 and files < 300 and metadata < 200e6
