#!/usr/bin/env bash
# Runs many seeds of `sequences`, random sequences of everything that can happen
# to a table, or of `simulations` of a stream (crates/engine/tests/it).
#
#   scripts/seeds.sh sequences --count 100000           seeds 1 to 100000
#   scripts/seeds.sh simulations --first 500 --count 20 seeds 500 to 519
#   scripts/seeds.sh simulations --record FILE          writes there what they did
#   scripts/seeds.sh sequences --until 100000 --record FILE --minutes 60
#                                                       goes on where FILE ends, in pieces of --count seeds, for so long
#   scripts/seeds.sh simulations --program PROGRAM      the engine's test program, built with the feature `faults`
#
# INSIGHTERA_BUILD_JSON  what `cargo test --no-run --message-format=json` wrote, where the program is not named
set -uo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
suite=${1:-} first=1 count=1000 record="" program="" until="" minutes=100000 asked="$*"
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
        --record) record=$(realpath -m "$2") ;;
        --until) until=$2 ;;
        --minutes) minutes=$2 ;;
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

if [ -n "$until" ] && [ -z "$record" ]; then usage; fi

mkdir -p .cache
log=$PWD/.cache/$suite-run.log
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD -- crates 2>/dev/null || echo ' with changes')
machine="$(nproc) processors ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1))"

# seeds FIRST COUNT: runs them; what they did is in `told` and `failure`.
seeds() {
    local start=$SECONDS
    (cd crates/engine && env "INSIGHTERA_${variable}S=$2" "INSIGHTERA_${variable}_SEED=$1" \
        "$program" --nocapture --exact "$suite::$test") 2>&1 | tee "$log"
    code=${PIPESTATUS[0]} took=$((SECONDS - start))
    told=$(grep -m 1 "^$suite: " "$log")
    failure=$(grep -m 1 -oE '^seed [0-9]+, step [0-9]+: .{0,200}' "$log")
}

if [ -z "$until" ]; then
    seeds "$first" "$count"
    if [ -n "$record" ]; then
        {
            echo "# What the $suite did"
            echo
            echo "Written by \`scripts/seeds.sh $asked\` on $(date -u +%F), at commit $commit: $machine, $took s."
            echo
            echo "$told" | sed -nE 's/^[a-z]+: (seeds [0-9]+ to [0-9]+): ([0-9]+ steps): (.*)$/- \1, \2\n- \3/p'
            if [ "$code" -eq 0 ]; then echo "- no failure"; else echo "- FAILED: ${failure:-see the log}"; fi
        } >"$record"
    fi
    exit "$code"
fi

# Piece by piece, one row of the record for all pieces of a day and commit.
rows() { grep -E '^\| [0-9]+ to [0-9]+ \|' "$record" 2>/dev/null; }
# What somebody wrote below the rows stays.
notes() { sed '1,/^|---/d' "$record" 2>/dev/null | grep -v '^|'; }
ends=$((SECONDS + minutes * 60))
while [ "$SECONDS" -lt "$ends" ]; do
    first=$(rows | tail -n 1 | sed -nE 's/^\| [0-9]+ to ([0-9]+) \|.*/\1/p')
    first=$((${first:-0} + 1))
    if [ "$first" -gt "$until" ]; then exit 0; fi
    if rows | grep -q FAILED; then
        echo "a seed failed: mend it, and begin anew without $record" >&2
        exit 1
    fi
    last=$((first + count - 1))
    if [ "$last" -gt "$until" ]; then last=$until; fi
    seeds "$first" $((last - first + 1))
    steps=$(echo "$told" | sed -nE 's/^[a-z]+: seeds [0-9]+ to [0-9]+: ([0-9]+) steps.*/\1/p')
    # Stopped from outside: the piece is run again another time.
    if [ -z "$steps" ]; then exit 1; fi
    result="no failure"
    if [ "$code" -ne 0 ]; then result="FAILED: ${failure:-see the log}"; fi
    all=$({ rows; echo "| $first to $last | $steps | $took | $commit | $(date -u +%F) | $result |"; } | awk -F ' *\\| *' -v OFS=' | ' '
        { split($2, range, " to "); key = $5 OFS $6 OFS $7 }
        key == known { to = range[2]; steps += $3; took += $4; next }
        known != "" { print "| " from " to " to, steps, took, known " |" }
        { from = range[1]; to = range[2]; steps = $3; took = $4; known = key }
        END { print "| " from " to " to, steps, took, known " |" }')
    notes=$(notes)
    {
        echo "# What the $suite did"
        echo
        echo "Written by \`scripts/seeds.sh $suite --until $until --record …\`, which goes on where this ends: $machine, other"
        echo "work beside it. So far seeds 1 to $last of $until; \`./test --long\` runs all of them in one go."
        echo
        echo "| seeds | steps | seconds | commit | day | result |"
        echo "|---|---|---|---|---|---|"
        echo "$all"
        if [ -n "$notes" ]; then echo "$notes"; fi
    } >"$record.new" && mv "$record.new" "$record"
    if [ "$code" -ne 0 ]; then exit "$code"; fi
done
