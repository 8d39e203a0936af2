"""`model certify`: the largest difference to the library, with its row, kept with the registered version."""

import json
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import xgboost

ROWS = 10_000
WRONG = 7_777


@pytest.fixture
def golden(small_model, tmp_path):
    """Rows with XGBoost's own answers."""
    random = np.random.default_rng(23)
    x = random.normal(0, 2, (ROWS, 2)).astype(np.float32)
    x[random.random(x.shape) < 0.1] = np.nan
    booster = xgboost.Booster(model_file=small_model)
    data = xgboost.DMatrix(x, feature_names=["x", "y"])
    table = pa.table({
        "x": pa.array(x[:, 0], from_pandas=True),
        "y": pa.array(x[:, 1], from_pandas=True),
        "expected_margin": booster.predict(data, output_margin=True),
        "expected_probability": booster.predict(data),
    })
    pq.write_table(table, tmp_path / "golden.parquet", row_group_size=3000)
    return table


@pytest.fixture
def run(binary, tmp_path):
    def call(*arguments, code=0):
        done = subprocess.run([str(binary), *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "panicked" not in done.stderr
        return done

    return call


def certificate(run, model, *more, code=0):
    done = run("model", "certify", model, "--golden", "golden.parquet", "--library", f"xgboost={xgboost.__version__}",
               "--format", "json", *more, code=code)
    return json.loads(done.stdout)


def test_scores_of_the_library_are_certified_and_margins_are_the_same_to_the_bit(run, golden, small_model):
    found = certificate(run, small_model)
    assert (found["ok"], found["rows"], found["versions"]["xgboost"]) == (True, ROWS, xgboost.__version__)
    outputs = {each["output"]: each for each in found["outputs"]}
    assert (outputs["margin"]["different"], outputs["margin"]["max_relative"]) == (0, 0)
    assert outputs["probability"]["max_relative"] <= 2 * np.finfo(np.float32).eps


def test_the_one_wrong_row_is_named_with_both_values(run, golden, small_model, tmp_path):
    margins = golden["expected_margin"].to_numpy().copy()
    margins[WRONG] += 0.25
    place = golden.schema.get_field_index("expected_margin")
    pq.write_table(golden.set_column(place, "expected_margin", pa.array(margins)), tmp_path / "golden.parquet")
    found = certificate(run, small_model, code=1)
    margin = next(each for each in found["outputs"] if each["output"] == "margin")
    assert (margin["row"], margin["different"], margin["ok"]) == (WRONG, 1, False)
    assert float(margin["expected"]) == margins[WRONG]
    assert abs(float(margin["found"]) - (margins[WRONG] - 0.25)) < 1e-5
    assert margin["max_absolute"] == pytest.approx(0.25, abs=1e-6)
    assert certificate(run, small_model, "--tolerance", "1e6")["ok"]


def test_classes_compare_by_label_and_by_number_and_other_columns_by_name(run, golden, small_model, tmp_path):
    share = golden["expected_probability"].to_numpy()
    table = golden.drop_columns(["expected_margin", "expected_probability"])
    table = table.append_column("p", pa.array(share)).append_column("class", pa.array((share > 0.5).astype(np.int32)))
    pa.csv.write_csv(table, tmp_path / "golden.csv")
    pq.write_table(table, tmp_path / "golden.parquet")
    found = certificate(run, small_model, "--expected", "p=probability", "--expected", "class")
    assert found["ok"] and [each["output"] for each in found["outputs"]] == ["probability", "prediction"]
    labels = pa.array(np.where(share > 0.5, "1", "0"))
    pq.write_table(table.append_column("label", labels), tmp_path / "golden.parquet")
    assert certificate(run, small_model, "--expected", "label")["ok"]
    done = run("model", "certify", small_model, "--golden", "golden.csv", "--expected", "class", "--expected", "p=probability",
               "--tolerance", "1e-6")
    assert "certified: 2 outputs of 10,000 rows" in done.stdout


def test_the_registry_keeps_the_certificate_with_the_version(run, golden, small_model, tmp_path):
    run("init", "project")
    project = ("--project", tmp_path / "project")
    run(*project, "model", "register", "risk", small_model)
    certificate_of = lambda: next(iter(json.loads(  # noqa: E731
        run(*project, "model", "show", "risk", "--format", "json").stdout)["versions"]))["tags"].get("insightera.parity")
    assert certificate_of() is None
    certificate(run, "risk", *project)
    assert json.loads(certificate_of())["ok"]
    assert "certified: 2 outputs of 10,000 rows" in run(*project, "model", "show", "risk").stdout
    # By a file: of this model, or refused.
    certificate(run, small_model, "--output", "parity.json")
    run(*project, "model", "register", "other", small_model, "--certificate", "parity.json")
    assert "certified" in run(*project, "model", "show", "other").stdout
    foreign = json.loads((tmp_path / "parity.json").read_text())
    foreign["sha256"] = "0" * 64
    (tmp_path / "parity.json").write_text(json.dumps(foreign))
    done = run(*project, "model", "register", "third", small_model, "--certificate", "parity.json", code=1)
    assert "certifies another model" in done.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--expected", "expected_margn=margin"], "did you mean `expected_margin`?"),
    (["--expected", "expected_margin=score"], "the model has no output `score`"),
    (["--expected", "expected_margin=raw_0"], "this model has no `raw_0`"),
    (["--tolerance=-1"], "is no difference"),
    (["--library", "xgboost"], "there is no `=`"),
])
def test_what_cannot_be_compared_is_refused(run, golden, small_model, arguments, message):
    done = run("model", "certify", small_model, "--golden", "golden.parquet", *arguments, code=1)
    assert message in done.stderr and done.stdout == ""


def test_golden_rows_without_answers_or_rows_certify_nothing(run, golden, small_model, tmp_path):
    pq.write_table(golden.drop_columns(["expected_margin", "expected_probability"]), tmp_path / "golden.parquet")
    assert "no column of expected values" in run(
        "model", "certify", small_model, "--golden", "golden.parquet", code=1).stderr
    pq.write_table(golden.slice(0, 0), tmp_path / "golden.parquet")
    assert "has no rows" in run("model", "certify", small_model, "--golden", "golden.parquet", code=1).stderr
