#!/bin/sh
# The lab's server: packages over HTTP, and a registry on a copy of the built content.
set -eu
mkdir -p /var/lib/registry
cp -r /registry/data/. /var/lib/registry/
cat > /tmp/registry.yml <<CONFIG
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: /var/lib/registry}, delete: {enabled: true}}
http: {addr: ':5000'}
CONFIG
/registry/program/usr/bin/docker-registry serve /tmp/registry.yml &
cd /www
exec python3 -m http.server 8000
