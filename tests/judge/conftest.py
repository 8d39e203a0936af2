"""Fixtures of the judge: the binary, projects, a model, Spark. `lakehouse.py` has the words."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT / "bench")]

import lakehouse  # noqa: E402


@pytest.fixture(scope="session")
def binary():
    path = os.environ.get("INSIGHTERA_BIN") or ROOT / "target" / "release" / "insightera"
    if not Path(path).exists():
        pytest.exit(f"there is no insightera at `{path}`: run `./test`, or set INSIGHTERA_BIN", returncode=4)
    return path


def missing(what, why):
    """A test that cannot run is skipped by name and reason; in CI it has failed."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}: {why}")
    pytest.skip(f"{what}: {why}")


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """Other people's servers by name, each started when it is first asked for."""
    running = {}

    def start(name, make):
        if name not in running:
            running[name] = make(tmp_path_factory.mktemp(name))
        return running[name]

    yield start
    for server in running.values():
        server.stop()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A boosted forest over `x` and `y`, and its file."""
    import xgboost

    random = np.random.default_rng(7)
    x = random.normal(0, 2, (4000, 2)).astype(np.float32)
    x[random.random(x.shape) < 0.05] = np.nan
    label = (np.nan_to_num(x[:, 0]) - np.nan_to_num(x[:, 1]) ** 2 + random.normal(0, 1, 4000) > -1).astype(int)
    data = xgboost.DMatrix(x, label=label, feature_names=["x", "y"])
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 4, "seed": 7}, data, num_boost_round=30)
    path = tmp_path_factory.mktemp("model") / "risk.json"
    booster.save_model(path)
    return path


@pytest.fixture
def empty_project(tmp_path, binary):
    """A folder with settings and nothing else."""
    return lakehouse.Project(tmp_path / "project", binary).create()


@pytest.fixture
def project(empty_project, small_model):
    """One pipeline over 200 students in one Iceberg table, a model in production, no run yet."""
    empty_project.make_table(lakehouse.FEATURES, lakehouse.rows(range(100)), lakehouse.rows(range(100, 200)))
    empty_project.pipeline()
    empty_project.register(small_model)
    return empty_project


@pytest.fixture(scope="session")
def spark_driver(tmp_path_factory):
    """The JVM; a project's catalog is opened by `open_in_spark`."""
    try:
        from spark_session import session

        driver = session("judge", tmp_path_factory.mktemp("spark"), driver_memory="2g")
    except Exception as error:  # no Java, no Maven, no jar: whatever keeps Spark away
        missing("Spark", str(error).splitlines()[0])
    yield driver
    driver.stop()


@pytest.fixture
def open_in_spark(spark_driver):
    """A function: project -> a Spark session with its catalog as `insightera`."""

    def open_catalog(project):
        spark = spark_driver.newSession()
        prefix = "spark.sql.catalog.insightera"
        for key, value in {
            "": "org.apache.iceberg.spark.SparkCatalog",
            ".catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
            ".uri": f"jdbc:sqlite:{project.database}",
            ".warehouse": f"file://{project.folder}/warehouse",
            ".jdbc.schema-version": "V1",
            ".cache-enabled": "false",
        }.items():
            spark.conf.set(prefix + key, value)
        return spark

    return open_catalog


@pytest.fixture
def run_in_spark(tmp_path):
    """A function: project, statements -> the rows of the last one, by a Spark that has ended when it returns."""

    def run(project, *statements):
        import json
        import subprocess

        script = tmp_path / "statements.json"
        script.write_text(json.dumps([str(project.folder), list(statements)]))
        done = subprocess.run([sys.executable, str(HERE / "spark_statements.py"), str(script), str(tmp_path)],
                              capture_output=True, text=True, timeout=280)
        if done.returncode == 3:
            missing("Spark", done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def test_data():
    folder = os.environ.get("INSIGHTERA_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        missing("real data", "INSIGHTERA_TEST_DATA does not name a folder with uci_dropout/ and oulad/")
    return Path(folder)
