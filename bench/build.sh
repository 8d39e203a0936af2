#!/usr/bin/env bash
# What a first build costs: `cargo build --release` into an empty folder, with
# the crates already downloaded. Prints wall and processor seconds and the size
# of the binary.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(mktemp -d)
trap 'rm -rf "$target"' EXIT
cargo fetch --locked --quiet
echo "machine: $(nproc) cores $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1), load $(cut -d' ' -f1 /proc/loadavg)"
echo "$(rustc --version), $(cargo --version), commit $(git describe --always --dirty)"
echo "command: CARGO_TARGET_DIR=<empty> cargo build --release --locked"
report=$target/measure.json
CARGO_TARGET_DIR=$target/target python3 bench/measure.py "$report" -- cargo build --release --locked --quiet
python3 - "$report" "$target/target/release/insightera" <<'PYTHON'
import json, os, shutil, subprocess, sys
cost = json.load(open(sys.argv[1]))
print(f"wall {cost['wall']:.0f} s, CPU {cost['cpu']:.0f} s ({cost['cpu'] / 60:.1f} min)")
size = os.path.getsize(sys.argv[2])
stripped = sys.argv[2] + ".stripped"
shutil.copy(sys.argv[2], stripped)
if shutil.which("strip"):
    subprocess.run(["strip", stripped], check=True)
print(f"binary {size / 2**20:.1f} MiB, stripped {os.path.getsize(stripped) / 2**20:.1f} MiB")
PYTHON
