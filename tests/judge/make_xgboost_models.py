"""Trains small models with whatever XGBoost is installed, and writes its scores.

    python make_xgboost_models.py FOLDER [ROWS [NAME,NAME...]]

Every objective of 1.7 to 3.x, with its own base score and with one that is
given; trees, DART and the linear booster; several targets and quantiles. Files
and columns are those of make_reference_models.py. The goldens of the scoring
crate come from `FOLDER 100 logistic_base,linear_base` with 1.7.6 and 2.1.4.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import xgboost

from make_reference_models import chosen, write_contributions

NAMES = ["a", "b", "c", "d", "e"]
VERSION = xgboost.__version__.replace(".", "_")
MAJOR = tuple(int(part) for part in xgboost.__version__.split(".")[:2])


class Writer:
    def __init__(self, folder, rows, only):
        self.folder, self.only, self.count = Path(folder), only, 0
        self.folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(11)
        x = random.normal(size=(rows, 5)) * np.logspace(-2, 3, 5)
        # What trees compare with overflows a sum: the linear booster has its own rows.
        self.plain = x.astype(np.float32)
        self.plain[random.random(x.shape) < 0.1] = np.nan
        self.score = np.nan_to_num(self.plain[:, 4]) / 1e3 + np.sin(np.nan_to_num(self.plain[:, 2])) + random.normal(0, 0.3, rows)
        wild = self.plain.copy()
        for value, share in [(3.4e38, 0.02), (-3.4e38, 0.02), (1e-45, 0.02), (-0.0, 0.05)]:
            wild[random.random(x.shape) < share] = value
        self.wild = wild

    def one(self, name, objective, y, kind="value", rounds=10, groups=False, since=(1, 7), **parameters):
        if (self.only and name not in self.only) or MAJOR < since:
            return
        data = xgboost.DMatrix(self.plain, label=y, feature_names=NAMES)
        if objective == "survival:aft":
            data.set_float_info("label_lower_bound", y)
            data.set_float_info("label_upper_bound", y * 1.5)
        if groups:
            data.set_group([50] * (len(self.plain) // 50))
        linear = parameters.get("booster") == "gblinear"
        shape = {} if linear else {"max_depth": 4}
        booster = xgboost.train({"objective": objective, "seed": 3, "nthread": 2, **shape, **parameters}, data, rounds)
        x = self.plain if linear else self.wild
        rows = xgboost.DMatrix(x, feature_names=NAMES)
        margin, out = booster.predict(rows, output_margin=True), booster.predict(rows)
        expected = {"margin": margin} if margin.ndim == 1 else {f"raw_{k}": margin[:, k] for k in range(margin.shape[1])}
        if kind == "probability":
            expected |= {"probability": out, "prediction": out > 0.5}
        elif kind == "classes":
            expected["prediction"] = out.argmax(axis=1)
            expected |= {f"probability_{k}": out[:, k] for k in range(out.shape[1])}
        else:
            expected["prediction"] = out if out.ndim == 1 else out[:, 0]
        parts = None
        if linear:
            picked = chosen(len(x))
            parts = booster.predict(rows.slice(picked), pred_contribs=True)
            parts = parts.reshape(len(picked), -1, parts.shape[-1])
        columns = {n: pyarrow.array(x[:, i]) for i, n in enumerate(NAMES)}
        columns |= {f"expected_{k}": pyarrow.array(np.asarray(v, dtype=np.float64)) for k, v in expected.items()}
        for form in ["json"] if self.only else ["json", "ubj"]:
            file = f"xgboost_{VERSION}_{name}_{form}"
            booster.save_model(self.folder / f"{file}.{form}")
            pyarrow.parquet.write_table(pyarrow.table(columns), self.folder / f"{file}.rows.parquet")
            if parts is not None:
                write_contributions(self.folder / file, picked, parts)
            self.count += 1


def main():
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    writer = Writer(sys.argv[1], rows, sys.argv[3].split(",") if len(sys.argv) > 3 else None)
    one, score = writer.one, writer.score
    label, several = (score > 0).astype(int), np.digitize(score, [-1, 0, 1])
    positive = np.exp(np.clip(score, -3, 3))
    counts = np.random.default_rng(2).poisson(positive)
    for end, base in [("", {}), ("_base", {"base_score": 0.3})]:
        one("logistic" + end, "binary:logistic", label, "probability", **base)
        one("logitraw" + end, "binary:logitraw", label, **base)
        one("hinge" + end, "binary:hinge", label, **base)
        one("squarederror" + end, "reg:squarederror", score, **base)
        one("reglogistic" + end, "reg:logistic", 1 / (1 + np.exp(-score)), **base)
        one("squaredlog" + end, "reg:squaredlogerror", positive, **base)
        one("huber" + end, "reg:pseudohubererror", score, **base)
        one("absolute" + end, "reg:absoluteerror", score, **base)
        one("gamma" + end, "reg:gamma", positive, **base)
        one("tweedie" + end, "reg:tweedie", counts, **base)
        one("poisson" + end, "count:poisson", counts, **base)
        one("cox" + end, "survival:cox", positive, **base)
        one("aft" + end, "survival:aft", positive, **base)
        one("pairwise" + end, "rank:pairwise", label, groups=True, **base)
        one("ndcg" + end, "rank:ndcg", label, groups=True, **base)
        one("map" + end, "rank:map", label, groups=True, **base)
        one("softprob" + end, "multi:softprob", several, "classes", num_class=4, **base)
        one("quantile" + end, "reg:quantileerror", score, since=(2, 0), quantile_alpha=0.7, **base)
        linear = {"booster": "gblinear", "updater": "coord_descent", **base}
        one("linear" + end, "binary:logistic", label, "probability", **linear)
        one("linear_rmse" + end, "reg:squarederror", score, **linear)
        one("linear_softprob" + end, "multi:softprob", several, "classes", num_class=4, **linear)
    one("dart", "binary:logistic", label, "probability", booster="dart", rate_drop=0.3)
    one("dart_classes", "multi:softprob", several, "classes", num_class=4, booster="dart", rate_drop=0.3)
    one("parallel", "binary:logistic", label, "probability", num_parallel_tree=4, subsample=0.6)
    vectors = {"multi_strategy": "multi_output_tree", "tree_method": "hist"}
    targets = np.stack([score, 2 * score, -score], axis=1)
    one("quantiles", "reg:quantileerror", score, since=(2, 0), quantile_alpha=[0.1, 0.5, 0.9])
    one("targets", "reg:squarederror", targets)
    one("targets_vectors", "reg:squarederror", targets, since=(2, 0), **vectors)
    one("softprob_vectors", "multi:softprob", several, "classes", since=(2, 0), num_class=4, **vectors)
    one("linear_targets", "reg:squarederror", targets, booster="gblinear", updater="coord_descent")
    print(f"xgboost {xgboost.__version__}: {writer.count} models, {rows} rows each")


if __name__ == "__main__":
    main()
