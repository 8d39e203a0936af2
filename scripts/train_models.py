#!/usr/bin/env python3
"""Trains the models of the demo university.

    insightera demo --export-training DIR
    python scripts/train_models.py DIR crates/insightera/assets/university

DIR holds dropout.parquet, budget.parquet and publication.parquet. The second
argument gets models/NAME/vN/ (the artifacts), models/models.json (what they
are, for machines), models/MODELS.md (the same for people) and expected/*.parquet
(holdout rows with the scores that Spark and XGBoost themselves give).

The artifact is the model that was measured: it is fitted on the training part
only and not refitted on everything afterwards. Seeds and row order are fixed,
so a second run gives the same scores; Spark writes new ids and times into its
files, so their names differ.
"""

import json
import pathlib
import platform
import shutil
import sys
import tempfile
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyspark
import sklearn
import xgboost
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

SEED = 42
EXPECTED_ROWS = 200
BUDGET_TEST_MONTHS = 12
PUBLICATION_TEST_YEAR = 2025

CATEGORICAL = ["scholarship_type", "entry_path"]
BUDGET_FEATURES = ["jenis_unit_kode", "month_of_year", "utilization_rate", "trend_3m", "rasio_1m_3m",
                   "rasio_6m_3m", "rasio_12m_3m", "rasio_sisa_3m"]
NOT_FEATURES = {"nim", "unit_kerja_sk", "peneliti_sk", "feature_timestamp", "dropout", "label", "label_3m",
                "label_6m"}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    data, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for folder in ("models", "expected"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    entries = [
        *train_dropout(data, out),
        train_budget(data, out, 3),
        train_budget(data, out, 6),
        train_publication(data, out),
    ]
    for entry in entries:
        entry["bytes"] = sum(f.stat().st_size for f in (out / "models" / entry["path"]).rglob("*") if f.is_file())
    text = json.dumps({"models": entries, "libraries": versions()}, indent=2)
    (out / "models" / "models.json").write_text(text + "\n")
    (out / "models" / "MODELS.md").write_text(describe(entries))
    print((out / "models" / "MODELS.md").read_text())


# ---------------------------------------------------------------- dropout

def train_dropout(data, out):
    """Version 1 in Spark, version 2 in XGBoost, on the same rows."""
    table = pq.read_table(data / "dropout.parquet")
    # By the student number rather than by position: a student stays on the
    # same side when the university grows.
    test = np.array([zlib.crc32(nim.encode()) % 5 == 0 for nim in table["nim"].to_pylist()])
    parts = table.filter(pa.array(~test)), table.filter(pa.array(test))
    holdout = "random by student: crc32(nim) % 5 = 0 is the holdout"
    return [dropout_forest(*parts, out, holdout), dropout_boosted(*parts, out, holdout)]


def dropout_forest(train, test, out, holdout):
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import RandomForestClassifier
    from pyspark.ml.feature import Imputer, OneHotEncoder, StringIndexer, VectorAssembler
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import SparkSession

    spark = (SparkSession.builder.master("local[2]").appName("train").config("spark.ui.enabled", "false")
             .config("spark.sql.session.timeZone", "UTC").config("spark.driver.memory", "2g")
             .config("spark.driver.host", "127.0.0.1").getOrCreate())
    spark.sparkContext.setLogLevel("ERROR")
    numeric = [c for c in train.column_names if c not in NOT_FEATURES and c not in CATEGORICAL]
    params = {"numTrees": 80, "maxDepth": 7, "minInstancesPerNode": 20, "seed": SEED}
    names = lambda columns, suffix: [column + suffix for column in columns]
    stages = [
        StringIndexer(inputCols=CATEGORICAL, outputCols=names(CATEGORICAL, "_index"), handleInvalid="keep"),
        OneHotEncoder(inputCols=names(CATEGORICAL, "_index"), outputCols=names(CATEGORICAL, "_onehot"),
                      handleInvalid="keep"),
        Imputer(inputCols=numeric, outputCols=names(numeric, "_filled"), strategy="median"),
        VectorAssembler(inputCols=names(numeric, "_filled") + names(CATEGORICAL, "_onehot"),
                        outputCol="features"),
        RandomForestClassifier(labelCol="dropout", featuresCol="features", **params),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        pq.write_table(train, f"{scratch}/train.parquet")
        pq.write_table(test, f"{scratch}/test.parquet")
        # Bagging draws by partition and position, so both are fixed.
        rows = spark.read.parquet(f"{scratch}/train.parquet").repartition(4, "nim").sortWithinPartitions("nim")
        model = Pipeline(stages=stages).fit(rows.cache())
        path = out / "models" / "student_dropout_risk_model" / "v1"
        model.write().overwrite().save(str(path.resolve()))
        scored = (model.transform(spark.read.parquet(f"{scratch}/test.parquet"))
                  .select("nim", "prediction", vector_to_array("probability").alias("p")).collect())
    nodes = model.stages[-1].totalNumNodes
    spark.stop()
    drop_checksums(path)
    by_nim = {row.nim: (row.prediction, row.p[1]) for row in scored}
    values = np.array([by_nim[nim] for nim in test["nim"].to_pylist()])
    expected(out, "student_dropout_risk_model_v1", test, prediction=values[:, 0], probability=values[:, 1])
    return entry("student_dropout_risk_model", 1, "sparkml", f"Spark ML {pyspark.__version__}: random forest",
                 {**params, "nodes": nodes}, holdout, len(train), len(test),
                 classification(labels(train), labels(test), values[:, 1]))


def drop_checksums(path):
    for file in path.rglob(".*.crc"):
        file.unlink()


def dropout_boosted(train, test, out, holdout):
    # The categories stay out: numbers only, missing ones as they are.
    features = [c for c in train.column_names if c not in NOT_FEATURES and c not in CATEGORICAL]
    params = {"objective": "binary:logistic", "n_estimators": 220, "max_depth": 4, "learning_rate": 0.06,
              "subsample": 0.8, "colsample_bytree": 0.8, "min_child_weight": 10}
    model = boost(params, matrix(train, features), labels(train))
    probability = model.predict(xgboost.DMatrix(matrix(test, features))).astype(float)
    save(model, out, "student_dropout_risk_model", 2)
    expected(out, "student_dropout_risk_model_v2", test, probability=probability)
    return entry("student_dropout_risk_model", 2, "xgboost", xgboost_name(), params, holdout, len(train),
                 len(test), classification(labels(train), labels(test), probability))


def labels(table):
    return table["dropout"].to_numpy()


def classification(train, test, probability):
    base = np.full(len(test), train.mean())
    return {
        "auc": roc_auc_score(test, probability),
        "log_loss": log_loss(test, probability),
        "log_loss_base_rate": log_loss(test, base),
        "brier": brier_score_loss(test, probability),
        "base_rate": float(test.mean()),
        "share_medium": float(((probability >= 0.3) & (probability < 0.6)).mean()),
        "share_high": float((probability >= 0.6).mean()),
        "precision_above_0.3": float(test[probability >= 0.3].mean()),
        "recall_above_0.3": float(test[probability >= 0.3].sum() / test.sum()),
    }


# ----------------------------------------------------------------- budget

def train_budget(data, out, horizon):
    """Spending of the next months as a multiple of the last quarter's month."""
    table = pq.read_table(data / "budget.parquet")
    label = f"label_{horizon}m"
    table = table.filter(pc.is_valid(table[label]))
    months = closed_month(table)
    first_test = months.max() - BUDGET_TEST_MONTHS + 1
    # What followed a training month has to be over before the holdout begins.
    train = table.filter(pa.array(months + horizon <= first_test))
    test = table.filter(pa.array(months >= first_test))
    params = {"objective": "reg:squarederror", "n_estimators": 160, "max_depth": 4, "learning_rate": 0.06,
              "subsample": 0.8, "colsample_bytree": 0.8, "min_child_weight": 20}
    model = boost(params, matrix(train, BUDGET_FEATURES), multiple(train, label))
    ratio = model.predict(xgboost.DMatrix(matrix(test, BUDGET_FEATURES))).astype(float)
    name = f"budget_forecast_model_{horizon}m"
    save(model, out, name, 1)
    expected(out, f"{name}_v1", test, prediction=ratio)
    holdout = (f"by time: the last {BUDGET_TEST_MONTHS} monthly closes with a known outcome; "
               f"training ends {horizon} months before")
    return entry(name, 1, "xgboost", xgboost_name(), params, holdout, len(train), len(test),
                 budget_quality(train, test, label, horizon, ratio))


def closed_month(table):
    """The counted month before the timestamp, which is at the start of the next one."""
    times = pd.DatetimeIndex(table["feature_timestamp"].to_pandas())
    return (times.year * 12 + times.month - 2).to_numpy()


def scale(table):
    return table["realisasi_3m_avg"].to_numpy()


def multiple(table, label):
    return table[label].to_numpy() / scale(table)


def budget_quality(train, test, label, horizon, ratio):
    actual, forecast = test[label].to_numpy(), ratio * scale(test)
    seasonal = pd.Series(multiple(train, label)).groupby(train["month_of_year"].to_numpy()).mean()
    season = seasonal.loc[test["month_of_year"].to_numpy()].to_numpy() * scale(test)
    error = lambda guess: float(np.sqrt(np.mean((guess - actual) ** 2)))
    share = lambda guess: float(np.abs(guess - actual).sum() / actual.sum())
    naive = horizon * scale(test)
    return {
        "rmse_idr": error(forecast),
        "rmse_idr_naive": error(naive),
        "rmse_idr_by_month": error(season),
        "wape": share(forecast),
        "wape_naive": share(naive),
        "wape_by_month": share(season),
        "coverage_of_10_percent": float((np.abs(forecast - actual) <= 0.1 * np.abs(forecast)).mean()),
    }


# ------------------------------------------------------------ publication

def train_publication(data, out):
    table = pq.read_table(data / "publication.parquet")
    years = pd.DatetimeIndex(table["feature_timestamp"].to_pandas()).year.to_numpy()
    train = table.filter(pa.array(years < PUBLICATION_TEST_YEAR))
    test = table.filter(pa.array(years == PUBLICATION_TEST_YEAR))
    features = [c for c in table.column_names if c not in NOT_FEATURES]
    params = {"objective": "count:poisson", "n_estimators": 150, "max_depth": 4, "learning_rate": 0.07,
              "subsample": 0.8, "colsample_bytree": 0.8, "min_child_weight": 20}
    model = boost(params, matrix(train, features), train["label"].to_numpy())
    mean = model.predict(xgboost.DMatrix(matrix(test, features))).astype(float)
    save(model, out, "publication_forecast_model", 1)
    expected(out, "publication_forecast_model_v1", test, prediction=mean)
    actual = test["label"].to_numpy()
    error = lambda guess: float(np.sqrt(np.mean((guess - actual) ** 2)))
    recent = sum(test[c].to_numpy() for c in ("pub_y1", "pub_y2", "pub_y3")) / 3
    lower = np.maximum(np.floor(mean - 1.645 * np.sqrt(mean)), 0)
    upper = np.ceil(mean + 1.645 * np.sqrt(mean))
    quality = {
        "rmse": error(mean),
        "rmse_naive_last_year": error(test["pub_y1"].to_numpy()),
        "rmse_naive_three_years": error(recent),
        "mean_actual": float(actual.mean()),
        "mean_predicted": float(mean.mean()),
        "coverage_of_interval": float(((actual >= lower) & (actual <= upper)).mean()),
    }
    holdout = f"by time: as of {PUBLICATION_TEST_YEAR}; training are the years before, each with its outcome"
    return entry("publication_forecast_model", 1, "xgboost", xgboost_name(), params, holdout, len(train),
                 len(test), quality)


# ----------------------------------------------------------------- shared

def matrix(table, features):
    return table.select(features).to_pandas().astype(float)


def boost(params, features, target):
    """One thread: sums of floats then have one order."""
    params = dict(params)
    rounds = params.pop("n_estimators")
    params |= {"tree_method": "hist", "nthread": 1, "seed": SEED}
    return xgboost.train(params, xgboost.DMatrix(features, label=target), num_boost_round=rounds)


def save(model, out, name, version):
    folder = out / "models" / name / f"v{version}"
    folder.mkdir(parents=True)
    model.save_model(folder / "model.ubj")


def expected(out, name, table, **scores):
    """The first rows of the holdout by key, with what the library says."""
    order = np.argsort(table.column(0).to_numpy(zero_copy_only=False), kind="stable")
    rows = pa.array(order[:: max(1, len(order) // EXPECTED_ROWS)][:EXPECTED_ROWS])
    rows_table = table.take(rows)
    for column, values in scores.items():
        rows_table = rows_table.append_column(f"expected_{column}", pa.array(values).take(rows))
    pq.write_table(rows_table, out / "expected" / f"{name}.parquet", compression="snappy")


def entry(name, version, flavor, library, params, holdout, train_rows, test_rows, metrics):
    print(f"{name} v{version}", json.dumps(metrics), file=sys.stderr)
    return {
        "name": name,
        "version": version,
        "path": f"{name}/v{version}",
        "flavor": flavor,
        "library": library,
        "params": params | {"seed": SEED},
        "holdout": holdout,
        "train_rows": train_rows,
        "test_rows": test_rows,
        "metrics": {key: float(f"{value:.6g}") for key, value in metrics.items()},
    }


def xgboost_name():
    return f"XGBoost {xgboost.__version__}: boosted trees"


def versions():
    return {"python": platform.python_version(), "pyspark": pyspark.__version__, "xgboost": xgboost.__version__,
            "scikit-learn": sklearn.__version__, "pyarrow": pa.__version__, "numpy": np.__version__}


def describe(entries):
    lines = [
        "# Models of the demo university",
        "",
        "Written by `scripts/train_models.py`; `models.json` has the same for machines.",
        "",
        "```",
        "insightera demo --export-training DIR",
        "python scripts/train_models.py DIR crates/insightera/assets/university",
        "```",
        "",
        "The data is synthetic: the figures say that the models learned what the generator put in, not how",
        "well one could forecast a real university. Measured is the artifact itself, on rows it was not",
        "fitted on. The dropout models are fitted on four fifths of the students that the demo scores.",
        "",
        "Libraries: " + ", ".join(f"{name} {version}" for name, version in versions().items()) + ".",
        "",
    ]
    for item in entries:
        params = ", ".join(f"{key} {value}" for key, value in item["params"].items())
        lines += [
            f"## {item['name']} v{item['version']}",
            "",
            f"- {item['library']}, {item['bytes'] / 1024:.0f} KiB in `{item['path']}/`",
            f"- {params}",
            f"- {item['train_rows']:,} rows to fit, {item['test_rows']:,} held out; {item['holdout']}",
            "",
            "| measure | value |",
            "|---|---|",
            *[f"| {label_of(key)} | {show(key, value)} |" for key, value in item["metrics"].items()],
            "",
        ]
    return "\n".join(lines)


MEASURES = {
    "auc": "area under the ROC curve",
    "log_loss": "log loss",
    "log_loss_base_rate": "log loss when always saying the base rate",
    "brier": "Brier score",
    "base_rate": "share of students who left",
    "share_medium": "share scored Medium (0.3 to 0.6)",
    "share_high": "share scored High (0.6 and more)",
    "precision_above_0.3": "share who left among those scored 0.3 and more",
    "recall_above_0.3": "share of those who left that scored 0.3 and more",
    "rmse_idr": "RMSE, million rupiah",
    "rmse_idr_naive": "RMSE when the last quarter's average month repeats, million rupiah",
    "rmse_idr_by_month": "RMSE of the mean multiple per month of the year, million rupiah",
    "wape": "absolute error as a share of the total",
    "wape_naive": "the same when the last quarter's average month repeats",
    "wape_by_month": "the same for the mean multiple per month of the year",
    "coverage_of_10_percent": "outcomes within the bounds of 10%",
    "rmse": "RMSE, publications",
    "rmse_naive_last_year": "RMSE when last year repeats",
    "rmse_naive_three_years": "RMSE of the mean of three years",
    "mean_actual": "mean, actual",
    "mean_predicted": "mean, predicted",
    "coverage_of_interval": "outcomes within the interval of the pipeline (nominal 90%, whole numbers)",
}


def label_of(key):
    return MEASURES[key]


def show(key, value):
    return f"{value / 1e6:,.0f}" if "idr" in key else f"{value:.4f}"


if __name__ == "__main__":
    main()
