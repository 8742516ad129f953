#!/usr/bin/env python3
"""What `quern bench` is compared with: the same work done by tokenizers, transformers and sha256sum, as JSON rows.

    bench-reference.py SUITE --model DIR --docs FILE.txt [--threads N] [--repeats N]
    bench-reference.py train|distill --shape NAME --compute f32|bf16 [--compile] [--threads N] [--repeats N]
    bench-reference.py fit [--threads N] [--repeats N]

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
    """Of this process and, in ticks, of the children it has waited for."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


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


def qwen3(shape, **changes):
    """The shape's model of random weights, all in f32."""
    import transformers

    _, hidden, layers, heads, kv_heads, head_dim, wide, vocab, _, _ = SHAPES[shape]
    settings = {"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers,
                "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
                "tie_word_embeddings": True, "eos_token_id": None, "bos_token_id": None}
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**(settings | changes))).float().train()


def measure_steps(args, suite, case, n_tokens, parameters, loss_of):
    """Steps of loss, backward, clip and the fused AdamW. With bf16, autocast runs the products in bf16."""
    import torch

    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    loss = torch.compile(loss_of) if args.compile else loss_of

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.compute == "bf16"):
            value = loss()
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    step()  # compiles; neither its time nor its memory counts
    row = measure(suite, f"{case}, {args.compute}", "tokens/s", n_tokens, args.repeats, step)
    row["by"] = f"torch {torch.__version__.split('+')[0]}, {'compiled' if args.compile else 'eager'}"
    return row


def train(args):
    """Steps of a Qwen3 of transformers on the cross entropy of random ids."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    name, vocab, batch, context = [SHAPES[args.shape][i] for i in (0, 7, 8, 9)]
    model = qwen3(args.shape)
    ids = torch.randint(0, vocab, (batch, context))

    def loss():
        logits = model(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())

    return [measure_steps(args, "train", name, batch * context, model.parameters(), loss)]


def low_bit(layer, code, group_size):
    """Makes a linear layer's weight one of low bits: latents that are rounded on every use, straight through, and a scale
    that is trained for every group of columns. Thresholds of trits stay at half a scale."""
    import torch

    class Rounding(torch.autograd.Function):
        @staticmethod
        def forward(ctx, latents, scales):
            grouped, s = latents.view(*scales.shape, group_size), scales[..., None]
            if code == "sign":
                codes = torch.where(grouped < 0, -1.0, 1.0)
            else:
                codes = (grouped > s / 2).float() - (grouped < -s / 2).float()
            ctx.save_for_backward(codes)
            return (codes * s).view_as(latents)

        @staticmethod
        def backward(ctx, gradient):
            codes, = ctx.saved_tensors
            return gradient, (gradient.view_as(codes) * codes).sum(-1)

    class LowBit(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            magnitudes = weight.detach().abs().view(weight.shape[0], -1, group_size).mean(-1)
            self.scales = torch.nn.Parameter(magnitudes if code == "sign" else 1.5 * magnitudes)

        def forward(self, latents):
            return Rounding.apply(latents, self.scales)

    torch.nn.utils.parametrize.register_parametrization(layer, "weight", LowBit(layer.weight), unsafe=True)


def distill(args):
    """Steps of one block towards a random stream, its matrices of low bits; the batch is that of src/cli/bench_distill.c."""
    import torch
    import torch.nn.utils.parametrize

    torch.set_num_threads(args.threads)
    name, hidden, batch, context = [SHAPES[args.shape][i] for i in (0, 1, 8, 9)]
    batch = 6
    rows = []
    for code, group_size in (("sign", 128), ("ternary", 64)):
        torch.manual_seed(0)
        model = qwen3(args.shape, num_hidden_layers=1).model
        block = model.layers[0]
        for layer in [m for m in block.modules() if isinstance(m, torch.nn.Linear)]:
            low_bit(layer, code, group_size)
        stream, target = torch.rand(batch, context, hidden) * 2 - 1, torch.rand(batch, context, hidden) * 2 - 1
        positions = torch.arange(context)[None]
        rotary = model.rotary_emb(stream, positions)

        def loss():
            y = block(stream, attention_mask=None, position_ids=positions, position_embeddings=rotary)
            return torch.nn.functional.mse_loss(y[0] if isinstance(y, tuple) else y, target)

        rows.append(measure_steps(args, "distill", f"block, {name}, {code}", batch * context, block.parameters(), loss))
    return rows


def ternary_scales(w, importance, group_size):
    """[R, groups]: exact scales for sum h (w - s q)^2, from the sorted magnitudes of each group."""
    magnitudes = w.abs().view(w.shape[0], -1, group_size)
    magnitudes, order = magnitudes.sort(-1, descending=True)
    h = importance.view(1, -1, group_size).expand_as(magnitudes).gather(-1, order)
    s, total = (h * magnitudes).cumsum(-1), h.cumsum(-1)
    best = (s * s / total).argmax(-1, keepdim=True)
    return (s / total).gather(-1, best).squeeze(-1).half().float()


def trits(w, s):
    return (w > s / 2).float() - (w < -s / 2).float()


def feedback(w, metric, scales, group_size, block=128):
    """Codes by GPTQ (Frantar et al., 2022) in blocks, inputs in decreasing order of their moments."""
    import torch

    n = w.shape[1]
    order = torch.argsort(metric.diagonal(), descending=True)
    damped = metric[order][:, order] + 0.01 * metric.diagonal().mean() * torch.eye(n)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    w, s = w[:, order].clone(), scales.repeat_interleave(group_size, 1)[:, order]
    codes = torch.empty_like(w)
    for first in range(0, n, block):
        end = min(first + block, n)
        here, errors = w[:, first:end].T.contiguous(), torch.empty(end - first, w.shape[0])
        here_s = s[:, first:end].T.contiguous()
        u = factor[first:end, first:end]
        for i in range(end - first):
            q = trits(here[i], here_s[i])
            codes[:, first + i] = q
            errors[i] = (here[i] - here_s[i] * q) / u[i, i]
            here[i + 1:] -= u[i, i + 1:, None] * errors[i]
        w[:, end:] -= errors.T @ factor[first:end, end:]
    return codes[:, torch.argsort(order)]


def refit(w, metric, codes, scales, group_size):
    """The best scales of all groups of a row together, by normal equations."""
    import torch

    rows, n_groups = scales.shape
    in_groups = codes.view(rows, n_groups, group_size)
    gradient = (w - codes * scales.repeat_interleave(group_size, 1)) @ metric
    normal = torch.empty(rows, n_groups, n_groups)
    for g in range(n_groups):
        reached = in_groups[:, g] @ metric[g * group_size:(g + 1) * group_size]
        normal[:, g] = (reached.view_as(in_groups) * in_groups).sum(-1)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal.copy_(torch.where(diagonal > 0, diagonal * 1.001, 1.0))
    change = torch.linalg.solve(normal, (gradient.view_as(in_groups) * in_groups).sum(-1))
    fitted = scales + change
    return torch.where((fitted > 0.2 * scales) & (fitted < 4 * scales), fitted, scales).half().float()


def descend(w, metric, codes, scales, group_size, block=128):
    """One sweep of coordinate descent over the codes, inputs in decreasing order of their moments."""
    import torch

    order = torch.argsort(metric.diagonal(), descending=True)
    metric, back = metric[order][:, order], torch.argsort(order)
    s = scales.repeat_interleave(group_size, 1)[:, order].T.contiguous()
    q = codes[:, order].T.contiguous()
    gradient = metric @ (w[:, order].T - s * q)  # [C, R]: a row is an input
    for first in range(0, len(metric), block):
        end = min(first + block, len(metric))
        here, changes = gradient[first:end], torch.empty(end - first, w.shape[0])
        for i in range(end - first):
            j = first + i
            new = trits(s[j] * q[j] + here[i] / metric[j, j], s[j])
            changes[i] = s[j] * (new - q[j])
            q[j] = new
            here[i + 1:] -= metric[first + i + 1:end, j, None] * changes[i]
        gradient[end:] -= metric[end:, first:end] @ changes
    return q.T[:, back].contiguous()


def fit(args):
    """A 2048 x 2048 layer into trits in groups of 64: GPTQ, and GPTQ with four sweeps of refit and coordinate descent. The layer
    is made as in src/cli/bench_fit.c."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size, directions, group_size = 2048, 32, 64
    w = (torch.rand(size, size) * 2 - 1) / 16
    scale = torch.exp2(2 * (torch.rand(size) * 2 - 1))
    shared = scale[:, None] * (torch.rand(size, directions) * 2 - 1) / 4
    metric = torch.diag(scale * scale / 2) + shared @ shared.T
    errors = []

    def run(sweeps):
        scales = ternary_scales(w, metric.diagonal(), group_size)
        codes = feedback(w, metric, scales, group_size)
        for _ in range(sweeps):
            scales = refit(w, metric, codes, scales, group_size)
            codes = descend(w, metric, codes, scales, group_size)
        left = w - codes * scales.repeat_interleave(group_size, 1)
        errors[:] = [100 * ((left @ metric) * left).sum().item() / ((w @ metric) * w).sum().item()]

    rows = []
    for name, sweeps in (("feedback", 0), ("descent", 4)):
        row = measure("fit", f"{name}, 2048 x 2048", "Mweight/s", size * size / 1e6, args.repeats, lambda n=sweeps: run(n))
        row["by"] = f"torch {torch.__version__.split('+')[0]}, {errors[0]:.3g} % error"
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    suites = {"tokenizer": tokenizer, "score": score, "pack": pack, "train": train, "distill": distill,
              "fit": fit}
    parser.add_argument("suite", choices=suites)
    parser.add_argument("--model")
    parser.add_argument("--docs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--compute", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    if args.suite in ("tokenizer", "score") and not (args.model and args.docs):
        parser.error(f"suite {args.suite} needs --model and --docs")
    json.dump({"threads": args.threads, "repeats": args.repeats, "rows": suites[args.suite](args)}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
