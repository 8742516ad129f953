#!/usr/bin/env bash
# Floor order, formatting and clang-tidy over the whole tree: tools/lint.sh BUILD_FOLDER (for its compile commands).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=${1:-build/release}
status=0

mapfile -t formatted < <(find include src tests -name '*.[ch]')
# Generated tables are no text to format or to judge.
mapfile -t judged < <(find src -name '*.c' ! -name '*_tables.c' | sort)

python3 tools/check-includes.py || status=1
echo "lint: clang-format over ${#formatted[@]} files"
clang-format --dry-run -Werror "${formatted[@]}" || status=1
echo "lint: clang-tidy over ${#judged[@]} files"
printf '%s\0' "${judged[@]}" |
    xargs -0 -n 1 -P "$(nproc)" clang-tidy -p "$build" --quiet --warnings-as-errors='*' 2> >(grep -v 'warnings\? generated' >&2) ||
    status=1
[ $status -eq 0 ] && echo "lint: clean"
exit $status
