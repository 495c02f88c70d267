#!/bin/sh
# ansible-test sanity over the collection as it is published, by the ansible-core on PATH; arguments are ansible-test's.
# It installs what it needs into an environment of its own.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
place=$work/ansible_collections/gpuprov/gpuprov
mkdir -p "$place"
ansible-galaxy collection build --output-path "$work" . >/dev/null
tar -xzf "$work"/gpuprov-gpuprov-*.tar.gz -C "$place"
# One list of exceptions for every ansible-core.
mkdir -p "$place/tests/sanity"
version=$(ansible-test --version | sed -n 's/^.* \([0-9]*\.[0-9]*\)\..*$/\1/p')
cp tests/sanity/ignore.txt "$place/tests/sanity/ignore-$version.txt"
cd "$place"
ansible-test sanity --requirements --color no "$@"
