"""quern score and quern logits: the reference's numbers, protocols, documents, and bad input."""

import hashlib
import json
import math
import struct

import support

# The reference sums fp64 losses; the program computes in f32. Measured differences are below 2e-8.
NATS_RELATIVE = 1e-6
LOGITS_ABSOLUTE = 3e-5
SCORE_FIELDS = {"ppl", "nats", "bits_per_byte", "tokens", "docs_scored", "docs_skipped", "std_error", "protocol",
                "tokenizer", "document_sha256", "parameters", "seconds", "peak_rss_bytes"}


def logits_of(path):
    _, tensors = support.read_safetensors(path.read_bytes())
    return tensors


def floats(data):
    return struct.unpack(f"<{len(data) // 4}f", data)


class Golden(support.CliTest):

    def expected(self, name):
        return json.loads(support.shared(f"golden/scoring/expected-{name}.json").read_text())

    def check(self, found, targets, nats):
        self.assertEqual(found["tokens"], targets)
        self.assertLessEqual(abs(found["nats"] / nats - 1), NATS_RELATIVE, found)
        self.assertLessEqual(abs(found["ppl"] / math.exp(nats) - 1), NATS_RELATIVE * max(1, nats), found)

    def check_model(self, name, *options):
        expected = self.expected(name)
        model, docs = support.shared(f"golden/models/{name}"), support.shared("golden/scoring/docs.jsonl")
        found = self.quern_json("score", model, "--docs", docs, *options)
        contract = expected["contract"]
        self.check(found, contract["token_count"], contract["heldout_cross_entropy_nats"])
        self.assertEqual(found["docs_scored"], contract["scored_docs"])
        self.assertEqual(found["docs_scored"] + found["docs_skipped"], len(expected["doc_ids"]))
        self.assertEqual(found["document_sha256"], expected["document_sha256"])
        self.assertEqual(found["protocol"], "heldout:512")
        text = support.shared("golden/scoring/text.txt")
        if name == "qwen3-byte":  # the reference used the first 3000 ids: as many bytes
            text = self.write("text.txt", text.read_bytes()[:expected["text_tokens_used"]])
        for protocol, key in (("llama-512", "llama_512"), ("window:128", "gptq_128")):
            wanted = expected[key]
            found = self.quern_json("score", model, "--docs", text, "--protocol", protocol, *options)
            self.check(found, wanted["fp64"]["targets"], wanted["fp64"]["mean_nll"])
            self.assertEqual(found["windows"], len(wanted["windows"]))
            self.assertEqual(found["protocol"], protocol)

    def test_qwen3_tied(self):
        self.check_model("qwen3-tied")

    def test_qwen3_byte(self):
        self.check_model("qwen3-byte", "--tokenizer", "byte")

    def test_logits(self):
        for name in ("qwen3-tied", "qwen3-untied-sharded", "qwen3-attention-bias", "qwen2-bias", "qwen3-f32",
                     "qwen3-f16", "qwen3-yarn", "qwen3-byte"):
            with self.subTest(name):
                self.check_logits(support.shared(f"golden/models/{name}"))

    def check_logits(self, model):
        golden = logits_of(model / "golden.safetensors")
        vocab = json.loads((model / "config.json").read_text())["vocab_size"]
        for sequence in ("seq7", "seq33"):
            ids = struct.unpack(f"<{golden[sequence + '.ids'][1][0]}q", golden[sequence + ".ids"][2])
            path, out = self.write_json("ids.json", {"ids": ids}), self.root / "out.safetensors"
            report = self.quern_json("logits", model, "--ids", path, "-o", out)
            self.assertEqual((report["tokens"], report["vocab_size"]), (len(ids), vocab))
            dtype, shape, data = logits_of(out)["logits"]
            self.assertEqual((dtype, shape), ("F32", [len(ids), vocab]))
            _, rows, expected = golden[sequence + ".logits"]
            self.assertEqual(rows, shape)
            error = max(abs(a - b) for a, b in zip(floats(data), floats(expected)))
            self.assertLessEqual(error, LOGITS_ABSOLUTE)


class Score(support.CliTest):

    def setUp(self):
        super().setUp()
        self.model = self.tiny()

    def score(self, docs, *options):
        return self.quern_json("score", self.model, "--docs", docs, "--tokenizer", "byte", *options)

    def test_fields(self):
        docs = self.write("docs.jsonl", '{"text": "two documents"}\n{"text": "x"}\n{"text": "the second one"}\n')
        found = self.score(docs)
        self.assertLessEqual(SCORE_FIELDS, set(found))
        self.assertEqual((found["docs_scored"], found["docs_skipped"], found["tokens"]), (2, 1, 12 + 13))
        self.assertAlmostEqual(found["ppl"], math.exp(found["nats"]), delta=1e-9 * found["ppl"])
        self.assertAlmostEqual(found["bits_per_byte"], found["nats"] / math.log(2), places=9)
        self.assertEqual(found["document_sha256"], hashlib.sha256(b"two documents\n\nx\n\nthe second one").hexdigest())
        self.assertEqual(found["tokenizer"], "byte")
        self.assertGreater(found["peak_rss_bytes"], 0)
        tensors = support.TinyModel().tensors.values()
        self.assertEqual(found["parameters"], sum(len(data) // 2 for _, _, data in tensors))
        text = self.quern("score", self.model, "--docs", docs, "--tokenizer", "byte").out
        self.assertIn(f"perplexity      {found['ppl']:.6f}\n", text)

    def test_forms_of_documents(self):
        """One set as .jsonl, as .txt with separator lines, and as a folder: one digest, one score."""
        texts = ["first\nof two lines\n", "second\n", "third, of the same set\n"]
        self.write("docs.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        self.write("docs.txt", "<|endoftext|>\n".join(texts))
        for i, text in enumerate(texts):
            self.write(f"docs/{i}.txt", text)
        self.write("docs/ignored.md", "not a document")
        results = [self.score(self.root / name) for name in ("docs.jsonl", "docs.txt", "docs")]
        for key in ("nats", "tokens", "docs_scored", "document_sha256"):
            self.assertEqual(len({result[key] for result in results}), 1, key)
        self.assertEqual(self.score(self.write("one.txt", "no separator\nhere\n"))["docs_scored"], 1)

    def test_threads_do_not_matter(self):
        docs = self.write("docs.txt", "The quick brown fox jumps over the lazy dog.\n" * 20)
        results = [self.score(docs, "--threads", n) for n in (1, 2, 5)]
        self.assertEqual(len({(r["nats"], r["std_error"]) for r in results}), 1)

    def test_protocols(self):
        docs = self.write("docs.txt", "abcdefgh" * 20)  # 160 ids
        for protocol, windows, tokens in (("window:50", 3, 147), ("stride:50:25", 6, 159), ("window:160", 1, 159)):
            found = self.score(docs, "--protocol", protocol)
            self.assertEqual((found["windows"], found["tokens"]), (windows, tokens), protocol)
        self.assertEqual(self.score(docs, "--protocol", "window:50", "--max-windows", "2")["tokens"], 98)
        self.assertEqual(self.score(docs, "--max-tokens", "10")["tokens"], 9)

    def test_bf16_is_close(self):
        docs = self.write("docs.txt", "The quick brown fox jumps over the lazy dog.\n" * 4)
        exact, rounded = self.score(docs), self.score(docs, "--compute", "bf16")
        self.assertLess(abs(exact["nats"] - rounded["nats"]), 0.01)

    def test_bf16_on_the_teacher(self):
        teacher = support.shared("teacher")
        docs = self.write("docs.txt", "<|endoftext|>\n".join(
            (teacher / "text" / "dev.txt").read_text().split("<|endoftext|>\n")[:2]))
        exact, rounded = (self.quern_json("score", teacher, "--docs", docs, "--compute", compute)["nats"]
                          for compute in ("f32", "bf16"))
        self.assertLessEqual(abs(exact - rounded), 2e-3)

    def test_demo(self):
        demo = support.demo_teacher()
        texts = (demo / "dev.txt").read_text().split("<|endoftext|>\n")[:3]
        docs = self.write("docs.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        found = self.quern_json("score", demo, "--docs", docs)
        self.assertEqual(found["docs_scored"], 3)
        self.assertLess(found["ppl"], 60)  # it has learnt text: a uniform guess has 2048
        joined = self.quern_json("score", demo, "--docs", docs, "--protocol", "window:128", "--join", "<|endoftext|>",
                                 "--max-windows", "4")
        self.assertEqual((joined["windows"], joined["tokens"]), (4, 4 * 127))

    def test_overflow_in_fp16_is_a_warning(self):
        tiny = support.TinyModel()
        for i in range(64):
            tiny.set_value("model.layers.0.post_attention_layernorm.weight", i, 1e4)
        model = tiny.write(self.root / "loud")
        docs = self.write("docs.txt", "some text to score")
        result = self.quern("score", model, "--docs", docs, "--tokenizer", "byte", "--json")
        self.assertGreater(result.json["largest_activation"], 65504)
        self.assertRegex(result.err, r"^warning: the largest activation is .* above fp16's 65504")

    def test_bad_documents(self):
        score = ("score", self.model, "--tokenizer", "byte", "--docs")
        self.assert_refused(*score, self.write("empty.txt", ""), words="empty.txt")
        self.assert_refused(*score, self.write("empty.jsonl", ""), words="empty.jsonl")
        self.assert_refused(*score, self.root / "none.txt", words="none.txt")
        (self.root / "folder").mkdir()
        self.assert_refused(*score, self.root / "folder", words="folder")
        short = self.write("short.jsonl", '{"text": "a"}\n{"text": ""}\n')
        self.assert_refused(*score, short, words=["nothing to score", "2 documents has fewer than 2 tokens"])
        self.assert_refused(*score, self.write("few.txt", "abc"), "--protocol", "llama-512",
                            words=["3 tokens", "llama-512"])
        self.assert_refused(*score, self.write("b.jsonl", '{"text": "ok"}\n{"text": 1}\n'), words="b.jsonl")
        self.assert_refused(*score, self.write("c.txt", "ab"), "--protocol", "window:2", "--join", "<|nope|>",
                            words="<|nope|>")

    def test_invalid_utf8(self):
        broken = self.write("broken.txt", b"caf\xe9 \xff\xfe the \xe2\x82 end")
        repaired = self.write("repaired.txt", broken.read_bytes().decode("utf-8", "replace"))
        a, b = self.score(broken), self.score(repaired)
        self.assertEqual((a["nats"], a["tokens"]), (b["nats"], b["tokens"]))

    def test_no_tokenizer(self):
        docs = self.write("docs.txt", "some text")
        self.assert_refused("score", self.model, "--docs", docs, words=["model", "tokenizer.json"])

    def test_vocabulary_too_small(self):
        narrow = self.tiny("narrow", vocab=100)
        docs = self.write("docs.txt", "some text")
        self.assert_refused("score", narrow, "--docs", docs, "--tokenizer", "byte", words="vocabulary")


class Logits(support.CliTest):

    def test_determinism(self):
        model, ids = self.tiny(), self.write_json("ids.json", list(range(1, 40)))
        digests = set()
        for threads in (1, 3):
            out = self.root / f"{threads}.safetensors"
            self.quern("logits", model, "--ids", ids, "-o", out, "--threads", threads)
            digests.add(support.sha256(out))
        self.assertEqual(len(digests), 1)

    def test_bad_ids(self):
        model, out = self.tiny(), self.root / "out.safetensors"
        for text, words in (("[]", "non-empty list"), ("[1, -2]", "item 1 is no token id"), ("[1.5]", "item 0"),
                            ("[257]", "257"), ("{}", "non-empty list"), ("[1", "ids.json"),
                            ("[99999999999]", "item 0")):
            with self.subTest(text):
                path = self.write("ids.json", text)
                self.assert_refused("logits", model, "--ids", path, "-o", out, words=words)
        path = self.write_json("ids.json", [1])
        self.assert_refused("logits", model, "--ids", self.root / "none.json", "-o", out, words="none.json")
        self.assert_refused("logits", model, "--ids", path, "-o", self.root / "none" / "out", words="none/out")
        (self.root / "folder").mkdir()
        self.assert_refused("logits", model, "--ids", path, "-o", self.root / "folder", words="is a folder")

    def test_disk_full(self):
        model, out = self.tiny(), self.write("out.safetensors", "old")
        ids = self.write_json("ids.json", list(range(100)))
        self.assert_refused("logits", model, "--ids", ids, "-o", out, words="out.safetensors",
                            preexec_fn=support.limit_file_size(8192))
        self.assertEqual(out.read_bytes(), b"old")


if __name__ == "__main__":
    support.main()
