"""Checkpoints that are broken, hostile or of another kind: one clear line, whatever the command."""

import json
import os
import struct

import support


class BadCheckpoint(support.CliTest):

    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.weights = self.model / "model.safetensors"
        self.docs = self.write("docs.txt", "some text")

    def refuse(self, *words, model=None):
        """Every command that opens a model refuses it in the same words."""
        model = model or self.model
        out = self.root / "out"
        messages = set()
        for arguments in (("info", model), ("score", model, "--docs", self.docs, "--tokenizer", "byte"),
                          ("compress", model, "--track", "binary", "-o", out), ("export", model, "--dense", "-o", out),
                          ("sensitivity", model, "--track", "ternary")):
            messages.add(self.assert_refused(*arguments, words=words).err)
        self.assertEqual(len(messages), 1, messages)

    def header(self):
        data = self.weights.read_bytes()
        (n,) = struct.unpack_from("<Q", data)
        return json.loads(data[8:8 + n]), data[8 + n:]

    def write_header(self, header, data, length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.weights.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)

    # ---- the weights file

    def test_truncated(self):
        data = self.weights.read_bytes()
        for n_bytes in (0, 4, 8, 100, len(data) - 1):
            self.weights.write_bytes(data[:n_bytes])
            self.refuse("model.safetensors")

    def test_garbled_header(self):
        header, data = self.header()
        text = json.dumps(header).encode()
        for bad in (b"{" * len(text), text.replace(b'"dtype"', b'"dtypo"', 1), text.replace(b"BF16", b"BF17", 1),
                    text.replace(b'"shape": [257', b'"shape": [-57', 1), text[:-1] + b",", b"[]",
                    text.replace(b'"data_offsets": [0', b'"data_offsets": ["', 1), text.replace(b"norm", b"n\xffrm", 1),
                    text.replace(b'"shape": [257', b'"shape": [99999999999999999999', 1),
                    text.replace(b'"shape": [257', b'"shape": [4611686018427387904', 1)):
            self.assertNotEqual(bad, text)
            self.write_header(bad, data)
            self.refuse("model.safetensors")

    def test_header_length(self):
        header, data = self.header()
        for length in (2**63, 2**64 - 1, 2**40, 100_000_001, 0, 1):
            self.write_header(header, data, length)
            self.refuse("model.safetensors")

    def test_overlap_and_gap(self):
        header, data = self.header()
        names = [name for name in header if name != "__metadata__"]
        begin, end = header[names[1]]["data_offsets"]
        for shift in (-2, 2, 10**9):
            header[names[1]]["data_offsets"] = [begin + shift, end + shift]
            self.write_header(header, data)
            self.refuse("model.safetensors", names[1] if shift != 2 else "")
        header[names[1]]["data_offsets"] = [end, begin]
        self.write_header(header, data)
        self.refuse("model.safetensors", names[1])

    def test_bytes_after_the_last_tensor(self):
        header, data = self.header()
        self.write_header(header, data + b"more")
        self.refuse("model.safetensors")

    def test_names_and_shapes(self):
        cases = (("missing", "model.layers.1.mlp.up_proj.weight"), ("surplus", "model.layers.2.mlp.up_proj.weight"),
                 ("shape", "model.layers.0.self_attn.k_proj.weight"))
        for kind, name in cases:
            tiny = support.TinyModel()
            if kind == "missing":
                del tiny.tensors[name]
            elif kind == "surplus":
                tiny.tensors[name] = ("BF16", [1], b"\0\0")
            else:
                dtype, shape, data = tiny.tensors[name]
                tiny.tensors[name] = (dtype, shape[::-1], data)
            self.refuse(name, model=tiny.write(self.root / kind))

    def test_dtype_that_holds_no_weights(self):
        tiny = support.TinyModel()
        _, shape, data = tiny.tensors["model.norm.weight"]
        tiny.tensors["model.norm.weight"] = ("I16", shape, data)
        self.refuse("model.norm.weight", "I16", model=tiny.write(self.root / "integers"))

    def test_not_finite(self):
        """Named by the commands that compute with the weights."""
        for name, value in (("model.layers.0.mlp.down_proj.weight", "nan"), ("model.norm.weight", "inf")):
            tiny = support.TinyModel()
            tiny.set_value(name, 5, float(value))
            model = tiny.write(self.root / name)
            ids, out = self.write_json("ids.json", [1, 2, 3]), self.root / "out.safetensors"
            words = [name, "model.safetensors", "column 5"]
            self.assert_refused("score", model, "--docs", self.docs, "--tokenizer", "byte", words=words)
            self.assert_refused("logits", model, "--ids", ids, "-o", out, words=words)
            self.assert_refused("generate", model, "--prompt", "a", "--tokenizer", "byte", words=words)

    # ---- shards

    def test_shards(self):
        folder = support.TinyModel().write_shards(self.root / "sharded")
        shard, index = folder / "model-00002-of-00002.safetensors", folder / "model.safetensors.index.json"
        text, data = index.read_text(), shard.read_bytes()
        shard.unlink()
        self.refuse(shard.name, model=folder)
        shard.write_bytes(data[:-1])
        self.refuse(shard.name, model=folder)
        shard.write_bytes(data)
        moved = json.loads(text)
        moved["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors"
        escape = json.loads(text)
        escape["weight_map"]["model.norm.weight"] = "../model/model.safetensors"
        for bad, words in ((moved, "model.norm.weight"), (escape, "../model/model.safetensors"),
                           ({"weight_map": []}, "index.json"), ({}, "index.json")):
            index.write_text(json.dumps(bad))
            self.refuse(words, model=folder)
        index.write_text(text[:40])
        self.refuse("index.json", model=folder)

    # ---- config.json

    def test_config(self):
        config = json.loads((self.model / "config.json").read_text())
        cases = (({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, ["llama", "qwen3"]),
                 ({"hidden_act": "gelu"}, ["gelu", "silu"]),
                 ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, ["longrope"]),
                 ({"hidden_size": 65}, ["config.json"]), ({"hidden_size": "64"}, ["hidden_size"]),
                 ({"num_hidden_layers": -1}, ["num_hidden_layers"]),
                 ({"num_hidden_layers": 10**12}, ["num_hidden_layers"]),
                 ({"num_key_value_heads": 3}, ["num_key_value_heads"]), ({"vocab_size": 0}, ["vocab_size"]),
                 ({"rms_norm_eps": 0}, ["rms_norm_eps"]), ({"tie_word_embeddings": False}, ["lm_head.weight"]),
                 ({"vocab_size": 300}, ["model.embed_tokens.weight"]), ({"num_hidden_layers": 3}, ["model.layers.2"]))
        for changes, words in cases:
            with self.subTest(changes):
                (self.model / "config.json").write_text(json.dumps({**config, **changes}))
                self.refuse(*words)
        del config["model_type"]
        for text in (json.dumps(config), "", "[]", "{", "\xff"):
            (self.model / "config.json").write_bytes(text.encode("latin-1"))
            self.refuse("config.json")

    def test_no_such_files(self):
        self.weights.unlink()
        self.refuse("model.safetensors")
        (self.model / "config.json").unlink()
        self.refuse("config.json")

    def test_special_files(self):
        """A pipe in the place of a file must not hang the program."""
        self.weights.unlink()
        os.mkfifo(self.weights)
        self.refuse("model.safetensors")
        pipe = self.root / "pipe"
        os.mkfifo(pipe)
        self.refuse("pipe", model=pipe)


class Supported(support.CliTest):

    def test_hybrid_models_are_refused_by_name(self):
        for name in ("qwen3_5-text", "qwen3_5-wrapped"):
            model = support.shared(f"golden/models/{name}")
            found = self.quern("info", model, code=None)
            if found.code == 0:
                self.skipTest("this version supports hybrid models")
            self.assertIn("qwen3_5", found.err)


if __name__ == "__main__":
    support.main()
