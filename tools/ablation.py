#!/usr/bin/env python3
"""What each part of the quantiser is worth: a table for each track, a recipe a row.

    tools/ablation.py models/demo --text models/demo/calibration.txt --docs models/demo/dev.txt --resume ablation.jsonl

Each row compresses the model by one recipe (`quern compress`), with the budget of the track, and sets the artifact
against the model (`quern compare`). The first rows add one thing each to the row before, up to the track's own
recipe without its training (in ternary not by way of the plan of measured errors); the others change one setting of that. Nothing is left out silently: a row that fails stands in the table with
its reason, and makes the exit status 1.

With --resume FILE every finished row is added to FILE, one JSON object a line, and a row that stands there already is
not computed again, if it is of the same program, model, texts, recipe and options. Failed rows are tried again.
Ctrl-C prints what there is.

The text must not hold the documents. The program is $QUERN_BIN, else build/release/src/cli/quern. Standard library
only.
"""

import argparse
import copy
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
TRACKS = ("binary", "ternary")
GROUP_SIZE = {"binary": 128, "ternary": 64}
ERRORS = {"binary": "measured", "ternary": "normal"}  # of the tracks' own recipes
OVERBOOK = {"binary": 0.01, "ternary": 0.05}  # what entropy coding saves for certain, as a share of the budget
NO_RESCUE = {"rescue": {"max_fraction": 0}}


def data_free(settings, **stages):
    return {"quantize": {"fit": "closed-form", **settings}, **stages}


def calibrated(plan=None, **settings):
    """The track's own recipe without training and without shrinkage, spelled out, with some settings changed."""
    all_but = {"fit": "descent", "lines": "columns", "planes": 2, "scales": "log6", "sweeps": 4, "damping": 0.01,
               "shrinkage": 0, "order": "activation", "hadamard": 0, "inputs": "student", "target_blend": 0.5}
    return {"calibrate": {"tokens": 65536, "fisher_tokens": 16384}, "quantize": {**all_but, **settings},
            "plan": {"errors": "own", **(plan or {})}, "distill": {"steps": 0}, "finetune": {"steps": 0}}


def own(**settings):
    """The track's own recipe without training, with some settings changed."""
    return calibrated(**{"shrinkage": 1, **settings})


NORMAL = {"errors": "normal"}
MEASURED = {"errors": "measured"}
PLAIN = {"plan": NORMAL, "lines": "rows", "planes": 1, "scales": "f16", "target_blend": 0}

# Key, step, recipe; group_size and overbook are multiples of the track's.
ROWS = (
    ("published", "published rule, a scale a row, no rescue",
     data_free({"rule": "published", "group_size": 0}, **NO_RESCUE)),
    ("optimal", "optimal closed form in groups, no rescue", data_free({}, **NO_RESCUE)),
    ("fast", "+ rescue (`fast`)", data_free({})),
    ("weighted", "weighted by the inputs, rows in one plane, fp16 scales",
     calibrated(**PLAIN, fit="weighted", inputs="teacher")),
    ("feedback", "+ feedback, inputs of the student", calibrated(**PLAIN, fit="feedback")),
    ("descent", "+ descent", calibrated(**PLAIN)),
    ("blend", "+ half-way target", calibrated(**{**PLAIN, "target_blend": 0.5})),
    ("log6", "+ 6-bit scales", calibrated(plan=NORMAL, lines="rows", planes=1)),
    ("columns", "+ columns instead of rows", calibrated(plan=NORMAL, planes=1)),
    ("planes", "+ second planes", calibrated(plan=NORMAL)),
    ("errors", "+ a plan of measured errors", calibrated(plan=MEASURED)),
    ("own", "+ shrunk second moments: the track's own", own()),
    ("strict", "own, for the profile `strict`: one plane, rows", own(planes=1, lines="rows", scales="f16")),
    ("row-planes", "own, rows instead of columns", own(lines="rows")),
    ("errors-other", "own, with a plan of measured errors", own(plan=MEASURED)),
    ("rotated", "own, rotated where measured errors say so", own(plan=MEASURED, hadamard=128, rotate="measured")),
    ("entropy", "own, entropy coding", own(entropy="zlib")),
    ("rate", "own, entropy coding, codes at a price, what is saved spent again",
     own(plan={"overbook": 1}, entropy="zlib", rate=0.1)),
    ("sensitivity", "own, sensitivities measured at the head", own(plan={"sensitivity": "measured"})),
    ("no-blend", "own, target_blend 0", own(target_blend=0)),
    ("hadamard", "own, all rotated in blocks of 64", own(hadamard=64)),
    ("group-half", "own, half the group size", own(group_size=0.5)),
    ("group-double", "own, double the group size", own(group_size=2)),
    ("sweeps-2", "own, 2 sweeps", own(sweeps=2)),
    ("sweeps-8", "own, 8 sweeps", own(sweeps=8)),
    ("damping", "own, damping 0.1", own(damping=0.1)),
    ("inputs", "own, inputs of the teacher", own(inputs="teacher")),
)
KEYS = tuple(key for key, _, _ in ROWS)


class Failed(Exception):
    """A row that has no numbers, and why."""


def digest_of(path):
    """Of a file, or of the names and contents of a folder's files."""
    path = pathlib.Path(path)
    path.stat()  # fails where there is nothing
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        with open(file, "rb") as data:
            while chunk := data.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def recipe_text(key, recipe, track, args):
    """The YAML of one row."""
    recipe = copy.deepcopy(recipe)
    if "calibrate" in recipe:
        recipe["calibrate"] = {"tokens": args.tokens, "fisher_tokens": args.fisher_tokens}
        factor = recipe["quantize"].get("group_size", 1)
        recipe["quantize"]["group_size"] = int(GROUP_SIZE[track] * factor)
        if recipe["plan"]["errors"] == "own":
            recipe["plan"]["errors"] = ERRORS[track]
        if "overbook" in recipe["plan"]:
            recipe["plan"]["overbook"] *= OVERBOOK[track]
    lines = [f"name: {key}"]
    for stage, settings in recipe.items():
        lines += [f"{stage}:"] + [f"  {name}: {value}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


class Ablation:
    """The runs of one model, and the results so far."""

    def __init__(self, args):
        self.args = args
        self.quern = os.environ.get("QUERN_BIN", str(ROOT / "build/release/src/cli/quern"))
        sources = {"program": self.quern, "model": args.model, "docs": args.docs, "text": args.text}
        self.digests = {name: digest_of(path) for name, path in sources.items() if path}
        self.results = self.read_results()

    def read_results(self):
        """Those of --resume by identity. A last line that was cut short by a crash is none."""
        path, results = self.args.resume, {}
        if not path or not path.exists():
            return results
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
                results[row["identity"]] = row
            except (ValueError, KeyError, TypeError):
                print(f"{path}:{number}: not a result; its row is computed again", file=sys.stderr)
        return results

    def store(self, row):
        self.results[row["identity"]] = row
        path = self.args.resume
        if not path:
            return
        cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with open(path, "a", encoding="utf-8") as file:
            file.write(("\n" if cut else "") + json.dumps(row) + "\n")

    # ---- running

    def budget_options(self):
        bits = self.args.bits_per_parameter
        return () if bits is None else ("--bits-per-parameter", str(bits))

    def packing_options(self):
        return ("--no-tokenizer",) if self.args.no_tokenizer else ()

    def compare_options(self):
        args = self.args
        given = {"--protocol": args.protocol, "--join": args.join, "--max-windows": args.max_windows,
                 "--max-tokens": args.max_tokens}
        return tuple(str(part) for option, value in given.items() if value is not None for part in (option, value))

    def shared_options(self):
        given = {"--tokenizer": self.args.tokenizer, "--threads": self.args.threads}
        return tuple(str(part) for option, value in given.items() if value is not None for part in (option, value))

    def run_quern(self, *arguments):
        """The JSON that one command prints."""
        command = [self.quern, *map(str, arguments), *self.shared_options(), "--json"]
        try:
            child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=self.args.timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{arguments[0]}: still at work after {self.args.timeout} s") from None
        if child.returncode != 0:
            said = [line for line in child.stderr.splitlines() if line.strip()]
            raise Failed(said[-1] if said else f"{arguments[0]}: exit status {child.returncode}")
        try:
            return json.loads(child.stdout)
        except ValueError:
            raise Failed(f"{arguments[0]}: printed no JSON") from None

    def measure(self, track, recipe):
        """The numbers of one row."""
        args = self.args
        with tempfile.TemporaryDirectory(prefix="quern-ablation-") as folder:
            recipe_file, artifact = pathlib.Path(folder) / "recipe.yaml", pathlib.Path(folder) / "artifact.zip"
            recipe_file.write_text(recipe)
            text = ()
            if "\ncalibrate:" in recipe:
                if not args.text:
                    raise Failed("needs --text")
                text = ("--text", args.text)
            made = self.run_quern("compress", args.model, "--track", track, "--recipe", recipe_file, "-o", artifact,
                                  *text, *self.budget_options(), *self.packing_options())
            compared = self.run_quern("compare", args.model, artifact, "--docs", args.docs, *self.compare_options())
        return {"compress": made, "compare": compared}

    def identity(self, track, recipe):
        """What a stored result must share to stand for this run."""
        parts = (self.digests, track, recipe, self.budget_options(), self.packing_options(), self.compare_options(),
                 self.args.tokenizer)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def row(self, track, key, step, settings, compute):
        """The result of one row: stored, computed if COMPUTE, or None."""
        recipe = recipe_text(key, settings, track, self.args)
        identity = self.identity(track, recipe)
        known = self.results.get(identity)
        if not compute or (known and "failed" not in known):
            return known
        print(f"{track}: {step}", file=sys.stderr, flush=True)
        result = {"identity": identity, "track": track, "row": key, "step": step, "recipe": recipe}
        try:
            result.update(self.measure(track, recipe))
        except Failed as failure:
            result["failed"] = str(failure)
            print(f"  failed: {failure}", file=sys.stderr, flush=True)
        self.store(result)
        return result


# ---- the table


def cells(step, result):
    """The columns of a row."""
    if result is None:
        return (step, "not run", "-", "-", "-", "-", "-")
    if "failed" in result:
        return (step, "failed: " + result["failed"].replace("|", "\\|"), "-", "-", "-", "-", "-")
    made, compared = result["compress"], result["compare"]
    lost = f"{compared['difference']:.4f}"
    if compared["high"] is not None:
        lost += f" ± {compared['high'] - compared['difference']:.4f}"
    return (step, lost, f"{compared['kl']:.4f}", f"{100 * compared['agreement']:.1f} %",
            f"{made['bytes']:,}".replace(",", " "), f"{made['bits_per_parameter']:.4f}", f"{made['seconds']:.1f}")


def print_table(track, rows):
    print(f"\n### {track}\n")
    print("| step | nats lost (95 %) | KL | agreement | bytes | bits/parameter | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def print_source(results):
    """What was measured, from any row that has numbers."""
    compared = next((r["compare"] for r in results if r and "compare" in r), None)
    if compared:
        print(f"\n{compared['protocol']}, {compared['windows']} windows, {compared['tokens']} tokens; "
              f"the model itself: {compared['base_nats']:.4f} nats. Documents: sha256 {compared['document_sha256']}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the teacher")
    parser.add_argument("--docs", required=True, help="documents to compare on")
    parser.add_argument("--text", help="calibration text, for the rows that calibrate")
    parser.add_argument("--rows", default=",".join(KEYS), help="which, by key, with commas (default: all): %(default)s")
    parser.add_argument("--only-track", choices=TRACKS, help="one track instead of both")
    parser.add_argument("--resume", type=pathlib.Path, metavar="FILE", help="results, read and added to")
    parser.add_argument("--bits-per-parameter", type=float, metavar="X", help="budget instead of the track's")
    parser.add_argument("--tokens", type=int, default=65536, metavar="N", help="of calibration (default %(default)s)")
    parser.add_argument("--fisher-tokens", type=int, default=16384, metavar="N",
                        help="of them backwards (default %(default)s)")
    parser.add_argument("--protocol", default="heldout", help="as of quern score (default %(default)s)")
    parser.add_argument("--join", metavar="TOKEN")
    parser.add_argument("--max-windows", type=int, metavar="N")
    parser.add_argument("--max-tokens", type=int, metavar="N")
    parser.add_argument("--tokenizer", metavar="DIR|byte")
    parser.add_argument("--no-tokenizer", action="store_true", help="leave the tokenizer out of the artifacts")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="of one command (default: none)")
    args = parser.parse_args()
    args.rows = args.rows.split(",")
    unknown = [key for key in args.rows if key not in KEYS]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(KEYS)}")
    return args


def main():
    args = parse()
    try:
        ablation = Ablation(args)
    except OSError as error:
        print(f"{pathlib.Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    tables, interrupted = {}, False
    for track in [args.only_track] if args.only_track else TRACKS:
        tables[track] = []
        for key, step, settings in (row for row in ROWS if row[0] in args.rows):
            try:
                result = ablation.row(track, key, step, settings, compute=not interrupted)
            except KeyboardInterrupt:
                interrupted, result = True, None
            tables[track].append((step, result))
    for track, rows in tables.items():
        print_table(track, [cells(step, result) for step, result in rows])
    results = [result for rows in tables.values() for _, result in rows]
    print_source(results)
    return 130 if interrupted else int(any("failed" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
