"""What users get wrong: each is told in words that name the thing, exits 1, prints nothing on stdout and commits
nothing."""

import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse import COLUMNS, FEATURES, MODEL, OUTPUT, PIPELINE, SQL, Project, rows


def refused(project, *arguments, says=(), **options):
    """The command must fail as the user's to fix and say every pattern of `says`."""
    before = project.metadata_location(OUTPUT) if project.database.exists() else None
    answer = project.call(*(arguments or ("run", PIPELINE, "--format", "json")), **options)
    assert answer.code == 1, answer
    assert answer.stdout == "", answer
    for pattern in says:
        assert re.search(pattern, answer.stderr, re.IGNORECASE), f"/{pattern}/ is not in {answer}"
    assert project.metadata_location(OUTPUT) == before if project.database.exists() else True
    return answer


def edit(project, old, new, name=PIPELINE):
    path = project.folder / "pipelines" / f"{name}.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# ---- configuration

def test_an_unknown_key_is_told_the_nearest(project):
    edit(project, 'strategy = "auto"', 'stratgy = "auto"')
    refused(project, says=[r"pipelines/risk\.toml:\d+", "unknown key `stratgy`", "did you mean `strategy`"])


def test_an_unknown_value_is_told_the_valid_ones(project):
    edit(project, 'strategy = "auto"', 'strategy = "snapshots"')
    refused(project, says=["`snapshots`", "`snapshot`", "`hash`"])


def test_a_wrong_type_is_told_what_it_must_be(project):
    edit(project, 'key = ["nim"]', "key = 5")
    refused(project, says=[r"risk\.toml:\d+", "`key` must be an array of strings", "an integer"])


def test_broken_toml_has_a_place(project):
    edit(project, "[entity]", "[entity")
    refused(project, says=[r"risk\.toml:\d+"])


def test_a_folder_that_is_no_project(tmp_path, binary):
    refused(Project(tmp_path, binary), says=[r"insightera\.toml", "hint: .*insightera init"])


# ---- inputs

def test_a_missing_table_is_named(project):
    project.pipeline(sql=SQL.replace("features.student", "features.studnet"))
    refused(project, says=[r"features\.studnet", r"features\.student\b"])


def test_a_missing_column_is_named(project):
    project.pipeline(sql=SQL.replace("x, y", "xx, y"))
    refused(project, says=[r"\bxx\b"])


def test_a_key_that_the_features_lack(project):
    project.pipeline(key=("student",), columns={**COLUMNS, "student": "nim"})
    refused(project, says=["`student`"])


def test_a_column_of_the_wrong_type_for_the_model(project):
    project.pipeline(sql=SQL.replace("x, y", "'many' AS x, y"))
    refused(project, says=[r"`x`"])


def test_a_model_that_wants_another_column(project):
    project.pipeline(sql=SQL.replace("x, y", "x"))
    refused(project, says=["`y`", MODEL])


def test_a_syntax_error_has_line_and_caret(project):
    project.pipeline(sql="SELECT nim, x, y, feature_timestamp\nFROM features.student\nWHER x > 1 ORDER")
    answer = refused(project, says=[r"line \d+|:\d+:\d+"])
    assert re.search(r"^[\s|\d]*\^", answer.stderr, re.MULTILINE), answer
    answer = project.call("sql", "SELECT 1 +\nFROM")
    assert answer.code == 1 and answer.stdout == "" and re.search(r"^[\s|\d]*\^", answer.stderr, re.MULTILINE), answer


def test_corrupt_parquet_names_the_file(project):
    data = sorted((project.folder / "warehouse" / "features").rglob("*.parquet"))[0]
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    refused(project, says=[re.escape(data.name)])


def test_corrupt_parquet_in_a_folder_names_the_file(empty_project, small_model):
    project = empty_project.create(inputs={FEATURES: "gold/student"})
    folder = project.folder / "gold" / "student"
    folder.mkdir(parents=True)
    pq.write_table(rows(range(50)), folder / "good.parquet")
    (folder / "damaged.parquet").write_bytes(b"PAR1 this is not Parquet PAR1")
    project.pipeline()
    project.register(small_model)
    refused(project, says=[r"damaged\.parquet"])
    (folder / "damaged.parquet").unlink()
    assert project.run()["scored"] == 50


def test_a_missing_parquet_folder_is_named(empty_project, small_model):
    project = empty_project.create(inputs={FEATURES: "gold/nowhere"})
    project.pipeline()
    project.register(small_model)
    refused(project, says=["gold/nowhere"])


# ---- rows

def test_duplicate_keys_are_an_error_unless_the_pipeline_says_which_wins(project):
    import datetime

    from lakehouse import START

    project.table(FEATURES).append(rows([3, 4], x=lambda n: 100.0, time=START + datetime.timedelta(hours=1)))
    refused(project, says=["duplicate", "000003|000004|nim", "hint: .*duplicates"])
    project.pipeline(features='duplicates = "latest"')
    answer = project.run()
    assert answer["scored"] == 200
    later = START + datetime.timedelta(hours=1)
    won = {row["nim"]: row["feature_timestamp"] for row in project.predictions() if row["nim"] in ("000003", "000004")}
    assert won == {"000003": later, "000004": later}


def test_null_keys_are_told(project):
    bad = pa.table({"nim": pa.array([None], pa.string()), "x": [1.0], "y": [1.0],
                    "feature_timestamp": rows([0])["feature_timestamp"]}).cast(rows([0]).schema)
    project.table(FEATURES).append(bad)
    answer = project.call("run", PIPELINE, "--format", "json")
    assert "null" in (answer.stderr + answer.stdout).lower(), answer
    if answer.code == 0:
        assert answer.json["scored"] == 200
        assert all(row["nim"] for row in project.predictions())
    else:
        assert answer.code == 1 and answer.stdout == ""


def test_nan_and_infinity_are_scored_once(project):
    odd = rows([300, 301, 302, 303], x=lambda n: [math.nan, math.inf, -math.inf, -0.0][n - 300])
    project.table(FEATURES).append(odd)
    assert project.run()["scored"] == 204
    found = {row["nim"]: row["probability"] for row in project.predictions() if row["nim"] >= "000300"}
    assert len(found) == 4 and all(0 <= value <= 1 for value in found.values()), found
    again = rows([300, 301, 302, 303], x=lambda n: [-math.nan, math.inf, -math.inf, 0.0][n - 300])
    table = project.table(FEATURES)
    table.delete("nim >= '000300'")
    table.append(again)
    assert project.run()["scored"] == 0, "one NaN, and -0.0 = 0.0"


def test_rows_dropped_by_a_join_are_counted(project):
    identity = pa.table({"nim": [f"{n:06d}" for n in range(150)], "name": ["a"] * 150})
    project.make_table("features.identity", identity)
    project.pipeline(sql=f"SELECT s.nim, s.x, s.y, s.feature_timestamp FROM {FEATURES} s "
                         "JOIN features.identity i ON i.nim = s.nim")
    answer = project.run()
    assert answer["scored"] == 150
    assert "50" in json.dumps(answer["dropped_by_joins"]), answer


# ---- models

def test_a_truncated_model_is_refused_at_registration(project, small_model, tmp_path):
    cut = tmp_path / "cut.json"
    cut.write_bytes(Path(small_model).read_bytes()[:-100])
    refused(project, "model", "register", "cut", cut, says=[r"cut\.json|`cut`"])
    refused(project, "model", "promote", "cut", "1", says=["`cut`"])


def test_a_missing_model_file_is_named(project, tmp_path):
    refused(project, "model", "register", "gone", tmp_path / "gone.json", says=[r"gone\.json"])


def test_a_changed_artifact_is_not_used(project):
    artifacts = [path for path in (project.folder / "registry").rglob("*") if path.is_file() and path.suffix != ".db"]
    artifact = max(artifacts, key=lambda path: path.stat().st_size)
    os.chmod(artifact, 0o644)
    text = artifact.read_text()
    assert '"base_score"' in text
    artifact.write_text(text.replace('"base_score"', '"base_score" ', 1))
    refused(project, says=[MODEL, "sha256|hash|changed|differ"])


def test_a_pipeline_without_a_promoted_model(project, small_model):
    assert project.call("model", "register", "idle", small_model, "--alias", "staging").code == 0
    project.pipeline(model="idle")
    refused(project, says=["`idle`", "`production`"])


# ---- the warehouse

def test_a_read_only_project_is_told(project):
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("a read-only folder: this user is root and `setpriv` is not there")
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "project"
        binary = shutil.copy(project.binary, Path(place) / "insightera")
        assert project.run()["status"] == "committed"
        shutil.copytree(project.folder, copy)
        subprocess.run(["chmod", "-R", "a+rX,a-w", place], check=True)
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        done = subprocess.run([*user, binary, "--project", str(copy), "run", PIPELINE, "--full"], capture_output=True,
                              text=True, env={**os.environ, "HOME": "/nonexistent"}, timeout=120)
        subprocess.run(["chmod", "-R", "u+w", place], check=True)
    assert done.returncode == 1 and done.stdout == "" and "panicked" not in done.stderr, done
    assert re.search("permission|read-only|readonly|write", done.stderr, re.IGNORECASE), done


def test_a_warehouse_of_a_newer_format_is_left_alone(project):
    project.run()
    project.table(FEATURES).append(rows([700]))
    project.catalog().update_namespace_properties("predictions", updates={"insightera.format": "2"})
    refused(project, says=["format", "`?2`?", "hint:"])


def test_a_locked_catalog_is_told_after_the_timeout(project):
    connection = sqlite3.connect(project.database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        answer = project.call("run", PIPELINE, "--format", "json", environment={"INSIGHTERA_BUSY_TIMEOUT_SECONDS": "1"})
        assert answer.code == 1 and answer.stdout == "", answer
        assert re.search("locked", answer.stderr) and answer.seconds < 20, answer
    finally:
        connection.execute("ROLLBACK")
        connection.close()
    assert project.run()["status"] == "committed"
