"""Trains small CatBoost models and writes what CatBoost itself scores.

    python make_catboost_models.py FOLDER

Files and columns are those of make_reference_models.py, a model is `NAME.json`
and `NAME.cbm`. Contributions are CatBoost's own `ShapValues`; those of trees that
are not symmetric do not add up to the raw score, so there they are shap's, of the
trees as the JSON has them.
"""

import json
import sys
from pathlib import Path

import catboost
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import shap
from catboost import CatBoost, Pool
from make_reference_models import chosen, write_contributions

ROWS = 10_000
TRAINED = 3_000
FEATURES = 8
SILENT = {"verbose": False, "allow_writing_files": False, "random_seed": 7, "thread_count": 2, "iterations": 40}


def table(seed, missing=0.08):
    """Numbers of several scales with missing values."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 1, (ROWS, FEATURES)) * np.logspace(-3, 4, FEATURES)
    x[:, ::3] = np.round(x[:, ::3], 1)
    score = x[:, 7] / 1e4 + np.sin(x[:, 3]) - (x[:, 2] > 0) + random.normal(0, 0.3, ROWS)
    x[random.random(x.shape) < missing] = np.nan
    return x, score


def extremes(x, seed=5):
    """Rows that training never saw: infinities, huge and tiny values, minus zero."""
    wild = x[TRAINED : TRAINED + 1_000]
    random = np.random.default_rng(seed)
    for value, share in [(np.inf, 0.1), (-np.inf, 0.1), (1e300, 0.1), (-1e300, 0.1), (1e-320, 0.1), (-0.0, 0.2)]:
        wild[random.random(wild.shape) < share] = value


def by_shap(document, x):
    """What shap says of trees that are not symmetric, of numbers alone: rows x outputs x (features, then the bias).

    It wants a weight of every leaf; those that no row of the training reached get next to none."""
    splits = [(feature["flat_feature_index"], border, feature["nan_value_treatment"] == "AsTrue")
              for feature in document["features_info"]["float_features"] for border in feature["borders"] or []]
    trees = []
    for root in document["trees"]:
        nodes = {name: [] for name in ("children_left", "children_right", "children_default", "features", "thresholds",
                                       "values", "node_sample_weight")}

        def add(node):
            at = len(nodes["values"])
            leaf = "value" in node
            feature, border, missing = (-2, 0.0, False) if leaf else splits[node["split"]["split_index"]]
            value = np.atleast_1d(node["value"]) if leaf else np.zeros(outputs)
            for name, item in zip(nodes, (-1, -1, -1, feature, border, value, max(node.get("weight", 0.0), 1e-12))):
                nodes[name].append(item)
            if not leaf:
                left, right = add(node["left"]), add(node["right"])
                nodes["children_left"][at], nodes["children_right"][at] = left, right
                nodes["children_default"][at] = right if missing else left
                nodes["node_sample_weight"][at] = nodes["node_sample_weight"][left] + nodes["node_sample_weight"][right]
            return at

        some = root
        while "value" not in some:
            some = some["left"]
        outputs = len(np.atleast_1d(some["value"]))
        add(root)
        trees.append({name: np.array(items) for name, items in nodes.items()})
    explainer = shap.TreeExplainer({"trees": trees, "input_dtype": np.float32, "internal_dtype": np.float64},
                                   feature_perturbation="tree_path_dependent")
    parts = np.asarray(explainer.shap_values(x.astype(np.float32), check_additivity=False))
    parts = parts[:, None, :] if parts.ndim == 2 else np.moveaxis(parts, 2, 1)
    bias = np.atleast_1d(explainer.expected_value) + np.atleast_1d(document["scale_and_bias"][1])
    return np.concatenate([parts, np.broadcast_to(bias, parts.shape[:2])[:, :, None]], axis=2)


class Writer:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.names = []

    def write(self, name, model, pool, inputs, kind="value"):
        raw = np.asarray(model.predict(pool, prediction_type="RawFormulaVal"))
        expected = {"margin": raw} if raw.ndim == 1 else {f"raw_{k}": raw[:, k] for k in range(raw.shape[1])}
        if kind == "value":
            expected["prediction"] = raw
        elif kind == "exponent":
            expected["prediction"] = np.asarray(model.predict(pool, prediction_type="Exponent"))
        else:
            classes = [str(c) for c in (model.classes_ if len(model.classes_) else [0, 1])]
            shares = np.asarray(model.predict(pool, prediction_type="Probability"))
            answers = np.asarray(model.predict(pool, prediction_type="Class")).reshape(-1)
            # CatBoost answers with labels; the place among them is what is compared.
            expected["prediction"] = np.array([classes.index(str(c)) for c in answers])
            expected.update({f"probability_{c}": shares[:, k] for k, c in enumerate(classes)})
            if kind == "probability":
                expected["probability"] = shares[:, 1]
        arrays = {k: v if isinstance(v, pyarrow.Array) else pyarrow.array(v, from_pandas=False) for k, v in inputs.items()}
        for key, values in expected.items():
            arrays[f"expected_{key}"] = pyarrow.array(np.asarray(values, dtype=np.float64), from_pandas=False)
        picked = chosen(ROWS)
        # CatBoost explains no model that is scaled.
        parts = None
        if model.get_scale_and_bias()[0] == 1:
            parts = np.asarray(model.get_feature_importance(pool.slice(picked), type="ShapValues"))
            parts = parts.reshape(len(picked), -1, parts.shape[-1])
            off = np.abs(parts.sum(axis=2) - raw.reshape(len(raw), -1)[picked]).max()
            symmetric = model.get_all_params().get("grow_policy", "SymmetricTree") == "SymmetricTree"
            assert not symmetric or off < 1e-6, (name, off)
            if not symmetric:
                model.save_model(self.folder / "trees.tmp", format="json", pool=pool)
                document = json.loads((self.folder / "trees.tmp").read_text())
                (self.folder / "trees.tmp").unlink()
                numbers = all(kind == "f" for kind in (v.dtype.kind for v in inputs.values() if isinstance(v, np.ndarray)))
                numbers = numbers and not any(isinstance(v, pyarrow.Array) for v in inputs.values())
                parts = by_shap(document, np.stack(list(inputs.values()), axis=1)[picked]) if numbers else None
        # By CatBoost's numbers of the features, which are those of the training.
        order = [model.feature_names_.index(column) for column in sorted(inputs, key=model.feature_names_.index)]
        assert order == list(range(len(inputs))), name
        for form in ("json", "cbm"):
            # The tables of categories are written to JSON only with a pool at hand.
            more = {"pool": pool} if form == "json" else {}
            file = f"catboost_{name}_{form}"
            model.save_model(self.folder / f"{file}.{form}", format=form, **more)
            pyarrow.parquet.write_table(pyarrow.table(arrays), self.folder / f"{file}.rows.parquet")
            if parts is not None:
                write_contributions(self.folder / file, picked, parts)
        self.names.append(name)


def numeric(writer):
    x, score = table(1)
    extremes(x)
    label = (score > 0).astype(int)
    several = np.digitize(score, [-1, 0, 1])
    counts = np.random.default_rng(2).poisson(np.exp(np.clip(score, -2, 2)))
    positive = np.exp(np.clip(score, -3, 3))
    share = 1 / (1 + np.exp(-score))
    names = [f"column {i}" for i in range(FEATURES)]
    inputs = {n: x[:, i] for i, n in enumerate(names)}
    whole = Pool(x, feature_names=names)

    def one(name, loss, y, kind="value", group=False, feature_names=names, **parameters):
        y = np.asarray(y)[:TRAINED]
        more = {"group_id": np.arange(TRAINED) // 100} if group else {}
        pool = Pool(x[:TRAINED], y, feature_names=feature_names, **more)
        model = CatBoost({**SILENT, "loss_function": loss, **parameters}).fit(pool)
        if feature_names is None:
            writer.write(name, model, Pool(x), {str(i): x[:, i] for i in range(FEATURES)}, kind)
        else:
            writer.write(name, model, whole, inputs, kind)

    one("logloss", "Logloss", label, "probability")
    one("unnamed", "Logloss", label, "probability", feature_names=None)
    one("deep", "Logloss", label, "probability", depth=10)
    one("stumps", "Logloss", label, "probability", depth=1, iterations=300)
    one("nan_max", "Logloss", label, "probability", nan_mode="Max")
    one("many_borders", "Logloss", label, "probability", border_count=1000)
    one("unbalanced", "Logloss", label, "probability", auto_class_weights="Balanced")
    one("lossguide", "Logloss", label, "probability", grow_policy="Lossguide", max_leaves=40)
    one("depthwise", "Logloss", label, "probability", grow_policy="Depthwise", depth=8)
    one("ordered", "Logloss", label, "probability", depth=5, boosting_type="Ordered")
    one("cross_entropy", "CrossEntropy", share, "probability")
    one("rmse", "RMSE", score * 1000 + 77_777)
    one("rmse_lossguide", "RMSE", score, grow_policy="Lossguide", nan_mode="Max")
    one("mae", "MAE", score)
    one("quantile", "Quantile:alpha=0.8", score)
    one("expectile", "Expectile:alpha=0.8", score)
    one("huber", "Huber:delta=1", score)
    one("log_cosh", "LogCosh", score)
    one("mape", "MAPE", positive)
    one("lq", "Lq:q=1.5", score, leaf_estimation_iterations=1)
    one("poisson", "Poisson", counts, "exponent")
    one("tweedie", "Tweedie:variance_power=1.3", counts, "exponent")
    one("cox", "Cox", positive)
    one("yeti_rank", "YetiRank", np.clip(several, 0, 3) / 3, group=True)
    one("query_rmse", "QueryRMSE", score, group=True)
    one("multiclass", "MultiClass", several, "classes")
    one("multiclass_labels", "MultiClass", np.array(["p", "q", "r", "s"])[several], "classes")
    one("multiclass_depthwise", "MultiClass", several * 10, "classes", grow_policy="Depthwise")
    one("one_against_all", "MultiClassOneVsAll", several, "classes")
    one("string_classes", "Logloss", np.array(["no", "yes"])[label], "probability")

    model = CatBoost({**SILENT, "loss_function": "Logloss"}).fit(Pool(x[:TRAINED], label[:TRAINED], feature_names=names))
    model.set_probability_threshold(0.3) if hasattr(model, "set_probability_threshold") else None
    model.set_scale_and_bias(0.75, 0.125)
    writer.write("scaled", model, whole, inputs, "probability")
    # Trained without a missing value, scored with them.
    full = np.nan_to_num(x[:TRAINED], posinf=9, neginf=-9)
    full = np.clip(full, -1e5, 1e5)
    model = CatBoost({**SILENT, "loss_function": "Logloss"}).fit(Pool(full, label[:TRAINED], feature_names=names))
    writer.write("never_missing", model, whole, inputs, "probability")


def categories(writer):
    random = np.random.default_rng(3)
    x, score = table(4)
    # Texts of every length that the hash treats in its own way.
    words = ["", "a", "é", "Palu", "Ambon", "Denpasar", "Yogyakarta", "x" * 16, "y" * 17, "z" * 31, "w" * 32, "v" * 33,
             "Kota Administrasi Jakarta Selatan dan sekitarnya", "u" * 64, "t" * 65, "s" * 128, "r" * 129,
             " ".join(f"word {i}" for i in range(60))]
    place = random.integers(0, len(words), ROWS)
    street = random.integers(0, 400, ROWS)
    grade = random.integers(-3, 12, ROWS)
    flag = random.random(ROWS) < 0.4
    label = (np.nan_to_num(score) + (place % 5) * 0.5 + (street % 7) * 0.3 + (grade > 5) - flag > 2).astype(int)
    frame = pandas.DataFrame({"x3": x[:, 3], "x7": x[:, 7], "place": np.array(words, dtype=object)[place],
                              "street": [f"street {s}" for s in street], "grade": grade, "flag": flag})
    wild = frame.copy()
    wild.loc[TRAINED::9, "street"] = "a street that training never saw"
    wild.loc[TRAINED::11, "place"] = "nowhere"
    wild.loc[TRAINED::13, "grade"] = 999
    wild.loc[TRAINED::17, "x3"] = -np.inf
    several = np.digitize(np.nan_to_num(score) + (place % 5) * 0.5 + (street % 7) * 0.3, [0.5, 1.5, 2.5])
    columns = ["place", "street", "grade", "flag"]
    whole = Pool(wild, cat_features=columns)
    inputs = {"flag": pyarrow.array(wild.flag.to_numpy()), "grade": pyarrow.array(wild.grade.to_numpy()),
              "street": pyarrow.array(list(wild.street)).dictionary_encode(), "place": pyarrow.array(list(wild.place)),
              "x7": wild.x7.to_numpy(), "x3": wild.x3.to_numpy()}

    def one(name, loss, y, kind="value", **parameters):
        pool = Pool(frame[:TRAINED], np.asarray(y)[:TRAINED], cat_features=columns)
        model = CatBoost({**SILENT, "loss_function": loss, **parameters}).fit(pool)
        writer.write(name, model, whole, inputs, kind)

    one("one_hot", "Logloss", label, "probability", one_hot_max_size=255)
    one("one_hot_lossguide", "Logloss", label, "probability", one_hot_max_size=255, grow_policy="Lossguide")
    one("categories", "Logloss", label, "probability", iterations=100)
    one("categories_depthwise", "Logloss", label, "probability", grow_policy="Depthwise")
    one("categories_combined", "Logloss", label, "probability", max_ctr_complexity=4, iterations=150, one_hot_max_size=16)
    one("categories_multiclass", "MultiClass", several, "classes")
    one("categories_rmse", "RMSE", score + place)
    one("categories_buckets", "MultiClass", several, "classes", simple_ctr=["Buckets", "Counter"], combinations_ctr=["Buckets"])
    one("categories_mean", "RMSE", score + place, simple_ctr=["BinarizedTargetMeanValue", "Borders:TargetBorderCount=4"])
    one("categories_counter", "Logloss", label, "probability", simple_ctr=["Counter"], combinations_ctr=["Counter", "Borders"])


def main():
    writer = Writer(sys.argv[1])
    numeric(writer)
    categories(writer)
    print(f"catboost {catboost.__version__}: {len(writer.names)} models in both formats, {ROWS} rows each: {', '.join(writer.names)}")


if __name__ == "__main__":
    main()
