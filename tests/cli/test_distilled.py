"""quern compress with recipes that train: what is reported, one SHA-256 whatever happens to the run, and what a work folder
is good for."""

import json
import os
import random
import subprocess
import sys
import time
import unittest

import support
from test_calibrated import text

N_STEPS = 20  # of the whole model: enough that every seed tried loses 0.03 nats, where 10 may lose none
STEPS = f"steps: {N_STEPS}"
RECIPE = """name: small
calibrate: {tokens: 1024, context: 64, fisher_tokens: 256}
quantize: {sweeps: 2, group_size: 16}
distill: {steps: 12, batch: 2, lr: 0.02, patience: 0}
finetune: {tokens: 2048, STEPS, batch: 4, lr: 0.02}
""".replace("STEPS", STEPS)
BUDGET = 24600  # of the model below: as in test_calibrated
N_LAYERS = 2
DEMO_RECIPE = """name: demo
calibrate: {tokens: 4096, context: 128, fisher_tokens: 1024}
quantize: {sweeps: 2}
distill: {steps: 24, batch: 4}
finetune: {tokens: 8192, steps: 24, batch: 4, lr: 0.01}
"""


class DistilledTest(support.CliTest):
    """A tiny model, its calibration text and a small recipe that trains."""

    def setUp(self):
        super().setUp()
        self.model = self.tiny(hidden=32, intermediate=48)
        self.text = self.write("text.txt", text(1))
        self.recipe = self.write("small.yaml", RECIPE)

    def arguments(self, name, *options, recipe=None, track="ternary"):
        return ("compress", self.model, "--track", track, "-o", self.root / name, *support.GENEROUS, "--tokenizer",
                "byte", "--text", self.text, "--recipe", recipe or self.recipe, "--bytes", BUDGET, *options)

    def run_small(self, name, *options, **more):
        report = self.quern_json(*self.arguments(name, *options, **more))
        self.assertEqual(report["sha256"], support.sha256(self.root / name))
        self.assertEqual(report["bytes"], (self.root / name).stat().st_size)
        return report

    def digest(self, name, *options, **more):
        return self.run_small(name, *options, **more)["sha256"]

    def untouched(self, work, prefix):
        """What tells whether the files of a stage were written again."""
        return {path.name: path.stat().st_mtime_ns for path in work.glob(prefix + "*")}

    def assert_same_report(self, found, expected):
        """Of two runs, whatever either of them found done."""
        for key in ("sha256", "plan", "distilled_blocks", "finetuned", "dev", "ppl", "nats_lost"):
            self.assertEqual(found.get(key), expected.get(key), key)

    def other_recipe(self, old, new):
        self.assertIn(old, RECIPE)
        return self.write("other.yaml", RECIPE.replace(old, new))


class Reports(DistilledTest):

    def test_blocks_and_the_whole(self):
        for track in support.TRACKS:
            report = self.run_small(f"{track}.zip", track=track)
            self.assertEqual(len(report["distilled_blocks"]), N_LAYERS)
            for block in report["distilled_blocks"]:
                self.assertEqual(block["steps"], 12)
                self.assertLessEqual(block["best_loss"], block["first_loss"])
                self.assertEqual(block["best_step"] > 0, block["best_loss"] < block["first_loss"])
                self.assertFalse(block["diverged"])
                self.assertEqual(block["was_trap"], block["best_loss"] < block["first_loss"]
                                 and block["best_kl"] > block["first_kl"])
            whole = report["finetuned"]
            self.assertEqual(whole["steps"], N_STEPS)
            self.assertGreater(whole["best_step"], 0)
            self.assertLess(whole["best_loss"], whole["first_loss"])
            profile = self.write_json("profile.json", {"budget_bits": 16})
            self.quern("verify", self.root / f"{track}.zip", "--track", track, "--profile", profile)

    def test_a_table_for_people(self):
        out = self.quern(*self.arguments("a.zip")).out
        self.assertIn("divergence at the head", out)
        self.assertRegex(out, rf"whole model +[0-9.]+ -> [0-9.]+ nats on held-back text, step \d+ of {N_STEPS}")

    def test_fast_trains_nothing(self):
        fast = self.run_small("fast.zip", "--effort", "fast", "--work", self.root / "work")
        self.assertEqual((fast["distilled_blocks"], fast["finetuned"]["steps"]), ([], 0))
        self.assertEqual({path.name.split("-")[0] for path in (self.root / "work").iterdir()}, {"losses", "matrix"})
        nothing = self.write("nothing.yaml", RECIPE.replace("steps: 12", "steps: 0").replace(STEPS, "steps: 0"))
        self.assertEqual(self.digest("nothing.zip", recipe=nothing), fast["sha256"])
        self.assertNotEqual(self.digest("trained.zip"), fast["sha256"])
        self.assert_refused(*self.arguments("a.zip", "--effort", "high"), code=2,
                            words=["--effort is 'high'", "fast, default or max"])

    def test_max_takes_more_steps(self):
        report = self.run_small("max.zip", "--effort", "max")
        self.assertEqual([block["steps"] for block in report["distilled_blocks"]], [24] * N_LAYERS)
        self.assertEqual(report["finetuned"]["steps"], 4 * N_STEPS)

    def test_blocks_that_get_no_better_are_given_up(self):
        wild = self.other_recipe("lr: 0.02, patience: 0", "lr: 1")
        blocks = self.run_small("wild.zip", recipe=wild)["distilled_blocks"]
        self.assertEqual([(block["steps"], block["best_step"]) for block in blocks], [(6, 0)] * N_LAYERS)

    def test_each_stage_by_itself(self):
        for stage, steps, n_blocks, n_steps in (("distill", "steps: 12", 0, N_STEPS), ("finetune", STEPS, N_LAYERS, 0)):
            with self.subTest(without=stage):
                report = self.run_small(f"{stage}.zip", recipe=self.other_recipe(steps, "steps: 0"))
                self.assertEqual(len(report["distilled_blocks"]), n_blocks)
                self.assertEqual(report["finetuned"]["steps"], n_steps)

    def test_packed_weights_are_those_that_are_scored(self):
        docs = self.write("docs.txt", text(2, 2))
        report = self.run_small("a.zip", "--docs", docs)
        self.quern("export", self.root / "a.zip", "--dense", "-o", self.root / "dense")
        packed, dense = (self.quern_json("score", self.root / name, "--docs", docs, "--tokenizer", "byte")["ppl"]
                         for name in ("a.zip", "dense"))
        self.assertEqual(packed, report["ppl"])
        self.assertLessEqual(abs(packed / dense - 1), 1e-6)  # the same values, other kernels

    def test_too_little_text(self):
        few = self.other_recipe("batch: 2, lr: 0.02, patience: 0", "batch: 16, lr: 0.02")
        error = self.assert_refused(*self.arguments("a.zip", recipe=few), words="too little calibration text").err
        self.assertIn("at least 1088 tokens", error)  # 17 sequences: 16 a step and one held back


class Dev(DistilledTest):
    """Perplexity on the dev documents on the way."""

    def setUp(self):
        super().setUp()
        self.docs = self.write("docs.txt", text(2, 3))

    def test_report(self):
        log = self.quern(*self.arguments("a.zip", "--docs", self.docs, "--json"))
        report = json.loads(log.out)
        dev = report["dev"]
        self.assertEqual(len(dev["ppl_blocks"]), N_LAYERS)
        self.assertEqual([b["dev_perplexity"] for b in report["distilled_blocks"]], dev["ppl_blocks"])
        # So few documents are all watched: they are those that are scored, before and after. The artifact's weights are
        # the trained ones, its norms rounded to fp16 in both.
        self.assertAlmostEqual(dev["ppl_teacher"] / report["ppl_teacher"], 1, delta=1e-9)
        self.assertAlmostEqual(dev["ppl_finetuned"] / report["ppl"], 1, delta=1e-5)
        self.assertGreater(dev["ppl_compressed"], 0)
        self.assertIn("perplexity on dev", log.err)

    def test_fits_alone(self):
        report = self.run_small("fast.zip", "--docs", self.docs, "--effort", "fast", "--dev-every", 2)
        self.assertIsNone(report["dev"]["ppl_blocks"][0])
        self.assertGreater(report["dev"]["ppl_blocks"][1], 0)
        self.assertIsNone(report["dev"]["ppl_finetuned"])

    def test_it_changes_no_byte(self):
        plain = self.run_small("plain.zip")
        self.assertIsNone(plain["dev"])
        self.assertEqual(plain["sha256"], self.digest("watched.zip", "--docs", self.docs))
        never = self.run_small("never.zip", "--docs", self.docs, "--dev-every", 0)
        self.assertIsNone(never["dev"])
        self.assertEqual(plain["sha256"], never["sha256"])

    def test_a_run_that_goes_on_says_the_same(self):
        options = ("--docs", self.docs, "--work", self.root / "work")
        first = self.run_small("first.zip", *options)
        again = self.run_small("again.zip", *options, "--resume")
        self.assertEqual(first["dev"], again["dev"])

    def test_refusals(self):
        result = self.quern(*self.arguments("x.zip", "--docs", self.docs, "--dev-every", -1), code=2)
        self.assertIn("--dev-every", result.err)


class SameBytes(DistilledTest):

    def test_threads(self):
        for track in support.TRACKS:
            one, two = (self.digest(f"{track}{n}.zip", "--threads", n, track=track) for n in (1, 2))
            self.assertEqual(one, two)

    def test_steps_in_bf16(self):
        """Another way to the weights, the same one with any number of threads; every processor can go it."""
        recipe = self.write("bf16.yaml", RECIPE.replace("steps", "compute: bf16, steps"))
        one, two = (self.run_small(f"{n}.zip", "--threads", n, recipe=recipe) for n in (1, 2))
        self.assert_same_report(one, two)
        self.assertNotEqual(one["sha256"], self.digest("f32.zip"))
        self.assertLess(one["finetuned"]["best_loss"], one["finetuned"]["first_loss"])

    def test_work_folder_changes_nothing(self):
        work = self.root / "work"
        whole = self.run_small("a.zip")
        first = whole["sha256"]
        self.assert_same_report(self.run_small("b.zip", "--work", work), whole)
        before = {prefix: self.untouched(work, prefix) for prefix in ("block-", "model-", "matrix-", "losses-")}
        self.assert_same_report(self.run_small("c.zip", "--work", work, "--resume", "--threads", 2), whole)
        self.assertEqual({prefix: self.untouched(work, prefix) for prefix in before}, before)
        for prefix in ("losses-", "trained-", "block-", "tuned-", "model-", "matrix-"):
            for n, path in enumerate(sorted(work.glob(prefix + "*"))):
                if n % 3 == 0:
                    path.unlink()
            with self.subTest(lost=prefix):
                self.assertEqual(self.digest("d.zip", "--work", work, "--resume"), first)

    def whole_files(self, work):
        """Without what a kill leaves half made."""
        return sorted(path.name for path in work.iterdir() if ".tmp-" not in path.name)

    def killed(self, name, work, seconds):
        """Starts or resumes a run and kills it so many seconds later. Whether it was still running."""
        command = self.arguments(name, "--work", work, "--resume", "--quiet")
        child = subprocess.Popen([os.environ["QUERN_BIN"], *map(str, command)], stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        child.kill()
        return child.wait() != 0

    def test_killed_at_any_moment(self):
        seed = int.from_bytes(os.urandom(4), "little")
        draw = random.Random(seed)
        began = time.monotonic()
        first = self.run_small("a.zip", "--work", self.root / "whole")
        seconds, n_killed = time.monotonic() - began, 0
        for i in range(5):
            work, name = self.root / f"work{i}", f"killed{i}.zip"
            for _ in range(draw.randint(1, 2)):
                n_killed += self.killed(name, work, draw.uniform(0, seconds))
            with self.subTest(seed=seed, draw=i):
                again = self.run_small(name, "--work", work, "--resume", "--threads", draw.randint(1, 2))
                self.assert_same_report(again, first)
                self.assertEqual(self.whole_files(work), self.whole_files(self.root / "whole"))
        self.assertGreater(n_killed, 0, f"seed {seed}")


class WorkFolders(DistilledTest):

    def test_teacher_inputs_share_their_fits(self):
        """What was trained has no part in such fits, so that other settings of it leave them good."""
        work, quantize = self.root / "work", ("group_size: 16}", "group_size: 16, inputs: teacher}")
        self.recipe = self.write("small.yaml", RECIPE.replace(*quantize))
        self.digest("a.zip", "--work", work)
        fits = self.untouched(work, "matrix-")
        longer = self.write("other.yaml", RECIPE.replace(*quantize).replace("steps: 12", "steps: 13"))
        report = self.run_small("b.zip", "--work", work, "--resume", recipe=longer)
        self.assertEqual([block["steps"] for block in report["distilled_blocks"]], [13] * N_LAYERS)
        self.assertEqual(report["sha256"], self.digest("c.zip", recipe=longer))
        self.assertEqual(self.untouched(work, "matrix-"), fits)

    def test_other_settings_of_a_stage_leave_those_before_good(self):
        work = self.root / "work"
        first = self.run_small("a.zip", "--work", work)
        fits, blocks = self.untouched(work, "matrix-"), self.untouched(work, "block-")
        self.assertEqual((len(fits), len(blocks)), (15, N_LAYERS))

        gentle = self.other_recipe(f"{STEPS}, batch: 4, lr: 0.02", "steps: 7, batch: 4, lr: 0.01")
        report = self.run_small("b.zip", "--work", work, "--resume", recipe=gentle)
        self.assertEqual(report["finetuned"]["steps"], 7)
        self.assertEqual(report["distilled_blocks"], first["distilled_blocks"])  # as when they were trained
        self.assertEqual(self.untouched(work, "block-"), blocks)
        self.assertEqual(report["sha256"], self.digest("c.zip", recipe=gentle))

        # Fits see inputs that have passed the blocks trained before: other blocks, other fits.
        longer = self.other_recipe("steps: 12", "steps: 13")
        self.assert_refused(*self.arguments("d.zip", "--work", work, "--resume", recipe=longer), code=2,
                            words=["matrix-00000", "another run", "--work"])
        self.assertEqual(self.untouched(work, "matrix-"), fits)

        back = self.run_small("f.zip", "--work", work, "--resume")
        self.assert_same_report(back, first)

    def test_damaged_files(self):
        work = self.root / "work"
        first = self.digest("a.zip", "--work", work)
        common = self.arguments("b.zip", "--work", work, "--resume")
        for pattern in ("losses-*", "block-*-00001*", "tuned-*-00003*", "model-*"):
            path = next(work.glob(pattern))
            whole = path.read_bytes()
            for data in (b"", whole[:-1], b"\xff" * len(whole)):
                path.write_bytes(data)
                if pattern.startswith("tuned"):  # made again from the finished model's parameters
                    self.assertEqual(self.digest("c.zip", "--work", work, "--resume"), first)
                else:
                    self.assert_refused(*common, words=path.name)
            path.write_bytes(whole)
        self.assertEqual(self.digest("d.zip", "--work", work, "--resume"), first)

    def test_a_damaged_teacher_cache(self):
        work = self.root / "work"
        first = self.digest("a.zip", "--work", work)
        (cache,) = work.glob("teacher-*.cache")
        whole = cache.read_bytes()
        for path in work.glob("model-*"):
            path.unlink()  # so that the whole model is tuned again
        middle = len(whole) // 2
        for data in (b"", whole[:-1], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]):
            cache.write_bytes(data)
            with self.subTest(n_bytes=len(data)):  # inside, damage is found when it is read: after the cache was opened
                self.assert_refused(*self.arguments("b.zip", "--work", work, "--resume", "--quiet"), words=cache.name)
        cache.unlink()
        self.assertEqual(self.digest("b.zip", "--work", work, "--resume"), first)
        self.assertEqual(cache.read_bytes(), whole)


class Distill(DistilledTest):
    """quern distill: training that goes on from an artifact."""

    def distill(self, student, name, *options):
        return self.quern_json("distill", self.root / student, "--teacher", self.model, "--track", "ternary", "--text",
                               self.text, "-o", self.root / name, *support.GENEROUS, "--tokenizer", "byte", "--recipe",
                               self.recipe, *options)

    def score(self, name):
        docs = self.write("docs.txt", text(2, 3))
        return self.quern_json("score", self.root / name, "--docs", docs, "--tokenizer", "byte")["nats"]

    def test_an_artifact_is_trained(self):
        self.run_small("fitted.zip", "--effort", "fast")
        report = self.distill("fitted.zip", "a.zip")
        self.assertEqual(len(report["distilled_blocks"]), N_LAYERS)
        self.assertGreater(report["finetuned"]["steps"], 0)
        self.assertNotIn(False, report["gates"].values())
        self.assertEqual(report["sha256"], self.distill("fitted.zip", "b.zip", "--threads", 2)["sha256"])
        self.assertLessEqual(report["finetuned"]["best_loss"], report["finetuned"]["first_loss"])

    def test_no_training_keeps_codes_and_norms(self):
        self.run_small("trained.zip")
        self.distill("trained.zip", "same.zip", "--effort", "fast")
        self.assertEqual(self.score("same.zip"), self.score("trained.zip"))

    def test_refusals(self):
        common = ("--track", "ternary", "--text", self.text, "-o", self.root / "a.zip", "--tokenizer", "byte",
                  *support.GENEROUS, "--recipe")
        small = (*common, self.recipe)
        self.assert_refused("distill", self.model, "--teacher", self.model, *small, code=2, words="in no code")
        self.run_small("fitted.zip", "--effort", "fast")
        other = self.tiny("other", hidden=48, intermediate=48)
        self.assert_refused("distill", self.root / "fitted.zip", "--teacher", other, *small, words="of one shape")
        self.assert_refused("distill", self.root / "fitted.zip", "--teacher", self.model, *common, "fast", code=2,
                            words="data-free")

    def test_control(self):
        control = self.quern_json("distill", self.model, "--teacher", self.model, "--control", "--track", "ternary",
                                  "--text", self.text, "-o", self.root / "control", "--tokenizer", "byte", "--recipe",
                                  self.recipe)
        self.assertEqual(control["finetuned"]["steps"], N_STEPS)
        self.assertLess(self.score("control"), 100)


def python_with_torch():
    """An interpreter that can run the validator; skips the test without one."""
    for python in (sys.executable, support.SOURCE / "build" / "venv" / "bin" / "python"):
        try:
            if subprocess.run([python, "-c", "import torch, transformers"], capture_output=True, check=False).returncode == 0:
                return python
        except OSError:
            continue
    raise unittest.SkipTest("no python with torch and transformers")


class Demo(support.CliTest):
    """The demo teacher, with little text and few steps."""

    def compress(self, name, track, *options):
        teacher = support.demo_teacher()
        recipe = self.write("demo.yaml", DEMO_RECIPE)
        texts = (teacher / "dev.txt").read_text().split("<|endoftext|>\n")[:3]
        docs = self.write("docs.jsonl", "".join(json.dumps({"text": t}) + "\n" for t in texts))
        return self.quern_json("compress", teacher, "--track", track, "-o", self.root / name, "--text",
                               teacher / "calibration.txt", "--recipe", recipe, "--docs", docs, *options)

    def test_training_loses_less(self):
        work = ("--work", self.root / "work")
        fast = self.compress("fast.zip", "binary", "--effort", "fast")
        trained = self.compress("trained.zip", "binary", *work)
        print(f"nats lost: {fast['nats_lost']:.4f} without training, {trained['nats_lost']:.4f} with", flush=True)
        self.assertLess(trained["nats_lost"], 0.9 * fast["nats_lost"])
        self.assertEqual(trained["bytes"], fast["bytes"])
        self.assertTrue(all(trained["gates"].values()), trained["gates"])
        self.check_validator(self.root / "trained.zip", "binary", trained)

    def check_validator(self, artifact, track, report):
        """The independent validator accepts the archive, trained norms and all, and finds the same perplexity."""
        validator = support.shared("validator/validate.py")
        command = [python_with_torch(), validator, artifact, "--profile", track, "--reference-params",
                   report["parameters"], "--docs", self.root / "docs.jsonl", "--tokenizer", support.DEMO, "--manifest-rules"]
        child = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        self.assertEqual(child.returncode, 0, child.stdout + child.stderr)
        found = json.loads(child.stdout.splitlines()[-1])
        self.assertLessEqual(abs(found["heldout_ppl"] / report["ppl"] - 1), 1e-5)  # two float32 implementations


if __name__ == "__main__":
    support.main()
