#!/bin/sh
# Removes the volumes that nvidia-docker v1 keeps driver files in; a newer dockerd would wait for
# their plugin at every start.
# shellcheck disable=SC2086 # Names and IDs have no blanks, and are listed with them.
# $1: remove-containers | keep-containers   what to do with containers that use such volumes
# $2: act | look                            look only says what act would do
set -eu
LC_ALL=C
export LC_ALL
command -v docker >/dev/null 2>&1 || exit 0
volumes=$(docker volume ls --quiet --filter driver=nvidia-docker)
[ -n "$volumes" ] || exit 0

containers=
for volume in $volumes; do
	containers="$containers $(docker ps --all --quiet --filter "volume=$volume" | tr '\n' ' ')"
done
containers=$(printf '%s\n' $containers | sort -u)

if [ -n "$containers" ] && [ "$1" != remove-containers ]; then
	names=$(docker inspect --format '{{.Name}}' $containers | sed 's#^/##' | tr '\n' ' ')
	echo "containers use volumes of nvidia-docker v1: $names- remove them, or set nvidia_docker_remove_v1_containers: true" >&2
	exit 3
fi
if [ "$2" = act ]; then
	[ -z "$containers" ] || docker rm --force $containers >/dev/null
	docker volume rm --force $volumes >/dev/null
fi
echo removed: $volumes
