#!/bin/sh
# Compresses the embedded teacher on both tracks and reports: sizes, gates, perplexity before and after.
set -eu
cd "$(dirname "$0")/.."
quern=build/release/src/cli/quern
out=build/demo
mkdir -p "$out"
echo "The embedded teacher: models/demo (models/demo/README.md says where it comes from)"
"$quern" info models/demo
for track in binary ternary; do
    echo
    echo "== $track: quern compress models/demo --track $track --effort fast --text models/demo/calibration.txt -o $out/$track.zip --docs models/demo/dev.txt"
    "$quern" compress models/demo --track "$track" --effort fast --text models/demo/calibration.txt -o "$out/$track.zip" \
        --docs models/demo/dev.txt
done
echo
echo "== a few words from the ternary artifact"
"$quern" generate "$out/ternary.zip" --prompt "And it came to pass" --max-new-tokens 40 --seed 1
echo
echo "Artifacts: $out/binary.zip $out/ternary.zip"
echo "Fits alone (--effort fast); training after them gains more and takes minutes: docs/distillation.md."
echo "Perplexities are of the dev text beside the teacher: development figures, no leaderboard scores."
