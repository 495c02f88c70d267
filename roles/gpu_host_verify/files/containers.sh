#!/bin/sh
# Proves on a host that containers run, and that one sees the GPUs that the host sees.
# $1: image to run   $2: gpu | no-gpu   $3: seconds that one step may take
# Prints one line for each check: NAME<TAB>ok|failed<TAB>what was seen, in one line.
set -u
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${PATH-}
export LC_ALL PATH

report() { # name, status of the command, its output
	verdict=failed
	[ "$2" -eq 0 ] && verdict=ok
	printf '%s\t%s\t%s\n' "$1" "$verdict" "$(printf '%s' "$3" | tr '\t\n\r' '   ' | cut -c1-600)"
}

bounded() {
	timeout "$seconds" "$@" </dev/null 2>&1
}

# An image of this host's own shell and libraries, so that nothing has to be pulled for the check.
import_own_image() {
	programs="/bin/sh /bin/ls"
	# shellcheck disable=SC2086
	files=$({
		printf '%s\n' $programs
		ldd $programs | awk '$2 == "=>" { print $3 } $1 ~ /^\// && $2 ~ /^\(/ { print $1 }'
	} | sort -u)
	# shellcheck disable=SC2086
	tar --create --dereference --hard-dereference $files 2>/dev/null |
		docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$own_image"
}

image=$1 gpu=$2 seconds=$3

output=$(bounded docker run --rm "$image")
status=$?
# The first words of the image, or the last of docker's complaints, without the noise of a pull and
# the advice to read the manual.
said=$(printf '%s\n' "$output" | grep -v -E \
	"^\$|^Unable to find image|: (Pull|Verif|Download|Waiting|Extract)|^(Digest|Status):|^(See|Run) 'docker run --help'")
if [ $status -eq 0 ]; then
	report "container runs" 0 "$(printf '%s\n' "$said" | sed -n 1p)"
else
	report "container runs" $status "$(printf '%s\n' "$said" | sed -n '$p')"
fi

if [ "$gpu" = gpu ]; then
	own_image="gpuprov-verify:$$"
	output=$(import_own_image 2>&1) && {
		output=$(bounded docker run --rm --network none --runtime=nvidia --env NVIDIA_VISIBLE_DEVICES=all \
			--env NVIDIA_DRIVER_CAPABILITIES=utility "$own_image" \
			sh -c 'ls /dev/nvidia[0-9]* && nvidia-smi -L')
	}
	report "container sees the GPU" $? "$output"
	docker image rm --force "$own_image" >/dev/null 2>&1
fi
exit 0
