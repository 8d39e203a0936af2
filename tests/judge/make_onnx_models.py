"""Trains small models, converts them to ONNX and writes what ONNX Runtime scores.

    python make_onnx_models.py FOLDER

Files and columns are those of make_reference_models.py, a model is `NAME.onnx`.
ONNX Runtime runs with one thread: with more it adds the trees of a small model
up in another order. At the end it says how far the library that trained a
model is from ONNX Runtime on the rows of the training's own kind.
"""

import json
import sys
import warnings
from pathlib import Path

import lightgbm
import numpy as np
import onnx
import onnxmltools
import onnxruntime
import pandas
import pyarrow
import pyarrow.parquet
import shap
import xgboost
from make_reference_models import chosen, write_contributions
from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloat
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier, AdaBoostRegressor, BaggingClassifier, BaggingRegressor, ExtraTreesClassifier,
    ExtraTreesRegressor, GradientBoostingClassifier, GradientBoostingRegressor, HistGradientBoostingClassifier,
    HistGradientBoostingRegressor, IsolationForest, RandomForestClassifier, RandomForestRegressor, StackingClassifier,
    StackingRegressor, VotingClassifier, VotingRegressor)
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet, Lasso, LinearRegression, LogisticRegression, LogisticRegressionCV, Perceptron, PoissonRegressor, Ridge,
    RidgeClassifier, SGDClassifier, SGDRegressor)
from sklearn.mixture import GaussianMixture
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer, FunctionTransformer, KBinsDiscretizer, MaxAbsScaler, MinMaxScaler, Normalizer, OneHotEncoder,
    OrdinalEncoder, PolynomialFeatures, PowerTransformer, QuantileTransformer, RobustScaler, StandardScaler)
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC, NuSVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from to_onnx import write_counts  # noqa: E402

# ONNX Runtime adds in an order of its own in these, or by blocks of the batch.
SUMS = {"ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceLogSumExp", "Softmax", "LpNormalization", "Scan", "CDist",
        "ReduceL2"}
ROWS = 10_000
TRAIN = 600
FEATURES = 6
OPSET = {"": 18, "ai.onnx.ml": 3}


def accept_numpy_integers():
    """skl2onnx 1.20 hands scikit-learn's unsigned node numbers to onnx, which wants Python's."""
    make = onnx.helper.make_attribute

    def plain(value):
        whole = isinstance(value, list) and value and isinstance(value[0], np.integer)
        return [int(v) for v in value] if whole else value

    def make_attribute(key, value, *rest, **named):
        return make(key, plain(value), *rest, **named)

    onnx.helper.make_attribute = make_attribute


def plain_rows(seed, rows=ROWS):
    """Numbers of several scales, some of them whole."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 1, (rows, FEATURES)) * np.array([1, 3, 0.2, 1, 10, 1])
    x[:, 3] = np.round(x[:, 3], 0)
    return x.astype(np.float32)


def wild_rows(x, missing=True):
    """The last fifth gets values that no training has seen."""
    x = x.copy()
    random = np.random.default_rng(11)
    wild = x[-ROWS // 5:]
    for value in [np.inf, -np.inf, 1e30, -1e30, 1e-40, 1e9, -0.0, 0.0] + ([np.nan] * 8 if missing else []):
        wild[random.random(wild.shape) < 0.02] = value
    wild[-50:] = np.nan if missing else 0.0
    return x


class Writer:
    def __init__(self, folder, only):
        self.folder, self.only = Path(folder), only
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count, self.explained, self.far, self.operators, self.failed = 0, 0, [], {}, []

    def wants(self, name):
        return not self.only or any(word in name for word in self.only)

    def model(self, name, proto, feeds, columns, kind, native=None, sound=None):
        """`feeds` go to ONNX Runtime, `columns` into the rows; `native` are the library's own scores."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, feeds)
        expected = {}
        if kind == "value":
            expected["prediction"] = np.asarray(outputs[0]).reshape(-1)
        elif kind == "outlier":
            expected["prediction"] = np.asarray(outputs[0]).reshape(-1)
            expected["margin"] = np.asarray(outputs[1]).reshape(-1)
        elif kind == "cluster":
            expected["prediction"] = np.asarray(outputs[0]).reshape(-1)
        else:
            labels, scores = outputs[0], outputs[1]
            if isinstance(scores, list):
                classes = list(scores[0])
                scores = pandas.DataFrame(scores)[classes].to_numpy()
            else:
                classes = list(kind[1])
            place = {c: k for k, c in enumerate(classes)}
            expected["prediction"] = np.array([place[l] for l in np.asarray(labels).reshape(-1).tolist()])
            if kind[0] == "probabilities":
                for k, c in enumerate(classes):
                    expected[f"probability_{c}"] = scores[:, k]
                if len(classes) == 2:
                    expected["probability"] = scores[:, 1]
            elif kind[0] == "margin":
                expected["margin"] = scores[:, -1]
            else:
                for k in range(scores.shape[1]):
                    expected[f"raw_{k}"] = scores[:, k]
        file = ("onnx_sums_" if adds(proto) else "onnx_") + name
        onnx.save(proto, self.folder / f"{file}.onnx")
        arrays = {k: v if isinstance(v, pyarrow.Array) else pyarrow.array(v, from_pandas=False) for k, v in columns.items()}
        for key, values in expected.items():
            arrays[f"expected_{key}"] = pyarrow.array(np.asarray(values, dtype=np.float64), from_pandas=False)
        pyarrow.parquet.write_table(pyarrow.table(arrays), self.folder / f"{file}.rows.parquet")
        for node in proto.graph.node:
            self.operators.setdefault((node.domain, node.op_type), set()).add(name)
        if native is not None:
            mine = native if sound is None else native[sound]
            theirs = expected["probability" if "probability" in expected else "prediction"]
            theirs = theirs if sound is None else theirs[sound]
            self.far.append((float(np.nanmax(np.abs(mine - theirs))), name))
        self.count += 1
        return file

    def explain(self, file, rows, parts):
        """Contributions as make_reference_models.py has them."""
        write_contributions(self.folder / file, rows, parts)
        self.explained += 1


def contributions(model, x):
    """What shap says of scikit-learn's trees, rows x outputs x (features, then the bias); of two classes the second."""
    explainer = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent")
    parts = np.asarray(explainer.shap_values(x, check_additivity=False))
    bias = np.atleast_1d(explainer.expected_value)
    parts = parts[:, None, :] if parts.ndim == 2 else np.moveaxis(parts, 2, 1)
    if parts.shape[1] == 2:
        parts, bias = parts[:, 1:], bias[1:]
    return np.concatenate([parts, np.broadcast_to(bias, parts.shape[:2])[:, :, None]], axis=2)


def adds(proto):
    """Whether sums in an order of ONNX Runtime's own decide the scores."""
    linear = any(node.op_type == "LinearClassifier" and attribute.name == "post_transform" and attribute.s == b"SOFTMAX"
                 for node in proto.graph.node for attribute in node.attribute)
    return linear or any(node.op_type in SUMS for node in proto.graph.node)


def scored(model, x, classifier):
    rows = slice(0, ROWS // 2)
    if not classifier:
        return model.predict(x[rows]).astype(float).reshape(-1)
    if hasattr(model, "predict_proba") and len(model.classes_) == 2:
        return model.predict_proba(x[rows])[:, 1]
    classes = list(model.classes_)
    return np.array([classes.index(c) for c in model.predict(x[rows])], dtype=float)


class Plain:
    """Models of one input of several columns."""

    def __init__(self, writer):
        self.writer = writer
        self.x = plain_rows(1)
        self.rows = wild_rows(self.x)
        self.holes = self.x.copy()
        self.holes[np.random.default_rng(8).random(self.x.shape) < 0.1] = np.nan
        t = self.x[:TRAIN]
        noise = np.random.default_rng(3).normal(0, 0.3, TRAIN)
        self.score = t[:, 0] + np.sin(t[:, 1]) - 2 * (t[:, 2] > 0) + t[:, 4] / 10 + noise
        self.two = (self.score > 0).astype(np.int64)
        self.four = np.digitize(self.score, [-1.5, -0.3, 0.8]).astype(np.int64)

    def columns(self, rows, name="X"):
        return {f"{name}_{k}": rows[:, k] for k in range(FEATURES)}

    def add(self, name, model, y, kind, rows=None, train=None, dtype=np.float32, options=None, names=None, opset=None,
            native=True):
        if not self.writer.wants(name):
            return
        rows = self.rows if rows is None else rows
        train = (rows if train is None else train)[:TRAIN]
        model.fit(train, y) if y is not None else model.fit(train)
        shape = [None, FEATURES]
        initial = [("X", FloatTensorType(shape) if dtype == np.float32 else DoubleTensorType(shape))]
        proto = to_onnx(model, initial_types=initial, target_opset=opset or OPSET, options=options and {id(model): options})
        columns = self.columns(rows)
        if names:
            entry = proto.metadata_props.add()
            entry.key, entry.value = "feature_names", json.dumps(names)
            columns = dict(zip(reversed(names), reversed(list(columns.values()))))
        if kind in ("probabilities", "margin", "raw"):
            kind = (kind, [c for c in model.classes_])
        classifier = isinstance(kind, tuple)
        own = scored(model, rows.astype(dtype), classifier) if native and kind != "outlier" else None
        sound = slice(0, ROWS // 2)
        if own is not None:
            own = np.concatenate([own, np.full(ROWS - len(own), np.nan)])
        counted = write_counts(proto, model)
        file = self.writer.model(name, proto, {"X": rows.astype(dtype)}, columns, kind, own, sound)
        # shap knows boosting of several classes only from its newer form.
        several = "gradient_boosting" in name and "hist" not in name and classifier and len(kind[1]) > 2
        if counted and kind not in ("outlier", "cluster") and not several and "raw" not in kind and not names:
            picked = chosen(ROWS // 2)
            self.writer.explain(file, picked, contributions(model, rows[picked].astype(dtype)))

    def classifiers(self):
        words = np.array(["no", "maybe", "yes", "surely"])
        r = {"random_state": 5}
        for name, model in [
            ("logistic", LogisticRegression()),
            ("logistic_cv", LogisticRegressionCV(Cs=2, cv=2, max_iter=200)),
            ("sgd_log", SGDClassifier(loss="log_loss", **r)),
            ("sgd_huber", SGDClassifier(loss="modified_huber", **r)),
            ("svc_rbf_probability", SVC(probability=True, **r)),
            ("nu_svc_probability", NuSVC(probability=True, nu=0.3, **r)),
            ("tree", DecisionTreeClassifier(max_depth=6, **r)),
            ("forest", RandomForestClassifier(30, max_depth=7, **r)),
            ("forest_deep", RandomForestClassifier(10, **r)),
            ("extra_trees", ExtraTreesClassifier(20, max_depth=9, **r)),
            ("gradient_boosting", GradientBoostingClassifier(n_estimators=25, **r)),
            ("hist_gradient_boosting", HistGradientBoostingClassifier(max_iter=20, **r)),
            ("ada_boost", AdaBoostClassifier(n_estimators=10, **r)),
            ("bagging", BaggingClassifier(n_estimators=5, **r)),
            ("bagging_logistic", BaggingClassifier(LogisticRegression(), n_estimators=4, max_features=0.6, **r)),
            ("voting_soft", VotingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=3))],
                                             voting="soft", flatten_transform=False)),
            ("stacking", StackingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=3))],
                                            cv=2)),
            ("nearest", KNeighborsClassifier(5)),
            ("nearest_weighted", KNeighborsClassifier(4, weights="distance")),
            ("perceptron_layers", MLPClassifier((8, 5), max_iter=60, **r)),
            ("perceptron_tanh", MLPClassifier((6,), activation="tanh", max_iter=60, **r)),
            ("perceptron_sigmoid", MLPClassifier((6,), activation="logistic", max_iter=60, **r)),
            ("bayes_gauss", GaussianNB()),
            ("bayes_bernoulli", BernoulliNB(binarize=0.1)),
            ("discriminant_linear", LinearDiscriminantAnalysis()),
            ("discriminant_quadratic", QuadraticDiscriminantAnalysis()),
            ("one_against_rest", OneVsRestClassifier(LogisticRegression())),
            ("calibrated", CalibratedClassifierCV(LogisticRegression(), cv=2)),
            ("calibrated_isotonic", CalibratedClassifierCV(GaussianNB(), cv=2, method="isotonic")),
            ("pca_logistic", make_pipeline(StandardScaler(), PCA(4), LogisticRegression())),
            ("select_logistic", make_pipeline(SelectKBest(k=3), LogisticRegression())),
        ]:
            needs_numbers = "hist" not in name
            train = self.x if needs_numbers else self.holes
            self.guarded(name + "_two", model, self.two, "probabilities", train=train)
            self.guarded(name + "_four", model, words[self.four], "probabilities", train=train)
        t = self.x
        self.guarded("logistic_plain_tensor", LogisticRegression(), self.two + 3, "probabilities", train=t, options={"zipmap": False})
        self.guarded("forest_names", RandomForestClassifier(8), self.two, "probabilities", train=t, names=[f"column {k}" for k in range(FEATURES)])
        self.guarded("forest_opset", RandomForestClassifier(8, max_depth=4), self.four, "probabilities", train=t, opset={"": 11, "ai.onnx.ml": 1})
        self.guarded("forest_double", RandomForestClassifier(8, max_depth=6, **r), self.four, "probabilities", train=t, dtype=np.float64)
        self.guarded("boosting_raw", GradientBoostingClassifier(n_estimators=8, **r), self.four, "raw", train=t, options={"raw_scores": True, "zipmap": False})
        self.guarded("svc_linear", SVC(kernel="linear"), self.two, "margin", train=t, options={"zipmap": False})
        self.guarded("svc_rbf_several", SVC(), self.four, "raw", train=t, options={"zipmap": False})
        self.guarded("svc_poly", SVC(kernel="poly", degree=3), self.two, "margin", train=t, options={"zipmap": False})
        self.guarded("svc_sigmoid", SVC(kernel="sigmoid"), self.two, "margin", train=t, options={"zipmap": False})
        self.guarded("linear_svc", LinearSVC(), self.two, "margin", train=t)
        self.guarded("linear_svc_several", LinearSVC(), self.four, "raw", train=t)
        self.guarded("sgd_hinge", SGDClassifier(**r), self.two, "margin", train=t, options={"zipmap": False})
        self.guarded("perceptron", Perceptron(**r), self.two, "margin", train=t, options={"zipmap": False})
        self.guarded("ridge_classifier", RidgeClassifier(**r), self.two, "margin", train=t, options={"zipmap": False})
        positive = np.abs(t)
        self.guarded("bayes_multinomial", MultinomialNB(), self.four, "probabilities", rows=wild_rows(positive), train=positive)
        self.guarded("bayes_complement", ComplementNB(), self.four, "probabilities", rows=wild_rows(positive), train=positive)

    def regressors(self):
        r = {"random_state": 5}
        t = self.x
        for name, model in [
            ("linear", LinearRegression()), ("ridge", Ridge()), ("lasso", Lasso(0.01)), ("elastic", ElasticNet(0.01)),
            ("sgd", SGDRegressor(**r)), ("poisson", PoissonRegressor()),
            ("svr_rbf", SVR()), ("svr_linear", SVR(kernel="linear")), ("svr_poly", SVR(kernel="poly")),
            ("nu_svr", NuSVR()), ("linear_svr", LinearSVR()),
            ("tree_value", DecisionTreeRegressor(max_depth=6, **r)),
            ("forest_value", RandomForestRegressor(30, max_depth=7, **r)),
            ("forest_value_deep", RandomForestRegressor(10, **r)),
            ("extra_trees_value", ExtraTreesRegressor(20, max_depth=9, **r)),
            ("gradient_boosting_value", GradientBoostingRegressor(n_estimators=25, **r)),
            ("hist_gradient_boosting_value", HistGradientBoostingRegressor(max_iter=20, **r)),
            ("ada_boost_value", AdaBoostRegressor(n_estimators=6, **r)),
            ("bagging_value", BaggingRegressor(n_estimators=5, **r)),
            ("voting_value", VotingRegressor([("a", LinearRegression()), ("b", DecisionTreeRegressor(max_depth=3))])),
            ("stacking_value", StackingRegressor([("a", LinearRegression()), ("b", DecisionTreeRegressor(max_depth=3))], cv=2)),
            ("nearest_value", KNeighborsRegressor(5)),
            ("nearest_value_weighted", KNeighborsRegressor(3, weights="distance", metric="manhattan")),
            ("perceptron_value", MLPRegressor(hidden_layer_sizes=(8, 5), max_iter=60, **r)),
            # Without `alpha` the weights are so large that sums in single precision keep four digits in any order.
            ("gauss_process", GaussianProcessRegressor(alpha=0.1)),
        ]:
            y = np.exp(np.clip(self.score, -2, 2)) if name == "poisson" else self.score
            self.guarded(name, model, y, "value", train=self.holes if "hist" in name else t)
        self.guarded("linear_double", LinearRegression(), self.score, "value", train=t, dtype=np.float64)
        for name, step in [
            ("standard", StandardScaler()), ("min_max", MinMaxScaler(clip=True)), ("max_abs", MaxAbsScaler()),
            ("robust", RobustScaler()), ("normalizer", Normalizer()), ("normalizer_l1", Normalizer("l1")),
            ("normalizer_max", Normalizer("max")), ("binarizer", Binarizer(threshold=0.2)),
            ("polynomial", PolynomialFeatures(2)), ("power", PowerTransformer()),
            ("power_box_cox", make_pipeline(MinMaxScaler((1, 2)), PowerTransformer("box-cox"))),
            ("bins_one_hot", KBinsDiscretizer(5, encode="onehot-dense", quantile_method="averaged_inverted_cdf")),
            ("bins_ordinal", KBinsDiscretizer(5, encode="ordinal", quantile_method="averaged_inverted_cdf")),
            ("svd", TruncatedSVD(3)), ("quantile", QuantileTransformer(n_quantiles=20)),
            ("imputed", SimpleImputer()),
        ]:
            missing = name.startswith("imputed")
            self.guarded("step_" + name, make_pipeline(step, LinearRegression()), self.score, "value", train=self.holes if missing else t,
                         rows=wild_rows(self.x, missing=False) if name == "binarizer" else None)

    def others(self):
        t = self.x
        r = {"random_state": 5}
        self.guarded("isolation_forest", IsolationForest(n_estimators=20, **r), None, "outlier", train=t)
        self.guarded("one_class", OneClassSVM(nu=0.2), None, "outlier", train=t)
        self.guarded("k_means", KMeans(4, n_init=1, **r), None, "cluster", train=t)
        self.guarded("k_means_batches", MiniBatchKMeans(3, n_init=1, **r), None, "cluster", train=t)
        if self.writer.wants("gauss_mixture"):
            model = GaussianMixture(3, **r).fit(t[:TRAIN])
            proto = to_onnx(model, initial_types=[("X", FloatTensorType([None, FEATURES]))], target_opset=OPSET)
            self.writer.model("gauss_mixture", proto, {"X": self.rows}, self.columns(self.rows), ("probabilities", [0, 1, 2]))

    def boosted(self):
        t = wild_rows(self.x)
        held = self.rows.copy()
        y = self.score
        for name, model, target, kind in [
            ("xgboost_two", xgboost.XGBClassifier(n_estimators=25, max_depth=4), self.two, "probabilities"),
            ("xgboost_four", xgboost.XGBClassifier(n_estimators=10, max_depth=4), self.four, "probabilities"),
            ("xgboost_value", xgboost.XGBRegressor(n_estimators=25, max_depth=5), y, "value"),
            ("xgboost_counts", xgboost.XGBRegressor(n_estimators=10, objective="count:poisson"), np.exp(np.clip(y, -2, 2)), "value"),
            ("xgboost_forest", xgboost.XGBRFClassifier(n_estimators=15), self.two, "probabilities"),
            ("lightgbm_two", lightgbm.LGBMClassifier(n_estimators=25, verbosity=-1), self.two, "probabilities"),
            ("lightgbm_four", lightgbm.LGBMClassifier(n_estimators=10, verbosity=-1), self.four, "probabilities"),
            ("lightgbm_value", lightgbm.LGBMRegressor(n_estimators=25, verbosity=-1), y, "value"),
            ("lightgbm_categories", lightgbm.LGBMRegressor(n_estimators=10, verbosity=-1, cat_smooth=0.1, min_child_samples=5), y, "value"),
        ]:
            if not self.writer.wants(name):
                continue
            x = t[:TRAIN].copy()
            x[np.random.default_rng(9).random(x.shape) < 0.1] = np.nan
            rows = held
            if "categories" in name:
                x[:, 3] = np.abs(np.nan_to_num(x[:, 3]))
                rows = held.copy()
                rows[:, 3] = np.abs(rows[:, 3])
                model.fit(x, target, categorical_feature=[3])
            else:
                model.fit(x, target)
            convert = onnxmltools.convert_xgboost if "xgboost" in name else onnxmltools.convert_lightgbm
            try:
                proto = convert(model, initial_types=[("input", ToolsFloat([None, FEATURES]))], target_opset=15)
                kinds = (kind, list(model.classes_)) if kind == "probabilities" else kind
                own = np.concatenate([scored(model, rows, kind == "probabilities"), np.full(ROWS // 2, np.nan)])
                self.writer.model(name, proto, {"input": rows}, self.columns(rows, "input"), kinds, own, slice(0, ROWS // 2))
            except Exception as e:
                self.refused(name, e)

    def pipelines(self):
        """Models of many inputs, some of them texts."""
        random = np.random.default_rng(21)
        cities = np.array(["Ambon", "Bandung", "Jakarta", "Medan", "Padang"])
        city, grade = cities[random.integers(0, 5, ROWS)], random.choice(["A", "B", "C"], ROWS)
        frame = pandas.DataFrame({"age": self.x[:, 0] * 10 + 40, "income": self.rows[:, 4], "points": self.holes[:, 5],
                                  "visits": random.poisson(3, ROWS).astype(np.int64), "city": city, "grade": grade})
        frame.loc[ROWS - 1500::7, "city"] = "Atlantis"
        frame.loc[ROWS - 1500::11, "city"] = ""
        income = frame["income"].to_numpy().copy()
        income[:TRAIN] = self.x[:TRAIN, 4]
        frame["income"] = income
        y = ((frame["age"] > 40).astype(int) + np.isin(city, ["Medan", "Ambon"]) - (grade == "C") > 0).astype(int)
        numbers, texts = ["age", "income", "points"], ["city", "grade"]
        kinds = {**{n: FloatTensorType([None, 1]) for n in numbers}, "visits": Int64TensorType([None, 1]),
                 **{n: StringTensorType([None, 1]) for n in texts}}

        def steps(scaler, encoder, count=None):
            return ColumnTransformer([("numbers", make_pipeline(SimpleImputer(), scaler), numbers),
                                      ("texts", encoder, texts), ("count", count or "passthrough", ["visits"])])

        hot = lambda **more: OneHotEncoder(handle_unknown="ignore", sparse_output=False, **more)
        known = frame["city"].isin(cities).to_numpy()
        for name, model, columns in [
            ("columns_logistic", make_pipeline(steps(StandardScaler(), hot()), LogisticRegression()), None),
            ("columns_forest", make_pipeline(steps(MinMaxScaler(), hot(drop="if_binary")), RandomForestClassifier(10)), None),
            ("columns_boosting", make_pipeline(steps(RobustScaler(), hot(min_frequency=5), StandardScaler()),
                                               GradientBoostingClassifier(n_estimators=10)), None),
            ("columns_ordinal", make_pipeline(steps(MaxAbsScaler(), OrdinalEncoder(
                handle_unknown="use_encoded_value", unknown_value=-1)), DecisionTreeClassifier(max_depth=5)), None),
            ("columns_text", make_pipeline(steps(StandardScaler(), hot()), SVC(probability=True)), None),
            ("columns_net", make_pipeline(steps(StandardScaler(), hot()), MLPClassifier((6,), max_iter=50)), None),
        ]:
            if not self.writer.wants(name):
                continue
            try:
                model.fit(frame[:TRAIN], y[:TRAIN])
                proto = to_onnx(model, initial_types=list(kinds.items()), target_opset=OPSET)
                write_counts(proto, model)
                feeds = {n: frame[[n]].to_numpy().astype(np.float32) for n in numbers}
                feeds["visits"] = frame[["visits"]].to_numpy()
                feeds.update((n, frame[[n]].to_numpy().astype(object)) for n in texts)
                columns = {n: frame[n].to_numpy() for n in [*numbers, "visits"]}
                columns["points"] = pyarrow.array(frame["points"].to_numpy(), from_pandas=True)
                columns["city"] = pyarrow.array([c or None for c in frame["city"]], pyarrow.string())
                columns["grade"] = pyarrow.array(frame["grade"].tolist()).dictionary_encode()
                sound = slice(0, ROWS // 2)
                own = np.full(ROWS, np.nan)
                own[sound] = model.predict_proba(frame[sound])[:, 1]
                self.writer.model(name, proto, feeds, columns, ("probabilities", [0, 1]), own, sound)
            except Exception as e:
                self.refused(name, e)

    def guarded(self, name, *args, **kwargs):
        try:
            self.add(name, *args, **kwargs)
        except Exception as e:
            self.refused(name, e)

    def refused(self, name, e):
        print(f"{name}: {type(e).__name__}: {str(e)[:300]}")
        self.writer.failed.append(name)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    accept_numpy_integers()
    writer = Writer(sys.argv[1], sys.argv[2:])
    plain = Plain(writer)
    plain.classifiers()
    plain.regressors()
    plain.others()
    plain.boosted()
    plain.pipelines()
    for (domain, operator), names in sorted(writer.operators.items()):
        print(f"{domain or 'ai.onnx'} {operator}: {len(names)} {sorted(names)[:2]}")
    for distance, name in sorted(writer.far, reverse=True)[:20]:
        print(f"{name}: {distance:.3g} from the library itself")
    print(f"{writer.count} ONNX models, {writer.explained} explained, ONNX Runtime {onnxruntime.__version__}")
    if writer.failed:
        sys.exit(f"not converted: {', '.join(writer.failed)}")
