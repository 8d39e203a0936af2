"""Trains the model of the benchmark in Spark ML: a random forest of 100 trees of depth 8.

    python bench/train_spark.py STUDENTS MODEL SCRATCH

The forest sees 17 numbers and two one-hot encoded words, imputed and scaled: the
pipeline that the original design describes. 80% of the students train it, the
area under the ROC curve of the others is printed.
"""

import json
import sys
import time

from spark_session import session

NUMBERS = ["ipk", "ips_last", "ip_trend", "semester", "sks_lulus", "failed_courses", "repeat_courses", "sks_load",
           "arrears_idr", "event_count_7d", "attendance_rate_7d", "attendance_rate", "attendance_rate_30d",
           "late_count", "absent_count", "lms_hours_week", "days_since_last_login"]
WORDS = ["scholarship_type", "entry_path"]


def train(students, model, scratch):
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import RandomForestClassifier
    from pyspark.ml.evaluation import BinaryClassificationEvaluator
    from pyspark.ml.feature import Imputer, OneHotEncoder, StandardScaler, StringIndexer, VectorAssembler

    spark = session("train", scratch)
    rows = (
        spark.read.parquet(f"{students}/base/academic")
        .join(spark.read.parquet(f"{students}/base/attendance").drop("feature_timestamp"), "nim")
        .join(spark.read.parquet(f"{students}/labels"), "nim")
    )
    training, test = rows.randomSplit([0.8, 0.2], seed=42)
    training = training.cache()
    stages = [
        StringIndexer(inputCols=WORDS, outputCols=[f"{w}_index" for w in WORDS], handleInvalid="keep"),
        OneHotEncoder(inputCols=[f"{w}_index" for w in WORDS], outputCols=[f"{w}_one_hot" for w in WORDS]),
        Imputer(inputCols=NUMBERS, outputCols=[f"{n}_imputed" for n in NUMBERS], strategy="median"),
        VectorAssembler(inputCols=[f"{n}_imputed" for n in NUMBERS] + [f"{w}_one_hot" for w in WORDS],
                        outputCol="assembled"),
        StandardScaler(inputCol="assembled", outputCol="features", withMean=True, withStd=True),
        RandomForestClassifier(labelCol="dropout", numTrees=100, maxDepth=8, seed=42),
    ]
    started = time.time()
    fitted = Pipeline(stages=stages).fit(training)
    seconds = time.time() - started
    fitted.write().overwrite().save(model)
    forest = fitted.stages[-1]
    return {
        "trees": forest.getNumTrees, "nodes": forest.totalNumNodes, "inputs": forest.numFeatures,
        "seconds": round(seconds, 1),
        "roc_auc": round(BinaryClassificationEvaluator(labelCol="dropout").evaluate(fitted.transform(test)), 4),
    }


if __name__ == "__main__":
    print(json.dumps(train(*sys.argv[1:4])))
