#!/bin/sh
# Keeps the mark of the run that is at work on this host, in /run, which a reboot empties.
# $1: claim | release   $2: this run   $3: a run whose mark may be replaced, or nothing
# $4: what others are to know of this run, in one line
# Prints gpuprov-lock, for a login shell may say something of its own before, then a line of one word:
# claimed, released or held; after held two lines more: whether the ssh session of the run that
# holds the mark is open or gone, and what is to be known of it.
set -eu
LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
umask 077
directory=/run/gpuprov
mark=$directory/mark

# PID:START of a process, so that another one with the same number is not taken for it.
identity() {
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# A name may hold blanks and brackets; what follows its last bracket is numbers.
	# shellcheck disable=SC2086
	set -- "$1" ${stat##*) }
	echo "$1:${21}"
}

# The sshd that stands over this ssh connection, whatever became root in between.
session() {
	pid=$$
	while [ "$pid" -gt 1 ]; do
		name=$(cat "/proc/$pid/comm" 2>/dev/null) || return 0
		case $name in
		sshd*)
			identity "$pid"
			return 0
			;;
		esac
		stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 0
		# shellcheck disable=SC2086
		set -- ${stat##*) }
		pid=$2
	done
}

mkdir -p "$directory"
exec 9>"$directory/guard"
flock -w 10 9
holder="" of="" told=""
if [ -s "$mark" ]; then
	{
		read -r holder
		read -r of
		read -r told
	} <"$mark" || true
fi

echo gpuprov-lock
if [ "$1" = release ]; then
	[ "$holder" != "$2" ] || rm -f "$mark"
	echo released
elif [ -z "$holder" ] || [ "$holder" = "$2" ] || [ "$holder" = "$3" ]; then
	printf '%s\n%s\n%s\n' "$2" "$(session)" "$4" >"$mark.new"
	mv -f "$mark.new" "$mark"
	echo claimed
else
	echo held
	if [ -n "$of" ] && [ "$(identity "${of%%:*}")" != "$of" ]; then echo gone; else echo open; fi
	printf '%s\n' "$told"
fi
