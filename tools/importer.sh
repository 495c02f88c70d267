#!/bin/sh
# galaxy-importer over the collection as it is published, by the galaxy-importer on PATH.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
# The importer refuses a collection without its repository's address, which the release workflow writes into it.
python -c 'import pathlib, sys, tools.build
tools.build.collection(pathlib.Path(sys.argv[1]), 0, "https://stand-in.invalid/gpuprov")' "$work"
cd "$work"
python -m galaxy_importer.main gpuprov-gpuprov-*.tar.gz
