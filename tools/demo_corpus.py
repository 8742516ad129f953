#!/usr/bin/env python3
"""The text of the demo teacher: public-domain works as three Debian packages install them.

    python3 tools/demo_corpus.py --out DIR      writes train.txt, dev.txt and calibration.txt

    bible-kjv, bible-kjv-text   the King James Bible, a document a chapter
    jargon-text                 the Jargon File, cut at blank lines
    sqlite3-doc                 the SQLite manual, HTML turned into plain text, cut at blank lines

Nothing here depends on the order of files, on time or on a random state: which documents are held out is decided by
the hash of their text.
"""

import argparse
import gzip
import hashlib
import pathlib
import re
import subprocess
from html.parser import HTMLParser

PACKAGES = ("bible-kjv-text", "jargon-text", "sqlite3-doc")
SEPARATOR = "<|endoftext|>"

PIECE_CHARS = 4000  # long works are cut at the first blank line after this many characters
MIN_CHARS = 400  # shorter documents hold mostly headings
REPEAT_CHARS = 60  # a paragraph at least this long is kept only the first time it appears

DEV_PER_MILLE = 20  # share of the documents that is held out
CALIBRATION_PER_MILLE = 30  # share of the documents that is also stored as the calibration sample

# Pages made of links, and pages whose text repeats that of others.
SQLITE_SKIPPED = re.compile(r"crossref|_index|^requirements|^syntaxdiagrams|^capi3ref|^sitemap|^hlr\d|^mingw")


class _Text(HTMLParser):
    """Plain text of an HTML page: blocks on their own lines, scripts, drawings and navigation dropped."""

    BLOCKS = frozenset("p div h1 h2 h3 h4 h5 h6 li ul ol dl dt dd table tr pre blockquote br hr center".split())
    DROPPED = frozenset("script style svg head button form".split())

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts = []
        self.dropped = 0
        self.preformatted = 0

    def handle_starttag(self, tag, attrs):
        self.dropped += tag in self.DROPPED
        self.preformatted += tag == "pre"
        if tag in self.BLOCKS:
            self.parts.append("\n" if tag in ("br", "tr") else "\n\n")

    def handle_endtag(self, tag):
        self.dropped -= tag in self.DROPPED and self.dropped > 0
        self.preformatted -= tag == "pre" and self.preformatted > 0
        if tag in self.BLOCKS:
            self.parts.append("\n" if tag in ("br", "tr", "li") else "\n\n")

    def handle_data(self, data):
        if not self.dropped:
            self.parts.append(data if self.preformatted else re.sub(r"\s+", " ", data))


def plain_text(html):
    """The text of an HTML page with at most one blank line between paragraphs."""
    parser = _Text()
    parser.feed(html)
    lines = [line.rstrip() for line in "".join(parser.parts).splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def bible_documents():
    """A document a chapter: its name on the first line, then a verse a line."""
    text = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], check=True, stdout=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, encoding="utf-8").stdout
    chapters = {}
    for line in text.splitlines():
        place, verse = line.split(" ", 1)
        chapters.setdefault(place.split(":")[0], []).append(verse.strip())
    return [chapter + "\n\n" + "\n".join(verses) + "\n" for chapter, verses in chapters.items()]


def _pieces(text):
    """Documents of about PIECE_CHARS characters, cut at blank lines."""
    piece, size = [], 0
    for paragraph in re.split(r"\n\s*\n", text):
        piece.append(paragraph.strip("\n"))
        size += len(paragraph)
        if size >= PIECE_CHARS:
            yield "\n\n".join(piece) + "\n"
            piece, size = [], 0
    if piece:
        yield "\n\n".join(piece) + "\n"


def jargon_documents():
    """The Jargon File after its table of contents, without the common left margin."""
    text = gzip.decompress(pathlib.Path("/usr/share/doc/jargon-text/jargon.txt.gz").read_bytes()).decode("utf-8")
    text = text[text.index("This is the Jargon File"):]
    return list(_pieces(re.sub(r"^   ", "", text, flags=re.M)))


def sqlite_documents():
    """The pages of the SQLite manual; a paragraph that an earlier page has is left out."""
    root = pathlib.Path("/usr/share/doc/sqlite3")
    seen, documents = set(), []
    for page in sorted(root.rglob("*.html")):
        if SQLITE_SKIPPED.search(page.name) or page.is_symlink():
            continue
        kept = []
        text = plain_text(page.read_text(encoding="utf-8", errors="replace"))
        text = text.rpartition("\n\nPurchase\n\n")[2]  # the menu above each page ends with this word
        for paragraph in text.split("\n\n"):
            key = " ".join(paragraph.split())
            if len(key) >= REPEAT_CHARS and key in seen:
                continue
            seen.add(key)
            kept.append(paragraph)
        documents.extend(_pieces("\n\n".join(kept)))
    return documents


def _draw(document):
    """A number in [0, 1000) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "little") % 1000


def _usable(document):
    letters = sum(c.isalpha() or c.isspace() for c in document)
    return len(document) >= MIN_CHARS and letters >= 0.6 * len(document) and "<|" not in document


def load():
    """The splits {"train": [...], "dev": [...], "calibration": [...]}; calibration is a part of train."""
    documents = [d for source in (bible_documents, jargon_documents, sqlite_documents) for d in source() if _usable(d)]
    documents = sorted(set(documents), key=lambda d: hashlib.sha256(d.encode()).digest())
    train = [d for d in documents if _draw(d) >= DEV_PER_MILLE]
    return {
        "train": train,
        "dev": [d for d in documents if _draw(d) < DEV_PER_MILLE],
        "calibration": [d for d in train if _draw(d) < DEV_PER_MILLE + CALIBRATION_PER_MILLE],
    }


def join(documents):
    """One text: a line holding only the separator stands between two documents."""
    return (SEPARATOR + "\n").join(documents)


def package_versions():
    """Installed versions of the packages the text came from."""
    out = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *PACKAGES], check=True,
                         stdout=subprocess.PIPE, encoding="utf-8").stdout
    return dict(line.split() for line in out.splitlines())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder that receives the texts")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, documents in load().items():
        (args.out / f"{name}.txt").write_text(join(documents), encoding="utf-8")
        print(f"{name}.txt: {len(documents)} documents")
    for package, version in package_versions().items():
        print(f"{package} {version}")


if __name__ == "__main__":
    main()
