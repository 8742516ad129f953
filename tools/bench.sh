#!/usr/bin/env bash
# Quern beside the reference stack, in turns on one machine, and the ratios (BENCHMARKS.md):
#   tools/bench.sh [MODEL DOCS.txt]        default: models/demo and its dev.txt
# Environment: QUERN (build/release/src/cli/quern), PYTHON (build/venv/bin/python, else python3), THREADS (all),
# ROUNDS (5), REPEATS (3 samples of each side a round).
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-models/demo}
docs=${2:-models/demo/dev.txt}
quern=${QUERN:-build/release/src/cli/quern}
python=${PYTHON:-$([ -x build/venv/bin/python ] && echo build/venv/bin/python || echo python3)}
threads=${THREADS:-$(nproc)}
rounds=${ROUNDS:-5}
repeats=${REPEATS:-3}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The samples of the two sides alternate, so that other work on the machine slows both.
for round in $(seq "$rounds"); do
    for suite in tokenizer score pack; do
        echo "bench: round $round of $rounds, $suite" >&2
        options=(--threads "$threads" --repeats "$repeats" --model "$model" --docs "$docs")
        "$quern" bench "$suite" --json --quiet "${options[@]}" >>"$folder/quern.jsonl"
        "$python" tools/bench-reference.py "$suite" "${options[@]}" 2>>"$folder/log" >>"$folder/reference.jsonl" ||
            { tail -n 5 "$folder/log" >&2; exit 1; }
    done
done

lscpu | sed -n 's/^Model name: */machine: /p'
echo "processors: $(nproc), load $(cut -d' ' -f1-3 /proc/loadavg), threads $threads, $("$quern" --version)"
echo "model: $model, documents: $docs; $rounds rounds of $repeats samples, best of either side"
echo "loss: quern $("$quern" score "$model" --docs "$docs" --threads "$threads" --json |
    "$python" -c 'import json, sys; print("%.6f" % json.load(sys.stdin)["nats"])')," \
    "reference $("$python" -c 'import json, sys; print(*sorted({"%.6f" % row["nats"] for line in open(sys.argv[1])
    for row in json.loads(line)["rows"] if "nats" in row}))' "$folder/reference.jsonl") nats per token"
echo
"$python" tools/bench-table.py "$folder/quern.jsonl" "$folder/reference.jsonl"
