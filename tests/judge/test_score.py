"""`insightera score` and `model inspect`: a stranger's model over a stranger's file, without a project."""

import json
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

ROWS = 20_000


@pytest.fixture
def table():
    random = np.random.default_rng(11)
    missing = random.random(ROWS) < 0.05
    return pa.table({
        "id": pa.array([f"r{n}" for n in range(ROWS)]),
        "x": pa.array(random.normal(0, 2, ROWS), mask=missing),
        "y": pa.array(random.normal(0, 2, ROWS).round(3)),
        "unused": pa.array(np.arange(ROWS)),
    })


@pytest.fixture
def score(binary, tmp_path):
    def run(*arguments, code=0):
        done = subprocess.run([str(binary), *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert "panicked" not in done.stderr
        return done

    return run


def expected(model, table):
    import xgboost

    booster = xgboost.Booster(model_file=model)
    x = np.column_stack([table[c].to_numpy(zero_copy_only=False) for c in ("x", "y")]).astype(np.float32)
    return booster.predict(xgboost.DMatrix(x, feature_names=["x", "y"]))


def close(found, wanted):
    return np.abs(np.asarray(found, np.float32).view(np.int32) - wanted.view(np.int32)).max() <= 2


def test_every_form_of_file_gives_the_librarys_scores(score, table, small_model, tmp_path):
    wanted = expected(small_model, table)
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=3000)
    pa.csv.write_csv(table, tmp_path / "rows.csv")
    (tmp_path / "rows.ndjson").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    for form in ("parquet", "csv", "ndjson"):
        done = score("score", small_model, "--input", f"rows.{form}", "--output", f"out_{form}.parquet")
        assert "20,000 rows scored" in done.stderr and done.stdout == ""
        found = pq.read_table(tmp_path / f"out_{form}.parquet")
        assert found.column_names == [*table.column_names, "prediction", "probability", "rawPrediction"]
        assert found["id"].to_pylist() == table["id"].to_pylist()
        probability = np.array(found["probability"].to_pylist())
        assert close(probability[:, 1], wanted), form
        assert (found["prediction"].to_numpy() == (wanted > 0.5)).all()
    score("score", small_model, "--input", "rows.parquet", "--output", "out.csv")
    assert close(pa.csv.read_csv(tmp_path / "out.csv")["probability_1"].to_numpy(), wanted)
    lines = score("score", small_model, "--input", "rows.csv").stdout.splitlines()
    assert len(lines) == ROWS and close([json.loads(line)["probability"][1] for line in lines], wanted)
    assert sorted(p.name for p in tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("change, says", [
    (lambda t: t.drop_columns(["y"]), "wants column `y`"),
    (lambda t: t.append_column("prediction", t["x"]), "has a column `prediction`"),
    (lambda t: t.set_column(1, "x", t["id"]), "column `x`"),
])
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(score, table, small_model, tmp_path, change, says):
    pq.write_table(change(table), tmp_path / "rows.parquet")
    done = score("score", small_model, "--input", "rows.parquet", "--output", "out.parquet", code=1)
    assert says in done.stderr and "rows.parquet" in done.stderr, done.stderr
    assert not (tmp_path / "out.parquet").exists() and not list(tmp_path.glob("*.tmp"))


def test_what_is_not_there_is_named(score, small_model, tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 nonsense")
    assert "did you mean `rows.parquet`" in score("score", small_model, "--input", "row.parquet", code=1).stderr
    assert "rows.parquet" in score("score", small_model, "--input", "rows.parquet", code=1).stderr
    assert "no model at `nowhere`" in score("score", "nowhere", "--input", "rows.parquet", code=1).stderr
    assert ".ndjson" in score("score", small_model, "--input", "rows.xlsx", code=1).stderr


def test_inspect_says_what_a_model_is(score, small_model):
    about = json.loads(score("model", "inspect", small_model, "--format", "json").stdout)
    assert (about["flavor"], about["objective"], about["classes"]) == ("xgboost", "binary:logistic", ["0", "1"])
    assert about["trees"] == 30 and [f["name"] for f in about["features"]] == ["x", "y"]
    text = score("model", "inspect", small_model).stdout
    assert "binary:logistic" in text and "30, up to 4 deep" in text


def test_reasons_are_the_librarys_contributions(score, table, small_model, tmp_path):
    import xgboost

    table = table.slice(0, 3000)
    x = np.column_stack([table[c].to_numpy(zero_copy_only=False) for c in ("x", "y")]).astype(np.float32)
    matrix = xgboost.DMatrix(x, feature_names=["x", "y"])
    theirs = xgboost.Booster(model_file=small_model).predict(matrix, pred_contribs=True)[:, :2]
    pq.write_table(table, tmp_path / "rows.parquet")
    score("score", small_model, "--input", "rows.parquet", "--output", "out.parquet", "--explain", 2)
    found = pq.read_table(tmp_path / "out.parquet")["reasons"].to_pylist()
    seen = 0
    for reasons, values in zip(found, theirs):
        names = [reason.split(" is ")[0] for reason in reasons]
        if abs(abs(values[0]) - abs(values[1])) > 1e-4 and np.abs(values).min() > 1e-4:
            assert names == (["x", "y"] if abs(values[0]) > abs(values[1]) else ["y", "x"])
            for name, reason in zip(names, reasons):
                assert ("(raises the score)" if values["xy".index(name)] > 0 else "(lowers the score)") in reason
            seen += 1
    assert seen > 2000
    score("score", small_model, "--input", "rows.parquet", "--output", "out.csv", "--explain", 3)
    flat = pa.csv.read_csv(tmp_path / "out.csv", convert_options=pa.csv.ConvertOptions(strings_can_be_null=True))
    assert flat.column_names[-3:] == ["reason_1", "reason_2", "reason_3"]
    assert flat["reason_1"].to_pylist() == [reasons[0] for reasons in found]
    assert flat["reason_3"].null_count == 3000


def test_a_model_that_cannot_be_explained_says_so(score, table, tmp_path):
    import lightgbm

    x = np.column_stack([table[c].to_numpy(zero_copy_only=False) for c in ("x", "y")])
    rows = lightgbm.Dataset(x, x[:, 1], feature_name=["x", "y"], params={"linear_tree": True, "verbose": -1})
    lightgbm.train({"linear_tree": True, "verbose": -1}, rows, 3).save_model(tmp_path / "model.txt")
    pq.write_table(table, tmp_path / "rows.parquet")
    done = score("score", "model.txt", "--input", "rows.parquet", "--explain", 2, code=1)
    assert "contributions" in done.stderr and "not supported" in done.stderr and done.stdout == ""
