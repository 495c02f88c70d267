#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Reads a host for gpuprov, changes nothing, and prints what it found. Needs a POSIX shell and
# what every Debian and Ubuntu since 16.04 has (coreutils, dpkg, tar, gzip, libc-bin); no Python,
# no temporary file, no network.
#
#   sh probe.sh NONCE [user:NAME | keyring:PATH | package:NAME | mount:PATH | root:PATH | python:COMMAND]...
#
# Format 1. What stands before the first and after the last of these lines is not ours:
#   gpuprov-probe 1 NONCE
#   KEY<TAB>FIELD<TAB>FIELD...          one record a line, as many fields as the key has
#   gpuprov-probe-end NONCE COUNT       COUNT is the number of records
# A FIELD is "=" and the text itself, where that is printable ASCII, or "!" and its base64. So no
# field holds a tab, a line end or a control character, whatever a file or a name holds.
#
#   uid, kernel, machine, clock, uptime, init, system_state, login_user, snap    VALUE
#   package      NAME VERSION STATUS ARCHITECTURE     as dpkg-query's db:Status-Abbrev has it
#   apt_get      PATH
#   python       PATH VERSION
#   interpreter  COMMAND VERSION    of the inventory; no version where it does not run
#   space        PATH "BLOCKS BLOCKSIZE INODES_FREE INODES"
#   lock         PID NAME                             who holds dpkg's lock
#   account      NAME CANONICAL     as the name service answers; empty where there is no such account
#   group        LINE of getent, local|directory      whether it is in /etc/group
#   primary_member  NAME            a user whose primary group that is
#   failed_unit  NAME               where the system is degraded
#   broken       NAME STATUS        a package that dpkg left half way, with dpkg's words
#   dpkg_interrupted yes            dpkg did not write down what it had done
#   reboot_required  PACKAGES       what asked for it, where that is known
#   pci_bus      yes                there is a PCI bus to see
#   pci          SLOT VENDOR DEVICE DRIVER            display devices (class 03) of vendor 10de
#   pci_name     DEVICE NAME        of a device that the driver does not name, as pci.ids has it
#   driver       first line of /proc/driver/nvidia/version
#   gpu          SLOT MINOR UUID MODEL                as the driver has it
#   module       NAME VERSION       nvidia, nvidia_uvm or nouveau, where loaded
#   module_file  PATH VERSION SIGNER                  of a nvidia that is not loaded, as modinfo has it
#   secure_boot  0|1                where the firmware knows of it
#   device       PATH MAJOR:MINOR linked|unlinked     whether it has its link in /dev/char
#   library      PATH loader|linked|other             a library of the driver's user space, and who finds it:
#                                   the loader; who looks in its directory; nobody
#   kept         NAME               a unit or rule that keeps CDI specifications, or links in /dev/char, fresh
#   persistenced yes                nvidia-persistenced runs
#   smi_path     PATH               smi         one line of nvidia-smi -L
#   smi_query    one line of nvidia-smi --query-gpu (see query_gpus below)
#   config_kind  absent|file|symlink|other            config_target  PATH
#   source_link  PATH TARGET        a file of apt's sources that is a symbolic link
#   service      PROPERTY=VALUE     one line of systemctl show docker.service
#   info_from    api|cli            info        docker's answers, JSON (see probe_report.py)
#   ps           JSON lines         info_error  TEXT
#   dockerd      PID COMMAND        the running one
#   dockerd_version  VERSION        of the installed one, where none runs
#   root         NAME PATH          where docker and containerd keep their data, as far as it is configured
#   unit         NAME LOADSTATE     what docker.service needs: docker.socket, containerd.service
#   volume       NAME               a volume of nvidia-docker v1
#   files        base64 of a gzipped tar archive of the files named below, links followed

set -u
LC_ALL=C
# The last is where drivers lie that come from outside of the system.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${PATH-}:/usr/local/nvidia/bin
# The daemon of this host is meant, whatever the environment and root's docker contexts say.
DOCKER_CONTEXT=default
export LC_ALL PATH DOCKER_CONTEXT
unset DOCKER_HOST DOCKER_API_VERSION

# Who logged in before this became root: sudo and doas say so; after su, LOGNAME is still ssh's.
login_user=${SUDO_USER:-${DOAS_USER:-${LOGNAME:-}}}
[ "$login_user" != root ] || login_user=

tab='	'
newline='
'
words=" $tab$newline"
count=0
daemon_json=/etc/docker/daemon.json
most_bytes=4194304

line_of_base64() { # reads stdin
	encoded=$(base64)
	set -f
	IFS=$newline
	# shellcheck disable=SC2086 # parted at the line ends that base64 puts in
	set -- $encoded
	IFS=
	encoded=$*
	IFS=$words
	set +f
	printf '%s' "$encoded"
}

record() { # key, fields...
	line=$1
	shift
	for field; do
		case $field in
		*[!\ -~]*) field="!$(printf '%s' "$field" | line_of_base64)" ;;
		*) field="=$field" ;;
		esac
		line=$line$tab$field
	done
	count=$((count + 1))
	printf '%s\n' "$line"
}

records() { # key, text: a record of one field for each line of text
	key=$1
	set -f
	IFS=$newline
	# shellcheck disable=SC2086 # parted at its line ends
	set -- $2
	IFS=$words
	set +f
	for text; do
		record "$key" "$text"
	done
}

if command -v timeout >/dev/null 2>&1; then
	bounded() { timeout 10 "$@"; }
else
	bounded() { "$@"; }
fi

probe_system() {
	record uid "$(id -u)"
	record machine "$(uname -m)"
	kernel=
	read -r kernel </proc/sys/kernel/osrelease
	record kernel "$kernel"
	# Both clocks at one moment: together they date what systemd dates since boot.
	uptime=
	read -r uptime text </proc/uptime
	record uptime "$uptime"
	record clock "$(date +%s)"
	record login_user "$login_user"
	# What sd_booted(3) looks at.
	if [ -d /run/systemd/system ]; then
		record init systemd
		text=$(systemctl is-system-running 2>/dev/null)
		record system_state "$text"
		[ "$text" != degraded ] || probe_failed_units
	else
		record init other
	fi
	if [ -e /snap/bin/docker ] || [ -d /var/snap/docker ]; then
		record snap yes
	fi
	if [ -e /var/run/reboot-required ]; then
		reasons=
		if [ -r /var/run/reboot-required.pkgs ]; then
			while read -r text; do
				case " $reasons " in
				*" $text "*) ;;
				*) reasons="$reasons${reasons:+ }$text" ;;
				esac
			done </var/run/reboot-required.pkgs
		fi
		record reboot_required "$reasons"
	fi
}

probe_failed_units() {
	failed=$(systemctl list-units --failed --no-legend --no-pager 2>/dev/null)
	set -f
	IFS=$newline
	for text in $failed; do
		IFS=$words
		# shellcheck disable=SC2086
		set -- $text
		# A mark may stand before the name.
		case $1 in
		*.*) record failed_unit "$1" ;;
		*) record failed_unit "${2-}" ;;
		esac
	done
	IFS=$words
	set +f
}

probe_pythons() { # COMMAND of the inventory, if any
	named=
	if [ $# -gt 0 ]; then
		# A path, or words such as "/usr/bin/env python3" and "python3 -X utf8".
		set -f
		# shellcheck disable=SC2086
		version=$($1 -V 2>&1 </dev/null)
		set +f
		case $version in
		'Python '[0-9]*) record interpreter "$1" "${version#Python }" ;;
		*) record interpreter "$1" "" ;;
		esac
		case $1 in
		/*) named=$1 ;;
		esac
	fi
	seen=
	# /usr/bin/python3 comes first: it is the one that python3-apt is for.
	for python in "$named" /usr/bin/python3 /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9] \
		/usr/bin/python2.7 /usr/bin/python \
		/usr/local/bin/python3 /usr/local/bin/python3.[0-9] /usr/local/bin/python3.[0-9][0-9]; do
		[ -x "$python" ] || continue
		for other in $seen; do
			# shellcheck disable=SC3013 # dash and busybox have it, and POSIX since 2024
			[ "$python" -ef "$other" ] && continue 2
		done
		seen="$seen $python"
		# Python 2 says its version on stderr.
		version=$("$python" -V 2>&1)
		case $version in
		'Python '[0-9]*) record python "$python" "${version#Python }" ;;
		esac
	done
}

probe_packages() { # names...
	# dpkg keeps names and versions to an alphabet without tabs, so they are records as they are.
	packages=$(dpkg-query --show \
		--showformat='package\t=${Package}\t=${Version}\t=${db:Status-Abbrev}\t=${Architecture}\n' -- \
		apt dpkg python3-apt python-apt python-minimal 'docker*' 'lxc-docker*' 'moby*' 'containerd*' runc \
		podman-docker 'nvidia-*' 'libnvidia-container*' "$@" 2>/dev/null)
	if [ -n "$packages" ]; then
		set -f
		IFS=$newline
		# shellcheck disable=SC2086 # parted at its line ends, to be counted
		set -- $packages
		IFS=$words
		set +f
		count=$((count + $#))
		printf '%s\n' "$packages"
	fi
	apt_get=$(command -v apt-get) && record apt_get "$apt_get"
	probe_lock
	probe_broken
}

probe_broken() { # what dpkg --audit looks for, in a tenth of its time
	for file in /var/lib/dpkg/updates/[0-9]*; do
		if [ -e "$file" ]; then
			record dpkg_interrupted yes
			break
		fi
	done
	lines=$(grep -B 1 -E '^Status: [a-z]+ (reinstreq |ok (half-|unpacked))' /var/lib/dpkg/status 2>/dev/null)
	name=
	set -f
	IFS=$newline
	for text in $lines; do
		case $text in
		'Package: '*) name=${text#Package: } ;;
		'Status: '*) record broken "$name" "${text#Status: }" ;;
		esac
	done
	IFS=$words
	set +f
}

probe_lock() {
	set --
	for lock in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock; do
		[ -e "$lock" ] && set -- "$@" "$lock"
	done
	[ $# -gt 0 ] && [ -r /proc/locks ] || return 0
	locks=$(cat /proc/locks)
	for inode in $(stat -c %i "$@"); do
		case $locks in
		*":$inode "*) probe_holder "$1" "$inode" ;;
		esac
		shift
	done
}

probe_holder() { # file, its inode: says which process holds a lock on the file
	set -f
	IFS=$newline
	for line in $locks; do
		IFS=$words
		# 1: POSIX  ADVISORY  WRITE 1234 08:01:131077 0 EOF
		case $line in
		*'->'*) ;; # waits for the lock
		*":$2 "*)
			# shellcheck disable=SC2086
			probe_opened "$1" $line
			;;
		esac
	done
	IFS=$words
	set +f
}

probe_opened() { # file, fields of a line of /proc/locks
	# An inode's number says nothing without its file system: look at what the process has open.
	set +f
	for open in "/proc/$6/fd"/*; do
		# shellcheck disable=SC3013
		if [ "$open" -ef "$1" ]; then
			name=
			read -r name <"/proc/$6/comm"
			record lock "$6" "$name"
			break
		fi
	done
	set -f
}

probe_space() { # paths...
	for path; do
		shift
		[ -d "$path" ] && set -- "$@" "$path"
	done
	# Numbers alone, and both kinds at once, unlike df: names of devices may hold anything.
	free=$(stat -f -c '%a %S %d %c' -- "$@" 2>/dev/null) || return 0
	IFS=$newline
	for text in $free; do
		IFS=$words
		record space "$1" "$text"
		shift
	done
	IFS=$words
}

probe_accounts() { # user names...
	gid=
	if group=$(getent group docker); then
		if grep -q '^docker:' /etc/group; then
			record group "$group" local
		else
			record group "$group" directory
		fi
		gid=${group#*:*:}
		gid=${gid%%:*}
	fi
	for user; do
		case $user in
		*[!0-9]*) account=$(getent passwd -- "$user") || account= ;;
		# getent takes a number for an ID; id looks for an account of that name first.
		*)
			account=$(id -un -- "$user" 2>/dev/null) || account=
			[ "$account" != "$user" ] || account=$user::$(id -u -- "$user"):$(id -g -- "$user")
			case $account in
			*:*) ;;
			*) account= ;;
			esac
			;;
		esac
		record account "$user" "${account%%:*}"
		account=${account#*:*:*:} # from its group on
		[ -z "$gid" ] || [ "${account%%:*}" != "$gid" ] || record primary_member "$user"
	done
}

probe_gpus() {
	gpus='' named=' ' ids=''
	for file in /proc/driver/nvidia/gpus/*/information; do
		[ -r "$file" ] || continue
		slot=${file%/information}
		slot=${slot##*/}
		model='' uuid='' minor=''
		# shellcheck disable=SC2295 # a tab is not a pattern
		while IFS=":$words" read -r text value; do
			case $text/$value in
			Model/*) model=$value ;;
			GPU/UUID:*) uuid=${value##*[ $tab]} ;;
			Device/Minor:*) minor=${value##*[ $tab]} ;;
			esac
		done <"$file"
		record gpu "$slot" "$minor" "$uuid" "$model"
		gpus=yes named="$named$slot "
	done
	[ ! -d /sys/bus/pci/devices ] || record pci_bus yes
	for device in /sys/bus/pci/devices/*; do
		vendor='' class=''
		[ -e "$device/vendor" ] && read -r vendor <"$device/vendor"
		[ "$vendor" = 0x10de ] || continue
		read -r class <"$device/class"
		case $class in
		0x03*)
			read -r model <"$device/device"
			model=${model#0x}
			bound=$(readlink "$device/driver") || bound=
			record pci "${device##*/}" "${vendor#0x}" "$model" "${bound##*/}"
			gpus=yes
			case $named in
			*" ${device##*/} "* | *" $model "*) ;;
			*) ids="$ids $model" named="$named$model " ;;
			esac
			;;
		esac
	done
	[ -z "$ids" ] || probe_pci_names
	if [ -r /proc/driver/nvidia/version ]; then
		driver=
		read -r driver </proc/driver/nvidia/version
		record driver "$driver"
		gpus=yes
	fi
	for module in nvidia nvidia_uvm nouveau; do
		[ -d "/sys/module/$module" ] || continue
		version=
		[ -r "/sys/module/$module/version" ] && read -r version <"/sys/module/$module/version"
		record module "$module" "$version"
	done
	[ -z "$ids" ] || [ -d /sys/module/nvidia ] || probe_module_file
	file=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
	if [ -r "$file" ]; then
		# Four bytes of attributes come first.
		text=$(od -A n -t u1 -j 4 -N 1 "$file" 2>/dev/null)
		record secure_boot "${text##* }"
	fi
	if [ -S /run/nvidia-persistenced/socket ]; then
		record persistenced yes
	fi
	for file in /etc/systemd/system/*.wants/nvidia-cdi-refresh.path /etc/systemd/system/*.wants/gpuprov-cdi-refresh.path \
		/etc/udev/rules.d/71-gpuprov-nvidia-dev-char.rules; do
		if [ -h "$file" ] || [ -e "$file" ]; then
			record kept "${file##*/}"
		fi
	done
	probe_devices
	probe_libraries
}

probe_pci_names() { # of the devices that have a number in $ids
	for file in /usr/share/misc/pci.ids /usr/share/hwdata/pci.ids; do
		[ -r "$file" ] || continue
		set --
		for model in $ids; do
			set -- "$@" -e "/^10de /,/^[0-9a-f]/s/^$tab$model  */$model /p"
		done
		names=$(sed -n "$@" "$file")
		IFS=$newline
		for text in $names; do
			IFS=$words
			record pci_name "${text%% *}" "${text#* }"
		done
		IFS=$words
		return 0
	done
}

probe_module_file() {
	path='' version='' signer=''
	lines=$(modinfo nvidia 2>/dev/null) || return 0
	set -f
	IFS=$newline
	for text in $lines; do
		value=${text#*:}
		# shellcheck disable=SC2295 # a tab is not a pattern
		value=${value#"${value%%[! $tab]*}"}
		case $text in
		filename:*) path=$value ;;
		version:*) version=$value ;;
		signer:*) signer=$value ;;
		esac
	done
	IFS=$words
	set +f
	record module_file "$path" "$version" "$signer"
}

probe_devices() {
	set --
	for device in /dev/nvidia[0-9]* /dev/nvidiactl /dev/nvidia-uvm /dev/nvidia-uvm-tools /dev/nvidia-modeset \
		/dev/nvidia-caps/*; do
		[ -e "$device" ] && set -- "$@" "$device"
	done
	[ $# -gt 0 ] || return 0
	gpus=yes
	numbers=$(stat -c '%t:%T' -- "$@")
	for text in $numbers; do
		text=$((0x${text%:*})):$((0x${text#*:}))
		# Without this link, systemd that sets a container's devices anew takes the device away.
		if [ -e "/dev/char/$text" ]; then
			record device "$1" "$text" linked
		else
			record device "$1" "$text" unlinked
		fi
		shift
	done
}

probe_libraries() {
	[ -n "$gpus$smi" ] || return 0
	listed=
	set -f
	IFS=$newline
	for text in $(ldconfig -p 2>/dev/null | grep -E 'lib(cuda|nvidia-ml)\.so\.1 .*64'); do
		listed="$listed${listed:+$newline}${text##*=> }"
	done
	# Debian's and Ubuntu's places, of today and of 16.04; then those of drivers from outside.
	IFS=:
	# shellcheck disable=SC2086
	set -- ${LD_LIBRARY_PATH-}
	IFS=$words
	set +f
	set -- /usr/lib/*-linux-gnu /usr/lib/*-linux-gnu/nvidia/current /usr/lib64 /usr/lib/nvidia-[0-9]* /usr/lib \
		/usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/local/lib /usr/lib/wsl/lib "$@"
	[ -z "$smi" ] || set -- "$@" "${smi%/*}" "${smi%/*}/../lib64" "${smi%/*}/../lib"
	set -f
	IFS=$newline
	for path in $listed; do
		set -- "$@" "${path%/*}"
	done
	IFS=$words
	set +f
	seen=
	for directory; do
		for name in libcuda libnvidia-ml; do
			for file in "$directory/$name".so.1 "$directory/$name".so.[0-9]*.[0-9]*; do
				[ -f "$file" ] && probe_library "$file" "$directory/$name.so.1"
			done
		done
	done
}

probe_library() { # file, what programs that look in its directory open
	case $1 in
	*/i386-linux-gnu/* | */stubs/* | */compat/*) return 0 ;;
	*.so.1)
		# A link is named by what it leads to.
		[ ! -h "$1" ] || return 0
		;;
	esac
	how=other
	# shellcheck disable=SC3013
	[ "$1" -ef "$2" ] && how=linked
	set -f
	IFS=$newline
	for path in $seen; do
		# shellcheck disable=SC3013
		[ "$1" -ef "$path" ] && how=
	done
	for path in $listed; do
		# shellcheck disable=SC3013
		[ -n "$how" ] && [ "$1" -ef "$path" ] && how=loader
	done
	IFS=$words
	set +f
	[ -n "$how" ] || return 0
	seen="$seen$newline$1"
	record library "$1" "$how"
}

probe_service() {
	units='' active='' failing='' # the unit's files, and whether it runs: for what comes after
	if [ ! -d /run/systemd/system ]; then
		probe_process
		return 0
	fi
	# What each unit has ends with an empty line.
	shown=$(systemctl show docker.service docker.socket containerd.service -p LoadState -p ActiveState -p SubState \
		-p UnitFileState -p MainPID -p StateChangeTimestampMonotonic -p FragmentPath -p DropInPaths -p EnvironmentFile \
		-p EnvironmentFiles -p NeedDaemonReload 2>/dev/null)
	properties=${shown%%"$newline$newline"*}
	records service "$properties"
	for name in docker.socket containerd.service; do
		shown=${shown#*"$newline$newline"}
		text=$newline${shown%%"$newline$newline"*}
		text=${text#*"${newline}LoadState="}
		record unit "$name" "${text%%"$newline"*}"
	done
	set -f
	IFS=$newline
	for text in $properties; do
		case $text in
		FragmentPath=?*) units=$units$newline${text#*=} ;;
		DropInPaths=?*)
			IFS=$words
			for path in ${text#*=}; do
				units=$units$newline$path
			done
			IFS=$newline
			;;
		EnvironmentFile=?* | EnvironmentFiles=?*)
			text=${text#*=}
			units=$units$newline${text%% (*}
			;;
		ActiveState=active | ActiveState=reloading) active=yes ;;
		ActiveState=failed | ActiveState=activating) failing=yes ;;
		esac
	done
	IFS=$words
	set +f
	[ "$active" != yes ] || probe_process
}

probe_process() { # the running dockerd, with its flags
	pid=
	[ ! -r /var/run/docker.pid ] || read -r pid </var/run/docker.pid
	name=
	[ -z "$pid" ] || [ ! -r "/proc/$pid/comm" ] || read -r name <"/proc/$pid/comm"
	[ "$name" = dockerd ] || return 0
	record dockerd "$pid" "$(tr '\0' ' ' <"/proc/$pid/cmdline")"
	active=yes
}

last_complaints() { # of a dockerd that does not start, in one line
	# Of what dockerd ends for it says no level; systemd's own lines come another way.
	journalctl --quiet --no-pager --lines 60 --output cat --unit docker.service _TRANSPORT=stdout 2>/dev/null </dev/null |
		grep -E 'level=(fatal|error)|^[^[:space:]].*: ' | grep -v -E 'level=(info|warning|debug)' |
		tail -n 2 | uniq | tr '\n' ' '
}

probe_roots() { # paths where the engine will write...: and where it writes
	for path; do
		probe_room "$path"
	done
	root=
	case $info in
	*'"DockerRootDir":"'*)
		root=${info#*'"DockerRootDir":"'}
		root=${root%%'"'*}
		;;
	esac
	[ -n "$root" ] || root=$(sed -n 's/.*"data-root"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$daemon_json" 2>/dev/null)
	probe_root docker "${root:-/var/lib/docker}"
	root=$(sed -n -e '/^[[:space:]]*\[/q' -e "s/^[[:space:]]*root[[:space:]]*=[[:space:]]*[\"']\([^\"']*\)[\"'].*/\1/p" \
		/etc/containerd/config.toml 2>/dev/null)
	probe_root containerd "${root:-/var/lib/containerd}"
}

probe_root() { # name, path
	record root "$1" "$2"
	probe_room "$2"
}

probe_room() { # path, which need not be there yet
	path=$1
	while [ -n "$path" ] && [ ! -d "$path" ]; do
		path=${path%/*}
	done
	text=$(stat -f -c '%a %S %d %c' -- "${path:-/}" 2>/dev/null) && record space "$1" "$text"
}

probe_docker() {
	info=
	# Never ask when it is not running: its socket would start it.
	if [ "$active" != yes ]; then
		if command -v dockerd >/dev/null 2>&1; then
			text=$(bounded dockerd --version 2>/dev/null </dev/null)
			text=${text#*ersion }
			record dockerd_version "${text%%,*}"
		fi
		[ -z "$failing" ] || record info_error "$(last_complaints)"
		return 0
	fi
	client=$(command -v docker) || client=
	socket=/var/run/docker.sock
	status=2
	if [ -S "$socket" ] && command -v curl >/dev/null 2>&1; then
		# What `docker info` and `docker ps` ask; those take ten times as long, for they start
		# every plugin of the client.
		info=$(curl -q -s -S -m 10 --noproxy '*' -w '\n' --unix-socket "$socket" \
			http://docker/info http://docker/containers/json 2>&1 </dev/null)
		status=$?
	fi
	if [ $status -eq 0 ]; then
		record info_from api
		record info "$info"
	elif [ $status -eq 28 ]; then
		record info_error "dockerd did not answer within 10 s"
		return 0
	elif [ -n "$client" ]; then
		info=$(bounded docker info --format '{{json .}}' 2>&1 </dev/null)
		status=$?
		record info_from cli
		record info "$info"
		if [ $status -eq 124 ]; then
			record info_error "dockerd did not answer within 10 s"
			return 0
		fi
		case $info in
		*'"ContainersRunning":0,'*) ;;
		*) record ps "$(bounded docker ps --no-trunc --format '{{json .}}' 2>/dev/null </dev/null)" ;;
		esac
	else
		record info_error "there is no docker client to ask dockerd with"
	fi
	# A newer dockerd has no use for these volumes, and asking for them is slow.
	case $packages in
	*"$tab=nvidia-docker$tab=$tab"*) v1= ;; # known by name only
	*"$tab=nvidia-docker$tab"*) v1=yes ;;
	*) v1= ;;
	esac
	if [ -n "$client" ] && { [ "$v1" = yes ] || [ -S /run/docker/plugins/nvidia-docker.sock ] ||
		[ -d /var/lib/nvidia-docker/volumes ]; }; then
		records volume "$(bounded docker volume ls -q -f driver=nvidia-docker 2>/dev/null </dev/null)"
	fi
}

probe_files() { # keyrings...
	if [ -h "$daemon_json" ]; then
		record config_kind symlink
		record config_target "$(readlink "$daemon_json")"
	elif [ -f "$daemon_json" ]; then
		record config_kind file
	elif [ -e "$daemon_json" ]; then
		record config_kind other
	else
		record config_kind absent
	fi
	set -- "$@" /usr/local/bin/dockerrun /etc/gpuprov/dockerrun.conf
	set -f
	IFS=$newline
	# shellcheck disable=SC2086 # parted at its line ends
	set -- "$@" $units
	IFS=$words
	set +f
	set -- "$@" "$daemon_json" /run/gpuprov/daemon.json.pending /etc/docker/gpuprov-proxy.env \
		/etc/systemd/system/docker.service.d/gpuprov-proxy.conf /etc/default/docker /etc/os-release /etc/debian_version /etc/apt/sources.list \
		/etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources \
		/etc/nvidia-container-runtime/config.toml /etc/cdi/*.yaml /etc/cdi/*.json /var/run/cdi/*.yaml /var/run/cdi/*.json
	for path; do
		shift
		[ -f "$path" ] || continue
		set -- "$@" "$path"
		case $path in
		/etc/apt/*)
			if [ -h "$path" ]; then
				record source_link "$path" "$(readlink -f "$path")"
			fi
			;;
		esac
	done
	# One archive for all: content, mode, owner and time of each in four processes.
	[ $# -eq 0 ] || record files "$(tar -c -h -f - -- "$@" 2>/dev/null | head -c "$most_bytes" | gzip -1 | line_of_base64)"
}

probe() { # nonce, arguments...
	# Standard input is what nvidia-smi -L says, while it says it, and 4 what the other one says;
	# nothing else may read them.
	exec 3<&0 </dev/null
	nonce=$1
	shift
	printf 'gpuprov-probe 1 %s\n' "$nonce"
	probe_system
	each python: probe_pythons "$@"
	each package: probe_packages "$@"
	each mount: probe_space "$@"
	each user: probe_accounts "$@"
	probe_gpus
	probe_service
	probe_docker
	each root: probe_roots "$@"
	each keyring: probe_files "$@"
	if [ -n "$smi" ]; then
		record smi_path "$smi"
		while IFS= read -r line <&3; do
			record smi "$line"
		done
		while IFS= read -r line <&4; do
			record smi_query "$line"
		done
	fi
	printf 'gpuprov-probe-end %s %s\n' "$nonce" "$count"
}

each() { # prefix, function, arguments...: calls the function with the arguments of that prefix
	prefix=$1 callee=$2
	shift 2
	for argument; do
		shift
		case $argument in
		"$prefix"?*) set -- "$@" "${argument#"$prefix"}" ;;
		esac
	done
	case $prefix in
	mount:) set -- / /etc /var /boot /var/lib/docker "$@" ;;
	user:) [ -z "$login_user" ] || set -- "$login_user" "$@" ;;
	esac
	"$callee" "$@"
}

ask_gpus() { # arguments of nvidia-smi
	bounded env LD_LIBRARY_PATH="$smi_libraries" nvidia-smi "$@"
}

gpu_query=pci.bus_id,uuid,persistence_mode
query_gpus() { # older drivers do not know of MIG
	ask_gpus "--query-gpu=$gpu_query,mig.mode.current,mig.mode.pending,name" --format=csv,noheader
	case $? in
	0 | 124) ;;
	*) ask_gpus "--query-gpu=$gpu_query,name" --format=csv,noheader ;;
	esac
}

# nvidia-smi can take seconds where the driver is not kept loaded: two of them are at work at one
# time, and the rest is read meanwhile.
smi=$(command -v nvidia-smi) || smi=
if [ -n "$smi" ]; then
	smi_libraries=${LD_LIBRARY_PATH-}
	case ${smi%/*} in
	/usr/bin | /usr/local/bin | /bin) ;;
	# Its library lies beside it, where the loader may not look.
	*) smi_libraries=${smi_libraries:+$smi_libraries:}${smi%/*}/../lib64 ;;
	esac
	query_gpus 2>/dev/null </dev/null | {
		exec 4<&0 </dev/null
		ask_gpus -L 2>&1 4<&- | probe "$@"
	}
else
	probe "$@" </dev/null
fi
