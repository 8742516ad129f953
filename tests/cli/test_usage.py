"""Help, options, exit statuses, and where data and talk go."""

import os
import re
import subprocess

import support

# Relied on by scripts.
PROMISED = {"info", "tokenize", "logits", "score", "compare", "generate", "calibrate", "sensitivity", "compress", "pack",
            "verify", "export", "bench"}


def commands():
    """Those that the overview lists."""
    overview = subprocess.run([os.environ["QUERN_BIN"], "help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.findall(r"(?m)^  ([a-z]+)  +\S", overview)


class Help(support.CliTest):

    def test_overview_lists_every_command(self):
        for spelling in ("help", "--help", "-h"):
            result = self.quern(spelling)
            self.assertEqual(result.err, "")
            self.assertLessEqual(PROMISED, set(commands()))
            self.assertIn("0 done, 1 failed or rejected, 2 wrong usage", result.out)

    def test_every_command_three_ways(self):
        for command in commands():
            with self.subTest(command):
                texts = {self.quern("help", command).out, self.quern(command, "--help").out}
                self.assertEqual(len(texts), 1)
                text = texts.pop()
                self.assertTrue(text.startswith(f"usage: quern {command}"), text)
                for option in ("--json", "--threads N", "--seed N", "--progress WHEN", "--quiet", "--verbose"):
                    self.assertIn(f"\n  {option} ", text)
                page = self.quern("help", "--man", command).out
                self.assertTrue(page.startswith(f".TH QUERN-{command} 1"), page[:80])
                options = re.findall(r"^  --([a-z-]+)", text, re.M)
                for option in options:
                    self.assertIn(".B \\-\\-" + option.replace("-", "\\-"), page)

    def test_help_needs_nothing_else(self):
        """--help wins over what is missing or wrong elsewhere on the line."""
        self.quern("score", "--help")
        self.quern("compress", "model", "--help")

    def test_version(self):
        self.assertRegex(self.quern("--version").out, r"^quern \d+\.\d+\.\d+\n$")

    def test_no_command(self):
        result = self.quern(code=2)
        self.assertEqual(result.out, "")
        self.assertIn("usage: quern", result.err)


class Usage(support.CliTest):

    def refuse(self, *arguments, words):
        result = self.quern(*arguments, code=2)
        self.assertEqual(result.out, "", result)
        self.assertIn(words, result.err, result)

    def test_unknown_command(self):
        self.refuse("compres", words="no command 'compres'")
        self.refuse("help", "compres", words="no command 'compres'")
        self.refuse("help", "score", "info", words="info")

    def test_unknown_options(self):
        for command in commands():
            self.refuse(command, "--bogus", words="unknown option '--bogus'")
            self.refuse(command, "-x", words="unknown option '-x'")
        self.refuse("score", "-docs", "x", words="unknown option '-docs'")
        self.refuse("score", "--doc=x", words="unknown option '--doc=x'")

    def test_missing_and_surplus(self):
        self.refuse("info", words="PATH is missing")
        self.refuse("info", "a", "b", words="unexpected argument 'b'")
        self.refuse("score", "model", words="option '--docs FILE' is missing")
        self.refuse("compress", "model", "--track", "binary", words="option '-o OUT.zip|DIR' is missing")
        self.refuse("compress", "model", "-o", "x", words="option '--track T' is missing")
        self.refuse("score", "model", "--docs", words="option '--docs' needs a value (FILE)")
        self.refuse("score", "model", "--docs", "a", "--docs", "b", words="option '--docs' is given twice")
        self.refuse("info", "a", "--json=1", words="option '--json' takes no value")
        self.refuse("verify", "a", "--track", "binary", "--rebuild", "fast",
                    words="--rebuild RECIPE and --model DIR go together")
        self.refuse("export", "a", "-o", "b", words="--dense")

    def test_values(self):
        for arguments, words in ((("--threads", "0"), "--threads must be 1 to 4096"),
                                 (("--threads", "two"), "'--threads' needs an integer, got 'two'"),
                                 (("--threads", "99999999999999999999"), "needs an integer"),
                                 (("--threads", ""), "needs an integer"),
                                 (("--seed", "-1"), "--seed must not be negative"),
                                 (("--progress", "maybe"), "--progress is auto, always or never, not 'maybe'")):
            self.refuse("info", "model", *arguments, words=words)
        compress = ("compress", "model", "--track", "binary", "-o", "x")
        for arguments, words in ((("--bits-per-parameter", "0"), "--bits-per-parameter"),
                                 (("--bits-per-parameter", "nan"), "finite number"),
                                 (("--bits-per-parameter", "1e999"), "finite number"),
                                 (("--bytes", "0"), "--bytes and --reference-params must be positive"),
                                 (("--reference-params", "-3"), "must be positive"),
                                 (("--recipe", "slow"), "no built-in recipe 'slow'"),
                                 (("--resume",), "--resume needs --work DIR")):
            self.refuse(*compress, *arguments, words=words)
        self.refuse("compress", "m", "--track", "trinary", "-o", "x", words="unknown track 'trinary'")
        verify = ("verify", "model", "--track", "binary")
        for option in ("--size", "--max-tokens", "--reference-params"):
            self.refuse(*verify, option, "-1", words=option)
            self.refuse(*verify, option, "0", words=option)
        model = self.tiny()
        docs = self.write("docs.txt", "some text")
        score = ("score", model, "--docs", docs, "--tokenizer", "byte")
        for arguments, words in ((("--protocol", "window"), "is no protocol"),
                                 (("--protocol", "window:1"), "is no protocol"),
                                 (("--protocol", "stride:4:5"), "is no protocol"),
                                 (("--max-tokens", "1"), "no target can be scored"),
                                 (("--compute", "f64"), "--compute is f32 or bf16, not 'f64'")):
            self.refuse(*score, *arguments, words=words)
        generate = ("generate", model, "--tokenizer", "byte", "--prompt", "a")
        for arguments, words in ((("--temperature", "-1"), "temperature must be finite and not negative"),
                                 (("--top-k", "-1"), "top-k must not be negative"),
                                 (("--top-p", "0"), "top-p must lie in (0, 1]"),
                                 (("--max-new-tokens", "0"), "--max-new-tokens must be 1 to")):
            self.refuse(*generate, *arguments, words=words)
        self.refuse("generate", model, "--tokenizer", "byte", "--prompt", "", words="--prompt is empty")

    def test_spellings(self):
        model = self.tiny()
        plain = self.quern("info", model, "--json").out
        self.assertEqual(self.quern("info", "--json", "--", model).out, plain)
        self.assertEqual(self.quern("info", f"--threads={1}", model, "--json").out, plain)


class Streams(support.CliTest):

    def commands(self):
        model, artifact = self.tiny(), self.root / "a.zip"
        docs = self.write("docs.txt", "The quick brown fox jumps over the lazy dog.\n")
        ids = self.write_json("ids.json", [1, 2, 3])
        byte = ("--tokenizer", "byte")
        yield "compress", ("compress", model, "--track", "ternary", "-o", artifact, "--docs", docs, *byte,
                           *support.GENEROUS)
        yield "info", ("info", artifact)
        yield "score", ("score", model, "--docs", docs, *byte)
        yield "logits", ("logits", model, "--ids", ids, "-o", self.root / "l.safetensors")
        yield "calibrate", ("calibrate", model, "--text", docs, "-o", self.root / "s.safetensors", "--context", "32",
                            "--tokens", "32", "--diagonal", *byte)
        yield "sensitivity", ("sensitivity", model, "--track", "binary")
        yield "generate", ("generate", model, "--prompt", "a", "--max-new-tokens", "4", *byte)
        yield "pack", ("pack", model, "-o", self.root / "p.zip")
        profile = self.write_json("profile.json", {"budget_bits": 16})
        yield "verify", ("verify", artifact, "--track", "ternary", "--profile", profile)
        yield "export", ("export", artifact, "--dense", "-o", self.root / "dense")

    def test_json_is_one_line_of_data_and_quiet_is_silent(self):
        for name, arguments in self.commands():
            with self.subTest(name):
                result = self.quern(*arguments, "--json", "--quiet")
                self.assertEqual(result.err, "", result)
                self.assertEqual(result.out.count("\n"), 1, result)
                self.assertIsInstance(result.json, dict)

    def test_progress_goes_to_stderr(self):
        model = self.tiny()
        docs = self.write("docs.txt", "The quick brown fox.\n")
        arguments = ("score", model, "--docs", docs, "--tokenizer", "byte", "--json")
        talk = self.quern(*arguments, "--progress", "always", "--verbose")
        self.assertEqual(set(talk.json), set(self.quern(*arguments, "--progress", "never").json))

    def test_full_disk_on_stdout(self):
        for name, arguments in self.commands():
            for form in ((), ("--json",)):
                with self.subTest(name, form=form):
                    for made in ("dense",):
                        if (self.root / made).exists():
                            (self.root / made).rename(self.root / f"{made}{len(self.files())}")
                    with open("/dev/full", "wb") as full:
                        result = self.quern(*arguments, *form, "--quiet", code=1, stdout=full)
                    self.assertIn("quern: cannot", result.err, result)
                    if name == "compress":
                        self.assertTrue((self.root / "a.zip").exists())

    def test_full_disk_on_help_and_tokenize(self):
        for arguments in (("help",), ("help", "score"), ("--version",), ("tokenize", "--tokenizer", "byte")):
            with open("/dev/full", "wb") as full:
                self.quern(*arguments, code=1, stdout=full, input=b"text")

    def test_closed_stdout(self):
        result = self.quern("info", self.tiny(), "--json", code=1, preexec_fn=lambda: os.close(1),
                            stdout=subprocess.DEVNULL)
        self.assertIn("quern: cannot", result.err)


if __name__ == "__main__":
    support.main()
