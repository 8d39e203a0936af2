"""Does the peer say the same? Its predictions and ours, row by row."""

from pathlib import Path

COMPARED = ["nama_mahasiswa", "prodi_nama", "risk_score", "dropout_probability", "risk_category", "predicted_dropout",
            "feature_timestamp"]


def predictions(table):
    """The rows of a table with one commit and no deletes, sorted by student."""
    import pyarrow.dataset as ds

    files = [str(path) for path in Path(table).rglob("data/**/*.parquet") if not path.name.startswith(".")]
    return ds.dataset(files).to_table(columns=["nim", *COMPARED]).sort_by("nim").combine_chunks()


def compare(ours, spark):
    """Students, and for each column how many rows differ; the largest difference of a probability."""
    import pyarrow.compute as pc

    mine, theirs = predictions(ours), predictions(spark)
    if mine["nim"].combine_chunks() != theirs["nim"].combine_chunks():
        return {"rows": [mine.num_rows, theirs.num_rows], "students": "differ"}
    differ = {}
    for column in COMPARED:
        other = theirs[column].cast(mine[column].type)
        same = pc.fill_null(pc.equal(mine[column], other), False)
        differ[column] = pc.sum(pc.and_not(pc.invert(same), pc.and_(pc.is_null(mine[column]), pc.is_null(other)))).as_py()
    gap = pc.max(pc.abs(pc.subtract(mine["dropout_probability"], theirs["dropout_probability"]))).as_py()
    return {"rows": mine.num_rows, "students": "the same", "differ": differ, "largest difference": gap}


def line(found):
    if found["students"] != "the same":
        return f"Ours and the peer's predictions are of different students: {found['rows']}."
    wrong = {column: count for column, count in found["differ"].items() if count}
    return (f"Of {found['rows']:,} students that Spark and Insightera scored in full, the rows that differ in "
            f"{', '.join(found['differ'])}: {wrong or 0}; the largest difference of a probability is "
            f"{found['largest difference']:.3g}.")
