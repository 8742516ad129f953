#!/usr/bin/env python3
"""What each part of the quantiser, or of the training behind it, is worth: a table for each track, a recipe a row.

    tools/ablation.py models/demo --text models/demo/calibration.txt --docs models/demo/dev.txt --resume ablation.jsonl
    tools/ablation.py ... --suite training --seeds 0,1,2

Each row compresses the model by one recipe (`quern compress`), with the budget of the track, and sets the artifact
against the model (`quern compare`). Nothing is left out silently: a row that fails stands in the table with its reason,
and makes the exit status 1.

Suite `fits`: the first rows add one thing each to the row before, up to the track's own recipe without its training (in
ternary not by way of the plan of measured errors); the others change one setting of that.

Suite `training`: the track's own recipe with so many steps of blocks (--block-steps), and of the whole model behind
them (--model-steps) where a row has these; and the control, the model itself tuned alike. With several --seeds a row is
their mean, and says how far single runs lie from it.

With --resume FILE every finished row is added to FILE, one JSON object a line, and a row that stands there already is
not computed again, if it is of the same program, model, texts, recipe and options. Failed rows are tried again.
Ctrl-C prints what there is.

With --work DIR runs keep their folders there: rows that differ in the training of the whole model alone share fits,
blocks and the teacher's cache (the seconds of all but the first are then those of their own part), and a row that was
stopped goes on.

The text must not hold the documents. The program is $QUERN_BIN, else build/release/src/cli/quern. Standard library
only.
"""

import argparse
import copy
import hashlib
import json
import os
import pathlib
import statistics
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


def blocks(**settings):
    """The track's own recipe with its blocks trained, with some settings of that changed."""
    return {"calibrate": {}, "distill": {"steps": "blocks", **settings}, "finetune": {"steps": 0}}


def whole(**settings):
    """The track's own recipe with both stages of training, with some settings of the second changed."""
    return {"calibrate": {}, "distill": {"steps": "blocks"}, "finetune": {"steps": "model", **settings}}


NORMAL = {"errors": "normal"}
MEASURED = {"errors": "measured"}
PLAIN = {"plan": NORMAL, "lines": "rows", "planes": 1, "scales": "f16", "target_blend": 0}

# Key, step, recipe; group_size and overbook are multiples of the track's.
FIT_ROWS = (
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
CONTROL = "control"
TRAINING_ROWS = (
    ("fits", "fits alone", blocks(steps=0)),
    ("blocks", "blocks trained", blocks()),
    ("teacher-stream", "blocks, the teacher's stream in front of each", blocks(inputs="teacher")),
    ("smooth", "blocks, a smooth start (temperature 0.5)", blocks(temperature=0.5)),
    ("window-2", "blocks, window of 2", blocks(window=2)),
    ("window-4", "blocks, window of 4", blocks(window=4)),
    ("no-norms", "blocks, norms left alone", blocks(vector_rate=0)),
    ("no-scales", "blocks, scales left alone", blocks(scale_rate=0)),
    ("huber", "blocks, Huber loss", blocks(loss="huber")),
    ("fisher", "blocks, loss weighed by the Fisher diagonal", blocks(loss="fisher")),
    ("whole", "blocks, then the whole model", whole()),
    ("whole-kl", "blocks, then the whole model, KL alone", whole(kl_weight=1, ce_weight=0)),
    ("whole-ce", "blocks, then the whole model, cross entropy alone", whole(kl_weight=0, ce_weight=1)),
    ("whole-frozen", "blocks, then scales and norms, codes frozen", whole(codes="frozen")),
    ("whole-alone", "the whole model without blocks before", {**whole(), "distill": {"steps": 0}}),
    (CONTROL, "control: the model itself, tuned as the whole model is", whole()),
)
SUITES = {"fits": FIT_ROWS, "training": TRAINING_ROWS}


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


def recipe_text(recipe, track, args):
    """The YAML of one row."""
    recipe = copy.deepcopy(recipe)
    if "calibrate" in recipe:
        recipe["calibrate"] = {"tokens": args.tokens, "fisher_tokens": args.fisher_tokens}
    if "plan" in recipe:
        factor = recipe["quantize"].get("group_size", 1)
        recipe["quantize"]["group_size"] = int(GROUP_SIZE[track] * factor)
        if recipe["plan"]["errors"] == "own":
            recipe["plan"]["errors"] = ERRORS[track]
        if "overbook" in recipe["plan"]:
            recipe["plan"]["overbook"] *= OVERBOOK[track]
    steps = {"blocks": args.block_steps, "model": args.model_steps}
    for stage in ("distill", "finetune"):
        if stage in recipe:
            recipe[stage]["steps"] = steps.get(recipe[stage]["steps"], recipe[stage]["steps"])
    if args.model_tokens and "finetune" in recipe:
        recipe["finetune"]["tokens"] = args.model_tokens
    lines = ["name: ablation"]
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

    def work_options(self, track, recipe, seed):
        """The folder of all runs that share what comes before the training of the whole model."""
        if not self.args.work:
            return []
        before = recipe.partition("\n")[2].partition("\nfinetune:")[0]
        shared = {name: digest for name, digest in self.digests.items() if name != "docs"}
        parts = (shared, track, before, seed, self.budget_options(), self.packing_options(), self.args.tokenizer)
        folder = self.args.work / hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return ["--work", folder, "--resume"]

    def make(self, key, track, recipe, seed, artifact):
        """What `quern compress` says of the artifact it made, or of the control `quern distill`."""
        args = self.args
        recipe_file = artifact.with_name("recipe.yaml")
        recipe_file.write_text(recipe)
        options = ["--track", track, "--recipe", recipe_file, "-o", artifact, "--seed", seed]
        if "\ncalibrate:" in recipe:
            if not args.text:
                raise Failed("needs --text")
            options += ["--text", args.text, *self.work_options(track, recipe, seed)]
        if key == CONTROL:
            return self.run_quern("distill", args.model, "--teacher", args.model, "--control", *options)
        return self.run_quern("compress", args.model, *options, *self.budget_options(), *self.packing_options())

    def measure(self, key, track, recipe, seed):
        """The numbers of one run."""
        args = self.args
        with tempfile.TemporaryDirectory(prefix="quern-ablation-") as folder:
            artifact = pathlib.Path(folder) / ("control" if key == CONTROL else "artifact.zip")
            made = self.make(key, track, recipe, seed, artifact)
            compared = self.run_quern("compare", args.model, artifact, "--docs", args.docs, *self.compare_options())
        return {"compress": made, "compare": compared}

    def identity(self, key, track, recipe, seed):
        """What a stored result must share to stand for this run."""
        parts = (self.digests, key == CONTROL, track, recipe, seed, self.budget_options(), self.packing_options(),
                 self.compare_options(), self.args.tokenizer)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def run(self, track, key, step, settings, seed, compute):
        """The result of one row with one seed: stored, computed if COMPUTE, or None."""
        recipe = recipe_text(settings, track, self.args)
        identity = self.identity(key, track, recipe, seed)
        known = self.results.get(identity)
        if not compute or (known and "failed" not in known):
            return known
        print(f"{track}: {step}, seed {seed}", file=sys.stderr, flush=True)
        result = {"identity": identity, "track": track, "row": key, "step": step, "seed": seed, "recipe": recipe}
        try:
            result.update(self.measure(key, track, recipe, seed))
        except Failed as failure:
            result["failed"] = str(failure)
            print(f"  failed: {failure}", file=sys.stderr, flush=True)
        self.store(result)
        return result


# ---- the table


def lost_cell(compared):
    """Nats lost: of one run with the interval of its windows, of several with the deviation of runs from their mean."""
    lost = [c["difference"] for c in compared]
    if len(lost) > 1:
        return f"{statistics.fmean(lost):.4f} (s {statistics.stdev(lost):.4f})"
    if compared[0]["high"] is None:
        return f"{lost[0]:.4f}"
    return f"{lost[0]:.4f} ± {compared[0]['high'] - lost[0]:.4f}"


def cells(step, results):
    """The columns of a row, of the runs of all its seeds."""
    if None in results:
        return (step, "not run", "-", "-", "-", "-", "-")
    for result in results:
        if "failed" in result:
            return (step, "failed: " + result["failed"].replace("|", "\\|"), "-", "-", "-", "-", "-")
    made, compared = [r["compress"] for r in results], [r["compare"] for r in results]
    kl = [c["kl"] for c in compared]
    spread = f" (s {statistics.stdev(kl):.4f})" if len(kl) > 1 else ""
    if "bits_per_parameter" in made[0]:
        size = (f"{made[0]['bytes']:,}".replace(",", " "), f"{made[0]['bits_per_parameter']:.4f}")
    else:
        size = ("-", "-")
    return (step, lost_cell(compared), f"{statistics.fmean(kl):.4f}{spread}",
            f"{100 * statistics.fmean([c['agreement'] for c in compared]):.1f} %", *size,
            f"{statistics.fmean([m['seconds'] for m in made]):.1f}")


def print_table(track, rows):
    print(f"\n### {track}\n")
    print("| step | nats lost (95 %, or s of seeds) | KL | agreement | bytes | bits/parameter | seconds |")
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
    parser.add_argument("--suite", choices=SUITES, default="fits", help="of rows (default %(default)s)")
    parser.add_argument("--rows", help="which, by key, with commas (default: all of the suite)")
    parser.add_argument("--seeds", default="0", metavar="N,N,...", help="of the runs of a row (default %(default)s)")
    parser.add_argument("--block-steps", type=int, default=56, metavar="N", help="of each block (default %(default)s)")
    parser.add_argument("--model-steps", type=int, default=40, metavar="N",
                        help="of the whole model (default %(default)s)")
    parser.add_argument("--model-tokens", type=int, metavar="N",
                        help="of text, for the whole model (default: as the recipe says)")
    parser.add_argument("--only-track", choices=TRACKS, help="one track instead of both")
    parser.add_argument("--resume", type=pathlib.Path, metavar="FILE", help="results, read and added to")
    parser.add_argument("--work", type=pathlib.Path, metavar="DIR", help="folders of the runs, kept")
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
    keys = [key for key, _, _ in SUITES[args.suite]]
    args.rows = args.rows.split(",") if args.rows else keys
    unknown = [key for key in args.rows if key not in keys]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(keys)}")
    try:
        args.seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        parser.error(f"seeds '{args.seeds}': expected whole numbers with commas")
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
        for key, step, settings in (row for row in SUITES[args.suite] if row[0] in args.rows):
            results = []
            for seed in args.seeds:
                try:
                    results.append(ablation.run(track, key, step, settings, seed, compute=not interrupted))
                except KeyboardInterrupt:
                    interrupted = True
                    results.append(None)
            tables[track].append((step, results))
    for track, rows in tables.items():
        print_table(track, [cells(step, results) for step, results in rows])
    results = [result for rows in tables.values() for _, of_row in rows for result in of_row]
    print_source(results)
    return 130 if interrupted else int(any("failed" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
