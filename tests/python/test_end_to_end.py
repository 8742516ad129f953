#!/usr/bin/env python3
"""From a teacher to an accepted artifact: `quern compress`, then scorers that share no code with it.

Needs QUERN_BIN, the program, and QUERN_OVERLAY, the folder with the older generation of transformers.
    python test_end_to_end.py [DemoTeacher | LargeTeacher]
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

import support

HERE = pathlib.Path(__file__).resolve().parent
N_DOCUMENTS = 16  # what the public scorer draws
# Two float32 implementations of one model: the nats agree to about 1e-6 (sums of 5e3 terms in another order).
REFERENCE_RELATIVE = 1e-5
# One program, one arithmetic: packed and dense weights hold the same values.
EXPORT_RELATIVE = 1e-6
BUDGET_BITS = {"binary": 1.3125, "ternary": 2.2125}


def generations():
    """Environment of a child process for each generation of transformers."""
    overlay = os.environ.get("QUERN_OVERLAY", "")
    plain = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    found = {"5": plain}
    if overlay and pathlib.Path(overlay).is_dir():
        found["4"] = {**plain, "PYTHONPATH": overlay}
    elif os.environ.get("CI") == "true":
        raise RuntimeError(f"QUERN_OVERLAY={overlay!r} is no folder; with CI=true nothing may be missing")
    else:
        support.report_skip("transformers_4", f"QUERN_OVERLAY={overlay!r} is no folder")
    return found


class Teacher:
    """Tests over one teacher; subclasses say where it lies."""

    model = documents = None

    @classmethod
    def setUpClass(cls):
        if "QUERN_BIN" not in os.environ:
            raise RuntimeError("QUERN_BIN names no program")
        if cls.model is None or not (cls.model / "config.json").exists():
            raise unittest.SkipTest(f"{cls.__name__}: no model there (set QUERN_TEST_DATA)")
        folder = tempfile.TemporaryDirectory(prefix="quern-end-to-end-")
        cls.addClassCleanup(folder.cleanup)
        cls.root = pathlib.Path(folder.name)
        cls.docs = cls.root / "docs.jsonl"
        support.write_jsonl(support.read_documents(cls.documents)[:N_DOCUMENTS], cls.docs)
        cls.environments = generations()
        cls.validator = support.shared_data("validator/validate.py")
        if cls.validator is None:
            support.report_skip(f"{cls.__name__}.validator", "no validator/validate.py (set QUERN_TEST_DATA)")
        cls.scores = {"teacher": cls.quern("score", cls.model, "--docs", cls.docs)}

    @classmethod
    def quern(cls, *arguments):
        """The JSON object that a quern command prints."""
        command = [os.environ["QUERN_BIN"], *map(str, arguments), "--json"]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit {child.returncode}\n{child.stdout}\n{child.stderr}")
        return json.loads(child.stdout)

    def python(self, generation, *arguments):
        """The JSON object that a script prints under one generation of transformers."""
        child = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False,
                               env=self.environments[generation])
        self.assertEqual(child.returncode, 0, f"{arguments}: {child.stdout}\n{child.stderr}")
        return json.loads(child.stdout.splitlines()[-1])

    def assert_same_score(self, found, expected, relative):
        self.assertEqual(found["tokens"], expected["tokens"])
        self.assertEqual(found["docs_scored"], expected["docs_scored"])
        self.assertLessEqual(abs(found["ppl"] / expected["ppl"] - 1), relative, f"{found['ppl']} {expected['ppl']}")

    def test_teacher(self):
        for generation in self.environments:
            with self.subTest(transformers=generation):
                reference = self.python(generation, HERE / "reference_score.py", self.model, "--docs", self.docs)
                self.assert_same_score(self.scores["teacher"], reference, REFERENCE_RELATIVE)

    def test_binary(self):
        self.check_track("binary")

    def test_ternary(self):
        self.check_track("ternary")

    def check_track(self, track):
        artifact, folder, dense = (self.root / f"{track}{end}" for end in (".zip", "", "_dense"))
        report = self.quern("compress", self.model, "--track", track, "-o", artifact)
        self.check_report(track, report, artifact)
        score = self.quern("score", artifact, "--docs", self.docs)
        print(f"{track}: {report['bytes']} bytes, ppl {self.scores['teacher']['ppl']:.4f} -> {score['ppl']:.4f}", flush=True)

        self.quern("export", artifact, "--dense", "-o", dense)
        self.assert_same_score(self.quern("score", dense, "--docs", self.docs), score, EXPORT_RELATIVE)
        with zipfile.ZipFile(artifact) as archive:
            self.assertIsNone(archive.testzip())
            archive.extractall(folder)
        for generation in self.environments:
            with self.subTest(transformers=generation):
                found = self.python(generation, HERE / "reference_score.py", folder, "--docs", self.docs,
                                    "--same-weights", dense)
                self.assertEqual(found["different"], [])
                self.assertEqual(found["parameters"], report["parameters"])
                self.assert_same_score(score, found, REFERENCE_RELATIVE)
                if self.validator:
                    self.check_validator(track, generation, artifact, report["parameters"], score)
        shutil.rmtree(dense)

    def check_report(self, track, report, artifact):
        """What compress says of its file is true of the file."""
        data = artifact.read_bytes()
        self.assertEqual(report["sha256"], hashlib.sha256(data).hexdigest())
        self.assertEqual(report["bytes"], len(data))
        self.assertAlmostEqual(report["bits_per_parameter"], 8 * len(data) / report["parameters"], places=9)
        self.assertLessEqual(report["bits_per_parameter"], BUDGET_BITS[track])
        self.assertLessEqual(report["rescue_fraction"], 0.1)
        self.assertEqual(report["parameters"], self.scores["teacher"]["parameters"])
        verified = self.quern("verify", artifact, "--track", track, "--reference-params", report["parameters"],
                              "--docs", self.docs)
        self.assertEqual(verified["sha256"], report["sha256"])
        self.assertEqual(verified["rescue_fraction"], report["rescue_fraction"])
        self.assertEqual(sum(verified["roles"].values()), len(data))

    def check_validator(self, track, generation, artifact, parameters, score):
        """The independent validator accepts the archive and reports the same perplexity."""
        arguments = [self.validator, artifact, "--profile", track, "--reference-params", parameters, "--docs", self.docs,
                     "--tokenizer", self.model, "--manifest-rules"]
        if (track, generation) == ("ternary", "5"):
            arguments.append("--kv-cache")
        found = self.python(generation, *arguments)
        self.assertTrue(found["manifests_checked"])
        self.assertEqual(found["parameter_count"], parameters)
        self.assertEqual(found["token_count"], score["tokens"])
        self.assertLessEqual(abs(score["ppl"] / found["heldout_ppl"] - 1), REFERENCE_RELATIVE)


class DemoTeacher(Teacher, unittest.TestCase):
    model = support.SOURCE / "models" / "demo"
    documents = model / "dev.txt"


class LargeTeacher(Teacher, unittest.TestCase):
    model = support.shared_data("teacher")
    documents = model / "text" / "dev.txt" if model else None


if __name__ == "__main__":
    support.main()
