"""quern info and quern sensitivity: what they say is what the files hold."""

import csv
import io

import support

INFO_FIELDS = {"path", "kind", "architecture", "shape", "n_tensors", "parameters", "bytes", "bits_per_parameter",
               "rescue_fraction", "roles", "isa", "version", "tensors"}
COLUMNS = {"tensor", "native_error", "rescue_error", "gain", "extra_bytes", "gain_per_byte", "relative_error"}


class Info(support.CliTest):

    def test_checkpoint(self):
        model = self.tiny()
        found = self.quern_json("info", model)
        self.assertEqual(set(found), INFO_FIELDS)
        tensors = support.TinyModel().tensors
        self.assertEqual((found["kind"], found["architecture"]), ("checkpoint", "qwen3"))
        self.assertEqual(found["n_tensors"], len(tensors))
        self.assertEqual(found["parameters"], sum(len(data) // 2 for _, _, data in tensors.values()))
        self.assertEqual({t["name"]: t["bytes"] for t in found["tensors"]},
                         {name: len(data) for name, (_, _, data) in tensors.items()})
        self.assertEqual(found["bytes"], sum(path.stat().st_size for path in model.iterdir()))
        self.assertEqual(found["shape"], {"vocab_size": 257, "hidden_size": 64, "intermediate_size": 96, "layers": 2,
                                          "heads": 4, "kv_heads": 2, "head_dim": 16, "tied": True})

    def test_artifact(self):
        report = self.compress(self.tiny(), self.root / "a.zip")
        found = self.quern_json("info", self.root / "a.zip")
        self.assertEqual(found["kind"], "artifact")
        self.assertEqual(found["bytes"], (self.root / "a.zip").stat().st_size)
        self.assertEqual(found["rescue_fraction"], report["rescue_fraction"])
        self.assertEqual({role: entry["bytes"] for role, entry in found["roles"].items()},
                         {role: n for role, n in report["roles"].items() if n})
        self.assertAlmostEqual(sum(entry["bits_per_parameter"] for entry in found["roles"].values()),
                               found["bits_per_parameter"], places=9)

    def test_text(self):
        out = self.quern("info", self.tiny(), "--tensors").out
        self.assertIn("architecture    qwen3\n", out)
        self.assertRegex(out, r"model\.embed_tokens\.weight +257 x 64 +BF16 +32896 bytes")

    def test_shards_are_one_model(self):
        whole = self.quern_json("info", self.tiny())
        parts = self.quern_json("info", support.TinyModel().write_shards(self.root / "sharded"))
        for key in ("parameters", "n_tensors", "tensors", "shape"):
            self.assertEqual(parts[key], whole[key])

    def test_forced_kernels(self):
        model = self.tiny()
        self.assertEqual(self.quern_json("info", model, env={"QN_ISA": "ref"})["isa"], "ref")
        self.assert_refused("info", model, env={"QN_ISA": "abacus"}, words="abacus", code=None)

    def test_nothing_there(self):
        self.assert_refused("info", self.root / "none", words="none")
        self.assert_refused("info", self.root, words="config.json")
        self.assert_refused("info", self.write("file", "not a model"), words="file")


class Sensitivity(support.CliTest):

    def table(self, model, *options):
        return self.quern_json("sensitivity", model, "--track", "binary", *options)

    def test_tables_agree(self):
        model = self.tiny()
        tensors = self.table(model)["tensors"]
        rows = self.table(model, "--rows")["rows"]
        self.assertEqual(set(tensors[0]), COLUMNS)
        self.assertEqual(set(rows[0]), COLUMNS | {"row"})
        matrices = {name: shape for name, (_, shape, _) in support.TinyModel().tensors.items() if len(shape) == 2}
        self.assertEqual({t["tensor"] for t in tensors}, set(matrices))
        for tensor in tensors:
            mine = [row for row in rows if row["tensor"] == tensor["tensor"]]
            self.assertEqual([row["row"] for row in mine], list(range(matrices[tensor["tensor"]][0])))
            for key in ("native_error", "rescue_error", "extra_bytes"):
                self.assertAlmostEqual(sum(row[key] for row in mine), tensor[key], delta=1e-9 * abs(tensor[key]))
            self.assertAlmostEqual(tensor["gain"], tensor["native_error"] - tensor["rescue_error"], places=6)
            self.assertGreater(tensor["gain"], 0)  # four bits are better than one on these weights

    def test_csv(self):
        model = self.tiny()
        for options in ((), ("--rows",)):
            text = self.quern("sensitivity", model, "--track", "binary", "--csv", *options).out
            lines = list(csv.DictReader(io.StringIO(text)))
            found = self.table(model, *options)["rows" if options else "tensors"]
            self.assertEqual(len(lines), len(found))
            for line, entry in zip(lines, found):
                self.assertEqual(line["tensor"], entry["tensor"])
                self.assertAlmostEqual(float(line["gain"]), entry["gain"], delta=1e-7 * abs(entry["gain"]) + 1e-12)
        self.quern("sensitivity", model, "--track", "binary", "--csv", "--json", code=2)

    def test_ternary_is_closer_than_sign(self):
        model = self.tiny()
        sign = self.table(model)["tensors"]
        ternary = self.quern_json("sensitivity", model, "--track", "ternary")["tensors"]
        for a, b in zip(sign, ternary):
            self.assertLess(b["relative_error"], a["relative_error"])
            self.assertAlmostEqual(a["rescue_error"], b["rescue_error"], delta=1e-9)

    def test_threads_do_not_matter(self):
        model = self.tiny()
        outputs = {self.quern("sensitivity", model, "--track", "ternary", "--rows", "--csv", "--threads", n).out
                   for n in (1, 4)}
        self.assertEqual(len(outputs), 1)


if __name__ == "__main__":
    support.main()
