"""An encoder of docs/format.md that shares nothing with Quern: random codes in, payload files and exact weights out."""

import json
import math

import numpy as np

DTYPE_NAMES = {np.dtype(np.uint8): "U8", np.dtype(np.float16): "F16", np.dtype(np.float32): "F32"}
LARGEST = {"sign": 1, "ternary": 1, "q4": 7}


def pack(code, q):
    """Rows of packed bytes for integer codes q [rows, cols]."""
    per_byte = {"sign": 8, "ternary": 5, "q4": 2}[code]
    rows, cols = q.shape
    digits = {"sign": (q + 1) // 2, "ternary": q + 1, "q4": q & 15}[code]
    padded = np.zeros((rows, -(-cols // per_byte) * per_byte), np.int64)
    padded[:, :cols] = digits
    weight = {"sign": 2, "ternary": 3, "q4": 16}[code] ** np.arange(per_byte)
    return (padded.reshape(rows, -1, per_byte) * weight).sum(-1).astype(np.uint8)


def random_rows(rng, code, group, rows, cols):
    """(codes [rows, bytes], scales [rows, groups], exact float32 weights [rows, cols])."""
    largest = LARGEST[code]
    q = rng.integers(-largest, largest + 1, (rows, cols))
    if code == "sign":
        q = np.where(q == 0, 1, q)
    width = group or cols
    scales = (0.02 + 0.05 * rng.random((rows, -(-cols // width)))).astype(np.float16)
    weights = np.repeat(scales.astype(np.float32), width, axis=1)[:, :cols] * q.astype(np.float32)
    return pack(code, q), scales, weights


def random_matrix(rng, name, shape, native, rescue, n_rescued):
    """(metadata line, arrays, exact weights) of a matrix; native and rescue are (code, group)."""
    rows, cols = shape[0], math.prod(shape[1:])
    rescued = np.zeros(rows, bool)
    rescued[rng.permutation(rows)[:n_rescued]] = True
    weights = np.empty((rows, cols), np.float32)
    arrays = {}
    if n_rescued < rows:
        arrays["codes"], arrays["scales"], weights[~rescued] = random_rows(rng, *native, rows - n_rescued, cols)
    if n_rescued:
        arrays["rescue_mask"] = np.packbits(rescued, bitorder="little")
        arrays["rescue_codes"], arrays["rescue_scales"], weights[rescued] = random_rows(rng, *rescue, n_rescued, cols)
    line = "{}x{} {}/{} {}/{} {}".format(rows, cols, *native, *(rescue if n_rescued else ("none", 0)), n_rescued)
    return line, {f"{name}.{part}": array for part, array in arrays.items()}, weights.reshape(shape)


def bfloat16(values):
    """float32 values rounded to what 16 bits of bfloat16 hold, and those bits."""
    bits = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return (bits.astype(np.uint32) << 16).view(np.float32), bits


def safetensors_bytes(metadata, arrays):
    """A safetensors file; an array of uint16 stands for bfloat16."""
    header, data, end = {"__metadata__": metadata}, [], 0
    for name, array in arrays.items():
        kind = "BF16" if array.dtype == np.uint16 else DTYPE_NAMES[array.dtype]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        data.append(np.ascontiguousarray(array).tobytes())
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(data)


def payload_metadata(lines):
    return {"format": "quern", "version": "1", **lines}
