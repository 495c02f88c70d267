#!/bin/sh
# Stands in for NVIDIA's nvidia-ctk in the lab: the three commands that gpuprov and the package give,
# on stand-in GPUs. The specification has the form of the real one's.
set -eu
libraries=/usr/lib/x86_64-linux-gnu

config() {
	file='' set=''
	while [ $# -gt 0 ]; do
		case $1 in
		--config-file) file=$2 && shift ;;
		--config-file=*) file=${1#*=} ;;
		--set) set=$2 && shift ;;
		--in-place) ;;
		*) echo "nvidia-ctk (stand-in): config $1 is not known" >&2 && exit 1 ;;
		esac
		shift
	done
	if [ ! -e "$file" ]; then
		mkdir -p "${file%/*}"
		printf '%s\n' '[nvidia-container-cli]' '#no-cgroups = false' '' '[nvidia-container-runtime]' 'mode = "auto"' \
			'' '[nvidia-container-runtime-hook]' '#skip-mode-detection = false' >"$file"
	fi
	case $set in
	nvidia-container-runtime.mode=*)
		sed -i '/^\[nvidia-container-runtime\]/,/^mode = /s/^mode = .*/mode = "'"${set#*=}"'"/' "$file"
		;;
	nvidia-container-runtime-hook.skip-mode-detection=*)
		sed -i "s/^#*skip-mode-detection = .*/skip-mode-detection = ${set#*=}/" "$file"
		;;
	esac
}

numbers() { # of the GPUs that are there
	for node in /dev/nvidia[0-9]*; do
		[ ! -e "$node" ] || echo "${node#/dev/nvidia}"
	done
}

uuid() {
	nvidia-smi -L | sed -n "s/^GPU $1: .*UUID: \\(.*\\))/\\1/p"
}

device() { # name, numbers of GPUs
	printf '    - name: "%s"\n      containerEdits:\n        deviceNodes:\n' "$1"
	shift
	for number; do
		printf '            - path: /dev/nvidia%s\n' "$number"
	done
}

mount() {
	printf '        - hostPath: %s\n          containerPath: %s\n          options: [ro, nosuid, nodev, rbind, rprivate]\n' "$1" "${2:-$1}"
}

generate() {
	output=${NVIDIA_CTK_CDI_OUTPUT_FILE_PATH-}
	for word; do
		case $word in
		--output=*) output=${word#*=} ;;
		esac
	done
	if ! nvidia-smi -L >/dev/null; then
		echo 'nvidia-ctk (stand-in): failed to initialize NVML: Driver Not Loaded' >&2
		exit 1
	fi
	mkdir -p "${output%/*}"
	{
		printf -- '---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n'
		for number in $(numbers); do
			device "$number" "$number"
			device "$(uuid "$number")" "$number"
		done
		# shellcheck disable=SC2046
		device all $(numbers)
		printf 'containerEdits:\n    env:\n        - NVIDIA_VISIBLE_DEVICES=void\n'
		printf '    deviceNodes:\n        - path: /dev/nvidiactl\n    mounts:\n'
		mount /usr/bin/nvidia-smi
		for name in libcuda libnvidia-ml; do
			library=$(readlink -f "$libraries/$name.so.1")
			mount "$library"
			# The real one has a hook make the link.
			mount "$library" "$libraries/$name.so.1"
		done
	} >"$output.new"
	mv "$output.new" "$output"
}

symlinks() {
	mkdir -p /dev/char
	for node in /dev/nvidia[0-9]* /dev/nvidiactl; do
		[ ! -e "$node" ] || ln -sf "$node" "/dev/char/$(stat -c '%t:%T' "$node" | { IFS=: read -r a b && echo $((0x$a)):$((0x$b)); })"
	done
}

[ "${1-}" != --quiet ] || shift
case "${1-} ${2-}" in
'config '*) shift && config "$@" ;;
'cdi generate') shift 2 && generate "$@" ;;
'system create-dev-char-symlinks') symlinks ;;
*) echo "nvidia-ctk (stand-in): $* is not known" >&2 && exit 1 ;;
esac
