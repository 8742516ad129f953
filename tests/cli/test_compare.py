"""quern compare: the pair of models of a report, its protocols, and what it refuses."""

import json
import math

import support

FIELDS = {"base_nats", "candidate_nats", "difference", "std_error", "low", "high", "kl", "agreement", "band_nats",
          "within_band", "verdict", "verdict_certain", "base_ppl", "candidate_ppl", "tokens", "windows", "docs_scored",
          "docs_skipped", "protocol", "tokenizer", "document_sha256", "seconds", "peak_rss_bytes"}
SCORE_TOLERANCE = 2e-6  # nats; the scorer sums a row of logits in blocks


class Compare(support.CliTest):

    def setUp(self):
        super().setUp()
        self.base, self.candidate = self.tiny("base"), self.tiny("candidate", seed=2, hidden=32, layers=1)
        texts = ("the first document", "a second, longer one, with more to say", "x", "and a third")
        self.docs = self.write("docs.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))

    def compare(self, base, candidate, *options):
        return self.quern_json("compare", base, candidate, "--docs", self.docs, "--tokenizer", "byte", *options)

    def test_fields_agree_with_score(self):
        found = self.compare(self.base, self.candidate)
        self.assertLessEqual(FIELDS, set(found))
        for key, model in (("base", self.base), ("candidate", self.candidate)):
            score = self.quern_json("score", model, "--docs", self.docs, "--tokenizer", "byte")
            self.assertAlmostEqual(found[f"{key}_nats"], score["nats"], delta=SCORE_TOLERANCE)
            self.assertAlmostEqual(found[f"{key}_ppl"], math.exp(found[f"{key}_nats"]), delta=1e-9 * score["ppl"])
            for same in ("tokens", "windows", "docs_scored", "docs_skipped", "protocol", "document_sha256"):
                self.assertEqual(found[same], score[same], same)
        self.assertAlmostEqual(found["difference"], found["candidate_nats"] - found["base_nats"], places=12)
        self.assertLess(found["low"], found["difference"])
        self.assertLess(found["difference"], found["high"])
        self.assertGreater(found["kl"], 0)
        text = self.quern("compare", self.base, self.candidate, "--docs", self.docs, "--tokenizer", "byte").out
        self.assertIn(f"difference      {found['difference']:+.6f} nats, 95 % interval "
                      f"{found['low']:+.6f} to {found['high']:+.6f}\n", text)
        self.assertIn(f"agreement       {100 * found['agreement']:.2f} %", text)

    def test_model_against_itself(self):
        found = self.compare(self.base, self.base)
        for key in ("difference", "std_error", "low", "high", "kl"):
            self.assertEqual(found[key], 0, key)
        self.assertEqual((found["agreement"], found["verdict"], found["within_band"], found["verdict_certain"]),
                         (1, "within", True, True))

    def test_one_window_has_no_interval(self):
        options = ("--protocol", "window:20", "--max-windows", "1")
        found = self.compare(self.base, self.candidate, *options)
        self.assertEqual((found["windows"], found["tokens"], found["protocol"]), (1, 19, "window:20"))
        self.assertEqual((found["std_error"], found["low"], found["high"], found["verdict_certain"]),
                         (None, None, None, False))
        text = self.quern("compare", self.base, self.candidate, "--docs", self.docs, "--tokenizer", "byte", *options)
        self.assertIn("unknown: one window only", text.out)

    def test_artifact(self):
        artifact = self.root / "out.zip"
        self.compress(self.base, artifact)
        report = self.compare(self.base, artifact)
        dense = self.root / "dense"
        self.quern("export", artifact, "--dense", "-o", dense)
        again = self.compare(artifact, dense)
        self.assertGreater(report["kl"], 0)
        self.assertLess(abs(again["difference"]), SCORE_TOLERANCE)
        self.assertEqual(again["verdict"], "within")

    def test_refusals(self):
        compare, docs = ("compare", self.base, self.candidate), ("--docs", self.docs, "--tokenizer", "byte")
        other = self.tiny("other", vocab=300)
        self.assert_refused("compare", self.base, other, *docs, words=["vocabulary", "300", "257"])
        self.assert_refused("compare", self.base, self.root / "none", *docs, words="none")
        self.assert_refused(*compare, "--docs", self.docs, words=["base", "tokenizer.json"])
        self.assert_refused(*compare, "--docs", self.root / "none.txt", "--tokenizer", "byte", words="none.txt")
        self.assert_refused(*compare, *docs, "--compute", "f64", words="f64", code=2)
        self.quern("compare", self.base, *docs, code=2)
        broken = support.TinyModel()
        broken.set_value("model.layers.0.mlp.up_proj.weight", 3, math.inf)
        model = broken.write(self.root / "broken")
        self.assert_refused("compare", self.base, model, *docs, words="model.layers.0.mlp.up_proj.weight")

    def test_demo_against_its_artifact(self):
        demo = support.demo_teacher()
        texts = (demo / "dev.txt").read_text().split("<|endoftext|>\n")[:4]
        self.docs = self.write("demo.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        artifact = self.root / "demo.zip"
        self.quern("compress", demo, "--track", "ternary", "--recipe", "fast", "-o", artifact)
        found = self.quern_json("compare", demo, artifact, "--docs", self.docs)
        self.assertEqual((found["verdict"], found["verdict_certain"]), ("worse", True))
        self.assertGreater(found["low"], 0.1)  # ternary codes without calibration lose about half a nat
        self.assertLess(found["high"], 1.5)
        self.assertLess(0.3, found["agreement"])


if __name__ == "__main__":
    support.main()
