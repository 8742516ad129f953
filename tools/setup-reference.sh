#!/usr/bin/env bash
# Makes the pinned reference stack that the tests compare with, under build/:
#   build/venv                    requirements-test.txt
#   build/venv-transformers-4     an overlay with requirements-test-4.txt (put it on PYTHONPATH)
# Does nothing when both already fit their requirement files. Exit 0 also where the stack cannot be made, after saying
# why (its tests are then skipped, with their reason), unless CI=true: there nothing may be missing.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

venv=build/venv
overlay=build/venv-transformers-4

give_up() {
    echo "setup-reference: $1; the tests that need the reference stack cannot run" >&2
    [ "${CI-}" = true ] && exit 1
    exit 0
}

# is_current FOLDER FILE: FOLDER was made, to its end, from this very FILE.
is_current() {
    [ -f "$1/.requirements.sha256" ] && [ "$(cat "$1/.requirements.sha256")" = "$(sha256sum <"$2")" ]
}

stamp() {
    sha256sum <"$2" >"$1/.requirements.sha256"
}

if is_current $venv requirements-test.txt && is_current $overlay requirements-test-4.txt; then
    echo "setup-reference: $venv and $overlay are up to date"
    exit 0
fi

# What was not made to its end goes, whatever ends this script: tests must not meet half a stack.
remove_unfinished() {
    is_current $venv requirements-test.txt || rm -rf $venv
    is_current $overlay requirements-test-4.txt || rm -rf $overlay
}
trap remove_unfinished EXIT

command -v python3 >/dev/null || give_up "there is no python3"
if ! is_current $venv requirements-test.txt; then
    echo "setup-reference: installing requirements-test.txt into $venv (some GB, some minutes)"
    rm -rf $venv $overlay
    python3 -m venv $venv || give_up "python3 -m venv failed"
    $venv/bin/python -m pip install --quiet --requirement requirements-test.txt || give_up "pip failed"
    stamp $venv requirements-test.txt
fi
echo "setup-reference: installing requirements-test-4.txt into $overlay"
rm -rf $overlay
$venv/bin/python -m pip install --quiet --no-deps --target $overlay --requirement requirements-test-4.txt ||
    give_up "pip failed"
stamp $overlay requirements-test-4.txt
