#!/bin/sh
# Write constraints.txt: the newest dependencies that fit each supported Python, by uv on PATH.
set -eu
cd "$(dirname "$0")/.."
{
  printf '# Dependencies for every supported Python: pip install -c constraints.txt . Written by tools/constraints.sh.\n'
  printf '# Without ansible-core and what it bounds: the hosts decide which one is right (README.md).\n'
  uv pip compile pyproject.toml --quiet --universal --python-version 3.10 --fork-strategy requires-python \
    --no-emit-package ansible-core --no-emit-package resolvelib --no-annotate --no-header
} >constraints.new
mv constraints.new constraints.txt
