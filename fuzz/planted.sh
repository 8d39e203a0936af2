#!/usr/bin/env bash
# Shows that fuzzing finds what it is there for: leaves the check of indices out
# of the loaders, then the check for cycles, and tells how long each format takes
# to find that. Over 60 seconds is a failure.
#
#   fuzz/planted.sh [--format NAME]
#
# Starts from the seeds alone. Variables of build.sh apply.
set -uo pipefail
cd "$(dirname "$0")/.."
only=""
if [ "${1:-}" = --format ]; then only=$2; fi
out=${INSIGHTERA_FUZZ_DIR:-.cache/fuzz}

passed=0 failed=0
for planted in bounds cycle; do
    program=$(fuzz/build.sh --planted "$planted") || exit 1
    for format in xgboost-json xgboost-ubj lightgbm spark; do
        if [ -n "$only" ] && [ "$only" != "$format" ]; then continue; fi
        log=$out/planted-$planted-$format.log
        corpus=$(mktemp -d)
        start=$(date +%s.%N)
        INSIGHTERA_FUZZ_FORMAT=$format "$program" -max_total_time=60 -timeout=5 -rss_limit_mb=1536 -max_len=65536 \
            -len_control=0 -artifact_prefix="$corpus/" -dict="fuzz/dictionaries/$format.dict" \
            "$corpus" "fuzz/seeds/$format" >"$log" 2>&1
        code=$?
        took=$(awk "BEGIN {printf \"%.1f\", $(date +%s.%N) - $start}")
        rm -rf "$corpus"
        what=$(grep -A 1 -m 1 -E 'FOUND|ERROR: libFuzzer' "$log" | tr '\n' ' ' | sed 's/[^ ]*crates/crates/' | cut -c1-150)
        if [ "$code" -ne 0 ]; then
            passed=$((passed + 1))
            echo "test planted $planted $format ... found in $took s: $what"
        else
            failed=$((failed + 1))
            echo "test planted $planted $format ... FAILED: not found in $took s, see $log"
        fi
    done
done
result=ok
if [ "$failed" -gt 0 ]; then result=FAILED; fi
echo "test result: $result. $passed passed; $failed failed"
[ "$failed" -eq 0 ]
