"""Trains deep, nearly complete trees and writes what their libraries score.

    python make_forest_models.py FOLDER

Files and columns are those of make_reference_models.py and
make_lightgbm_models.py. The trees are those of a random forest: hundreds of
leaves, thousands of thresholds a feature, all ways of missing values. A tenth
of the 10,000 rows scored holds values from the ends of the numbers.
"""

import sys

import lightgbm
import make_lightgbm_models
import make_reference_models
import numpy as np
import xgboost

ROWS = 10_000
FEATURES = 12


def table(extremes):
    random = np.random.default_rng(11)
    x = random.normal(0, 1, (ROWS, FEATURES)).astype(np.float32)
    x[:, ::4] = np.round(x[:, ::4], 1)
    score = x[:, 1] * x[:, 2] + np.sin(3 * x[:, 3]) + (x[:, 0] > 0) + random.normal(0, 0.7, ROWS)
    x[:, :8][random.random((ROWS, 8)) < 0.1] = np.nan
    rows = x.astype(np.float64)
    wild = random.random((ROWS // 10, FEATURES))
    for share, value in zip(np.linspace(0.1, 0.6, len(extremes)), extremes):
        rows[: ROWS // 10][(wild > share - 0.1) & (wild <= share)] = value
    return x, rows, score


def xgboost_forests(folder):
    writer = make_reference_models.Writer(folder)
    x, rows, score = table([3.4e38, -3.4e38, 1e-45, -0.0, np.nan])
    rows = rows.astype(np.float32)
    several = np.digitize(score, [-0.5, 0.5])
    forest = {"max_depth": 10, "num_parallel_tree": 40, "subsample": 0.6, "colsample_bytree": 0.6, "eta": 1, "seed": 7, "nthread": 2, "min_child_weight": 0}

    def one(name, y, kind, rounds=1, **parameters):
        booster = xgboost.train(forest | parameters, xgboost.DMatrix(x, label=y), rounds)
        writer.booster(f"forest_{name}", booster, rows, data=xgboost.DMatrix(rows), kind=kind)

    one("binned", score > 0, "probability", objective="binary:logistic", max_bin=64)
    one("exact", score > 0, "probability", objective="binary:logistic", tree_method="exact")
    one("deeper", score, "value", objective="reg:squarederror", tree_method="exact", max_depth=12)
    one("classes", several, "classes", objective="multi:softprob", num_class=3, max_depth=8, rounds=2, num_parallel_tree=7)
    return len(writer.names)


def lightgbm_forests(folder):
    writer = make_lightgbm_models.Writer(folder)
    x, rows, score = table([np.inf, -np.inf, 1e300, -0.0, 1e-36, np.nan])
    settings = make_lightgbm_models.SILENT | {"num_leaves": 1024, "max_depth": 10, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 0, "max_bin": 800}
    forest = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6, "feature_fraction_bynode": 0.4}

    def one(name, y, kind, trees=6, **parameters):
        booster = lightgbm.train(settings | parameters, lightgbm.Dataset(x.astype(np.float64), y), trees)
        writer.booster(f"deep_{name}", booster, rows, kind=kind)

    one("boosted", score, "value", objective="regression")
    one("forest", score, "value", objective="regression", **forest)
    one("zero", score > 0, "probability", objective="binary", zero_as_missing=True)
    one("classes", np.digitize(score, [-0.5, 0.5]), "classes", trees=3, objective="multiclass", num_class=3, max_depth=8)
    return writer.count


if __name__ == "__main__":
    print(xgboost_forests(sys.argv[1]) + lightgbm_forests(sys.argv[1]), "forests")
