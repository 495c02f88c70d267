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
	programs="$(command -v sh) $(command -v ls) $(command -v env)"
	# shellcheck disable=SC2086
	libraries=$(ldd $programs | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) { sub(/:$/, "", $i); print $i } }' | sort -u)
	# shellcheck disable=SC2086
	tar --create --dereference --absolute-names --transform 's,^/,,' $programs $libraries 2>/dev/null |
		docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$own_image"
}

image=$1 gpu=$2 seconds=$3

output=$(bounded docker run --rm "$image")
report "container runs" $? "$(printf '%s\n' "$output" | sed -n '/[^[:space:]]/{p;q;}')$(printf '%s\n' "$output" | grep -i -m1 error)"

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
