"""quern calibrate: statistics of a model on text, the leak check, files merged and listed, and refusals."""

import math
import random
import struct

import support


def text(seed, n_documents=6, n_words=60):
    """Documents of random words: those of two seeds share no 13 letters but by an odd chance."""
    letters = random.Random(seed)
    return [" ".join("".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(3, 12)))
                     for _ in range(n_words)) + "\n" for _ in range(n_documents)]


def joined(documents):
    return "<|endoftext|>\n".join(documents)


def floats(entry):
    dtype, _, data = entry
    assert dtype == "F32"
    return struct.unpack(f"<{len(data) // 4}f", data)


class Calibrate(support.CliTest):
    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.documents = text(1)
        self.text = self.write("text.txt", joined(self.documents))
        self.common = ("calibrate", self.model, "--tokenizer", "byte", "--text", self.text, "--context", 64)

    def measure(self, name, *arguments):
        return self.quern_json(*self.common, "-o", self.root / name, *arguments)

    def read(self, name):
        return support.read_safetensors((self.root / name).read_bytes())

    def test_a_file_of_statistics(self):
        report = self.measure("s", "--tokens", 1024, "--fisher-tokens", 256, "--seed", 3)
        for key, value in {"tokens": 1024, "fisher_tokens": 256, "context": 64, "widest_input": 96, "rank_bound": 96,
                           "inputs": 2 * (64 + 64 + 64 + 96) + 64, "dead_inputs": 0, "tokenizer": "byte",
                           "statistics": str(self.root / "s")}.items():
            self.assertEqual(report[key], value, key)
        self.assertNotIn("leak", report)
        metadata, tensors = self.read("s")
        self.assertEqual(metadata, {"format": "quern-statistics", "version": "1", "n_tokens": "1024",
                                    "n_fisher_tokens": "256", "context": "64", "seed": "3",
                                    "text_sha256": report["text_sha256"], "model_sha256": report["model_sha256"]})
        gate, up = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up"))
        self.assertEqual(tensors[f"{gate}.input_hessian"][1], [64, 64])
        self.assertNotIn(f"{up}.input_hessian", tensors)
        hessian = floats(tensors[f"{gate}.input_hessian"])
        for name in (gate, up):
            self.assertEqual(floats(tensors[f"{name}.input_second_moment"]), hessian[::65])
            self.assertEqual(tensors[f"{name}.output_fisher"][1], [96])
        self.assertTrue(all(hessian[i * 64 + j] == hessian[j * 64 + i] for i in range(64) for j in range(i)))
        table = "model.embed_tokens.weight"
        self.assertEqual(tensors[f"{table}.output_fisher"][1], [257])
        self.assertEqual(tensors[f"{table}.input_hessian"][1], [64, 64])
        self.assertEqual(tensors[f"{table}.lookup_gradient"][1], [64])
        self.assertTrue(math.isclose(sum(floats(tensors[f"{table}.token_frequency"])), 1, rel_tol=1e-6))
        self.assertTrue(all(x > 0 for x in floats(tensors[f"{table}.output_fisher"])))

    def test_frequencies_are_those_of_the_bytes(self):
        """All of the text but its incomplete last context, each document with its separator, id 0."""
        self.measure("s", "--tokens", 10**6, "--diagonal", "--fisher-tokens", 0)
        metadata, tensors = self.read("s")
        ids = [i for d in self.documents for i in [*(b + 1 for b in d.encode()), 0]]
        ids = ids[:len(ids) // 64 * 64]
        self.assertEqual(metadata["n_tokens"], str(len(ids)))
        frequency = floats(tensors["model.embed_tokens.weight.token_frequency"])
        for i in range(257):
            self.assertAlmostEqual(frequency[i], ids.count(i) / len(ids), places=6)
        self.assertFalse([name for name in tensors if name.endswith(("_hessian", "_fisher", "_gradient"))])

    def test_the_same_bytes_again(self):
        self.measure("a", "--tokens", 512, "--threads", 1)
        self.measure("b", "--tokens", 512, "--threads", 3)
        self.assertEqual(support.sha256(self.root / "a"), support.sha256(self.root / "b"))
        self.measure("c", "--tokens", 512, "--seed", 1)
        self.assertNotEqual(support.sha256(self.root / "a"), support.sha256(self.root / "c"))

    def test_other_commands_read_it(self):
        self.measure("s", "--tokens", 512, "--fisher-tokens", 64)
        report = self.quern_json("sensitivity", self.model, "--track", "ternary", "--second-moments", self.root / "s")
        self.assertTrue(report["weighted"])
        other = self.tiny("other", seed=2)
        self.assert_refused("sensitivity", other, "--track", "ternary", "--second-moments", self.root / "s", code=2,
                            words="another model")

    def test_text_for_people(self):
        result = self.quern(*self.common, "-o", self.root / "s", "--tokens", 640, "--docs",
                            self.write("docs.txt", joined(text(2))))
        self.assertIn("640 tokens in contexts of 64, 640 of them walked backwards", result.out)
        self.assertIn("rank at most 96 of 96", result.out)
        self.assertIn("13-grams of 6 documents", result.out)

    def test_too_few_tokens_are_warned_of(self):
        result = self.quern(*self.common, "-o", self.root / "s", "--tokens", 64, "--json")
        self.assertEqual(result.json["rank_bound"], 64)
        self.assertRegex(result.err, r"warning: 64 tokens.*down_proj.*rank 64 at most for a width of 96.*damping")
        result = self.quern(*self.common, "-o", self.root / "s", "--tokens", 64, "--diagonal")
        self.assertEqual(result.err, "")

    def test_a_dead_input_is_counted(self):
        tiny = support.TinyModel()
        tiny.set_value("model.layers.0.input_layernorm.weight", 11, 0.0)
        model = tiny.write(self.root / "dead")
        result = self.quern("calibrate", model, *self.common[2:], "-o", self.root / "s", "--tokens", 512, "--json")
        self.assertEqual(result.json["dead_inputs"], 1)
        self.assertIn("warning: 1 of 640 inputs", result.err)
        listed = self.quern_json("calibrate", "--inspect", self.root / "s")
        zeros = {item["name"]: item["zero"] for item in listed["tensors"] if item["zero"] and "input" in item["name"]}
        q, k, v = (f"model.layers.0.self_attn.{name}_proj.weight.input_second_moment" for name in "qkv")
        self.assertEqual(zeros, {q: 1, k: 1, v: 1, q.replace("second_moment", "hessian"): 1})


class Leak(support.CliTest):
    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.documents = text(1)
        self.common = ("calibrate", self.model, "--tokenizer", "byte", "--text",
                       self.write("text.txt", joined(self.documents)), "--context", 64, "--tokens", 512, "-o",
                       self.root / "s")

    def test_other_documents_pass(self):
        report = self.quern_json(*self.common, "--docs", self.write("docs.txt", joined(text(2))))
        self.assertEqual(report["leak"]["share"], 0)
        self.assertEqual((report["leak"]["n"], report["leak"]["documents"]), (13, 6))
        self.assertEqual(report["leak"]["documents_leaked"], 0)

    def test_the_same_documents_are_refused(self):
        docs = self.write("docs.txt", joined(text(2) + [self.documents[4]]))
        result = self.assert_refused(*self.common, "--docs", docs, words=("13-grams", "document 7", "--allow-leak"))
        self.assertIn(self.documents[4][:40], result.err)
        allowed = self.quern(*self.common, "--docs", docs, "--allow-leak", "--json")
        self.assertIn("warning: ", allowed.err)
        self.assertEqual(allowed.json["leak"]["worst_document"], 6)
        self.assertEqual(allowed.json["leak"]["worst_share"], 1)
        self.assertEqual(allowed.json["leak"]["documents_leaked"], 1)

    def test_a_passage_is_warned_of(self):
        many = text(2, n_documents=1, n_words=400)
        docs = self.write("docs.txt", many[0] + self.documents[2][:100])
        result = self.quern(*self.common, "--docs", docs, "--json")
        self.assertRegex(result.err, r"warning: \d\.\d\d % of the 13-grams.*" + self.documents[2][:30])


class Files(support.CliTest):
    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.common = ("calibrate", self.model, "--tokenizer", "byte", "--context", 64, "--tokens", 640)
        self.parts = []
        for seed in (1, 2, 3):
            self.parts.append(self.root / f"s{seed}")
            self.quern(*self.common, "--text", self.write(f"t{seed}.txt", joined(text(seed))), "-o", self.parts[-1],
                       "--seed", seed)

    def test_merge_is_the_mean(self):
        report = self.quern_json("calibrate", "--merge", *self.parts, "-o", self.root / "sum")
        self.assertEqual(report, {"statistics": str(self.root / "sum"), "files": 3})
        metadata, merged = support.read_safetensors((self.root / "sum").read_bytes())
        self.assertEqual((metadata["n_tokens"], metadata["n_fisher_tokens"]), ("1920", "1920"))
        self.assertEqual((metadata["seed"], metadata["context"]), ("1+2+3", "64"))
        self.assertEqual(metadata["text_sha256"].count("+"), 2)
        parts = [support.read_safetensors(part.read_bytes())[1] for part in self.parts]
        self.assertEqual(list(merged), list(parts[0]))
        for name, entry in merged.items():
            for got, *given in zip(floats(entry), *(floats(part[name]) for part in parts)):
                self.assertTrue(math.isclose(got, sum(given) / 3, rel_tol=1e-5, abs_tol=1e-7), name)
        self.assertIn("3 files", self.quern("calibrate", "--merge", *self.parts, "-o", self.root / "sum").out)

    def test_inspect_lists_the_tensors(self):
        listed = self.quern_json("calibrate", "--inspect", self.parts[0])
        _, tensors = support.read_safetensors(self.parts[0].read_bytes())
        self.assertEqual([item["name"] for item in listed["tensors"]], list(tensors))
        self.assertEqual((listed["tokens"], listed["seed"]), (640, "1"))
        for item in listed["tensors"]:
            values = floats(tensors[item["name"]])
            if item["statistic"] == "input_hessian":
                values = values[::item["values"] + 1]
            self.assertEqual(item["values"], len(values))
            self.assertEqual(item["largest"], max(values))
            self.assertTrue(math.isclose(item["mean"], sum(values) / len(values), rel_tol=1e-9))
        text_form = self.quern("calibrate", "--inspect", self.parts[0]).out
        self.assertIn("model.layers.1.mlp.down_proj.weight.input_hessian", text_form)

    def test_refusals(self):
        other = self.tiny("other", seed=2)
        self.quern("calibrate", other, *self.common[2:], "--text", self.root / "t1.txt", "-o", self.root / "o")
        self.quern(*self.common, "--text", self.root / "t1.txt", "-o", self.root / "d", "--diagonal")
        broken = self.write("broken", b"no tensors")
        sum_of = ("calibrate", "-o", self.root / "sum", "--merge", self.parts[0])
        self.assert_refused(*sum_of, self.root / "o", code=2, words=("another model", "s1"))
        self.assert_refused(*sum_of, self.root / "d", code=2, words=("lacks", "input_hessian"))
        self.assert_refused(*sum_of, broken, words="broken")
        self.assert_refused(*sum_of, self.root / "absent", words="absent")
        self.assert_refused("calibrate", "--inspect", broken, words="broken")
        self.assert_refused("calibrate", "--inspect", self.model / "model.safetensors", words="names no matrix")


class Refusals(support.CliTest):
    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.text = self.write("text.txt", joined(text(1)))
        self.out = self.root / "s"

    def refuse(self, *arguments, words, code=1, model=None):
        self.assert_refused("calibrate", model or self.model, "--text", self.text, "-o", self.out, "--tokenizer",
                            "byte", "--context", 64, *arguments, words=words, code=code)

    def test_arguments(self):
        m, t, o = self.model, self.text, self.out
        for arguments, words in (((m, "-o", o), "option '--text FILE' is missing"),
                                 ((m, "--text", t), "option '-o STATS' is missing"),
                                 ((m, m, "--text", t, "-o", o), "unexpected argument"),
                                 (("--merge", m), "option '-o STATS' is missing"),
                                 (("--merge", "--inspect", m), "exclude each other"),
                                 (("--merge", m, "-o", o, "--text", t), "--text does not go with --merge"),
                                 (("--inspect", m, m), "unexpected argument"),
                                 (("--merge", *["x"] * 17, "-o", o), "unexpected argument 'x'"),
                                 ((), "MODEL|STATS is missing")):
            self.assert_refused("calibrate", *arguments, words=words, code=2, lines=2)
        self.refuse("--tokens", 63, code=2, words="63 tokens")
        self.refuse("--tokens", 512, "--fisher-tokens", -1, code=2, words="--fisher-tokens -1")
        self.refuse("--compute", "f64", code=2, words="--compute")

    def test_text(self):
        short = self.write("short.txt", "too short\n")
        self.assert_refused("calibrate", self.model, "--text", short, "-o", self.out, "--tokenizer", "byte",
                            words=("short.txt", "fewer than one context of 512"))
        self.assert_refused("calibrate", self.model, "--text", self.root / "absent", "-o", self.out, "--tokenizer",
                            "byte", words="absent")
        small = self.tiny("small", vocab=100)
        self.refuse(model=small, words="the two do not belong together")

    def test_weights_that_are_not_finite_are_named(self):
        tiny = support.TinyModel()
        tiny.set_value("model.layers.1.mlp.up_proj.weight", 5, math.inf)
        self.refuse("--tokens", 512, model=tiny.write(self.root / "bad"), words="model.layers.1.mlp.up_proj.weight")

    def test_the_output_cannot_be_written(self):
        self.out = self.root / "no" / "folder" / "s"
        self.refuse("--tokens", 512, words="no/folder")
        self.out = self.model
        self.refuse("--tokens", 512, words="model")


class Teacher(support.CliTest):
    def test_the_shared_teacher(self):
        """Statistics of a trained model, and a command that reads them."""
        teacher = support.shared("teacher")
        report = self.quern_json("calibrate", teacher, "--text", teacher / "text" / "calibration.txt", "--tokens", 8192,
                                 "--fisher-tokens", 1024, "--diagonal", "-o", self.root / "s")
        self.assertEqual((report["tokens"], report["dead_inputs"]), (8192, 0))
        scores = self.quern_json("sensitivity", teacher, "--track", "ternary", "--second-moments", self.root / "s")
        self.assertTrue(all(row["gain"] > 0 for row in scores["tensors"]))


if __name__ == "__main__":
    support.main()
