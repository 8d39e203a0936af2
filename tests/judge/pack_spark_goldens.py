"""Packs models that make_spark_stage_models.py made into one small golden file, or compares with one.

    python pack_spark_goldens.py FOLDER FILE           writes FILE
    python pack_spark_goldens.py FOLDER FILE --check   fails where Spark now scores otherwise than in FILE

FILE is Parquet with the columns `model`, `path`, `bytes`: every file of every
model, and as `rows.parquet` some of its rows with their inputs and Spark's own
scores. Names of stages are new in every training, so --check compares rows.
The file's metadata has the versions and the SHA-256 of the generator.
"""

import hashlib
import io
import platform
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

FIRST, STRANGE = 200, 40
GENERATOR = Path(__file__).with_name("make_spark_stage_models.py")


def some(table):
    """The first rows, and some of those whose scores are no numbers or infinite."""
    scores = [c for c in table.column_names if c.startswith("expected_")]
    finite = np.all([np.isfinite(table[c].to_numpy()) for c in scores], axis=0)
    strange = [row for row in np.flatnonzero(~finite) if row >= FIRST][:STRANGE]
    return table.take([*range(min(FIRST, len(table))), *strange])


def bare(table):
    """A Parquet file that compresses well together with others."""
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table.replace_schema_metadata(), sink, compression="none", use_dictionary=False,
                                write_statistics=False, store_schema=False)
    return sink.getvalue()


def pack(folder, file):
    models, paths, contents = [], [], []
    for rows in sorted(folder.glob("*.rows.parquet")):
        name = rows.name.removesuffix(".rows.parquet")
        files = [p for p in sorted((folder / name).rglob("*")) if p.is_file() and not p.name.startswith((".", "_"))]
        found = [(str(p.relative_to(folder / name)), p.read_bytes()) for p in files]
        found.append(("rows.parquet", bare(some(pyarrow.parquet.read_table(rows)))))
        for path, content in found:
            models.append(name)
            paths.append(path)
            contents.append(content)
    table = pyarrow.table({"model": models, "path": paths, "bytes": pyarrow.array(contents, pyarrow.binary())})
    import pyspark

    about = {"spark": pyspark.__version__, "python": platform.python_version(), "numpy": np.__version__,
             "generator": GENERATOR.name, "sha256": hashlib.sha256(GENERATOR.read_bytes()).hexdigest()}
    table = table.replace_schema_metadata(about)
    pyarrow.parquet.write_table(table, file, compression="zstd", compression_level=22, use_dictionary=False,
                                write_statistics=False, data_page_size=1 << 28, row_group_size=1 << 20)
    print(f"{file}: {len(set(models))} models, {file.stat().st_size} bytes")


def check(folder, file):
    packed = pyarrow.parquet.read_table(file)
    if packed.schema.metadata[b"sha256"].decode() != hashlib.sha256(GENERATOR.read_bytes()).hexdigest():
        sys.exit(f"{GENERATOR.name} is not the one that made {file}: pack it again")
    compared, wrong = 0, []
    for name, path, content in zip(*(packed[c].to_pylist() for c in ("model", "path", "bytes"))):
        if path != "rows.parquet":
            continue
        before = pyarrow.parquet.read_table(io.BytesIO(content))
        now = some(pyarrow.parquet.read_table(folder / f"{name}.rows.parquet"))
        for column in [c for c in before.column_names if c.startswith("expected_")]:
            a, b = before[column].to_numpy(), now[column].to_numpy()
            # Training adds in an order that may change with the machine.
            same = len(a) == len(b) and np.allclose(a, b, rtol=1e-6, atol=1e-9, equal_nan=True)
            compared += len(a)
            if not same:
                wrong.append(f"{name} {column}")
    print(f"{file}: {compared} values compared")
    if wrong:
        sys.exit(f"Spark now scores otherwise: {', '.join(wrong)}")


if __name__ == "__main__":
    (check if sys.argv[3:] == ["--check"] else pack)(Path(sys.argv[1]), Path(sys.argv[2]))
