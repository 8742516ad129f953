"""quern generate: the reference's greedy continuation, seeds, sampling, and where a text ends."""

import json

import support


class Golden(support.CliTest):

    def test_greedy_continuation(self):
        """The prompt is decoded first: a text that encodes to the reference's ids."""
        for name in ("qwen3-tied", "qwen3-untied-sharded", "qwen2-bias", "qwen3-yarn"):
            with self.subTest(name):
                model = support.shared(f"golden/models/{name}")
                golden = json.loads((model / "golden.json").read_text())
                ids = golden["sequences"][golden["greedy"]["prompt"]]["ids"]
                prompt = self.quern("tokenize", "--tokenizer", model, "--decode", input=json.dumps(ids).encode()).out
                self.assertEqual(self.quern_json("tokenize", "--tokenizer", model, input=prompt.encode())["ids"], ids)
                found = self.quern_json("generate", model, "--prompt", prompt, "--temperature", "0",
                                        "--max-new-tokens", len(golden["greedy"]["ids"]))
                self.assertEqual(found["ids"], golden["greedy"]["ids"])


class Generate(support.CliTest):

    def generate(self, model, *options):
        return self.quern_json("generate", model, "--prompt", "The", "--tokenizer", "byte", *options)

    def test_seeds(self):
        model = self.tiny()
        first = self.generate(model, "--seed", "7", "--temperature", "1.5")
        self.assertEqual(self.generate(model, "--seed", "7", "--temperature", "1.5", "--threads", "3"), first)
        self.assertNotEqual(self.generate(model, "--seed", "8", "--temperature", "1.5")["ids"], first["ids"])

    def test_greedy_ways(self):
        model = self.tiny()
        greedy = self.generate(model, "--temperature", "0")
        self.assertEqual(self.generate(model, "--temperature", "0", "--seed", "9"), greedy)
        self.assertEqual(self.generate(model, "--top-k", "1"), greedy)
        self.assertEqual(self.generate(model, "--top-p", "1e-9", "--top-k", "0"), greedy)

    def test_text_is_what_the_ids_say(self):
        """Printed piece by piece or at once: the same text, prompt included."""
        model = self.tiny()
        options = ("--seed", "3", "--temperature", "2", "--top-k", "0", "--max-new-tokens", "40")
        found = self.generate(model, *options)
        self.assertTrue(found["text"].startswith("The"))
        self.assertLessEqual(len(found["ids"]), 40)
        text = self.quern("generate", model, "--prompt", "The", "--tokenizer", "byte", *options)
        self.assertEqual(text.raw.decode(), found["text"] + "\n")

    def test_ends_at_eos(self):
        """With the greedy token as the end token nothing is generated."""
        tiny = support.TinyModel()
        first = self.generate(tiny.write(self.root / "a"), "--temperature", "0")["ids"]
        self.assertEqual(len(first), 64)
        tiny.config["eos_token_id"] = first[5]
        ended = self.generate(tiny.write(self.root / "b"), "--temperature", "0")["ids"]
        self.assertEqual(ended, first[:first.index(first[5])])

    def test_ends_at_padding_of_the_vocabulary(self):
        """An id beyond the tokenizer's ends the text as the end token does."""
        tiny = support.TinyModel(vocab=300)
        self.generate(tiny.write(self.root / "wide"), "--temperature", "3", "--top-k", "0", "--top-p", "1")

    def test_demo_writes_words(self):
        found = self.quern_json("generate", support.demo_teacher(), "--prompt", "And the LORD said", "--seed", "1",
                                "--max-new-tokens", "24")
        self.assertTrue(found["text"].startswith("And the LORD said"))
        self.assertGreater(len(found["text"].split()), 8)

    def test_from_an_artifact(self):
        model = self.tiny()
        self.compress(model, self.root / "a.zip")
        found = self.generate(self.root / "a.zip", "--temperature", "0", "--max-new-tokens", "8")
        self.quern("export", self.root / "a.zip", "--dense", "-o", self.root / "dense")
        self.assertEqual(self.generate(self.root / "dense", "--temperature", "0", "--max-new-tokens", "8"), found)


if __name__ == "__main__":
    support.main()
