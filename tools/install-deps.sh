#!/usr/bin/env bash
# Installs what Quern needs from Debian: tools/install-deps.sh [--check] [GROUP...]
# The packages and groups are in tools/debian-packages.txt; without a GROUP, all of them. Only what is missing is
# installed. --check installs nothing: it lists what is missing and exits 1 if that is anything.
set -euo pipefail

list=$(dirname "$0")/debian-packages.txt
check=false
if [ "${1-}" = --check ]; then
    check=true
    shift
fi

wanted=$(awk -v groups=" $* " '
    /^#/ || NF == 0 { next }
    groups ~ /^ *$/ || index(groups, " " $1 " ") { print $2 }' "$list" | sort -u)
if [ -z "$wanted" ]; then
    echo "install-deps: no package is in the group(s) '$*' of $list" >&2
    exit 2
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "install-deps: not a Debian system; make sure that the equivalents of these are installed:" $wanted
    exit 0
fi

missing=()
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -eq 0 ]; then
    echo "install-deps: nothing is missing"
    exit 0
fi
if $check; then
    printf '%s\n' "${missing[@]}"
    exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps: neither root nor sudo; as root run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
echo "install-deps: installing ${missing[*]}"
"${apt[@]}" update
"${apt[@]}" install --no-install-recommends "${missing[@]}"
