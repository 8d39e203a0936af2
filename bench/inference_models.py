"""Rows and models of the scoring benchmark, made once with a fixed seed.

    python bench/inference_models.py [FOLDER]     (.cache/bench/inference)

30 columns in single precision: five normal and five skewed ones with 5% nulls,
five of whole numbers with 5% nulls, fifteen normal ones; a noisy label from
some of them. Models: XGBoost 500 trees of depth 6, LightGBM 500 of 31 leaves,
an XGBoost forest and a scikit-learn forest of 200 trees of depth 10, CatBoost
500 of depth 6, a scaler with a logistic regression.

The scikit-learn forest is also written in LightGBM's text format: the same
comparisons and the same sums in the same order, so that engines without a
loader of their own for it can be measured on it.
"""

import sys
from pathlib import Path

import numpy as np

SEED = 20261123
COLUMNS = 30
TRAIN_ROWS = 200_000
NAMES = [f"f{number}" for number in range(COLUMNS)]


def rows(count, seed=SEED):
    """`count` rows, row-major single precision with NaN for null, and labels."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, COLUMNS), dtype=np.float32)
    x[:, 5:10] = random.gamma(2.0, 3.0, (count, 5)).astype(np.float32)
    x[:, 10:15] = np.rint(x[:, 10:15] * 3)
    signal = x[:, 0] + 0.5 * x[:, 1] * x[:, 15] + 0.2 * x[:, 5] - 0.1 * x[:, 6] + 0.3 * np.sin(x[:, 10])
    signal += np.where(x[:, 16] > 0.3, x[:, 17], -x[:, 18]) + 0.4 * x[:, 19] * (x[:, 2] > 0) - 0.6
    label = (signal + random.standard_normal(count) > 0).astype(np.int32)
    x[:, :15][random.random((count, 15)) < 0.05] = np.nan
    return x, label


def xgboost_trees(x, y, folder):
    import xgboost

    data = xgboost.QuantileDMatrix(x, y, feature_names=NAMES)
    settings = {"objective": "binary:logistic", "max_depth": 6, "eta": 0.05, "tree_method": "hist", "nthread": 2}
    xgboost.train(settings | {"seed": SEED}, data, 500).save_model(folder / "xgboost.ubj")


def xgboost_forest(x, y, folder):
    import xgboost

    data = xgboost.QuantileDMatrix(x, y, feature_names=NAMES)
    settings = {"objective": "binary:logistic", "max_depth": 10, "eta": 1, "tree_method": "hist", "nthread": 2}
    settings |= {"num_parallel_tree": 200, "subsample": 0.63, "colsample_bynode": 0.2, "seed": SEED}
    xgboost.train(settings, data, 1).save_model(folder / "xgboost_forest.ubj")


def lightgbm_trees(x, y, folder):
    import lightgbm

    settings = {"objective": "binary", "num_leaves": 31, "learning_rate": 0.05, "num_threads": 2, "seed": SEED}
    data = lightgbm.Dataset(x, y, feature_name=NAMES)
    lightgbm.train(settings | {"verbose": -1}, data, 500).save_model(folder / "lightgbm.txt")


def catboost_trees(x, y, folder):
    import catboost

    model = catboost.CatBoostClassifier(
        iterations=500, depth=6, learning_rate=0.05, random_seed=SEED, thread_count=2, verbose=False, allow_writing_files=False
    )
    model.fit(x, y)
    model.save_model(str(folder / "catboost.cbm"))


def sklearn_forest(x, y, folder):
    import joblib
    from sklearn.ensemble import RandomForestClassifier

    # Half of the rows: training is not what is measured.
    half = len(y) // 2
    forest = RandomForestClassifier(200, max_depth=10, n_jobs=2, random_state=SEED).fit(x[:half], y[:half])
    (folder / "sklearn_forest.txt").write_text(as_lightgbm(forest))
    joblib.dump(forest, folder / "sklearn_forest.joblib")
    to_onnx(forest, folder / "sklearn_forest.onnx")


def linear_pipeline(x, y, folder):
    import joblib
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression()).fit(x, y)
    joblib.dump(pipeline, folder / "linear.joblib")
    to_onnx(pipeline, folder / "linear.onnx")


def to_onnx(model, path):
    from skl2onnx import to_onnx as convert

    found = convert(model, np.zeros((1, COLUMNS), np.float32), options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3})
    path.write_bytes(found.SerializeToString())


def as_lightgbm(forest):
    """A scikit-learn forest of two classes as a LightGBM model: the share of class 1 in every leaf."""
    lines = ["tree", "version=v4", "num_class=1", "num_tree_per_iteration=1", "label_index=0"]
    lines += [f"max_feature_idx={COLUMNS - 1}", "objective=regression", "average_output"]
    lines += ["feature_names=" + " ".join(NAMES), "feature_infos=" + " ".join(["[-1e300:1e300]"] * COLUMNS), ""]
    for number, estimator in enumerate(forest.estimators_):
        lines += lightgbm_tree(number, estimator.tree_)
    return "\n".join([*lines, "end of trees", "", "feature_importances:", "", "parameters:", "end of parameters", ""])


def lightgbm_tree(number, tree):
    split = tree.children_left >= 0
    # Splits and leaves are numbered apart; a leaf is ~number.
    code = np.where(split, np.cumsum(split) - 1, ~(np.cumsum(~split) - 1))
    counts = tree.value[:, 0, :]
    leaves = (counts[:, 1] / counts.sum(axis=1))[~split]
    rows = tree.n_node_samples
    # Missing is NaN (bits 2 and 3), default left (bit 1).
    decision = 8 + 2 * tree.missing_go_to_left[split].astype(int)

    def text(values):
        return " ".join(repr(float(v)) for v in values)

    def whole(values):
        return " ".join(map(str, values))

    zeros = np.zeros(int(split.sum()), int)
    return [
        f"Tree={number}", f"num_leaves={len(leaves)}", "num_cat=0",
        f"split_feature={whole(tree.feature[split])}", f"split_gain={whole(zeros)}",
        f"threshold={text(tree.threshold[split])}", f"decision_type={whole(decision)}",
        f"left_child={whole(code[tree.children_left[split]])}", f"right_child={whole(code[tree.children_right[split]])}",
        f"leaf_value={text(leaves)}", f"leaf_weight={whole(rows[~split])}", f"leaf_count={whole(rows[~split])}",
        f"internal_value={whole(zeros)}", f"internal_weight={whole(rows[split])}", f"internal_count={whole(rows[split])}",
        "is_linear=0", "shrinkage=1", "", "",
    ]  # fmt: skip


MAKERS = {
    "xgboost.ubj": xgboost_trees,
    "xgboost_forest.ubj": xgboost_forest,
    "lightgbm.txt": lightgbm_trees,
    "sklearn_forest.txt": sklearn_forest,
    "linear.onnx": linear_pipeline,
    "catboost.cbm": catboost_trees,
}


def make(folder):
    """Trains what is not there yet; what cannot be trained is answered by name and reason."""
    folder.mkdir(parents=True, exist_ok=True)
    failed = {}
    missing = [name for name in MAKERS if not (folder / name).exists()]
    if not missing:
        return failed
    x, y = rows(TRAIN_ROWS, SEED + 1)
    for name in missing:
        print(f"training {name}", file=sys.stderr, flush=True)
        try:
            MAKERS[name](x, y, folder)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            print(f"  {failed[name]}", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / ".cache/bench/inference")
