"""Trains small LightGBM models and writes what LightGBM itself scores.

    python make_lightgbm_models.py FOLDER

Files and columns are those of make_reference_models.py, a model is `NAME.txt`.
Contributions are `pred_contrib`, which LightGBM refuses for linear trees.
"""

import sys
from pathlib import Path

import lightgbm
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet

from make_reference_models import chosen, write_contributions

ROWS = 6000
FEATURES = 12
SILENT = {"verbosity": -1, "seed": 7, "num_threads": 2, "deterministic": True, "min_data_in_leaf": 5}


def table(seed, missing=0.1, zeros=0.2):
    """Numbers of several scales with missing values, exact and almost exact zeros, infinities."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 1, (ROWS, FEATURES)) * np.logspace(-3, 4, FEATURES)
    x[:, ::3] = np.round(x[:, ::3], 1)
    score = x[:, 11] / 1e4 + np.sin(x[:, 5]) - (x[:, 2] > 0) + random.normal(0, 0.3, ROWS)
    x[random.random(x.shape) < zeros] = 0.0
    x[random.random(x.shape) < 0.01] = 1e-36
    x[random.random(x.shape) < missing] = np.nan
    return x, score


def extremes(x):
    """The rows to score: those of the training, some with values that it never saw."""
    wild = x[:200].copy()
    random = np.random.default_rng(5)
    wild[random.random(wild.shape) < 0.3] = np.inf
    wild[random.random(wild.shape) < 0.3] = -np.inf
    wild[random.random(wild.shape) < 0.3] = 1e300
    wild[random.random(wild.shape) < 0.2] = -0.0
    return np.vstack([x, wild])


class Writer:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count = 0

    def booster(self, name, booster, rows, inputs=None, kind="value"):
        """`rows` as LightGBM scores them, `inputs` as a pipeline has them."""
        booster.save_model(self.folder / f"lightgbm_{name}.txt")
        raw, out = booster.predict(rows, raw_score=True), booster.predict(rows)
        expected = {}
        if raw.ndim == 1:
            expected["margin"] = raw
        else:
            expected.update((f"raw_{k}", raw[:, k]) for k in range(raw.shape[1]))
        if kind == "probability":
            expected["probability"] = out
            expected["prediction"] = (out > 0.5).astype(np.float64)
        elif kind == "classes":
            expected["prediction"] = out.argmax(axis=1)
            for k in range(out.shape[1]):
                expected[f"probability_{k}"] = out[:, k]
        else:
            expected["prediction"] = out
        if inputs is None:
            inputs = {n: rows[:, i] for i, n in enumerate(booster.feature_name())}
        arrays = {k: v if isinstance(v, pyarrow.Array) else pyarrow.array(v, from_pandas=False) for k, v in inputs.items()}
        for key, values in expected.items():
            arrays[f"expected_{key}"] = pyarrow.array(np.asarray(values, dtype=np.float64), from_pandas=False)
        pyarrow.parquet.write_table(pyarrow.table(arrays), self.folder / f"lightgbm_{name}.rows.parquet")
        self.count += 1
        if "linear" in name:
            return
        picked = chosen(len(rows))
        some = rows.iloc[picked] if isinstance(rows, pandas.DataFrame) else rows[picked]
        parts = booster.predict(some, pred_contrib=True).reshape(len(picked), -1, booster.num_feature() + 1)
        write_contributions(self.folder / f"lightgbm_{name}", picked, parts)


def train(parameters, x, y, rounds=40, **more):
    return lightgbm.train({**SILENT, **parameters}, lightgbm.Dataset(x, y, **more), num_boost_round=rounds)


def objectives(writer):
    x, score = table(1)
    rows = extremes(x)
    label = (score > 0).astype(int)
    several = np.digitize(score, [-1, 0, 1])
    counts = np.random.default_rng(2).poisson(np.exp(np.clip(score, -2, 2)))
    positive = np.exp(np.clip(score, -3, 3))
    share = 1 / (1 + np.exp(-score))

    def one(name, objective, y, kind="value", rounds=40, **parameters):
        writer.booster(name, train({"objective": objective, **parameters}, x, y, rounds), rows, kind=kind)

    one("binary", "binary", label, "probability")
    one("binary_sigmoid", "binary", label, "probability", sigmoid=0.7)
    one("binary_large", "binary", label, "probability", num_leaves=255)
    one("binary_larger", "binary", label, "probability", num_leaves=600, min_data_in_leaf=1)
    one("binary_stumps", "binary", label, "probability", num_leaves=2)
    one("binary_zero_as_missing", "binary", label, "probability", zero_as_missing=True)
    one("binary_no_missing", "binary", label, "probability", use_missing=False)
    one("binary_few_bins", "binary", label, "probability", max_bin=15)
    one("binary_many_bins", "binary", label, "probability", max_bin=2000, num_leaves=127)
    one("dart", "binary", label, "probability", boosting="dart")
    one("goss", "binary", label, "probability", data_sample_strategy="goss")
    one("random_forest", "binary", label, "probability", boosting="rf", bagging_freq=1, bagging_fraction=0.6)
    one("multiclass", "multiclass", several, "classes", num_class=4)
    one("multiclass_of_two", "multiclass", label, "classes", num_class=2)
    one("one_against_all_of_two", "multiclassova", label, "classes", num_class=2)
    one("multiclass_forest", "multiclass", several, "classes", num_class=4, boosting="rf", bagging_freq=1,
        bagging_fraction=0.6)
    one("one_against_all", "multiclassova", several, "classes", num_class=4, sigmoid=1.3)
    one("regression", "regression", score)
    one("regression_sqrt", "regression", np.sign(score) * score**2, reg_sqrt=True)
    one("regression_l1", "regression_l1", score)
    one("huber", "huber", score)
    one("fair", "fair", score)
    one("quantile", "quantile", score, alpha=0.8)
    one("mape", "mape", positive)
    one("poisson", "poisson", counts)
    one("gamma", "gamma", positive)
    one("tweedie", "tweedie", counts, tweedie_variance_power=1.3)
    one("cross_entropy", "cross_entropy", share)
    one("cross_entropy_lambda", "cross_entropy_lambda", share)
    one("constant", "regression", score, rounds=3, min_data_in_leaf=ROWS)
    one("monotone", "regression", score, monotone_constraints=[1] + [0] * (FEATURES - 2) + [-1])
    one("linear", "regression", score, linear_tree=True)
    one("linear_binary", "binary", label, "probability", linear_tree=True)
    ranking = train({"objective": "lambdarank"}, x, np.clip(several, 0, 3), group=[ROWS // 20] * 20)
    writer.booster("lambdarank", ranking, rows)
    held = lightgbm.Dataset(x[ROWS // 2 :], label[ROWS // 2 :])
    early = lightgbm.train({**SILENT, "objective": "binary"}, lightgbm.Dataset(x[: ROWS // 2], label[: ROWS // 2]),
                           num_boost_round=200, valid_sets=[held], callbacks=[lightgbm.early_stopping(5, verbose=False)])
    writer.booster("early_stopping", early, rows, kind="probability")


def categories(writer):
    random = np.random.default_rng(3)
    x, score = table(4)
    codes = random.integers(0, 90, (ROWS, 2)).astype(float)
    label = (np.nan_to_num(score) + np.isin(codes[:, 0] % 7, [1, 3]) - (codes[:, 1] > 60) > 0).astype(int)
    x[:, :2] = codes
    x[random.random(ROWS) < 0.05, 0] = np.nan
    booster = train({"objective": "binary", "max_cat_to_onehot": 4, "min_data_per_group": 5}, x, label,
                    categorical_feature=[0, 1])
    rows = extremes(x)
    rows[:8, 0] = [-1, -0.5, 0.5, 3.99, 89, 90, 5000, 2e9]
    rows[-200:, 1] = random.choice([-3.0, 1e6, 12.5, np.nan, 17], 200)
    writer.booster("categories", booster, rows, kind="probability")

    cities = np.array(["Bandung", "Jakarta", "Medan", "Ambon", "Padang", "Palu"])
    city, grade = cities[random.integers(0, 6, ROWS)], random.choice([10, 20, 35], ROWS)
    label = (np.isin(city, ["Medan", "Palu"]) + np.nan_to_num(score) - (grade > 30) > 0).astype(int)
    frame = pandas.DataFrame({"city": pandas.Categorical(city), "grade": pandas.Categorical(grade), "z": x[:, 5]})
    frame.loc[::17, "city"] = None
    booster = lightgbm.train({**SILENT, "objective": "binary"}, lightgbm.Dataset(frame, label), num_boost_round=30)
    inputs = {"city": pyarrow.array(frame["city"].astype(object).where(frame["city"].notna(), None).tolist(), pyarrow.string()),
              "grade": pyarrow.array(frame["grade"].astype(np.int64).to_numpy()), "z": frame["z"].to_numpy()}
    writer.booster("pandas", booster, frame, inputs, kind="probability")


if __name__ == "__main__":
    writer = Writer(sys.argv[1])
    objectives(writer)
    categories(writer)
    print(f"{writer.count} LightGBM {lightgbm.__version__} models")
