#!/bin/sh
# Trains two more small teachers on the demo's text, so that a table of qualities does not rest on one model alone. They are
# of other shapes than models/demo and less trained, and go to build/extra-teachers. What was trained already is kept; a run
# that was stopped goes on.
#
#     tools/train-extra-teachers.sh [deep] [wide] [-- options of quern train]
#
#     deep: 5 narrow layers, one key-value head, a head of its own
#     wide: 3 layers, as many key-value heads as heads, embedding and head shared
#
# Needs the quern program ($QUERN_BIN, else build/release/src/cli/quern) and the text and tokenizer that tools/train-demo.sh
# made ($QUERN_DEMO_TRAINING, else build/demo-training).
set -eu
cd "$(dirname "$0")/.."
quern=${QUERN_BIN:-build/release/src/cli/quern}
text=${QUERN_DEMO_TRAINING:-build/demo-training}
out=build/extra-teachers

# config NAME HIDDEN LAYERS INTERMEDIATE HEADS KV_HEADS HEAD_DIM TIED
config() {
    mkdir -p "$out/start-$1"
    cp "$text/start/tokenizer.json" "$text/start/tokenizer_config.json" "$text/start/generation_config.json" "$out/start-$1"
    cat > "$out/start-$1/config.json" <<END
{
  "architectures": ["Qwen3ForCausalLM"],
  "model_type": "qwen3",
  "vocab_size": 2048,
  "hidden_size": $2,
  "num_hidden_layers": $3,
  "intermediate_size": $4,
  "num_attention_heads": $5,
  "num_key_value_heads": $6,
  "head_dim": $7,
  "tie_word_embeddings": $8,
  "attention_bias": false,
  "attention_dropout": 0.0,
  "hidden_act": "silu",
  "initializer_range": 0.02,
  "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "rope_scaling": null,
  "sliding_window": null,
  "use_sliding_window": false,
  "use_cache": true,
  "bos_token_id": null,
  "eos_token_id": 2045,
  "torch_dtype": "bfloat16"
}
END
}

# train NAME STEPS [OPTION...]
train() {
    name=$1 steps=$2
    shift 2
    if [ -e "$out/$name/model.safetensors" ]; then return; fi
    resume=
    if [ -e "$out/$name/train.json" ]; then resume=--resume; fi
    "$quern" train --config "$out/start-$name" --text "$text/train.txt" --dev "$text/dev.txt" -o "$out/$name" --seed 1 \
        --context 512 --batch 4 --lr 2.5e-3 --warmup 50 --min-lr-ratio 0.02 --weight-decay 0.1 --beta2 0.95 --clip 1 \
        --save-every 100 --steps "$steps" $resume "$@"
}

names=
while [ $# -gt 0 ]; do
    case $1 in
    --) shift; break ;;
    deep | wide) names="$names $1"; shift ;;
    *) echo "$0: no teacher '$1': deep or wide" >&2; exit 2 ;;
    esac
done
for name in ${names:-deep wide}; do
    case $name in
    deep) config deep 192 5 512 6 1 32 false; train deep 800 "$@" ;;
    wide) config wide 320 3 832 5 5 64 true; train wide 500 "$@" ;;
    esac
done
