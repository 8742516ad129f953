"""Archives and artifacts that are hostile or damaged: one clear line, for every command that opens a model."""

import json
import stat
import struct
import warnings
import zipfile

import support

PAYLOAD = "payload-00001-of-00001.safetensors"
MATRIX = "model.layers.1.mlp.up_proj.weight"


def parts_of(line):
    """Offsets (scales, codes) of each band of a matrix of rows with fp16 scales, and its bytes."""
    shape, axis, *words = line.split()
    rows, cols = (int(n) for n in shape.split("x"))
    assert axis == "rows"
    offset, offsets = -(-rows // 8) if len(words) > 2 else 0, []
    for count, band in zip(words[::2], words[1::2]):
        code, group, scale = band.split("/")
        assert scale == "f16"
        codes = offset + 2 * int(count) * -(-cols // (int(group) or cols))
        offsets.append((offset, codes))
        offset = codes + int(count) * -(-cols // {"ternary": 5, "q4": 2}[code])
    return offsets, offset


class Archives(support.CliTest):

    @classmethod
    def setUpClass(cls):
        warnings.simplefilter("ignore")  # of zipfile, about duplicate names

    def setUp(self):
        super().setUp()
        model = self.tiny()
        self.members = {path.name: path.read_bytes() for path in sorted(model.iterdir())}
        self.docs = self.write("docs.txt", "some text")

    def zip_of(self, *extra, without=()):
        members = [(name, data) for name, data in self.members.items() if name not in without]
        return support.write_zip(self.root / "model.zip", members + list(extra))

    def refuse(self, path, *words):
        for arguments in (("info", path), ("score", path, "--docs", self.docs, "--tokenizer", "byte"),
                          ("export", path, "--dense", "-o", self.root / "out")):
            self.assert_refused(*arguments, words=words)

    def test_a_good_one(self):
        self.quern("info", self.zip_of())

    def test_names_that_leave_the_archive(self):
        for name in ("../evil.json", "a/../../evil.json", "/etc/evil.json", "..\\evil.json", "\\evil.json",
                     "C:\\evil.json"):
            with self.subTest(name):
                self.refuse(self.zip_of((name, b"{}")), "evil.json")

    def test_links_and_devices(self):
        for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
            info = zipfile.ZipInfo("link.json")
            info.create_system, info.external_attr = 3, (kind | 0o777) << 16
            self.refuse(self.zip_of((info, b"/etc/passwd")), "link.json")

    def test_duplicates(self):
        for name in ("config.json", "model.safetensors"):
            self.refuse(self.zip_of((name, self.members[name])), "model.zip", "two members have one name")

    def test_damaged(self):
        data = self.zip_of().read_bytes()
        for bad in (data[:-30], data[:len(data) // 2], b"PK\5\6" + bytes(18), b"PK\3\4" + bytes(100), b""):
            self.refuse(self.write("bad.zip", bad), "bad.zip")

    def test_a_member_with_a_wrong_crc(self):
        path = self.zip_of()
        data = bytearray(path.read_bytes())
        at = data.index(b'"model_type": "qwen3"')
        data[at + 15] ^= 1
        path.write_bytes(data)
        self.refuse(path, "config.json")

    def test_sizes_that_lie(self):
        """A central directory that promises far more than there is."""
        path = self.zip_of()
        data = bytearray(path.read_bytes())
        at = data.rindex(b"PK\1\2")
        struct.pack_into("<II", data, at + 20, 0xfffffff0, 0xfffffff0)
        path.write_bytes(data)
        self.refuse(path, "model.zip")

    def test_encrypted(self):
        path = self.zip_of()
        data = bytearray(path.read_bytes())
        for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            data[data.index(magic) + offset] |= 1
        path.write_bytes(data)
        self.refuse(path, "config.json")

    def test_without_a_config(self):
        self.refuse(self.zip_of(without=("config.json",)), "config.json")


class Artifacts(support.CliTest):
    """One byte or one number of a finished artifact is changed."""

    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.folder = self.root / "artifact"
        self.compress(self.model, self.folder)
        self.docs = self.write("docs.txt", "some text")
        self.profile = self.write_json("profile.json", {"budget_bits": 32})
        self.payload = self.folder / PAYLOAD
        self.original = self.payload.read_bytes()

    def change(self, edit):
        """Writes the payload again with EDIT applied to (metadata, tensors), the padding left out."""
        metadata, tensors = support.read_safetensors(self.original)
        tensors.pop("quern.padding", None)
        edit(metadata, tensors)
        self.payload.write_bytes(support.safetensors(tensors, metadata))

    def refuse(self, *words):
        for arguments in (("info", self.folder), ("export", self.folder, "--dense", "-o", self.root / "out"),
                          ("score", self.folder, "--docs", self.docs, "--tokenizer", "byte")):
            self.assert_refused(*arguments, words=words)
        result = self.assert_rejected()
        self.assertTrue(result.startswith("validator_rejection=load error="), result)
        self.payload.write_bytes(self.original)

    def assert_rejected(self):
        result = self.quern("verify", self.folder, "--track", "ternary", "--profile", self.profile, code=1)
        self.assertEqual(result.err.count("\n"), 1)
        return result.err

    @staticmethod
    def set_bytes(name, index, value):
        def edit(_, tensors):
            dtype, shape, data = tensors[name]
            tensors[name] = (dtype, shape, data[:index] + value + data[index + len(value):])
        return edit

    def test_unchanged(self):
        self.change(lambda metadata, tensors: None)
        self.quern("info", self.folder)

    def parts(self):
        """(name, scales of the native rows, codes of the native rows, codes of the q4 rows) of a matrix with both."""
        metadata, _ = support.read_safetensors(self.original)
        name = next(name for name, line in metadata.items() if "q4" in line)
        (native, rescued), _ = parts_of(metadata[name])
        return name, *native, rescued[1]

    def test_illegal_codes(self):
        name, _, codes, rescued = self.parts()
        for offset, value, words in ((codes, b"\xf3", "illegal ternary code"), (codes, b"\xff", "at most 242"),
                                     (rescued, b"\x08", "illegal q4 code"), (rescued, b"\x81", "-7..7")):
            self.change(self.set_bytes(name, offset + 3, value))
            self.refuse(name, words)

    def test_illegal_scales(self):
        name, scales, *_ = self.parts()
        for value in (b"\x00\x7c", b"\x00\x7e", b"\x00\xbc"):  # infinity, NaN, -1
            self.change(self.set_bytes(name, scales + 4, value))
            self.refuse(name, "scale")

    def test_illegal_mask(self):
        name, *_ = self.parts()
        mask = support.read_safetensors(self.original)[1][name][2][0]
        self.change(self.set_bytes(name, 0, bytes([mask ^ 1])))
        self.refuse(name, "mask")

    def test_wrong_shapes(self):
        def two_dimensions(_, tensors):
            dtype, shape, data = tensors[MATRIX]
            tensors[MATRIX] = (dtype, [1, *shape], data)

        def short(_, tensors):
            dtype, (size,), data = tensors[MATRIX]
            tensors[MATRIX] = (dtype, [size - 1], data[:-1])

        def wide(_, tensors):
            dtype, shape, data = tensors[MATRIX]
            tensors[MATRIX] = ("F32", shape, data * 4)

        def missing(_, tensors):
            del tensors[MATRIX]

        def extra(_, tensors):
            tensors["model.extra.weight"] = ("U8", [1], b"\0")

        for edit, name in ((two_dimensions, MATRIX), (short, MATRIX), (wide, MATRIX), (missing, MATRIX),
                           (extra, "model.extra")):
            with self.subTest(edit.__name__):
                self.change(edit)
                self.refuse(name)

    def test_wrong_lines(self):
        for line in ("", "96x64", "96x64 rows", "96x64 rows 96 quinary/64/f16", "97x64 rows 97 ternary/64/f16",
                     "96x64 rows 96 ternary/-1/f16", "96x64 rows 97 ternary/64/f16", "96x64 rows 96 ternary/64/f16 0",
                     "96x64 columns 64 ternary/64/f16", "96x64 rows 96 ternary/64/f16 hadamard/3",
                     "99999999999999999999x64 rows 96 ternary/64/f16"):
            def edit(metadata, _, line=line):
                metadata[MATRIX] = line
            with self.subTest(line):
                self.change(edit)
                self.refuse(MATRIX)

    def test_version(self):
        def edit(metadata, _):
            metadata["version"] = "1"
        self.change(edit)
        self.refuse("version")
        config = self.folder / "config.json"
        value = json.loads(config.read_text())
        value["quern"]["format"] = 1
        config.write_text(json.dumps(value))
        self.refuse("config.json", "format")

    def test_payload_names(self):
        config = self.folder / "config.json"
        value = json.loads(config.read_text())
        for names in (["../artifact/" + PAYLOAD], [], ["absent.safetensors"], [PAYLOAD, PAYLOAD], PAYLOAD):
            value["quern"]["payload"] = names
            config.write_text(json.dumps(value))
            with self.subTest(names):
                self.refuse("")

    def test_changed_byte(self):
        """Still legal, so that only the digest can tell; the member is named."""
        data = bytearray(self.original)
        name, _, codes, _ = self.parts()
        _, tensors = support.read_safetensors(self.original)
        at = self.original.index(tensors[name][2]) + codes + 7
        data[at] = 0 if data[at] else 1
        self.payload.write_bytes(data)
        self.quern("info", self.folder)
        result = self.assert_rejected()
        self.assertIn(f"validator_rejection=manifest reason=payload_sha256 file={PAYLOAD} expected=", result)


if __name__ == "__main__":
    support.main()
