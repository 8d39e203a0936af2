#!/usr/bin/env bash
# Fuzzes the loaders of crates/infer, and scoring with what they load.
#
#   fuzz/run.sh                           20 seconds a format
#   fuzz/run.sh --seconds 300
#   fuzz/run.sh --executions 5000000      as many formats at a time as processors
#   fuzz/run.sh --format spark
#   fuzz/run.sh --record fuzz/RESULTS.md  writes there what every format did
#   fuzz/run.sh --program PROGRAM         one that build.sh built
#
# Starts from fuzz/seeds/FORMAT, models that the libraries saved (make_seeds.py),
# from fuzz/findings/FORMAT, every input that ever found something, and from what
# earlier runs have collected under .cache/fuzz. A finding ends the run of its
# format and names the file that shows it: once it is mended, the file goes to
# fuzz/findings/FORMAT.
#
# INSIGHTERA_FUZZ_MEGABYTES  memory that one input may take, 512
# Variables of build.sh apply too. CI=true: what cannot run counts as failed.
set -uo pipefail
cd "$(dirname "$0")/.."

asked="--seconds 20" limit=(-max_total_time=20) only="" program="" record="" jobs=1
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds) limit=("-max_total_time=$2") asked="$1 $2" ;;
        --executions) limit=("-runs=$2") jobs=$(nproc) asked="$1 $2" ;;
        --format) only=$2 ;;
        --record) record=$2 ;;
        --program) program=$2 ;;
        *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift 2 || exit 2
done
if ! command -v c++ >/dev/null; then
    echo "SKIPPED fuzz: no C++ compiler (apt-get install g++)"
    [ "${CI:-}" != true ]
    exit
fi
if [ -z "$program" ]; then
    program=$(fuzz/build.sh) || { echo "the fuzzer cannot be built" >&2; exit 1; }
fi
out=${INSIGHTERA_FUZZ_DIR:-.cache/fuzz}
# The loaders that this version has; other formats join when their seeds load.
required=" xgboost-json xgboost-ubj lightgbm spark onnx "

passed=0 failed=0
# one FORMAT: fuzzes it; its verdict is in $out/FORMAT.told, its row for the record in $out/FORMAT.row.
one() {
    local format=$1 seeds=fuzz/seeds/$1/
    export INSIGHTERA_FUZZ_FORMAT=$format
    local findings=$out/found corpus=$out/corpus/$format log=$out/$format.log told=$out/$format.told row=$out/$format.row
    mkdir -p "$findings" "$corpus"
    rm -f "$told" "$row"
    local folders=("$corpus" "$seeds")
    if [ -d "fuzz/findings/$format" ]; then folders+=("fuzz/findings/$format"); fi
    # A seed that does not load would fuzz the first check only.
    local all loaded
    all=$(find "$seeds" -type f | wc -l)
    loaded=$(INSIGHTERA_FUZZ_TELL=1 "$program" "$seeds"/* 2>&1 | grep -c '^loaded:')
    if [ "$loaded" -eq 0 ] && [[ "$required" != *" $format "* ]]; then
        echo "test fuzz $format ... SKIPPED: this version loads none of its $all seeds" >"$told"
        return
    fi
    local options=("${limit[@]}" -timeout=10 -rss_limit_mb=1536 -max_len=65536 -len_control=0 -print_final_stats=1
        -artifact_prefix="$findings/$format-")
    if [ -e "fuzz/dictionaries/$format.dict" ]; then options+=(-dict="fuzz/dictionaries/$format.dict"); fi
    local start=$SECONDS code executions speed memory covered took
    "$program" "${options[@]}" "${folders[@]}" >"$log" 2>&1
    code=$? took=$((SECONDS - start))
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    memory=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    covered=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1)
    local found=none
    if [ "$code" -ne 0 ]; then found=$(grep -oE -m 1 'FOUND: .*|ERROR: libFuzzer: .*' "$log" | cut -c1-120); fi
    echo "| $format | ${executions:-?} | $took | ${speed:-?} | ${covered#cov: } | ${memory:-?} | ${found:-unknown} |" >"$row"
    if [ "$code" -eq 0 ] && [ "$loaded" -eq "$all" ]; then
        echo "test fuzz $format ... ok: ${executions:-0} executions, ${speed:-0} a second, $covered, at most ${memory:-?} MB" >"$told"
    else
        {
            echo "test fuzz $format ... FAILED: $loaded of $all seeds load, exit $code; $log says"
            grep -m 3 -E 'FOUND|ERROR: libFuzzer|SUMMARY' "$log"
            sed -n 's/.*Test unit written to /  input: /p' "$log"
        } >"$told"
    fi
}

formats=()
for seeds in fuzz/seeds/*/; do
    format=$(basename "$seeds")
    if [ -n "$only" ] && [ "$only" != "$format" ]; then continue; fi
    formats+=("$format")
done
for format in "${formats[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    one "$format" &
done
wait
for format in "${formats[@]}"; do
    cat "$out/$format.told" || echo "test fuzz $format ... FAILED: it said nothing"
    case "$(cat "$out/$format.told" 2>/dev/null)" in
        *"... ok: "*) passed=$((passed + 1)) ;;
        *"... SKIPPED"*) ;;
        *) failed=$((failed + 1)) ;;
    esac
done
if [ -n "$record" ]; then
    {
        echo "# What fuzzing did"
        echo
        echo "Written by \`fuzz/run.sh ${asked} --record $record\` on $(date -u +%F), at commit" \
            "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD -- crates fuzz 2>/dev/null || echo ' with changes'):" \
            "$(nproc) processors ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), $(rustc -V)." \
            "An execution loads an input and scores rows with what loads; an input is a finding when it panics, takes over" \
            "${INSIGHTERA_FUZZ_MEGABYTES:-512} MB or 10 s, or when its scores do not go together or depend on the batch."
        echo
        echo "| format | executions | seconds | a second | edges covered | MB at most | findings |"
        echo "|---|---|---|---|---|---|---|"
        for format in "${formats[@]}"; do cat "$out/$format.row" 2>/dev/null; done
    } >"$record"
fi
result=ok
if [ "$failed" -gt 0 ]; then result=FAILED; fi
echo "test result: $result. $passed passed; $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
