"""What a prediction costs on disk: bytes per row and column, against pyarrow and Spark writing the same columns."""

import shutil
from pathlib import Path

DESIGN_COLUMNS = ["nim", "nama_mahasiswa", "prodi_nama", "risk_score", "dropout_probability", "risk_category",
                  "predicted_dropout", "feature_timestamp", "prediction_timestamp", "model_version", "inference_type",
                  "prediction_date"]


def parquet_files(folder):
    return sorted(path for path in Path(folder).rglob("*.parquet") if not path.name.startswith("."))


def column_bytes(files):
    """Compressed bytes per column, rows, and the size of the files."""
    import pyarrow.parquet as pq

    columns, rows, total = {}, 0, 0
    for file in files:
        metadata = pq.read_metadata(file)
        rows += metadata.num_rows
        total += file.stat().st_size
        for group in range(metadata.num_row_groups):
            for index in range(metadata.num_columns):
                column = metadata.row_group(group).column(index)
                columns[column.path_in_schema] = columns.get(column.path_in_schema, 0) + column.total_compressed_size
    return columns, rows, total


def metadata_share(table):
    """Bytes of metadata and of data below a table."""
    size = lambda folder: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())  # noqa: E731
    metadata, data = size(table / "metadata"), size(table / "data")
    return {"metadata": metadata, "data": data, "share": metadata / (metadata + data)}


def rewritten(files, columns, folder):
    """The same rows by pyarrow: one Snappy file (the rows of one run are one partition)."""
    import pyarrow.parquet as pq
    import pyarrow.dataset as ds

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = ds.dataset([str(file) for file in files]).to_table(columns=columns)
    pq.write_table(rows, folder / "part.parquet", compression="snappy")
    return column_bytes([folder / "part.parquet"])


def compare(ours, spark, scratch):
    """Ours, pyarrow on all of our columns, pyarrow on the design's twelve, Spark on the twelve."""
    files = parquet_files(ours / "data")
    answer = {"ours": column_bytes(files)}
    all_columns = list(answer["ours"][0])
    answer["pyarrow, same columns"] = rewritten(files, all_columns, Path(scratch) / "storage-all")
    answer["pyarrow, the design's 12 columns"] = rewritten(files, DESIGN_COLUMNS, Path(scratch) / "storage-design")
    if parquet_files(spark / "data"):
        answer["Spark, the design's 12 columns"] = column_bytes(parquet_files(spark / "data"))
    return answer


def lines(results):
    out = []
    if "storage" in results:
        found = results["storage"]
        writers = list(found)
        out += ["", "Bytes per row, compressed, per column:", "",
                "| column | " + " | ".join(writers) + " |", "|---|" + "---:|" * len(writers)]
        for column in found["ours"][0]:
            cells = [f"{found[w][0][column] / found[w][1]:.2f}" if column in found[w][0] else "" for w in writers]
            out.append(f"| {column} | " + " | ".join(cells) + " |")
        twelve = [sum(size for name, size in found[w][0].items() if name in DESIGN_COLUMNS) / found[w][1] for w in writers]
        out.append("| the design's 12 | " + " | ".join(f"{value:.2f}" for value in twelve) + " |")
        out.append("| file | " + " | ".join(f"{found[w][2] / found[w][1]:.2f}" for w in writers) + " |")
    share = results.get("storage, metadata after 30 daily runs")
    if share:
        out += ["", f"Metadata after 30 daily runs ({share.get('students', 100_000):,} students, 1 in 100 changes a day): {share['metadata']:,} of "
                    f"{share['metadata'] + share['data']:,} bytes, {100 * share['share']:.1f}%."]
    return out
