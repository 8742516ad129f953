#!/usr/bin/env python3
"""Peak memory of a calibrated run against the number of layers: it should not depend on it.

    tools/bench-memory.py                     # 4, 16 and 64 layers
    tools/bench-memory.py --layers 4,8 --hidden 512

Makes random Qwen3 models that differ in their number of layers alone, compresses each (`quern compress`, fits without
training) and prints the greatest resident set of the process, mapped files included, as the system counted it. The text is
models/demo/calibration.txt. The program is $QUERN_BIN, else build/release/src/cli/quern. Standard library only.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEMO = ROOT / "models" / "demo"
HEAD_DIM = 64
ONE = struct.pack("<H", 0x3F80)  # in bf16
EXPONENTS = bytes(0x3C if byte < 128 else 0xBC for byte in range(256))  # upper bytes of bf16: 0.008 to 0.03, either sign


def shapes(config):
    """Names and shapes of all tensors."""
    h, inner = config["hidden_size"], config["intermediate_size"]
    q, kv = config["num_attention_heads"] * HEAD_DIM, config["num_key_value_heads"] * HEAD_DIM
    yield "model.embed_tokens.weight", (config["vocab_size"], h)
    for layer in range(config["num_hidden_layers"]):
        for name, shape in (("self_attn.q_proj", (q, h)), ("self_attn.k_proj", (kv, h)), ("self_attn.v_proj", (kv, h)),
                            ("self_attn.o_proj", (h, q)), ("mlp.gate_proj", (inner, h)), ("mlp.up_proj", (inner, h)),
                            ("mlp.down_proj", (h, inner)), ("input_layernorm", (h,)),
                            ("post_attention_layernorm", (h,)), ("self_attn.q_norm", (HEAD_DIM,)),
                            ("self_attn.k_norm", (HEAD_DIM,))):
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (h,)


def values(shape, generator):
    """The bytes of a tensor in bf16."""
    if len(shape) == 1:
        return ONE * shape[0]
    n = shape[0] * shape[1]
    data = bytearray(2 * n)
    data[0::2] = generator.randbytes(n)
    data[1::2] = generator.randbytes(n).translate(EXPONENTS)
    return bytes(data)


def write_model(folder, layers, hidden):
    config = json.loads((DEMO / "config.json").read_text())
    config.update(hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers, head_dim=HEAD_DIM,
                  num_attention_heads=hidden // HEAD_DIM, num_key_value_heads=max(1, hidden // HEAD_DIM // 2),
                  tie_word_embeddings=True, layer_types=["full_attention"] * layers)
    header, offset, tensors = {}, 0, list(shapes(config))
    for name, shape in tensors:
        n_bytes = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text, generator = json.dumps(header).encode(), random.Random(1)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        if (DEMO / name).exists():
            shutil.copy(DEMO / name, folder)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors:
            file.write(values(shape, generator))
    return offset


def peak_of(command):
    """Greatest resident set of a command in MiB."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)  # it is waited for already
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit status {child.returncode}")
    return usage.ru_maxrss / 1024


def measure(layers, args):
    quern = os.environ.get("QUERN_BIN", str(ROOT / "build/release/src/cli/quern"))
    with tempfile.TemporaryDirectory(prefix="quern-memory-") as name:
        folder = pathlib.Path(name)
        n_bytes = write_model(folder / "model", layers, args.hidden)
        recipe = folder / "recipe.yaml"
        recipe.write_text(f"name: memory\ncalibrate:\n  tokens: {args.tokens}\n  fisher_tokens: {args.tokens}\n"
                          "distill:\n  steps: 0\nfinetune:\n  steps: 0\n")
        peak = peak_of([quern, "compress", folder / "model", "--track", args.track, "--recipe", recipe, "--text",
                        DEMO / "calibration.txt", "--no-tokenizer", "-o", folder / "artifact.zip", "--threads", str(args.threads),
                        "--quiet"])
    return n_bytes, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="4,16,64", help="numbers of layers (default %(default)s)")
    parser.add_argument("--hidden", type=int, default=256, help="a multiple of 128 (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=4096, help="of calibration (default %(default)s)")
    parser.add_argument("--track", choices=("binary", "ternary"), default="ternary")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    print("| layers | weights, MiB | peak, MiB |\n|---:|---:|---:|")
    for layers in map(int, args.layers.split(",")):
        n_bytes, peak = measure(layers, args)
        print(f"| {layers} | {n_bytes / 2**20:.0f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
