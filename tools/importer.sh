#!/bin/sh
# galaxy-importer over the collection as it is published, by the galaxy-importer on PATH.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
ansible-galaxy collection build --output-path "$work" . >/dev/null
cd "$work"
python -m galaxy_importer.main gpuprov-gpuprov-*.tar.gz
