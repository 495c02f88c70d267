#!/bin/sh
# Prove on a host that containers run, and that each has the GPUs that it asks for, and no others.
# $1: image to run   $2: gpu | no-gpu   $3: seconds that one step may take
# $4: image for the checks of the GPUs; empty: $1 with this host's own Python mounted
# $5: CDI device to ask for, or empty   $6: device to ask --gpus for, or empty for an engine without that option
# $7: network of the containers that check GPUs   $8: text of gpu_check.py
# $9: Pythons of this host, separated by blanks   $10: text of gpu_containers.py
# Print one line for each step: NAME<TAB>ok|failed<TAB>message in one line; for a check of GPUs the line of gpu_check.py.
set -u
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${PATH-}
export LC_ALL PATH

report() { # name, status of the command, its output
	verdict=failed
	[ "$2" -eq 0 ] && verdict=ok
	printf '%s\t%s\t%s\n' "$1" "$verdict" "$(printf '%s' "$3" | tr '\t\n\r' '   ')"
}

bounded() {
	timeout "$seconds" "$@" </dev/null 2>&1
}

image=$1 gpu=$2 seconds=$3 gpu_image=$4 cdi=$5 flag=$6 network=$7 program=$8 pythons=$9 containers=${10}
tree=/var/lib/gpuprov-verify.$$
trap 'rm -rf "$tree"' EXIT
trap 'exit 1' HUP INT TERM

output=$(bounded docker run --rm "$image")
status=$?
# The first words of the image, or the last of docker's complaints, without the noise of a pull and
# the advice to read the manual.
said=$(printf '%s\n' "$output" | grep -v -E \
	"^\$|^Unable to find image|: (Pull|Verif|Download|Waiting|Extract)|^(Digest|Status):|^(See|Run) 'docker run --help'")
if [ $status -eq 0 ]; then
	report "container runs" 0 "$(printf '%s\n' "$said" | sed -n 1p | cut -c1-600)"
else
	report "container runs" $status "$(printf '%s\n' "$said" | sed -n '$p' | cut -c1-600)"
fi
[ "$gpu" = gpu ] || exit 0

if [ -n "$gpu_image" ]; then
	output=$(docker image inspect --format '{{.Id}}' "$gpu_image" 2>/dev/null || bounded docker pull --quiet "$gpu_image")
	status=$?
elif [ $status -ne 0 ]; then
	output="not tried: $image does not run"
fi
if [ $status -ne 0 ]; then
	report image $status "$output"
	exit 0
fi

# In /var/lib: other places may be mounted noexec.
for left in /var/lib/gpuprov-verify.*; do
	kill -0 "${left##*.}" 2>/dev/null || rm -rf "$left"
done
# shellcheck disable=SC2015,SC2181 # break too where rm fails; the words of the program are long
for python in $pythons; do
	rm -rf "$tree" && mkdir -m 0755 "$tree" || break
	"$python" -E -S -B -c "$containers" "$image" "$gpu_image" "$cdi" "$flag" "$network" "$seconds" "$program" "$tree"
	[ $? -ne 0 ] || exit 0
done 2>/dev/null
report image 1 "no Python of this host has ctypes (${pythons:-none found}): install python3"
