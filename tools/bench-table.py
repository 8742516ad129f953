#!/usr/bin/env python3
"""Joins the rounds of tools/bench.sh or tools/bench-train.sh into one Markdown table of ratios:

    bench-table.py QUERN.jsonl REFERENCE.jsonl

Of each case the best round of either side counts. Fails when the two sides did not do the same work.
"""

import json
import pathlib
import sys


BY_PROCESSOR_TIME = ("train", "distill", "fit")


def best_rows(path):
    """Case and who did it -> its best row over all lines of the file, and its best rate per core."""
    best = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        for row in json.loads(line)["rows"]:
            # scoring: its better way of two counts
            key = row["suite"], row["case"], row.get("by", "") if row["suite"] in BY_PROCESSOR_TIME else ""
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


def print_stages(quern, reference):
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


def print_shares(quern, reference):
    """Rates by processor time, and the share of the multiply-adds that the machine could do in it."""
    unit = next(iter(quern.values()))["unit"]
    print(f"| case | against | Quern {unit} | reference | ratio | Quern share | reference share | Quern peak MB | "
          "reference peak MB |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for (suite, case, _), ours in quern.items():
        for key, theirs in reference.items():
            if key[:2] != (suite, case):
                continue
            check_same_work(key, ours, theirs)
            a, b, limit = ours["per_core"], theirs["per_core"], ours.get("limit")
            shares = [f"{100 * rate / limit:.0f} %" if limit else "-" for rate in (a, b)]
            print(f"| {case} | {theirs['by']} | {a:.4g} | {b:.4g} | **{a / b:.2f}** | "
                  f"{' | '.join(shares)} | {ours['peak_rss_bytes'] / 1e6:.0f} | "
                  f"{theirs['peak_rss_bytes'] / 1e6:.0f} |")


def main():
    quern, reference = best_rows(sys.argv[1]), best_rows(sys.argv[2])
    has_shares = all(key[0] in BY_PROCESSOR_TIME for key in quern)
    (print_shares if has_shares else print_stages)(quern, reference)


if __name__ == "__main__":
    main()
