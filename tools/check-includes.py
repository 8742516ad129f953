#!/usr/bin/env python3
"""Checks that every file includes only what its floor may know (ARCHITECTURE.md); exit 1 with one line a fault.

A floor includes itself and the floors below it. Public headers include public headers only; the command line includes
public headers and its own files only; unit tests of a floor know that floor and those below.
"""

import pathlib
import re
import sys

BELOW = {
    "base": [],
    "tensor": ["base"],
    "codec": ["tensor"],
    "text": ["codec"],
    "checkpoint": ["codec"],
    "model": ["text", "checkpoint"],
    "fit": ["model"],
    "artifact": ["fit"],
    "recipe": ["artifact"],
    "report": ["recipe"],
    "cli": ["report"],
}
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^">]+)[">]')
ROOT = pathlib.Path(__file__).resolve().parents[1]


def known_to(floor):
    """FLOOR and every floor below it."""
    found = {floor}
    for lower in BELOW[floor]:
        found |= known_to(lower)
    return found


def fault(path, floor, kind, name):
    """Why a file of KIND (public, private, test) on FLOOR may not include "NAME", or None."""
    parts = name.split("/")
    if parts[0] == "quern":
        if parts[1:] == ["quern.h"] and (kind == "test" or floor == "cli"):
            return None
        if len(parts) != 3 or parts[1] not in BELOW:
            return "is no public header of a floor"
        return None if parts[1] in known_to(floor) else f"lies above {floor}"
    if kind == "public":
        return "is private"
    if len(parts) == 1:
        folders = [path.parent] + ([ROOT / "tests" / "support"] if kind == "test" else [])
        return None if any((folder / name).is_file() for folder in folders) else "is not beside the file"
    if parts[0] not in BELOW:
        return "belongs to no floor"
    if floor == "cli" and parts[0] != "cli":
        return "is private to another floor"
    return None if parts[0] in known_to(floor) else f"lies above {floor}"


def check(path, floor, kind):
    faults = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        bracket, name = match.groups()
        where = f"{path.relative_to(ROOT)}:{number}"
        if bracket == "<":
            if name.startswith("quern/"):
                faults.append(f'{where}: <{name}>: write "{name}"')
            continue
        why = fault(path, floor, kind, name)
        if why:
            faults.append(f'{where}: "{name}" {why}')
    return faults


def main():
    faults, n_files = [], 0
    for folder, kind in (("include/quern", "public"), ("src", "private"), ("tests/unit", "test")):
        for path in sorted((ROOT / folder).glob("*/*.[ch]")):
            floor = path.parent.name
            n_files += 1
            if floor not in BELOW:
                faults.append(f"{path.relative_to(ROOT)}: '{floor}' is no floor")
                continue
            faults += check(path, floor, kind)
    print("\n".join(faults) if faults else f"check-includes: {n_files} files keep to their floors")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
