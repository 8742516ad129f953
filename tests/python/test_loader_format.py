#!/usr/bin/env python3
"""The loader against an encoder of its own: every code, scale, axis and mix of bands of docs/format.md, bit for bit."""

import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib
from importlib import util
from unittest import mock

import numpy as np
import support
import torch
import transformers
from artifact_encoder import Band, bfloat16, payload_metadata, random_matrix, safetensors_bytes

ROPE_THETA = 20000.0


def tiny_config(model_type="qwen3", tied=True, **changes):
    """A config.json of odd widths, as a dict."""
    config = {
        "model_type": model_type,
        "architectures": [class_name(model_type)],
        "vocab_size": 203,
        "hidden_size": 69,
        "intermediate_size": 131,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 22,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied,
        "rope_theta": ROPE_THETA,
        "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
        "hidden_act": "silu",
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": 1,
        "dtype": "float16",
    }
    if model_type == "qwen2":
        config.update(hidden_size=66, head_dim=None)
    config.update(changes)
    return {key: value for key, value in config.items() if value is not None}


def class_name(model_type):
    return {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_5_text": "Qwen3_5ForCausalLM"}[model_type]


def stock_shapes(config):
    """Shapes of the parameters of the stock model, tied ones once, by name."""
    stock = getattr(transformers, class_name(config["model_type"]))
    parsed = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = stock(parsed)
    model.tie_weights()
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def random_vector(rng, kind, shape):
    """(stored array, exact values) of a dense tensor."""
    values = (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    if kind == "bf16":
        values, bits = bfloat16(values)
        return bits.reshape(shape), values.reshape(shape)
    array = values.astype(np.float16 if kind == "f16" else np.float32)
    return array, array.astype(np.float32)


class Artifact:
    """An artifact folder with random codes; `weights` are the values it stands for, in float32."""

    BANDS = (Band("ternary", 64), Band("q4", 128, share=0.1))

    def __init__(self, folder, config, bands=BANDS, axis="rows", hadamard=0, vectors="f16", files=1, padding=0, seed=0,
                 entropy=False, scaled=False):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        self.weights, parts = {}, [({}, {}) for _ in range(files)]
        for index, (name, shape) in enumerate(stock_shapes(config).items()):
            lines, arrays = parts[index % files]
            if len(shape) == 1:
                arrays[name], self.weights[name] = random_vector(rng, vectors, shape)
            else:
                block = hadamard if hadamard and math.prod(shape[1:]) % hadamard == 0 else 0
                lines[name], arrays[name], self.weights[name] = random_matrix(rng, shape, bands, axis, block, entropy, scaled)
        if padding:
            parts[-1][1]["quern.padding"] = np.zeros(padding, np.uint8)
        self.parts = [(payload_metadata(lines), arrays) for lines, arrays in parts]
        names = [f"payload-{k + 1:05d}-of-{files:05d}.safetensors" for k in range(files)]
        self.payloads = [self.folder / name for name in names]
        self.write_payloads()
        auto_map = {"AutoModelForCausalLM": "modeling_quern.QuernForCausalLM"}
        self.config = {**config, "auto_map": auto_map, "quern": {"format": 2, "payload": names}}
        self.write_config()
        shutil.copy(support.LOADER, self.folder)

    def write_payloads(self):
        for path, (metadata, arrays) in zip(self.payloads, self.parts):
            path.write_bytes(safetensors_bytes(metadata, arrays))

    def write_config(self):
        (self.folder / "config.json").write_text(json.dumps(self.config))


class LoaderTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="quern-loader-")
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def artifact(self, name="artifact", config=None, **options):
        return Artifact(self.root / name, config or tiny_config(), **options)

    def run_child(self, program, *arguments):
        """Output of a Python program in a process of its own."""
        child = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], cwd=pathlib.Path(__file__).parent,
                               capture_output=True, text=True, check=False)
        self.assertEqual(child.returncode, 0, child.stderr)
        return child.stdout

    def assert_exact(self, model, weights, dtype):
        """Every parameter equals the float32 value rounded once to dtype."""
        parameters = dict(model.named_parameters())
        self.assertEqual(set(parameters), set(weights))
        for name, parameter in parameters.items():
            self.assertEqual(parameter.dtype, dtype, name)
            self.assertTrue(torch.equal(parameter, torch.from_numpy(weights[name]).to(dtype)), name)


class ExactWeights(LoaderTest):
    CASES = {
        "ternary_rows": dict(bands=[Band("ternary", 0)]),
        "ternary_64": dict(bands=[Band("ternary", 64), Band("q4", 128, share=0.1)]),
        "ternary_100": dict(bands=[Band("ternary", 100, "log6"), Band("q4", 100, share=0.5)], vectors="bf16"),
        "q4_128": dict(bands=[Band("q4", 128)]),
        "ternary_rescued_sign": dict(bands=[Band("sign", 0), Band("ternary", 64, share=0.3)]),
        "sign_rows": dict(bands=[Band("sign", 0)], vectors="f32"),
        "sign_64": dict(bands=[Band("sign", 64), Band("q4", 0, "log6", share=0.1)]),
        "sign_1000": dict(bands=[Band("sign", 1000), Band("q4", 64, share=0.02)]),
        "q4_rows": dict(bands=[Band("q4", 0, "log6")]),
        "q4_1": dict(bands=[Band("q4", 1), Band("sign", 1, share=0.1)]),
        "two_planes": dict(bands=[Band("ternary", 32, "log6", planes=2)]),
        "three_bands": dict(bands=[Band("ternary", 64, "log6"), Band("ternary", 64, "log6", 2, 0.2), Band("q4", 128, share=0.05)]),
        "columns": dict(axis="columns", bands=[Band("ternary", 64), Band("q4", 128, share=0.1)]),
        "columns_log6": dict(axis="columns", bands=[Band("ternary", 64, "log6"), Band("ternary", 64, "log6", 2, 0.2),
                                                    Band("q4", 128, "log6", share=0.05)]),
        "columns_sign": dict(axis="columns", bands=[Band("sign", 0, "log6"), Band("sign", 16, "f16", 2, 0.3),
                                                    Band("q4", 20, share=0.1)]),
        "columns_without_q4": dict(axis="columns", bands=[Band("sign", 32), Band("ternary", 32, "log6", share=0.5)]),
        "scaled_rows": dict(bands=[Band("ternary", 0), Band("q4", 128, share=0.1)], scaled=True),
        "scaled_columns": dict(axis="columns", bands=[Band("sign", 64, "log6"), Band("sign", 16, "f16", 2, 0.3),
                                                      Band("q4", 20, share=0.1)], scaled=True, entropy=True),
        "columns_of_q4_first": dict(axis="columns", bands=[Band("q4", 0, share=0.2), Band("ternary", 5, "log6")]),
    }

    def test_codes_and_groups(self):
        for seed, (name, options) in enumerate(self.CASES.items()):
            artifact = self.artifact(name, seed=seed, **options)
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                with self.subTest(case=name, dtype=dtype):
                    self.assert_exact(support.load_model(artifact.folder, dtype), artifact.weights, dtype)

    def test_rotation(self):
        """Within float32 rounding of the transform in double."""
        config = tiny_config(hidden_size=96, intermediate_size=160, head_dim=32)
        for axis in ("rows", "columns"):
            bands = [Band("ternary", 64, "log6"), Band("ternary", 64, "log6", 2, 0.2), Band("q4", 128, share=0.05)]
            artifact = self.artifact(axis, config, bands=bands, axis=axis, hadamard=32)
            for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 2**-10)):
                model = support.load_model(artifact.folder, dtype)
                for name, parameter in model.named_parameters():
                    with self.subTest(axis=axis, dtype=dtype, name=name):
                        want = torch.from_numpy(artifact.weights[name])
                        self.assertLessEqual((parameter.float() - want).abs().max().item(), tolerance * want.abs().max().item())

    def test_zlib_streams(self):
        """Streams of every axis, and one that is inflated in several steps, decode to the weights of the block."""
        for case, vocabulary in (("ternary_64", 80001), ("two_planes", 203), ("columns_log6", 203), ("columns_sign", 203)):
            config = tiny_config(vocab_size=vocabulary, intermediate_size=1031)
            artifact = self.artifact(f"zlib-{case}", config, entropy=True, **self.CASES[case])
            lines = artifact.parts[0][0].values()
            with self.subTest(case=case):
                self.assertTrue(any(" zlib/" in line for line in lines))
                self.assert_exact(support.load_model(artifact.folder), artifact.weights, torch.float32)

    def test_architectures(self):
        configs = {
            "qwen3_untied": tiny_config(tied=False),
            "qwen3_biases": tiny_config(attention_bias=True),
            "qwen2_tied": tiny_config("qwen2"),
            "qwen2_untied": tiny_config("qwen2", tied=False),
        }
        for name, config in configs.items():
            with self.subTest(case=name):
                artifact = self.artifact(name, config)
                model = support.load_model(artifact.folder)
                self.assert_exact(model, artifact.weights, torch.float32)
                self.assertEqual(model.lm_head.weight is model.model.embed_tokens.weight, config["tie_word_embeddings"])

    def test_hybrid_architecture(self):
        """Three-dimensional convolution weights are matrices of their first dimension by the rest."""
        if not hasattr(transformers, "Qwen3_5ForCausalLM"):
            return  # nothing to load it with: an older library refuses the model_type by itself
        config = tiny_config("qwen3_5_text", hidden_size=64, head_dim=32, linear_num_key_heads=2, linear_num_value_heads=2,
                             linear_key_head_dim=16, linear_value_head_dim=16,
                             layer_types=["linear_attention", "full_attention"])
        artifact = self.artifact(config=config)
        self.assert_exact(support.load_model(artifact.folder), artifact.weights, torch.float32)

    def test_many_files_and_padding(self):
        artifact = self.artifact(files=3, padding=12345)
        self.assert_exact(support.load_model(artifact.folder), artifact.weights, torch.float32)

    def test_rows_wider_than_a_block(self):
        """Blocks of several rows and of one row, over a matrix that does not divide into blocks."""
        config = tiny_config(vocab_size=70001, intermediate_size=1031)
        for axis in ("rows", "columns"):
            artifact = self.artifact(axis, config, axis=axis, bands=[Band("sign", 64, "log6"), Band("q4", 128, share=0.033)])
            self.assert_exact(support.load_model(artifact.folder), artifact.weights, torch.float32)


class StockModel(LoaderTest):
    def test_is_the_stock_model(self):
        artifact = self.artifact()
        model = support.load_model(artifact.folder)
        stock = transformers.Qwen3ForCausalLM(transformers.AutoConfig.for_model(**tiny_config())).eval()
        stock.load_state_dict({name: torch.from_numpy(value) for name, value in artifact.weights.items()}, strict=False)
        self.assertIs(type(model), type(stock))
        self.assertFalse(model.training)
        self.assertFalse(any(p.requires_grad or p.is_meta for p in model.parameters()))
        ours, theirs = dict(model.named_buffers()), dict(stock.named_buffers())
        self.assertEqual(set(ours), set(theirs))
        for name, buffer in theirs.items():
            self.assertEqual(ours[name].dtype, buffer.dtype)
            self.assertTrue(torch.equal(ours[name], buffer), name)
        ids = torch.randint(0, 203, (2, 40), generator=torch.Generator().manual_seed(5))
        with torch.inference_mode():
            self.assertTrue(torch.equal(model(ids).logits, stock(ids).logits))

    def test_saves_as_an_ordinary_checkpoint(self):
        artifact = self.artifact()
        saved = self.root / "saved"
        support.load_model(artifact.folder).save_pretrained(saved)
        text = (saved / "config.json").read_text()
        self.assertNotIn("auto_map", text)
        self.assertNotIn("quern", text)
        again = transformers.AutoModelForCausalLM.from_pretrained(str(saved), local_files_only=True, dtype=torch.float32)
        self.assert_exact(again, artifact.weights, torch.float32)

    def test_without_trust_nothing_of_ours_runs(self):
        artifact = self.artifact()
        with self.assertRaises(OSError):
            support.load_model(artifact.folder, trust_remote_code=False)

    def test_generation_config(self):
        artifact = self.artifact()
        self.assertEqual(support.load_model(artifact.folder).generation_config.eos_token_id, 1)
        (artifact.folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7], "top_k": 11}))
        generation = support.load_model(artifact.folder).generation_config
        self.assertEqual((generation.eos_token_id, generation.top_k), ([1, 7], 11))

    def test_hub_layout(self):
        """A name on the Hub resolves through the library's cache."""
        artifact = self.artifact()
        repository, commit = self.root / "cache" / "models--someone--tiny", "0123456789abcdef0123456789abcdef01234567"
        shutil.copytree(artifact.folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        model = support.load_model("someone/tiny", cache_dir=str(self.root / "cache"))
        self.assert_exact(model, artifact.weights, torch.float32)


class Options(LoaderTest):
    def test_dtype(self):
        artifact = self.artifact()
        options = {"trust_remote_code": True, "local_files_only": True}
        load = transformers.AutoModelForCausalLM.from_pretrained
        for wish, expected in (({}, torch.float16), ({"torch_dtype": "auto"}, torch.float16), ({"dtype": "float32"}, torch.float32),
                               ({"torch_dtype": torch.bfloat16}, torch.bfloat16), ({"dtype": torch.float32}, torch.float32)):
            with self.subTest(wish=wish):
                model = load(str(artifact.folder), **options, **wish)
                self.assertEqual(model.dtype, expected)
                self.assertEqual(model.config.dtype, expected)

    def test_device_map(self):
        artifact = self.artifact()
        for place in ("cpu", torch.device("cpu"), {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}):
            with self.subTest(device_map=place):
                model = support.load_model(artifact.folder, device_map=place, low_cpu_mem_usage=True)
                self.assert_exact(model, artifact.weights, torch.float32)
        expected = "cuda" if torch.cuda.is_available() else "cpu"
        for place in (None, "auto", "balanced", "sequential"):
            with self.subTest(device_map=place):
                model = support.load_model(artifact.folder, device_map=place)
                self.assertEqual({p.device.type for p in model.parameters()}, {expected})
        with self.assertRaisesRegex(ValueError, "one device"):
            support.load_model(artifact.folder, device_map={"model": "cpu", "lm_head": "meta"})
        if not torch.cuda.is_available():
            with self.assertRaisesRegex(ValueError, "no CUDA device"):
                support.load_model(artifact.folder, device_map=0)

    def test_device_rules_with_cuda(self):
        """Where a model goes on a machine with CUDA devices, of which the third is current."""
        spec = util.spec_from_file_location("modeling_quern", support.LOADER)
        loader = util.module_from_spec(spec)
        spec.loader.exec_module(loader)
        rules = ((None, "cuda:2"), ("auto", "cuda:2"), ("balanced", "cuda:2"), ("cuda", "cuda:2"), ("cuda:1", "cuda:1"),
                 (0, "cuda:0"), ({"": 1}, "cuda:1"), ({"": "cpu"}, "cpu"), ("cpu", "cpu"),
                 (torch.device("cuda"), "cuda:2"), (torch.device("cpu"), "cpu"))
        with mock.patch("torch.cuda.is_available", return_value=True), \
                mock.patch("torch.cuda.current_device", return_value=2):
            for device_map, expected in rules:
                with self.subTest(device_map=device_map):
                    self.assertEqual(loader._device(device_map), torch.device(expected))

    def test_loading_info_and_attention(self):
        artifact = self.artifact()
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(artifact.folder), trust_remote_code=True, attn_implementation="eager", output_loading_info=True)
        self.assertFalse(any(info.values()))
        self.assertEqual(model.config._attn_implementation, "eager")

    def test_without_accelerate(self):
        artifact = self.artifact()
        program = ("import sys; sys.modules['accelerate'] = None\n"
                   "import support, transformers.utils as u\n"
                   "assert not u.is_accelerate_available()\n"
                   "assert support.load_model(sys.argv[1]).num_parameters() == int(sys.argv[2])\n")
        count = sum(value.size for value in artifact.weights.values())
        self.run_child(program, artifact.folder, count)


class Refusals(LoaderTest):
    MATRIX = "model.layers.0.mlp.down_proj.weight"

    def assert_refused(self, artifact, message):
        with self.assertRaisesRegex(ValueError, message):
            support.load_model(artifact.folder)

    def test_damaged_bytes(self):
        """One byte of a matrix changed: (offset, value, what the error says). 69 rows of 131 columns: 9 bytes of mask,
        62 rows of 3 scales and 27 code bytes, 7 rows of 2 scales and 66 code bytes."""
        codes, rescue = 9 + 62 * 6, 9 + 62 * (6 + 27)
        cases = (
            (codes + 30, 243, "illegal ternary code"),
            (codes + 62 * 27 - 1, 255, "illegal ternary code"),
            (rescue + 28 + 5, 0x08, "illegal q4 code"),
            (rescue + 28 + 7 * 66 - 1, 0x80, "illegal q4 code"),
            (9 + 1, 0x7c, "negative or not finite"),
            (9 + 62 * 6 - 1, 0xfc, "negative or not finite"),
            (rescue + 1, 0xbc, "negative or not finite"),
            (0, None, "the mask counts"),
            (8, 0x80, "the mask counts"),
        )
        for index, (offset, value, message) in enumerate(cases):
            with self.subTest(offset=offset, value=value):
                artifact = self.artifact(f"damaged-{index}")
                array = artifact.parts[0][1][self.MATRIX]
                self.assertEqual(array.size, rescue + 7 * (4 + 66))
                array[offset] = array[offset] ^ 1 if value is None else value
                artifact.write_payloads()
                self.assert_refused(artifact, message)

    def test_damaged_grid(self):
        for base, ratio in ((0, 1.1), (-1, 1.1), (np.nan, 1), (1, 0.99), (1, np.inf), (1, np.nan), (1000, 1.1), (1e-12, 1)):
            with self.subTest(base=base, ratio=ratio):
                artifact = self.artifact(f"grid-{base}-{ratio}", bands=[Band("ternary", 64, "log6")])
                array = artifact.parts[0][1][self.MATRIX]
                array[:8] = np.frombuffer(np.array([base, ratio], np.float32).tobytes(), np.uint8)
                artifact.write_payloads()
                self.assert_refused(artifact, "scales from")

    def test_log6_padding(self):
        artifact = self.artifact(bands=[Band("ternary", 64, "log6")])  # 69 x 3 numbers: 1242 bits of 1248
        artifact.parts[0][1][self.MATRIX][8 + 155] |= 0x80
        artifact.write_payloads()
        self.assert_refused(artifact, "padding bits of scales")

    def test_damaged_column_scales(self):
        for bits in (0x0000, 0x8001, 0x7c00, 0x7e00):
            with self.subTest(bits=bits):
                artifact = self.artifact(f"scales-{bits}", bands=[Band("ternary", 64)], scaled=True)
                array = artifact.parts[0][1][self.MATRIX]
                array[260:262] = bits & 255, bits >> 8  # the last of 131
                artifact.write_payloads()
                self.assert_refused(artifact, "a column scale is not")

    def test_damaged_streams(self):
        """(what becomes of the stream, what the line says beside its length, what the error says)."""
        def packed(data):
            return np.frombuffer(zlib.compress(data), np.uint8)

        cases = (
            (lambda block: packed(block)[:-1], "does not hold"),
            (lambda block: np.append(packed(block), np.uint8(0)), "does not hold"),
            (lambda block: packed(block[:-1]), "does not hold"),
            (lambda block: packed(block + b"\0"), "does not hold"),
            (lambda block: packed(bytes(1 << 20)), "does not hold"),
            (lambda block: packed(block)[::-1].copy(), "incorrect header"),
            (lambda block: packed(block) ^ np.eye(1, len(packed(block)), len(packed(block)) - 1, np.uint8)[0], "incorrect data check"),
            (lambda block: np.zeros(2, np.uint8), "a zlib stream of 2 bytes for 2397"),
            (lambda block: np.frombuffer(block, np.uint8), "a zlib stream of 2397 bytes for 2397"),
        )
        for index, (damage, message) in enumerate(cases):
            with self.subTest(index=index):
                artifact = self.artifact(f"stream-{index}", bands=[Band("ternary", 64), Band("q4", 128, share=0.05)])
                metadata, arrays = artifact.parts[0]
                arrays[self.MATRIX] = damage((arrays[self.MATRIX] & 15).tobytes())  # bytes that can be packed
                metadata[self.MATRIX] += f" zlib/{arrays[self.MATRIX].size}"
                artifact.write_payloads()
                self.assert_refused(artifact, message)

    def test_tables(self):
        """Tensors and descriptions that do not fit each other or the model."""
        def drop(name):
            return lambda metadata, arrays: arrays.pop(name)

        def add(name, array):
            return lambda metadata, arrays: arrays.update({name: array})

        def describe(line):
            return lambda metadata, arrays: metadata.update({self.MATRIX: line})

        flat = np.zeros(3, np.float16)
        cases = (
            (drop("model.norm.weight"), "no payload file holds the parameter model.norm.weight"),
            (drop(self.MATRIX), "down_proj.weight is missing"),
            (add("model.norm.bias", flat), "model.norm.bias: the model has no use for it"),
            (add("model.norm.weight", flat), r"model.norm.weight: F16 \[3\], expected .* \[69\]"),
            (add(self.MATRIX, np.zeros(9, np.uint8)), r"down_proj.weight: U8 \[9\], expected"),
            (describe("69x131 rows 69 ternary/64"), "not a matrix description"),
            (describe("69x131 rows 69 ternery/64/f16"), "not a matrix description"),
            (describe("69x131 rows 69 q4+q4/64/f16"), "not a matrix description"),
            (describe("69x131 rows 69 sign+ternary/64/f16"), "not a matrix description"),
            (describe("131x69 rows 131 ternary/64/f16"), "the model has"),
            (describe("69x131 rows 62 ternary/64/f16 8 q4/128/f16"), r"bands of \[62, 8\] of 69 rows"),
            (describe("69x131 rows 69 ternary/64/f16 0 q4/128/f16"), r"bands of \[69, 0\] of 69 rows"),
            (describe("69x131 columns 131 ternary/64/f16"), r"bands of \[131\] of 131 columns"),
            (describe("69x131 rows 62 ternary/32/f16 7 q4/128/f16"), "down_proj.weight: U8"),
            (describe("69x131 rows 62 ternary/64/f16 7 q4/128/f16 hadamard/2"), "rotated blocks of 2 of 131"),
            (describe("69x131 rows 69 ternary/64/f16 zlib/100"), r"down_proj.weight: U8 .*expected U8 \[100\]"),
            (describe("69x131 rows 69 ternary/64/f16 zlib/x"), "not a matrix description"),
            (lambda metadata, arrays: metadata.update(version="1"), "not a Quern payload of version 2"),
            (lambda metadata, arrays: metadata.pop("format"), "not a Quern payload of version 2"),
        )
        for index, (change, message) in enumerate(cases):
            with self.subTest(message=message):
                artifact = self.artifact(f"table-{index}")
                change(*artifact.parts[0])
                artifact.write_payloads()
                self.assert_refused(artifact, message)

    def test_damaged_files(self):
        def first_offset(data):
            """The first tensor's offsets moved by one, the header as long as before."""
            return data.replace(b'"data_offsets": [0, ', b'"data_offsets": [1, ', 1)

        cases = (
            (lambda data: data[:-1], "bytes, expected"),
            (lambda data: data[: len(data) // 2], "bytes, expected"),
            (lambda data: data + b"\0", "bytes, expected"),
            (lambda data: data[:5], "too short"),
            (lambda data: data[:8], "header of"),
            (lambda data: struct.pack("<Q", 1 << 60) + data[8:], "header of"),
            (lambda data: data[:8] + b"[" + data[9:], "not JSON"),
            (lambda data: struct.pack("<Q", 2) + b"[]", "no __metadata__"),
            (first_offset, "do not agree|expected at"),
            (lambda data: data.replace(b'"U8"', b'"I8"', 1), "do not agree"),
            (lambda data: data.replace(b'"shape": [', b'"shape": [-', 1), "do not agree"),
        )
        original = self.artifact()
        data = original.payloads[0].read_bytes()
        for index, (damage, message) in enumerate(cases):
            with self.subTest(case=index, message=message):
                damaged = damage(data)
                self.assertNotEqual(damaged, data)
                original.payloads[0].write_bytes(damaged)
                self.assert_refused(original, message)

    def test_payload_list(self):
        artifact = self.artifact()
        for payload, error in ((["../payload-00001-of-00001.safetensors"], ValueError), (["absent.safetensors"], OSError)):
            artifact.config["quern"]["payload"] = payload
            artifact.write_config()
            with self.assertRaises(error):
                support.load_model(artifact.folder)
        artifact.config["quern"] = {"format": 1, "payload": []}
        artifact.write_config()
        self.assert_refused(artifact, "no Quern artifact of format 2")

    def test_repeated_in_two_files(self):
        artifact = self.artifact(files=2)
        artifact.parts[1][1]["model.norm.weight"] = artifact.parts[0][1].get("model.norm.weight", np.ones(69, np.float16))
        artifact.parts[0][1]["model.norm.weight"] = artifact.parts[1][1]["model.norm.weight"]
        artifact.write_payloads()
        self.assert_refused(artifact, "model.norm.weight: the model has no use for it")


class Memory(LoaderTest):
    CHILD = """
import sys, time, support, torch
def status(key):                                    # getrusage would count the parent before exec
    return 1024 * int(next(l for l in open("/proc/self/status") if l.startswith(key)).split()[1])
support.load_model(sys.argv[1])                     # imports and caches
before, started = status("VmRSS"), time.perf_counter()
model = support.load_model(sys.argv[2], getattr(torch, sys.argv[3]))
seconds = time.perf_counter() - started
sizes = [p.numel() * p.element_size() for p in model.parameters()]
print(status("VmHWM") - before - sum(sizes), max(sizes), sum(sizes), seconds)
"""

    def test_peak(self):
        """Beside the model itself, loading takes less than its largest tensor."""
        warm = self.artifact("warm")
        config = tiny_config(vocab_size=32768, hidden_size=1024, intermediate_size=3072, num_hidden_layers=4,
                             num_attention_heads=16, num_key_value_heads=8, head_dim=128)
        bands = [Band("ternary", 128, "log6"), Band("ternary", 128, "log6", 2, 0.1), Band("q4", 128, share=0.05)]
        for axis in ("rows", "columns"):
            big = self.artifact(axis, config, bands=bands, axis=axis, hadamard=1024)
            del big.parts, big.weights
            for dtype in ("float16", "float32"):
                with self.subTest(axis=axis, dtype=dtype):
                    out = self.run_child(self.CHILD, warm.folder, big.folder, dtype)
                    extra, largest, dense, seconds = (float(word) for word in out.split())
                    print(f"{axis}, {dtype}: {dense / 2**20:.0f} MiB of parameters in {seconds:.2f} s, peak "
                          f"{extra / 2**20:.1f} MiB above them, largest tensor {largest / 2**20:.0f} MiB", flush=True)
                    self.assertLess(extra, largest)


if __name__ == "__main__":
    support.main()
