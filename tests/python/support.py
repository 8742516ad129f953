"""What the tests of the reference stack share: loading an artifact, the scorer's arithmetic, documents."""

import json
import math
import os
import pathlib
import sys
import tempfile
import unittest

# Remote code is copied to this folder before it runs; the tests leave nothing behind in the home folder.
_modules = tempfile.TemporaryDirectory(prefix="quern-modules-")
os.environ.setdefault("HF_MODULES_CACHE", _modules.name)

import torch  # noqa: E402 (after the environment is set)
import transformers  # noqa: E402

SOURCE = pathlib.Path(__file__).resolve().parents[2]
LOADER = SOURCE / "src" / "artifact" / "modeling_quern.py"


def shared_data(name):
    """Path of NAME below the shared test data, or None when absent."""
    path = pathlib.Path(os.environ.get("QUERN_TEST_DATA", SOURCE.parent / "shared")) / name
    return path if path.exists() else None


def load_model(folder, dtype=torch.float32, **options):
    """A model as the scorer loads it."""
    options = {"trust_remote_code": True, "local_files_only": True, "dtype": dtype, **options}
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder), **options).eval()


def read_documents(path):
    """Documents separated by a line holding only <|endoftext|>; each keeps its last newline."""
    return pathlib.Path(path).read_text(encoding="utf-8").split("<|endoftext|>\n")


def write_jsonl(documents, path):
    lines = (json.dumps({"text": text}) + "\n" for text in documents)
    pathlib.Path(path).write_text("".join(lines), encoding="utf-8")


@torch.inference_mode()
def heldout_score(model, documents, max_tokens=512):
    """Perplexity over ids, each document alone: {"ppl", "nats", "tokens", "docs_scored"}."""
    total, targets, scored = 0.0, 0, 0
    for ids in documents:
        ids = torch.tensor(ids[:max_tokens])
        if len(ids) < 2:
            continue
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").double().sum().item()
        targets += len(ids) - 1
        scored += 1
    nats = total / targets
    return {"ppl": math.exp(nats), "nats": nats, "tokens": targets, "docs_scored": scored}


def report_skip(name, reason):
    """Says what was not tested, in the form that tools/skip-summary.sh collects."""
    print(f"\nSKIPPED: {reason}\n[  SKIPPED ] {name}", flush=True)


def main():
    """Runs the tests of the calling script; exit 77 when every one was skipped, each with its reason."""
    print(f"transformers {transformers.__version__}, torch {torch.__version__}", flush=True)
    result = unittest.main(verbosity=2, exit=False).result
    for test, reason in result.skipped:
        report_skip(test.id(), reason)
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if result.skipped and result.testsRun <= len(result.skipped) else 0)
