#!/bin/sh
# Runs the tests of a build folder and lists what was skipped: tools/run-tests.sh BUILD_FOLDER [CTEST OPTIONS]
build=$1
shift
ctest --test-dir "$build" --output-on-failure "$@"
status=$?
"$(dirname "$0")"/skip-summary.sh "$build" || status=1
exit $status
