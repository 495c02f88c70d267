#!/bin/sh
# Print whether the package is installed, then what keeps this host from being a cache, a line for each reason.
# Changes nothing.
# Arguments: package, our drop-in, port, certificate and key (empty: not on this host).
set -u
package=$1 drop_in=$2 port=$3
certificate=$4 key=$5

offered() { apt-cache "$@" policy "$package" | grep -q '^ *Candidate: [^( ]'; }

# With lists of its own: those of a new host may be empty, and are not ours to update in check mode.
offered_after_update() {
    lists=$(mktemp -d) || return
    chmod 0755 "$lists"
    mkdir "$lists/partial"
    apt-get -qq -o Dir::State::lists="$lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= update >&2
    offered -o Dir::State::lists="$lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    status=$?
    rm -rf "$lists"
    return $status
}

if dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$'; then
    echo installed
    [ -e "$drop_in" ] ||
        echo "$package is installed here for another purpose: remove it, or make another host the cache"
else
    echo absent
    offered || offered_after_update ||
        echo "apt offers no package $package here: enable Debian's main, or Ubuntu's universe, and run apt-get update"
fi

[ -d /run/systemd/system ] || echo "this host does not run systemd"

holder=$(ss -Hltnp "sport = :$port" | grep -v '"docker-registry"' | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1 (pid \2)/p; t; s/.*/another program/p' | head -n 1)
[ -z "$holder" ] || echo "port $port is taken by $holder: set registry_cache_port"

for file in "$certificate" "$key"; do
    [ -z "$file" ] || [ -f "$file" ] || echo "$file is missing on this host"
done
exit 0
