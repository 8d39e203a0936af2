"""What was true and known at a time: DuckDB's ASOF JOIN and its window functions say what must come out."""

import datetime
import math
import random
from collections import Counter

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lakehouse import FEATURES, OUTPUT, START, Project, multiset, read_with_duckdb, read_with_pyiceberg, rows

HOUR = datetime.timedelta(hours=1)
COMPARE = [">=", ">", "<=", "<"]


def moments(numbers):
    return pa.array([None if n is None else START + n * HOUR for n in numbers], pa.timestamp("us", tz="UTC"))


def maybe(rng, value, share=0.05):
    return None if rng.random() < share else value


def history(rng, rows, keys, span):
    """Feature rows whose times differ within a key, since a tie may be broken either way."""
    seen, columns = set(), {"nim": [], "gpa": [], "true_at": [], "known_at": []}
    for number in range(rows):
        key, time = rng.randrange(keys), rng.randrange(span)
        if (key, time) in seen:
            continue
        seen.add((key, time))
        columns["nim"].append(maybe(rng, f"{key:05d}"))
        columns["gpa"].append(float(number))
        columns["true_at"].append(maybe(rng, time))
        columns["known_at"].append(time + rng.randrange(1 + span // 4))
    return pa.table({
        "nim": pa.array(columns["nim"], pa.string()),
        "gpa": pa.array(columns["gpa"], pa.float64()),
        "true_at": moments(columns["true_at"]),
        "known_at": moments(columns["known_at"]),
    })


def labels(rng, rows, keys, span):
    return pa.table({
        "id": pa.array(range(rows), pa.int64()),
        "nim": pa.array([maybe(rng, f"{rng.randrange(keys + 2):05d}") for _ in range(rows)], pa.string()),
        "seen": moments([maybe(rng, rng.randrange(-2, span + 2)) for _ in range(rows)]),
    })


@pytest.fixture
def lake(tmp_path, binary):
    """A project with both tables as Parquet folders, and the same tables in DuckDB."""
    def make(features, wanted):
        for name, table in (("history", features), ("labels", wanted)):
            (tmp_path / name).mkdir()
            # Several files, so that the reader has several partitions.
            size = max(1, table.num_rows // 3)
            for part in range(0, max(1, table.num_rows), size):
                pq.write_table(table.slice(part, size), tmp_path / name / f"{part}.parquet")
        project = Project(tmp_path / "project", binary).create(
            {f"gold.{name}": tmp_path / name for name in ("history", "labels")})
        duck = duckdb.connect()
        duck.execute("SET TimeZone = 'UTC'")
        duck.register("history", features)
        duck.register("labels", wanted)
        return project, duck
    return make


def ours(project, sql):
    answer = project.call("sql", sql, "--format", "json")
    assert answer.code == 0, answer
    return [tuple(row.values()) for row in answer.json]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("compare", COMPARE)
def test_an_as_of_join_is_duckdbs(lake, seed, compare):
    rng = random.Random(f"{seed} {compare}")
    keys, span = rng.choice([1, 7, 200]), rng.choice([5, 400])
    features, wanted = history(rng, rng.choice([0, 50, 3000]), keys, span), labels(rng, rng.choice([1, 500]), keys, span)
    project, duck = lake(features, wanted)
    select = "SELECT l.id, h.gpa FROM"
    match = f"l.seen {compare} h.true_at"
    expected = duck.execute(
        f"{select} labels l ASOF LEFT JOIN history h ON l.nim = h.nim AND {match}").fetchall()
    found = ours(project, f"{select} gold.labels l ASOF JOIN gold.history h MATCH_CONDITION ({match}) ON l.nim = h.nim")
    assert Counter(found) == Counter(expected), f"seed {seed}"
    assert len(found) == wanted.num_rows


@pytest.mark.parametrize("seed", range(3))
def test_a_feature_view_is_the_newest_row_known_in_time(lake, seed):
    rng = random.Random(seed)
    features, wanted = history(rng, 2000, 40, 300), labels(rng, 400, 40, 300)
    project, duck = lake(features, wanted)
    ttl = rng.choice([5, 50])
    folder = project.folder / "feature_views"
    folder.mkdir()
    (folder / "grades.toml").write_text(
        f'table = "gold.history"\nkey = ["nim"]\nfeature_time = "true_at"\nknown_time = "known_at"\nttl = "{ttl} hours"\n')
    expected = duck.execute(f"""
        SELECT id, CASE WHEN seen <= true_at + INTERVAL {ttl} HOUR THEN gpa END,
            CASE WHEN true_at IS NULL THEN 'missing' WHEN seen <= true_at + INTERVAL {ttl} HOUR THEN 'fresh'
                ELSE 'expired' END
        FROM (SELECT l.id, l.seen, h.gpa, h.true_at,
                row_number() OVER (PARTITION BY l.id ORDER BY h.true_at DESC NULLS LAST) AS n
            FROM labels l LEFT JOIN history h
                ON l.nim = h.nim AND h.true_at <= l.seen AND h.known_at <= l.seen)
        WHERE n = 1""").fetchall()
    found = ours(project, """
        SELECT l.id, f.gpa, f.feature_status
        FROM gold.labels l ASOF JOIN feature_views.grades f MATCH_CONDITION (l.seen >= f.true_at) USING (nim)""")
    assert Counter(found) == Counter(expected), f"seed {seed}"
    statuses = {row[2] for row in found}
    assert statuses == {"fresh", "expired", "missing"}


def test_a_training_set_is_duckdbs_and_a_leak_leaves_no_file(lake):
    rng = random.Random(11)
    features, wanted = history(rng, 2000, 40, 300), labels(rng, 300, 40, 300)
    project, duck = lake(features, wanted)
    folder = project.folder / "feature_views"
    folder.mkdir()
    view = 'table = "gold.history"\nkey = ["nim"]\nfeature_time = "true_at"\nknown_time = "known_at"\n'
    (folder / "grades.toml").write_text(view)
    output = project.folder / "training.parquet"
    command = ["features", "export", "--labels", "gold.labels", "--time", "seen", "--views", "grades", "--output", output]
    answer = project.call(*command, "--format", "json")
    assert answer.code == 0, answer
    expected = duck.execute("""
        SELECT id, nim, seen, gpa FROM (SELECT l.*, h.gpa,
                row_number() OVER (PARTITION BY l.id ORDER BY h.true_at DESC NULLS LAST) AS n
            FROM labels l LEFT JOIN history h
                ON l.nim = h.nim AND h.true_at <= l.seen AND h.known_at <= l.seen)
        WHERE n = 1""").fetchall()
    written = duck.execute(f"SELECT id, nim, seen, gpa FROM '{output}'").fetchall()
    assert Counter(written) == Counter(expected)
    # The label by another name.
    output.unlink()
    (folder / "outcomes.toml").write_text(view.replace("gold.history", "gold.outcomes"))
    (project.folder.parent / "outcomes").mkdir()
    nims = sorted({nim for nim in wanted["nim"].to_pylist() if nim})
    pq.write_table(pa.table({
        "nim": pa.array(nims), "status": pa.array([int(n) % 2 for n in nims], pa.int32()),
        "true_at": moments([-10] * len(nims)), "known_at": moments([-10] * len(nims)),
    }), project.folder.parent / "outcomes" / "a.parquet")
    with open(project.folder / "insightera.toml", "a") as settings:
        settings.write(f'[inputs."gold.outcomes"]\nparquet = "{project.folder.parent / "outcomes"}"\n')
    told = "SELECT l.*, CAST(nim AS INT) % 2 AS outcome FROM gold.labels l"
    leaking = ["features", "export", "--labels", told, "--time", "seen", "--label", "outcome", "--views", "outcomes",
               "--output", output, "--format", "json"]
    answer = project.call(*leaking)
    assert answer.code == 1 and not output.exists(), answer
    assert [(leak["kind"], leak["feature"]) for leak in answer.json["leaks"]] == [("label", "status")]


def test_a_run_as_of_a_time_is_that_times_run_in_other_readers_eyes(project):
    first = project.call("run", "risk", "--format", "json").json
    then = datetime.datetime.now(datetime.timezone.utc).isoformat()
    columns = ["nim", "margin", "probability", "label"]
    of_run = lambda table, run: multiset(  # noqa: E731
        table.filter(pc.equal(table["run_id"], run)), columns)
    wanted = of_run(read_with_duckdb(project, OUTPUT), first["run_id"])
    changed = rows(range(200), x=lambda n: n / 10 + 0.05 if n < 50 else math.sin(n) * 3)
    project.table(FEATURES).overwrite(changed)
    second = project.call("run", "risk", "--format", "json").json
    assert second["scored"] == 50
    current = ours(project, f"SELECT nim, margin, run_id FROM {OUTPUT}_current")
    replay = project.call("run", "risk", "--as-of", then, "--into", "predictions.replay", "--format", "json").json
    marked = project.call("run", "risk", "--as-of", then, "--format", "json").json
    for read in (read_with_duckdb, read_with_pyiceberg):
        assert of_run(read(project, "predictions.replay"), replay["run_id"]) == wanted
        assert of_run(read(project, OUTPUT), marked["run_id"]) == wanted
    kinds = set(read_with_duckdb(project, OUTPUT)["inference_type"].to_pylist())
    assert kinds == {"batch", "as_of"}
    assert Counter(ours(project, f"SELECT nim, margin, run_id FROM {OUTPUT}_current")) == Counter(current)
    assert project.call("verify", "risk").code == 0
    assert project.call("run", "risk", "--format", "json").json["status"] == "unchanged"
