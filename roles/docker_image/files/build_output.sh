#!/bin/sh
# Waits for output of a build, and prints what there is: a line with the offset after it and the status of a build that
# is over (- before that), then the output itself in base64.
# Arguments: the directory that build.sh printed, the offset of what is known already.
set -u
run=$1 offset=$2
most=262144
[ -d "$run" ] || { echo 'the build is not there any more: was the host restarted?' >&2; exit 1; }
touch "$run/alive"
tries=0
while :; do
  status=$(cat "$run/status" 2>/dev/null || echo -)
  size=$(wc -c <"$run/log")
  if [ "$status" = - ] && [ -s "$run/pid" ] && ! kill -0 "$(cat "$run/pid")" 2>/dev/null && [ ! -e "$run/status" ]; then
    echo 'something on the host ended the build' >&2
    exit 1
  fi
  [ "$size" -le "$offset" ] && [ "$status" = - ] && [ "$tries" -lt 50 ] || break
  tries=$((tries + 1))
  sleep 0.1
done
if [ $((size - offset)) -gt "$most" ]; then
  size=$((offset + most))
  status=-
fi
printf '%s %s\n' "$size" "$status"
tail -c "+$((offset + 1))" "$run/log" | head -c $((size - offset)) | base64
