"""The peer: the streaming jobs of the original design, on Spark Structured Streaming and Iceberg.

    python bench/stream_job.py dropout|anomaly PROJECT EVENTS MODEL SCRATCH
    python bench/stream_job.py train STUDENTS.parquet SHIPPED MODEL SCRATCH

Reads all of EVENTS as a stream, a part of it a batch, and ends when it is
read. EVENTS is a folder of files, or `kafka:ADDRESS/TOPIC`. `dropout`: windows
of seven days that slide by a day, joined with the features of the students,
scored by the pipeline model, appended to Iceberg; in update mode, since in
append mode no window of the last six days gives a row. `anomaly`: every payment
against the statistics of its unit. The features are read from the project's own
Iceberg tables. Prints how long the query ran, from its start to its last
commit, without the start of the session, and how many trees its model has.

With `kafka:ADDRESS/TOPIC/OUTPUT` it goes on until it is stopped: each batch as
soon as the one before is done, from the newest events on, its predictions to
the topic OUTPUT before the append to Iceberg. A message's header says which
event it answers; of several of one student in a batch, that is the last. Prints
`ready` when it waits for events, and then the number of trees.

`train` makes the model: the stages of the shipped one, fitted once more, with a
forest of 100 trees where that has fewer.
"""

import json
import sys
import time

from pyspark.ml import PipelineModel
from pyspark.ml.functions import vector_to_array
from pyspark.sql import functions as f
from spark_session import session

EVENT = "nim string, event_type string, event_data string, timestamp string"
PAYMENT = "transaksi_id string, unit_kerja_sk string, jumlah_transaksi double, timestamp long"
# Events of a batch, about as many as of four files.
BATCH = 25_000
TREES = 100


def train(students, shipped, model, scratch):
    """Every stage is fitted with the settings that it has in the shipped model, but for the number of trees."""
    from pyspark.ml import Pipeline, Transformer, classification, feature

    spark = session("train", scratch)
    stages = []
    for stage in PipelineModel.load(shipped).stages:
        name = type(stage).__name__.replace("ClassificationModel", "Classifier").removesuffix("Model")
        again = getattr(classification, name, None) or getattr(feature, name)
        if not issubclass(again, Transformer):
            stage = again(**{param.name: value for param, value in stage.extractParamMap().items() if stage.isSet(param)})
        if stage.hasParam("numTrees"):
            stage.setNumTrees(TREES)
        stages.append(stage)
    # Bagging draws by partition and position, so both are fixed.
    rows = spark.read.parquet(students).repartition(4, "nim").sortWithinPartitions("nim").cache()
    fitted = Pipeline(stages=stages).fit(rows)
    fitted.write().overwrite().save(model)
    print(json.dumps({"trees": fitted.stages[-1].getNumTrees}))


def dropout(spark, lines, loaded, answer):
    events = lines.select(f.from_json("value", EVENT).alias("e"), "place").select("e.*", "place").filter(
        "event_type IN ('attendance', 'grade_update', 'enrollment_change')")
    events = events.withColumn("timestamp", f.to_timestamp("timestamp")).withColumn(
        "attended", f.get_json_object("event_data", "$.attendance_flag").cast("double"))
    windows = (
        events.withWatermark("timestamp", "1 day")
        .groupBy("nim", f.window("timestamp", "7 days", "1 day"))
        .agg(f.count("*").alias("event_count_7d"), f.avg("attended").alias("attendance_rate_7d"),
             *([f.max_by("place", "timestamp").alias("place"), f.max("timestamp").alias("last")] if answer else []))
    )
    academic = spark.table("insightera.student_features.academic_performance_features").drop("feature_timestamp")
    attendance = spark.table("insightera.student_features.attendance_features").drop(
        "feature_timestamp", "event_count_7d", "attendance_rate_7d")
    known = academic.join(attendance, "nim").cache()
    known.count()

    def score(batch, _):
        if answer:
            # Read twice, and `persist` does not find the column `window` again.
            batch = batch.localCheckpoint()
        scored = loaded.transform(batch.join(known, "nim")).select(
            "nim", f.col("window.start").alias("window_start"), f.col("window.end").alias("window_end"),
            "event_count_7d", "attendance_rate_7d", vector_to_array("probability")[1].alias("dropout_probability"),
            f.current_timestamp().alias("prediction_timestamp"), *(["place", "last"] if answer else []))
        if answer:
            # Of its seven windows, the one that has begun last.
            answer(scored.filter("window_start = date_trunc('day', last)"))
            scored = scored.drop("place", "last")
        scored.writeTo("spark_catalog.ml_predictions.live").append()

    spark.sql("CREATE TABLE ml_predictions.live (nim string, window_start timestamp, window_end timestamp, "
              "event_count_7d bigint, attendance_rate_7d double, dropout_probability double, "
              "prediction_timestamp timestamp) USING iceberg")
    return windows.writeStream.outputMode("update").foreachBatch(score)


def anomaly(spark, lines, _, answer):
    payments = lines.select(f.from_json("value", PAYMENT).alias("e"), "place").select("e.*", "place")
    known = f.broadcast(spark.table("insightera.gold_keuangan.transaction_statistics"))
    z_score = f.abs(f.col("jumlah_transaksi") - f.col("avg_amount")) / f.col("stddev_amount")
    judged = payments.join(known, "unit_kerja_sk", "left").select(
        "transaksi_id", "unit_kerja_sk", "jumlah_transaksi", z_score.alias("z_score"),
        (z_score > 3).alias("is_anomaly"), f.current_timestamp().alias("detection_timestamp"), "place")

    def write(batch, _):
        batch = batch.persist()
        if answer:
            answer(batch)
        rows = batch.drop("place")
        rows.writeTo("spark_catalog.ml_predictions.detections").append()
        rows.filter("is_anomaly").writeTo("spark_catalog.ml_predictions.alerts").append()
        batch.unpersist()

    for table in ("detections", "alerts"):
        spark.sql(f"CREATE TABLE ml_predictions.{table} (transaksi_id string, unit_kerja_sk string, "
                  "jumlah_transaksi double, z_score double, is_anomaly boolean, detection_timestamp timestamp) "
                  "USING iceberg")
    return judged.writeStream.outputMode("append").foreachBatch(write)


def answers(address, topic):
    """What sends predictions, each with the place of its event in a header."""
    def send(rows):
        names = [name for name in rows.columns if name not in ("place", "last")]
        header = f.struct(f.lit("insightera-id").alias("key"), f.col("place").cast("binary").alias("value"))
        rows.select(f.to_json(f.struct(*names)).alias("value"), f.array(header).alias("headers")).write.format(
            "kafka").option("kafka.bootstrap.servers", address).option("topic", topic).option("includeHeaders", "true").save()
    return send


def main():
    if sys.argv[1] == "train":
        return train(*sys.argv[2:])
    kind, project, events, model, scratch = sys.argv[1:]
    kafka = events.startswith("kafka:")
    spark = session("stream", scratch, hadoop_warehouse=f"{scratch}/warehouse", project=project, kafka=kafka)
    spark.sql("CREATE DATABASE IF NOT EXISTS ml_predictions")
    answer = None
    if kafka:
        address, topic, *output = events.removeprefix("kafka:").split("/")
        answer = answers(address, output[0]) if output else None
        limits = {"startingOffsets": "latest"} if answer else {"startingOffsets": "earliest", "maxOffsetsPerTrigger": str(BATCH)}
        lines = (
            spark.readStream.format("kafka").option("kafka.bootstrap.servers", address).option("subscribe", topic)
            .options(**limits).load()
            .select(f.col("value").cast("string"), f.concat_ws("/", f.lit(""), "partition", "offset").alias("place"))
        )
    else:
        lines = spark.readStream.option("maxFilesPerTrigger", "4").text(events).withColumn("place", f.lit(None).cast("string"))
    loaded = PipelineModel.load(model) if kind == "dropout" else None
    trees = loaded.stages[-1].getNumTrees if loaded else None
    query = {"dropout": dropout, "anomaly": anomaly}[kind](spark, lines, loaded, answer)
    query = query.option("checkpointLocation", f"{scratch}/checkpoint")
    started = time.monotonic()
    if answer:
        running = query.start()
        while running.isActive and not running.status["message"].startswith("Waiting for"):
            time.sleep(0.1)
        print("ready", trees, flush=True)
        running.awaitTermination()
        return
    running = query.trigger(availableNow=True).start()
    running.awaitTermination()
    seconds = time.monotonic() - started
    read = sum(progress["numInputRows"] for progress in running.recentProgress)
    print(json.dumps({"events": read, "seconds": seconds, "batches": len(running.recentProgress), "trees": trees}))


if __name__ == "__main__":
    main()
