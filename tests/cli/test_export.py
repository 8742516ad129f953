"""quern export --dense: an ordinary checkpoint that holds the same weights."""

import json

import support


class Export(support.CliTest):

    def setUp(self):
        super().setUp()
        self.model = self.tiny()
        self.artifact = self.root / "a.zip"
        self.compress(self.model, self.artifact)

    def export(self, name, source=None, *options):
        report = self.quern_json("export", source or self.artifact, "--dense", "-o", self.root / name, *options)
        self.assertEqual(report["checkpoint"], str(self.root / name))
        return self.root / name

    def weights(self, folder):
        return support.read_safetensors((folder / "model.safetensors").read_bytes())[1]

    def test_an_ordinary_checkpoint(self):
        dense = self.export("dense")
        config = json.loads((dense / "config.json").read_text())
        self.assertEqual(config["model_type"], "qwen3")
        self.assertNotIn("auto_map", config)
        self.assertNotIn("quern", config)
        self.assertFalse((dense / "modeling_quern.py").exists())
        self.assertFalse((dense / "quern.json").exists())
        tensors = self.weights(dense)
        self.assertEqual({name: shape for name, (_, shape, _) in tensors.items()},
                         {name: shape for name, (_, shape, _) in support.TinyModel().tensors.items()})
        self.assertEqual({dtype for dtype, _, _ in tensors.values()}, {"F32"})

    def test_dtypes(self):
        for dtype, bytes_each in (("F32", 4), ("F16", 2), ("BF16", 2)):
            tensors = self.weights(self.export(dtype, None, "--dtype", dtype))
            for found, shape, data in tensors.values():
                self.assertEqual(found, dtype)
                self.assertEqual(len(data), bytes_each * shape[0] * (shape[1] if len(shape) == 2 else 1))
        self.quern("export", self.artifact, "--dense", "-o", self.root / "x", "--dtype", "I8", code=2)

    def test_a_checkpoint_is_copied(self):
        self.assertEqual(self.weights(self.export("copy", self.model, "--dtype", "BF16")), support.TinyModel().tensors)

    def test_same_bytes(self):
        one, two = self.export("one", None, "--threads", "1"), self.export("two", None, "--threads", "4")
        for path in one.iterdir():
            self.assertEqual(path.read_bytes(), (two / path.name).read_bytes())

    def test_output(self):
        arguments = ("export", self.artifact, "--dense", "-o")
        self.write("full/file", "kept")
        self.assert_refused(*arguments, self.root / "full", words=["full", "holds files"])
        self.assert_refused(*arguments, self.write("plain", "kept"), words=["plain", "is no folder"])
        self.assert_refused(*arguments, self.root / "none" / "x", words="none/x")
        (self.root / "empty").mkdir()
        self.export("empty")
        for n_bytes in (1024, 2000, 100000):
            self.assert_refused("export", self.model, "--dense", "-o", self.root / "out", words="out",
                                preexec_fn=support.limit_file_size(n_bytes))


if __name__ == "__main__":
    support.main()
