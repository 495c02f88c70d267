#!/bin/sh
# Says what dockerrun's files on this host are like, then writes what differs, each whole or not at all.
# $1: read | write   then four words for each file:
#   PATH   MODE (0755)   SHA256, - for a file that is not to be   base64 of the gzipped text
# Prints a line for each file that was there: PATH<TAB>SHA256<TAB>MODE<TAB>UID<TAB>GID<TAB>ours|other
# What is to go goes only if it is ours; what is replaced and is not is kept in /var/backups/gpuprov.
set -eu
LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
umask 022
tab='	'
backups=/var/backups/gpuprov
new=
trap '[ -z "$new" ] || rm -f -- "$new"' EXIT

fail() {
	printf '%s\n' "$*" >&2
	exit 1
}

is_ours() {
	# The mark is that of plugins/module_utils/dockerrun_files.py.
	head -n 3 -- "$1" | grep -q "by gpuprov's role dockerrun"
}

keep() { # a file that is not ours
	(umask 077 && mkdir -p "$backups")
	cp -p -- "$1" "$backups/$(basename "$1").$(date +%Y%m%dT%H%M%S)"
}

put() { # path, mode, digest, text
	mkdir -p -- "$(dirname "$1")"
	new=$(mktemp "$1.XXXXXX")
	printf '%s' "$4" | base64 -d | gunzip >"$new"
	[ "$(sha256sum <"$new")" = "$3  -" ] || fail "$1 could not be written whole: is its disk full?"
	chmod "$2" "$new"
	mv -f -T -- "$new" "$1"
	new=
}

task=$1
shift
while [ $# -gt 0 ]; do
	path=$1 mode=$2 digest=$3 text=$4
	shift 4
	have='' whose=''
	if [ -f "$path" ]; then
		whose=other
		! is_ours "$path" || whose=ours
		have=$(sha256sum <"$path")
		have=${have%% *}
		state=$(stat -L -c "%a$tab%u$tab%g" -- "$path")
		# Four digits, as tar's headers give them.
		printf '%s\t%s\t%04d\t%s\t%s\n' "$path" "$have" "${state%%"$tab"*}" "${state#*"$tab"}" "$whose"
	elif [ -e "$path" ]; then
		fail "$path is no file: move it away"
	fi
	[ "$task" = write ] || continue
	if [ "$digest" = - ]; then
		[ "$whose" != ours ] || rm -f -- "$path"
		rmdir /etc/gpuprov 2>/dev/null || true
	elif [ "$have" != "$digest" ]; then
		[ "$whose" != other ] || keep "$path"
		put "$path" "$mode" "$digest" "$text"
	elif [ -n "$have" ]; then
		chmod "$mode" "$path"
		chown 0:0 "$path"
	fi
done
