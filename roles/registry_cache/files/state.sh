#!/bin/sh
# Print the state that systemd must bring the service to, and whether systemd has read the units. Changes nothing.
# Arguments: the service, the files that it reads at its start.
service=$1
started=/run/gpuprov-registry-cache/started
shift
[ -z "$(find "$@" -newer "$started" 2>/dev/null)" ] && [ -e "$started" ] && echo started || echo restarted
systemctl show -p NeedDaemonReload "$service" | grep -q yes && echo reload
exit 0
