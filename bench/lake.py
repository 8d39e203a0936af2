"""Questions to a prediction table, against DuckDB, Spark and PyIceberg on the same files; writes LAKE.md.

    python bench/lake.py [--rows 10000000] [--days 90] [--repeat 5] [--only insightera,duckdb,pyiceberg,spark] [--binary PATH]

The table has one partition a day, written by `INSERT INTO` day by day, each day
all students in the order of their key. Every engine is one warm process with
two threads; each question is asked once without a clock and then `--repeat`
times, medians are compared. Answers are compared first: of rows, their number
and sums. What the questions read by name is in QUESTIONS. PyIceberg is asked
what it can be asked: a filter and columns, the rest is pyarrow on what it
reads. Ours is `insightera sql --file … --timing`, in which a statement's time
is that until all its rows are in memory. The table stays in .cache/bench/lake.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache/bench/lake"
TABLE = "ml_predictions.dropout_risk_predictions"
FIRST = datetime.date(2026, 1, 1)
SEED = 20261129
THREADS = 2
NUMBERS = ["risk_score", "dropout_probability", "predicted_dropout", "propensity"]
COLUMNS = """nim STRING NOT NULL, nama_mahasiswa STRING, prodi_nama STRING, risk_score INT, dropout_probability DOUBLE,
risk_category STRING, predicted_dropout INT, feature_timestamp TIMESTAMP, prediction_timestamp TIMESTAMP NOT NULL,
model_version STRING, inference_type STRING, prediction_date DATE NOT NULL, run_id STRING, feature_hash STRING,
propensity DOUBLE"""


def day(number):
    return (FIRST + datetime.timedelta(days=number)).isoformat()


def questions(days, students):
    """Name, what is asked in SQL of `{t}`, the columns and filter that PyIceberg is asked for."""
    one, other, student = day(days // 2), day(days // 2 + 1), f"{students // 3 * 7:010d}"
    averages = ", ".join(f"avg({name}) AS {name}" for name in NUMBERS)
    return {
        "averages": (f"SELECT {averages} FROM {{t}}", NUMBERS, None),
        "filter": ("SELECT nim, dropout_probability, prediction_timestamp FROM {t} WHERE dropout_probability >= 0.99",
                   ["nim", "dropout_probability", "prediction_timestamp"], "dropout_probability >= 0.99"),
        "history": (f"SELECT * FROM {{t}} WHERE nim = '{student}' ORDER BY prediction_timestamp", ["*"], f"nim == '{student}'"),
        "join": ("SELECT avg(b.dropout_probability - a.dropout_probability) AS moved, max(b.risk_score - a.risk_score) AS most "
                 f"FROM {{t}} a JOIN {{t}} b ON a.nim = b.nim WHERE a.prediction_date = DATE '{one}' AND b.prediction_date = DATE '{other}'",
                 None, None),
        "day": (f"SELECT avg(dropout_probability) AS p, max(risk_score) AS r FROM {{t}} WHERE prediction_date = DATE '{one}'",
                ["dropout_probability", "risk_score"], f"prediction_date == '{one}'"),
        "all": ("SELECT * FROM {t}", ["*"], None),
    }  # fmt: skip


def build(rows, days, binary):
    """The table, day by day; a part that was begun by another run is made anew."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = FOLDER / f"done-{rows}-{days}"
    if done.exists():
        return
    subprocess.run(["rm", "-rf", str(FOLDER)], check=True)
    project = FOLDER / "project"
    (project / "gold/day").mkdir(parents=True)
    (project / "pipelines").mkdir()
    (project / "insightera.toml").write_text(f'format = 1\n[run]\nthreads = {THREADS}\n[inputs."gold.day"]\nparquet = "gold/day"\n')
    students = rows // days
    random = np.random.default_rng(SEED)
    names = pa.array([f"{number * 7:010d}" for number in range(students)])
    people = pa.array([f"Student {number}" for number in range(students)])
    programs = pa.array([f"Program {number % 40}" for number in range(students)])
    level = random.beta(2, 5, students)

    def sql(statement):
        subprocess.run([str(binary), "--project", str(project), "sql", statement], check=True, stdout=subprocess.DEVNULL)

    for number in range(days):
        p = np.clip(level + random.normal(0, 0.05, students), 0, 1)
        p[random.random(students) < 0.01] = 0.995
        today = FIRST + datetime.timedelta(days=number)
        at = datetime.datetime.combine(today, datetime.time(3))
        same = lambda value, kind=None: pa.array([value], kind).take(pa.array(np.zeros(students, np.int32)))  # noqa: E731
        table = pa.table({
            "nim": names, "nama_mahasiswa": people, "prodi_nama": programs,
            "risk_score": pa.array((p * 100).astype(np.int32)), "dropout_probability": pa.array(p),
            "risk_category": pa.array(np.select([p < 0.3, p < 0.6], ["Low", "Medium"], "High")),
            "predicted_dropout": pa.array((p > 0.5).astype(np.int32)),
            "feature_timestamp": pa.array(np.datetime64(at) - random.integers(0, 86_400_000_000, students).astype("timedelta64[us]")),
            "prediction_timestamp": same(at, pa.timestamp("us")), "model_version": same(str(1 + number // 30)),
            "inference_type": same("batch"), "prediction_date": same(today), "run_id": same(f"run-{number:04d}-{SEED}"),
            "feature_hash": pa.array([f"{h:016x}" for h in random.integers(0, 2**63, students)]),
            "propensity": pa.array(np.where(random.random(students) < 0.5, 1.0, 0.5)),
        })  # fmt: skip
        pq.write_table(table, project / "gold/day/day.parquet")
        if number == 0:
            sql(f"CREATE TABLE {TABLE} ({COLUMNS}) USING iceberg PARTITIONED BY (days(prediction_date))")
        sql(f"INSERT INTO {TABLE} SELECT * FROM gold.day")
        print(f"  {today}", file=sys.stderr, end="\r", flush=True)
    done.touch()


def catalog():
    from pyiceberg.catalog.sql import SqlCatalog

    project = FOLDER / "project"
    return SqlCatalog("insightera", uri=f"sqlite:///{project}/warehouse/catalog.db", warehouse=f"file://{project}/warehouse")


class Peer:
    """An engine in a process of its own, told what to ask, one line of JSON a question."""

    def __init__(self, name, asked, repeat):
        environment = os.environ | {"PYICEBERG_MAX_WORKERS": str(THREADS), "OMP_NUM_THREADS": str(THREADS)}
        command = [sys.executable, __file__, "--peer", name, json.dumps(asked), str(repeat)]
        self.done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)

    def answers(self):
        if self.done.returncode:
            return {}
        return json.loads(self.done.stdout.splitlines()[-1])


def timed(repeat, act):
    """The seconds of every round after the first, and the last answer."""
    times, answer = [], act()
    for _ in range(repeat):
        answer = None
        start = time.perf_counter()
        answer = act()
        times.append(time.perf_counter() - start)
    return times, answer


def told(answer):
    """What must agree of a pyarrow table: its rows, and the sums of its numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sums = [pc.sum(c).as_py() or 0 for c in answer.columns if pa.types.is_floating(c.type) or pa.types.is_integer(c.type) or pa.types.is_decimal(c.type)]
    return [answer.num_rows, float(sum(map(float, sums)))]


def duckdb(asked, repeat):
    import glob

    import duckdb
    import duckdb_extension_avro
    import duckdb_extension_iceberg

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true", "threads": THREADS})
    for module in (duckdb_extension_avro, duckdb_extension_iceberg):
        found = glob.glob(f"{os.path.dirname(module.__file__)}/**/*.duckdb_extension", recursive=True)
        connection.execute(f"LOAD '{found[0]}'")
    location = catalog().load_table(TABLE).metadata_location.removeprefix("file://")
    for name, (sql, _, _) in asked.items():
        statement = sql.replace("{t}", f"iceberg_scan('{location}')")
        yield name, *timed(repeat, lambda s=statement: connection.sql(s).to_arrow_table())


def pyiceberg(asked, repeat):
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyiceberg.expressions import AlwaysTrue

    pa.set_cpu_count(THREADS)
    table = catalog().load_table(TABLE)
    # What PyIceberg's scan cannot do itself.
    rest = {
        "averages": lambda found: pa.table({column: [pc.mean(found[column]).as_py()] for column in NUMBERS}),
        "day": lambda found: pa.table({"p": [pc.mean(found["dropout_probability"]).as_py()], "r": [pc.max(found["risk_score"]).as_py()]}),
        "history": lambda found: found.sort_by("prediction_timestamp"),
    }
    for name, (_, columns, row_filter) in asked.items():
        if columns is None:
            continue
        scan = table.scan(row_filter=row_filter or AlwaysTrue(), selected_fields=tuple(columns))
        more = rest.get(name, lambda found: found)
        # A scan keeps no files between two calls.
        yield name, *timed(repeat, lambda scan=scan, more=more: more(scan.to_arrow()))


def spark(asked, repeat):
    sys.path.insert(0, str(ROOT / "bench"))
    from spark_session import session

    import pyarrow as pa

    started = session("lake", FOLDER / "scratch", project=FOLDER / "project")
    for name, (sql, _, _) in asked.items():
        statement = sql.replace("{t}", f"insightera.{TABLE}")
        # Rows to Python are no part of the question: many stay in the JVM.
        if name == "all":
            def act(s=statement):
                started.sql(s).write.format("noop").mode("overwrite").save()
            times, _ = timed(repeat, act)
            yield name, times, None
            continue
        times, rows = timed(repeat, lambda s=statement: started.sql(s).collect())
        yield name, times, pa.Table.from_pylist([row.asDict() for row in rows])
    started.stop()


PEERS = {"duckdb": duckdb, "pyiceberg": pyiceberg, "spark": spark}


def peer(name, asked, repeat):
    found = {}
    for question, times, answer in PEERS[name](asked, repeat):
        found[question] = {"seconds": times, "told": told(answer) if answer is not None else None}
        print(f"  {name} {question}: {statistics.median(times):.3f} s", file=sys.stderr, flush=True)
    print(json.dumps(found))


def ours(asked, repeat, binary):
    """All questions in one process, the answers once more as data."""
    import pyarrow.csv
    import io

    command = [str(binary), "--project", str(FOLDER / "project"), "sql"]
    statements = [sql.replace("{t}", TABLE) for sql, _, _ in asked.values() for _ in range(repeat + 1)]
    script = FOLDER / "questions.sql"
    script.write_text(";\n".join(statements))
    done = subprocess.run([*command, "--file", str(script), "--limit", "1", "--timing"], check=True, capture_output=True, text=True)
    times = [(int(rows), float(took)) for rows, took in re.findall(r"^(\d+) rows in ([\d.]+) s$", done.stderr, re.M)]
    assert len(times) == len(statements), done.stderr
    found = {}
    for at, (name, (sql, _, _)) in enumerate(asked.items()):
        part = times[at * (repeat + 1) : (at + 1) * (repeat + 1)]
        found[name] = {"seconds": [took for _, took in part[1:]]}
        if name == "all":
            found[name]["told"] = [part[0][0], None]
        else:
            text = subprocess.run([*command, sql.replace("{t}", TABLE), "--format", "csv"], check=True, capture_output=True).stdout
            strings = {"nim": "string", "model_version": "string", "feature_hash": "string", "run_id": "string"}
            convert = pyarrow.csv.ConvertOptions(column_types=strings)
            found[name]["told"] = told(pyarrow.csv.read_csv(io.BytesIO(text), convert_options=convert))
        print(f"  insightera {name}: {statistics.median(found[name]['seconds']):.3f} s", file=sys.stderr, flush=True)
    if "day" not in asked:
        return found, ""
    plans = subprocess.run([*command, "EXPLAIN " + asked["day"][0].replace("{t}", TABLE)], check=True, capture_output=True, text=True).stdout
    return found, plans


def agree(one, other):
    if one is None or other is None or one[1] is None or other[1] is None:
        return one is None or other is None or one[0] == other[0]
    return one[0] == other[0] and abs(one[1] - other[1]) <= 1e-9 * max(1, abs(one[1]))


def main():
    if sys.argv[1:2] == ["--peer"]:
        return peer(sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--rows", type=int, default=10_000_000)
    parse.add_argument("--days", type=int, default=90)
    parse.add_argument("--repeat", type=int, default=5)
    parse.add_argument("--only", default="insightera,duckdb,pyiceberg,spark")
    parse.add_argument("--questions", default="")
    parse.add_argument("--binary", type=Path, default=ROOT / "target/release/insightera")
    parse.add_argument("--out", type=Path, default=ROOT / "bench/LAKE.md")
    options = parse.parse_args()
    build(options.rows, options.days, options.binary)
    asked = questions(options.days, options.rows // options.days)
    if options.questions:
        asked = {name: asked[name] for name in options.questions.split(",")}
    engines, plan = {}, ""
    for name in options.only.split(","):
        if name == "insightera":
            engines[name], plan = ours(asked, options.repeat, options.binary)
        else:
            engines[name] = Peer(name, asked, options.repeat).answers()
    cpu = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = []
    for package in ("duckdb", "duckdb-extension-iceberg", "pyiceberg", "pyarrow", "pyspark"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    size = sum(path.stat().st_size for path in (FOLDER / "project/warehouse").rglob("*.parquet"))
    lines = [
        "# Questions to a prediction table, against its peers", "",
        "`python bench/lake.py` prints and writes this; [lake.py](lake.py) says how it measures.", "",
        f"- machine: {cpu[0] if cpu else platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end",
        f"- versions: Python {platform.python_version()}, {', '.join(versions)}, Java iceberg-spark-runtime 1.10.2",
        f"- {options.rows:,} predictions of 15 columns in {options.days} daily partitions, {size / 1e6:,.0f} MB of Parquet; {THREADS} threads, warm, medians of {options.repeat}, seconds", "",
        "| question | " + " | ".join(engines) + " | rows | against DuckDB | Spark | PyIceberg |", "|---" * (len(engines) + 5) + "|",
    ]  # fmt: skip
    wrong = []
    for question in asked:
        row, reference = [], engines.get("insightera", {}).get(question)
        for name, found in engines.items():
            got = found.get(question)
            row.append(f"{statistics.median(got['seconds']):.3f}" if got else "")
            if got and reference and not agree(reference["told"], got["told"]):
                wrong.append(f"{question}: insightera says {reference['told']}, {name} {got['told']}")
        ratios = []
        for name in ("duckdb", "spark", "pyiceberg"):
            got = engines.get(name, {}).get(question)
            ratios.append(f"{statistics.median(got['seconds']) / statistics.median(reference['seconds']):.1f}x" if got and reference else "")
        rows = reference["told"][0] if reference else ""
        lines.append(f"| {question} | " + " | ".join([*row, f"{rows:,}" if rows != "" else "", *ratios]) + " |")
    lines += ["", "The questions:", ""]
    lines += [f"- {name}: `{sql.replace('{t}', 't')}`" for name, (sql, _, _) in asked.items()]
    lines += ["", *(f"- **no agreement**: {text}" for text in wrong)] if wrong else ["", "All answers agree."]
    if plan:
        read = [line.split(None, 1)[1] for line in plan.splitlines() if line.startswith("files ")]
        lines += ["", "What `EXPLAIN` says of the files that the question about one day reads:", "", *(f"- {line}" for line in read)]
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
