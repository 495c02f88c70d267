#!/bin/sh
# Loads the archive that comes on standard input. Where it completes the image, takes names away that are not needed
# any more, and prints the ID of what is there then.
# $1: the name of the complete image, or - for a part of it   $2 and on: the names that go
set -u
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${PATH-}
export LC_ALL PATH
name=$1
shift
if ! said=$(docker image load --quiet 2>&1); then
	printf '%s\n' "$said" >&2
	exit 3
fi
if [ "$name" != - ]; then
	[ $# -eq 0 ] || docker image rm "$@" >/dev/null 2>&1
	docker image inspect --format '{{.Id}}' "$name"
fi
