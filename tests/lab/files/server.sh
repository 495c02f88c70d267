#!/bin/sh
# A lab's server: packages over HTTP, and a registry on a copy of the built content.
set -eu
mkdir -p /var/lib/registry
cp -r /registry/data/. /var/lib/registry/
cat >/tmp/registry.yml <<CONFIG
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: /var/lib/registry}, delete: {enabled: true}}
http: {addr: ':5000'}
CONFIG
/registry/program/usr/bin/docker-registry serve /tmp/registry.yml &
registry=$!
python3 -m http.server --directory /www 8000 >/dev/null 2>&1 &
web=$!
trap 'exit 0' TERM INT
# Where one of them ends the container ends, and the lab's next up starts it anew.
while kill -0 $registry && kill -0 $web; do sleep 1; done
exit 1
