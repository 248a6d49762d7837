#!/bin/sh
# The mail, with the real programs: `lvcreate -s` takes a second snapshot of a mirror that is written to, a leg of the
# mirror fails at a chosen step of it, and the real dmeventd is there to repair the mirror.
#
#     specs/mail/real-lvm.sh                     every step that is named below, and a table of what came of it
#     specs/mail/real-lvm.sh 'suspend vg-vol'    only this one: the leg fails just before that ioctl
#
# A step is a command of dmsetup and a device.  LVM2, dmeventd and dmsetup are this machine's own; they run on emulated
# disks, below `dmspec exec`.  What hangs is shown with who waits for whom, and then ended.
set -u

STEPS='create vg-snap2
create vg-snap2-cow
suspend vg-vol
suspend vg-snap1
suspend vg-vol-real
suspend vg-vol_mimage_1
resume vg-vol-real
resume vg-vol'
# The second gives the writer time to meet the failed leg before lvcreate goes on.
FAILURE='fail pv1
sleep 1s'
HANG_SECONDS=${HANG_SECONDS:-12}

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
dmspec=$here/../../.venv/bin/dmspec
[ -x "$dmspec" ] || dmspec=dmspec
work=$(mktemp -d)
mkdir "$work/mount"
cleanup() {
	"$dmspec" umount --force "$work/mount" >/dev/null 2>&1
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

cat >"$work/disks.dms" <<'SPEC'
disk pv1 64MiB
disk pv2 64MiB
disk pv3 64MiB
disk pv4 64MiB
SPEC

cat >"$work/prepare.sh" <<'SCRIPT'
set -e
vgcreate -q vg /dev/pv1 /dev/pv2 /dev/pv3 /dev/pv4
lvcreate -q -y --type mirror -m1 -L 8M -n vol vg /dev/pv1 /dev/pv2 /dev/pv3
until lvs --noheadings -o copy_percent vg/vol | grep -q 100.00; do sleep 0.1; done
lvcreate -q -y -s -L 8M -n snap1 vg/vol /dev/pv4
SCRIPT

cat >"$work/writer.sh" <<'SCRIPT'
while [ ! -e "$1/stop" ]; do
	dd if=/dev/zero of=/dev/vg/vol bs=4k count=16 oflag=direct conv=notrunc status=none || { echo failed >"$1/writer"; exit; }
	date +%s >"$1/wrote.new" && mv "$1/wrote.new" "$1/wrote"
done
SCRIPT

cat >"$work/lvcreate.sh" <<'SCRIPT'
lvcreate -y -s -L 8M -n snap2 vg/vol /dev/pv4
echo $? >"$1/lvcreate"
SCRIPT

in_exec() { # OPTIONS... -- PROGRAM...
	LVM_SUPPRESS_FD_WARNINGS=1 LC_ALL=C "$dmspec" exec --mount "$work/mount" "$@"
}

# Waits for the end of lvcreate and of the repair, or until it looks as if they never came.
outcome() {
	i=0
	while [ $i -lt "$HANG_SECONDS" ]; do
		"$dmspec" do "$work/mount" --waits | grep -q 'the cycle' && return
		[ -s "$work/lvcreate" ] && in_exec -- dmsetup table vg-vol-real 2>/dev/null | grep -q linear && return
		i=$((i + 1))
		sleep 1
	done
}

one() { # STEP
	printf '\n=== the leg on pv1 fails just before: %s\n' "$1"
	rm -f "$work/writer" "$work/wrote" "$work/stop" "$work/lvcreate" "$work/log"
	"$dmspec" mount --quiet "$work/disks.dms" "$work/mount" || exit
	in_exec --log "$work/log" -- sh "$work/prepare.sh" >"$work/prepared" 2>&1 || { cat "$work/prepared"; exit 1; }
	in_exec -- sh "$work/writer.sh" "$work" 2>"$work/said" &
	until [ -s "$work/wrote" ]; do sleep 0.1; done
	: >"$work/log"
	in_exec --log "$work/log" --when "$1" "$FAILURE" -- sh "$work/lvcreate.sh" "$work" >"$work/said" 2>&1 &
	outcome
	sed 's/^/    /' "$work/log"
	grep -v -e WARNING -e 'See global' "$work/said" | sed 's/^ */    lvcreate says: /'
	"$dmspec" do "$work/mount" --waits | sed 's/^/    /'
	lvcreate=hangs
	[ ! -s "$work/lvcreate" ] || lvcreate="exit $(cat "$work/lvcreate")"
	repaired=no
	! "$dmspec" do "$work/mount" --status | grep -A1 '^vg-vol-real ' | grep -q linear || repaired=yes
	writer='goes on'
	if [ -s "$work/writer" ]; then
		writer='I/O error'
	elif [ $(($(date +%s) - $(cat "$work/wrote"))) -gt 3 ]; then
		writer=hangs
	fi
	printf '%-28s %-12s %-12s %s\n' "$1" "$lvcreate" "$writer" "$repaired" >>"$work/table"
	touch "$work/stop"
	"$dmspec" umount --force "$work/mount"
	wait
}

printf '%-28s %-12s %-12s %s\n' 'the leg fails before' lvcreate writer 'repaired by dmeventd' >"$work/table"
if [ $# -gt 0 ]; then
	for step; do one "$step"; done
else
	while IFS= read -r step; do one "$step" </dev/null; done <<-END
	$STEPS
	END
fi
echo
cat "$work/table"
