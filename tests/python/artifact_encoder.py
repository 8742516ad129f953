"""An encoder of docs/format.md that shares nothing with Quern: random codes in, payload files and exact weights out."""

import json
import math
import zlib

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


class Band:
    """Lines of one codec: a share of all lines (None: the rest), code, columns per scale, scale code and planes."""

    def __init__(self, code, group, scale="f16", planes=1, share=None):
        self.code, self.group, self.scale, self.planes, self.share = code, group, scale, planes, share

    def __str__(self):
        return f"{'+'.join([self.code] * self.planes)}/{self.group}/{self.scale}"


def six_bits(numbers):
    """Numbers below 64 as one stream of bits, least significant first."""
    bits = (np.asarray(numbers, np.int64)[:, None] >> np.arange(6) & 1).astype(np.uint8)
    return np.packbits(bits.flatten(), bitorder="little").tobytes()


def log6_values(base, ratio):
    values = [float(np.float32(base))]
    for _ in range(63):
        values.append(values[-1] * float(np.float32(ratio)))
    return np.array(values, np.float64).astype(np.float32).astype(np.float16)


def random_plane(rng, band, rows, cols):
    """(bytes, exact float32 weights [rows, cols])."""
    largest = LARGEST[band.code]
    q = rng.integers(-largest, largest + 1, (rows, cols))
    if band.code == "sign":
        q = np.where(q == 0, 1, q)
    width = band.group or cols
    groups = -(-cols // width)
    if band.scale == "log6":
        base, ratio = np.float32(0.01 + 0.01 * rng.random()), np.float32(1.02 + 0.05 * rng.random())
        numbers = rng.integers(0, 64, rows * groups)
        stored = base.tobytes() + ratio.tobytes() + six_bits(numbers)
        scales = log6_values(base, ratio)[numbers].reshape(rows, groups)
    else:
        scales = (0.02 + 0.05 * rng.random((rows, groups))).astype(np.float16)
        stored = scales.tobytes()
    weights = np.repeat(scales.astype(np.float32), width, axis=1)[:, :cols] * q.astype(np.float32)
    return stored + pack(band.code, q).tobytes(), weights


def rotation(cols, block):
    """S [cols, cols] in double: W S is what the codes of a rotated matrix stand for."""
    h = np.arange(cols, dtype=np.uint64) * np.uint64(0x9E3779B1) % np.uint64(1 << 32)
    h ^= h >> np.uint64(15)
    h = h * np.uint64(0x85EBCA77) % np.uint64(1 << 32)
    signs = np.where(h >= 1 << 31, -1.0, 1.0)
    hadamard = np.ones((1, 1))
    while len(hadamard) < block:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    return signs[:, None] * np.kron(np.eye(cols // block), hadamard) / math.sqrt(block)


def random_matrix(rng, shape, bands, axis="rows", hadamard=0, entropy=False, scaled=False):
    """(metadata line, bytes, weights) of a matrix with these bands, exact in float32 unless it is rotated."""
    rows, cols = shape[0], math.prod(shape[1:])
    lines = rows if axis == "rows" else cols
    counts = [int(round(band.share * lines)) if band.share is not None else None for band in bands]
    rest = lines - sum(count for count in counts if count is not None)
    counts = [rest if count is None else count for count in counts]
    bands, counts = zip(*((band, count) for band, count in zip(bands, counts) if count))
    if len(bands) == 1:
        axis = "rows"
        counts = (rows,)
    band_of = rng.permutation(np.repeat(np.arange(len(bands)), counts))
    weights, stored = np.empty((rows, cols), np.float32), b""
    if len(bands) > 1:
        width = len(bands) - 1
        stored += np.packbits((band_of[:, None] >> np.arange(width) & 1).astype(np.uint8).flatten(),
                              bitorder="little").tobytes()
    if scaled:
        factors = (0.5 + rng.random(cols)).astype(np.float16)
        stored += factors.tobytes()
    for index, (band, count) in enumerate(zip(bands, counts)):
        where = np.flatnonzero(band_of == index)
        sideways = axis == "columns" and band.code == "q4"
        size = (count, cols) if axis == "rows" else (count, rows) if sideways else (rows, count)
        total = np.zeros(size, np.float32)
        for plane in range(band.planes):
            data, values = random_plane(rng, band, *size)
            stored += data
            total = total + values if plane else values
        if axis == "rows":
            weights[where] = total
        else:
            weights[:, where] = total.T if sideways else total
    line = f"{rows}x{cols} {axis}" + "".join(f" {count} {band}" for band, count in zip(bands, counts))
    if scaled:
        line += " column-scales"
        weights *= factors.astype(np.float32)
    if hadamard:
        line += f" hadamard/{hadamard}"
        weights = (weights.astype(np.float64) @ rotation(cols, hadamard).T).astype(np.float32)
    stream = zlib.compress(stored)
    if entropy and len(stream) < len(stored):
        line, stored = f"{line} zlib/{len(stream)}", stream
    return line, np.frombuffer(stored, np.uint8).copy(), weights.reshape(shape)


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
    return {"format": "quern", "version": "2", **lines}
