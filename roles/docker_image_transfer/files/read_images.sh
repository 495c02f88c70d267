#!/bin/sh
# Reads what a host's dockerd has of images, and changes nothing. A line each: a word, a tab, what it says.
set -u
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${PATH-}
export LC_ALL PATH

say() {
	printf '%s\t%s\n' "$1" "$2"
}

if ! command -v docker >/dev/null 2>&1; then
	say problem "there is no docker on the host"
	exit 0
fi
images() {
	# shellcheck disable=SC2016
	docker image ls --all --quiet --no-trunc | sort -u | xargs -r docker image inspect \
		--format 'image{{"\t"}}{{.Id}}{{"\t"}}{{json .RepoTags}}{{"\t"}}{{json .RootFS.Layers}}' 2>/dev/null
}
exec 3>&1
found=$(
	docker info --format 'engine{{"\t"}}{{.ServerVersion}}{{"\n"}}store{{"\t"}}{{json .DriverStatus}}{{"\n"}}root{{"\t"}}{{.DockerRootDir}}' 2>&1 &
	images >&3
	wait
)
printf '%s\n' "$found"
root=$(printf '%s\n' "$found" | sed -n 's/^root\t//p')
case $found in
*io.containerd.snapshotter*)
	root=/var/lib/containerd
	for socket in /run/containerd/containerd.sock /run/docker/containerd/containerd.sock; do
		if [ -S "$socket" ] && blobs=$(ctr --address "$socket" --namespace moby content ls --quiet 2>/dev/null); then
			say blobs "$(printf '%s' "$blobs" | tr '\n' ' ')"
			break
		fi
	done
	;;
esac
say place "$root"
say free "$(df -Pk "$root" 2>/dev/null | awk 'NR == 2 { print $4 }')"
say end ""
