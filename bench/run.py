"""The benchmark: what it prints is what a document may quote.

    python bench/run.py                  everything, into bench/RESULTS.md
    python bench/run.py --only peer      one section: peer, ours, daily, large, storage
    python bench/run.py --repeats 5 --students 1000000 --days 300

Every figure is of a whole process: wall time, processor time of it and of all
that it started, peak memory; medians of `--repeats` runs with minimum and
maximum. Each measured run starts from a fresh copy of the same project, so no
run sees the output of another. The peer (PySpark + Iceberg, see spark_job.py)
is measured in the same call as ours; a figure that an earlier call left in the
work folder is marked as such.

Needs: `cargo build --release`, Python with bench/requirements.txt, Java 17 and
Maven. Work folder: .cache/bench (INSIGHTERA_BENCH_DIR), about 3 GB, 15 GB with
the 10 million students.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import agreement
import project as projects
import storage
import students as data

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = Path(os.environ.get("INSIGHTERA_BENCH_DIR") or ROOT / ".cache" / "bench").resolve()
SECTIONS = ["peer", "ours", "daily", "large", "storage"]
CHANGES = ["appended", "position-deletes", "copy-on-write"]


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def insightera():
    path = Path(os.environ.get("INSIGHTERA_BIN") or ROOT / "target" / "release" / "insightera")
    if not path.exists():
        sys.exit(f"bench: there is no insightera at `{path}`: run `cargo build --release`, or set INSIGHTERA_BIN; "
                 "the peer alone runs with `--only peer`")
    return str(path)


def python(script, *arguments):
    return [sys.executable, str(HERE / script), *map(str, arguments)]


def measured(command):
    """Cost and standard output of one process; the benchmark ends if it fails."""
    report = WORK / "measure.json"
    done = subprocess.run(python("measure.py", report, "--", *command), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: `{' '.join(map(str, command))}` failed ({done.returncode}):\n{done.stderr[-4000:]}")
    cost = json.loads(report.read_text())
    say(f"    {cost['wall']:8.2f} s wall {cost['cpu']:8.2f} s cpu {cost['peak'] / 2**20:7.0f} MiB")
    return cost, done.stdout


def prepared(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: `{' '.join(map(str, command))}` failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return done.stdout


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"bench: {what}: {found}, expected {wanted}: the figure would be of another job")


def copy(source, target):
    """A fresh copy in the same place (Iceberg paths are absolute), written back before anything is measured."""
    shutil.rmtree(target, ignore_errors=True)
    prepared(["cp", "-a", str(source), str(target)])
    os.sync()


def store(results, name, costs, command, **more):
    """Costs are those of the repeats; `more` is told in the report."""
    results[name] = {"costs": costs, "command": command, "measured": datetime.datetime.now().isoformat("T", "minutes"),
                     "load": os.getloadavg()[0], **more}
    (WORK / "results.json").write_text(json.dumps(results, indent=1))


def shown(command):
    return " ".join(map(str, command)).replace(str(sys.executable), "python").replace(f"{ROOT}/", "")


def model(students):
    """The Spark ML model, trained once."""
    folder = WORK / "model"
    if not (WORK / "model.json").exists():
        say("training the model in Spark ML (once, some minutes)")
        trained = prepared(python("train_spark.py", students, folder, WORK / "scratch"))
        (WORK / "model.json").write_text(trained.splitlines()[-1])
    return folder


# ---- the peer

def peer(results, options, students, summary):
    scorer, warehouse, scratch = model(students), WORK / "spark", WORK / "scratch"
    empty, scored = WORK / "spark.empty", WORK / "spark.scored"
    say("peer: preparing the warehouse")
    shutil.rmtree(warehouse, ignore_errors=True)
    prepared(python("spark_job.py", "prepare", students, warehouse, scratch))
    copy(warehouse, empty)
    for name, which, start, expected, extra in [
        ("peer full", "base", empty, summary["active"], []),
        ("peer changed", "updated", scored, summary["changed"], []),
        ("peer full, with its count()s", "base", empty, summary["active"], ["--counts"]),
        ("peer changed, with its count()s", "updated", scored, summary["changed"], ["--counts"]),
    ]:
        if extra and options.without_counts:
            continue
        say(name)
        command = python("spark_job.py", "run", students, scorer, warehouse, scratch, which, *extra)
        costs = []
        for _ in range(options.repeats if not extra else min(3, options.repeats)):
            copy(start, warehouse)
            cost, output = measured(command)
            expect(f"{name}: rows scored", json.loads(output.splitlines()[-1])["scored"], expected)
            costs.append(cost)
        if name == "peer full":
            copy(warehouse, scored)
        store(results, name, costs, shown(command), rows=expected)
    say("peer warm")
    copy(empty, warehouse)
    command = python("spark_job.py", "warm", students, scorer, warehouse, scratch, options.repeats)
    cost, output = measured(command)
    warm = json.loads(output.splitlines()[-1])
    for kind, expected in (("full", summary["active"]), ("changed", summary["changed"])):
        for each in warm[kind]:
            expect(f"peer warm {kind}: rows scored", each["scored"], expected)
            each["peak"] = cost["peak"]
        store(results, f"peer {kind}, warm session", warm[kind], shown(command), rows=expected)
    copy(scored, warehouse)


# ---- ours

def run_command(folder):
    return [insightera(), "--project", str(folder), "run", projects.PIPELINE, "--format", "json"]


def register(folder, scorer):
    prepared([insightera(), "--project", str(folder), "model", "register", projects.MODEL, str(scorer)])
    prepared([insightera(), "--project", str(folder), "model", "promote", projects.MODEL, "1"])


def verified(folder):
    answer = json.loads(prepared([insightera(), "--project", str(folder), "verify", projects.PIPELINE, "--format", "json"]))
    expect(f"verify in {folder}", answer["ok"], True)


def repeat(results, name, saved, folder, repeats, status, scored):
    say(name)
    costs, answer = [], {}
    for _ in range(repeats):
        copy(saved, folder)
        cost, output = measured(run_command(folder))
        answer = json.loads(output)
        expect(f"{name}: status", answer["status"], status)
        expect(f"{name}: rows scored", answer["scored"], scored)
        costs.append(cost)
    verified(folder)
    plan = {key: answer.get(key) for key in ("scored", "skipped", "reasons", "stages", "strategy")}
    store(results, name, costs, shown(run_command(folder)), rows=scored, answer=plan)


def ours(results, options, students, summary):
    insightera()
    scorer, folder, scratch = model(students), WORK / "project", WORK / "scratch"
    inputs, scored, changed = WORK / "project.inputs", WORK / "project.scored", WORK / "project.changed"
    active, count = summary["active"], summary["changed"]
    say("ours: making the inputs with PyIceberg")
    projects.create(folder, students)
    register(folder, scorer)
    copy(folder, inputs)
    repeat(results, "ours full", inputs, folder, options.repeats, "committed", active)
    copy(folder, scored)
    repeat(results, "ours, nothing to do", scored, folder, options.repeats, "unchanged", 0)
    for kind in CHANGES:
        copy(scored, folder)
        say(prepared(python("project.py", "change", kind, folder, students, scratch)))
        copy(folder, changed)
        repeat(results, f"ours changed, {kind}", changed, folder, options.repeats, "committed", count)
    say("ours: Parquet folders")
    projects.create(folder, students, strategy="timestamp", kind="parquet", more='duplicates = "latest"')
    register(folder, scorer)
    expect("first run on the folders", json.loads(prepared(run_command(folder)))["scored"], active)
    projects.add_newer_file(folder, students)
    copy(folder, changed)
    repeat(results, "ours changed, newer file in a Parquet folder", changed, folder, options.repeats, "committed", count)


def days(folder, students, summary, scorer, count, changes):
    """Daily runs of a new project: `changes` students change before each but the first; the cost of every run."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import numpy as np

    projects.create(folder, students)
    register(folder, scorer)
    table = projects.catalog(folder).load_table("student_features.academic_performance_features")
    rows = pa.concat_tables([pq.read_table(part) for part in projects.parts(students, "academic")]).combine_chunks()
    active = pa.concat_tables([pq.read_table(part) for part in projects.parts(students, "students")])
    places = np.flatnonzero(active["status_mahasiswa"].to_numpy(zero_copy_only=False) == "active")
    costs = []
    for day in range(1, count + 1):
        if day > 1:
            chosen = np.random.default_rng([data.SEED, day]).choice(places, changes, replace=False)
            ipk = rows["ipk"].to_numpy(zero_copy_only=False).copy()
            # Another value than on any day before, and none that the generator draws.
            ipk[chosen] = day % 365 * 4 / 365 + chosen % 7 / 1000 + 0.0005
            at = rows.schema.get_field_index("ipk")
            rows = rows.set_column(at, "ipk", pa.array(ipk, from_pandas=True))
            table.overwrite(rows)
            old = [snapshot.snapshot_id for snapshot in table.metadata.snapshots[:-6]]
            if old:
                table.maintenance.expire_snapshots().by_ids(old).commit()
                table.refresh()
        cost, output = measured(run_command(folder))
        answer = json.loads(output)
        expect(f"day {day}: rows scored", answer["scored"], summary["active"] if day == 1 else changes)
        costs.append(cost)
    return costs


def daily(results, options, students, summary):
    """A year of daily runs on 100,000 students of whom 1,000 change: does a run get dearer?
    And thirty on all students, of whom 1 in 100 changes: how large is the metadata?"""
    insightera()
    scorer, small, folder = model(students), WORK / "students-100000", WORK / "daily"
    costs = days(folder, small, data.ensure(100_000, small), scorer, options.days, 1000)
    store(results, "daily, 5th run (median of days 3 to 7)", costs[2:7], shown(run_command(folder)), rows=1000)
    last = costs[-5:]
    store(results, f"daily, {options.days}th run (median of the last 5 days)", last, shown(run_command(folder)), rows=1000)
    copy(folder, WORK / "daily.saved")
    repeat(results, f"ours, nothing to do, {options.days} earlier commits", WORK / "daily.saved", folder,
           options.repeats, "unchanged", 0)
    say("thirty days of all students")
    days(folder, students, summary, scorer, 30, options.students // 100)
    share = storage.metadata_share(folder / "warehouse" / "ml_predictions" / "dropout_risk_predictions")
    results["storage, metadata after 30 daily runs"] = {**share, "students": options.students}
    (WORK / "results.json").write_text(json.dumps(results, indent=1))
    shutil.rmtree(WORK / "daily.saved")


def large(results, options, students, summary):
    insightera()
    many, folder, saved = WORK / "students-10000000", WORK / "large", WORK / "large.inputs"
    say("large: making 10 million students")
    large_summary = data.ensure(10_000_000, many)
    projects.create(folder, many)
    register(folder, model(students))
    copy(folder, saved)
    repeat(results, "ours full, 10 million students", saved, folder, min(3, options.repeats), "committed",
           large_summary["active"])
    shutil.rmtree(folder)
    shutil.rmtree(saved)


def measure_storage(results, options, students, summary):
    ours_table = WORK / "project.scored" / "warehouse" / "ml_predictions" / "dropout_risk_predictions"
    spark_table = WORK / "spark.scored" / "ml_predictions" / "dropout_risk_predictions"
    results["storage"] = storage.compare(ours_table, spark_table, WORK / "scratch")
    results["agreement"] = agreement.compare(ours_table, spark_table)
    (WORK / "results.json").write_text(json.dumps(results, indent=1))


# ---- the report

def spread(costs, key, scale=1.0, digits=2):
    values = [cost[key] / scale for cost in costs]
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def ratio(results, theirs, mine, key):
    middle = [statistics.median(cost[key] for cost in results[name]["costs"]) for name in (theirs, mine)]
    return f"{middle[0] / middle[1]:.1f}x"


def machine():
    processor = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores {processor}, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def version(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return "not found"
    text = (done.stdout + done.stderr).strip()
    return text.splitlines()[0] if text else "?"


def report(results, options, started):
    import pyarrow
    import pyiceberg
    import pyspark

    trained = json.loads((WORK / "model.json").read_text()) if (WORK / "model.json").exists() else {}
    runs = {name: each for name, each in results.items() if "costs" in each}
    lines = [
        "# Benchmark results", "",
        "Printed by `python bench/run.py`; what is measured and how stands in `bench/README.md`.", "",
        f"- machine: {machine()}",
        f"- insightera: {version([os.environ.get('INSIGHTERA_BIN') or str(ROOT / 'target/release/insightera'), '--version'])}, "
        f"commit {version(['git', '-C', str(ROOT), 'describe', '--always', '--dirty'])}",
        f"- peer: pyspark {pyspark.__version__}, Iceberg 1.10.2, local[2], 8 GB driver, {version(['java', '-version'])}; "
        f"inputs by pyiceberg {pyiceberg.__version__}, pyarrow {pyarrow.__version__}",
        f"- model: Spark ML random forest, {trained.get('trees')} trees of depth 8, {trained.get('nodes'):,} nodes, "
        f"{trained.get('inputs')} inputs, ROC AUC {trained.get('roc_auc')}" if trained else "- model: none",
        "- median (minimum-maximum); load: the machine's one-minute load average after the last run",
        "", "| job | rows | runs | wall s | CPU s | peak MiB | load | measured |", "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, each in runs.items():
        costs = each["costs"]
        when = each["measured"] + ("" if each["measured"] >= started else " (earlier call)")
        lines.append(f"| {name} | {each['rows']:,} | {len(costs)} | {spread(costs, 'wall')} | {spread(costs, 'cpu')} | "
                     f"{spread(costs, 'peak', 2**20, 0)} | {each['load']:.1f} | {when} |")
    pairs = [("peer full", "ours full"), ("peer full, warm session", "ours full")]
    mine = [name for name in runs if name.startswith("ours changed")]
    pairs += [(theirs, name) for theirs in ("peer changed", "peer changed, warm session") for name in mine]
    pairs = [pair for pair in pairs if pair[0] in runs and pair[1] in runs]
    if pairs:
        lines += ["", "| peer / ours | wall | CPU | memory |", "|---|---:|---:|---:|"]
        lines += [f"| {theirs} / {name} | {ratio(runs, theirs, name, 'wall')} | {ratio(runs, theirs, name, 'cpu')} | "
                  f"{ratio(runs, theirs, name, 'peak')} |" for theirs, name in pairs]
    days = [name for name in runs if name.startswith("daily")]
    if len(days) == 2:
        lines += ["", f"{days[1]} against {days[0]}: CPU {ratio(runs, days[1], days[0], 'cpu')}, "
                      f"wall {ratio(runs, days[1], days[0], 'wall')}."]
    if "agreement" in results:
        lines += ["", agreement.line(results["agreement"])]
    lines += storage.lines(results)
    lines += ["", "Commands:", ""] + [f"- {name}: `{each['command']}`" for name, each in runs.items()]
    text = "\n".join(lines) + "\n"
    (HERE / "RESULTS.md").write_text(text)
    print(text)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be given more than once")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--students", type=int, default=1_000_000)
    arguments.add_argument("--days", type=int, default=300)
    arguments.add_argument("--without-counts", action="store_true", help="leave out the peer with its count()s, which is slower")
    arguments.add_argument("--report", action="store_true", help="print what the work folder holds, measure nothing")
    options = arguments.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    saved = WORK / "results.json"
    results = json.loads(saved.read_text()) if saved.exists() else {}
    started = datetime.datetime.now().isoformat("T", "minutes")
    if not options.report:
        chosen = options.only or SECTIONS
        if set(chosen) - {"peer"}:
            insightera()
        students = WORK / f"students-{options.students}"
        summary = data.ensure(options.students, students)
        actions = {"peer": peer, "ours": ours, "daily": daily, "large": large, "storage": measure_storage}
        for section in SECTIONS:
            if section in chosen:
                actions[section](results, options, students, summary)
    report(results, options, started)


if __name__ == "__main__":
    main()
