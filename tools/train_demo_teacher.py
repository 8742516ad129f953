#!/usr/bin/env python3
"""Train the demo teacher: a small Qwen3 language model with its tokenizer and its dev text.

    python3 tools/train_demo_teacher.py --out models/demo

Needs torch and transformers (requirements-test.txt) and the packages named in demo_corpus.py. With the same versions,
threads and seed the corpus and the tokenizer come out byte for byte; the weights do so up to the libraries' own
determinism.
"""

import argparse
import json
import math
import pathlib
import time

import torch
import transformers
from safetensors.torch import save_file

import demo_corpus
import make_demo_tokenizer

ARCHITECTURE = {
    "vocab_size": make_demo_tokenizer.VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
ROPE_THETA = 1e6
CONTEXT = 512
BATCH = 4
PEAK_RATE = 2.5e-3
LAST_RATE = 0.02  # of the peak
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.1
LOG_STEPS = 50


def learning_rate(step, steps):
    """Linear warm-up, then cosine down to LAST_RATE of the peak at the last step."""
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    angle = math.pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_RATE * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(angle)))


def contexts(encoded, end, generator):
    """Endless batches [BATCH, CONTEXT]: each pass joins the documents in a new order, an end token after each."""
    while True:
        order = torch.randperm(len(encoded), generator=generator).tolist()
        stream = torch.tensor([token for k in order for token in (*encoded[k], end)])
        rows = stream[: len(stream) // CONTEXT * CONTEXT].view(-1, CONTEXT)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        for first in range(0, len(rows) - BATCH + 1, BATCH):
            yield rows[first:first + BATCH]


def train(model, encoded, end, steps, seed):
    """AdamW in float32; returns the mean loss of the last LOG_STEPS steps."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY},
                                   {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95))
    batches = contexts(encoded, end, torch.Generator().manual_seed(seed))
    started, recent = time.monotonic(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        ids = next(batches)
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = (recent + [loss.item()])[-LOG_STEPS:]
        if (step + 1) % LOG_STEPS == 0:
            rate = (step + 1) * BATCH * CONTEXT / (time.monotonic() - started)
            print(f"step {step + 1}/{steps} loss {sum(recent) / len(recent):.4f} tokens/s {rate:.0f}", flush=True)
    return sum(recent) / len(recent)


@torch.no_grad()
def held_out_loss(model, encoded):
    """Mean loss in nats and number of targets, each document alone and cut at CONTEXT tokens."""
    total, targets = 0.0, 0
    for tokens in encoded:
        ids = torch.tensor([tokens[:CONTEXT]])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        targets += ids.numel() - 1
    return total / targets, targets


def save_model(model, folder):
    """The weights in bf16 (the shared embedding once) and a config that both generations of transformers read."""
    tensors = {name: value.detach().bfloat16().contiguous() for name, value in model.named_parameters()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **ARCHITECTURE,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": model.config.eos_token_id,
        "hidden_act": "silu",
        "initializer_range": model.config.initializer_range,
        "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    generation = {"eos_token_id": model.config.eos_token_id, "pad_token_id": model.config.eos_token_id}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder that receives the model")
    parser.add_argument("--steps", type=int, default=2800, help=f"steps of {BATCH} x {CONTEXT} tokens")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    splits = demo_corpus.load()
    for name in ("dev", "calibration"):
        (args.out / f"{name}.txt").write_text(demo_corpus.join(splits[name]), encoding="utf-8")
    tokenizer = make_demo_tokenizer.train(splits["train"])
    make_demo_tokenizer.save(tokenizer, args.out, ARCHITECTURE["max_position_embeddings"])
    encoded = {name: [e.ids for e in tokenizer.encode_batch(splits[name])] for name in ("train", "dev")}
    end = tokenizer.token_to_id(demo_corpus.SEPARATOR)
    for name, documents in encoded.items():
        print(f"{name}: {len(documents)} documents, {sum(map(len, documents))} tokens, "
              f"{sum(len(d.encode()) for d in splits[name])} bytes", flush=True)

    config = transformers.Qwen3Config(**ARCHITECTURE, rope_parameters={"rope_theta": ROPE_THETA, "rope_type": "default"},
                                      bos_token_id=None, eos_token_id=end, attn_implementation="sdpa")
    model = transformers.Qwen3ForCausalLM(config).float()
    print(f"parameters {sum(p.numel() for p in model.parameters())}", flush=True)
    started = time.monotonic()
    last = train(model, encoded["train"], end, args.steps, args.seed)
    seconds = time.monotonic() - started

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    save_model(model, args.out)
    loss, targets = held_out_loss(model, encoded["dev"])
    print(json.dumps({"packages": demo_corpus.package_versions(), "steps": args.steps, "seed": args.seed,
                      "tokens_seen": args.steps * BATCH * CONTEXT, "train_seconds": round(seconds),
                      "train_loss_last": round(last, 4), "dev_loss": round(loss, 4), "dev_ppl": round(math.exp(loss), 3),
                      "dev_targets": targets, "torch": torch.__version__, "transformers": transformers.__version__}))


if __name__ == "__main__":
    main()
