"""The demo, read by other people's readers."""

import subprocess
from collections import Counter

import pytest

from conftest import missing
from lakehouse import Project, multiset, read_with_duckdb, read_with_pyiceberg, read_with_spark

TABLES = {
    "ml_predictions.dropout_risk_predictions": [
        ("nim", "string", True), ("nama_mahasiswa", "string", False), ("prodi_nama", "string", False),
        ("risk_score", "int", False), ("dropout_probability", "double", False), ("risk_category", "string", False),
        ("predicted_dropout", "int", False), ("feature_timestamp", "timestamptz", False),
        ("prediction_timestamp", "timestamptz", True), ("model_version", "string", False),
        ("inference_type", "string", False), ("prediction_date", "date", False)],
    "ml_predictions.budget_forecast_predictions": [
        ("unit_kerja_sk", "string", True), ("unit_kerja_nama", "string", False), ("forecasted_amount", "double", False),
        ("forecast_lower_bound", "double", False), ("forecast_upper_bound", "double", False),
        ("forecast_date", "date", False), ("forecast_horizon_months", "int", False), ("as_of_date", "timestamptz", False),
        ("prediction_timestamp", "timestamptz", True), ("model_version", "string", False),
        ("inference_type", "string", False), ("prediction_date", "date", False)],
    "ml_predictions.publication_forecast_predictions": [
        ("peneliti_sk", "string", True), ("peneliti_nama", "string", False), ("predicted_pub_count", "int", False),
        ("forecast_year", "int", False), ("confidence_interval_lower", "int", False),
        ("confidence_interval_upper", "int", False), ("as_of_date", "timestamptz", False),
        ("prediction_timestamp", "timestamptz", True), ("model_version", "string", False),
        ("inference_type", "string", False), ("prediction_date", "date", False)],
    "ml_predictions.anomaly_detections": [
        ("anomaly_id", "string", True), ("domain", "string", False), ("entity_id", "string", False),
        ("anomaly_score", "int", False), ("z_score", "double", False), ("is_anomaly", "boolean", False),
        ("anomaly_reason", "string", False), ("detection_timestamp", "timestamptz", True),
        ("model_version", "string", False), ("detection_date", "date", False)],
}
RECORD = {"pipeline": "string", "model_name": "string", "run_id": "string", "score_reason": "string",
          "feature_hash": "long", "definition_hash": "long", "variant": "string", "propensity": "double"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory, binary):
    folder = tmp_path_factory.mktemp("demo") / "university"
    done = subprocess.run([str(binary), "demo", "--students", "3000", "--seed", "7", "--events-for", "0", "--dir", str(folder)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return Project(folder, binary)


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_the_universitys_own(demo, name):
    fields = demo.table(name).schema().fields
    found = [(field.name, str(field.field_type), field.required) for field in fields]
    assert found[: len(TABLES[name])] == TABLES[name]
    rest = {name: kind for name, kind, _ in found[len(TABLES[name]):]}
    assert RECORD.items() <= rest.items()
    properties = demo.table(name).properties
    assert properties["write.parquet.compression-codec"] == "snappy"
    assert properties["write.metadata.compression-codec"] == "gzip"
    assert demo.table(name).metadata.format_version == 2


@pytest.mark.parametrize("name", [*TABLES, "ml_monitoring.inference_metrics", "student_features.attendance_features"])
def test_pyiceberg_duckdb_and_insightera_see_the_same_rows(demo, name):
    theirs = read_with_pyiceberg(demo, name)
    columns = theirs.column_names
    assert theirs.num_rows > 0
    assert multiset(read_with_duckdb(demo, name), columns) == multiset(theirs, columns)
    ours = demo.sql(f"SELECT count(*) AS n FROM {name}")
    assert ours == [{"n": theirs.num_rows}]


def test_spark_sees_the_same_rows(demo, open_in_spark):
    try:
        spark = open_in_spark(demo)
    except Exception as error:
        missing("Spark", str(error))
    for name in TABLES:
        theirs = read_with_pyiceberg(demo, name)
        columns = [c for c in theirs.column_names if "timestamp" not in c and c != "as_of_date"]
        assert multiset(read_with_spark(spark, name), columns) == multiset(theirs, columns), name


def test_the_second_day_scores_the_changed_the_new_and_the_removed(demo):
    found = Counter(row["score_reason"] for row in demo.predictions("ml_predictions.dropout_risk_predictions"))
    active = found["first"]
    assert found["update"] == pytest.approx(active / 10, rel=0.05)
    assert found["insert"] == found["removed"] > 0
    code, verified = demo.verify("dropout_risk")
    assert code == 0 and verified["entities"] == active


def test_a_second_demo_leaves_the_first_as_it_is(demo):
    name = "ml_predictions.dropout_risk_predictions"
    before = demo.metadata_location(name)
    done = subprocess.run([demo.binary, "demo", "--students", "3000", "--seed", "7", "--events-for", "0", "--dir", str(demo.folder)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert demo.metadata_location(name) == before


def test_every_row_of_a_run_is_joinable_to_its_commit(demo):
    name = "ml_predictions.dropout_risk_predictions"
    runs = {row["run_id"] for row in demo.predictions(name)}
    commits = demo.commits(name)
    assert runs == {c.summary.additional_properties["insightera.run-id"] for c in commits}
