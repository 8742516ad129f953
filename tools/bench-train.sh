#!/usr/bin/env bash
# Steps of training beside PyTorch, eager and compiled, in turns on one machine (BENCHMARKS.md):
#   tools/bench-train.sh [SHAPE...]        default: demo 1024 2048; whole optimiser steps
#   SUITE=distill tools/bench-train.sh     steps of block-wise distillation
#   SUITE=fit tools/bench-train.sh         GPTQ and coordinate descent of one layer, which has one shape, in f32
# Environment: SUITE (train), QUERN (build/release/src/cli/quern), PYTHON (build/venv/bin/python), THREADS (1), ROUNDS (3), REPEATS (2 steps
# of each side a round, after one that is not counted). Every measurement is a process of its own, so peaks are its own, too.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${SUITE:-train}
quern=${QUERN:-build/release/src/cli/quern}
python=${PYTHON:-build/venv/bin/python}
threads=${THREADS:-1}
rounds=${ROUNDS:-3}
repeats=${REPEATS:-2}
[ $# -gt 0 ] || set -- demo 1024 2048
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=$threads

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

run_quern() {
    "$quern" bench "$suite" --json --quiet "$@" --threads "$threads" --repeats "$repeats" >>"$folder/quern.jsonl"
}

run_reference() {
    "$python" tools/bench-reference.py "$suite" "$@" --threads "$threads" --repeats "$repeats" \
        2>"$folder/log" >>"$folder/reference.jsonl" || { tail -n 5 "$folder/log" >&2; exit 1; }
}

for round in $(seq "$rounds"); do
    if [ "$suite" = fit ]; then
        echo "bench-train: round $round of $rounds, fit" >&2
        run_quern
        run_reference
        continue
    fi
    for shape in "$@"; do
        for compute in f32 bf16; do
            echo "bench-train: round $round of $rounds, $suite, $shape, $compute" >&2
            run_quern --shape "$shape" --compute "$compute"
            run_reference --shape "$shape" --compute "$compute"
            run_reference --shape "$shape" --compute "$compute" --compile
        done
    done
done

lscpu | sed -n 's/^Model name: */machine: /p'
echo "processors: $(nproc --all), load $(cut -d' ' -f1-3 /proc/loadavg), threads $threads, $("$quern" --version)"
echo "$rounds rounds of $repeats runs, best of either side, by processor time"
echo
"$python" tools/bench-table.py "$folder/quern.jsonl" "$folder/reference.jsonl"
