"""The Spark of the benchmark: one local session, the jars from Maven Central."""

import os
import subprocess
from pathlib import Path

JARS = {
    "iceberg-spark-runtime-3.5_2.12": "org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.10.2",
    "sqlite-jdbc": "org.xerial:sqlite-jdbc:3.50.3.0",
}
# Spark's Kafka source, and what it needs.
KAFKA_JARS = {
    "spark-sql-kafka-0-10_2.12": "org.apache.spark:spark-sql-kafka-0-10_2.12:3.5.7",
    "spark-token-provider-kafka-0-10_2.12": "org.apache.spark:spark-token-provider-kafka-0-10_2.12:3.5.7",
    "kafka-clients": "org.apache.kafka:kafka-clients:3.4.1",
    "commons-pool2": "org.apache.commons:commons-pool2:2.11.1",
}


def jars(folder, artifacts):
    """The paths of the jars, fetched by Maven where they are missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, artifact in artifacts.items():
        path = folder / f"{name}-{artifact.rsplit(':', 1)[1]}.jar"
        if not path.exists():
            command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(str(path))
    return found


def default_jar_folder():
    return Path(os.environ.get("INSIGHTERA_JARS") or Path(__file__).resolve().parent.parent / ".cache" / "jars")


def session(name, scratch, hadoop_warehouse=None, project=None, driver_memory="8g", settings=None, kafka=False):
    """A local[2] session.

    `hadoop_warehouse` makes `spark_catalog` an Iceberg catalog in that folder
    (the original design's set-up); `project` opens the SQLite catalog of an
    Insightera project as the catalog `insightera`; `kafka` adds the Kafka source.
    """
    from pyspark.sql import SparkSession

    builder = (
        SparkSession.builder.appName(name).master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.memory", driver_memory)
        .config("spark.local.dir", f"{scratch}/spark")
        .config("spark.sql.warehouse.dir", f"{scratch}/spark-warehouse")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.jars", ",".join(jars(default_jar_folder(), JARS | (KAFKA_JARS if kafka else {}))))
        .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
    )
    options = dict(settings or {})
    if hadoop_warehouse:
        options["spark.sql.catalog.spark_catalog"] = "org.apache.iceberg.spark.SparkSessionCatalog"
        options["spark.sql.catalog.spark_catalog.type"] = "hadoop"
        options["spark.sql.catalog.spark_catalog.warehouse"] = str(hadoop_warehouse)
    if project:
        catalog = "spark.sql.catalog.insightera"
        options[catalog] = "org.apache.iceberg.spark.SparkCatalog"
        options[f"{catalog}.catalog-impl"] = "org.apache.iceberg.jdbc.JdbcCatalog"
        options[f"{catalog}.uri"] = f"jdbc:sqlite:{project}/warehouse/catalog.db"
        options[f"{catalog}.warehouse"] = f"file://{project}/warehouse"
        options[f"{catalog}.jdbc.schema-version"] = "V1"
        options[f"{catalog}.cache-enabled"] = "false"
    for key, value in options.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark
