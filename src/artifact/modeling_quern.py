# SPDX-License-Identifier: Apache-2.0
"""Loads a Quern artifact (format 2) as a stock transformers model.

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

Packed codes are unpacked row block by row block, straight into full-size parameters on their device: beside the model
itself only one block and one matrix's packed 4-bit columns are ever in memory, of a zlib stream the packed matrix. Needs torch and transformers (4.57 or later), nothing else.
"""

import copy
import json
import math
import os
import re
import struct
import zlib

import torch
import transformers
from torch import nn
from transformers.utils import cached_file

FORMAT = 2
BLOCK_WEIGHTS = 1 << 20  # unpacked or copied in one step
STREAM_BYTES = 1 << 20  # of a zlib stream, inflated in one step
HEADER_LIMIT = 100_000_000  # of a safetensors file
STOCK_CLASSES = {  # by model_type; looked up by name because older libraries lack the newer ones
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_5": "Qwen3_5ForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
}
DTYPES = {"U8": torch.uint8, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
DENSE = ("F16", "BF16", "F32")
WEIGHTS_PER_BYTE = {"sign": 8, "ternary": 5, "q4": 2}
BAND = r" [0-9]+ (?:sign(?:\+sign)?|ternary(?:\+ternary)?|q4)/[0-9]+/(?:f16|log6)"
MATRIX = re.compile(rf"([0-9]+)x([0-9]+) (rows|columns)((?:{BAND}){{1,3}})( column-scales)?(?: hadamard/([0-9]+))?(?: zlib/([0-9]+))?")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class Payload:
    """One safetensors file: a checked table of tensors, read without mapping the file into memory."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, "rb", buffering=0)
        self.buffer = bytearray(8)
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def close(self):
        self.file.close()

    def fail(self, message):
        raise ValueError(f"{self.path}: {message}")

    def _read_header(self):
        size = os.fstat(self.file.fileno()).st_size
        if size < 8:
            self.fail("too short for a safetensors file")
        length = int.from_bytes(self._fill(0, 8), "little")
        if length > min(size - 8, HEADER_LIMIT):
            self.fail(f"header of {length} bytes in a file of {size}")
        try:
            table = json.loads(bytes(self._fill(8, length)))
        except ValueError as error:
            self.fail(f"header is not JSON: {error}")
        if not isinstance(table, dict) or not isinstance(table.get("__metadata__"), dict):
            self.fail("header has no __metadata__")
        self.metadata = table.pop("__metadata__")
        if self.metadata.get("format") != "quern" or self.metadata.get("version") != str(FORMAT):
            self.fail(f"not a Quern payload of version {FORMAT}")
        self.start = 8 + length
        self.unread = set(table) - {"quern.padding"}
        self.tensors = {name: self._entry(name, entry) for name, entry in table.items()}
        end = 0
        for name, (_, _, first, last) in sorted(self.tensors.items(), key=lambda item: item[1][2:]):
            if first != end:
                self.fail(f"{name}: data at {first}, expected at {end}")
            end = last
        if self.start + end != size:
            self.fail(f"{size} bytes, expected {self.start + end}")

    def _entry(self, name, entry):
        """(dtype, shape, first byte, end byte) of a tensor, checked against each other."""
        try:
            kind, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            whole = all(type(n) is int and n >= 0 for n in (*shape, first, last))
            sound = whole and last - first == math.prod(shape) * DTYPES[kind].itemsize
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            self.fail(f"{name}: dtype, shape and offsets do not agree: {entry}")
        return kind, shape, first, last

    def _fill(self, position, count):
        """COUNT bytes of the file in the reused buffer; valid until the next call."""
        if len(self.buffer) < count:
            self.buffer = bytearray(count)
        view, done = memoryview(self.buffer)[:count], 0
        self.file.seek(position)
        while done < count:
            got = self.file.readinto(view[done:])
            if not got:
                self.fail("the file ends early")
            done += got
        return view

    def expect(self, name, kinds, shape):
        """Refuses the file unless it has tensor NAME with one of these dtypes and this shape."""
        found = self.tensors.get(name)
        if found is None:
            self.fail(f"{name} is missing")
        if found[0] not in kinds or found[1] != tuple(shape):
            self.fail(f"{name}: {found[0]} {list(found[1])}, expected {' or '.join(kinds)} {list(shape)}")
        self.unread.discard(name)

    def items(self, name, first, last):
        """Items [first, last) of a tensor seen as flat; valid until the next read."""
        kind, _, start, _ = self.tensors[name]
        dtype = DTYPES[kind]
        view = self._fill(self.start + start + first * dtype.itemsize, (last - first) * dtype.itemsize)
        return torch.frombuffer(view, dtype=dtype) if len(view) else torch.empty(0, dtype=dtype)


class Inflated:
    """A matrix that is stored as a zlib stream: its block in memory, read as if the payload held it."""

    def __init__(self, payload, name, stream_bytes):
        self.payload, self.stream_bytes, self.block, self.fail = payload, stream_bytes, bytearray(), payload.fail

    def expect(self, name, kinds, shape):
        """Inflates the stream; refuses one that does not hold exactly the bytes of this shape."""
        size, stream = shape[0], zlib.decompressobj()
        if not size // 1032 < self.stream_bytes < size:
            self.fail(f"{name}: a zlib stream of {self.stream_bytes} bytes for {size}")
        self.payload.expect(name, kinds, (self.stream_bytes,))
        try:
            for first in range(0, self.stream_bytes, STREAM_BYTES):
                piece = self.payload.items(name, first, min(self.stream_bytes, first + STREAM_BYTES))
                self.block += stream.decompress(piece.numpy(), size + 1 - len(self.block))
                if len(self.block) > size:
                    break
        except zlib.error as error:
            self.fail(f"{name}: {error}")
        if len(self.block) != size or not stream.eof or stream.unused_data:
            self.fail(f"{name}: its zlib stream does not hold {size} bytes and end there")

    def items(self, _name, first, last):
        """As a payload's."""
        view = memoryview(self.block)[first:last]
        return torch.frombuffer(view, dtype=torch.uint8) if len(view) else torch.empty(0, dtype=torch.uint8)


class Plane:
    """One array of codes with its scales: a stretch of the payload, from byte START of tensor NAME on."""

    def __init__(self, payload, name, start, code, group, scale, rows, cols):
        self.payload, self.name, self.code, self.scale = payload, name, code, scale
        self.rows, self.cols, self.group = rows, cols, min(group or cols, cols)
        self.groups, self.row_bytes = -(-cols // self.group), -(-cols // WEIGHTS_PER_BYTE[code])
        self.grid = start
        self.scales = start + (8 if scale == "log6" else 0)
        self.codes = self.scales + (2 * rows * self.groups if scale == "f16" else (6 * rows * self.groups + 7) // 8)
        self.end = self.codes + rows * self.row_bytes
        self.table = None  # values of log6 scales, once they were read

    def read_scales(self, first, last, dtype, device):
        """[last - first, groups] scales of stored rows; FIRST is a multiple of four."""
        if self.scale == "log6":
            if self.table is None:
                self.table = self.log6_table().to(device, dtype)
            start, end = 6 * first * self.groups // 8, (6 * last * self.groups + 7) // 8
            stream = self.payload.items(self.name, self.scales + start, self.scales + end).to(device, copy=True)
            triples = nn.functional.pad(stream, (0, -len(stream) % 3)).view(-1, 3).int()
            word = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
            index = (word[:, None] >> torch.tensor([0, 6, 12, 18], dtype=torch.int32, device=device)) & 63
            count = (last - first) * self.groups
            if index.flatten()[count:].any():
                self.payload.fail(f"{self.name}: padding bits of scales are not 0")
            return self.table.index_select(0, index.flatten()[:count]).view(-1, self.groups)
        stored = self.payload.items(self.name, self.scales + 2 * first * self.groups, self.scales + 2 * last * self.groups)
        scales = stored.clone().view(torch.float16)
        if not (scales.isfinite() & (scales >= 0)).all():
            self.payload.fail(f"{self.name}: a scale is negative or not finite between stored rows {first} and {last}")
        return scales.to(device, dtype).view(-1, self.groups)

    def log6_table(self):
        """base * ratio^k for k below 64, by repeated multiplication in double, rounded to float32 and to float16."""
        base, ratio = struct.unpack("<ff", self.payload.items(self.name, self.grid, self.grid + 8).numpy().tobytes())
        values = [base]
        for _ in range(63):
            values.append(values[-1] * ratio)
        table = torch.tensor(values, dtype=torch.float64).float().half()
        if not (base > 0 and 1 <= ratio < math.inf and values[-1] <= 65504 and (table > 0).all()):
            self.payload.fail(f"{self.name}: scales from {base} in steps of {ratio}")
        return table

    def read_codes(self, first, last, device):
        """[last - first, row_bytes] packed codes of stored rows."""
        start = self.codes + first * self.row_bytes
        codes = self.payload.items(self.name, start, self.codes + last * self.row_bytes)
        if _illegal(self.code, codes):
            self.payload.fail(f"{self.name}: illegal {self.code} code between stored rows {first} and {last}")
        return codes.to(device, copy=True).view(-1, self.row_bytes)


class Band:
    """Lines of a matrix that share a codec; PLANES of [stored rows, stored columns]."""

    def __init__(self, payload, name, start, words, rows, cols, by_rows):
        self.count = int(words[0])
        codes, group, scale = words[1].split("/")
        self.code, *more = codes.split("+")
        self.sideways = not by_rows and self.code == "q4"  # stored column by column
        shape = (self.count, cols) if by_rows else (self.count, rows) if self.sideways else (rows, self.count)
        self.planes = []
        for code in (self.code, *more):
            self.planes.append(Plane(payload, name, start, code, int(group), scale, *shape))
            start = self.planes[-1].end
        self.end = start
        self.lines = None  # which they are, ascending


class Columns:
    """A band stored column by column: its packed codes, kept while rows of the matrix are taken out of them."""

    def __init__(self, plane, decoder):
        self.table, self.group = decoder.tables["q4"], plane.group
        self.scales = plane.read_scales(0, plane.rows, decoder.compute, decoder.device)
        self.codes = plane.read_codes(0, plane.rows, decoder.device)

    def rows(self, first, last):
        """[last - first, columns] weights; FIRST is even."""
        codes = self.codes[:, first // 2:(last + 1) // 2].int()
        weights = nn.functional.embedding(codes, self.table).flatten(1)[:, :last - first]
        groups = torch.arange(first, last, device=codes.device) // self.group
        return (weights * self.scales.index_select(1, groups)).t()


class Decoder:
    """Unpacks tensors of one payload file into parameters of one dtype on one device."""

    def __init__(self, dtype, device, compute=None):
        self.dtype, self.device = dtype, device
        # A product of an fp16 scale and a code is exact in float32; float16 rounds it once either way.
        self.compute = compute or (torch.float16 if dtype == torch.float16 else torch.float32)
        self.tables = {code: _table(code).to(device, self.compute) for code in WEIGHTS_PER_BYTE}

    def dense(self, payload, name, shape):
        """A tensor stored as it is."""
        payload.expect(name, DENSE, shape)
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
        flat = out.view(-1)
        for first in range(0, flat.numel(), BLOCK_WEIGHTS):
            last = min(flat.numel(), first + BLOCK_WEIGHTS)
            flat[first:last].copy_(payload.items(name, first, last))
        return out

    def matrix(self, payload, name, shape):
        """A packed tensor: bands of rows or of columns, perhaps with scales of columns, perhaps rotated."""
        parts = MATRIX.fullmatch(payload.metadata[name])
        if parts is None:
            payload.fail(f"{name}: not a matrix description: {payload.metadata[name]!r}")
        rows, cols, block = int(parts[1]), int(parts[2]), int(parts[6] or 0)
        if rows < 1 or cols < 1 or (rows, cols) != (shape[0], math.prod(shape[1:])):
            payload.fail(f"{name}: {rows}x{cols}, the model has {list(shape)}")
        if parts[6] and (block < 2 or block & (block - 1) or cols % block):
            payload.fail(f"{name}: rotated blocks of {block} of {cols} columns")
        by_rows = parts[3] == "rows"
        words, lines = parts[4].split(), rows if by_rows else cols
        counts = [int(count) for count in words[::2]]
        if min(counts) < 1 or sum(counts) != lines or (len(counts) == 1 and not by_rows):
            payload.fail(f"{name}: bands of {counts} of {lines} {parts[3]}")
        bits = len(counts) - 1  # of the mask, for each line
        source = Inflated(payload, name, int(parts[7])) if parts[7] else payload
        mask_end = (lines * bits + 7) // 8
        end, bands = mask_end + (2 * cols if parts[5] else 0), []
        for k in range(len(counts)):
            bands.append(Band(source, name, end, words[2 * k:2 * k + 2], rows, cols, by_rows))
            end = bands[-1].end
        source.expect(name, ("U8",), (end,))
        self._find_lines(source, name, bands, lines, bits)
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
        steps, exact = [], self
        if parts[5]:
            steps.append(ColumnScales(source, name, mask_end, cols, self.device))
            exact = Decoder(self.dtype, self.device, torch.float32)  # float16 would round twice
        if block:
            steps.append(Rotation(cols, block, self.device))
        (exact._by_rows if by_rows else exact._by_columns)(bands, out.view(rows, cols), steps)
        return out

    def _find_lines(self, payload, name, bands, lines, bits):
        """Reads the mask: the lines of each band."""
        if not bits:
            bands[0].lines = torch.arange(lines, device=self.device)
            return
        mask = payload.items(name, 0, (lines * bits + 7) // 8)
        per_byte = 8 // bits
        shifts = bits * torch.arange(per_byte, dtype=torch.uint8)
        band_of = (mask[:, None] >> shifts & (1 << bits) - 1).flatten()
        found = torch.bincount(band_of[:lines], minlength=len(bands)).tolist()
        if found != [band.count for band in bands] or band_of[lines:].any():
            payload.fail(f"{name}: the mask counts {found} lines, expected {[band.count for band in bands]}")
        for k, band in enumerate(bands):
            band.lines = (band_of[:lines] == k).nonzero().flatten().to(self.device)

    def _by_rows(self, bands, flat, steps):
        """Each band's stored rows are rows of the matrix, before STEPS."""
        for band in bands:
            for first, last in _blocks(band.count, flat.shape[1]):
                where = band.lines[first:last]
                begin, end = int(where[0]), int(where[-1]) + 1
                direct = end - begin == len(where) and self.compute == self.dtype and not steps
                out = self._rows(band, first, last, flat[begin:end] if direct else None)
                for step in steps:
                    out = step.undo(out)
                if not direct:
                    flat.index_copy_(0, where, out.to(self.dtype))

    def _by_columns(self, bands, flat, steps):
        """A block of rows of the matrix is put together from all bands."""
        cols = flat.shape[1]
        sideways = {band: Columns(band.planes[0], self) for band in bands if band.sideways}
        for first, last in _blocks(*flat.shape):
            out = torch.empty(last - first, cols, dtype=self.compute, device=self.device)
            for band in bands:
                values = sideways[band].rows(first, last) if band.sideways else self._rows(band, first, last)
                out.index_copy_(1, band.lines, values)
            for step in steps:
                out = step.undo(out)
            flat[first:last].copy_(out)

    def _rows(self, band, first, last, out=None):
        """Stored rows [first, last) of a band, put into OUT where that is given."""
        for index, plane in enumerate(band.planes):
            codes = plane.read_codes(first, last, self.device).int()  # int32 indices are several times faster than int64
            scales = plane.read_scales(first, last, self.compute, self.device)
            weights = nn.functional.embedding(codes, self.tables[plane.code]).flatten(1)[:, :plane.cols]
            if out is None:
                out = torch.empty_like(weights, memory_format=torch.contiguous_format)
            if index == 0:
                _scale(weights, scales, plane.group, out)
            else:
                more = torch.empty_like(out)
                _scale(weights, scales, plane.group, more)
                out += more
        return out


class ColumnScales:
    """Factors of the columns of a stored matrix."""

    def __init__(self, source, name, start, cols, device):
        scales = source.items(name, start, start + 2 * cols).clone().view(torch.float16)
        if not (scales.isfinite() & (scales > 0)).all():
            source.fail(f"{name}: a column scale is not a finite positive number")
        self.scales = scales.to(device, torch.float32)

    def undo(self, rows):
        """[n, cols] in float32."""
        return rows * self.scales


class Rotation:
    """The transpose of the signed Walsh-Hadamard transform of blocks of columns."""

    def __init__(self, cols, block, device):
        self.block = block
        h = torch.arange(cols) * 0x9E3779B1 & 0xFFFFFFFF
        h = (h ^ h >> 15) * 0x85EBCA77 & 0xFFFFFFFF
        self.signs = torch.where(h >= 1 << 31, -1.0, 1.0).to(device) * torch.tensor(1 / math.sqrt(block), device=device)
        self.hadamard = torch.ones(1, 1, device=device)
        while len(self.hadamard) < 32:
            top = torch.cat((self.hadamard, self.hadamard), 1)
            self.hadamard = torch.cat((top, torch.cat((self.hadamard, -self.hadamard), 1)))

    def undo(self, rows):
        """[n, cols] in float32. The matrix of a block is a Kronecker product; factors of 32 are quickest as products."""
        x, inner = rows.float(), min(32, self.block)
        x = x.reshape(-1, inner) @ self.hadamard[:inner, :inner]
        while inner < self.block:
            size = min(32, self.block // inner)
            x = self.hadamard[:size, :size] @ x.reshape(-1, size, inner)
            inner *= size
        return x.view(rows.shape) * self.signs


def _blocks(rows, cols):
    """Row ranges of about BLOCK_WEIGHTS weights, each beginning at a multiple of four."""
    step = max(4, BLOCK_WEIGHTS // cols // 4 * 4)
    return ((first, min(rows, first + step)) for first in range(0, rows, step))


def _scale(weights, scales, group, out):
    """out = weights * scales, a scale for each GROUP columns (the last group may be shorter)."""
    whole = weights.shape[1] // group
    edge = whole * group
    torch.mul(weights[:, :edge].unflatten(1, (whole, group)), scales[:, :whole, None],
              out=out[:, :edge].unflatten(1, (whole, group)))
    if edge < weights.shape[1]:
        torch.mul(weights[:, edge:], scales[:, whole:], out=out[:, edge:])


def _table(code):
    """[256, weights per byte]: the codes each byte value holds, first column first."""
    byte = torch.arange(256)[:, None]
    if code == "sign":
        return (byte >> torch.arange(8) & 1) * 2 - 1
    if code == "ternary":
        return byte // 3 ** torch.arange(5) % 3 - 1
    nibble = torch.cat((byte & 15, byte >> 4), 1)
    return (nibble ^ 8) - 8


def _illegal(code, codes):
    """Whether packed bytes hold a value no encoder writes: a base-3 byte over 242, a nibble of -8."""
    if code == "ternary":
        return bool((codes > 242).any())
    return code == "q4" and bool((((codes & 15) == 8) | ((codes >> 4) == 8)).any())


def _dtype(*wishes):
    """The first wish that names a dtype; "auto" and None name none."""
    for wish in wishes:
        if isinstance(wish, str):
            wish = getattr(torch, wish.removeprefix("torch."), None)
        if isinstance(wish, torch.dtype):
            return wish
    return torch.float32


def _device(device_map):
    """The one device that a device_map names; without one the current accelerator, where it will be scored."""
    if isinstance(device_map, dict):
        places = set(device_map.values())
        if len(places) != 1:
            raise ValueError(f"a Quern artifact loads onto one device, the device_map names {len(places)}: {device_map}")
        device_map = places.pop()
    if device_map in (None, "auto", "balanced", "balanced_low_0", "sequential"):
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device("cuda", device_map) if isinstance(device_map, int) else torch.device(device_map)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device_map names {device}, but no CUDA device is available")
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    return device


def _stock_class(config):
    name = STOCK_CLASSES.get(config.model_type)
    stock = getattr(transformers, name, None) if name else None
    if stock is None:
        raise ImportError(f"transformers {transformers.__version__} has no model class for {config.model_type!r}")
    return stock


def _skeleton(stock, config, dtype, device):
    """The stock model with parameters that take no memory, and real buffers."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = stock(config)
    finally:
        torch.set_default_dtype(default)
    model.tie_weights()
    # Buffers that are computed, not stored (rotary tables), come only from building their module for real.
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            with torch.device(device):
                fresh = type(module)(module.config)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, fresh)
    return model


@torch.no_grad()
def _load(model, payloads, dtype, device):
    """Fills every parameter of the skeleton; a tensor too few or too many is an error."""
    decoder = Decoder(dtype, device)
    for name, parameter in list(model.named_parameters()):
        payload = next((p for p in payloads if name in p.metadata or name in p.tensors), None)
        if payload is None:
            raise ValueError(f"no payload file holds the parameter {name}")
        decode = decoder.matrix if name in payload.metadata else decoder.dense
        owner, _, leaf = name.rpartition(".")
        value = decode(payload, name, tuple(parameter.shape))
        model.get_submodule(owner)._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    for payload in payloads:
        if payload.unread:
            payload.fail(f"{min(payload.unread)}: the model has no use for it")
    model.tie_weights()


class QuernForCausalLM:
    """Not a module: the class methods that the Auto classes call. They return the stock model."""

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModelForCausalLM"):
        """Called for every remote class; nothing to keep, since a saved model is an ordinary one."""

    @classmethod
    def _from_config(cls, config, **kwargs):
        return _stock_class(config)._from_config(config.get_text_config(), **kwargs)

    @classmethod
    def from_pretrained(cls, path, *args, config=None, dtype=None, torch_dtype=None, device_map=None,
                        attn_implementation=None, output_loading_info=False, **kwargs):
        """The stock model with the unpacked weights, in evaluation mode.

        PATH is a folder or a Hub name; DEVICE_MAP may name one device in any form. The parameters are in DTYPE (or
        TORCH_DTYPE, else what config.json says) and need no gradient.
        """
        hub = {key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}
        if config is None:
            config = transformers.AutoConfig.from_pretrained(path, **hub)
        settings = getattr(config, "quern", None)
        if not isinstance(settings, dict) or settings.get("format") != FORMAT:
            raise ValueError(f"{path}: config.json describes no Quern artifact of format {FORMAT}: quern={settings}")
        stock = _stock_class(config)
        config = copy.deepcopy(config.get_text_config())
        for key in ("auto_map", "quern"):  # the result is a stock model and is saved as one
            if hasattr(config, key):
                delattr(config, key)
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        dtype = _dtype(dtype, torch_dtype, getattr(config, "dtype", None), getattr(config, "torch_dtype", None))
        config.dtype = dtype
        config.name_or_path = os.fspath(path)
        device = _device(device_map)
        model = _skeleton(stock, config, dtype, device)

        payloads = []
        try:
            for name in settings["payload"]:
                if os.path.basename(name) != name:
                    raise ValueError(f"{path}: payload {name!r} is not a file of the artifact")
                payloads.append(Payload(cached_file(path, name, **hub)))
            _load(model, payloads, dtype, device)
        finally:
            for payload in payloads:
                payload.close()

        try:
            model.generation_config = transformers.GenerationConfig.from_pretrained(path, **hub)
        except OSError:
            pass  # the file is optional
        model.eval()
        if not output_loading_info:
            return model
        return model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
