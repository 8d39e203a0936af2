"""Trains small Spark ML pipelines and writes what Spark itself scores.

    python make_spark_models.py FOLDER [NAME...]

Per model `NAME`: the PipelineModel folder `NAME`, and `NAME.rows.parquet` with
the inputs and, as far as they apply, the columns

    expected_prediction             class as a number, or the value
    expected_margin                 rawPrediction of the positive class of two
    expected_probability            of the positive class of two
    expected_probability_<label>    of every class

and `NAME.contributions.parquet` as make_reference_models.py has it: what shap's
TreeExplainer says of the trees that Spark saved, and for linear models
coefficient times distance from the mean, both added up by input column.

With names only those models are made. The Rust test `every_judged_model_scores_as_its_library_does` reads the folder
from INSIGHTERA_JUDGE_MODELS and compares every row. Needs Java 17, no network.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import shap
from make_reference_models import chosen, write_contributions
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import (
    DecisionTreeClassifier,
    GBTClassifier,
    LogisticRegression,
    RandomForestClassifier,
)
from pyspark.ml.feature import Imputer, OneHotEncoder, StandardScaler, StringIndexer, VectorAssembler
from pyspark.ml.regression import DecisionTreeRegressor, GBTRegressor, LinearRegression, RandomForestRegressor
from pyspark.sql import SparkSession

ROWS = 2000
TOWNS = ["Malang", "Batu", "Blitar", "Kediri", "Madiun", "Ngawi", "Pacitan"]
KINDS = ["a", "b", "c"]
NUMBERS = ["gpa", "credits", "absent", "amount"]


def rows(seed, unseen):
    """Numbers with null and NaN, labels; with `unseen`, labels that training did not have."""
    random = np.random.default_rng(seed)
    gpa = np.round(random.normal(3, 0.5, ROWS), 2)
    credits = random.integers(0, 150, ROWS)
    absent = np.round(random.exponential(5, ROWS), 1).astype(np.float32)
    amount = np.exp(random.normal(12, 3, ROWS))
    town = np.array(TOWNS + (["Tuban", ""] if unseen else []))[random.integers(0, len(TOWNS) + 2 * unseen, ROWS)]
    kind = np.array(KINDS + (["d"] if unseen else []))[random.integers(0, len(KINDS) + unseen, ROWS)]
    score = (3 - gpa) + absent / 10 - credits / 150 + (town == "Batu") + (kind == "b") + random.normal(0, 0.5, ROWS)

    def holes(values, kind, share=0.06):
        """Some null, and for floats some NaN."""
        array = values.tolist()
        for at in np.flatnonzero(random.random(ROWS) < share):
            array[at] = None
        if pyarrow.types.is_floating(kind):
            for at in np.flatnonzero(random.random(ROWS) < share):
                array[at] = float("nan")
        return pyarrow.array(array, kind)

    return pyarrow.table({
        "id": pyarrow.array(range(ROWS), pyarrow.int64()),
        "gpa": holes(gpa, pyarrow.float64()),
        "credits": holes(credits, pyarrow.int32()),
        "absent": holes(absent, pyarrow.float32()),
        "amount": holes(amount, pyarrow.float64()),
        "town": holes(town, pyarrow.string()) if unseen else pyarrow.array(town),
        "kind": pyarrow.array(kind),
        "grade": pyarrow.array(random.integers(1, 5, ROWS), pyarrow.int64()),
        "level": pyarrow.array(random.integers(1, 4, ROWS) / 2.0),
        "active": pyarrow.array(random.random(ROWS) < 0.5),
        "full": pyarrow.array(np.round(random.normal(0, 1, ROWS), 1)),
        "skewed": pyarrow.array(random.normal(0, 1, ROWS)),
        "binary": pyarrow.array((score > 0.8).astype(float)),
        "outcome": pyarrow.array(np.array(["stays", "leaves", "returns"])[np.digitize(score, [0.3, 1.2])]),
        "several": pyarrow.array(np.digitize(score, [0.3, 1.2]).astype(float)),
        "value": pyarrow.array(score),
    })


def features(numbers=None, indexed=(), onehot=(), drop_last=True, imputed=True, strategy="mean", assemble="error"):
    """The stages that make `features`."""
    numbers = NUMBERS if numbers is None else list(numbers)
    stages, parts = [], []
    labels = list(indexed) + list(onehot)
    if labels:
        stages.append(StringIndexer(inputCols=labels, outputCols=[f"{c}_index" for c in labels], handleInvalid="keep"))
    if onehot:
        stages.append(OneHotEncoder(inputCols=[f"{c}_index" for c in onehot], outputCols=[f"{c}_hot" for c in onehot],
                                    dropLast=drop_last, handleInvalid="error"))
    parts += [f"{c}_index" for c in indexed] + [f"{c}_hot" for c in onehot]
    if imputed and numbers:
        stages.append(Imputer(inputCols=numbers, outputCols=[f"{c}_filled" for c in numbers], strategy=strategy))
        numbers = [f"{c}_filled" for c in numbers]
    stages.append(VectorAssembler(inputCols=parts + numbers, outputCol="features", handleInvalid=assemble))
    return stages


def origins(stages, found, features):
    """The input columns that `features` uses, in the order of the stages that read them; for every slot its column
    and its mean, as Spark's own stages tell it, else zero."""
    stages = [one for stage in stages for one in (stage.stages if isinstance(stage, PipelineModel) else [stage])]
    sources, readers = {}, []

    def pairs(stage):
        several = stage.hasParam("inputCols") and stage.isDefined("inputCols")
        inputs = stage.getInputCols() if several else [stage.getInputCol()]
        several = stage.hasParam("outputCols") and stage.isDefined("outputCols")
        return inputs, stage.getOutputCols() if several else [stage.getOutputCol()]

    needed, kept = {features}, []
    for stage in reversed(stages):
        inputs, outputs = pairs(stage)
        if len(outputs) == len(inputs):
            inputs = [i for i, o in zip(inputs, outputs) if o in needed]
        if needed & set(outputs):
            needed |= set(inputs)
            kept.insert(0, stage)
    first = found.limit(1).collect()[0]
    for stage in kept:
        inputs, outputs = pairs(stage)
        made = []
        for place, name in enumerate(inputs):
            if len(outputs) == len(inputs) and outputs[place] not in needed:
                continue
            if name not in sources:
                readers.append(name)
                sources[name] = [(name, 0.0)]
            slots = sources[name]
            kind = type(stage).__name__
            if kind == "OneHotEncoderModel":
                slots = [(slots[0][0], 0.0)] * len(first[outputs[place]].toArray())
            elif kind == "ImputerModel":
                mean = stage.surrogateDF.collect()[0][name] if stage.getStrategy() == "mean" else 0.0
                slots = [(slots[0][0], mean)]
            elif kind == "StandardScalerModel":
                mean = stage.mean.toArray()
                shifted = mean - mean if stage.getWithMean() else mean
                scale = np.where(stage.std.toArray() == 0, 0, 1 / stage.std.toArray()) if stage.getWithStd() else 1.0
                slots = [(slot[0], m) for slot, m in zip(slots, shifted * scale)]
            if kind == "VectorAssembler":
                made += slots
            else:
                sources[outputs[place]] = slots
        if type(stage).__name__ == "VectorAssembler":
            sources[outputs[0]] = made
    slots = sources[features]
    return readers, [readers.index(name) for name, _ in slots], np.array([mean for _, mean in slots])


def tree_explainer(folder, model):
    """shap's explainer of the trees in the folder, and the slots that hold categories. shap counts categories from 1."""
    table = pyarrow.parquet.read_table(sorted((folder / "stages").iterdir())[-1] / "data").to_pylist()
    rows = [(row.get("treeID", 0), row.get("nodeData", row)) for row in table]
    weights = model.treeWeights if "GBT" in type(model).__name__ else None
    classifier = "Classification" in type(model).__name__ and weights is None
    numbers = sorted({tree for tree, _ in rows})
    trees, kinds, categorical = [], [], set()
    for number in numbers:
        nodes = sorted((node for tree, node in rows if tree == number), key=lambda node: node["id"])
        stats = np.array([node["impurityStats"] for node in nodes])
        left, right = (np.array([node[side] for node in nodes]) for side in ("leftChild", "rightChild"))
        if classifier:
            values = stats / stats.sum(axis=1, keepdims=True)
        else:
            values = np.array([[node["prediction"]] for node in nodes])
        scale = weights[number] if weights is not None else 1 / len(numbers)
        thresholds, kind = np.zeros(len(nodes)), np.zeros(len(nodes), dtype=np.int32)
        for at, node in enumerate(nodes):
            split = node["split"]
            if node["leftChild"] < 0:
                continue
            if split["numCategories"] < 0:
                thresholds[at] = split["leftCategoriesOrThreshold"][0]
            else:
                assert split["numCategories"] < 20
                categorical.add(split["featureIndex"])
                thresholds[at], kind[at] = sum(2**int(c) for c in split["leftCategoriesOrThreshold"]), 1
        trees.append({
            "children_left": left, "children_right": right, "children_default": right, "thresholds": thresholds,
            "features": np.array([node["split"]["featureIndex"] for node in nodes]), "values": values * scale,
            "node_sample_weight": stats.sum(axis=1) if classifier else stats[:, 0],
        })
        kinds.append(kind)
    explainer = shap.TreeExplainer({"trees": trees, "input_dtype": np.float64, "internal_dtype": np.float64},
                                   feature_perturbation="tree_path_dependent")
    for number, kind in enumerate(kinds):
        explainer.model.threshold_types[number, : len(kind)] = kind
    return explainer, sorted(categorical)


class Writer:
    def __init__(self, folder, spark, names):
        self.folder, self.spark, self.wanted = Path(folder), spark, set(names)
        self.names, self.explained = [], 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self.temporary = self.folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        for name, seed, unseen in [("train", 1, False), ("score", 2, True)]:
            table = rows(seed, unseen)
            pyarrow.parquet.write_table(table, self.temporary / f"{name}.parquet")
        self.train = spark.read.parquet(str(self.temporary / "train.parquet")).cache()
        self.score = spark.read.parquet(str(self.temporary / "score.parquet")).cache()

    def write(self, name, stages, labels=("0", "1"), train=None, score=None, drop=("binary", "outcome", "several", "value")):
        if self.wanted and name not in self.wanted:
            return
        model = Pipeline(stages=stages).fit(self.train if train is None else train)
        model.write().overwrite().save(str(self.folder / name))
        # What is compared is what comes back from disk.
        model = PipelineModel.load(str(self.folder / name))
        score = self.score if score is None else score
        score = score.drop(*drop).orderBy("id").coalesce(1)
        found = model.transform(score)
        classifier = "probability" in found.columns
        wanted = ["id", "prediction"] + (["rawPrediction", "probability"] if classifier else [])
        out = sorted(found.select(*wanted).collect(), key=lambda row: row["id"])
        ids = {row["id"] for row in out}
        table = pyarrow.parquet.read_table(self.temporary / "score.parquet")
        table = table.select([c for c in table.column_names if c in score.columns])
        table = table.filter(pyarrow.array([i in ids for i in table["id"].to_pylist()]))
        add = {"prediction": [row["prediction"] for row in out]}
        if classifier:
            shares = np.array([row["probability"].toArray() for row in out])
            raw = np.array([row["rawPrediction"].toArray() for row in out])
            if shares.shape[1] == 2:
                add["margin"], add["probability"] = raw[:, 1], shares[:, 1]
            for index in range(shares.shape[1]):
                add[f"probability_{labels[index]}"] = shares[:, index]
        for key, values in add.items():
            table = table.append_column(f"expected_{key}", pyarrow.array(np.asarray(values, dtype=np.float64)))
        pyarrow.parquet.write_table(table, self.folder / f"{name}.rows.parquet")
        self.explain(name, model, found, list(table["id"].to_pylist()))
        self.names.append(name)

    def explain(self, name, model, found, ids):
        """Contributions of the input columns of a model whose slots say where they come from."""
        last = model.stages[-1]
        trees = "Tree" in type(last).__name__ or "Forest" in type(last).__name__ or "GBT" in type(last).__name__
        inputs, origin, means = origins(model.stages[:-1], found, last.getFeaturesCol())
        picked = chosen(len(ids))
        wanted = [ids[i] for i in picked]
        rows = {row["id"]: row[1] for row in found.select("id", last.getFeaturesCol()).collect()}
        vectors = np.array([rows[i].toArray() for i in wanted])
        if trees:
            explainer, categorical = tree_explainer(self.folder / name, last)
            vectors[:, categorical] += 1
            parts = np.asarray(explainer.shap_values(vectors, check_additivity=False))
            if parts.ndim == 2:
                parts = parts[:, :, None]
            parts = parts.transpose(0, 2, 1)
            bias = np.atleast_1d(explainer.expected_value)
            if parts.shape[1] == 2:
                parts, bias = parts[:, 1:], bias[1:]
        else:
            if hasattr(last, "coefficientMatrix"):
                sets, bias = last.coefficientMatrix.toArray(), last.interceptVector.toArray()
                if len(sets) == 2:
                    sets, bias = sets[1:], bias[1:]
            else:
                sets, bias = last.coefficients.toArray()[None, :], np.array([last.intercept])
            parts = sets[None, :, :] * (vectors - means)[:, None, :]
            bias = bias + sets @ means
        by_column = np.zeros((*parts.shape[:2], len(inputs) + 1))
        for slot, column in enumerate(origin):
            by_column[:, :, column] += parts[:, :, slot]
        by_column[:, :, -1] = bias
        write_contributions(self.folder / name, picked, by_column)
        self.explained += 1


def forests(writer):
    three = ("0", "1", "2")
    cat = features(indexed=["town", "kind"])
    hot = features(onehot=["town", "kind"])
    writer.write("forest_binary", cat + [RandomForestClassifier(labelCol="binary", numTrees=25, maxDepth=7, seed=7)])
    writer.write("forest_binary_hot", hot + [RandomForestClassifier(labelCol="binary", numTrees=10, maxDepth=5, seed=7)])
    writer.write("forest_classes", cat + [RandomForestClassifier(labelCol="several", numTrees=15, maxDepth=6, seed=7)], three)
    writer.write("forest_entropy", hot + [
        RandomForestClassifier(labelCol="binary", numTrees=8, impurity="entropy", seed=7).setThresholds([0.7, 0.3])])
    writer.write("forest_even", cat + [RandomForestClassifier(labelCol="binary", numTrees=2, maxDepth=2, seed=7)])
    writer.write("forest_value", cat + [RandomForestRegressor(labelCol="value", numTrees=20, maxDepth=6, seed=7)])
    writer.write("tree_binary", cat + [DecisionTreeClassifier(labelCol="binary", maxDepth=6)])
    writer.write("tree_classes", hot + [DecisionTreeClassifier(labelCol="several", maxDepth=8).setThresholds([0.5, 0.3, 0.2])], three)
    writer.write("tree_value", cat + [DecisionTreeRegressor(labelCol="value", maxDepth=9)])
    writer.write("tree_stump", cat + [DecisionTreeRegressor(labelCol="value", maxDepth=0)])
    writer.write("boosted_binary", cat + [GBTClassifier(labelCol="binary", maxIter=25, maxDepth=4, seed=7)])
    writer.write("boosted_threshold", hot + [GBTClassifier(labelCol="binary", maxIter=5, maxDepth=3, seed=7).setThresholds([0.2, 0.8])])
    writer.write("boosted_value", cat + [GBTRegressor(labelCol="value", maxIter=30, maxDepth=5, stepSize=0.2, seed=7)])
    # Null and NaN reach the trees. Spark trains on neither ("Vector values MUST NOT be NaN or Infinity").
    full = writer.train.dropna(subset=NUMBERS)
    nan = features(imputed=False, assemble="keep", indexed=["kind"])
    writer.write("forest_missing", nan + [RandomForestClassifier(labelCol="binary", numTrees=10, maxDepth=6, seed=7)], train=full)
    writer.write("boosted_missing", nan + [GBTRegressor(labelCol="value", maxIter=10, maxDepth=5, seed=7)], train=full)


def linear(writer):
    three = ("0", "1", "2")
    hot = features(onehot=["town", "kind"])
    wide = features(onehot=["town", "kind"], drop_last=False, strategy="median")
    scaled = [StandardScaler(inputCol="features", outputCol="scaled", withMean=True, withStd=True)]
    halved = [StandardScaler(inputCol="features", outputCol="scaled", withMean=False, withStd=True)]
    centred = [StandardScaler(inputCol="features", outputCol="scaled", withMean=True, withStd=False)]
    writer.write("logistic", hot + [LogisticRegression(labelCol="binary")])
    writer.write("logistic_scaled", wide + scaled + [LogisticRegression(labelCol="binary", featuresCol="scaled", regParam=0.01)])
    writer.write("logistic_sparse", wide + halved + [
        LogisticRegression(labelCol="binary", featuresCol="scaled", regParam=0.08, elasticNetParam=1.0)])
    writer.write("logistic_threshold", hot + [LogisticRegression(labelCol="binary", threshold=0.3)])
    writer.write("logistic_thresholds", hot + [LogisticRegression(labelCol="binary", thresholds=[0.6, 0.4])])
    writer.write("logistic_pair", hot + [LogisticRegression(labelCol="binary", family="multinomial")])
    writer.write("logistic_pair_threshold", hot + [LogisticRegression(labelCol="binary", family="multinomial", thresholds=[0.8, 0.2])])
    writer.write("logistic_classes", hot + scaled + [LogisticRegression(labelCol="several", featuresCol="scaled", maxIter=50)], three)
    writer.write("logistic_classes_sparse", hot + halved + [
        LogisticRegression(labelCol="several", featuresCol="scaled", regParam=0.08, elasticNetParam=1.0)], three)
    writer.write("logistic_no_intercept", hot + [LogisticRegression(labelCol="binary", fitIntercept=False)])
    writer.write("linear", hot + [LinearRegression(labelCol="value")])
    writer.write("linear_centred", hot + centred + [LinearRegression(labelCol="value", featuresCol="scaled", regParam=0.1)])
    writer.write("linear_sparse", wide + scaled + [
        LinearRegression(labelCol="value", featuresCol="scaled", regParam=0.2, elasticNetParam=1.0)])
    writer.write("linear_huber", hot + [LinearRegression(labelCol="value", loss="huber")])


def shapes(writer):
    """Layouts of pipelines rather than estimators."""
    tree = DecisionTreeClassifier(labelCol="outcome_index", maxDepth=5)
    label = StringIndexer(inputCol="outcome", outputCol="outcome_index", stringOrderType="alphabetAsc")
    # The label's indexer is part of the pipeline; rows to score have no label.
    writer.write("labelled", [label, *features(indexed=["town"]), tree], ("leaves", "returns", "stays"))
    nested = Pipeline(stages=features(indexed=["town", "kind"]))
    writer.write("nested", [nested, RandomForestRegressor(labelCol="value", numTrees=5, seed=7)])
    many = features(numbers=["gpa"], onehot=["town", "kind"])
    many += [VectorAssembler(inputCols=["gpa_filled", "town_hot"], outputCol="more"),
             StandardScaler(inputCol="more", outputCol="more_scaled", withMean=True),
             VectorAssembler(inputCols=["features", "more_scaled", "active", "grade"], outputCol="all")]
    writer.write("vectors_in_vectors", many + [LinearRegression(labelCol="value", featuresCol="all", regParam=0.01)])
    # Labels that are numbers, in columns of several types.
    kinds = ["grade", "level"]
    indexer = StringIndexer(inputCols=kinds, outputCols=[f"{c}_index" for c in kinds])
    assembler = VectorAssembler(inputCols=[f"{c}_index" for c in kinds] + ["full"], outputCol="features")
    writer.write("number_labels", [indexer, assembler, DecisionTreeRegressor(labelCol="value", maxDepth=6)])
    # The encoder meets an index that it was not fitted on.
    index = StringIndexer(inputCol="town", outputCol="town_index", handleInvalid="keep")
    for drop in (True, False):
        encoder = OneHotEncoder(inputCol="grade", outputCol="grade_hot", handleInvalid="keep", dropLast=drop)
        encoded = [index, encoder, VectorAssembler(inputCols=["town_index", "grade_hot"], outputCol="features")]
        few = writer.train.filter("grade < 4")
        writer.write(f"encoder_keeps_{str(drop).lower()}", encoded + [LinearRegression(labelCol="value")], train=few)
    # An imputer with a value that means missing, and the column's own type.
    imputer = Imputer(inputCols=["credits", "grade", "absent"], outputCols=["c", "g", "a"], missingValue=2.0, strategy="mode")
    assembler = VectorAssembler(inputCols=["c", "g", "a"], outputCol="features", handleInvalid="keep")
    # It does not fill NaN then, which trees are not trained on.
    few = writer.train.filter("not isnan(absent) or absent is null")
    writer.write("imputer_value", [imputer, assembler, DecisionTreeRegressor(labelCol="value", maxDepth=5)], train=few)
    # Rows that Spark would drop are not among the rows.
    index = StringIndexer(inputCol="town", outputCol="town_index", handleInvalid="skip")
    assembler = VectorAssembler(inputCols=["town_index", "gpa"], outputCol="features", handleInvalid="skip")
    writer.write("skips", [index, assembler, DecisionTreeRegressor(labelCol="value", maxDepth=5)])


def main():
    spark = (SparkSession.builder.master("local[2]").appName("make_spark_models")
             .config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "2")
             .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
             .config("spark.log.level", "ERROR").config("spark.driver.memory", "2g").getOrCreate())
    spark.sparkContext.setLogLevel("ERROR")
    writer = Writer(sys.argv[1], spark, sys.argv[2:])
    forests(writer)
    linear(writer)
    shapes(writer)
    shutil.rmtree(writer.temporary)
    unknown = writer.wanted - set(writer.names)
    assert not unknown, f"no such models: {unknown}"
    print(f"Spark {spark.version}: {len(writer.names)} models, {writer.explained} explained, up to {ROWS} rows each: {', '.join(writer.names)}")
    spark.stop()


if __name__ == "__main__":
    main()
