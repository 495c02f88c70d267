#!/bin/sh
# Starts docker build by itself, so that its output can be read while it runs, and prints the directory of this build.
# Arguments: who builds, as plugins/module_utils/host_lock.py writes it, empty to hold no lock; seconds to wait for that;
# context, Dockerfile, name, target, yes or no for --no-cache, names of build arguments.
# Standard input: lines of sh that set those.
set -u
owner=$1 wait=$2 context=$3 file=$4 name=$5 target=$6 no_cache=$7
shift 7
command -v docker >/dev/null || { echo 'docker is not installed here' >&2; exit 1; }
eval "$(cat)"

lock=/run/gpuprov.lock
if [ -n "$owner" ] && [ "$(id -u)" -eq 0 ]; then
  # What is started below holds it on.
  exec 9<>"$lock"
  if ! flock -n 9 && ! { [ "$wait" -gt 0 ] && flock -w "$wait" 9; }; then
    cat "$lock"
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
# Plain lines: BuildKit draws only where there is a terminal.
set -- build "$@" --tag "$name" --file "$context/$file" "$context"

run=$(mktemp -d "${TMPDIR:-/tmp}/gpuprov-build.XXXXXXXX") || exit 1
: >"$run/log"
: >"$run/alive"
# The terminal of this connection may go before the build has its own session.
trap '' HUP
# A session of its own: it outlives this connection, but not by long that of whoever asks for its output.
setsid sh -c '
  run=$1
  shift
  echo $$ >"$run/pid"
  docker "$@" >"$run/log" 2>&1 &
  build=$!
  (
    while sleep 5; do
      [ -n "$(find "$run/alive" -mmin +1)" ] || continue
      kill "$build"
      touch "$run/orphaned"
      exit
    done
  ) 9>&- &
  guard=$!
  wait "$build"
  status=$?
  kill "$guard" 2>/dev/null
  if [ -e "$run/orphaned" ]; then
    rm -rf "$run"
  else
    echo "$status" >"$run/status.new"
    mv "$run/status.new" "$run/status"
  fi
' gpuprov-build "$run" "$@" </dev/null >/dev/null 2>&1 &
printf '%s\n' "$run"
