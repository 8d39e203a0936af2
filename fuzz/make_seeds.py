"""Trains the tiny models that fuzzing starts from, each a few KB.

    python make_seeds.py FOLDER [FORMAT...]

Writes FOLDER/FORMAT/NAME, one file an input. Formats are `xgboost-json`,
`xgboost-ubj`, `lightgbm`, `spark`, `onnx`, `catboost` and `mlflow`; those whose
library is not installed are named and left out. A model that is a folder is one
file here, see harness/archive.rs:

    @file PATH LENGTH\n CONTENT \n

A Parquet file of Spark is either there as it is, or as `PATH.rows`: its rows as
lines of JSON, which the harness turns into Parquet again.
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

RANDOM = np.random.default_rng(11)
ROWS = 200


def numbers():
    """Three columns with missing values and zeros, and what to predict."""
    x = np.round(RANDOM.normal(0, 2, (ROWS, 3)), 1)
    x[RANDOM.random(x.shape) < 0.1] = np.nan
    x[RANDOM.random(x.shape) < 0.1] = 0.0
    score = np.nan_to_num(x[:, 0]) - np.nan_to_num(x[:, 1]) ** 2 + RANDOM.normal(0, 0.5, ROWS)
    return x, score


def labelled():
    """Two columns of labels and one of numbers."""
    import pandas

    frame = pandas.DataFrame({
        "kind": pandas.Categorical(RANDOM.choice(["a", "b", "c", "d"], ROWS)),
        "town": pandas.Categorical(RANDOM.choice(["x", "y", "z"], ROWS)),
        "n": np.round(RANDOM.normal(0, 2, ROWS), 1),
    })
    score = (frame["kind"] == "b") * 2.0 - (frame["town"] == "z") + frame["n"] / 4 + RANDOM.normal(0, 0.2, ROWS)
    return frame, score.to_numpy(dtype=float)


def xgboost_models(write):
    import xgboost

    x, score = numbers()
    names = ["a", "b", "c"]
    classes = np.digitize(score, [-3, 0])
    small = {"max_depth": 2, "nthread": 1, "seed": 1}
    plans = {
        "binary": (small | {"objective": "binary:logistic", "max_depth": 3}, score > 0, 2),
        "several": (small | {"objective": "multi:softprob", "num_class": 3}, classes, 2),
        "value": (small | {"objective": "reg:squarederror"}, score, 2),
        "count": (small | {"objective": "count:poisson"}, np.clip(np.round(np.abs(score)), 0, 9), 1),
        "dart": (small | {"objective": "binary:logistic", "booster": "dart", "rate_drop": 0.5}, score > 0, 2),
    }
    boosters = {}
    for name, (parameters, label, rounds) in plans.items():
        data = xgboost.DMatrix(x, label=np.asarray(label, dtype=float), feature_names=names)
        boosters[name] = xgboost.train(parameters, data, rounds)
    boosters["deep"] = xgboost.train(
        small | {"objective": "binary:hinge", "max_depth": 6, "min_child_weight": 0.1},
        xgboost.DMatrix(x, label=(score > 0).astype(float)), 1)
    frame, value = labelled()
    boosters["labels"] = xgboost.train(
        small | {"objective": "reg:squarederror", "tree_method": "hist", "max_cat_to_onehot": 1},
        xgboost.DMatrix(frame, label=value, enable_categorical=True), 2)
    for name, booster in boosters.items():
        for end in ("json", "ubj"):
            write(f"xgboost-{end}", name, bytes(booster.save_raw(end)))


def lightgbm_models(write):
    import lightgbm

    x, score = numbers()
    small = {"verbosity": -1, "num_leaves": 4, "min_data_in_leaf": 5, "num_threads": 1, "seed": 1, "deterministic": True}
    frame, value = labelled()
    plans = {
        "binary": (small | {"objective": "binary"}, x, score > 0, {}),
        "several": (small | {"objective": "multiclass", "num_class": 3}, x, np.digitize(score, [-3, 0]), {}),
        "value": (small | {"objective": "regression"}, x, score, {}),
        "zero": (small | {"objective": "poisson", "zero_as_missing": True}, x, np.abs(score), {}),
        "forest": (small | {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6},
                   x, score > 0, {}),
        "linear": (small | {"objective": "regression", "linear_tree": True}, x, score, {}),
        "labels": (small | {"objective": "regression", "min_data_per_group": 5, "cat_smooth": 1}, frame, value, {}),
        "wide": (small | {"objective": "cross_entropy", "num_leaves": 20}, x, (score > 0) * 0.5, {}),
    }
    for name, (parameters, rows, label, extra) in plans.items():
        data = lightgbm.Dataset(rows, label=np.asarray(label, dtype=float), params=parameters, **extra)
        text = lightgbm.train(parameters, data, 2).model_to_string()
        head, rest = text.split("end of trees\n")
        pandas_line = [line for line in rest.splitlines() if line.startswith("pandas_categorical:")]
        write("lightgbm", name, (head + "end of trees\n" + "\n".join(pandas_line) + "\n").encode())


def archive(files):
    return b"".join(b"@file %s %d\n%s\n" % (path.encode(), len(content), content) for path, content in files)


def folder_files(folder):
    """The files of a model folder, without what the loader leaves out anyway."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith((".", "_")) and not path.name.endswith(".crc"):
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def plain_names(path):
    """`part-00000-UUID-c000.snappy.parquet` without the parts that are long and random."""
    folder, _, name = path.rpartition("/")
    if name.startswith("part-"):
        name = name[:10] + (".parquet" if name.endswith(".parquet") else "")
    return f"{folder}/{name}" if folder else name


def as_rows(files):
    """The same files with the rows of every Parquet file as text."""
    import io

    import pyarrow.parquet

    for path, content in files:
        if path.endswith(".parquet"):
            rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            path = path.removesuffix(".parquet") + ".rows"
        yield path, content


def spark_models(write):
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import (
        DecisionTreeClassifier, GBTClassifier, LogisticRegression, RandomForestClassifier)
    from pyspark.ml.feature import Imputer, OneHotEncoder, StandardScaler, StringIndexer, VectorAssembler
    from pyspark.ml.regression import GBTRegressor, LinearRegression, RandomForestRegressor
    from pyspark.sql import SparkSession

    spark = (SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
             .config("spark.sql.shuffle.partitions", "1").config("spark.log.level", "ERROR").getOrCreate())
    rows = []
    for _ in range(ROWS):
        n, m = float(RANDOM.normal(0, 2)), float(np.round(RANDOM.normal(0, 2), 1))
        kind = str(RANDOM.choice(["a", "b", "c"]))
        score = n - m + 2 * (kind == "b")
        rows.append((n if RANDOM.random() > 0.1 else None, m, kind, float(score > 0), float(np.digitize(score, [-1, 2])),
                     "yes" if score > 0 else "no", score))
    data = spark.createDataFrame(rows, "n double, m double, kind string, label double, several double, word string, value double")
    imputer = Imputer(inputCols=["n"], outputCols=["n2"])
    index = StringIndexer(inputCols=["kind"], outputCols=["k"], handleInvalid="keep")
    onehot = OneHotEncoder(inputCols=["k"], outputCols=["kv"], handleInvalid="keep")
    plain = VectorAssembler(inputCols=["n2", "m"], outputCol="features")
    mixed = VectorAssembler(inputCols=["n2", "m", "k"], outputCol="features", handleInvalid="keep")
    vectors = VectorAssembler(inputCols=["n2", "m", "kv"], outputCol="raw_features")
    scaler = StandardScaler(inputCol="raw_features", outputCol="features", withMean=True)
    word = StringIndexer(inputCol="word", outputCol="wordIndex")
    plans = {
        "logistic": [imputer, index, onehot, vectors, scaler, word, LogisticRegression(labelCol="wordIndex", maxIter=3)],
        "multinomial": [imputer, plain, LogisticRegression(labelCol="several", maxIter=3, thresholds=[0.3, 0.3, 0.4])],
        "linear": [imputer, plain, LinearRegression(labelCol="value", maxIter=3)],
        "tree": [imputer, index, mixed, DecisionTreeClassifier(maxDepth=2)],
        "forest": [imputer, index, mixed, RandomForestClassifier(numTrees=2, maxDepth=2, labelCol="several")],
        "boosted": [imputer, index, mixed, GBTClassifier(maxIter=2, maxDepth=2)],
        "boosted_value": [imputer, plain, GBTRegressor(maxIter=2, maxDepth=2, labelCol="value")],
        "forest_value": [imputer, plain, RandomForestRegressor(numTrees=2, maxDepth=2, labelCol="value")],
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, stages in plans.items():
            path = Path(folder) / name
            Pipeline(stages=stages).fit(data).write().overwrite().save(str(path))
            files = [(plain_names(at), content) for at, content in folder_files(path)]
            write("spark", name, archive(as_rows(files)))
            if name in ("linear", "tree"):
                write("spark", f"{name}_parquet", archive(files))
    spark.stop()


def onnx_models(write):
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, score = numbers()
    x = np.nan_to_num(x).astype(np.float32)
    plans = {
        "logistic": make_pipeline(StandardScaler(), LogisticRegression()).fit(x, score > 0),
        "forest": RandomForestClassifier(2, max_depth=2, random_state=1).fit(x, np.digitize(score, [-3, 0])),
        "boosted": GradientBoostingRegressor(n_estimators=2, max_depth=2, random_state=1).fit(x, score),
    }
    for name, model in plans.items():
        write("onnx", name, to_onnx(model, x[:1]).SerializeToString())


def catboost_models(write):
    import catboost

    x, score = numbers()
    frame, value = labelled()
    small = {"iterations": 2, "depth": 2, "verbose": False, "allow_writing_files": False, "thread_count": 1}
    plans = {
        "value": catboost.CatBoostRegressor(**small).fit(x, score),
        "binary": catboost.CatBoostClassifier(**small).fit(x, score > 0),
        "several": catboost.CatBoostClassifier(**small).fit(x, np.digitize(score, [-3, 0])),
        "labels": catboost.CatBoostRegressor(**small, one_hot_max_size=10).fit(
            frame.astype({"kind": str, "town": str}), value, cat_features=[0, 1]),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, model in plans.items():
            path = Path(folder) / f"{name}.cbm"
            model.save_model(str(path))
            write("catboost", name, path.read_bytes())


def mlflow_models(write):
    """Folders as MLflow lays them out, around a model of XGBoost and of LightGBM."""
    import mlflow.lightgbm
    import mlflow.xgboost
    from mlflow.models import infer_signature
    import lightgbm
    import xgboost
    import pandas

    x, score = numbers()
    frame = pandas.DataFrame(x, columns=["a", "b", "c"])
    booster = xgboost.train({"max_depth": 2, "nthread": 1}, xgboost.DMatrix(frame, label=score), 1)
    forest = lightgbm.train({"verbosity": -1, "num_leaves": 4, "num_threads": 1}, lightgbm.Dataset(frame, label=score), 1)
    signature = infer_signature(frame, score)
    with tempfile.TemporaryDirectory() as folder:
        for name, flavor, model in (("xgboost", mlflow.xgboost, booster), ("lightgbm", mlflow.lightgbm, forest)):
            path = Path(folder) / name
            flavor.save_model(model, str(path), signature=signature)
            keep = [(at, content) for at, content in folder_files(path) if at == "MLmodel" or "model." in at]
            write("mlflow", name, archive(keep))


MAKERS = {
    "xgboost": xgboost_models, "lightgbm": lightgbm_models, "spark": spark_models,
    "onnx": onnx_models, "catboost": catboost_models, "mlflow": mlflow_models,
}
NEEDS = {"spark": ["pyspark"], "onnx": ["skl2onnx"], "mlflow": ["mlflow", "xgboost", "lightgbm"]}


def main():
    folder, wanted = Path(sys.argv[1]), sys.argv[2:] or list(MAKERS)
    for maker in wanted:
        if lacking := [need for need in NEEDS.get(maker, [maker]) if importlib.util.find_spec(need) is None]:
            print(f"SKIPPED {maker}: {', '.join(lacking)} not installed")
            continue
        fresh = set()

        def write(kind, name, content):
            target = folder / kind
            if kind not in fresh:
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                fresh.add(kind)
            (target / name).write_bytes(content)
            print(f"{kind}/{name}: {len(content)} bytes")

        MAKERS[maker](write)


if __name__ == "__main__":
    main()
