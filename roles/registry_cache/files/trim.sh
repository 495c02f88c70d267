#!/bin/sh
# Remove the layers that were not read for the longest time, until the rest fits: trim DIRECTORY SIZE
# The registry fetches again what is asked for and not there.
set -eu
[ -n "$2" ] || exit 0
cd "$1/docker/registry/v2/blobs" 2>/dev/null || exit 0
limit=$(numfmt --from=iec "$2")
# The later of access and modification; file systems update the access once a day.
find . -type f -name data -printf '%A@ %T@ %s %p\n' |
    awk '{ print ($1 > $2 ? $1 : $2), $3, $4 }' | sort -rn |
    awk -v limit="$limit" '{ total += $2; if (total > limit) print $3 }' |
    while read -r path; do
        echo "removed $path"
        rm -f "$path"
        rmdir "${path%/data}" 2>/dev/null || true
    done
