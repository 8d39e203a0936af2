"""Trains small Spark ML pipelines of every stage and writes what Spark itself scores.

    python make_spark_stage_models.py FOLDER [ROWS [NAME...]]

Files and columns are those of make_spark_models.py, with `expected_raw_<k>`
for the raw scores; names begin with `stage_` and `head_`. ROWS rows are scored
(10,000 unless given) with nulls, NaN, unseen labels, infinities, huge and tiny
values. With names only those models are made.
"""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import (
    DecisionTreeClassifier,
    FMClassifier,
    GBTClassifier,
    LinearSVC,
    LogisticRegression,
    MultilayerPerceptronClassifier,
    NaiveBayes,
    OneVsRest,
    RandomForestClassifier,
)
from pyspark.ml.clustering import BisectingKMeans, GaussianMixture, KMeans
from pyspark.ml.evaluation import BinaryClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import (
    DCT,
    PCA,
    Binarizer,
    Bucketizer,
    ChiSqSelector,
    ElementwiseProduct,
    FeatureHasher,
    Imputer,
    IndexToString,
    Interaction,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialExpansion,
    QuantileDiscretizer,
    RobustScaler,
    StandardScaler,
    StringIndexer,
    UnivariateFeatureSelector,
    VarianceThresholdSelector,
    VectorAssembler,
    VectorIndexer,
    VectorSlicer,
)
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Matrices, Vectors
from pyspark.ml.regression import (
    AFTSurvivalRegression,
    DecisionTreeRegressor,
    FMRegressor,
    GBTRegressor,
    GeneralizedLinearRegression,
    IsotonicRegression,
    LinearRegression,
    RandomForestRegressor,
)
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import SparkSession

TRAIN = 600
INF = float("inf")
WILD = [f"w{i}" for i in range(4)]
ZEROS = [f"z{i}" for i in range(10)]
COUNTS = [f"c{i}" for i in range(5)]
BITS = [f"b{i}" for i in range(5)]
CALM = [f"g{i}" for i in range(3)]
LABELS = ["binary", "several", "value", "positive", "share", "censor", "outcome"]


def rows(seed, count, scored):
    """Columns of all kinds; to be scored, with what training never saw."""
    random = np.random.default_rng(seed)
    columns = {"id": pyarrow.array(range(count), pyarrow.int64())}
    numbers = {}
    for i, name in enumerate(WILD):
        numbers[name] = random.normal(0, 10.0 ** (i - 1), count).round(3)
    for name in ZEROS:
        numbers[name] = np.where(random.random(count) < 0.75, 0.0, random.normal(0, 2, count).round(2))
    dense = random.random(count) < 0.3
    for name in ZEROS:
        numbers[name] = np.where(dense, random.normal(0, 2, count), numbers[name])
    for name in COUNTS:
        numbers[name] = np.where(random.random(count) < 0.4, 0.0, random.poisson(4, count).astype(float))
    for name in BITS:
        numbers[name] = (random.random(count) < 0.4).astype(float)
    for name in CALM:
        numbers[name] = random.normal(0, 1, count) + 3 * (random.random(count) < 0.5)
    numbers["level"] = random.integers(0, 4, count).astype(float)
    gpa = random.normal(3, 0.5, count).round(2)
    score = numbers["w0"] * 3 + numbers["w1"] + numbers["z0"] / 3 + numbers["c0"] / 4 - numbers["b0"] + (gpa - 3)
    score = score + numbers["g0"] / 3 + random.normal(0, 0.5, count)
    if scored:
        wild = [INF, -INF, 1e300, -1e300, 1e154, 1e-300, -1e-310, -0.0, 0.0, 1e9, 12345.678]
        for name in WILD:
            at = random.random(count) < 0.04
            numbers[name][at] = random.choice(wild, at.sum())
        for name in ZEROS[:3]:
            at = random.random(count) < 0.02
            numbers[name][at] = random.choice([-0.0, 1e200, 1e-200, 5e5], at.sum())
        for name in COUNTS:
            at = random.random(count) < 0.01
            numbers[name][at] = random.choice([1e6, 1e-3, 250.0, 1e12], at.sum())
        for name in CALM:
            at = random.random(count) < 0.01
            numbers[name][at] = random.choice([40.0, -40.0, 1e3, -0.0], at.sum())
        numbers["level"][random.random(count) < 0.05] = 7.0
    columns.update((name, pyarrow.array(values)) for name, values in numbers.items())

    def holes(values, kind):
        array = values.tolist()
        for at in np.flatnonzero(random.random(count) < 0.06):
            array[at] = None
        if pyarrow.types.is_floating(kind):
            for at in np.flatnonzero(random.random(count) < 0.04):
                array[at] = float("nan")
        return pyarrow.array(array, kind)

    towns = ["Malang", "Batu", "Blitar", "Kediri", "Madiun"] + (["Tuban", ""] if scored else [])
    columns["gpa"] = holes(gpa, pyarrow.float64())
    columns["credits"] = holes(random.integers(0, 150, count), pyarrow.int32())
    columns["absent"] = holes(random.exponential(5, count).round(1).astype(np.float32), pyarrow.float32())
    town = np.array(towns)[random.integers(0, len(towns), count)]
    columns["town"] = holes(town, pyarrow.string()) if scored else pyarrow.array(town)
    columns["kind"] = pyarrow.array(np.array(["a", "b", "c"])[random.integers(0, 3, count)])
    columns["grade"] = pyarrow.array(random.integers(1, 5, count), pyarrow.int64())
    columns["active"] = pyarrow.array(random.random(count) < 0.5)
    columns["binary"] = pyarrow.array((score > 0).astype(float))
    several = np.digitize(score, [-1.5, 1.5])
    columns["several"] = pyarrow.array(several.astype(float))
    columns["outcome"] = pyarrow.array(np.array(["stays", "leaves", "returns"])[several])
    columns["value"] = pyarrow.array(score)
    columns["positive"] = pyarrow.array(np.exp(np.clip(score / 4, -2, 2)))
    columns["share"] = pyarrow.array(1 / (1 + np.exp(-score)))
    columns["censor"] = pyarrow.array((random.random(count) < 0.7).astype(float))
    return pyarrow.table(columns)


class Writer:
    def __init__(self, folder, spark, count, names):
        self.folder, self.spark, self.wanted, self.names = Path(folder), spark, set(names), []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.temporary = self.folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(rows(1, TRAIN, False), self.temporary / "train.parquet")
        pyarrow.parquet.write_table(rows(2, count, True), self.temporary / "score.parquet")
        self.train = spark.read.parquet(str(self.temporary / "train.parquet")).coalesce(1).cache()
        self.score = spark.read.parquet(str(self.temporary / "score.parquet")).drop(*LABELS).coalesce(1).cache()

    def write(self, name, stages, labels=None, train=None, score=None, inputs=None):
        """`stages` are estimators of a pipeline, or a fitted model; `inputs` the columns to be kept."""
        if self.wanted and name not in self.wanted:
            return
        path = self.folder / name
        train = self.train if train is None else train
        model = Pipeline(stages=stages).fit(train) if isinstance(stages, list) else stages.fit(train)
        model.write().overwrite().save(str(path))
        # What is compared is what comes back from disk.
        model = type(model).load(str(path))
        score = self.score if score is None else score
        found = model.transform(score)
        wanted = [found["id"], found["prediction"].cast("double").alias("prediction")]
        for column in ("rawPrediction", "probability"):
            if column in found.columns:
                wanted.append(vector_to_array(column).alias(column))
        out = self.temporary / "out"
        found.select(*wanted).write.mode("overwrite").parquet(str(out))
        out = pyarrow.parquet.read_table(out).sort_by("id")
        rows = self.temporary / "in"
        score.write.mode("overwrite").parquet(str(rows))
        table = pyarrow.parquet.read_table(rows).sort_by("id").replace_schema_metadata()
        assert out["id"].equals(table["id"]), name
        used = inputs or [c for c in table.column_names if c in needed(path)]
        table = table.select(["id", *used])
        add = {"prediction": out["prediction"].to_numpy()}
        if "rawPrediction" in out.column_names:
            raw = np.array(out["rawPrediction"].to_pylist())
            add.update((f"raw_{k}", raw[:, k]) for k in range(raw.shape[1]))
            if raw.shape[1] == 2:
                add["margin"] = raw[:, 1]
        if "probability" in out.column_names:
            shares = np.array(out["probability"].to_pylist())
            names = labels or [str(k) for k in range(shares.shape[1])]
            add.update((f"probability_{names[k]}", shares[:, k]) for k in range(shares.shape[1]))
            if shares.shape[1] == 2 and "rawPrediction" in out.column_names:
                add["probability"] = shares[:, 1]
        for key, values in add.items():
            values = pyarrow.array(np.asarray(values, dtype=np.float64), from_pandas=False)
            table = table.append_column(f"expected_{key}", values)
        pyarrow.parquet.write_table(table, self.folder / f"{name}.rows.parquet", compression="zstd")
        self.names.append(name)


def needed(path):
    """Every word of a saved model's metadata: enough to know its columns."""
    text = "".join(file.read_text() for file in path.rglob("metadata/part-*"))
    return set(text.replace('"', " ").replace(",", " ").replace("[", " ").replace("]", " ").split())


def assemble(columns, output="features", keep="error"):
    return VectorAssembler(inputCols=columns, outputCol=output, handleInvalid=keep)


def wide(output="x"):
    """Vectors that are dense in some rows and sparse in others."""
    return assemble(WILD + ZEROS, output)


def classes(features="features", **more):
    return LogisticRegression(labelCol="several", featuresCol=features, family="multinomial", maxIter=4, **more)


def feature_stages(writer):
    write = writer.write

    def on_vectors(name, stage, *before):
        write(f"stage_{name}", [wide(), *before, stage, classes()])

    through = {"inputCol": "x", "outputCol": "features"}
    on_vectors("min_max", MinMaxScaler(min=-1.0, max=2.5, **through))
    on_vectors("max_abs", MaxAbsScaler(**through))
    on_vectors("robust", RobustScaler(withCentering=True, **through))
    on_vectors("robust_uncentred", RobustScaler(withCentering=False, lower=0.1, upper=0.9, **through))
    on_vectors("standard", StandardScaler(withMean=True, withStd=True, **through))
    on_vectors("standard_scaled", StandardScaler(withMean=False, withStd=True, **through))
    for p in (1.0, 2.0, 1.5, INF):
        on_vectors(f"normalizer_{p}".replace(".", "_"), Normalizer(p=p, **through))
    on_vectors("elementwise", ElementwiseProduct(scalingVec=Vectors.dense([0.5 * i - 3 for i in range(14)]), **through))
    on_vectors("elementwise_sparse", ElementwiseProduct(scalingVec=Vectors.sparse(14, [0, 5], [2.0, -1.5]), **through))
    on_vectors("binarizer_vector", Binarizer(threshold=0.5, **through))
    on_vectors("binarizer_below", Binarizer(threshold=-0.5, **through))
    on_vectors("slicer", VectorSlicer(indices=[3, 0, 7], names=["z9", "w2"], **through))
    on_vectors("pca", PCA(k=5, **through))
    on_vectors("dct", DCT(inverse=False, inputCol="s", outputCol="features"), Normalizer(inputCol="x", outputCol="s"))
    on_vectors("dct_inverse", DCT(inverse=True, inputCol="s", outputCol="features"), Normalizer(inputCol="x", outputCol="s"))
    write("stage_polynomial", [assemble(WILD[:2] + ZEROS[:3], "x"), PolynomialExpansion(degree=3, **through), classes()])
    write("stage_polynomial_wide", [wide(), PolynomialExpansion(degree=2, **through), classes()])
    write("stage_variance", [wide(), VarianceThresholdSelector(featuresCol="x", outputCol="features", varianceThreshold=4.0),
                             classes()])
    chosen = {"featuresCol": "x", "outputCol": "features", "labelCol": "several"}
    write("stage_chi_square", [assemble(COUNTS + BITS, "x"), ChiSqSelector(numTopFeatures=4, **chosen), classes()])
    selector = UnivariateFeatureSelector(selectionMode="numTopFeatures", **chosen)
    selector.setFeatureType("continuous").setLabelType("categorical").setSelectionThreshold(6)
    write("stage_univariate", [wide(), selector, classes()])
    for keep in ("keep", "error"):
        score = None if keep == "keep" else writer.score.filter("level < 5")
        indexer = VectorIndexer(maxCategories=6, handleInvalid=keep, **through)
        write(f"stage_vector_indexer_{keep}", [assemble(["level", *BITS, "w0"], "x"), indexer, classes()], score=score)
    # Spark trains no trees on NaN, but scores them.
    full = writer.train.dropna(subset=["gpa"])
    splits = [-INF, -1.0, 0.0, 2.5, INF]
    write("stage_bucketizer", [
        Bucketizer(splits=splits, inputCol="gpa", outputCol="b_gpa", handleInvalid="keep"),
        Bucketizer(splitsArray=[splits, [-1e300, 0.0, 1e300]], inputCols=["w0", "z1"], outputCols=["b_w", "b_z"]),
        assemble(["b_gpa", "b_w", "b_z"], keep="keep"), DecisionTreeClassifier(labelCol="several", maxDepth=6)], train=full)
    write("stage_quantiles", [
        QuantileDiscretizer(numBuckets=5, inputCol="gpa", outputCol="b_gpa", handleInvalid="keep"),
        QuantileDiscretizer(numBucketsArray=[3, 8], inputCols=["w1", "z1"], outputCols=["b_w", "b_z"]),
        OneHotEncoder(inputCols=["b_w", "b_z"], outputCols=["h_w", "h_z"]),
        assemble(["b_gpa", "h_w", "h_z"], keep="keep"), RandomForestRegressor(labelCol="value", numTrees=5, maxDepth=6, seed=1)],
        train=full)
    write("stage_binarizer", [
        Binarizer(threshold=2.5, inputCol="gpa", outputCol="b_gpa"),
        Binarizer(thresholds=[0.0, -1.0], inputCols=["w0", "z1"], outputCols=["b_w", "b_z"]),
        assemble(["b_gpa", "b_w", "b_z"], keep="keep"), DecisionTreeClassifier(labelCol="several", maxDepth=4)],
        train=full)
    indexed = StringIndexer(inputCols=["town", "kind"], outputCols=["t", "k"], handleInvalid="keep")
    hot = OneHotEncoder(inputCols=["t"], outputCols=["town_hot"])
    write("stage_interaction", [
        indexed, assemble(["w0", "z0", "k"], "v"), Interaction(inputCols=["t", "v", "z1"], outputCol="features"), classes()])
    write("stage_interaction_one_hot", [
        indexed, hot, Interaction(inputCols=["town_hot", "grade", "k"], outputCol="features"), classes()])
    write("stage_slicer_names", [
        indexed, hot, assemble(["town_hot", "k", "w0", "z0"], "x"),
        VectorSlicer(names=["town_hot_Batu", "k", "z0"], **through), classes()])
    write("stage_index_to_string", [
        indexed, IndexToString(inputCol="k", outputCol="name"), StringIndexer(inputCol="name", outputCol="again"),
        StringIndexer(inputCol="t", outputCol="numbered", handleInvalid="keep"),
        assemble(["again", "numbered", "z0"]), classes()])
    hashed = FeatureHasher(inputCols=["town", "w0", "active", "grade", "credits", "kind", "z1"], numFeatures=2048,
                           categoricalCols=["grade"], outputCol="features")
    write("stage_hasher", [hashed, classes()])
    small = hashed.copy().setNumFeatures(7)
    write("stage_hasher_collisions", [small, classes()])
    full = FeatureHasher(inputCols=["town", "kind", "w0"], outputCol="features")
    write("stage_hasher_full", [full, LinearRegression(labelCol="value", maxIter=3, solver="l-bfgs", regParam=0.1)])


def pipelines(writer):
    """Ten stages and more."""
    numbers = ["gpa", "credits", "absent"]
    stages = [
        StringIndexer(inputCol="outcome", outputCol="outcome_index", stringOrderType="alphabetAsc"),
        StringIndexer(inputCols=["town", "kind"], outputCols=["t", "k"], handleInvalid="keep"),
        OneHotEncoder(inputCols=["t", "k"], outputCols=["t_hot", "k_hot"], handleInvalid="keep"),
        Imputer(inputCols=numbers, outputCols=[f"{n}_f" for n in numbers], strategy="median"),
        QuantileDiscretizer(numBuckets=4, inputCol="gpa_f", outputCol="gpa_b", handleInvalid="keep"),
        OneHotEncoder(inputCol="gpa_b", outputCol="gpa_hot", handleInvalid="keep"),
        Bucketizer(splits=[-INF, 0.0, 3.0, INF], inputCol="w0", outputCol="w0_b"),
        assemble([f"{n}_f" for n in numbers] + ZEROS[3:6], "numbers"),
        MinMaxScaler(inputCol="numbers", outputCol="scaled"),
        PolynomialExpansion(degree=2, inputCol="scaled", outputCol="products"),
        VectorSlicer(indices=list(range(0, 20, 2)), inputCol="products", outputCol="some"),
        PCA(k=3, inputCol="scaled", outputCol="axes"),
        assemble(["some", "axes", "t_hot", "k_hot", "gpa_hot", "w0_b", "active", "grade"], "all"),
    ]
    tail = [StandardScaler(withMean=True, inputCol="all", outputCol="features")]
    names = ("leaves", "returns", "stays")
    label = {"labelCol": "outcome_index"}
    back = IndexToString(inputCol="prediction", outputCol="said", labels=list(names))
    write = writer.write
    write("stage_long_logistic", stages + tail + [LogisticRegression(maxIter=5, **label), back], names)
    trees = [MaxAbsScaler(inputCol="all", outputCol="less"), VectorIndexer(inputCol="less", outputCol="features",
             maxCategories=5, handleInvalid="keep")]
    write("stage_long_forest", stages + trees + [RandomForestClassifier(numTrees=6, maxDepth=6, seed=3, **label), back], names)
    write("stage_long_nested", [Pipeline(stages=stages[:7]), Pipeline(stages=stages[7:] + tail),
                                GBTRegressor(labelCol="value", maxIter=4, seed=3)])


def linear_heads(writer):
    write = writer.write
    few = [assemble(["z3", "z4", "g0", "g1", "w0"])]
    families = [
        ("gaussian", "identity", "value"), ("gaussian", "log", "positive"), ("gaussian", "inverse", "positive"),
        ("binomial", "logit", "binary"), ("binomial", "probit", "binary"), ("binomial", "cloglog", "binary"),
        ("poisson", "log", "positive"), ("poisson", "identity", "positive"), ("poisson", "sqrt", "positive"),
        ("gamma", "inverse", "positive"), ("gamma", "log", "positive"), ("gamma", "identity", "positive"),
    ]
    for family, link, label in families:
        glm = GeneralizedLinearRegression(family=family, link=link, labelCol=label, maxIter=3, regParam=0.01)
        write(f"head_glm_{family}_{link}", few + [glm])
    glm = GeneralizedLinearRegression(family="binomial", labelCol="binary", maxIter=3)
    write("head_glm_binomial_default", few + [glm])
    for variance, power in [(1.5, None), (1.5, 0.0), (1.2, 0.3), (0.0, 1.0), (1.0, None), (2.0, -1.0), (3.0, 0.5)]:
        glm = GeneralizedLinearRegression(family="tweedie", variancePower=variance, labelCol="positive", maxIter=2, regParam=0.1)
        if power is not None:
            glm.setLinkPower(power)
        write(f"head_glm_tweedie_{variance}_{power}".replace(".", "_").replace("-", "m"), few + [glm])
    glm = GeneralizedLinearRegression(family="poisson", labelCol="positive", offsetCol="b0", maxIter=3)
    write("head_glm_offset", few + [glm])
    write("head_svc", [wide("features"), LinearSVC(labelCol="binary", maxIter=5)])
    write("head_svc_threshold", [wide("features"), LinearSVC(labelCol="binary", maxIter=5, threshold=0.3)])
    write("head_survival", few + [AFTSurvivalRegression(labelCol="positive", censorCol="censor", maxIter=5)])
    write("head_linear_huber", few + [LinearRegression(labelCol="value", loss="huber", maxIter=8)])
    write("head_linear", [wide("features"), LinearRegression(labelCol="value", regParam=0.1)])
    write("head_linear_sparse", [wide("features"), LinearRegression(labelCol="value", regParam=1.0, elasticNetParam=1.0)])
    write("head_logistic", [wide("features"), LogisticRegression(labelCol="binary", maxIter=5)])
    write("head_logistic_sparse", [wide("features"), LogisticRegression(labelCol="binary", regParam=0.1, elasticNetParam=1.0)])
    write("head_logistic_classes_sparse", [wide("features"), classes(regParam=0.1, elasticNetParam=1.0)])
    write("head_logistic_thresholds", [wide("features"), classes(thresholds=[0.5, 0.2, 0.3])])
    bounds = Matrices.dense(1, 5, [0.0, -1.0, -1.0, 0.0, -2.0])
    write("head_logistic_bound", few + [
        LogisticRegression(labelCol="binary", lowerBoundsOnCoefficients=bounds, threshold=0.35, maxIter=5)])
    write("head_factors", [wide("features"), FMClassifier(labelCol="binary", factorSize=3, maxIter=10, stepSize=0.1, seed=1)])
    write("head_factors_thresholds", few + [
        FMClassifier(labelCol="binary", factorSize=2, maxIter=5, seed=1, fitLinear=False).setThresholds([0.3, 0.7])])
    write("head_factors_value", [wide("features"), FMRegressor(labelCol="value", factorSize=4, maxIter=10, stepSize=0.1, seed=1)])
    write("head_isotonic", [IsotonicRegression(featuresCol="w0", labelCol="value")])
    write("head_isotonic_falling", [IsotonicRegression(featuresCol="level", labelCol="value", isotonic=False)])
    write("head_isotonic_place", [wide("features"), IsotonicRegression(featureIndex=4, labelCol="value")])


def other_heads(writer):
    write = writer.write
    for kind, columns in [("multinomial", COUNTS), ("complement", COUNTS), ("bernoulli", BITS), ("gaussian", CALM + ["w0"])]:
        write(f"head_bayes_{kind}", [assemble(columns), NaiveBayes(modelType=kind, labelCol="several")])
    write("head_bayes_thresholds", [assemble(COUNTS), NaiveBayes(labelCol="several", thresholds=[0.4, 0.4, 0.2])])
    write("head_perceptron", [wide("features"), MultilayerPerceptronClassifier(
        labelCol="several", layers=[14, 8, 5, 3], maxIter=8, seed=1)])
    write("head_perceptron_two", [assemble(CALM), MultilayerPerceptronClassifier(
        labelCol="binary", layers=[3, 4, 2], maxIter=8, seed=1).setThresholds([0.4, 0.6])])
    write("head_means", [wide("features"), KMeans(k=6, seed=1, maxIter=4)])
    write("head_means_calm", [assemble(CALM), KMeans(k=5, seed=1, maxIter=5)])
    write("head_means_cosine", [assemble(CALM), KMeans(k=4, seed=1, maxIter=5, distanceMeasure="cosine")])
    write("head_bisecting", [wide("features"), BisectingKMeans(k=5, seed=1, maxIter=4)])
    write("head_bisecting_cosine", [assemble(CALM), BisectingKMeans(k=4, seed=1, maxIter=4, distanceMeasure="cosine")])
    write("head_mixture", [assemble(CALM), GaussianMixture(k=3, seed=1, maxIter=4)])
    write("head_mixture_two", [assemble(CALM[:2]), GaussianMixture(k=2, seed=1, maxIter=3)])
    for name, inner in [
        ("logistic", LogisticRegression(maxIter=4)), ("svc", LinearSVC(maxIter=4)),
        ("boosted", GBTClassifier(maxIter=2, maxDepth=3, seed=1)), ("bayes", NaiveBayes(modelType="gaussian")),
        ("forest", RandomForestClassifier(numTrees=3, maxDepth=3, seed=1)),
    ]:
        write(f"head_one_rest_{name}", [assemble(CALM + ZEROS), OneVsRest(classifier=inner, labelCol="several")])
    tree = DecisionTreeClassifier(labelCol="several", maxDepth=5)
    write("head_tree_thresholds", [wide("features"), tree.copy().setThresholds([0.2, 0.5, 0.3])])
    write("head_forest_thresholds", [wide("features"), RandomForestClassifier(
        labelCol="several", numTrees=5, maxDepth=5, seed=1).setThresholds([0.2, 0.5, 0.3])])
    write("head_boosted_thresholds", [wide("features"), GBTClassifier(
        labelCol="binary", maxIter=3, maxDepth=4, seed=1).setThresholds([0.7, 0.3])])
    logistic = LogisticRegression(labelCol="binary", maxIter=4)
    grid = ParamGridBuilder().addGrid(logistic.regParam, [0.0, 0.1]).build()
    judge = BinaryClassificationEvaluator(labelCol="binary")
    inside = Pipeline(stages=[assemble(CALM), logistic])
    write("head_cross_validator", CrossValidator(estimator=inside, estimatorParamMaps=grid, evaluator=judge, numFolds=2, seed=1))
    value = DecisionTreeRegressor(labelCol="value")
    grid = ParamGridBuilder().addGrid(value.maxDepth, [2, 4]).build()
    split = TrainValidationSplit(estimator=value, estimatorParamMaps=grid, evaluator=RegressionEvaluator(labelCol="value"), seed=1)
    write("head_validation_split", [assemble(CALM), split])


def vectors(writer):
    """Models without an assembler: the rows bring the vectors."""
    made = PipelineModel(stages=[wide("features")])
    train, score = made.transform(writer.train), made.transform(writer.score).select("id", "features")
    more = {"train": train, "score": score, "inputs": ["features"]}
    writer.write("head_own_vectors", LogisticRegression(labelCol="several", maxIter=4), **more)
    writer.write("head_own_vectors_scaled", [
        StandardScaler(inputCol="features", outputCol="x"), LinearRegression(featuresCol="x", labelCol="value")], **more)
    writer.write("head_own_vectors_means", KMeans(k=4, seed=1, maxIter=3), **more)
    name = "head_own_lists"
    writer.write(name, GBTClassifier(labelCol="binary", maxIter=3, seed=1), **more)
    if name in writer.names:
        path = writer.folder / f"{name}.rows.parquet"
        table = pyarrow.parquet.read_table(path)
        def dense(v):
            if v["type"] == 1:
                return v["values"]
            values = [0.0] * v["size"]
            for place, value in zip(v["indices"], v["values"]):
                values[place] = value
            return values
        lists = pyarrow.array([dense(v) for v in table["features"].to_pylist()], pyarrow.list_(pyarrow.float64(), 14))
        place = table.column_names.index("features")
        pyarrow.parquet.write_table(table.set_column(place, "features", lists), path, compression="zstd")


def main():
    # Spark runs OneVsRest in Python processes of its own.
    os.environ["PYSPARK_PYTHON"] = sys.executable
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    spark = (SparkSession.builder.master("local[2]").appName("make_spark_stage_models")
             .config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "1")
             .config("spark.default.parallelism", "1").config("spark.sql.ansi.enabled", "false")
             .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
             .config("spark.log.level", "ERROR").config("spark.driver.memory", "2g").getOrCreate())
    spark.sparkContext.setLogLevel("ERROR")
    writer = Writer(sys.argv[1], spark, count, sys.argv[3:])
    for part in (feature_stages, linear_heads, other_heads, vectors, pipelines):
        part(writer)
    shutil.rmtree(writer.temporary)
    unknown = writer.wanted - set(writer.names)
    assert not unknown, f"no such models: {unknown}"
    print(f"Spark {spark.version}: {len(writer.names)} models, {count} rows each: {', '.join(writer.names)}")
    spark.stop()


if __name__ == "__main__":
    main()
