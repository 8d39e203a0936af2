"""Trains small XGBoost models and writes what XGBoost itself scores.

    python make_reference_models.py FOLDER

Per model `NAME`: `NAME.json` and `NAME.ubj`, and `NAME.rows.parquet` with the
inputs and, as far as they apply, the columns

    expected_margin                 raw score (models with one score a row)
    expected_prediction             class as a number, or the value
    expected_probability            of the positive class of two
    expected_probability_<class>    of every class of several

and `NAME.contributions.parquet` with `row`, the place of a row among them, and
`c_<output>_<feature number>`: what XGBoost says each feature adds to its raw
score. The last one is the bias.

The Rust test `every_judged_model_scores_as_its_library_does` reads the folder
from INSIGHTERA_JUDGE_MODELS and compares every row: margins to the bit. So does
`every_judged_contribution_is_its_librarys`.
"""

import sys
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import xgboost

ROWS = 3000
FEATURES = 12


def table(seed, missing=0.0):
    """Numbers of several scales, rounded so that values meet thresholds exactly."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 1, (ROWS, FEATURES)) * np.logspace(-3, 4, FEATURES)
    x[:, ::3] = np.round(x[:, ::3], 1)
    x = x.astype(np.float32)
    score = x[:, 11] / 1e4 + np.sin(x[:, 5]) - (x[:, 2] > 0) + random.normal(0, 0.3, ROWS)
    if missing:
        x[random.random(x.shape) < missing] = np.nan
    return x, score


def chosen(rows):
    """500 rows: the first and the last hundred, and others spread evenly."""
    return np.unique(np.concatenate([np.arange(100), np.linspace(100, rows - 101, 300).astype(int), np.arange(rows - 100, rows)]))


def write_contributions(path, rows, parts):
    """`parts` are rows x outputs x (features, then the bias)."""
    columns = {"row": pyarrow.array(rows, pyarrow.int64())}
    for output in range(parts.shape[1]):
        for feature in range(parts.shape[2]):
            columns[f"c_{output}_{feature}"] = pyarrow.array(parts[:, output, feature].astype(np.float64))
    pyarrow.parquet.write_table(pyarrow.table(columns), f"{path}.contributions.parquet")


class Writer:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.names = []

    def explain(self, name, booster, data, rounds=0):
        """Contributions by the first rounds, or by all."""
        picked = chosen(data.num_row())
        parts = booster.predict(data.slice(picked), pred_contribs=True, iteration_range=(0, rounds))
        write_contributions(self.folder / f"{name}_json", picked, parts.reshape(len(picked), -1, parts.shape[-1]))

    def write(self, name, save, inputs, expected):
        """`inputs` and `expected` map a column to its values."""
        # Formats must not differ, so both are kept under their own name.
        for form in ("json", "ubj"):
            save(self.folder / f"{name}_{form}.{form}")
            columns = dict(inputs)
            for key, values in expected.items():
                columns[f"expected_{key}"] = np.asarray(values, dtype=np.float64)
            arrays = {}
            for key, values in columns.items():
                # NaN stays NaN: null is written only where an input says so.
                arrays[key] = values if isinstance(values, pyarrow.Array) else pyarrow.array(values, from_pandas=False)
            pyarrow.parquet.write_table(pyarrow.table(arrays), self.folder / f"{name}_{form}.rows.parquet")
        self.names.append(name)

    def booster(self, name, booster, x, inputs=None, names=None, data=None, kind="value"):
        """A booster with its margins and its own predictions; `kind` says which."""
        data = data if data is not None else xgboost.DMatrix(x, feature_names=booster.feature_names)
        margin = booster.predict(data, output_margin=True)
        out = booster.predict(data)
        expected = {}
        if margin.ndim == 1:
            expected["margin"] = margin
        else:
            expected.update((f"raw_{k}", margin[:, k]) for k in range(margin.shape[1]))
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
            names = names or booster.feature_names or [f"f{i}" for i in range(x.shape[1])]
            inputs = {n: x[:, i] for i, n in enumerate(names)}
        self.write(name, booster.save_model, inputs, expected)
        self.explain(name, booster, data)


def train(parameters, x, y, rounds=40, names=None, **more):
    data = xgboost.DMatrix(x, label=y, feature_names=names, **more)
    return xgboost.train({"seed": 7, "max_depth": 5, "nthread": 2, **parameters}, data, num_boost_round=rounds)


def objectives(writer):
    x, score = table(1, missing=0.1)
    names = [f"column {i}" for i in range(FEATURES)]
    label = (score > 0).astype(int)
    counts = np.random.default_rng(2).poisson(np.exp(np.clip(score, -2, 2)))
    positive = np.exp(np.clip(score, -3, 3))
    several = np.digitize(score, [-1, 0, 1])

    def one(name, objective, y, kind="value", **parameters):
        booster = train({"objective": objective, **parameters}, x, y, names=names)
        writer.booster(name, booster, x, kind=kind)

    one("logistic", "binary:logistic", label, "probability")
    one("logistic_unbalanced", "binary:logistic", label, "probability", scale_pos_weight=8.5)
    one("logistic_base", "binary:logistic", label, "probability", base_score=0.123)
    one("logistic_subsampled", "binary:logistic", label, "probability", subsample=0.5, num_parallel_tree=3)
    one("logistic_stump", "binary:logistic", label, "probability", max_depth=1)
    one("logistic_lossguide", "binary:logistic", label, "probability", max_depth=0, max_leaves=200, grow_policy="lossguide")
    one("logistic_exact", "binary:logistic", label, "probability", tree_method="exact", min_child_weight=0, max_depth=9)
    # Pruning deletes nodes of a finished tree.
    one("logistic_pruned", "binary:logistic", label, "probability", tree_method="exact", gamma=3.0, max_depth=8)
    one("logitraw", "binary:logitraw", label)
    one("logitraw_base", "binary:logitraw", label, base_score=0.2)
    one("hinge", "binary:hinge", label)
    one("regression", "reg:squarederror", score)
    one("regression_logistic", "reg:logistic", 1 / (1 + np.exp(-score)))
    one("regression_absolute", "reg:absoluteerror", score)
    one("regression_huber", "reg:pseudohubererror", score)
    one("regression_squaredlog", "reg:squaredlogerror", positive)
    one("regression_gamma", "reg:gamma", positive)
    one("regression_tweedie", "reg:tweedie", counts, tweedie_variance_power=1.3)
    one("regression_quantile", "reg:quantileerror", score, quantile_alpha=0.8)
    one("poisson", "count:poisson", counts)
    one("cox", "survival:cox", positive)
    one("dart", "binary:logistic", label, "probability", booster="dart", rate_drop=0.3)
    one("softprob", "multi:softprob", several, "classes", num_class=4)
    one("softprob_base", "multi:softprob", several, "classes", num_class=4, base_score=0.5)
    one("softprob_parallel", "multi:softprob", several, "classes", num_class=4, num_parallel_tree=2)

    booster = train({"objective": "multi:softmax", "num_class": 4}, x, several, names=names)
    writer.booster("softmax", booster, x)
    forest = {"num_parallel_tree": 50, "subsample": 0.7, "learning_rate": 1.0, "objective": "binary:logistic"}
    writer.booster("random_forest", train(forest, x, label, rounds=1, names=names), x, kind="probability")
    writer.booster("unnamed", train({"objective": "binary:logistic"}, x, label), x, kind="probability")

    survival = xgboost.DMatrix(x, feature_names=names)
    survival.set_float_info("label_lower_bound", positive)
    survival.set_float_info("label_upper_bound", positive * 1.5)
    booster = xgboost.train({"objective": "survival:aft", "max_depth": 4}, survival, num_boost_round=20)
    writer.booster("aft", booster, x)

    for name, objective in [("rank_pairwise", "rank:pairwise"), ("rank_ndcg", "rank:ndcg")]:
        grades = several.astype(int)
        data = xgboost.DMatrix(x, label=grades, feature_names=names)
        data.set_group([100] * (ROWS // 100))
        booster = xgboost.train({"objective": objective, "max_depth": 4, "seed": 7}, data, num_boost_round=30)
        writer.booster(name, booster, x)


def edges(writer):
    """Values on thresholds, one step beside them, zeros of both signs, huge and tiny."""
    x, score = table(3)
    booster = train({"objective": "binary:logistic"}, x, score > 0)
    frame = booster.trees_to_dataframe()
    splits = frame[frame.Feature != "Leaf"]
    random = np.random.default_rng(4)
    probe = x.copy()
    for feature in range(FEATURES):
        cuts = splits.Split[splits.Feature == f"f{feature}"].to_numpy(dtype=np.float32)
        if len(cuts) == 0:
            continue
        chosen = random.choice(cuts, ROWS)
        step = random.integers(-1, 2, ROWS)
        moved = np.where(step < 0, np.nextafter(chosen, np.float32(-np.inf)), np.nextafter(chosen, np.float32(np.inf)))
        probe[:, feature] = np.where(step == 0, chosen, moved)
    special = np.array([0.0, -0.0, 3.4e38, -3.4e38, 1e-45, -1e-45, np.nan], dtype=np.float32)
    where = random.random(probe.shape) < 0.05
    probe[where] = random.choice(special, where.sum())
    writer.booster("edges", booster, probe, kind="probability")

    # The same as doubles (which XGBoost rounds to single precision), as
    # integers, as booleans, and with null where NaN was.
    wide = probe.astype(np.float64) * (1 + 1e-9)
    wide[~np.isfinite(wide.astype(np.float32))] = np.nan
    margin = booster.predict(xgboost.DMatrix(wide), output_margin=True)
    probability = booster.predict(xgboost.DMatrix(wide))
    inputs = {f"f{i}": pyarrow.array(wide[:, i], from_pandas=i % 2 == 0) for i in range(FEATURES)}
    writer.write("doubles", booster.save_model, inputs, {"margin": margin, "probability": probability})

    whole = np.clip(np.nan_to_num(x), -1e4, 1e4).round().astype(np.int64)
    flag = whole[:, 11] > 0
    label = (score > 0).astype(int)
    matrix = whole.astype(np.float64)
    matrix[:, 11] = flag
    booster = train({"objective": "binary:logistic"}, matrix, label)
    data = xgboost.DMatrix(matrix)
    inputs = {f"f{i}": pyarrow.array(whole[:, i], pyarrow.int32() if i % 2 else pyarrow.int64()) for i in range(11)}
    inputs["f11"] = pyarrow.array(flag)
    expected = {"margin": booster.predict(data, output_margin=True), "probability": booster.predict(data)}
    writer.write("integers", booster.save_model, inputs, expected)


def categories(writer):
    """Categorical splits: numbers as codes, and labels that the model knows."""
    random = np.random.default_rng(5)
    x, score = table(5, missing=0.05)
    x = x[:, :4]
    code = random.integers(0, 90, ROWS)
    small = random.integers(0, 3, ROWS)
    score = score + np.isin(code % 7, [1, 4]) * 2 + (small == 1)
    label = (score > 0.5).astype(int)
    matrix = np.column_stack([x, code, small]).astype(np.float32)
    matrix[random.random(ROWS) < 0.1, 4] = np.nan
    types = ["q"] * 4 + ["c", "c"]
    names = ["a", "b", "c", "d", "code", "small"]
    for name, onehot in [("categories", 4), ("categories_onehot", 200)]:
        data = xgboost.DMatrix(matrix, label=label, feature_types=types, feature_names=names, enable_categorical=True)
        parameters = {"objective": "binary:logistic", "max_depth": 6, "max_cat_to_onehot": onehot, "seed": 7, "max_cat_threshold": 70}
        booster = xgboost.train(parameters, data, num_boost_round=30)
        probe = matrix.copy()
        # Codes that no tree has seen.
        probe[:200, 4] = random.integers(90, 400, 200)
        again = xgboost.DMatrix(probe, feature_types=types, feature_names=names, enable_categorical=True)
        writer.booster(name, booster, probe, data=again, kind="probability")

    letters = np.array([f"town {i:02}" for i in range(40)])
    town = letters[random.integers(0, 40, ROWS)]
    kind = np.array(["x", "y", "z"])[small]
    y = (score + (code % 3) * 0.2 + np.isin(town, letters[::4]) * 2 > 1.2).astype(int)
    absent = random.random(ROWS) < 0.07
    frame = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1]})
    frame["town"] = pandas.Categorical(np.where(absent, None, town), categories=list(letters))
    frame["kind"] = pandas.Categorical(kind, categories=["z", "x", "y"])
    data = xgboost.DMatrix(frame, label=y, enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 5, "seed": 7}, data, num_boost_round=30)
    inputs = {
        "a": x[:, 0],
        "b": x[:, 1],
        "town": pyarrow.array([None if gone else str(t) for gone, t in zip(absent, town)]),
        "kind": pyarrow.array([str(k) for k in kind]),
    }
    writer.booster("labels", booster, None, inputs=inputs, data=data, kind="probability")

    years = random.integers(2015, 2026, ROWS)
    frame = pandas.DataFrame({"a": x[:, 0], "year": pandas.Categorical(years)})
    y = (score + (years % 3) > 1.5).astype(int)
    data = xgboost.DMatrix(frame, label=y, enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 5, "seed": 7}, data, num_boost_round=20)
    inputs = {"a": x[:, 0], "year": pyarrow.array(years)}
    writer.booster("number_labels", booster, None, inputs=inputs, data=data, kind="probability")


def wrappers(writer):
    """Saved by scikit-learn's wrapper: early stopping scores with the best iteration."""
    x, score = table(6, missing=0.05)
    label = (score > 0).astype(int)
    noisy = np.where(np.random.default_rng(8).random(ROWS) < 0.25, 1 - label, label)
    half = ROWS // 2
    names = [f"f{i}" for i in range(FEATURES)]
    frame = pandas.DataFrame(x, columns=names)

    model = xgboost.XGBClassifier(n_estimators=400, max_depth=6, learning_rate=0.3, early_stopping_rounds=10, random_state=7)
    model.fit(frame[:half], noisy[:half], eval_set=[(frame[half:], noisy[half:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    inputs = {n: x[:, i] for i, n in enumerate(names)}
    expected = {
        "margin": model.predict(frame, output_margin=True),
        "probability": model.predict_proba(frame)[:, 1],
        "prediction": model.predict(frame),
    }
    writer.write("early_stopping", model.save_model, inputs, expected)
    writer.explain("early_stopping", model.get_booster(), xgboost.DMatrix(frame), model.best_iteration + 1)

    # The bare booster scores with every tree, and so must its own file.
    booster = model.get_booster()
    data = xgboost.DMatrix(frame)
    expected = {"margin": booster.predict(data, output_margin=True), "probability": booster.predict(data)}
    writer.write("early_stopping_booster", booster.save_model, inputs, expected)
    writer.explain("early_stopping_booster", booster, data)

    several = np.digitize(score, [-1, 0, 1])
    model = xgboost.XGBClassifier(n_estimators=200, max_depth=4, early_stopping_rounds=5, random_state=7, num_parallel_tree=2, subsample=0.8)
    model.fit(frame[:half], several[:half], eval_set=[(frame[half:], several[half:])], verbose=False)
    shares = model.predict_proba(frame)
    expected = {"prediction": model.predict(frame)} | {f"probability_{k}": shares[:, k] for k in range(4)}
    writer.write("early_stopping_classes", model.save_model, inputs, expected)
    writer.explain("early_stopping_classes", model.get_booster(), xgboost.DMatrix(frame), model.best_iteration + 1)

    model = xgboost.XGBRegressor(n_estimators=50, max_depth=4, random_state=7)
    model.fit(frame, score)
    writer.write("wrapped_regression", model.save_model, inputs, {"prediction": model.predict(frame), "margin": model.predict(frame)})


def main():
    writer = Writer(sys.argv[1])
    objectives(writer)
    edges(writer)
    categories(writer)
    wrappers(writer)
    print(f"xgboost {xgboost.__version__}: {len(writer.names)} models in both formats, {ROWS} rows each: {', '.join(writer.names)}")


if __name__ == "__main__":
    main()
