#!/usr/bin/env bash
# Builds the fuzzer; the last line of its output is the program.
#
#   fuzz/build.sh [--planted bounds|cycle]
#
# Coverage is wanted of crates/infer alone, so only that crate is compiled once
# more, by rustc itself; everything below it is what cargo has already built.
#
# CARGO_TARGET_DIR       as for cargo
# INSIGHTERA_BUILD_JSON  messages of the cargo build that built crates/infer
# INSIGHTERA_FUZZ_DIR    where the fuzzer goes, by default .cache/fuzz
set -euo pipefail
cd "$(dirname "$0")/.."

planted=""
case "${1:-}" in
    "") ;;
    --planted) planted=$2 ;;
    *) echo "usage: fuzz/build.sh [--planted bounds|cycle]" >&2; exit 2 ;;
esac
out=$(mkdir -p "${INSIGHTERA_FUZZ_DIR:-.cache/fuzz}" && cd "${INSIGHTERA_FUZZ_DIR:-.cache/fuzz}" && pwd)

# The engine, once, while the rest is compiled.
CARGO_TARGET_DIR=$out/engine cargo build --release --locked --manifest-path fuzz/Cargo.toml \
    --message-format=json-render-diagnostics >"$out/engine.json" &
building=$!
messages=${INSIGHTERA_BUILD_JSON:-}
if [ -z "$messages" ]; then
    messages=$out/build.json
    cargo build --release --locked -p insightera-infer --message-format=json-render-diagnostics >"$messages"
fi

# library MESSAGES CRATE: where cargo put it.
library() {
    local found
    found=$(grep '"reason":"compiler-artifact"' "$1" | grep -F "\"name\":\"$2\"" |
        grep -E '"profile":\{"opt_level":"[^0][^}]*"test":false\}' | grep -oE '[^"]*\.rlib' | sort -u)
    if [ "$(wc -l <<<"$found")" -ne 1 ] || [ -z "$found" ]; then
        echo "no single library of $2 in $1: $found" >&2
        return 1
    fi
    echo "$found"
}

externs=()
while read -r crate; do
    externs+=(--extern "$crate=$(library "$messages" "$crate")")
done < <(sed -n '/^\[dependencies\]/,/^\[/s/^\([a-z0-9_-]*\)\(\.workspace\)* *=.*/\1/p' crates/infer/Cargo.toml | tr - _)
core=$(library "$messages" insightera_core)
common=(--edition 2024 -C opt-level=2 -C debuginfo=line-tables-only -C overflow-checks=on -C debug-assertions=on
    --cap-lints allow -L "dependency=$(dirname "$core")")
coverage=(-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table
    -C llvm-args=-sanitizer-coverage-trace-compares)

# stamp TEXT FILE...: what a part is made of.
stamp() { local text=$1; shift; { rustc -V; echo "$text"; cat fuzz/build.sh "$@"; } | sha256sum | cut -c1-16; }
readarray -t product < <(find crates/infer/src -name '*.rs' | sort)
readarray -t harness < <(find fuzz/harness -name '*.rs' | sort)

name=${planted:-product}
# Cargo rebuilds a crate of the workspace under its old name.
folder=$out/$name-$(stamp "${externs[*]} $planted $(sha256sum <"$core")" "${product[@]}")
if [ ! -e "$folder/libinsightera_infer.rlib" ]; then
    rm -rf "$out/$name"-*
    mkdir -p "$folder"
    rustc --crate-name insightera_infer --crate-type rlib crates/infer/src/lib.rs -C codegen-units=4 -C metadata=fuzz \
        "${common[@]}" "${coverage[@]}" ${planted:+--cfg "insightera_planted=\"$planted\""} \
        "${externs[@]}" --out-dir "$folder"
fi
wait "$building"
engine=$(library "$out/engine.json" insightera_fuzz_engine)
natives=$(grep -ohE '"linked_paths":\[[^]]*\]' "$messages" "$out/engine.json" | grep -oE 'native=[^"]*' | sort -u | sed 's/^/-L /')
program=$folder/fuzz-$(stamp "$engine" "${harness[@]}")
if [ ! -x "$program" ]; then
    rm -f "$folder"/fuzz-*
    # shellcheck disable=SC2086 # one word each
    rustc --crate-name fuzz --crate-type bin fuzz/harness/main.rs -C codegen-units=4 "${common[@]}" \
        "${externs[@]}" --extern "insightera_infer=$folder/libinsightera_infer.rlib" \
        -L "dependency=$(dirname "$engine")/deps" \
        --extern "libfuzzer_sys=$engine" $natives -o "$program"
fi
echo "$program"
