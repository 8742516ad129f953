"""quern verify: every gate and its rejection line, what may be asked beside, and rebuilding."""

import http.server
import json
import math
import pathlib
import shutil
import threading

import support

GATES = ["artifact", "artifact_size", "model_dir", "load", "parameter_count", "quantized_size", "manifest", "logits",
         "heldout_ppl"]
FIELDS = {"gates", "sha256", "bytes", "parameters", "bits_per_parameter", "rescue_fraction", "roles", "lint"}


class Verify(support.CliTest):

    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.docs = self.write("docs.txt", "The quick brown fox jumps over the lazy dog.\n")
        self.zip, self.folder = self.root / "a.zip", self.root / "a"
        self.report = self.compress(self.model, self.zip)
        self.profile = self.write_json("profile.json", {"budget_bits": 16})

    def arguments(self, path, *options):
        return ("verify", path, "--track", "ternary", "--profile", self.profile, *options)

    def make_folder(self):
        self.folder_report = self.compress(self.model, self.folder)

    def reject(self, path, gate, *options, words=()):
        """One line and one gate that failed; none of those after it was run, but for the first look at the file."""
        result = self.quern(*self.arguments(path, *options), code=1)
        self.assertEqual(result.out, "", result)
        self.assertTrue(result.err.startswith(f"validator_rejection={gate} "), result)
        self.assertEqual(result.err.count("\n"), 1, result)
        for word in words:
            self.assertIn(word, result.err)
        as_json = self.quern(*self.arguments(path, *options), "--json", code=1)
        self.assertEqual(as_json.err, result.err)
        gates = as_json.json["gates"]
        self.assertEqual([name for name, value in gates.items() if value is False], [gate])
        late = [name for name in GATES[2:] if gate not in GATES or GATES.index(name) > GATES.index(gate)]
        self.assertEqual([gates[name] for name in late], [None] * len(late), gates)

    # ---- accepted

    def test_fields(self):
        found = self.quern_json(*self.arguments(self.zip, "--docs", self.docs, "--tokenizer", "byte"))
        self.assertLessEqual(FIELDS, set(found))
        self.assertEqual(found["gates"], dict.fromkeys(GATES, True))
        self.assertEqual(list(found["gates"]), GATES)
        self.assertEqual(found["sha256"], support.sha256(self.zip))
        for key in ("bytes", "parameters", "bits_per_parameter", "rescue_fraction", "roles", "sha256"):
            self.assertEqual(found[key], self.report[key], key)
        self.assertEqual(found["lint"], [])
        score = self.quern_json("score", self.zip, "--docs", self.docs, "--tokenizer", "byte")
        self.assertEqual((found["ppl"], found["tokens"]), (score["ppl"], score["tokens"]))

    def test_text(self):
        out = self.quern(*self.arguments(self.zip)).out
        self.assertIn(f"sha256        {self.report['sha256']}\n", out)
        for gate in GATES[:-1]:
            self.assertRegex(out, rf"(?m)^gate +{gate} +passed$")
        self.assertRegex(out, r"gate +heldout_ppl +skipped: no documents were given")

    def test_folder(self):
        self.make_folder()
        found = self.quern_json(*self.arguments(self.folder))
        self.assertEqual(found["sha256"], self.folder_report["sha256"])
        self.assertEqual(found["bytes"], sum(path.stat().st_size for path in self.folder.iterdir()))

    def test_asked_beside(self):
        digest, n_bytes = self.report["sha256"], self.report["bytes"]
        found = self.quern_json(*self.arguments(self.zip, "--sha256", digest.upper(), "--size", n_bytes, "--url",
                                                self.zip.as_uri()))
        self.assertEqual(list(found["gates"]), ["sha256", "size", "url", *GATES])
        self.assertTrue(all(found["gates"][name] for name in ("sha256", "size", "url")))

    # ---- rejected, gate by gate

    def test_gate_artifact(self):
        self.reject(self.root / "none.zip", "artifact", words=["reason=missing"])
        self.reject(self.write("text.zip", "text"), "artifact", words=["reason=neither_folder_nor_archive"])
        for name, reason in (("../evil.json", "path_escape"), ("/abs.json", "path_escape")):
            members = [*support.zip_members(self.zip).items(), (name, b"{}")]
            self.reject(support.write_zip(self.root / "bad.zip", members), "artifact", words=[f"reason={reason}", name])
        self.make_folder()
        (self.folder / "link.json").symlink_to("config.json")
        self.reject(self.folder, "artifact", words=["reason=symlink", "link.json"])

    def test_gate_artifact_size(self):
        n_bytes = self.report["bytes"]
        self.reject(self.zip, "artifact_size", "--reference-params", n_bytes // 2 - 1,
                    words=[f"file_bytes={n_bytes}", "allowed_bits=", "budget_bits_per_parameter=16"])
        self.quern(*self.arguments(self.zip, "--reference-params", n_bytes // 2 + 1))

    def test_gate_model_dir(self):
        members = [(name, data) for name, data in support.zip_members(self.zip).items() if name != "config.json"]
        self.reject(support.write_zip(self.root / "b.zip", members), "model_dir", words=["reason=no_config_json"])

    def test_gate_load(self):
        self.make_folder()
        loader = self.folder / "modeling_quern.py"
        loader.unlink()
        self.reject(self.folder, "load", words=["modeling_quern.py"])

    def test_gate_parameter_count(self):
        self.reject(self.zip, "parameter_count", "--reference-params",
                    self.write_profile(budget_bits=64, max_parameter_factor=1) or self.report["bytes"] // 2,
                    words=[f"parameters={self.report['parameters']}", f"limit={self.report['bytes'] // 2}"])

    def write_profile(self, **rules):
        self.profile = self.write_json("profile.json", rules)

    def test_gate_quantized_size(self):
        """The track's own budget, for the parameters there are: a tiny model's loader does not fit."""
        self.write_profile()
        self.reject(self.zip, "quantized_size", words=[f"file_bytes={self.report['bytes']}",
                                                       f"parameters={self.report['parameters']}"])

    def test_gate_manifest(self):
        self.make_folder()
        manifest = self.folder / "quern.json"
        text = manifest.read_text()
        value = json.loads(text)
        for key, declared, reason in (("total_parameters", 1, "declared_total"),
                                      ("rescue_fraction", 0.0, "declared_total"),
                                      ("entries", [{"role": "magic", "parameters": 1, "bits": 1}], "unknown_role")):
            manifest.write_text(json.dumps({**value, key: declared}))
            self.reject(self.folder, "manifest", words=[f"reason={reason}", "file=quern.json"])
        manifest.write_text(text)
        self.write_profile(budget_bits=16, rescue_fraction=0.05)
        self.reject(self.folder, "manifest", words=["reason=rescue_fraction", "limit=0.05"])
        manifest.unlink()
        self.reject(self.folder, "manifest", words=["reason=missing file=quern.json"])

    def test_gate_logits(self):
        tiny = support.TinyModel()
        tiny.set_value("model.norm.weight", 3, math.inf)
        self.write_profile(budget_bits=32)
        self.reject(tiny.write(self.root / "loud"), "logits", "--tokenizer", "byte", words=["reason=not_finite"])
        narrow = self.tiny("narrow", vocab=100)
        self.reject(narrow, "logits", "--tokenizer", "byte", words=["reason=too_narrow", "width=100"])

    def test_gates_asked_beside(self):
        self.reject(self.zip, "sha256", "--sha256", "0" * 64, words=["reason=mismatch", self.report["sha256"]])
        self.reject(self.zip, "size", "--size", self.report["bytes"] + 1,
                    words=[f"expected_bytes={self.report['bytes'] + 1}", f"file_bytes={self.report['bytes']}"])
        other = self.write("other.zip", self.zip.read_bytes()[:-1] + b"!")
        self.reject(self.zip, "url", "--url", other.as_uri(), words=["reason=sha256"])
        self.reject(self.zip, "url", "--url", self.write("short.zip", "x").as_uri(), words=["reason=size"])
        self.reject(self.zip, "url", "--url", (self.root / "none").as_uri(), words=["reason=download_failed"])
        self.reject(self.zip, "url", "--url", "ftp://localhost/a.zip", words=["reason=download_failed"])

    def test_url_of_a_server(self):
        root = str(self.root)

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=root)

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        address = f"http://127.0.0.1:{server.server_port}"
        self.quern(*self.arguments(self.zip, "--url", f"{address}/a.zip"))
        self.reject(self.zip, "url", "--url", f"{address}/none.zip", words=["reason=download_failed", "404"])

    # ---- lint

    def test_lint(self):
        self.make_folder()
        self.write("a/notes.ipynb", "{}")
        found = self.quern(*self.arguments(self.folder), "--json")
        self.assertTrue(any("notes.ipynb" in line for line in found.json["lint"]))
        self.assertIn("lint          notes.ipynb: a notebook", self.quern(*self.arguments(self.folder)).out)

    # ---- the caller's faults are not the artifact's

    def test_bad_arguments(self):
        for options, words in ((("--docs", self.root / "none", "--tokenizer", "byte"), "none"),
                               (("--docs", self.docs, "--tokenizer", self.root), "tokenizer"),
                               (("--docs", self.write("e.txt", ""), "--tokenizer", "byte"), "e.txt")):
            result = self.quern(*self.arguments(self.zip, *options), code=1)
            self.assertNotIn("validator_rejection", result.err)
            self.assertIn(words, result.err)
        for text, words in (("{", "profile.json"), ('{"budget": 3}', "unknown key 'budget'"),
                            ('{"budget_bits": "x"}', "budget_bits"), ('{"rescue_fraction": 2}', "rescue_fraction"),
                            ("[]", "profile.json")):
            self.profile.write_text(text)
            self.assert_refused(*self.arguments(self.zip), words=words)

    # ---- rebuild

    def rebuild(self, path, *options, **run):
        return self.quern(*self.arguments(path, "--rebuild", "fast", "--model", self.model, *options), **run)

    def test_rebuild(self):
        before = set(pathlib.Path("/tmp").glob("quern-rebuild-*"))
        self.rebuild(self.zip)
        self.make_folder()
        self.rebuild(self.folder)
        tight = self.root / "tight.zip"
        report = self.compress(self.model, tight, "ternary", "--bytes", self.report["bytes"] - 1000)
        self.assertLess(report["rescue_fraction"], self.report["rescue_fraction"])
        self.rebuild(tight)
        seeded = self.root / "seeded.zip"
        self.compress(self.model, seeded, "ternary", "--seed", "5")
        self.rebuild(seeded, "--seed", "5")
        result = self.rebuild(seeded, code=1)
        self.assertIn("validator_rejection=rebuild reason=different_bytes", result.err)
        self.assertEqual(set(pathlib.Path("/tmp").glob("quern-rebuild-*")), before)

    def test_rebuild_from_another_model(self):
        shutil.rmtree(self.model)
        self.tiny(seed=2)
        result = self.rebuild(self.zip, code=1)
        self.assertIn("validator_rejection=rebuild reason=different_bytes", result.err)
        self.model = self.root / "none"
        self.assertIn("none", self.rebuild(self.zip, code=1).err)


if __name__ == "__main__":
    support.main()
