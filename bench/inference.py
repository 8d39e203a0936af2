"""The scoring engine and its peers in one run; writes bench/INFERENCE.md.

    python bench/inference.py [--rows 1000000] [--repeat 5] [--seconds 0.5] [--threads 1,2]
                              [--models xgboost,...] [--engines lignum,...] [--binary PATH] [--out FILE]

Every engine is a process that has loaded the model and holds the rows, pinned
to as many processors as it has threads. In each round every engine scores once,
one after the other, so that whatever disturbs the machine disturbs all; medians
of the rounds are compared. A round takes about --seconds: slow engines get
fewer of the rows. Scores are compared before times count. Rows, trained models
and what peers compile stay in .cache/bench/inference; a second run uses them.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import inference_models
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache/bench/inference"
OURS = "insightera"
# Ours without the instructions that not every processor has.
NARROW = "insightera_avx2"
# The model, what it is, the engines that can score it. `own` is the library that made it.
MODELS = {
    "xgboost": ("xgboost.ubj", "XGBoost, 500 trees of depth 6", "xgboost", "onnxruntime lignum lignum_compiled daal4py tl2cgen ydf"),
    "lightgbm": ("lightgbm.txt", "LightGBM, 500 trees of 31 leaves", "lightgbm", "onnxruntime lignum lignum_compiled daal4py lleaves tl2cgen ydf"),
    "xgboost_forest": ("xgboost_forest.ubj", "XGBoost forest, 200 trees of depth 10", "xgboost", "onnxruntime lignum lignum_compiled daal4py tl2cgen"),
    "sklearn_forest": ("sklearn_forest.txt", "scikit-learn forest, 200 trees of depth 10", "scikit-learn", "onnxruntime lightgbm lignum lignum_compiled lleaves tl2cgen"),
    "catboost": ("catboost.cbm", "CatBoost, 500 trees of depth 6", "catboost", "lignum"),
    "linear": ("linear.onnx", "imputer, scaler, logistic regression", "scikit-learn", "onnxruntime"),
}
PACKAGES = "xgboost-cpu lightgbm catboost scikit-learn onnxruntime pylignum scikit-learn-intelex lleaves tl2cgen treelite ydf numpy".split()
# Larger differences of a probability than this are no agreement.
TOLERANCE = 1e-5
AGREEMENT_ROWS = 100_000
SINGLE_ROWS = 5_000
# Fewer rows than this are no measurement of a batch.
FEWEST = 10_000
# Many short rounds: a disturbance of the machine is in few of them.
SCALING_ROUNDS = 41
SCALING_SECONDS = 0.1
# Rows to find out how fast an engine explains.
EXPLAINED = 50


class Engine:
    """A process that scores on command."""

    def __init__(self, name, model, threads, binary, rows):
        self.name, self.failed = name, None
        processors = sorted(os.sched_getaffinity(0))[-threads:]
        pin = ["taskset", "-c", ",".join(map(str, processors))]
        own = [str(binary), str(model), f"{rows}.parquet", str(threads), *(["avx2"] if name == NARROW else [])]
        peer = [sys.executable, str(ROOT / "bench/inference_peers.py"), name.replace("_", " "), str(model), f"{rows}.npy", str(threads)]
        self.command = pin + (own if name in (OURS, NARROW) else peer)
        log = open(FOLDER / f"{name}.log", "w")
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.loaded = self.read()
        self.times = []

    def read(self):
        line = self.process.stdout.readline()
        try:
            found = json.loads(line)
        except ValueError:
            log = (FOLDER / f"{self.name}.log").read_text(errors="replace").strip().splitlines()
            found = {"failed": log[-1][:200] if log else "the process ended"}
        self.failed = found.get("failed", self.failed)
        return found

    def ask(self, command):
        if self.failed:
            return {}
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except OSError:
            self.failed = self.failed or "the process ended"
            return {}
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def calibrate(self, seconds, most):
        """How many rows take about `seconds`, after one round that is not counted."""
        took = self.ask(f"rows {FEWEST}").get("wall")
        if took:
            self.rows = int(min(most, max(FEWEST, FEWEST * seconds / took)) // FEWEST * FEWEST)
            took = self.ask(f"rows {self.rows}").get("wall")
            if took:
                self.rows = int(min(most, max(FEWEST, self.rows * seconds / took)) // FEWEST * FEWEST)

    def measure(self):
        found = self.ask(f"rows {self.rows}")
        if "wall" in found:
            self.times.append((self.rows / found["wall"], self.rows / max(found["cpu"], 0.01)))

    def speed(self, which=0):
        return statistics.median(time[which] for time in self.times) if self.times else None


def write_rows(count):
    """The same rows for us (Parquet) and for the peers (numpy), and a part to compare scores on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for rows in (count, AGREEMENT_ROWS):
        path = FOLDER / f"rows{rows}"
        if not Path(f"{path}.parquet").exists():
            x, _ = inference_models.rows(rows)
            np.save(f"{path}.npy", x)
            table = pa.table({name: pa.array(x[:, at], from_pandas=True) for at, name in enumerate(inference_models.NAMES)})
            pq.write_table(table, f"{path}.parquet")


def scores(name, model, binary):
    """The scores of the rows to compare, or why there are none; kept while the model is as it is."""
    path = FOLDER / f"{model.name}.{name}.scores"
    if name in (OURS, NARROW) or not path.exists() or path.stat().st_mtime < model.stat().st_mtime:
        engine = Engine(name, model, 1, binary, FOLDER / f"rows{AGREEMENT_ROWS}")
        engine.ask(f"write {path}")
        engine.close()
        if engine.failed:
            path.unlink(missing_ok=True)
            return None, engine.failed
    return np.fromfile(path), None


def compare(model, own, names, binary):
    """Of each engine: the largest difference from the library that made the model, or why it has no scores."""
    wanted, failed = scores(own, model, binary)
    found = {}
    for name in names:
        got, reason = scores(name, model, binary)
        if got is None or wanted is None:
            found[name] = reason or failed
        elif len(got) != len(wanted):
            found[name] = f"{len(got)} scores for {len(wanted)} rows"
        else:
            found[name] = float(np.abs(got - wanted).max())
    return found


def batches(model, names, threads, options, rows):
    engines = [Engine(name, model, threads, options.binary, rows) for name in names]
    for engine in engines:
        engine.calibrate(options.seconds, options.rows)
    for _ in range(options.repeat):
        for engine in engines:
            if not engine.failed:
                engine.measure()
    if threads == 1:
        for engine in engines:
            found = engine.ask(f"single {SINGLE_ROWS}") if not engine.failed else {}
            engine.single = (found.get("p50"), found.get("p99"))
    if threads == 1:
        explain(engines, options)
    for engine in engines:
        engine.close()
    return {engine.name: engine for engine in engines}


def scaling(model, name, options, rows):
    """What more threads bring to ours and to arithmetic alone, turn by turn: a phase of the
    machine is in all of a round. Medians over the rounds, and the middle half of the last."""
    few, many = options.threads[0], options.threads[-1]
    engines = [Engine(name, model, threads, options.binary, rows) for threads in (few, many)]
    for engine in engines:
        engine.calibrate(SCALING_SECONDS, options.rows)
    gains, bests = [], []
    for _ in range(SCALING_ROUNDS):
        speeds = [engine.rows / engine.ask(f"rows {engine.rows}")["wall"] for engine in engines]
        spins = [threads / engine.ask("spin 50")["wall"] for engine, threads in zip(engines, (few, many))]
        gains.append(speeds[1] / speeds[0])
        bests.append(spins[1] / spins[0])
    for engine in engines:
        engine.close()
    shares = [gain / best for gain, best in zip(gains, bests)]
    low, middle, high = statistics.quantiles(shares, n=4)
    return statistics.median(gains), statistics.median(bests), low, middle, high


def explain(engines, options):
    """Rows per second whose contributions are told, in turn, by those that can."""
    counts = {}
    for engine in engines:
        # The first call makes what explaining needs.
        took = [engine.ask(f"explain {EXPLAINED}").get("wall") for _ in range(2)][-1] if not engine.failed else None
        if took:
            counts[engine] = int(max(EXPLAINED, EXPLAINED * min(options.seconds / took, options.rows / EXPLAINED)))
    times = {engine: [] for engine in counts}
    for _ in range(options.repeat):
        for engine, count in counts.items():
            took = engine.ask(f"explain {count}").get("wall")
            if took:
                times[engine].append(count / took)
    for engine, found in times.items():
        engine.explained = statistics.median(found) if found else None


def machine():
    model = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    flags = Path("/proc/cpuinfo").read_text()
    wide = [flag for flag in ("avx2", "avx512bw", "avx512vbmi") if flag in flags]
    return f"{model[0] if model else platform.machine()}, {len(os.sched_getaffinity(0))} processors ({', '.join(wide)}), load {os.getloadavg()[0]:.1f} at the start"


def number(value, unit=""):
    return "" if value is None else f"{value:,.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"


def report_model(key, options, rows):
    file, title, own, others = MODELS[key]
    model = FOLDER / file
    lines = [f"## {title}", ""]
    if not model.exists():
        return [*lines, f"Not trained: {options.untrained.get(file, 'unknown')}", ""]
    names = [OURS, NARROW, own, *(n for n in others.split() if not options.engines or n in options.engines)]
    print(f"{title}: comparing scores", file=sys.stderr, flush=True)
    agreement = compare(model, own, names, options.binary)
    # YDF's model is its own: it has a time and no agreement.
    able = [name for name in names if isinstance(agreement[name], float)]
    wrong = [name for name in able if agreement[name] > TOLERANCE and name != "ydf"]
    results = {}
    for threads in options.threads:
        print(f"{title}: {threads} threads, {', '.join(able)}", file=sys.stderr, flush=True)
        results[threads] = batches(model, able, threads, options, rows)
    first, last = options.threads[0], options.threads[-1]
    ours = results[first].get(OURS)
    header = ["engine", *(f"rows/s, {t} thread{'s' * (t > 1)}" for t in options.threads), "ours is faster by", "rows per CPU second"]
    header += ["one row p50", "p99", "rows explained/s", "load", "memory / file", "largest difference"]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name in able:
        engine = results[first][name]
        speeds = [number(results[t][name].speed()) for t in options.threads]
        ratio = f"{ours.speed() / engine.speed():.2f}x" if name not in (OURS, NARROW) and ours and ours.speed() and engine.speed() else ""
        single = [number(time, " us") for time in getattr(engine, "single", (None, None))]
        single.append(number(getattr(engine, "explained", None)))
        load = engine.loaded.get("load_seconds")
        memory = engine.loaded.get("bytes", 0) / model.stat().st_size
        differ = "own model" if name == "ydf" else f"{agreement[name]:.1e}" + (" **no agreement**" if name in wrong else "")
        cells = [name.replace("_", " "), *speeds, ratio, number(engine.speed(1)), *single, number(load and load * 1000, " ms"), f"{memory:.1f}", differ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for name in names:
        reason = results[first][name].failed if name in able else agreement[name]
        if reason:
            lines.append(f"- {name.replace('_', ' ')} did not run: {reason}")
    if ours and ours.speed() and last > first:
        for name in (OURS, NARROW):
            gain, best, low, middle, high = scaling(model, name, options, rows)
            lines.append(f"- {name.replace('_', ' ')}, turn by turn: {last} threads score {gain:.2f} times as fast as {first}, arithmetic alone runs "
                         f"{best:.2f} times as fast: {middle:.2f} of it (middle half of {SCALING_ROUNDS} rounds {low:.2f}-{high:.2f})")
    peers = [results[first][name].speed() for name in able if name not in (OURS, NARROW, "ydf", *wrong) and results[first][name].speed()]
    if ours and ours.speed() and peers:
        lines.append(f"- ours against the fastest peer that agrees: {ours.speed() / max(peers):.2f}x")
        narrow = results[first].get(NARROW)
        if narrow and narrow.speed():
            lines.append(f"- ours with AVX2 only against the same: {narrow.speed() / max(peers):.2f}x")
    return [*lines, ""]


def scaling_alone(options):
    """What more threads bring to every model, written to SCALING.md."""
    few, many = options.threads[0], options.threads[-1]
    lines = ["# What more threads bring", "", "`python bench/inference.py --scaling` prints and writes this.", "", f"- machine: {machine()}",
             f"- {SCALING_ROUNDS} short rounds of: the model and arithmetic alone on {few} thread and on {many}, in turn; medians over the rounds", "",
             "| model | gains | arithmetic gains | of it | middle half |", "|---|---|---|---|---|"]  # fmt: skip
    for key in options.models.split(","):
        file, title, *_ = MODELS[key]
        gain, best, low, middle, high = scaling(FOLDER / file, OURS, options, FOLDER / f"rows{options.rows}")
        lines.append(f"| {title} | {gain:.2f}x | {best:.2f}x | {middle:.2f} | {low:.2f}-{high:.2f} |")
        print(lines[-1], flush=True)
    (ROOT / "bench/SCALING.md").write_text("\n".join(lines) + "\n")


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--rows", type=int, default=1_000_000)
    parse.add_argument("--repeat", type=int, default=5)
    parse.add_argument("--seconds", type=float, default=0.5)
    parse.add_argument("--threads", default="1,2", type=lambda text: [int(t) for t in text.split(",")])
    parse.add_argument("--models", default=",".join(MODELS))
    parse.add_argument("--engines", default="", help="only these peers besides the model's own library")
    parse.add_argument("--scaling", action="store_true", help="ours alone, with one thread and with all")
    parse.add_argument("--binary", type=Path, default=ROOT / "target/release/examples/score_bench")
    parse.add_argument("--out", type=Path, default=ROOT / "bench/INFERENCE.md")
    options = parse.parse_args()
    if not options.binary.exists():
        sys.exit(f"no {options.binary}: cargo build --release --locked -p insightera-infer --example score_bench")
    available = len(os.sched_getaffinity(0))
    options.threads = [threads for threads in options.threads if threads <= available]
    FOLDER.mkdir(parents=True, exist_ok=True)
    options.untrained = inference_models.make(FOLDER)
    write_rows(options.rows)
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    compiler = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# Scoring, against its peers", "",
        "`python bench/inference.py` prints and writes this; [inference.py](inference.py) says how it measures.", "",
        f"- machine: {machine()}",
        f"- versions: Python {platform.python_version()}, {', '.join(versions)}; {compiler}",
        f"- command: `python bench/inference.py --rows {options.rows} --repeat {options.repeat} --seconds {options.seconds:g} --threads {','.join(map(str, options.threads))}`",
        f"- medians of {options.repeat} rounds, engines in turn, at most {options.rows:,} rows of {inference_models.COLUMNS} columns; with output transform and allocation of the result",
        f"- ours reads Arrow columns of single precision by name, 8,192 rows a batch, `insightera avx2` without AVX-512; differences are the largest of {AGREEMENT_ROWS:,} probabilities from the library that made the model",
        "- one row: ours `RowScorer::score_record`, a record of names and values; xgboost and lightgbm through their C interfaces (inplace predict, single-row fast); others through Python",
        "- rows explained: exact contributions of every column on one thread, as xgboost's `pred_contribs` gives them", "",
    ]  # fmt: skip
    if options.scaling:
        return scaling_alone(options)
    for key in options.models.split(","):
        lines += report_model(key, options, FOLDER / f"rows{options.rows}")
        options.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
