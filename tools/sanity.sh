#!/bin/sh
# ansible-test sanity over the collection as it is published, by the ansible-core on PATH; arguments are ansible-test's.
# ansible-test installs what its tests need into ~/.ansible/test.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
place=$work/ansible_collections/gpuprov/gpuprov
mkdir -p "$place" ~/.ansible/test/cache
ansible-galaxy collection build --output-path "$work" . >/dev/null
tar -xzf "$work"/gpuprov-gpuprov-*.tar.gz -C "$place"
# One list of exceptions for every ansible-core: PATTERN TEST[:CODE,...] # REASON. ansible-test has a line for each file
# and code.
mkdir -p "$place/tests/sanity"
version=$(ansible-test --version | sed -n 's/^.* \([0-9]*\.[0-9]*\)\..*$/\1/p')
while read -r pattern exception reason; do
  for file in $pattern; do
    for code in $(printf '%s' "${exception#*:}" | tr , ' '); do
      [ "$code" = "$exception" ] || code=${exception%%:*}:$code
      printf '%s %s %s\n' "$file" "$code" "$reason"
    done
  done
done <tests/sanity/ignore.txt >"$place/tests/sanity/ignore-$version.txt"
code=$(python -c 'import ansible_test; print(ansible_test.__path__[0])')
for pip in $(sed -n "s/.*\bpip='\([0-9.]*\)'.*/\1/p" "$code/_internal/python_requirements.py" | tr . _); do
  cp tools/get_pip.py ~/.ansible/test/cache/"get_pip_$pip.py"
done
cd "$place"
ansible-test sanity --color no "$@"
