"""quern bench: steps of training, of distillation and of a whole model; fits; refusals."""

import support


class Bench(support.CliTest):
    def train(self, *more):
        report = self.quern_json("bench", "train", "--compute", "f32", "--repeats", 1, *more)
        self.assertEqual([row["case"] for row in report["rows"]], ["demo, f32"])
        return report["rows"][0]

    def test_gradients_depend_neither_on_threads_nor_on_memory(self):
        """A digest of all gradients of a model of real size."""
        row = self.train("--threads", 1)
        self.assertGreater(row["best"], 0)
        self.assertGreater(row["limit"], row["best"])  # no faster than the multiply-adds of the machine
        again = self.train("--threads", 3, "--recompute")
        self.assertEqual(row["output_sha256"], again["output_sha256"])
        self.assertLess(again["peak_rss_bytes"], row["peak_rss_bytes"])

    def distill(self, *more):
        rows = self.quern_json("bench", "distill", "--compute", "f32", "--repeats", 1, *more)["rows"]
        self.assertEqual([row["case"] for row in rows], ["block, demo, sign, f32", "block, demo, ternary, f32"])
        return rows

    def test_steps_of_distillation_do_not_depend_on_threads(self):
        """A digest of the gradients of latents, scales, thresholds and norms."""
        rows, again = self.distill("--threads", 1), self.distill("--threads", 3, "--recompute")
        for row, same in zip(rows, again):
            self.assertGreater(row["limit"], row["best"])
            self.assertEqual(row["output_sha256"], same["output_sha256"])
        self.assertNotEqual(rows[0]["output_sha256"], rows[1]["output_sha256"])

    def test_steps_in_bf16(self):
        """Below the limit of their unit: that of f32 where there is none for bf16."""
        rows, again = (self.quern_json("bench", "distill", "--compute", "bf16", "--repeats", 1, "--threads", n)["rows"]
                       for n in (1, 3))
        self.assertEqual(len(rows), 2)
        for row, same in zip(rows, again):
            self.assertGreater(row["limit"], row["best"])
            self.assertEqual(row["output_sha256"], same["output_sha256"])

    def test_whole_model_towards_a_cached_teacher(self):
        docs = self.write("docs.txt", "<|endoftext|>\n".join("the quick brown fox " * n for n in range(4, 12)))
        options = ("bench", "finetune", "--model", self.tiny(), "--docs", docs, "--tokenizer", "byte", "--repeats", 1)
        rows = self.quern_json(*options, "--threads", 1)["rows"]
        again = self.quern_json(*options, "--threads", 3)["rows"]
        cache, size, step = rows
        self.assertEqual((cache["unit"], size["unit"], step["unit"]), ("tokens/s", "B/token", "tokens/s"))
        self.assertGreater(size["best"], 1)
        self.assertEqual(size["best"], again[1]["best"])
        for row, same in ((cache, again[0]), (step, again[2])):
            self.assertEqual(row["output_sha256"], same["output_sha256"])

    def test_refusals(self):
        self.assert_refused("bench", "train", "--quiet", "--shape", "tiny", code=2, words=["--shape tiny", "demo"])
        self.assert_refused("bench", "train", "--quiet", "--compute", "f16", code=2, words=["--compute", "f16"])
        self.assert_refused("bench", "nothing", code=2, lines=2, words=["no suite 'nothing'", "train"])
        self.assert_refused("bench", "distill", "--quiet", "--shape", "tiny", code=2, words=["--shape tiny", "demo"])
        self.assert_refused("bench", "score", code=2, lines=2, words="needs --model")
        self.assert_refused("bench", "finetune", code=2, lines=2, words="needs --model")
        self.assert_refused("bench", "pack", "--csv", "--json", code=2, lines=2, words="exclude each other")


if __name__ == "__main__":
    support.main()
