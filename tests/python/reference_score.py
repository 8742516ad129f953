#!/usr/bin/env python3
"""Score a model folder with transformers and print one JSON object; run as a child, once a generation of the library.

    python reference_score.py MODEL --docs FILE.jsonl [--same-weights DENSE]

--same-weights loads a second, ordinary checkpoint and requires the same parameters bit for bit.
"""

import argparse
import json

import support
import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--docs", required=True)
    parser.add_argument("--same-weights")
    args = parser.parse_args()

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model, local_files_only=True)
    with open(args.docs, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    model = support.load_model(args.model)
    report = support.heldout_score(model, [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
    report["parameters"] = sum(p.numel() for p in model.parameters())
    report["transformers"] = transformers.__version__
    if args.same_weights:
        dense = dict(support.load_model(args.same_weights, trust_remote_code=False).named_parameters())
        own = dict(model.named_parameters())
        report["different"] = sorted(set(own) ^ set(dense)) + [
            name for name in sorted(set(own) & set(dense)) if not torch.equal(own[name], dense[name])]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
