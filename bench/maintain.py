"""What maintenance and many snapshots cost; writes MAINTAIN.md.

    python bench/maintain.py [--only small,big,writer,plan] [--files 10000] [--megabytes 1000] [--repeat 5] [--binary PATH]

small   231 files of 22 MB in all become one, by `CALL system.rewrite_data_files`
big     10,000 files of 1 GB in all become files of 128 MB; memory, and a question before and after
writer  the same while another process commits every second
plan    `EXPLAIN` of a question to a table of 10,000 snapshots and 5,000 files

The files are written by pyarrow and given to the table by PyIceberg's
`add_files`; all of it stays in .cache/bench/maintain. Each repetition begins
with the same table. Times are those that `insightera sql --timing` tells.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache/bench/maintain"
TABLE = "ml_predictions.scored"
TARGET = 128 << 20
SCHEMA = pa.schema([
    ("nim", pa.string()), ("probability", pa.float64()), ("risk", pa.int32()), ("category", pa.string()),
    ("scored_at", pa.timestamp("us", "UTC")), ("run_id", pa.string()),
])  # fmt: skip


class Project:
    """A project with one table of so many files."""

    def __init__(self, name, files, rows, binary):
        self.folder, self.files, self.rows, self.binary = FOLDER / f"{name}-{files}-{rows}", files, rows, binary

    def catalog(self):
        from pyiceberg.catalog.sql import SqlCatalog

        warehouse = self.folder / "warehouse"
        return SqlCatalog("insightera", uri=f"sqlite:///{warehouse}/catalog.db", warehouse=f"file://{warehouse}")

    def sql(self, *statements, limit=5, check=True, measure=None):
        """Runs statements in one process; answers the seconds of each, and what it printed."""
        script = self.folder / "statements.sql"
        script.write_text(";\n".join(statements))
        command = [str(self.binary), "--project", str(self.folder), "sql", "--file", str(script), "--limit", str(limit), "--timing"]
        if measure:
            command = [sys.executable, str(ROOT / "bench/measure.py"), str(measure), "--", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            sys.exit(f"{statements}\n{done.stderr}")
        return [float(took) for took in re.findall(r"rows? in ([\d.]+) s$", done.stderr, re.M)], done.stdout

    def make(self):
        """The table, once; its state is kept aside and laid out again by `reset`."""
        aside = self.folder.with_name(self.folder.name + "-aside")
        if not aside.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            (self.folder / "pipelines").mkdir(parents=True)
            (self.folder / "insightera.toml").write_text("format = 1\n[run]\nthreads = 2\n")
            self.sql(f"CREATE TABLE {TABLE} (nim STRING, probability DOUBLE, risk INT, category STRING, scored_at TIMESTAMP, run_id STRING) "
                     f"USING iceberg TBLPROPERTIES ('write.target-file-size-bytes' = '{TARGET}')")  # fmt: skip
            data = self.folder / "warehouse/files"
            data.mkdir(parents=True)
            random, paths = np.random.default_rng(20261129), []
            for number in range(self.files):
                p = random.random(self.rows)
                keys = random.integers(0, 10**9, self.rows)
                table = pa.table([
                    pa.array([f"{key:010d}" for key in keys]), pa.array(p), pa.array((p * 100).astype(np.int32)),
                    pa.array(np.select([p < 0.3, p < 0.6], ["Low", "Medium"], "High")),
                    pa.array(np.datetime64("2026-01-01") + random.integers(0, 10**12, self.rows).astype("timedelta64[us]"), SCHEMA.field("scored_at").type),
                    pa.array([f"run-{number:06d}"] * self.rows),
                ], schema=SCHEMA)  # fmt: skip
                pq.write_table(table, data / f"{number:06d}.parquet", compression="zstd")
                paths.append(f"file://{data}/{number:06d}.parquet")
            catalog = self.catalog()
            for start in range(0, len(paths), 1000):
                catalog.load_table(TABLE).add_files(paths[start : start + 1000])
                print(f"  {self.folder.name}: {start + 1000} files", file=sys.stderr, end="\r", flush=True)
            shutil.copytree(self.folder, aside, copy_function=os.link)
        return self

    def reset(self):
        """Files are never written again, so links are copies; the catalog is copied."""
        aside = self.folder.with_name(self.folder.name + "-aside")
        shutil.rmtree(self.folder)
        shutil.copytree(aside, self.folder, copy_function=os.link)
        catalog = self.folder / "warehouse/catalog.db"
        catalog.unlink()
        shutil.copy(aside / "warehouse/catalog.db", catalog)

    def sizes(self):
        files = self.catalog().load_table(TABLE).inspect.files()
        return files["file_size_in_bytes"].to_pylist()

    def bytes(self):
        return sum(path.stat().st_size for path in (self.folder / "warehouse/files").iterdir())


REWRITE = f"CALL system.rewrite_data_files(table => '{TABLE}')"
QUESTION = f"SELECT avg(probability) AS p, max(risk) AS r, count(*) AS n FROM {TABLE}"


def small(options):
    project = Project("small", 231, 95_000 * 10 // 254, options.binary).make()
    times = []
    for _ in range(options.repeat):
        project.reset()
        times += project.sql(REWRITE)[0]
    left = len(project.sizes())
    return [f"- 231 files, {project.bytes() / 1e6:.1f} MB in all, became {left}: **{statistics.median(times):.2f} s** (median of {len(times)})"]


def big(options):
    project = Project("big", options.files, options.megabytes * 1_000_000 // options.files * 10 // 254, options.binary).make()
    lines, times, peaks = [], [], []
    asked = {"before": [], "after": []}
    for _ in range(min(options.repeat, 3)):
        project.reset()
        asked["before"] += project.sql(QUESTION, QUESTION, QUESTION)[0][1:]
        report = project.folder / "cost.json"
        times += project.sql(REWRITE, measure=report)[0]
        peaks.append(json.loads(report.read_text())["peak"])
        asked["after"] += project.sql(QUESTION, QUESTION, QUESTION)[0][1:]
    sizes, size = project.sizes(), project.bytes()
    median = statistics.median(times)
    inside = [size for size in sizes if 0.75 * TARGET <= size <= 1.8 * TARGET]
    lines.append(f"- {options.files:,} files, {size / 1e6:,.0f} MB in all, became {len(sizes)} of {min(sizes) / TARGET:.2f} to {max(sizes) / TARGET:.2f} of the target "
                 f"({len(inside)} of them within 0.75 to 1.8): **{median:.1f} s, {size / 1e6 / median:.0f} MB/s**, at most {max(peaks) / 2**20:.0f} MiB of memory (medians of {len(times)})")  # fmt: skip
    lines.append(f"- an aggregate over the table, warm: {statistics.median(asked['before']):.2f} s before, {statistics.median(asked['after']):.2f} s after")
    return lines


def writer(options):
    """Commits every second while the big table is rewritten."""
    project = Project("big", options.files, options.megabytes * 1_000_000 // options.files * 10 // 254, options.binary).make()
    project.reset()
    rewriting = subprocess.Popen([str(options.binary), "--project", str(project.folder), "sql", REWRITE], stdout=subprocess.DEVNULL)
    insert = f"INSERT INTO {TABLE} VALUES ('x', 0.5, 50, 'Low', TIMESTAMP '2026-01-01 00:00:00', 'live')"
    times, late, due = [], 0.0, time.monotonic()
    while rewriting.poll() is None or len(times) < 10:
        # A process of its own would show its start: ten commits in each.
        statements = [insert] * 1
        took, _ = project.sql(*statements)
        times += took
        due += 1
        late = max(late, time.monotonic() - due)
        time.sleep(max(0.0, due - time.monotonic()))
    rows = project.sql(f"SELECT count(*) FROM {TABLE} WHERE run_id = 'live'")[1]
    found = int(re.findall(r"\d+", rows)[-1])
    code = rewriting.wait()
    verdict = "all there" if found == len(times) and code == 0 else f"**{found} rows found, the rewrite ended with {code}**"
    return [f"- meanwhile another process committed every second: {len(times)} commits, {verdict}; the slowest took {max(times):.2f} s, the median {statistics.median(times):.3f} s, none was more than {max(late, 0):.2f} s behind"]


def plan(options):
    """The snapshots are written into the metadata: each is the first one again, a second later."""
    project = Project("plan", 5000, 100, options.binary).make()
    project.reset()
    catalog = project.catalog()
    table = catalog.load_table(TABLE)
    metadata = json.loads(Path(table.metadata_location.removeprefix("file://")).read_text())
    current = next(s for s in metadata["snapshots"] if s["snapshot-id"] == metadata["current-snapshot-id"])
    start, parent = current["timestamp-ms"], current["snapshot-id"]
    metadata["snapshots"], metadata["snapshot-log"] = [current], [{"snapshot-id": parent, "timestamp-ms": start}]
    for number in range(1, 10_000):
        own = 10**15 + number
        metadata["snapshots"].append(current | {"snapshot-id": own, "parent-snapshot-id": parent, "timestamp-ms": start + number * 1000, "sequence-number": current["sequence-number"] + number})
        metadata["snapshot-log"].append({"snapshot-id": own, "timestamp-ms": start + number * 1000})
        parent = own
    metadata |= {"current-snapshot-id": parent, "last-updated-ms": start + 10_000_000, "last-sequence-number": current["sequence-number"] + 9_999}
    metadata["refs"]["main"]["snapshot-id"] = parent
    location = f"{metadata['location']}/metadata/09999-{uuid.uuid4()}.metadata.json"
    Path(location.removeprefix("file://")).write_text(json.dumps(metadata))
    catalog.drop_table(TABLE)
    catalog.register_table(TABLE, location)
    asked = f"EXPLAIN SELECT nim, probability FROM {TABLE} WHERE run_id = 'run-002500'"
    cold, warm = [], []
    for _ in range(options.repeat):
        times, text = project.sql(asked, asked)
        cold.append(times[0])
        warm.append(times[1])
    files = re.search(r"(\d[\d,]*) of (\d[\d,]*)", text)
    return [f"- planning a question to a table of 10,000 snapshots and 5,000 files ({files.group(0) if files else 'files unknown'} read; metadata of {os.path.getsize(location.removeprefix('file://')) / 1e6:.1f} MB): "
            f"**{statistics.median(cold) * 1000:.0f} ms** the first time in a process, {statistics.median(warm) * 1000:.0f} ms the second (medians of {len(cold)})"]  # fmt: skip


PARTS = {"small": small, "big": big, "writer": writer, "plan": plan}


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--only", default=",".join(PARTS))
    parse.add_argument("--files", type=int, default=10_000)
    parse.add_argument("--megabytes", type=int, default=1000)
    parse.add_argument("--repeat", type=int, default=5)
    parse.add_argument("--binary", type=Path, default=ROOT / "target/release/insightera")
    parse.add_argument("--out", type=Path, default=ROOT / "bench/MAINTAIN.md")
    options = parse.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    cpu = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    lines = [
        "# What maintenance and many snapshots cost", "",
        "`python bench/maintain.py` prints and writes this; [maintain.py](maintain.py) says how it measures.", "",
        f"- machine: {cpu[0] if cpu else platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start",
    ]  # fmt: skip
    for part in options.only.split(","):
        lines += PARTS[part](options)
        print(lines[-1], file=sys.stderr)
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
