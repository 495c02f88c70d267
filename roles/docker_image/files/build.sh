#!/bin/sh
# Runs docker build and prints its output. Afterwards the last line of stderr is the ID and the bytes of the image.
# Arguments: the run that builds, as plugins/module_utils/host_lock.py writes it, empty for no lock; seconds to wait for
# the lock; context, Dockerfile, name, target, yes or no for --no-cache, names of build arguments.
# Standard input: a line of base64, shell code that sets the build arguments. The build ends when the input ends: then
# the connection is lost, or the run was killed.
set -u
owner=$1 wait=$2 context=$3 file=$4 name=$5 target=$6 no_cache=$7
shift 7
command -v docker >/dev/null || { echo 'docker is not installed here' >&2; exit 3; }
IFS= read -r values
eval "$(printf '%s\n' "$values" | base64 -d)"

lock=/run/gpuprov.lock
if [ -n "$owner" ] && [ "$(id -u)" -eq 0 ]; then
  # docker holds the lock too, until it has ended.
  exec 9<>"$lock"
  if ! flock -n 9 && ! { [ "$wait" -gt 0 ] && flock -w "$wait" 9; }; then
    cat "$lock" >&2
    exit 75
  fi
  printf '%s' "$owner" >"$lock"
fi

# BuildKit is in clients before 23, and needs the plugin buildx after that.
major=$(docker --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
if [ -z "${DOCKER_BUILDKIT:-}" ]; then
  if [ "${major:-0}" -lt 23 ] || docker buildx inspect 2>/dev/null | grep -q '^Driver:'; then
    export DOCKER_BUILDKIT=1
  else
    export DOCKER_BUILDKIT=0
  fi
fi

for arg in "$@"; do
  set -- "$@" --build-arg "$arg"
  shift
done
[ -z "$target" ] || set -- "$@" --target "$target"
[ "$no_cache" = no ] || set -- "$@" --no-cache

exec 3<&0
# Plain lines: BuildKit draws only where there is a terminal.
docker build "$@" --tag "$name" --file "$context/$file" "$context" </dev/null 2>&1 3<&- &
build=$!
{ cat <&3; kill "$build"; } >/dev/null 2>&1 9>&- &
guard=$!
wait "$build"
status=$?
kill "$guard"
[ "$status" -ne 0 ] || docker image inspect --format '{{.Id}} {{.Size}}' "$name" >&2
exit "$status"
