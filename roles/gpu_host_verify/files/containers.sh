#!/bin/sh
# Proves on a host that containers run, and that they have of the GPUs what they should.
# $1: image to run   $2: gpu | no-gpu   $3: seconds that one step may take
# $4: image to look for the GPUs in; empty: one that is made here   $5: CDI device to ask for, or empty
# $6: what to ask --gpus for, or empty   $7: gpu_check.py's text   $8: Pythons of this host, parted by blanks
# Prints one line for each step: NAME<TAB>ok|failed<TAB>what was said, in one line; of a look at the
# GPUs that is gpu_check.py's JSON.
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

# An image of this host's own Python and libraries, so that nothing has to be pulled for the check.
import_own_image() {
	files=$("$python" -E -S -B -c "$program" files) || return 1
	printf '%s\n' "$files" | tar --create --dereference --hard-dereference --files-from=- 2>/dev/null |
		docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$1"
}

own_python() { # the first of this host's that can do it, by its own name
	for candidate in $pythons; do
		if "$candidate" -E -S -B -c 'import ctypes, json' 2>/dev/null; then
			readlink -f "$candidate"
			break
		fi
	done
}

look() { # name of the step, gpu_check.py's word, what docker is told: has a container of its own look
	step=$1 word=$2
	shift 2
	name="gpuprov-verify-$$-$step"
	if [ -n "$python" ]; then
		set -- "$@" --entrypoint "$python" "$gpu_image" -E -S -B -c "$program" "$word"
	else
		# An image of somebody else's: whichever Python it has.
		# shellcheck disable=SC2016
		set -- "$@" --entrypoint sh "$gpu_image" -c \
			'exec "$(command -v python3 || command -v python)" -B -c "$@"' sh "$program" "$word"
	fi
	output=$(bounded docker run --rm --network none --name "$name" "$@")
	status=$?
	if [ $status -eq 0 ]; then
		# Before it is what Python and docker may warn of.
		report "$step" 0 "$(printf '%s\n' "$output" | sed -n '$p')"
	else
		[ $status -ne 124 ] || docker rm --force "$name" >/dev/null 2>&1
		report "$step" $status "$(printf '%s\n' "$output" | sed '/See .docker run --help/d' | cut -c1-600)"
	fi
}

image=$1 gpu=$2 seconds=$3 gpu_image=$4 cdi=$5 flag=$6 program=$7 pythons=$8 python=''

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

own_image=''
if [ -n "$gpu_image" ]; then
	output=$(docker image inspect --format '{{.Id}}' "$gpu_image" 2>/dev/null || bounded docker pull --quiet "$gpu_image")
	status=$?
else
	own_image="gpuprov-verify:$$"
	python=$(own_python)
	if [ -n "$python" ]; then
		gpu_image=$own_image
		output=$(import_own_image "$gpu_image" 2>&1)
		status=$?
	else
		output="no Python of this host has ctypes (${pythons:-there is none}): install python3"
		status=1
	fi
fi
if [ $status -ne 0 ]; then
	report image $status "$output"
	exit 0
fi

ask() { # name of the step, gpu_check.py's word, NVIDIA_VISIBLE_DEVICES or nothing
	step=$1 word=$2
	shift 2
	look "$step" "$word" --runtime=nvidia --env NVIDIA_DRIVER_CAPABILITIES=compute,utility \
		${1:+--env "NVIDIA_VISIBLE_DEVICES=$1"}
}

# An image of somebody else's may say what is visible; "void" is what saying nothing means.
nothing=void
[ -z "$own_image" ] || nothing=''
# Side by side: each one's answer waits in its pipe, and they come in this order.
{ [ -z "$cdi" ] || look cdi look --device "$cdi"; } | {
	{ [ -z "$flag" ] || look gpus look --gpus "$flag" --env NVIDIA_DRIVER_CAPABILITIES=compute,utility; } | {
		ask none look $nothing | {
			ask one look 0 | {
				ask all compute all
				cat
			}
			cat
		}
		cat
	}
	cat
}
[ -z "$own_image" ] || docker image rm --force "$own_image" >/dev/null 2>&1
exit 0
