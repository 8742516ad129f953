#!/usr/bin/env python3
"""What `quern bench` is compared with: the same work done by tokenizers, transformers and sha256sum, as JSON rows.

    bench-reference.py SUITE --model DIR --docs FILE.txt [--threads N] [--repeats N]
    bench-reference.py train --shape NAME --compute f32|bf16 [--compile] [--threads N] [--repeats N]

SUITE is tokenizer, score or pack. Needs requirements-test.txt (pack: nothing). Rows have the fields of `quern bench
--json` and carry the digest or the loss that shows both sides did the same work.
"""

import argparse
import hashlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

LEAST_SAMPLE_S = 0.05  # as in quern bench


def reset_peak_rss():
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass  # then the peak is that of the whole process


def peak_rss_bytes():
    for line in pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor_seconds():
    """Of this process and of the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(suite, case, unit, work, repeats, run):
    """One row: RUN once to warm up, then REPEATS samples of at least 50 ms."""
    reset_peak_rss()
    began = time.perf_counter()
    run()
    n_runs = max(1, int(LEAST_SAMPLE_S / (time.perf_counter() - began)) + 1)
    samples = []
    for _ in range(repeats):
        began, processor_began = time.perf_counter(), processor_seconds()
        for _ in range(n_runs):
            run()
        seconds = time.perf_counter() - began
        samples.append((seconds / n_runs, (processor_seconds() - processor_began) / seconds))
    best, cores = min(samples)
    median = statistics.median(seconds for seconds, _ in samples)
    return {"suite": suite, "case": case, "unit": unit, "work": work, "best": work / best, "median": work / median,
            "cores": cores, "peak_rss_bytes": peak_rss_bytes()}


def documents(path):
    return pathlib.Path(path).read_text(encoding="utf-8").split("<|endoftext|>\n")


def tokenizer(args):
    """One thread, without offsets: the fastest call the library has."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import numpy
    import tokenizers

    encoder = tokenizers.Tokenizer.from_file(str(pathlib.Path(args.model, "tokenizer.json")))
    texts = [text for text in documents(args.docs) if text]
    ids = []

    def run():
        ids[:] = [e.ids for e in encoder.encode_batch_fast(texts, add_special_tokens=False)]

    row = measure("tokenizer", "encode, 1 thread", "MB/s", sum(len(t.encode()) for t in texts) / 1e6, args.repeats, run)
    row["output_sha256"] = hashlib.sha256(numpy.array(sum(ids, []), dtype="<i4").tobytes()).hexdigest()
    row["by"] = f"tokenizers {tokenizers.__version__}"
    return [row]


def score(args):
    """Each document's first 512 ids: one document at a time, and padded batches of eight of like length."""
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    encode = transformers.AutoTokenizer.from_pretrained(args.model, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, local_files_only=True, dtype=torch.float32)
    model.eval()
    windows = [encode(text, add_special_tokens=False)["input_ids"][:512] for text in documents(args.docs)]
    windows = sorted((ids for ids in windows if len(ids) > 1), key=len)
    n_targets = sum(len(ids) - 1 for ids in windows)
    nats = []

    @torch.inference_mode()
    def run(batch_size):
        total = 0.0
        for at in range(0, len(windows), batch_size):
            batch = windows[at:at + batch_size]
            longest = len(batch[-1])
            # Padding stands on the right, where a causal model's other positions do not see it.
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
            targets = torch.tensor([row[1:] + [-100] * (longest - len(row)) for row in batch])
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            total += loss.double().sum().item()
        nats[:] = [total / n_targets]

    rows = []
    for batch_size in (1, 8):
        row = measure("score", "documents, f32", "tokens/s", n_targets, args.repeats, lambda n=batch_size: run(n))
        row["nats"] = nats[0]
        row["by"] = f"transformers {transformers.__version__}, torch {torch.__version__}, batches of {batch_size}"
        rows.append(row)
    return rows


def pack(args):
    """sha256sum over a file of as many random bytes as the folder that quern packs, the page cache warm."""
    n_bytes = 70_000_000
    with tempfile.NamedTemporaryFile(prefix="quern-bench-") as file:
        file.write(os.urandom(n_bytes))
        file.flush()
        rows = [measure("pack", case, "MB/s", n_bytes / 1e6, args.repeats,
                        lambda: subprocess.run(["sha256sum", file.name], check=True, stdout=subprocess.DEVNULL))
                for case in ("sha256 of a file", "pack a folder")]
    version = subprocess.run(["sha256sum", "--version"], check=True, capture_output=True, text=True).stdout.split("\n")[0]
    for row in rows:
        row["peak_rss_bytes"] = 0  # a child's own peak cannot be told from that of the process it was forked from
        row["by"] = version
    return rows


# hidden, layers, heads, key heads, head size, intermediate, vocabulary, batch, context: as src/cli/bench_train.c
SHAPES = {"demo": ("demo", 256, 4, 4, 2, 64, 384, 2048, 8, 512),
          "1024": ("hidden 1024", 1024, 4, 16, 8, 64, 3072, 4096, 2, 512),
          "2048": ("hidden 2048", 2048, 2, 16, 8, 128, 6144, 4096, 2, 512)}


def train(args):
    """Steps of a Qwen3 of transformers: loss, backward, clip and the fused AdamW, all weights in f32. With bf16, torch's
    autocast runs the products in bf16."""
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    name, hidden, layers, heads, kv_heads, head_dim, wide, vocab, batch, context = SHAPES[args.shape]
    config = transformers.Qwen3Config(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, tie_word_embeddings=True, eos_token_id=None, bos_token_id=None)
    model = transformers.Qwen3ForCausalLM(config).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, vocab, (batch, context))

    def loss_of(ids):
        logits = model(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())

    loss = torch.compile(loss_of) if args.compile else loss_of

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.compute == "bf16"):
            value = loss(ids)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step()  # compiles; neither its time nor its memory counts
    row = measure("train", f"{name}, {args.compute}", "tokens/s", batch * context, args.repeats, step)
    row["by"] = f"torch {torch.__version__.split('+')[0]}, {'compiled' if args.compile else 'eager'}"
    return [row]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    suites = {"tokenizer": tokenizer, "score": score, "pack": pack, "train": train}
    parser.add_argument("suite", choices=suites)
    parser.add_argument("--model")
    parser.add_argument("--docs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--compute", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    if args.suite not in ("pack", "train") and not (args.model and args.docs):
        parser.error(f"suite {args.suite} needs --model and --docs")
    json.dump({"threads": args.threads, "repeats": args.repeats, "rows": suites[args.suite](args)}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
