#!/usr/bin/env bash
# Runs every libFuzzer target of a build folder for some seconds: tools/run-fuzzers.sh BUILD_FOLDER [SECONDS]
# What they learn is kept in BUILD_FOLDER/corpus, inputs that fail in BUILD_FOLDER/findings. Exit 1 when one fails.
set -uo pipefail
build=$1
seconds=${2:-60}
seeds=$(dirname "$0")/../tests/fuzz/corpus
status=0
mkdir -p "$build/findings"

for program in "$build"/tests/fuzz/fuzz_*; do
    name=$(basename "$program")
    name=${name#fuzz_}
    mkdir -p "$build/corpus/$name"
    echo "run-fuzzers: $name, $seconds s"
    "$program" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$build/findings/$name-" "$build/corpus/$name" "$seeds/$name" || status=1
done
[ $status -eq 0 ] && echo "run-fuzzers: nothing found" || echo "run-fuzzers: see $build/findings"
exit $status
