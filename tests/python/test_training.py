"""`quern train` against PyTorch: the same contexts in the same order, the same steps, the same loss in the end.

Needs QUERN_BIN, the program. The training loop here is written from the documented rules (quern/text/packing.h,
quern/fit/adamw.h, quern/fit/schedule.h) with numpy's random numbers and torch's optimiser.
"""

import json
import math
import os
import pathlib
import subprocess
import tempfile
import unittest

import support

import numpy
import torch
import transformers
from safetensors.torch import load_file

DEMO = support.SOURCE / "models" / "demo"
SEPARATOR = "<|endoftext|>"
ORDER = 0x7061636B  # the purpose of the stream of random numbers that orders documents and contexts


def contexts(documents, n, seed):
    """The contexts of a run, one after another for ever."""
    epoch = 0
    while True:
        sequence = numpy.random.SeedSequence(seed, spawn_key=(ORDER, epoch))
        generator = numpy.random.Generator(numpy.random.PCG64(sequence))
        order = generator.permutation(len(documents))
        stream = [i for k in order for i in documents[k]]
        for k in generator.permutation(len(stream) // n):
            yield stream[k * n:(k + 1) * n]
        epoch += 1


def rate(step, o):
    """Linear warm-up, then cosine to min_ratio of the peak at the very last step."""
    if step < o["warmup"]:
        return o["lr"] * (step + 1) / o["warmup"]
    x = (step - o["warmup"]) / max(1, o["steps"] - 1 - o["warmup"])
    return o["lr"] * (o["min-lr-ratio"] + (1 - o["min-lr-ratio"]) * 0.5 * (1 + math.cos(math.pi * x)))


def train(model, documents, o):
    """Losses and gradient norms of all steps; the model is left trained."""
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": o["weight-decay"]},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    drawn = contexts(documents, o["context"], o["seed"])
    losses, norms = [], []
    for step in range(o["steps"]):
        ids = torch.tensor([next(drawn) for _ in range(o["batch"])])
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        for group in optimizer.param_groups:
            group["lr"] = rate(step, o)
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


@torch.no_grad()
def dev_loss(model, documents, n):
    """Mean nats over disjoint contexts, each by itself."""
    stream = [i for document in documents for i in document]
    total, targets = 0.0, 0
    for first in range(0, len(stream) - n + 1, n):
        ids = torch.tensor([stream[first:first + n]])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        targets += n - 1
    return total / targets, targets


def quern_train(out, start, text, o, *more):
    """The JSON object `quern train` prints, and the lines of its metrics."""
    options = [part for name, value in o.items() for part in (f"--{name}", str(value))]
    command = [os.environ["QUERN_BIN"], "train", "--init-from", str(start), "--tokenizer", str(DEMO), "--text", str(text),
               "-o", str(out), "--dtype", "F32", "--separator", SEPARATOR, "--json", *options, *map(str, more)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {child.returncode}\n{child.stdout}\n{child.stderr}")
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return json.loads(child.stdout), metrics


class Training(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.manual_seed(3)
        tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
        end = tokenizer.convert_tokens_to_ids(SEPARATOR)
        cls.encode = staticmethod(lambda path: [[*tokenizer.encode(text, add_special_tokens=False), end]
                                                for text in support.read_documents(path)])
        folder = tempfile.TemporaryDirectory(prefix="quern-training-")
        cls.addClassCleanup(folder.cleanup)
        cls.root = pathlib.Path(folder.name)

    def ten_steps(self, start, tolerance):
        """Ten steps by both from the weights of START; compares losses, norms and every tensor's way."""
        text = DEMO / "dev.txt"
        options = {"steps": 10, "context": 64, "batch": 2, "lr": 1e-3, "min-lr-ratio": 0.1, "warmup": 3,
                   "weight-decay": 0.1, "seed": 5}
        out = self.root / f"ten-{start.name}"
        _, metrics = quern_train(out, start, text, options)
        model = support.load_model(start).train()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        losses, norms = train(model, self.encode(text), options)
        for line, loss, norm in zip(metrics, losses, norms, strict=True):
            self.assertAlmostEqual(line["loss"], loss, delta=2e-5)  # the golden tolerance of one loss in f32
            self.assertAlmostEqual(line["grad_norm"] / norm, 1, delta=1e-4)
        # AdamW divides a gradient by its own size: an element whose gradient is all rounding moves as far as any other.
        trained = load_file(out / "model.safetensors")
        worst = max(((trained[name] - p).norm() / (p - before[name]).norm()).item() for name, p in model.named_parameters())
        print(f"{start.name}: largest relative difference of a tensor's way {worst:.2e}", flush=True)
        self.assertLess(worst, tolerance)

    def test_ten_steps_on_the_demo_model(self):
        self.ten_steps(DEMO, 2e-3)  # 2e-4 seen: a trained model has many gradients near zero

    def test_ten_steps_on_a_golden_model(self):
        start = support.shared_data("golden/models/qwen3-f32")
        if start is None:
            self.skipTest("golden/models/qwen3-f32 is absent (set QUERN_TEST_DATA)")
        self.ten_steps(start, 1e-4)  # 9e-6 seen

    def test_dev_loss_is_that_of_the_reference_stack(self):
        config = transformers.Qwen3Config(
            vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=32, tie_word_embeddings=True, eos_token_id=None, bos_token_id=None)
        model = transformers.Qwen3ForCausalLM(config).float()
        start = self.root / "start"
        model.save_pretrained(start)
        options = {"steps": 80, "context": 128, "batch": 4, "lr": 5e-3, "min-lr-ratio": 0.1, "warmup": 10,
                   "weight-decay": 0.1, "seed": 1}
        text, dev = DEMO / "calibration.txt", DEMO / "dev.txt"
        found, _ = quern_train(self.root / "trained", start, text, options, "--dev", dev)
        train(model.train(), self.encode(text), options)
        expected, targets = dev_loss(model.eval(), self.encode(dev), options["context"])
        print(f"dev loss: quern {found['dev_loss']:.5f}, torch {expected:.5f}", flush=True)
        self.assertEqual(found["dev_tokens"], targets)
        self.assertLess(expected, 6.6)  # it learnt: a uniform guess has 7.62
        self.assertLess(abs(found["dev_loss"] / expected - 1), 0.02)


if __name__ == "__main__":
    support.main()
