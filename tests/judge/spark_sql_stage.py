"""Trains a Spark ML pipeline with two SQLTransformers and writes what Spark makes of 10,000 rows.

    python spark_sql_stage.py FOLDER

writes the PipelineModel FOLDER/model and FOLDER/rows.parquet with the inputs and
`expected`. Needs Java 17, no network.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import SQLTransformer, StringIndexer, VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.sql import SparkSession

ROWS = 10_000
FIRST = """
SELECT *,
    coalesce(if(isnan(gpa), 1.5, gpa), 2.5) * credits AS points,
    coalesce(ln(amount), -3) AS logged,
    coalesce(credits / absent, 0) AS ratio,
    coalesce(credits % (grade - 3), 9) AS rest,
    CASE WHEN gpa >= 3.5 THEN 2 WHEN gpa BETWEEN 2 AND 3.5 THEN 1 WHEN isnan(gpa) THEN 5 ELSE 0 END AS band,
    CASE WHEN upper(town) IN ('BATU', 'MALANG') THEN 1 ELSE 0 END AS near,
    coalesce(lower(town), 'nowhere') AS place,
    if(absent > 3 AND NOT active, exp(-absent), sqrt(absent)) AS away,
    nvl(floor(absent) + ceil(absent), -1) AS whole,
    if(zero = 0.0, 1, -1) AS nothing,
    if(unknown > 1e300, 1, 2) + pow(abs(grade - 2), 3) AS above
FROM __THIS__
"""
SECOND = "SELECT *, points - logged AS `difference` FROM __THIS__"
MADE = ["points", "logged", "ratio", "rest", "band", "near", "away", "whole", "nothing", "above", "difference", "p"]


def rows(seed):
    random = np.random.default_rng(seed)

    def holes(values):
        return pyarrow.array([None if hole else v for v, hole in zip(values.tolist(), random.random(ROWS) < 0.07)])

    gpa = random.normal(3, 0.6, ROWS).round(1)
    gpa[random.random(ROWS) < 0.05] = np.nan
    unknown = random.normal(0, 1, ROWS)
    unknown[random.random(ROWS) < 0.1] = np.nan
    return pyarrow.table({
        "gpa": holes(gpa),
        "credits": pyarrow.array(random.integers(0, 150, ROWS), pyarrow.int32()),
        "amount": pyarrow.array(random.normal(2, 2, ROWS)),
        "absent": pyarrow.array(np.where(random.random(ROWS) < 0.2, 0.0, random.exponential(4, ROWS))),
        "grade": pyarrow.array(random.integers(1, 6, ROWS), pyarrow.int64()),
        "zero": pyarrow.array(random.choice([0.0, -0.0, 1.0], ROWS)),
        "unknown": pyarrow.array(unknown),
        "active": pyarrow.array(random.random(ROWS) < 0.5),
        "town": holes(random.choice(["Batu", "malang", "Blitar", ""], ROWS)),
        "value": pyarrow.array(random.normal(0, 1, ROWS)),
    })


def main():
    folder = Path(sys.argv[1])
    spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
             .config("spark.sql.shuffle.partitions", "1").config("spark.sql.ansi.enabled", "false")
             .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
             .config("spark.log.level", "ERROR").getOrCreate())
    pyarrow.parquet.write_table(rows(1), folder / "train.parquet")
    pyarrow.parquet.write_table(rows(2), folder / "score.parquet")
    read = lambda name: spark.read.parquet(str(folder / name)).coalesce(1)  # noqa: E731
    pipeline = Pipeline(stages=[
        SQLTransformer(statement=FIRST), SQLTransformer(statement=SECOND),
        StringIndexer(inputCol="place", outputCol="p", handleInvalid="keep"),
        VectorAssembler(inputCols=MADE, outputCol="features"),
        LinearRegression(labelCol="value", maxIter=3, regParam=0.01, solver="l-bfgs")])
    pipeline.fit(read("train.parquet")).write().overwrite().save(str(folder / "model"))
    found = PipelineModel.load(str(folder / "model")).transform(read("score.parquet"))
    expected = [row.prediction for row in found.select("prediction").collect()]
    table = rows(2).drop_columns(["value"]).append_column("expected", pyarrow.array(expected))
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    spark.stop()


if __name__ == "__main__":
    main()
