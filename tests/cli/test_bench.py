"""quern bench: the suite that needs neither model nor text, and refusals."""

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

    def test_refusals(self):
        self.assert_refused("bench", "train", "--quiet", "--shape", "tiny", code=2, words=["--shape tiny", "demo"])
        self.assert_refused("bench", "train", "--quiet", "--compute", "f16", code=2, words=["--compute", "f16"])
        self.assert_refused("bench", "nothing", code=2, lines=2, words=["no suite 'nothing'", "train"])
        self.assert_refused("bench", "score", code=2, lines=2, words="needs --model")
        self.assert_refused("bench", "pack", "--csv", "--json", code=2, lines=2, words="exclude each other")


if __name__ == "__main__":
    support.main()
