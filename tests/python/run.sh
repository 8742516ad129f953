#!/bin/sh
# run.sh VENV OVERLAY|- SCRIPT [ARGUMENTS]: runs SCRIPT in the reference stack, with OVERLAY first on its path.
# Where the stack is absent: exit 77 (skipped) with a reason, or 1 when CI=true, where nothing may be missing.
venv=$1 overlay=$2
shift 2
for needed in "$venv/bin/python" "$overlay"; do
    if [ "$needed" != - ] && [ ! -e "$needed" ]; then
        echo "SKIPPED: $needed is absent; tools/setup-reference.sh makes it"
        [ "$CI" = true ] && exit 1
        exit 77
    fi
done
if [ "$overlay" != - ]; then
    PYTHONPATH=$overlay
    export PYTHONPATH
fi
# Waiting threads that spin take the processor from the other tests.
OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" "$@"
