"""quern compress on tiny models: exact sizes, recipes, one SHA-256, and budgets that cannot be met."""

import os
import re

import support

FIELDS = {"artifact", "sha256", "bytes", "bits_per_parameter", "budget_bits_per_parameter", "parameters",
          "rescue_fraction", "ppl_teacher", "ppl", "nats_lost", "gates", "seconds", "peak_rss_bytes", "recipe_sha256",
          "isa"}
GATES = ["sha256", "artifact", "artifact_size", "model_dir", "load", "parameter_count", "quantized_size", "manifest",
         "logits", "heldout_ppl"]


def size_of(path):
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


class Compress(support.CliTest):

    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.docs = self.write("docs.txt", "The quick brown fox jumps over the lazy dog.\n")

    def test_fields(self):
        out = self.root / "a.zip"
        report = self.compress(self.model, out, "ternary", "--docs", self.docs, "--tokenizer", "byte")
        self.assertLessEqual(FIELDS, set(report))
        self.assertEqual(report["artifact"], str(out))
        self.assertEqual(report["sha256"], support.sha256(out))
        self.assertEqual(report["bytes"], out.stat().st_size)
        self.assertAlmostEqual(report["bits_per_parameter"], 8 * report["bytes"] / report["parameters"], places=9)
        self.assertEqual(report["budget_bits_per_parameter"], 16)
        self.assertEqual(sum(report["roles"].values()), report["bytes"])
        self.assertEqual(report["gates"], dict.fromkeys(GATES, True))
        self.assertLessEqual(report["rescue_fraction"], 0.1)
        score = self.quern_json("score", self.model, "--docs", self.docs, "--tokenizer", "byte")
        self.assertEqual(report["ppl_teacher"], score["ppl"])
        score = self.quern_json("score", out, "--docs", self.docs, "--tokenizer", "byte")
        self.assertEqual(report["ppl"], score["ppl"])
        self.assertAlmostEqual(report["nats_lost"], score["nats"] - self.nats_of_teacher(), places=12)

    def nats_of_teacher(self):
        return self.quern_json("score", self.model, "--docs", self.docs, "--tokenizer", "byte")["nats"]

    def test_without_documents(self):
        report = self.compress(self.model, self.root / "a.zip")
        self.assertIsNone(report["ppl"])
        self.assertEqual(report["gates"], dict.fromkeys(GATES[:-1], True) | {"heldout_ppl": None})
        text = self.quern("compress", self.model, "--track", "ternary", "-o", self.root / "b.zip",
                          *support.GENEROUS).out
        self.assertIn(f"sha256        {report['sha256']}\n", text)
        self.assertIn("heldout_ppl      skipped: no documents were given", text)

    def test_score_of_the_artifact_is_that_of_its_dense_copy(self):
        for track in support.TRACKS:
            for name in (f"{track}.zip", track):
                self.compress(self.model, self.root / name, track)
                self.quern("export", self.root / name, "--dense", "-o", self.root / f"{name}-dense")
                a, b = (self.quern_json("score", self.root / path, "--docs", self.docs, "--tokenizer", "byte")["ppl"]
                        for path in (name, f"{name}-dense"))
                self.assertLessEqual(abs(a / b - 1), 1e-5)

    def test_sharded_source_gives_the_same_codes(self):
        whole = self.compress(self.model, self.root / "a", "binary")
        parts = self.compress(support.TinyModel().write_shards(self.root / "sharded"), self.root / "b", "binary")
        self.assertEqual(whole["roles"], parts["roles"])


class Sizes(support.CliTest):

    def check(self, model, name, track, *options):
        """A dry run writes nothing and says the bytes of the real run; both keep the budget. Returns both reports."""
        out, before = self.root / name, self.files()
        arguments = ("compress", model, "--track", track, "-o", out, *options)
        plan = self.quern_json(*arguments, "--dry-run")
        self.assertEqual(self.files(), before)
        report = self.quern_json(*arguments)
        self.assertEqual(plan["bytes"], size_of(out), plan)
        self.assertEqual(report["bytes"], plan["bytes"])
        self.assertLessEqual(plan["minimum_bytes"], plan["bytes"])
        self.assertLessEqual(plan["bytes"], plan["budget_bytes"])
        self.assertLessEqual(report["rescue_fraction"], plan["max_rescue_fraction"])
        return plan, report

    def fixed_groups(self):
        return self.write("fixed.yaml", "name: fixed\nquantize:\n  group_size: 32\n")

    def test_finest_groups_that_fit(self):
        """Without a group size the recipe takes coarser ones until the smallest file fits."""
        model, out = self.tiny(), self.root / "a.zip"
        arguments = ("compress", model, "--track", "ternary", "-o", out, *support.GENEROUS)
        scales, least = [], 10**6
        while True:
            result = self.quern(*arguments, "--bytes", least, "--json", code=None)
            if result.code:
                break
            scales.append(result.json["roles"]["scale"])
            least = result.json["minimum_bytes"] - 1
        self.assertIn("one fp16 scale per row", result.err)
        self.assertIn(f"--bytes {least + 1} or more", result.err)
        self.assertGreater(len(scales), 1)
        self.assertEqual(scales, sorted(scales, reverse=True))

    def test_fraction_binds(self):
        model = self.tiny()
        for track in support.TRACKS:
            for name in (f"{track}.zip", track):
                plan, report = self.check(model, name, track, *support.GENEROUS)
                self.assertLess(plan["bytes"], plan["budget_bytes"])
                self.assertGreater(report["rescue_fraction"], 0.095)

    def test_budget_binds(self):
        model = self.tiny()
        options = (*support.GENEROUS, "--recipe", self.fixed_groups())
        for track in support.TRACKS:
            for name in (f"{track}.zip", track):
                most = self.quern_json("compress", model, "--track", track, "-o", self.root / name, *options,
                                       "--dry-run")["bytes"]
                plan, report = self.check(model, name, track, *options, "--bytes", most - 1000)
                self.assertEqual(plan["bytes"], most - 1000)  # met to the byte
                self.assertTrue(0 < report["rescue_fraction"] < 0.09, report)

    def test_at_the_minimum(self):
        model = self.tiny()
        options = (*support.GENEROUS, "--recipe", self.fixed_groups())
        for name in ("a.zip", "a"):
            arguments = ("--track", "binary", "-o", self.root / name, *options)
            least = self.quern_json("compress", model, *arguments, "--dry-run")["minimum_bytes"]
            self.assert_refused("compress", model, *arguments, "--bytes", least - 1,
                                words=[f"budget of {least - 1} bytes cannot be met", f"at least {least} bytes",
                                       f"--bytes {least} or more"])
            for n_bytes in (least, least + 1):
                self.quern("compress", model, *arguments[:3], self.root / f"{n_bytes}{name}", *options,
                           "--bytes", n_bytes)
                self.assertLessEqual(size_of(self.root / f"{n_bytes}{name}"), n_bytes)

    def test_minimum_of_the_track(self):
        """A tiny model's loader does not fit in 2.2 bits: the message says which option allows more, and it does."""
        model = self.tiny()
        arguments = ("compress", model, "--track", "ternary", "-o", self.root / "a.zip")
        for more in ((), ("--bytes", "10000000"), ("--reference-params", "10000000")):
            error = self.assert_refused(*arguments, *more, words="--bits-per-parameter").err
        bits = re.search(r"--bits-per-parameter (\S+) or more", error).group(1)
        self.quern(*arguments, "--bits-per-parameter", bits)

    def test_reference_parameters(self):
        """A budget for fewer parameters than the model has binds as the first size gate does."""
        model = self.tiny()
        plan, _ = self.check(model, "a.zip", "ternary", *support.GENEROUS, "--reference-params", "20000")
        self.assertEqual(plan["budget_bytes"], 40000)

    def test_tokenizer_files(self):
        """With and without the tokenizer, from a checkpoint that has one."""
        demo = support.demo_teacher()
        sizes = {}
        for options in ((), ("--no-tokenizer",)):
            recipe = self.write("none.yaml", "name: none\nrescue:\n  max_fraction: 0\n")
            name = f"demo{len(options)}.zip"
            _, report = self.check(demo, name, "binary", "--recipe", recipe, *options)
            sizes[options] = report["bytes"]
            members = set(support.zip_members(self.root / name))
            self.assertEqual({"tokenizer.json", "tokenizer_config.json"} <= members, not options)
        self.assertLess(sizes["--no-tokenizer",], sizes[()])


class Recipes(support.CliTest):

    def setUp(self):
        super().setUp()
        self.model = self.tiny()

    def recipe(self, text, name="r.yaml"):
        return self.write(name, text)

    def dry(self, *options):
        return self.quern_json("compress", self.model, "--track", "ternary", "-o", self.root / "a.zip",
                               *support.GENEROUS, "--dry-run", *options)

    def test_what_a_file_leaves_out_is_fast(self):
        fast = self.dry()
        self.assertEqual(self.dry("--recipe", "fast"), fast)
        named = self.dry("--recipe", self.recipe("name: mine\n"))
        self.assertEqual(named, fast)
        spelled = self.recipe("# the same, spelled out\nrescue: {max_fraction: 0.1}\n"
                              "quantize: {rule: optimal}\nname: other\n")
        self.assertEqual(self.dry("--recipe", spelled)["recipe_sha256"], fast["recipe_sha256"])
        fixed = self.recipe("name: fixed\nquantize:\n  group_size: 64\n")  # no longer "64 or coarser"
        self.assertNotEqual(self.dry("--recipe", fixed)["recipe_sha256"], fast["recipe_sha256"])

    def test_group_sizes(self):
        """Fewer scales, a smaller file; what the file holds is what the recipe says."""
        sizes = []
        for group_size in (16, 32, 64, 0):
            recipe = self.recipe(f"name: g\nquantize:\n  group_size: {group_size}\nrescue:\n  max_fraction: 0\n")
            out = self.root / f"{group_size}.zip"
            report = self.compress(self.model, out, "ternary", "--recipe", recipe)
            self.assertEqual(report["rescue_fraction"], 0)
            self.assertEqual(report["roles"]["rescue_q4"], 0)
            sizes.append(report["roles"]["scale"])
            self.assertIn(f"ternary/{group_size}", self.quern("info", out, "--tensors").out)
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        self.assertEqual(len(set(sizes)), 4)

    def test_published_rule_is_worse(self):
        docs = self.write("docs.txt", "The quick brown fox jumps over the lazy dog.\n")
        optimal = self.compress(self.model, self.root / "a.zip", "ternary", "--docs", docs, "--tokenizer", "byte")
        recipe = self.recipe("name: published\nquantize:\n  rule: published\n")
        published = self.compress(self.model, self.root / "b.zip", "ternary", "--docs", docs, "--tokenizer", "byte",
                                  "--recipe", recipe)
        self.assertNotEqual(published["sha256"], optimal["sha256"])
        self.assertNotEqual(published["recipe_sha256"], optimal["recipe_sha256"])
        table = {rule: self.quern_json("sensitivity", self.model, "--track", "ternary", "--recipe", name)["tensors"]
                 for rule, name in (("optimal", "fast"), ("published", recipe))}
        for a, b in zip(table["optimal"], table["published"]):
            self.assertLess(a["native_error"], b["native_error"])

    def test_refused(self):
        cases = (("name: x\nquantize:\n  groups: 3\n", ["r.yaml:3:", "groups"]),
                 ("name: x\n\nstages: 2\n", ["r.yaml:3:", "stages"]),
                 ("name: x\nquantize:\n  group_size: many\n", ["r.yaml:3:", "group_size"]),
                 ("name: x\nquantize: 7\n", ["r.yaml:2:", "quantize"]),
                 ("name: x\nquantize:\n  rule: best\n", ["r.yaml:3:", "rule"]),
                 ("name: x\nquantize:\n  group_size: -1\n", ["r.yaml:3: quantize.group_size is '-1'"]),
                 ("name: x\nquantize:\n  group_size: 99999999\n", ["quantize.group_size is '99999999'"]),
                 ("name: x\nrescue:\n  max_fraction: 1.5\n", ["r.yaml:3: rescue.max_fraction is '1.5'", "0 to 1"]),
                 ("name: x\nrescue:\n  max_fraction: -0.1\n", ["rescue.max_fraction is '-0.1'"]),
                 ("name: x\nrescue:\n  max_fraction: nan\n", ["max_fraction"]),
                 ("name: x\nrescue:\n  max_fraction: lots\n", ["r.yaml:3:", "max_fraction"]),
                 ("quantize:\n  group_size: 3\n", ["name"]),
                 ("name: x\nname: y\n", ["name"]),
                 ("name: \n", ["name"]),
                 ("name: " + "x" * 64 + "\n", ["name"]),
                 ("name: [x\n", ["r.yaml"]), ("- name\n", ["r.yaml"]), ("", ["r.yaml"]),
                 ("# nothing\n", ["the file is empty"]), ("name: \xff\n".encode("latin-1"), ["r.yaml"]))
        for text, words in cases:
            with self.subTest(text):
                path = self.recipe(text)
                self.assert_refused("compress", self.model, "--track", "ternary", "-o", self.root / "a.zip",
                                    *support.GENEROUS, "--recipe", path, words=["r.yaml", *words])
        self.assert_refused("compress", self.model, "--track", "ternary", "-o", self.root / "a.zip", "--recipe",
                            self.root / "none.yaml", words="none.yaml")


class SameBytes(support.CliTest):

    def digest(self, model, name, track="ternary", options=(), **run):
        out = self.root / name
        report = self.quern("compress", model, "--track", track, "-o", out, *support.GENEROUS, "--json", *options,
                            **run).json
        self.assertEqual(report["sha256"], support.sha256(out))
        return report["sha256"]

    def test_whatever_the_surroundings(self):
        model = self.tiny()
        other = self.root / "elsewhere"
        other.mkdir()
        for track in support.TRACKS:
            first = self.digest(model, "a.zip", track, ("--threads", "1"))
            again = self.digest(model, "b.zip", track, ("--threads", "5"), cwd=other,
                                env={"TZ": "Asia/Kathmandu", "LC_ALL": "C", "HOME": "/"},
                                preexec_fn=lambda: os.umask(0o077))
            self.assertEqual(again, first)
        for path in model.iterdir():
            os.utime(path, (1, 1))
        self.assertEqual(self.digest(model, "c.zip", "ternary"), self.digest(model, "a2.zip", "ternary"))

    def test_order_of_files_and_place(self):
        """A copy of the folder whose files were made in another order."""
        model, copy = self.tiny(), self.root / "copy"
        copy.mkdir()
        for path in sorted(model.iterdir(), reverse=True):
            (copy / path.name).write_bytes(path.read_bytes())
        self.assertEqual(self.digest(copy, "b.zip"), self.digest(model, "a.zip"))

    def test_folders_too(self):
        model = self.tiny()
        for name, threads in (("a", 1), ("b", 4)):
            self.compress(model, self.root / name, "binary", "--threads", threads)
        for path in (self.root / "a").iterdir():
            self.assertEqual(path.read_bytes(), (self.root / "b" / path.name).read_bytes(), path.name)

    def test_seed_is_recorded(self):
        model = self.tiny()
        self.assertNotEqual(self.digest(model, "a.zip", options=("--seed", "1")), self.digest(model, "b.zip"))

    def test_resumed(self):
        """The measured rows of an earlier run: the same bytes, and refused for another run."""
        model, work = self.tiny(), ("--work", self.root / "work")
        first = self.digest(model, "a.zip")
        self.assertEqual(self.digest(model, "b.zip", options=work), first)
        self.assertEqual(self.digest(model, "c.zip", options=(*work, "--resume", "--threads", "3")), first)
        arguments = ("compress", model, "--track", "ternary", "-o", self.root / "d.zip", *support.GENEROUS, *work)
        self.assert_refused(*arguments, code=2, words=["work", "--resume"])
        recipe = self.write("r.yaml", "name: r\nquantize:\n  rule: published\n")
        self.assert_refused(*arguments, "--resume", "--recipe", recipe, code=2, words="work")
        self.assert_refused(*arguments, "--resume", env={"QN_ISA": "ref"}, code=2, words="work")

    def test_reference_kernels(self):
        """The plain kernels choose the same codes, and say so in the manifest."""
        model = self.tiny()
        self.digest(model, "a.zip")
        self.digest(model, "b.zip", env={"QN_ISA": "ref"})
        a, b = (support.zip_members(self.root / name) for name in ("a.zip", "b.zip"))
        self.assertIn(b'"isa":"ref"', b["quern.json"])
        payload = "payload-00001-of-00001.safetensors"
        self.assertEqual(set(a), set(b))
        self.assertEqual(len(a[payload]), len(b[payload]))
        docs = self.write("docs.txt", "The quick brown fox jumps over the lazy dog.\n")
        scores = [self.quern_json("score", self.root / name, "--docs", docs, "--tokenizer", "byte")["nats"]
                  for name in ("a.zip", "b.zip")]
        self.assertAlmostEqual(*scores, delta=1e-3)  # a row near a tie may be rescued by one and not by the other


if __name__ == "__main__":
    support.main()
