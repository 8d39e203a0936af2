"""An as-of join against DuckDB's, on the same Parquet files.

    python bench/as_of.py [--labels 1000000] [--features 10000000] [--keys 100000] [--threads 2]

Prints the machine, the versions, medians of five and their ratio. Ours is a
whole process each time, its start and planning included; DuckDB runs in one
warm process. The answers are compared: both must add up to the same.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
SELECT = "SELECT count(h.gpa) AS n, CAST(sum(h.gpa) AS BIGINT) AS s, count(*) AS a FROM"


def write(folder, rows, keys, files, seed, column):
    random = np.random.default_rng(seed)
    folder.mkdir()
    start = 1_700_000_000_000_000
    for part in range(files):
        count = rows // files
        key = random.integers(0, keys, count)
        # Different times within a key: a tie may be broken either way.
        moment = start + random.integers(0, 10**15, count)
        pq.write_table(pa.table({
            "nim": pa.array([f"{k:08d}" for k in key]),
            column: pa.array(moment, pa.timestamp("us", tz="UTC")),
            "gpa": pa.array(random.integers(0, 1000, count).astype(np.float64)),
            "sks": pa.array(random.integers(0, 150, count), pa.int32()),
        }), folder / f"{part}.parquet")


def median(act, rounds=5):
    times, answer = [], None
    for _ in range(rounds):
        started = time.perf_counter()
        answer = act()
        times.append(time.perf_counter() - started)
    return statistics.median(times), answer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=10_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    wanted = parser.parse_args()
    binary = os.environ.get("INSIGHTERA_BIN", str(ROOT / "target" / "release" / "insightera"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "labels", wanted.labels, wanted.keys, 4, 1, "seen")
        write(folder / "history", wanted.features, wanted.keys, 8, 2, "at")
        inputs = "".join(f'[inputs."gold.{t}"]\nparquet = "{folder / t}"\n' for t in ("labels", "history"))
        (folder / "insightera.toml").write_text(f'format = 1\n[run]\nthreads = {wanted.threads}\nmemory = "4GB"\n{inputs}')

        def ours():
            sql = f"{SELECT} gold.labels l ASOF JOIN gold.history h MATCH_CONDITION (l.seen >= h.at) ON l.nim = h.nim"
            done = subprocess.run([binary, "--project", name, "sql", sql, "--format", "json"], capture_output=True,
                                  text=True, check=True)
            return tuple(json.loads(done.stdout)[0].values())

        duck = duckdb.connect(config={"threads": wanted.threads})

        def theirs():
            return duck.execute(
                f"{SELECT} '{folder}/labels/*.parquet' l ASOF LEFT JOIN '{folder}/history/*.parquet' h "
                "ON l.nim = h.nim AND l.seen >= h.at").fetchone()

        theirs()
        (our_time, our_answer), (their_time, their_answer) = median(ours), median(theirs)
    assert our_answer == their_answer, (our_answer, their_answer)
    print(f"{platform.platform()}, {os.cpu_count()} cores, {wanted.threads} threads; DuckDB {duckdb.__version__}")
    print(f"{wanted.labels:,} rows as of {wanted.features:,} rows of {wanted.keys:,} keys")
    print(f"insightera {our_time:.2f} s (whole process), DuckDB {their_time:.2f} s (warm): {their_time / our_time:.2f}x")


if __name__ == "__main__":
    main()
