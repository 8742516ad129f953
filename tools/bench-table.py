#!/usr/bin/env python3
"""Joins the rounds of tools/bench.sh into one Markdown table of ratios: bench-table.py QUERN.jsonl REFERENCE.jsonl.

Of each case the best round of either side counts. Fails when the two sides did not do the same work.
"""

import json
import pathlib
import sys


def best_rows(path):
    """Case -> its best row over all lines of the file, and its best rate per core."""
    best = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        for row in json.loads(line)["rows"]:
            key = row["suite"], row["case"]
            if row.get("cores", 0) <= 0:
                continue  # a measured limit, no case
            old = best.get(key, row | {"per_core": 0.0})
            rate = max(old["per_core"], row["best"] / row["cores"])
            best[key] = (row if row["best"] >= old["best"] else old) | {"per_core": rate}
    return best


def check_same_work(key, quern, reference):
    same = abs(quern["work"] / reference["work"] - 1) < 0.1 if key[0] == "pack" else \
        abs(quern["work"] / reference["work"] - 1) < 1e-9
    if "output_sha256" in reference:
        same = same and quern["output_sha256"] == reference["output_sha256"]
    if not same:
        sys.exit(f"bench-table: {' '.join(key)}: quern and {reference['by']} did not do the same work")


def main():
    quern, reference = best_rows(sys.argv[1]), best_rows(sys.argv[2])
    print("| stage | against | Quern | reference | ratio | ratio per core | Quern peak MB | reference peak MB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for key, ours in quern.items():
        if key not in reference:
            continue
        theirs = reference[key]
        check_same_work(key, ours, theirs)
        print(f"| {key[0]}: {key[1]} | {theirs['by']} | {ours['best']:.4g} {ours['unit']} | "
              f"{theirs['best']:.4g} {ours['unit']} | **{ours['best'] / theirs['best']:.2f}** | "
              f"{ours['per_core'] / theirs['per_core']:.2f} | {ours['peak_rss_bytes'] / 1e6:.0f} | "
              f"{theirs['peak_rss_bytes'] / 1e6:.0f} |".replace("| 0 |", "| |"))


if __name__ == "__main__":
    main()
