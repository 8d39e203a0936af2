"""Insightera projects for the benchmark: inputs made by PyIceberg or as Parquet folders, changes made by Spark.

    python bench/project.py change KIND PROJECT STUDENTS SCRATCH

KIND: `appended` (the rows of 10,000 students are deleted by position deletes in
one commit and appended anew in the next), `position-deletes` (one merge-on-read
MERGE), `copy-on-write` (one copy-on-write MERGE; the rows are spread over all
files, so all files are rewritten).
"""

import shutil
import sys
from pathlib import Path

TABLES = {
    "student_features.academic_performance_features": "academic",
    "student_features.attendance_features": "attendance",
    "gold_akademik.dim_mahasiswa_current": "students",
}
PIPELINE = "dropout_risk"
MODEL = "student_dropout_risk_model"
OUTPUT = "ml_predictions.dropout_risk_predictions"
DEFINITION = '''kind = "batch"

[model]
name = "{model}"
alias = "production"

[entity]
key = ["nim"]

[features]
sql = """
SELECT a.nim, s.nama_mahasiswa, s.prodi_nama, a.feature_timestamp,
       a.ipk, a.ips_last, a.ip_trend, a.semester, a.sks_lulus, a.failed_courses, a.repeat_courses,
       a.sks_load, a.arrears_idr, a.scholarship_type, a.entry_path,
       b.event_count_7d, b.attendance_rate_7d, b.attendance_rate, b.attendance_rate_30d, b.late_count,
       b.absent_count, b.lms_hours_week, b.days_since_last_login
FROM student_features.academic_performance_features AS a
JOIN student_features.attendance_features AS b ON b.nim = a.nim
JOIN gold_akademik.dim_mahasiswa_current AS s ON s.nim = a.nim
WHERE s.status_mahasiswa = 'active'
"""
feature_time = "feature_timestamp"
strategy = "{strategy}"
{more}
[output]
table = "{output}"
partition_by = ["days(prediction_date)"]

[output.columns]
nim = "nim"
nama_mahasiswa = "nama_mahasiswa"
prodi_nama = "prodi_nama"
risk_score = "CAST(trunc(probability * 100) AS INT)"
dropout_probability = "probability"
risk_category = "CASE WHEN probability < 0.3 THEN 'Low' WHEN probability < 0.6 THEN 'Medium' ELSE 'High' END"
predicted_dropout = "CAST(prediction AS INT)"
feature_timestamp = "feature_timestamp"
'''


def parts(students, which):
    folder = Path(students) / ("students" if which == "students" else f"base/{which}")
    return sorted(folder.glob("*.parquet"))


def catalog(project):
    from pyiceberg.catalog.sql import SqlCatalog

    project = Path(project).resolve()
    (project / "warehouse").mkdir(parents=True, exist_ok=True)
    return SqlCatalog("insightera", uri=f"sqlite:///{project}/warehouse/catalog.db",
                      warehouse=f"file://{project}/warehouse")


def create(project, students, strategy="auto", kind="iceberg", more=""):
    """A project with the students as inputs, without a model and without a run."""
    import pyarrow.parquet as pq

    project = Path(project).resolve()
    shutil.rmtree(project, ignore_errors=True)
    (project / "pipelines").mkdir(parents=True)
    text = DEFINITION.format(model=MODEL, strategy=strategy, output=OUTPUT, more=more)
    (project / "pipelines" / f"{PIPELINE}.toml").write_text(text)
    settings = ["format = 1", ""]
    tables = catalog(project)
    for name, which in TABLES.items():
        namespace, table = name.split(".")
        if kind == "parquet" and which != "students":
            folder = project / "gold" / namespace / table
            folder.mkdir(parents=True)
            for part in parts(students, which):
                shutil.copy(part, folder)
            settings += [f'[inputs."{name}"]', f'parquet = "{folder.relative_to(project)}"', ""]
            continue
        tables.create_namespace_if_not_exists(namespace)
        created = None
        for part in parts(students, which):
            rows = pq.read_table(part)
            if created is None:
                created = tables.create_table(name, schema=rows.schema, properties={
                    "format-version": "2", "write.parquet.compression-codec": "snappy"})
            created.append(rows)
    (project / "insightera.toml").write_text("\n".join(settings))
    return project


def add_newer_file(project, students):
    """10,000 newer rows of known students as one more file of a Parquet folder."""
    folder = Path(project) / "gold" / "student_features" / "academic_performance_features"
    shutil.copy(Path(students) / "changed" / "academic" / "part-00000.parquet", folder / "part-99999.parquet")


def change(kind, project, students, scratch):
    """Replaces the rows of the changed students in both feature tables, by Spark."""
    from spark_session import session

    spark = session("change", scratch, project=Path(project).resolve())
    mode = "copy-on-write" if kind == "copy-on-write" else "merge-on-read"
    for name, which in list(TABLES.items())[:2]:
        table = f"insightera.{name}"
        modes = ", ".join(f"'write.{verb}.mode' = '{mode}'" for verb in ("delete", "update", "merge"))
        spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ({modes})")
        rows = spark.read.parquet(f"{students}/changed/{which}")
        rows.createOrReplaceTempView("changed")
        if kind == "appended":
            spark.sql(f"DELETE FROM {table} WHERE nim IN (SELECT nim FROM changed)")
            rows.writeTo(table).append()
        elif kind in ("position-deletes", "copy-on-write"):
            spark.sql(f"MERGE INTO {table} t USING changed c ON t.nim = c.nim WHEN MATCHED THEN UPDATE SET *")
        else:
            sys.exit(f"unknown kind of change: {kind}")
        summary = spark.sql(f"SELECT operation, summary FROM {table}.snapshots ORDER BY committed_at DESC LIMIT 1").first()
        print(name, summary["operation"], {key: value for key, value in summary["summary"].items()
                                           if key.startswith(("added", "deleted", "total"))}, file=sys.stderr)
    spark.stop()


if __name__ == "__main__":
    if len(sys.argv) != 6 or sys.argv[1] != "change":
        sys.exit(__doc__)
    change(*sys.argv[2:])
