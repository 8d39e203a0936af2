"""The conversion script, judged by onnxruntime and scikit-learn."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

pytest.importorskip("skl2onnx")
import joblib
import onnx
import onnxruntime
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "to_onnx.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def frame():
    random = np.random.default_rng(3)
    rows = pandas.DataFrame({"study hours": random.normal(5, 2, 500), "grade": random.normal(3, 1, 500),
                             "city": random.choice(["Palu", "Ambon", "Medan"], 500)})
    rows.loc[::11, "grade"] = np.nan
    rows["label"] = np.where(rows["study hours"] + (rows.city == "Palu") > 5.2, "pass", "fail")
    return rows


def save(folder, model, rows):
    joblib.dump(model, folder / "model.pkl")
    rows.to_parquet(folder / "rows.parquet")
    return folder / "model.pkl", "--sample", folder / "rows.parquet", "-o", folder / "model.onnx"


def pipeline():
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer([("n", numbers, ["study hours", "grade"]), ("c", OneHotEncoder(handle_unknown="ignore"), ["city"])])
    return make_pipeline(columns, LogisticRegression())


def test_a_pipeline_of_a_data_frame_keeps_its_columns_and_its_scores(tmp_path, frame):
    rows = frame.drop(columns="label")
    model = pipeline().fit(rows, frame.label)
    # Other order and another column: names decide.
    done = run(*save(tmp_path, model, frame[["city", "label", "grade", "study hours"]]))
    assert done.returncode == 0, done.stderr
    assert "500 rows scored alike" in done.stdout
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [i.name for i in session.get_inputs()] == ["study hours", "grade", "city"]
    classes, shares = session.run(None, {n: rows[[n]].to_numpy(dtype=object if n == "city" else np.float32) for n in rows})
    assert list(classes) == list(model.predict(rows))
    assert np.abs(shares - model.predict_proba(rows)).max() < 1e-5


def test_a_model_of_an_array_is_converted(tmp_path, frame):
    x = frame[["study hours", "grade"]].fillna(0)
    done = run(*save(tmp_path, RandomForestRegressor(20, random_state=1).fit(x.to_numpy(), x["grade"]), x))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.onnx").stat().st_size > 1000


def test_trees_say_how_many_training_rows_reached_their_nodes(tmp_path, frame):
    x = frame[["study hours", "grade"]].fillna(0)
    model = make_pipeline(StandardScaler(), RandomForestClassifier(7, max_depth=5, random_state=1)).fit(x, frame.label)
    assert run(*save(tmp_path, model, x)).returncode == 0
    nodes = [n for n in onnx.load(tmp_path / "model.onnx").graph.node if n.op_type == "TreeEnsembleClassifier"]
    settings = {a.name: a for a in nodes[0].attribute}
    found = dict(zip(zip(settings["nodes_treeids"].ints, settings["nodes_nodeids"].ints), settings["nodes_hitrates"].floats))
    for number, tree in enumerate(model[-1].estimators_):
        for node, count in enumerate(tree.tree_.weighted_n_node_samples):
            assert found.pop((number, node)) == count
    assert not found


def test_nothing_is_written_when_the_difference_is_over_the_tolerance(tmp_path, frame):
    x = frame[["study hours", "grade"]].fillna(0)
    model = RandomForestClassifier(20, random_state=1).fit(x, frame.label)
    done = run(*save(tmp_path, model, x), "--tolerance", "0")
    assert done.returncode == 1 and "largest difference" in done.stderr, (done.stdout, done.stderr)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("spoil, says", [
    (lambda folder, rows: rows.drop(columns="city").to_parquet(folder / "rows.parquet"), "no column `city`"),
    (lambda folder, rows: rows.head(0).to_parquet(folder / "rows.parquet"), "has no rows"),
    (lambda folder, rows: rows.assign(city=None).to_parquet(folder / "rows.parquet"), "column `city`"),
    (lambda folder, rows: (folder / "model.pkl").write_bytes(b"no pickle"), "cannot be loaded"),
    (lambda folder, rows: (folder / "model.pkl").unlink(), "there is no"),
    (lambda folder, rows: joblib.dump([1, 2], folder / "model.pkl"), "does not predict"),
    (lambda folder, rows: joblib.dump(make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()).fit(
        rows[["study hours"]].abs(), rows.label), folder / "model.pkl"), "cannot be converted"),
])
def test_what_cannot_be_done_is_an_error_that_names_it(tmp_path, frame, spoil, says):
    rows = frame.drop(columns="label")
    arguments = save(tmp_path, pipeline().fit(rows, frame.label), rows)
    spoil(tmp_path, frame)
    done = run(*arguments)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and says in done.stderr, done.stderr
    assert not (tmp_path / "model.onnx").exists()
