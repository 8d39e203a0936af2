#!/usr/bin/env bash
# Fuzzes the loaders of crates/infer, and scoring with what they load.
#
#   fuzz/run.sh                           20 seconds a format
#   fuzz/run.sh --seconds 300
#   fuzz/run.sh --executions 5000000
#   fuzz/run.sh --format spark
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

limit=(-max_total_time=20) only="" program=""
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds) limit=("-max_total_time=$2") ;;
        --executions) limit=("-runs=$2") ;;
        --format) only=$2 ;;
        --program) program=$2 ;;
        *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
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
required=" xgboost-json xgboost-ubj lightgbm spark "

passed=0 failed=0
for seeds in fuzz/seeds/*/; do
    format=$(basename "$seeds")
    if [ -n "$only" ] && [ "$only" != "$format" ]; then continue; fi
    export INSIGHTERA_FUZZ_FORMAT=$format
    findings=$out/found corpus=$out/corpus/$format log=$out/$format.log
    mkdir -p "$findings" "$corpus"
    folders=("$corpus" "$seeds")
    if [ -d "fuzz/findings/$format" ]; then folders+=("fuzz/findings/$format"); fi
    # A seed that does not load would fuzz the first check only.
    all=$(find "$seeds" -type f | wc -l)
    loaded=$(INSIGHTERA_FUZZ_TELL=1 "$program" "$seeds"/* 2>&1 | grep -c '^loaded:')
    if [ "$loaded" -eq 0 ] && [[ "$required" != *" $format "* ]]; then
        echo "test fuzz $format ... SKIPPED: this version loads none of its $all seeds"
        continue
    fi
    options=("${limit[@]}" -timeout=10 -rss_limit_mb=1536 -max_len=65536 -len_control=0 -print_final_stats=1
        -artifact_prefix="$findings/$format-")
    if [ -e "fuzz/dictionaries/$format.dict" ]; then options+=(-dict="fuzz/dictionaries/$format.dict"); fi
    "$program" "${options[@]}" "${folders[@]}" >"$log" 2>&1
    code=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    memory=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    covered=$(grep -oE 'cov: [0-9]+' "$log" | tail -n 1)
    if [ "$code" -eq 0 ] && [ "$loaded" -eq "$all" ]; then
        passed=$((passed + 1))
        echo "test fuzz $format ... ok: ${executions:-0} executions, ${speed:-0} a second, $covered, at most ${memory:-?} MB"
    else
        failed=$((failed + 1))
        echo "test fuzz $format ... FAILED: $loaded of $all seeds load, exit $code; $log says"
        grep -m 3 -E 'FOUND|ERROR: libFuzzer|SUMMARY' "$log"
        sed -n 's/.*Test unit written to /  input: /p' "$log"
    fi
done
result=ok
if [ "$failed" -gt 0 ]; then result=FAILED; fi
echo "test result: $result. $passed passed; $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
