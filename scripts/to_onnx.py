#!/usr/bin/env python3
"""Converts a pickled scikit-learn model to ONNX, and certifies the result.

    scripts/to_onnx.py MODEL.pkl --sample rows.parquet -o model.onnx

A pickle runs code when it is loaded: convert only models whose origin you
trust. The sample rows are scored by the original and by onnxruntime; nothing is
written when a class differs or a number differs by more than the tolerance. A
model with a ColumnTransformer keeps its columns, one input each. Others have one
input `X` of all columns; their names are in the metadata entry `feature_names`.
Tree ensembles get the number of training rows of every node (`nodes_hitrates`),
with which their scores can be explained.

MODEL is a .pkl, .pickle or .joblib file, or an MLflow folder with such a model.
Needs: numpy pandas pyarrow scikit-learn skl2onnx onnxmltools onnxruntime joblib
"""

import argparse
import os
import sys
from pathlib import Path


class Refused(Exception):
    """What the user can do something about."""


def find(path):
    """The pickle at `path`, or within an MLflow folder."""
    if not path.exists():
        raise Refused(f"there is no `{path}`")
    if path.is_dir():
        found = sorted(p for end in ("pkl", "pickle", "joblib") for p in path.glob(f"*.{end}"))
        if len(found) != 1:
            raise Refused(f"`{path}` has {len(found)} pickles at its top, not one: name the file")
        path = found[0]
    if path.suffix == ".skops":
        raise Refused(f"`{path}` is a skops file: load it with `skops.io.load`, and save it with `joblib.dump`")
    return path


def read_model(path):
    import joblib

    try:
        model = joblib.load(path)
    except ModuleNotFoundError as error:
        raise Refused(f"`{path}` needs the package `{error.name}`: install what it was trained with") from error
    except Exception as error:
        raise Refused(f"`{path}` cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(model, "predict"):
        raise Refused(f"`{path}` holds a {type(model).__name__}, which does not predict")
    return model


def read_rows(path, model):
    """The sample, with the columns of the training in their order."""
    import pandas

    try:
        rows = pandas.read_parquet(path)
    except Exception as error:
        raise Refused(f"`{path}` cannot be read as Parquet: {error}") from error
    if rows.empty:
        raise Refused(f"`{path}` has no rows")
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        wanted = getattr(model, "n_features_in_", len(rows.columns))
        if wanted != len(rows.columns):
            raise Refused(f"the model wants {wanted} columns and `{path}` has {len(rows.columns)}")
        return rows, False
    missing = [name for name in names if name not in rows.columns]
    if missing:
        raise Refused(f"`{path}` has no column `{missing[0]}`, which the model was trained on")
    return rows[list(names)], True


def parts_of(model):
    """The model and every estimator in it."""
    found, waiting = [], [model]
    while waiting:
        part = waiting.pop()
        if isinstance(part, (list, tuple)):
            waiting.extend(part)
        elif hasattr(part, "get_params") and not isinstance(part, type):
            found.append(part)
            waiting.extend(part.get_params(deep=False).values())
    return found


def has_trees(model):
    """Whether scikit-learn's trees decide, which round every value to single precision."""
    return any(type(part).__module__.startswith(("sklearn.tree", "sklearn.ensemble")) for part in parts_of(model))


def is_text(column):
    import pandas
    from pandas.api import types

    return types.is_string_dtype(column) or types.is_object_dtype(column) or isinstance(column.dtype, pandas.CategoricalDtype)


def texts_of(column):
    if not column.dropna().map(lambda value: isinstance(value, str)).all():
        raise Refused(f"column `{column.name}` mixes texts with other values")
    if column.isna().any():
        raise Refused(f"column `{column.name}` has nulls, which ONNX texts cannot be: fill them, as in training")
    return column.to_numpy(dtype=object)


def matrix_of(rows, double):
    """One input of all columns."""
    import numpy
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    shape = [None, len(rows.columns)]
    texts = [name for name in rows.columns if is_text(rows[name])]
    if texts and len(texts) < len(rows.columns):
        raise Refused(f"column `{texts[0]}` holds texts and others numbers: a model without a ColumnTransformer has one kind")
    if texts:
        matrix = numpy.stack([texts_of(rows[name]) for name in rows.columns], axis=1)
        return [("X", StringTensorType(shape))], {"X": matrix}
    matrix = rows.to_numpy(dtype=numpy.float64 if double else numpy.float32)
    return [("X", (DoubleTensorType if double else FloatTensorType)(shape))], {"X": matrix}


def columns_of(rows, double):
    """An input for every column."""
    import numpy
    from pandas.api import types
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType

    declared, feed = [], {}
    for name in rows.columns:
        column = rows[name]
        if types.is_bool_dtype(column) or types.is_integer_dtype(column):
            if column.isna().any():
                raise Refused(f"column `{name}` of whole numbers has nulls: make it floating point, as in training")
            kind, values = Int64TensorType, column.to_numpy(dtype=numpy.int64)
        elif types.is_float_dtype(column):
            kind = DoubleTensorType if double else FloatTensorType
            values = column.to_numpy(dtype=numpy.float64 if double else numpy.float32)
        elif is_text(column):
            kind, values = StringTensorType, texts_of(column)
        else:
            raise Refused(f"column `{name}` has type {column.dtype}: numbers and texts can be converted")
        declared.append((str(name), kind([None, 1])))
        feed[str(name)] = values.reshape(-1, 1)
    return declared, feed


def register():
    """Converters of other libraries' estimators within a pipeline, where they are installed."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes as classes
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes as values

    try:
        import lightgbm
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        update_registered_converter(lightgbm.LGBMClassifier, "LightGbmLGBMClassifier", classes, convert_lightgbm,
                                    options={"nocl": [True, False], "zipmap": [True, False, "columns"]})
        update_registered_converter(lightgbm.LGBMRegressor, "LgbmRegressor", values, convert_lightgbm, options={"split": None})
    except ImportError:
        pass
    try:
        import xgboost
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

        update_registered_converter(xgboost.XGBClassifier, "XGBoostXGBClassifier", classes, convert_xgboost,
                                    options={"nocl": [True, False], "zipmap": [True, False, "columns"]})
        update_registered_converter(xgboost.XGBRegressor, "XGBoostXGBRegressor", values, convert_xgboost)
    except ImportError:
        pass


def rename(proto, names):
    """Gives the inputs their names: the converter writes underscores for what is no identifier."""
    if len(proto.graph.input) != len(names):
        raise Refused(f"the converted model has {len(proto.graph.input)} inputs for {len(names)} columns")
    new = {value.name: name for value, name in zip(proto.graph.input, names)}
    made = {name for node in proto.graph.node for name in node.output} | {c.name for c in proto.graph.initializer}
    if taken := made & {name for old, name in new.items() if old != name}:
        raise Refused(f"the column `{sorted(taken)[0]}` has the name of a value within the converted model")
    for value in proto.graph.input:
        value.name = new[value.name]
    for node in proto.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = new.get(name, name)


def plain_integers():
    """Lets onnx take the numpy integers that skl2onnx reads from the trees of a newer scikit-learn."""
    import numpy
    import onnx

    make = onnx.helper.make_attribute

    def make_attribute(key, value, *rest, **named):
        if isinstance(value, list) and value and isinstance(value[0], numpy.integer):
            value = [int(number) for number in value]
        return make(key, value, *rest, **named)

    onnx.helper.make_attribute = make_attribute


def counts_of(model):
    """How many training rows reached every node of scikit-learn's trees, tree by tree; None of anything else."""
    import numpy

    last = model.steps[-1][1] if hasattr(model, "steps") else model
    if not type(last).__module__.startswith(("sklearn.tree", "sklearn.ensemble")):
        return None
    if hasattr(last, "tree_"):
        return [last.tree_.weighted_n_node_samples]
    if hasattr(last, "_predictors"):
        return [predictor.nodes["count"] for each in last._predictors for predictor in each]
    if not hasattr(last, "estimators_"):
        return None
    trees = list(numpy.ravel(numpy.asarray(last.estimators_, dtype=object)))
    return [tree.tree_.weighted_n_node_samples for tree in trees] if all(hasattr(tree, "tree_") for tree in trees) else None


def write_counts(proto, model):
    """Puts them into the one tree ensemble of a graph, if its trees are theirs."""
    import numpy

    counts = counts_of(model)
    nodes = [node for node in proto.graph.node if node.op_type.startswith("TreeEnsemble")]
    if counts is None or len(nodes) != 1:
        return False
    settings = {attribute.name: attribute for attribute in nodes[0].attribute}
    trees, places = (numpy.array(settings[name].ints) for name in ("nodes_treeids", "nodes_nodeids"))
    sizes = numpy.bincount(trees, minlength=len(counts))
    if len(sizes) != len(counts) or any(size != len(count) for size, count in zip(sizes, counts)):
        return False
    hits = [float(counts[tree][place]) for tree, place in zip(trees, places)]
    if "nodes_hitrates" not in settings:
        settings["nodes_hitrates"] = nodes[0].attribute.add(name="nodes_hitrates", type=6)
    del settings["nodes_hitrates"].floats[:]
    settings["nodes_hitrates"].floats.extend(hits)
    return True


def convert(model, declared, names):
    import json

    from skl2onnx import to_onnx

    try:
        options = {id(model): {"zipmap": False}} if hasattr(model, "classes_") else None
        proto = to_onnx(model, initial_types=declared, options=options, target_opset={"": 18, "ai.onnx.ml": 3})
    except Exception as error:
        raise Refused(f"{type(model).__name__} cannot be converted: {type(error).__name__}: {error}") from error
    rename(proto, [name for name, _ in declared])
    write_counts(proto, model)
    if names:
        entry = proto.metadata_props.add()
        entry.key, entry.value = "feature_names", json.dumps(names)
    return proto.SerializeToString()


def certify(model, onnx_bytes, rows, named, feed, tolerance):
    """The largest difference between the original's numbers and onnxruntime's."""
    import numpy
    import onnxruntime

    texts = any(is_text(rows[name]) for name in rows.columns)
    original = rows if named else rows.to_numpy(dtype=object if texts else numpy.float64)
    wanted = numpy.asarray(model.predict(original))
    try:
        outputs = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"]).run(None, feed)
    except Exception as error:
        raise Refused(f"onnxruntime cannot score the converted model: {error}") from error
    if hasattr(model, "classes_"):
        found = numpy.asarray(outputs[0]).reshape(-1)
        differ = numpy.flatnonzero(wanted.astype(str) != found.astype(str))
        if len(differ):
            row = differ[0]
            raise Refused(f"{len(differ)} of {len(rows)} classes differ, row {row} is `{found[row]}` instead of `{wanted[row]}`")
        if not hasattr(model, "predict_proba"):
            return 0.0
        wanted, found = numpy.asarray(model.predict_proba(original)), numpy.asarray(outputs[1])
    else:
        wanted, found = wanted.reshape(len(rows), -1), numpy.asarray(outputs[0]).reshape(len(rows), -1)
    if wanted.shape != found.shape:
        raise Refused(f"the original has {wanted.shape[1]} numbers a row and the converted model {found.shape[1]}")
    wanted, found = wanted.astype(numpy.float64), found.astype(numpy.float64)
    if (numpy.isnan(wanted) != numpy.isnan(found)).any():
        raise Refused("one of the two has no number where the other has one")
    difference = numpy.nan_to_num(numpy.abs(wanted - found) / numpy.maximum(1.0, numpy.abs(wanted)))
    row = int(difference.max(axis=1).argmax())
    largest = float(difference.max())
    if largest > tolerance:
        raise Refused(f"the largest difference is {largest:.3g} (row {row}), more than {tolerance:g}; `--tolerance` allows more")
    return largest


def converted(model, rows, named, tolerance):
    """The first conversion that is certified: in the precision of the original, else in the other."""
    columns = named and any(type(part).__name__ == "ColumnTransformer" for part in parts_of(model))
    names = None if columns else [str(name) for name in rows.columns]
    register()
    plain_integers()
    first = None
    for double in (False, True) if has_trees(model) else (True, False):
        declared, feed = (columns_of if columns else matrix_of)(rows, double)
        try:
            content = convert(model, declared, names)
            return content, certify(model, content, rows, named, feed, tolerance)
        except Refused as error:
            first = first or error
    raise first


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sample", type=Path, required=True, help="Parquet file with rows as the model gets them")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tolerance", type=float, default=1e-5, help="allowed difference, relative above 1 (default 1e-5)")
    options = parser.parse_args(arguments)
    try:
        model = read_model(find(options.model))
        rows, named = read_rows(options.sample, model)
        content, largest = converted(model, rows, named, options.tolerance)
        draft = options.output.with_name(options.output.name + ".part")
        draft.write_bytes(content)
        os.replace(draft, options.output)
    except ImportError as error:
        print(f"error: the package `{error.name}` is missing: pip install scikit-learn skl2onnx onnxmltools onnxruntime pandas pyarrow joblib", file=sys.stderr)
        return 1
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {len(rows)} rows scored alike, largest difference {largest:.3g}, columns {', '.join(map(str, rows.columns))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
