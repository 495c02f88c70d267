#!/bin/bash
# Boots a Debian 13 with systemd in namespaces of a GPU machine that has no systemd, and tries gpuprov on it.
#   bash tests/gpu/host.sh DIR OUT     DIR holds the parts that tests/gpu/pack.py made; results go to OUT
# For a throwaway machine: root, cgroup v2, the driver under /usr/local/nvidia. It has no ssh client and no network:
# gpuprov runs inside that Debian, over ssh to 127.0.0.1:2222.
set -u
bring=$1 out=$2 root=/srv/gpuhost
mkdir -p "$root" "$out"
[ -e /srv/bring.tar.xz ] || cat "$bring"/part-* | tar -x -C /srv || exit 1
tar -xJf /srv/root.tar.xz -C "$root" && tar -xJf /srv/bring.tar.xz -C "$root/opt" || exit 1
rm -f /srv/root.tar.xz /srv/bring.tar.xz
# What changed since the parts were packed: files as they lie in bring/.
[ ! -d "$bring/over" ] || cp -r "$bring/over/." "$root/opt/bring/"
# The driver, where its own installer puts it.
cp -a /usr/local/nvidia/lib64/*.so* "$root/usr/lib/x86_64-linux-gnu/" 2>/dev/null
find /usr/local/nvidia/bin -maxdepth 1 -type f -exec cp -a {} "$root/usr/bin/" \; 2>/dev/null
chroot "$root" ldconfig
cat >/srv/boot.sh <<'BOOT'
set -e
R=/srv/gpuhost
mount --make-rprivate /
mount --rbind $R $R
mount -t proc proc $R/proc
mount -t sysfs sysfs $R/sys
mount -t tmpfs tmpfs $R/run
mount -t tmpfs tmpfs $R/tmp
mount -t tmpfs -o mode=755 tmpfs $R/dev
mkdir -p $R/dev/pts $R/dev/shm $R/dev/mqueue $R/dev/char
mount -t devpts -o newinstance,ptmxmode=0666 devpts $R/dev/pts
ln -s pts/ptmx $R/dev/ptmx
for n in null zero full random urandom tty; do
    [ -e /dev/$n ] && touch $R/dev/$n && mount --bind /dev/$n $R/dev/$n
done
for n in /dev/nvidia* /dev/nvidia-caps/*; do
    [ -c "$n" ] || continue
    mkdir -p "$(dirname "$R$n")"
    mknod -m "$(stat -c %a "$n")" "$R$n" c $((0x$(stat -c %t "$n"))) $((0x$(stat -c %T "$n")))
done
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
ln -sf /proc/self/fd $R/dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -sf "/proc/self/fd/${n%%:*}" "$R/dev/${n#*:}"; done
cd $R
mkdir -p .machine
# Not chroot: NVIDIA's legacy hook enters the mount namespace anew, and must find this root there.
pivot_root . .machine
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /bin/sh -c 'umount -l /.machine; exec /sbin/init'
BOOT
mkdir -p /sys/fs/cgroup/gpuhost
for c in cpu memory pids io cpuset; do echo +$c >/sys/fs/cgroup/cgroup.subtree_control; done 2>/dev/null
(
    echo $BASHPID >/sys/fs/cgroup/gpuhost/cgroup.procs
    exec setsid unshare --mount --uts --ipc --pid --fork --cgroup bash /srv/boot.sh </dev/null >/srv/boot.log 2>&1
) &
for _ in $(seq 60); do
    sleep 0.5
    init=$(pgrep -n -f '^/sbin/init') || continue
    inside=(nsenter -t "$init" -m -p -u -i -C)
    case $("${inside[@]}" systemctl is-system-running 2>&1) in running | degraded) break ;; esac
done
cat /srv/boot.log
"${inside[@]}" systemctl is-system-running
"${inside[@]}" systemctl --failed --no-legend
# In a scope of its own, as a login has.
"${inside[@]}" env -i HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    PYTHONPATH=/opt/bring/site:/opt/bring/checkout \
    python3 -m tests.gpu.systemd --bring /opt/bring --out /opt/out
status=$?
cp -r "$root/opt/out/." "$out/"
exit $status
