#!/bin/sh
# Retrains the demo teacher, models/demo: its text, its tokenizer, then `quern train`. What is made on the way is kept in
# build/demo-training. Further options go to quern train; a run that was stopped goes on with --resume.
#
#     tools/train-demo.sh [--resume] [--compute bf16] [--threads N]
#
# Needs the Debian packages named in demo_corpus.py, the quern program ($QUERN_BIN, else build/release/src/cli/quern) and,
# for the tokenizer, the reference stack (tools/setup-reference.sh).
set -eu
cd "$(dirname "$0")/.."
quern=${QUERN_BIN:-build/release/src/cli/quern}
python=${QUERN_PYTHON:-build/venv/bin/python}
work=build/demo-training
model=models/demo

if [ ! -e "$work/start/tokenizer.json" ]; then
    mkdir -p "$work/start"
    python3 tools/demo_corpus.py --out "$work"
    cp "$model/config.json" "$model/generation_config.json" "$work/start"
    "$python" tools/make_demo_tokenizer.py --out "$work/start"
fi
"$quern" train --config "$work/start" --text "$work/train.txt" --dev "$work/dev.txt" -o "$work/run" --seed 1 \
    --context 512 --batch 4 --lr 2.5e-3 --warmup 100 --min-lr-ratio 0.02 --weight-decay 0.1 --beta2 0.95 --clip 1 \
    --save-every 100 --eval-every 400 --steps 2800 "$@"

for file in model.safetensors tokenizer.json tokenizer_config.json; do
    cp "$work/run/$file" "$model/$file"
done
cp "$work/dev.txt" "$work/calibration.txt" "$model"
"$quern" score "$model" --docs "$model/dev.txt"
