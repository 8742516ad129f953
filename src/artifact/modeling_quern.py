# SPDX-License-Identifier: Apache-2.0
"""Loads a Quern artifact (format 1) as a stock transformers model.

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

Packed codes are unpacked row block by row block, straight into full-size parameters on their device: beside the model
itself only one block is ever in memory. Needs torch and transformers (4.57 or later), nothing else.
"""

import copy
import json
import math
import os
import re

import torch
import transformers
from torch import nn
from transformers.utils import cached_file

FORMAT = 1
BLOCK_WEIGHTS = 1 << 20  # unpacked or copied in one step
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
MATRIX = re.compile(r"([0-9]+)x([0-9]+) (sign|ternary|q4)/([0-9]+) (none|sign|ternary|q4)/([0-9]+) ([0-9]+)")
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


class Decoder:
    """Unpacks tensors of one payload file into parameters of one dtype on one device."""

    def __init__(self, dtype, device):
        self.dtype, self.device = dtype, device
        # A product of an fp16 scale and a code is exact in float32; float16 rounds it once either way.
        self.compute = torch.float16 if dtype == torch.float16 else torch.float32
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
        """A packed tensor: native rows, and rescued rows where the mask has them."""
        parts = MATRIX.fullmatch(payload.metadata[name])
        if parts is None:
            payload.fail(f"{name}: not a matrix description: {payload.metadata[name]!r}")
        rows, cols, group, rescue_group, rescued = (int(parts[k]) for k in (1, 2, 4, 6, 7))
        if rows < 1 or cols < 1 or (rows, cols) != (shape[0], math.prod(shape[1:])):
            payload.fail(f"{name}: {rows}x{cols}, the model has {list(shape)}")
        if rescued > rows or (parts[5] == "none") != (rescued == 0):
            payload.fail(f"{name}: {rescued} rescued rows of {rows} in code {parts[5]}")
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
        flat = out.view(rows, cols)
        native_rows, rescue_rows = torch.arange(rows), None
        if rescued:
            mask = self._mask(payload, name, rows, rescued)
            native_rows, rescue_rows = (~mask).nonzero().flatten(), mask.nonzero().flatten()
            self._rows(payload, f"{name}.rescue_", parts[5], rescue_group, flat, rescue_rows)
        if rescued < rows:
            self._rows(payload, f"{name}.", parts[3], group, flat, native_rows)
        return out

    def _mask(self, payload, name, rows, rescued):
        """Which rows are rescued."""
        size = (rows + 7) // 8
        payload.expect(f"{name}.rescue_mask", ("U8",), (size,))
        bits = (payload.items(f"{name}.rescue_mask", 0, size)[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        bits = bits.flatten().bool()
        if bits[rows:].any() or int(bits.sum()) != rescued:
            payload.fail(f"{name}.rescue_mask: marks {int(bits.sum())} rows, expected {rescued} of {rows}")
        return bits[:rows]

    def _rows(self, payload, prefix, code, group, flat, where):
        """Unpacks the stored rows PREFIX{codes,scales} into the rows WHERE (ascending) of FLAT."""
        cols = flat.shape[1]
        group = min(group or cols, cols)
        groups, row_bytes = -(-cols // group), -(-cols // WEIGHTS_PER_BYTE[code])
        payload.expect(prefix + "codes", ("U8",), (len(where), row_bytes))
        payload.expect(prefix + "scales", ("F16",), (len(where), groups))
        step = max(1, BLOCK_WEIGHTS // cols)
        for first in range(0, len(where), step):
            last = min(len(where), first + step)
            scales = payload.items(prefix + "scales", first * groups, last * groups)
            if not (scales.isfinite() & (scales >= 0)).all():
                payload.fail(f"{prefix}scales: negative or not finite between rows {first} and {last}")
            scales = scales.to(self.device, self.compute, copy=True).view(-1, groups)
            codes = payload.items(prefix + "codes", first * row_bytes, last * row_bytes)
            if _illegal(code, codes):
                payload.fail(f"{prefix}codes: illegal {code} code between rows {first} and {last}")
            codes = codes.to(self.device).int()  # int32 indices are several times faster than int64
            weights = nn.functional.embedding(codes, self.tables[code]).view(last - first, -1)[:, :cols]
            self._store(weights, scales, group, flat, where[first:last])

    def _store(self, weights, scales, group, flat, where):
        """flat[where] = weights * scales, a scale for each GROUP columns (the last group may be shorter)."""
        first, last = int(where[0]), int(where[-1]) + 1
        direct = last - first == len(where) and self.compute == self.dtype
        out = flat[first:last] if direct else torch.empty_like(weights, memory_format=torch.contiguous_format)
        whole = weights.shape[1] // group
        edge = whole * group
        torch.mul(weights[:, :edge].unflatten(1, (whole, group)), scales[:, :whole, None],
                  out=out[:, :edge].unflatten(1, (whole, group)))
        if edge < weights.shape[1]:
            torch.mul(weights[:, edge:], scales[:, whole:], out=out[:, edge:])
        if not direct:
            flat.index_copy_(0, where.to(self.device), out.to(self.dtype))


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
