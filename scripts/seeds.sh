#!/usr/bin/env bash
# Runs many seeds of `sequences`, random sequences of everything that can happen
# to a table, or of `simulations` of a stream (crates/engine/tests/it).
#
#   scripts/seeds.sh sequences --count 100000           seeds 1 to 100000
#   scripts/seeds.sh simulations --first 500 --count 20 seeds 500 to 519
#   scripts/seeds.sh simulations --record FILE          writes there what they did
#   scripts/seeds.sh simulations --program PROGRAM      the engine's test program, built with the feature `faults`
#
# INSIGHTERA_BUILD_JSON  what `cargo test --no-run --message-format=json` wrote, where the program is not named
set -uo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
suite=${1:-} first=1 count=1000 record="" program="" asked="$*"
case "$suite" in
    sequences) test=whatever_happens_to_a_table_no_reachable_file_is_lost_and_every_row_is_right variable=SEQUENCE ;;
    simulations) test=whatever_happens_to_a_stream_every_event_is_there_exactly_once variable=SIMULATION ;;
    *) usage ;;
esac
shift
while [ $# -gt 1 ]; do
    case "$1" in
        --first) first=$2 ;;
        --count) count=$2 ;;
        --record) record=$2 ;;
        --program) program=$(realpath "$2") ;;
        *) usage ;;
    esac
    shift 2
done
if [ -z "$program" ]; then
    build=${INSIGHTERA_BUILD_JSON:-.cache/build.json}
    program=$(grep -F '/crates/engine#' "$build" | grep -F '"name":"it"' | sed -nE 's/.*"executable":"([^"]+)".*/\1/p' | tail -n 1)
fi
if [ ! -x "$program" ]; then
    echo "there is no test program; build it with ./test --fast, or name one with --program" >&2
    exit 1
fi

mkdir -p .cache
log=$PWD/.cache/$suite-run.log start=$SECONDS
(cd crates/engine && env "INSIGHTERA_${variable}S=$count" "INSIGHTERA_${variable}_SEED=$first" \
    "$program" --nocapture --exact "$suite::$test") 2>&1 | tee "$log"
code=${PIPESTATUS[0]} took=$((SECONDS - start))
told=$(grep -m 1 "^$suite: " "$log")
if [ -n "$record" ]; then
    failure=$(grep -m 1 -oE '^seed [0-9]+, step [0-9]+: .{0,200}' "$log")
    {
        echo "# What the $suite did"
        echo
        echo "Written by \`scripts/seeds.sh $asked\` on $(date -u +%F), at commit" \
            "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD -- crates 2>/dev/null || echo ' with changes'):" \
            "$(nproc) processors ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)), $took s."
        echo
        echo "$told" | sed -nE 's/^[a-z]+: (seeds [0-9]+ to [0-9]+): ([0-9]+ steps): (.*)$/- \1, \2\n- \3/p'
        if [ "$code" -eq 0 ]; then echo "- no failure"; else echo "- FAILED: ${failure:-see the log}"; fi
    } >"$record"
fi
exit "$code"
