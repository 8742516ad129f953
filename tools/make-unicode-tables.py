#!/usr/bin/env python3
"""Writes src/text/unicode_tables.inc: the code point sets that the reference tokenizer stack works with.

The tables are probed from the reference itself (the `tokenizers` package), one code point at a time, because its parts
follow different Unicode versions: the regular expressions 16.0, the normaliser 9.0. Facts only; no table is copied.

    python3 -m pip install tokenizers
    python3 tools/make-unicode-tables.py > src/text/unicode_tables.inc
"""
import sys

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CHUNK = 4096
LOW_MARK, HIGH_MARK = "\u0334", "\u0345"  # combining classes 1 and 240: the ends of the scale


def matching(pattern):
    """The code points that PATTERN matches."""
    keep_rest = pre_tokenizers.Split(Regex(pattern), "removed")
    found = []
    for start in range(0, len(CODE_POINTS), CHUNK):
        chunk = CODE_POINTS[start : start + CHUNK]
        rest = [False] * len(chunk)
        for _, (first, last) in keep_rest.pre_tokenize_str("".join(map(chr, chunk))):
            rest[first:last] = [True] * (last - first)
        found += [c for c, is_rest in zip(chunk, rest) if not is_rest]
    return found


def normalisation_sets():
    """(followers, leaders): what can change under NFC, and the starters that can change together with a follower.

    A text without followers is in NFC. Followers have a combining class, or a form of their own that NFC replaces, or
    are the second half of a composition. Every other character that neither decomposes nor starts a composition is inert.
    """
    nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    followers, leaders = set(), set()
    for c in CODE_POINTS:
        char, parts = chr(c), nfd(chr(c))
        moves = nfd(char + LOW_MARK) != parts + LOW_MARK or nfd(HIGH_MARK + char) != HIGH_MARK + parts
        if nfc(char) != char or (moves and parts == char):
            followers.add(c)
        elif parts != char:
            leaders.update((c, ord(parts[0])))
            followers.update(map(ord, parts[1:]))
    return sorted(followers), sorted(leaders - followers)


def ranges(code_points):
    out = []
    for c in code_points:
        if out and c == out[-1][1] + 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def emit(name, what, code_points):
    print(f"\n/* {what} */\nstatic const qni_code_range {name}[] = {{")
    line = "   "
    for first, last in ranges(code_points):
        item = f" {{0x{first:X}, 0x{last:X}}},"
        if len(line) + len(item) > 110:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")


def main():
    print(f"/* Made by tools/make-unicode-tables.py from tokenizers {tokenizers.__version__}; do not edit. */")
    emit("LETTERS", r"\p{L}, Unicode 16.0", matching(r"\p{L}"))
    emit("MARKS", r"\p{M}, Unicode 16.0", matching(r"\p{M}"))
    emit("NUMBERS", r"\p{N}, Unicode 16.0", matching(r"\p{N}"))
    emit("SPACES", r"\s, White_Space", matching(r"\s"))
    followers, leaders = normalisation_sets()
    emit("NFC_FOLLOWERS", "Characters without which every text is in NFC, Unicode 9.0", followers)
    emit("NFC_LEADERS", "Starters that may change together with a follower, Unicode 9.0", leaders)


if __name__ == "__main__":
    sys.exit(main())
