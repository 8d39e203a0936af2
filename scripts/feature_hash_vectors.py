#!/usr/bin/env python3
"""Writes crates/entities/tests/vectors/feature_hash.json with the Python package xxhash,
from the format's description alone (see crates/entities/src/hash.rs)."""
import json
import pathlib
import struct

import xxhash

NULL, BOOLEAN, INTEGER, FLOAT, STRING = 0, 1, 2, 3, 4


def encode(value):
    if value is None:
        return bytes([NULL])
    if isinstance(value, bool):
        return bytes([BOOLEAN, value])
    if isinstance(value, int):
        return bytes([INTEGER]) + struct.pack("<q", value)
    if isinstance(value, float):
        return bytes([FLOAT]) + struct.pack("<d", value + 0.0)
    text = value.encode()
    return bytes([STRING]) + struct.pack("<I", len(text)) + text


def feature_hash(row):
    out = b""
    for name in sorted(row):
        out += struct.pack("<I", len(name.encode())) + name.encode() + encode(row[name])
    return xxhash.xxh3_64_intdigest(out)


ROWS = [
    {"ipk": 3.25, "name": "Siti", "semester": 4, "active": True},
    {"ipk": None, "name": "", "semester": -1, "active": False},
]
path = pathlib.Path(__file__).parent.parent / "crates/entities/tests/vectors/feature_hash.json"
rows = [{"row": row, "xxh3_64": str(feature_hash(row))} for row in ROWS]
path.write_text(json.dumps({"format": 1, "made_with": "scripts/feature_hash_vectors.py", "rows": rows}, indent=1) + "\n")
