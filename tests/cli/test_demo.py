"""The demo teacher on both tracks, at the tracks' own bits per parameter: sizes, gates, one digest, and what rescue
gains."""

import json
import os

import support

BUDGET_BITS = {"binary": 1.3125, "ternary": 2.2125}
NO_RESCUE = "name: without\nrescue:\n  max_fraction: 0\n"
N_DOCUMENTS = 4


class Demo(support.CliTest):

    def setUp(self):
        super().setUp()
        self.teacher = support.demo_teacher()
        texts = (self.teacher / "dev.txt").read_text().split("<|endoftext|>\n")[:N_DOCUMENTS]
        self.docs = self.write("docs.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))

    def run_track(self, track, name, *options):
        return self.quern_json("compress", self.teacher, "--track", track, "-o", self.root / name, *options)

    def check(self, track):
        plan = self.run_track(track, "a.zip", "--dry-run")
        report = self.run_track(track, "a.zip", "--docs", self.docs)
        artifact = self.root / "a.zip"
        self.assertEqual(report["bytes"], plan["bytes"])
        self.assertEqual(report["bytes"], artifact.stat().st_size)
        self.assertLessEqual(8 * report["bytes"], BUDGET_BITS[track] * report["parameters"] + 1)
        self.assertGreater(8 * report["bytes"], 0.99 * BUDGET_BITS[track] * report["parameters"])
        self.assertTrue(all(report["gates"].values()), report["gates"])
        self.assertLessEqual(report["rescue_fraction"], 0.1)
        self.assertGreater(report["nats_lost"], 0)

        bare = self.write("without.yaml", NO_RESCUE)
        without = self.run_track(track, "without.zip", "--docs", self.docs, "--recipe", bare)
        self.assertLessEqual(without["bytes"], report["budget_bytes"])
        self.assertLess(report["ppl"], without["ppl"])

        self.quern("export", artifact, "--dense", "-o", self.root / "dense")
        dense = self.quern_json("score", self.root / "dense", "--docs", self.docs)["ppl"]
        self.assertLessEqual(abs(report["ppl"] / dense - 1), 1e-5)
        verified = self.quern_json("verify", artifact, "--track", track, "--reference-params", report["parameters"],
                                   "--docs", self.docs, "--sha256", report["sha256"], "--size", report["bytes"],
                                   "--rebuild", "fast", "--model", self.teacher, "--threads", "1",
                                   env={"TZ": "Asia/Kathmandu"}, preexec_fn=lambda: os.umask(0o077))
        self.assertTrue(all(verified["gates"].values()), verified["gates"])
        self.assertEqual(verified["ppl"], report["ppl"])

    def test_binary(self):
        self.check("binary")

    def test_ternary(self):
        self.check("ternary")

    def test_data_free_recipe_says_what_it_does_not_read(self):
        result = self.quern("compress", self.teacher, "--track", "binary", "-o", self.root / "a.zip", "--dry-run",
                            "--recipe", "fast", "--text", self.teacher / "calibration.txt")
        self.assertIn("recipe 'fast' is data-free", result.err)

    def test_text_asks_for_the_calibrated_recipe(self):
        """Without a named recipe, text chooses the track's own, which plans bands; without text there is `fast`."""
        for options, planned in ((("--text", self.teacher / "calibration.txt"), True), ((), False)):
            with self.subTest(planned=planned):
                plan = self.quern_json("plan", self.teacher, "--track", "binary", *options)["plan"]
                self.assertEqual(bool(plan), planned)



if __name__ == "__main__":
    support.main()
