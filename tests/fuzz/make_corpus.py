#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets into corpus/. Everything is made here; same script, same bytes."""

import io
import json
import pathlib
import struct
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
CORPUS = HERE / "corpus"


def put(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def safetensors(tensors, metadata=None):
    """TENSORS: (name, dtype, shape, bytes) in file order."""
    header = {"__metadata__": metadata} if metadata else {}
    body = b""
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def make_safetensors():
    put("safetensors", "empty", safetensors([]))
    put("safetensors", "dtypes", safetensors(
        [("a", "F32", [2, 3], bytes(24)), ("b", "BF16", [3], bytes(6)), ("c", "I64", [], bytes(8)),
         ("d", "F8_E4M3", [0, 7], b""), ("e", "BOOL", [1, 1, 2], b"\0\1")], {"format": "pt"}))
    put("safetensors", "nan", safetensors([("x", "F16", [2], b"\0\x7e\0\x3c")]))


# The model of fuzz_payload.c: name, rows, columns (rows None: a vector).
LAYER = "model.layers.0."
MODEL = [
    ("model.embed_tokens.weight", 9, 8),
    (LAYER + "input_layernorm.weight", None, 8),
    (LAYER + "self_attn.q_proj.weight", 8, 8),
    (LAYER + "self_attn.k_proj.weight", 4, 8),
    (LAYER + "self_attn.v_proj.weight", 4, 8),
    (LAYER + "self_attn.q_norm.weight", None, 4),
    (LAYER + "self_attn.k_norm.weight", None, 4),
    (LAYER + "self_attn.o_proj.weight", 8, 8),
    (LAYER + "post_attention_layernorm.weight", None, 8),
    (LAYER + "mlp.gate_proj.weight", 12, 8),
    (LAYER + "mlp.up_proj.weight", 12, 8),
    (LAYER + "mlp.down_proj.weight", 8, 12),
    ("model.norm.weight", None, 8),
]
ONE = struct.pack("<e", 1.0)
WEIGHTS_PER_BYTE = {"sign": 8, "ternary": 5, "q4": 2}


def plane(code, group, scale, rows, cols):
    n_scales = rows * (-(-cols // group) if group else 1)
    scales = ONE * n_scales if scale == "f16" else struct.pack("<ff", 0.5, 1.0625) + bytes(-(-6 * n_scales // 8))
    return scales + bytes(rows * -(-cols // WEIGHTS_PER_BYTE[code]))


def matrix(rows, cols, axis, bands, hadamard):
    """BANDS: (lines, code, group, scale, planes); lines None: the rest. The first bands take the first lines."""
    lines = rows if axis == "rows" else cols
    rest = lines - sum(band[0] or 0 for band in bands)
    line, body, mask, at, bits = f"{rows}x{cols} {axis}", b"", 0, 0, len(bands) - 1
    for index, (count, code, group, scale, planes) in enumerate(bands):
        count = rest if count is None else count
        line += f" {count} {'+'.join([code] * planes)}/{group}/{scale}"
        shape = (count, cols) if axis == "rows" else (count, rows) if code == "q4" else (rows, count)
        body += plane(code, group, scale, *shape) * planes
        mask |= sum(index << bits * k for k in range(at, at + count))
        at += count
    return line + (f" hadamard/{hadamard}" if hadamard else ""), mask.to_bytes(-(-bits * lines // 8), "little") + body


def payload(axis, bands, hadamard=0):
    tensors, metadata = [], {"format": "quern", "version": "2"}
    for name, rows, cols in MODEL:
        if rows is None:
            tensors.append((name, "F16", [cols], ONE * cols))
            continue
        metadata[name], data = matrix(rows, cols, axis, bands, hadamard)
        tensors.append((name, "U8", [len(data)], data))
    tensors.append(("quern.padding", "U8", [3], bytes(3)))
    return safetensors(tensors, metadata)


def make_payload():
    put("payload", "sign", payload("rows", [(None, "sign", 0, "f16", 1)]))
    put("payload", "rows", payload("rows", [(None, "sign", 4, "f16", 1), (2, "q4", 128, "f16", 1)]))
    put("payload", "columns", payload("columns", [(None, "ternary", 8, "log6", 1), (2, "ternary", 4, "log6", 2),
                                                  (1, "q4", 128, "f16", 1)], 4))
    put("payload", "columns-f16", payload("columns", [(3, "q4", 3, "log6", 1), (None, "sign", 0, "f16", 2)]))


def make_config():
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 9, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": True, "torch_dtype": "float16",
        "eos_token_id": [1, 2],
    }
    put("config", "qwen3", json.dumps(config))
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    put("config", "yarn", json.dumps({**config, "rope_scaling": yarn}))
    now = {key: value for key, value in config.items() if key not in ("rope_theta", "torch_dtype")}
    now |= {"dtype": "bfloat16", "rope_parameters": {**yarn, "rope_theta": 1e6, "attention_factor": 1.5}}
    put("config", "rope_parameters", json.dumps(now))
    qwen2 = {**config, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True,
             "sliding_window": 8, "max_window_layers": 1, "layer_types": ["full_attention", "sliding_attention"]}
    del qwen2["head_dim"]
    put("config", "qwen2", json.dumps(qwen2))


def byte_letters():
    """The printable letter that byte-level BPE gives each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = (b for b in range(256) if b not in plain)
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
              r"|\s+(?!\S)|\s+")


def tokenizer(merges, split=QWEN_SPLIT):
    letters = byte_letters()
    tokens = [letters[b] for b in sorted(letters)] + ["".join(pair) for pair in merges]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": len(tokens) + i, "content": text, "special": i == 0, **flags}
                         for i, text in enumerate(("<|endoftext|>", "<|im_start|>"))],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}, byte_level]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [list(pair) for pair in merges]},
    }


def make_tokenizer():
    merges = [("a", "a"), ("i", "t"), ("aa", "aa"), ("\u0120", "it")]
    put("tokenizer", "pairs", json.dumps(tokenizer(merges)))
    spaced = tokenizer(merges[:2], r"\p{L}+|\s+|[^\s\p{L}]+")
    spaced["model"]["merges"] = [" ".join(pair) for pair in merges[:2]]
    put("tokenizer", "strings", json.dumps(spaced, ensure_ascii=False))


def make_documents():
    put("documents", "jsonl", '{"text": "one"}\n\n{"text": "t\\u0000wo \\ud83d\\ude42", "id": 3}\n"three"\n')
    put("documents", "text", "first\n<|endoftext|>\nsecond \u00e9\n")
    put("documents", "invalid", b"\xff\xc3(\xed\xa0\x80 {\n<|endoftext|>\r\n")


def make_store():
    members = [("config.json", b"{}"), ("model/w.bin", bytes(300)), ("model/e", b""), ("d/", b"")]
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for member, data in members:
                archive.writestr(zipfile.ZipInfo(member), data, compress_type=method)
        put("store", name + ".zip", out.getvalue())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        with archive.open(zipfile.ZipInfo("big"), "w", force_zip64=True) as member:
            member.write(b"content")
        archive.comment = b"a comment"
    put("store", "zip64.zip", out.getvalue())


if __name__ == "__main__":
    for make in (make_safetensors, make_payload, make_config, make_tokenizer, make_documents, make_store):
        make()
