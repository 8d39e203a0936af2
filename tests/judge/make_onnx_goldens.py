"""Writes two small ONNX models with an operator that is not native, and what ONNX Runtime scores.

    python make_onnx_goldens.py FOLDER [--check]

FOLDER is crates/infer/tests/goldens/onnx. With `--check` nothing is written: an
error when the files there are others, or score otherwise.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow
import pyarrow.parquet
from onnx import TensorProto, helper, numpy_helper

ROWS, FEATURES = 1000, 4
CLASSES = ["low", "middle", "high"]


def model(nodes, outputs, constants):
    made = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, FEATURES])]
    graph = helper.make_graph(nodes, "golden", inputs, outputs, made)
    sets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    proto = helper.make_model(graph, opset_imports=sets, ir_version=8, producer_name="make_onnx_goldens")
    onnx.checker.check_model(proto)
    return proto


def value(random):
    """A form of second degree: `Einsum` multiplies every row with a matrix from both sides."""
    nodes = [helper.make_node("Einsum", ["X", "A", "X"], ["y"], "form", equation="ni,ij,nj->n")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])]
    return model(nodes, outputs, {"A": random.normal(0, 1, (FEATURES, FEATURES)).astype(np.float32)})


def classes(random):
    """Three classes by name, their probabilities as maps."""
    nodes = [
        helper.make_node("Einsum", ["X", "W"], ["raw"], "product", equation="ni,ij->nj"),
        helper.make_node("Softmax", ["raw"], ["shares"], "shares", axis=1),
        helper.make_node("ArgMax", ["shares"], ["places"], "best", axis=1, keepdims=0),
        helper.make_node("ArrayFeatureExtractor", ["names", "places"], ["picked"], "pick", domain="ai.onnx.ml"),
        helper.make_node("Reshape", ["picked", "flat"], ["label"], "flatten"),
        helper.make_node("ZipMap", ["shares"], ["probabilities"], "zip", domain="ai.onnx.ml", classlabels_strings=CLASSES),
    ]
    maps = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [helper.make_tensor_value_info("label", TensorProto.STRING, [None]),
               helper.make_value_info("probabilities", helper.make_sequence_type_proto(maps))]
    return model(nodes, outputs, {"W": random.normal(0, 1, (FEATURES, 3)).astype(np.float32),
                                  "names": np.array(CLASSES, dtype=object), "flat": np.array([-1], dtype=np.int64)})


def main():
    folder, check = Path(sys.argv[1]), "--check" in sys.argv[2:]
    random = np.random.default_rng(7)
    for name, make in [("value", value), ("classes", classes)]:
        content = make(random).SerializeToString()
        x = np.random.default_rng(8).normal(0, 2, (ROWS, FEATURES)).astype(np.float32)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        found = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, {"X": x})
        rows = {f"X_{k}": x[:, k] for k in range(FEATURES)}
        if name == "value":
            rows["expected_prediction"] = found[0].astype(np.float64)
        else:
            rows["expected_prediction"] = np.array([CLASSES.index(label) for label in found[0]], dtype=np.float64)
            for label in CLASSES:
                rows[f"expected_probability_{label}"] = np.array([each[label] for each in found[1]], dtype=np.float64)
        table = pyarrow.table(rows)
        paths = folder / f"outside_{name}.onnx", folder / f"outside_{name}.rows.parquet"
        if check:
            assert paths[0].read_bytes() == content, f"{paths[0]} is another model"
            known = pyarrow.parquet.read_table(paths[1])
            assert known.column_names == table.column_names, f"{paths[1]} has other columns"
            # Another processor may add up in another order.
            same = all(np.allclose(known[name], table[name], rtol=1e-5, atol=1e-5) for name in table.column_names)
            assert same, f"{paths[1]} has other rows"
            continue
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_bytes(content)
        pyarrow.parquet.write_table(table, paths[1])
    print(f"ONNX Runtime {onnxruntime.__version__}, onnx {onnx.__version__}: two models, {ROWS} rows each")


if __name__ == "__main__":
    main()
