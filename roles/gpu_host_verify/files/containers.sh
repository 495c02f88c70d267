#!/bin/sh
# Prove on a host that containers run, and that each has the GPUs that it asks for, and no others.
# $1: image to run   $2: gpu | no-gpu   $3: seconds that one step may take
# $4: image for the checks of the GPUs; empty: $1 with this host's own Python mounted
# $5: CDI device to ask for, or empty   $6: device to ask --gpus for, or empty for an engine without that option
# $7: network of the containers that check GPUs   $8: text of gpu_check.py
# $9: Pythons of this host, separated by blanks
# Print one line for each step: NAME<TAB>ok|failed<TAB>message in one line; for a check of GPUs the JSON of gpu_check.py.
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

# Find a Python of this host for the containers, so that nothing has to be pulled for the checks, and copy its libraries
# to $tree: they lie between those of the driver, which containers must not have from here.
# Print how to start that Python, or what is wrong. In /var/lib: other places may be mounted noexec.
find_python() {
	for left in /var/lib/gpuprov-verify.*; do
		kill -0 "${left##*.}" 2>/dev/null || rm -rf "$left"
	done
	for python in $pythons; do
		rm -rf "$tree" && mkdir -m 0755 "$tree" || return 1
		"$python" -E -S -B -c "$program" copy "$tree" 2>/dev/null && return
	done
	echo "no Python of this host has ctypes (${pythons:-none found}): install python3"
	return 1
}

look() { # name of the step, gpu_check.py's word, options of docker: run a container that checks its GPUs
	step=$1 word=$2
	shift 2
	name="gpuprov-verify-$$-$step"
	if [ -n "$gpu_image" ]; then
		# Whichever Python the image has.
		# shellcheck disable=SC2016
		set -- "$@" --entrypoint sh "$gpu_image" -c \
			'exec "$(command -v python3 || command -v python)" -B -c "$@"' sh "$program" "$word"
	else
		# Not below /usr: the runtime and CDI mount the driver's files there.
		set -- "$@" --user 0:0 --volume "$tree:/gpuprov/libraries:ro" --volume "$python:/gpuprov$python:ro" \
			--volume "$modules:/gpuprov$modules:ro" --entrypoint "/gpuprov/libraries/$loader" "$image" \
			--library-path /gpuprov/libraries "/gpuprov$python" -E -S -B -c "$program" "$word"
	fi
	output=$(bounded docker run --rm --network "$network" --name "$name" "$@")
	status=$?
	if [ $status -eq 0 ]; then
		# Warnings of Python and docker may come before it.
		report "$step" 0 "$(printf '%s\n' "$output" | sed -n '$p')"
	else
		[ $status -ne 124 ] || docker rm --force "$name" >/dev/null 2>&1
		report "$step" $status "$(printf '%s\n' "$output" | sed '/See .docker run --help/d' | cut -c1-600)"
	fi
}

image=$1 gpu=$2 seconds=$3 gpu_image=$4 cdi=$5 flag=$6 network=$7 program=$8 pythons=$9
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
elif [ $status -eq 0 ]; then
	output=$(find_python 2>&1)
	status=$?
	# shellcheck disable=SC2086
	set -- $output '' ''
	loader=$1 python=$2 modules=$3
else
	output="not tried: $image does not run"
fi
if [ $status -ne 0 ]; then
	report image $status "$output"
	exit 0
fi

ask() { # name of the step, gpu_check.py's word, NVIDIA_VISIBLE_DEVICES
	look "$1" "$2" --runtime=nvidia --env NVIDIA_DRIVER_CAPABILITIES=compute,utility --env NVIDIA_VISIBLE_DEVICES="$3"
}

# Side by side: the answer of each waits in its pipe, and they come in this order. "void" means no GPU, as does the
# missing variable; the image may set it.
{ [ -z "$cdi" ] || look cdi look --device "$cdi"; } | {
	{
		if [ -n "$flag" ]; then
			look gpus look --gpus "$flag" --env NVIDIA_DRIVER_CAPABILITIES=compute,utility
		else
			ask one look 0
		fi
	} | {
		ask none look void | {
			ask all compute all
			cat
		}
		cat
	}
	cat
}
exit 0
