"""Saves small models as MLflow folders and writes what their libraries score.

    python make_mlflow_models.py FOLDER

A model is a folder `mlflow_NAME`, its rows and the library's own scores are
`mlflow_NAME.rows.parquet`, with the columns of make_reference_models.py.
"""

import shutil
import sys
from pathlib import Path

import catboost
import lightgbm
import mlflow
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import xgboost
from mlflow.models import infer_signature

ROWS = 10_000
NAMES = ["study hours", "grade", "größe", "it's"]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(9)
    x = random.normal(size=(ROWS, 4)) * [1, 10, 0.1, 1000]
    label = (x[:, 0] + x[:, 1] / 10 > 0).astype(int)
    x[random.random(x.shape) < 0.08] = np.nan
    frame = pandas.DataFrame(x, columns=NAMES)
    signature = infer_signature(frame, label.astype(float))
    count = 0

    def write(name, flavor, model, margin, probability, columns=NAMES, signature=signature, **more):
        nonlocal count
        path = folder / f"mlflow_{name}"
        shutil.rmtree(path, ignore_errors=True)
        flavor.save_model(model, path, signature=signature, pip_requirements=[], **more)
        table = {n: pyarrow.array(x[:, i]) for i, n in enumerate(columns)}
        expected = {"margin": margin, "probability": probability, "prediction": np.asarray(probability) > 0.5}
        table |= {f"expected_{k}": pyarrow.array(np.asarray(v, dtype=np.float64)) for k, v in expected.items()}
        pyarrow.parquet.write_table(pyarrow.table(table), folder / f"mlflow_{name}.rows.parquet")
        count += 1

    def of_xgboost(booster, data):
        return booster.predict(data, output_margin=True), booster.predict(data)

    # Trained on an array: the names are the signature's.
    parameters = {"objective": "binary:logistic", "max_depth": 4, "seed": 7}
    booster = xgboost.train(parameters, xgboost.DMatrix(x, label=label), 20)
    scores = of_xgboost(booster, xgboost.DMatrix(x))
    write("xgboost_array", mlflow.xgboost, booster, *scores)
    write("xgboost_json", mlflow.xgboost, booster, *scores, model_format="json")
    write("xgboost_no_signature", mlflow.xgboost, booster, *scores, columns=["f0", "f1", "f2", "f3"], signature=None)
    array = infer_signature(x, label.astype(float))
    write("xgboost_tensor", mlflow.xgboost, booster, *scores, columns=["f0", "f1", "f2", "f3"], signature=array)
    booster = xgboost.train(parameters, xgboost.DMatrix(frame, label=label), 20)
    write("xgboost_frame", mlflow.xgboost, booster, *of_xgboost(booster, xgboost.DMatrix(frame)))
    wrapped = xgboost.XGBClassifier(n_estimators=20, max_depth=3, random_state=7).fit(frame, label)
    shares = wrapped.predict_proba(frame)[:, 1]
    write("xgboost_wrapped", mlflow.xgboost, wrapped, wrapped.predict(frame, output_margin=True), shares,
          input_example=frame[:3], metadata={"owner": "someone: 'x'", "tags": ["a", "b"]})

    parameters = {"objective": "binary", "verbosity": -1, "seed": 7, "num_threads": 2}
    for name, data in [("array", x), ("frame", frame)]:
        booster = lightgbm.train(parameters, lightgbm.Dataset(data, label), 20)
        write(f"lightgbm_{name}", mlflow.lightgbm, booster, booster.predict(data, raw_score=True), booster.predict(data))

    for name, data in [("array", x), ("frame", frame)]:
        model = catboost.CatBoostClassifier(iterations=20, verbose=False, allow_writing_files=False, random_seed=7)
        model.fit(data, label)
        raw = model.predict(data, prediction_type="RawFormulaVal")
        write(f"catboost_{name}", mlflow.catboost, model, raw, model.predict_proba(data)[:, 1])
    print(f"mlflow {mlflow.__version__}: {count} models, {ROWS} rows each")


if __name__ == "__main__":
    main()
