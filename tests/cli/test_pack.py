"""quern pack: one digest whatever the surroundings, and what a published artifact must not hold."""

import hashlib
import os

import support


class Pack(support.CliTest):

    def setUp(self):
        super().setUp()
        self.model = self.tiny()

    def pack(self, name, model=None, **run):
        out = self.root / name
        report = self.quern("pack", model or self.model, "-o", out, "--json", **run).json
        self.assertEqual(report, {"artifact": str(out), "sha256": support.sha256(out), "bytes": out.stat().st_size})
        return report["sha256"]

    def test_what_is_inside(self):
        self.pack("a.zip")
        members = support.zip_members(self.root / "a.zip")
        self.assertEqual(list(members), ["config.json", "model.safetensors"])
        for name, data in members.items():
            self.assertEqual(data, (self.model / name).read_bytes())
        text = self.quern("pack", self.model, "-o", self.root / "b.zip").out
        digest = hashlib.sha256((self.root / "b.zip").read_bytes()).hexdigest()
        self.assertEqual(text, f"{digest}  {self.root}/b.zip  {(self.root / 'b.zip').stat().st_size} bytes\n")

    def test_same_bytes(self):
        first = self.pack("a.zip")
        elsewhere = self.root / "elsewhere"
        elsewhere.mkdir()
        again = self.pack("b.zip", cwd=elsewhere, env={"TZ": "Asia/Kathmandu", "LC_ALL": "C"},
                          preexec_fn=lambda: os.umask(0o077))
        self.assertEqual(again, first)
        copy = self.root / "copy"
        copy.mkdir()
        for path in sorted(self.model.iterdir(), reverse=True):
            (copy / path.name).write_bytes(path.read_bytes())
            (copy / path.name).chmod(0o600)
            os.utime(copy / path.name, (1, 1))
        self.assertEqual(self.pack("c.zip", copy), first)

    def test_a_packed_artifact_is_accepted(self):
        """A folder that is packed later: the manifest then speaks of the folder, which is a warning."""
        self.compress(self.model, self.root / "artifact")
        self.pack("a.zip", self.root / "artifact")
        profile = self.write_json("profile.json", {"budget_bits": 16})
        found = self.quern_json("verify", self.root / "a.zip", "--track", "ternary", "--profile", profile)
        self.assertTrue(any("packed again" in line for line in found["lint"]))

    def test_what_is_refused(self):
        token = "hf_" + "abcdefghij" * 4
        for name, text in (("notes.ipynb", "{}"), (".env", "X=1"), ("server.pem", "x"), (".git/config", "x"),
                           ("__pycache__/a.pyc", "x"), ("pytorch_model.bin", "x"), ("data.jsonl", "{}"),
                           ("README.md", f"my token is {token}\n"), ("extra.json", '{"path": "/home/ada/models"}'),
                           ("key.md", "-----BEGIN RSA PRIVATE KEY-----\n")):
            with self.subTest(name):
                path = self.write(f"model/{name}", text)
                error = self.assert_refused("pack", self.model, "-o", self.root / "a.zip", words=["model", name]).err
                self.assertNotIn(token, error)
                path.unlink()
                if path.parent != self.model:
                    path.parent.rmdir()
        (self.model / "link.json").symlink_to("config.json")
        self.assert_refused("pack", self.model, "-o", self.root / "a.zip", words="link.json: a symbolic link")

    def test_not_a_model_folder(self):
        self.assert_refused("pack", self.root / "none", "-o", self.root / "a.zip", words="none")
        self.assert_refused("pack", self.root, "-o", "/dev/null/a.zip", words="config.json")
        self.pack("a.zip")
        self.assert_refused("pack", self.root / "a.zip", "-o", self.root / "b.zip", code=2, words="archive already")

    def test_output(self):
        self.assert_refused("pack", self.model, "-o", self.root / "none" / "a.zip", words="none/a.zip")
        self.assert_refused("pack", self.model, "-o", self.model, words="is a folder")
        out = self.write("a.zip", "old")
        for n_bytes in (0, 100, 50000):
            self.assert_refused("pack", self.model, "-o", out, words="a.zip",
                                preexec_fn=support.limit_file_size(n_bytes))
        self.assertEqual(out.read_bytes(), b"old")

    def test_output_inside_the_folder(self):
        """The archive must not hold an older self, or a part of itself."""
        self.pack("model/a.zip")
        self.assertEqual(list(support.zip_members(self.model / "a.zip")), ["config.json", "model.safetensors"])
        self.assert_refused("pack", self.model, "-o", self.root / "b.zip", words="a.zip")


if __name__ == "__main__":
    support.main()
