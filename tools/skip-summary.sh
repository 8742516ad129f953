#!/bin/sh
# Lists the skipped tests of a ctest run with their reasons: tools/skip-summary.sh BUILD_FOLDER
# A test gives its reason in a line "SKIPPED: reason". Exit 1 when one was skipped without any.
log=$1/Testing/Temporary/LastTest.log
awk '
    function skipped(name) {
        printf "  %s: %s\n", name, reason ? reason : "NO REASON GIVEN"
        if (!reason) silent = 1
        n++
    }
    /^[0-9]+\/[0-9]+ Test: / { program = $0; sub(/.* Test: /, "", program); reason = ""; cases = 0; next }
    /^SKIPPED: / { reason = substr($0, 10); next }
    /^\[  SKIPPED \] [0-9]+ test/ { listing = 1; next }
    /^\[  SKIPPED \] / { if (!listing) { skipped(program " " $4); cases++; reason = "" } next }
    /^Test (Passed|Failed)\./ { listing = 0; next }
    /^Test Skipped/ { if (!cases) skipped(program); listing = 0; next }
    BEGIN { print "Skipped tests:" }
    END { if (!n) print "  none"; exit silent }
' "$log"
