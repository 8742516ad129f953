"""quern train: what it prints and leaves, Ctrl-C and --resume, and refusals."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import support

TEXT = "".join(f"Verse {k}: it was the best of times, it was the worst of times.\n" for k in range(40))


class Train(support.CliTest):
    def setUp(self):
        super().setUp()
        self.model = self.tiny(hidden=32, intermediate=48, layers=1)
        self.text = self.write("text.txt", TEXT)
        self.common = ["train", "--config", self.model, "--tokenizer", "byte", "--text", self.text, "--batch", 2,
                       "--context", 32, "--warmup", 1]

    def test_a_run_leaves_a_model_that_scores(self):
        out = self.root / "out"
        report = self.quern_json(*self.common, "-o", out, "--steps", 6, "--dev", self.text, "--eval-every", 3)
        self.assertEqual(report["steps"], 6)
        self.assertEqual(report["first_step"], 0)
        self.assertEqual(report["tokens"], 6 * 2 * 32)
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([m["step"] for m in metrics], list(range(1, 7)))
        self.assertEqual([m["step"] for m in metrics if "dev_loss" in m], [3, 6])
        self.assertEqual(sorted(p.name for p in out.iterdir()),
                         ["config.json", "metrics.jsonl", "model.safetensors", "train.json"])
        # The text is one document and its separator, which this protocol lacks: all contexts are the same.
        score = self.quern_json("score", out, "--docs", self.text, "--protocol", "window:32", "--tokenizer", "byte")
        self.assertEqual(score["tokens"], report["dev_tokens"])
        self.assertAlmostEqual(score["nats"], report["dev_loss"], places=12)
        self.assertEqual(report["parameters"], score["parameters"])

    def test_text_for_people(self):
        result = self.quern(*self.common, "-o", self.root / "out", "--steps", 2)
        self.assertIn("steps       1 to 2, 128 tokens", result.out)
        again = self.quern(*self.common, "-o", self.root / "out", "--steps", 2, "--resume")
        self.assertIn("all done before", again.out)

    def test_interrupted_and_resumed_is_uninterrupted(self):
        whole, parts = self.root / "whole", self.root / "parts"
        options = [*self.common, "--steps", 400, "--dtype", "F32"]
        self.quern(*options, "-o", whole)
        command = [os.environ["QUERN_BIN"], *map(str, options), "-o", str(parts)]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        while child.poll() is None and not (parts / "metrics.jsonl").exists():
            time.sleep(0.005)
        child.send_signal(signal.SIGINT)
        error = child.communicate()[1]
        self.assertEqual(child.returncode, 1, error)
        self.assertRegex(error, r"stopped after step \d+ of 400.*--resume")
        self.assertFalse((parts / "config.json").exists())
        self.quern(*options, "-o", parts, "--resume", "--threads", 1, "--keep-mib", 0)
        for name in ("model.safetensors", "config.json", "train.json"):
            self.assertEqual((whole / name).read_bytes(), (parts / name).read_bytes(), name)

    def test_killed_at_any_moment_and_resumed_is_uninterrupted(self):
        seed = int(os.environ.get("QN_TEST_SEED", random.SystemRandom().getrandbits(32)))
        print(f"QN_TEST_SEED={seed} repeats these delays", file=sys.stderr)
        delays = random.Random(seed)
        whole, parts = self.root / "whole", self.root / "parts"
        options = [*self.common, "--steps", 400, "--dtype", "F32", "--save-every", 7]
        began = time.monotonic()
        self.quern(*options, "-o", whole)
        seconds = time.monotonic() - began
        command = [os.environ["QUERN_BIN"], *map(str, options), "-o", str(parts)]
        for _ in range(6):
            child = subprocess.Popen([*command, *(["--resume"] if parts.exists() else [])], stderr=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL)
            time.sleep(delays.uniform(0, seconds / 3))
            child.kill()
            child.wait()
        self.quern(*options, "-o", parts, "--resume")
        self.assertEqual(sorted(p.name for p in parts.iterdir()), sorted(p.name for p in whole.iterdir()))
        for name in ("model.safetensors", "config.json", "train.json"):
            self.assertEqual((whole / name).read_bytes(), (parts / name).read_bytes(), name)

    def test_refusals(self):
        self.assert_refused("train", "--text", self.text, "-o", self.root / "out", code=2, words="config")
        run = [*self.common, "-o", self.root / "out", "--steps", 2]
        self.assert_refused(*run, "--lr", -1, code=2, words="learning rate -1")
        self.assert_refused(*run, "--keep-mib", -1, code=2, words="--keep-mib -1")
        self.assert_refused(*run, "--schedule", "linear", code=2, words=["'linear'", "cosine"])
        self.assert_refused(*run, "--dtype", "I8", code=2, words="I8")
        self.assert_refused(*run, "--resume", code=2, words="no run to resume")
        self.assert_refused(*run, "--init-from", self.tiny("other", hidden=64), code=2, words="does not fit")
        short = self.write("short.txt", "short\n")
        self.assert_refused(*self.common[:6], short, *self.common[7:], "-o", self.root / "out",
                            words=["short.txt", "fewer than one context"])
        (self.root / "out").mkdir()
        self.write("out/file", "")
        self.assert_refused(*run, code=2, words=["holds files", "--resume"])

    def test_a_full_disk_is_an_error_and_the_run_goes_on_later(self):
        out = self.root / "out"
        run = [*self.common, "-o", out, "--steps", 4]
        full = self.quern(*run, code=1, preexec_fn=support.limit_file_size(16384))
        self.assertIn("model.safetensors: cannot write", full.err)
        self.quern(*run, "--resume")
        self.assertTrue((out / "config.json").exists())


if __name__ == "__main__":
    support.main()
