#!/usr/bin/env python3
"""The loader against an encoder of its own: every code, group width and row mix of docs/format.md, bit for bit."""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from importlib import util
from unittest import mock

import numpy as np
import support
import torch
import transformers
from artifact_encoder import bfloat16, payload_metadata, random_matrix, safetensors_bytes

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

    def __init__(self, folder, config, native=("ternary", 64), rescue=("q4", 128), fraction=0.1, vectors="f16",
                 files=1, padding=0, seed=0):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        self.weights, parts = {}, [({}, {}) for _ in range(files)]
        for index, (name, shape) in enumerate(stock_shapes(config).items()):
            lines, arrays = parts[index % files]
            if len(shape) == 1:
                arrays[name], self.weights[name] = random_vector(rng, vectors, shape)
            else:
                n_rescued = int(round(fraction * shape[0]))
                lines[name], more, self.weights[name] = random_matrix(rng, name, shape, native, rescue, n_rescued)
                arrays.update(more)
        if padding:
            parts[-1][1]["quern.padding"] = np.zeros(padding, np.uint8)
        self.parts = [(payload_metadata(lines), arrays) for lines, arrays in parts]
        names = [f"payload-{k + 1:05d}-of-{files:05d}.safetensors" for k in range(files)]
        self.payloads = [self.folder / name for name in names]
        self.write_payloads()
        auto_map = {"AutoModelForCausalLM": "modeling_quern.QuernForCausalLM"}
        self.config = {**config, "auto_map": auto_map, "quern": {"format": 1, "payload": names}}
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
        "ternary_rows": dict(native=("ternary", 0), fraction=0),
        "ternary_64": dict(native=("ternary", 64)),
        "ternary_100": dict(native=("ternary", 100), rescue=("q4", 100), fraction=0.5, vectors="bf16"),
        "ternary_128_all_rescued": dict(native=("ternary", 128), fraction=1),
        "ternary_rescued_sign": dict(native=("sign", 0), rescue=("ternary", 64), fraction=0.3),
        "sign_rows": dict(native=("sign", 0), fraction=0, vectors="f32"),
        "sign_64": dict(native=("sign", 64), rescue=("q4", 0)),
        "sign_1000": dict(native=("sign", 1000), rescue=("q4", 64), fraction=0.02),
        "q4_rows": dict(native=("q4", 0), fraction=0),
        "q4_1": dict(native=("q4", 1), rescue=("sign", 1)),
    }

    def test_codes_and_groups(self):
        for seed, (name, options) in enumerate(self.CASES.items()):
            artifact = self.artifact(name, seed=seed, **options)
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                with self.subTest(case=name, dtype=dtype):
                    self.assert_exact(support.load_model(artifact.folder, dtype), artifact.weights, dtype)

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
        artifact = self.artifact(config=config, native=("sign", 64), fraction=0.013)
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

    def test_damaged_arrays(self):
        """One value changed in one array: (array, value, what the error says)."""
        cases = (
            ("codes", 243, "illegal ternary code"),
            ("codes", 255, "illegal ternary code"),
            ("rescue_codes", 0x08, "illegal q4 code"),
            ("rescue_codes", 0x80, "illegal q4 code"),
            ("scales", np.nan, "negative or not finite"),
            ("scales", np.inf, "negative or not finite"),
            ("rescue_scales", -0.5, "negative or not finite"),
            ("rescue_mask", 255, "marks"),
        )
        for index, (part, value, message) in enumerate(cases):
            with self.subTest(array=part, value=value):
                artifact = self.artifact(f"damaged-{index}")
                array = artifact.parts[0][1][f"{self.MATRIX}.{part}"]
                array.flat[array.size // 2] = value
                artifact.write_payloads()
                self.assert_refused(artifact, message)

    def test_mask_padding(self):
        artifact = self.artifact()
        mask = artifact.parts[0][1][f"{self.MATRIX}.rescue_mask"]
        mask[-1] |= 0x80
        artifact.write_payloads()
        self.assert_refused(artifact, "rescue_mask: marks")

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
            (drop(f"{self.MATRIX}.scales"), "scales is missing"),
            (add("model.norm.bias", flat), "model.norm.bias: the model has no use for it"),
            (add("model.norm.weight", flat), r"model.norm.weight: F16 \[3\], expected .* \[69\]"),
            (add(f"{self.MATRIX}.codes", np.zeros((3, 3), np.uint8)), r"codes: U8 \[3, 3\], expected"),
            (describe("69x131 ternary/64 q4/128"), "not a matrix description"),
            (describe("69x131 ternery/64 q4/128 7"), "not a matrix description"),
            (describe("131x69 ternary/64 q4/128 7"), "the model has"),
            (describe("69x131 ternary/64 q4/128 70"), "70 rescued rows of 69"),
            (describe("69x131 ternary/64 none/0 7"), "7 rescued rows of 69 in code none"),
            (describe("69x131 ternary/32 q4/128 7"), "scales: F16"),
            (lambda metadata, arrays: metadata.update(version="2"), "not a Quern payload of version 1"),
            (lambda metadata, arrays: metadata.pop("format"), "not a Quern payload of version 1"),
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
        artifact.config["quern"] = {"format": 2, "payload": []}
        artifact.write_config()
        self.assert_refused(artifact, "no Quern artifact of format 1")

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
        big = self.artifact("big", config, native=("ternary", 128), rescue=("q4", 128), fraction=0.05)
        del big.parts, big.weights
        for dtype in ("float16", "float32"):
            with self.subTest(dtype=dtype):
                out = self.run_child(self.CHILD, warm.folder, big.folder, dtype)
                extra, largest, dense, seconds = (float(word) for word in out.split())
                print(f"{dtype}: {dense / 2**20:.0f} MiB of parameters in {seconds:.2f} s, peak {extra / 2**20:.1f} MiB above "
                      f"them, largest tensor {largest / 2**20:.0f} MiB", flush=True)
                self.assertLess(extra, largest)


if __name__ == "__main__":
    support.main()
