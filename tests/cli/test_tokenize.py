"""quern tokenize: every golden case, the byte tokenizer, decoding, and tokenizers that are not understood."""

import json

import support


def read_cases(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def small_tokenizer():
    """A byte-level BPE in the Qwen format with two merges and one special token."""
    alphabet = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in alphabet]
    letters = [chr(byte) for byte in alphabet] + [chr(0x100 + i) for i in range(len(others))]
    vocab = {letter: i for i, letter in enumerate(letters)}
    for pair in ("th", "the"):
        vocab[pair] = len(vocab)
    split = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
             r"|\s+(?!\S)|\s+")
    special = {"id": len(vocab), "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                  "merges": [["t", "h"], ["th", "e"]]}}


class Golden(support.CliTest):

    def ids_of(self, tokenizer, path):
        lines = self.quern("tokenize", "--tokenizer", tokenizer, "--jsonl", path).out.splitlines()
        return [json.loads(line)["ids"] for line in lines]

    def check(self, tokenizer, *names):
        """All files in one run: loading a large vocabulary takes longer than the cases."""
        folder = support.shared("golden/tokenizer")
        path = self.write("cases.jsonl", b"".join((folder / name).read_bytes() for name in names))
        cases, found = read_cases(path), self.ids_of(folder / tokenizer, path)
        self.assertEqual(len(found), len(cases))
        for case, ids in zip(cases, found):
            self.assertEqual(ids, case["ids"], case["text"])

    def test_qwen3(self):
        self.check("qwen3", *(f"cases-qwen3-{kind}.jsonl" for kind in
                              ("edge", "natural", "random", "scripts", "special")))

    def test_small(self):
        self.check("small", "cases-small.jsonl")

    def test_qwen3_5_small(self):
        self.check("qwen3_5-small", "cases-qwen3_5-small.jsonl")

    def test_recent_unicode(self):
        folder = support.shared("golden/tokenizer")
        cases = read_cases(folder / "cases-unicode-recent.jsonl")
        for tokenizer in sorted({case["tokenizer"] for case in cases}):
            mine = [case for case in cases if case["tokenizer"] == tokenizer]
            path = self.write("cases.jsonl", "".join(json.dumps({"text": case["text"]}) + "\n" for case in mine))
            self.assertEqual(self.ids_of(folder / tokenizer, path), [case["ids"] for case in mine])

    def test_vocabulary_and_merges(self):
        """The files of llama.cpp: texts between separator lines, a line of ids for each."""
        folder = support.shared("data/tokenizer-vectors")
        texts = (folder / "llama.cpp-qwen2.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
        expected = [[int(i) for i in line.split()]
                    for line in (folder / "llama.cpp-qwen2.out").read_text().rstrip("\n").split("\n")]
        texts = texts[:len(expected)]
        path = self.write("texts.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
        self.assertEqual(self.ids_of(support.shared("data/qwen3-tokenizer"), path), expected)

    def test_decode(self):
        folder = support.shared("golden/tokenizer")
        for case in read_cases(folder / "decode-qwen3.jsonl")[::50]:
            ids = " ".join(map(str, case["ids"])).encode()
            arguments = ("tokenize", "--tokenizer", folder / "qwen3", "--decode")
            self.assertEqual(self.quern(*arguments, input=ids).raw.decode(), case["text"])
            self.assertEqual(self.quern_json(*arguments, "--skip-special", input=ids)["text"], case["text_no_special"])


class Small(support.CliTest):

    def tokenizer(self, edit=lambda value: None):
        value = small_tokenizer()
        edit(value)
        self.write_json("tokenizer/tokenizer.json", value)
        return self.root / "tokenizer"

    def test_forms_agree(self):
        folder = self.tokenizer()
        text = "the théâtre, then <|endoftext|>\n"
        ids = [int(i) for i in self.quern("tokenize", "--tokenizer", folder, input=text.encode()).out.split()]
        self.assertEqual(self.quern_json("tokenize", "--tokenizer", folder, input=text.encode()), {"ids": ids})
        lines = self.write("text.jsonl", json.dumps({"text": text}) + "\n")
        self.assertEqual(self.quern("tokenize", "--tokenizer", folder, "--jsonl", lines).json, {"ids": ids})
        self.assertEqual(ids[0], 257)  # "the"
        self.assertEqual(ids.count(258), 1)  # the special token inside the text
        self.assertEqual(self.quern("tokenize", "--tokenizer", folder, "--decode", input=json.dumps(ids).encode()).out,
                         text)

    def test_byte(self):
        ids = self.quern("tokenize", "--tokenizer", "byte", input=b"Az\x00~").out.split()
        self.assertEqual(ids, ["66", "123", "1", "127"])
        self.assertEqual(self.quern("tokenize", "--tokenizer", "byte", input=b"").out, "\n")

    def test_invalid_utf8(self):
        """Each maximal invalid sequence becomes one U+FFFD, as Python decodes with replacement."""
        folder = self.tokenizer()
        for data in (b"a\xffb", b"\xe2\x82", b"\xf0\x9f\x98x", b"\xc0\xaf", b"\xed\xa0\x80", b"the \x80\x80 the"):
            with self.subTest(data=data):
                repaired = data.decode("utf-8", "replace").encode()
                for tokenizer in (folder, "byte"):
                    self.assertEqual(self.quern("tokenize", "--tokenizer", tokenizer, input=data).out,
                                     self.quern("tokenize", "--tokenizer", tokenizer, input=repaired).out)

    def test_not_understood(self):
        def normalizer(value):
            value["normalizer"] = {"type": "Nmt"}

        def pre_tokenizer(value):
            value["pre_tokenizer"] = {"type": "Metaspace", "replacement": "_", "add_prefix_space": True}

        def model(value):
            value["model"]["type"] = "WordPiece"

        def decoder(value):
            value["decoder"] = {"type": "Fuse"}

        def split(value):
            value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(unclosed"

        def merge(value):
            value["model"]["merges"].append(["zz", "q"])

        for edit, words in ((normalizer, "Nmt"), (pre_tokenizer, "Metaspace"), (model, "WordPiece"),
                            (decoder, "Fuse"), (split, "unclosed"), (merge, "zz")):
            with self.subTest(edit.__name__):
                folder = self.tokenizer(edit)
                self.assert_refused("tokenize", "--tokenizer", folder, input=b"text", words=["tokenizer.json", words])

    def test_bad_files(self):
        self.assert_refused("tokenize", "--tokenizer", self.root, input=b"", words="tokenizer.json")
        self.assert_refused("tokenize", "--tokenizer", self.root / "none", input=b"", words="none")
        self.write("tokenizer/tokenizer.json", '{"model": ')
        self.assert_refused("tokenize", "--tokenizer", self.root / "tokenizer", input=b"", words="tokenizer.json")

    def test_bad_input(self):
        byte = ("tokenize", "--tokenizer", "byte")
        for name, text, words in (("a.jsonl", '{"text": "x"}\n{"txt": "y"}\n', "line 2"),
                                  ("b.jsonl", '{"text": 3}\n', "line 1"), ("c.jsonl", "not json\n", "line 1")):
            path = self.write(name, text)
            result = self.assert_refused(*byte, "--jsonl", path, words=name)
            self.assertRegex(result.err, words.replace("line ", "(line |:)"))
        self.assert_refused(*byte, "--jsonl", self.root / "none.jsonl", words="none.jsonl")
        self.assert_refused(*byte, "--decode", input=b"12 x", words="'x' is no token id")
        self.assert_refused(*byte, "--decode", input=b"99999999999999999999", words="is no token id")
        self.assert_refused(*byte, "--decode", input=b"300", words="300")
        self.assert_refused(*byte, "--decode", "--jsonl", "x", code=2, lines=2, words="--decode reads ids from stdin")


if __name__ == "__main__":
    support.main()
