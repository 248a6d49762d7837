# The mail in a guest: $STEP is a command and a device, as for specs/mail/real-lvm.sh.  lvcreate is held just before
# that ioctl by strace, which has counted the ioctls of an lvcreate before; meanwhile the leg on pv1 fails.
exec 3>&1 >/run/scratch/said 2>&1
vgcreate -q vg /dev/pv1 /dev/pv2 /dev/pv3 /dev/pv4
lvcreate -q -y --type mirror -m1 -L 8M -n vol vg /dev/pv1 /dev/pv2 /dev/pv3
until lvs --noheadings -o copy_percent vg/vol | grep -q 100.00; do sleep 0.2; done
lvcreate -q -y -s -L 8M -n snap1 vg/vol /dev/pv4
take() { strace -e trace=ioctl "$@" -o /run/scratch/trace lvcreate -y -s -L 8M -n snap2 vg/vol /dev/pv4; }
take
# Line numbers are counts: without -f there is one line for each ioctl.
command=${STEP% *} device=${STEP#* }
minor=$(dmsetup info -c --noheadings -o minor "$device")
hex=$(printf '0x%x' "$minor")
case $command in
create) step=$(grep -n "DM_DEV_CREATE.* name=\"$device\"" /run/scratch/trace | head -1) ;;
suspend) step=$(grep -n "DM_DEV_SUSPEND.*0xfe, $hex).*flags=DM_SUSPEND_FLAG.* => " /run/scratch/trace | head -1) ;;
resume) step=$(grep "DM_DEV_SUSPEND" -n /run/scratch/trace | grep "0xfe, $hex)" | grep -v 'flags=DM_SUSPEND_FLAG.* => ' | tail -1) ;;
esac
count=${step%%:*}
lvremove -y vg/snap2
(
	while dd if=/dev/zero of=/dev/vg/vol bs=4k count=16 oflag=direct conv=notrunc status=none; do
		cut -d. -f1 /proc/uptime >/run/scratch/wrote.new && mv /run/scratch/wrote.new /run/scratch/wrote
	done
	echo failed >/run/scratch/writer
) &
until [ -s /run/scratch/wrote ]; do sleep 0.1; done
rm -f /run/scratch/trace
(
	take -e inject=ioctl:delay_enter=10000000:when="$count"
	echo "exit $?" >/run/scratch/lvcreate
) &
until [ "$(cat /run/scratch/trace 2>/dev/null | wc -l)" -ge $((count - 1)) ]; do sleep 0.1; done
. "$LIB" >/dev/null
fault 'fail pv1'
late=
[ "$(wc -l </run/scratch/trace)" = $((count - 1)) ] || late=' (the leg failed too late)'
waited=0
while [ $waited -lt 30 ]; do
	[ -s /run/scratch/lvcreate ] && dmsetup table vg-vol-real | grep -q linear && break
	waited=$((waited + 1))
	sleep 1
done
lvcreate=hangs writer='goes on' repaired=no
[ ! -s /run/scratch/lvcreate ] || lvcreate=$(cat /run/scratch/lvcreate)
! dmsetup table vg-vol-real | grep -q linear || repaired=yes
[ $(($(cut -d. -f1 /proc/uptime) - $(cat /run/scratch/wrote))) -lt 5 ] || writer=hangs
[ ! -s /run/scratch/writer ] || writer='I/O error'
[ ! -e /proc/locks ] || ! grep -q -e '-> FLOCK' /proc/locks || echo 'dmeventd waits for the lock that lvcreate has' >&3
printf '%-28s %-12s %-12s %s\n' "$STEP" "$lvcreate" "$writer" "$repaired$late" >&3
