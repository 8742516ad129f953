"""quern compress when things go wrong: nothing half-made is left, and what stood there before still stands."""

import os
import signal
import subprocess
import time

import support


class Failures(support.CliTest):

    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.out = self.root / "out" / "a.zip"
        self.out.parent.mkdir()

    def arguments(self, out=None, *options):
        return ("compress", self.model, "--track", "ternary", "-o", out or self.out, *support.GENEROUS, *options)

    def test_output_that_cannot_be_written(self):
        for out, words in ((self.root / "none" / "a.zip", "none/a.zip"), (self.root / "none" / "a", "none/a"),
                           (self.write("file", "x") / "a.zip", "file/a.zip"), ("/dev/null/a.zip", "/dev/null/a.zip"),
                           ("/proc/quern/a", "/proc/quern/a")):
            self.assert_refused(*self.arguments(out), words=words)
        self.out.mkdir()
        self.assert_refused(*self.arguments(), words=["a.zip", "is a folder"])
        folder = self.root / "full"
        self.write("full/file", "kept")
        self.assert_refused(*self.arguments(folder), words=["full", "is a folder that holds files"])
        self.assert_refused(*self.arguments(self.write("plain", "kept")), words=["plain", "is no folder"])

    def test_disk_full(self):
        """Wherever the disk fills: in the payload, in the archive, in a folder's files."""
        self.out.write_bytes(b"old")
        folder = self.root / "out" / "folder"
        for n_bytes, outs in ((1024, (self.out, folder)), (2000, (self.out, folder)), (20000, (self.out, folder)),
                              (30000, (self.out,))):
            for out in outs:
                with self.subTest(n_bytes=n_bytes, out=out.name):
                    self.assert_refused(*self.arguments(out), words=str(out),
                                        preexec_fn=support.limit_file_size(n_bytes))
        self.assertEqual(self.out.read_bytes(), b"old")

    def test_bad_inputs_beside_the_model(self):
        self.out.write_bytes(b"old")
        none = self.root / "none"
        for options in (("--docs", none), ("--second-moments", none), ("--profile", none),
                        ("--tokenizer", none, "--docs", self.write("d.txt", "text")),
                        ("--docs", self.write("short.txt", "x"), "--tokenizer", "byte"),
                        ("--docs", self.write("e.txt", ""), "--tokenizer", "byte")):
            with self.subTest(options[0]):
                self.assert_refused(*self.arguments(self.out, *options), words="")
        self.assertEqual(self.out.read_bytes(), b"old")

    def test_weights_that_are_not_finite(self):
        """Named, whatever the recipe measures and whatever is scored first."""
        recipe = self.write("none.yaml", "name: none\nrescue:\n  max_fraction: 0\n")
        docs = self.write("docs.txt", "some text")
        cases = (("model.layers.1.mlp.up_proj.weight", "nan"), ("model.embed_tokens.weight", "-inf"),
                 ("model.norm.weight", "nan"), ("model.layers.0.self_attn.q_norm.weight", "inf"))
        for name, value in cases:
            tiny = support.TinyModel()
            tiny.set_value(name, 7, float(value))
            self.model = tiny.write(self.root / f"{name}-{value}")
            for options in ((), ("--recipe", recipe), ("--docs", docs, "--tokenizer", "byte")):
                self.assert_refused(*self.arguments(self.out, *options), words=[name, "model.safetensors", "column 7"])

    def test_an_old_output_is_replaced(self):
        self.out.write_bytes(b"old")
        report = self.quern_json(*self.arguments())
        self.assertEqual(support.sha256(self.out), report["sha256"])
        self.assertEqual([path.name for path in self.out.parent.iterdir()], ["a.zip"])
        (self.root / "out" / "empty").mkdir()
        self.quern(*self.arguments(self.root / "out" / "empty"))
        self.assertEqual(sorted(path.name for path in self.out.parent.iterdir()), ["a.zip", "empty"])
        self.quern(*self.arguments(f"{self.root}/out/slash/"))
        self.assertTrue((self.root / "out" / "slash" / "config.json").exists())


class Stopped(support.CliTest):
    """A run stopped from outside. The model is large enough to be caught at work."""

    def start(self, out):
        model = self.root / "model"
        if not model.exists():
            self.tiny(layers=6)
            self.docs = self.write("docs.txt", "The quick brown fox jumps over the lazy dog.\n<|endoftext|>\n" * 200)
        out.parent.mkdir(exist_ok=True)
        command = ("compress", model, "--track", "ternary", "-o", out, "--docs", self.docs, "--tokenizer", "byte",
                   *support.GENEROUS)
        return subprocess.Popen([os.environ["QUERN_BIN"], *map(str, command)], stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE)

    def catch(self, child, out, trace):
        """Waits until something whose name has TRACE in it stands beside the output."""
        while child.poll() is None:
            if any(trace in path.name for path in out.parent.iterdir() if path != out):
                return
            time.sleep(0.001)
        self.fail(f"the run was over before it was caught: {child.communicate()}")

    def test_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            out = self.write("out/a.zip", "old")
            child = self.start(out)
            self.catch(child, out, ".tmp-")
            child.send_signal(number)
            _, err = child.communicate(timeout=120)
            self.assertEqual(child.returncode, 1, err)
            self.assertIn(b"cancelled", err.lower())
            self.assertEqual([path.name for path in out.parent.iterdir()], ["a.zip"])
            self.assertEqual(out.read_bytes(), b"old")

    def kill(self, out, trace):
        child = self.start(out)
        self.catch(child, out, trace)
        child.kill()
        child.communicate(timeout=120)

    def test_killed(self):
        """While the teacher is scored, and while the payload is written: the old file is whole, and what was left does
        not stand in the next run's way."""
        for trace in (".tmp-", ".parts"):
            out = self.write("out/a.zip", "old")
            self.kill(out, trace)
            self.assertEqual(out.read_bytes(), b"old")
        folder = self.root / "out" / "folder"
        self.kill(folder, "folder.tmp-")
        self.assertFalse(folder.exists())
        for out in (self.root / "out" / "a.zip", folder):
            again = self.start(out)
            _, err = again.communicate(timeout=120)
            self.assertEqual(again.returncode, 0, err)


if __name__ == "__main__":
    support.main()
