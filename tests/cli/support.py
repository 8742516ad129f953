"""What the tests of the command line share: running quern, tiny checkpoints, archives, shared data.

Standard library only. QUERN_BIN names the program. Small models are written here; real ones come from models/demo
and from the shared test data ($QUERN_TEST_DATA, else ../shared beside the source tree)."""

import hashlib
import json
import os
import pathlib
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("QUERN_TEST_DATA", SOURCE.parent / "shared"))
DEMO = SOURCE / "models" / "demo"
TRACKS = ("binary", "ternary")
# A tiny model's loader and manifest outweigh its codes: the tracks' own budgets are for real ones.
GENEROUS = ("--bits-per-parameter", "16")


def shared(name):
    """Path of NAME below the shared test data; skips the test when absent."""
    path = SHARED / name
    if not path.exists():
        raise unittest.SkipTest(f"{path} is absent (set QUERN_TEST_DATA)")
    return path


def demo_teacher():
    if not (DEMO / "config.json").exists():
        raise unittest.SkipTest("models/demo is absent")
    return DEMO


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class Result:
    """What a run of quern left: code, out and err (text)."""

    def __init__(self, command, child):
        self.command, self.code, self.raw = " ".join(command), child.returncode, child.stdout
        self.out = (child.stdout or b"").decode("utf-8", "replace")
        self.err = (child.stderr or b"").decode("utf-8", "replace")

    @property
    def json(self):
        return json.loads(self.out)

    def __str__(self):
        return f"{self.command}\nexit {self.code}\nstdout: {self.out[:2000]}\nstderr: {self.err[:4000]}"


def limit_file_size(n_bytes):
    """A preexec_fn: writing past N bytes of a file fails as on a full disk, instead of killing the process. At least 1024
    for commands that use threads: LLVM's OpenMP runtime cannot start without that much shared memory."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return limit


class CliTest(unittest.TestCase):
    """A test with a private folder, self.root, for each test case."""

    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="quern-cli-")
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    # ---- running

    def quern(self, *arguments, code=0, env=None, **options):
        """Runs quern and checks its exit status, and that no sanitizer and no signal has spoken."""
        command = [os.environ["QUERN_BIN"], *map(str, arguments)]
        options.setdefault("stdout", subprocess.PIPE)
        child = subprocess.run(command, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}, check=False,
                               timeout=300, **options)
        result = Result(command, child)
        for word in ("Sanitizer", "runtime error:", "Assertion"):
            self.assertNotIn(word, result.err, result)
        if code is not None:
            self.assertEqual(result.code, code, result)
        return result

    def quern_json(self, *arguments, **options):
        return self.quern(*arguments, "--json", **options).json

    def assert_refused(self, *arguments, words, code=1, lines=1, **options):
        """A clear error: the exit status, one line on stderr with every one of WORDS, nothing on stdout, and no new
        file in self.root."""
        before = self.files()
        result = self.quern(*arguments, code=code, **options)
        self.assertEqual(len(result.err.strip().splitlines()), lines, result)
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(word, result.err, result)
        if code == 1:
            self.assertEqual(result.out, "", result)
        self.assertEqual(self.files(), before, result)
        return result

    def files(self):
        """Every file and folder below the private folder."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))

    # ---- inputs

    def write(self, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def write_json(self, name, value):
        return self.write(name, json.dumps(value))

    def tiny(self, name="model", **changes):
        """The folder of a tiny checkpoint; see TinyModel."""
        return TinyModel(**changes).write(self.root / name)

    def compress(self, model, output, track="ternary", *arguments):
        """Compresses a tiny model under a generous budget; the JSON report."""
        return self.quern_json("compress", model, "--track", track, "-o", output, *GENEROUS, *arguments)


# ---- tiny checkpoints


def bf16(value):
    return struct.pack("<f", value)[2:]


def safetensors(tensors, metadata=None):
    """The bytes of a safetensors file: {name: (dtype, shape, data)}."""
    header, offset = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def read_safetensors(data):
    """(metadata, {name: (dtype, shape, bytes)}) of a safetensors file."""
    (n,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + n])
    metadata = header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], data[8 + n + begin:8 + n + end])
    return metadata, tensors


class TinyModel:
    """A small random Qwen3 in bf16 for the byte tokenizer; edit .config and .tensors before writing."""

    def __init__(self, seed=1, hidden=64, intermediate=96, layers=2, vocab=257, **config):
        self.random = random.Random(seed)
        self.config = {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "vocab_size": vocab,
            "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None, "sliding_window": None,
            "use_sliding_window": False, "attention_bias": False, "tie_word_embeddings": True, "eos_token_id": 0,
            "torch_dtype": "bfloat16", **config}
        self.tensors = {}
        self.add("model.embed_tokens.weight", vocab, hidden)
        for layer in range(layers):
            self.add_layer(f"model.layers.{layer}.", hidden, intermediate)
        self.add("model.norm.weight", hidden)

    def add_layer(self, prefix, hidden, intermediate):
        for name, rows, cols in (("q", 64, hidden), ("k", 32, hidden), ("v", 32, hidden), ("o", hidden, 64)):
            self.add(f"{prefix}self_attn.{name}_proj.weight", rows, cols)
        for name, rows, cols in (("gate", intermediate, hidden), ("up", intermediate, hidden),
                                 ("down", hidden, intermediate)):
            self.add(f"{prefix}mlp.{name}_proj.weight", rows, cols)
        for name, cols in (("input_layernorm", hidden), ("post_attention_layernorm", hidden),
                           ("self_attn.q_norm", 16), ("self_attn.k_norm", 16)):
            self.add(f"{prefix}{name}.weight", cols)

    def add(self, name, *shape):
        """Rows of different sizes, as trained matrices have; norms near 1."""
        if len(shape) == 1:
            values = [self.random.uniform(0.9, 1.1) for _ in range(shape[0])]
        else:
            values = []
            for _ in range(shape[0]):
                size = self.random.choice((0.05, 0.1, 0.2))
                values += [self.random.gauss(0, size) for _ in range(shape[1])]
        self.tensors[name] = ("BF16", list(shape), b"".join(map(bf16, values)))

    def set_value(self, name, index, value):
        dtype, shape, data = self.tensors[name]
        self.tensors[name] = (dtype, shape, data[:2 * index] + bf16(value) + data[2 * index + 2:])

    def write(self, folder):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "model.safetensors").write_bytes(safetensors(self.tensors, {"format": "pt"}))
        return folder

    def write_shards(self, folder):
        """Two shards and their index."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        names, weight_map = list(self.tensors), {}
        for k, part in enumerate((names[:len(names) // 2], names[len(names) // 2:])):
            shard = f"model-{k + 1:05}-of-00002.safetensors"
            (folder / shard).write_bytes(safetensors({name: self.tensors[name] for name in part}, {"format": "pt"}))
            weight_map.update(dict.fromkeys(part, shard))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder


# ---- archives


def zip_members(path):
    """{name: bytes} of an archive."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write_zip(path, members):
    """An archive of (name, bytes) or (ZipInfo, bytes) pairs, as they are: duplicates and bad names included."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def main():
    """Runs the tests of the calling script; exit 77 when every one was skipped, each with its reason."""
    if "QUERN_BIN" not in os.environ:
        sys.exit("QUERN_BIN names no program")
    result = unittest.main(verbosity=2, exit=False).result
    for test, reason in result.skipped:
        print(f"SKIPPED: {reason}\n[  SKIPPED ] {test.id()}", flush=True)
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if result.skipped and len(result.skipped) == result.testsRun else 0)
