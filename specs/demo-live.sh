#!/bin/sh
# make demo-live: the deadlock of the mail, on a real ext4, and the ways out of it.
#
# An ext4 that is frozen and cannot be thawed would block this machine until it is booted again. So, before anything is
# frozen: what freezes is a process of its own that thaws when the mount's server ends, however it ends; everything that
# could wait has a time limit; nothing here touches the filesystem while it is stuck; and whatever happens to this
# script, `leave` cuts the mount off, which fails the I/O that is held, and so ends every wait. A second process does the
# same if this one does not come to its end in time.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dmspec=${DMSPEC:-$here/../.venv/bin/dmspec}
PATH=$PATH:/usr/sbin:/sbin
seconds=20 # how long a single thing may take
if [ "$(id -u)" != 0 ] || ! losetup -f >/dev/null 2>&1; then
	echo 'demo-live mounts an ext4 from a loop device: it needs root and /dev/loop-control' >&2
	exit 3
fi
work=$(mktemp -d)
cd "$work"
dir=mnt
fs=fs
log=log
mkdir "$dir" "$fs"

say() { printf '\n\033[1m%s\033[0m\n' "== $*"; }
[ -z "${NO_COLOR:-}" ] && [ -t 1 ] || say() { printf '\n%s\n' "== $*"; }
step() { printf '$ %s\n' "$*" | sed "s|$dmspec|dmspec|g; s|$here/||g"; timeout "$seconds" "$@"; }
cut_off() { timeout "$seconds" "$dmspec" umount --force "$dir" >/dev/null 2>&1 || :; }
unmount_fs() {
	tries=0
	while mountpoint -q "$fs"; do
		timeout "$seconds" umount "$fs" 2>/dev/null && return 0
		tries=$((tries + 1))
		[ $tries -lt 50 ] || { umount --lazy "$fs"; return 1; }
		sleep 0.2
	done
}
leave() {
	status=$?
	trap - EXIT INT TERM
	if mountpoint -q "$dir"; then cut_off; fi
	unmount_fs || echo "demo-live: $fs did not come off" >&2
	kill "$guard" 2>/dev/null || :
	cd /
	rm -rf "$work"
	exit $status
}
until_said() { # WORDS: until they are in the log
	tries=0
	until grep -q -- "$1" "$log"; do
		tries=$((tries + 1))
		[ $tries -lt $((seconds * 10)) ] || { echo "demo-live: in vain: $1" >&2; cat "$log" >&2; exit 1; }
		sleep 0.1
	done
}
bring_up() { # SPEC: mount it, with an ext4 on vol that has something to write, and pv1 dead since
	: >"$log"
	step "$dmspec" mount "$here/demo/$1" "$dir" --run dmeventd --watchdog 1 --log "$log"
	step mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$dir/vol"
	step mount -o loop,commit=600 "$dir/vol" "$fs"
	echo 'before the snapshot' >"$fs/old"
	sync -f "$fs/old"
}
die_while_idle() {
	echo 'only in memory so far' >"$fs/new"
	step "$dmspec" do "$dir" "fail pv1" --quiet
	step "$dmspec" do "$dir" --run lvcreate
}

trap leave EXIT INT TERM
(
	trap 'kill $! 2>/dev/null; exit' TERM
	sleep 240 &
	wait $!
	echo 'demo-live: it takes too long; the mount is cut off' >&2
	cut_off
) &
guard=$!

say "1. A mirrored volume with a snapshot, a dmeventd that watches the mirror, and a real ext4"
bring_up second-snapshot.dms

say "2. First: what is frozen can be thawed"
step "$dmspec" do "$dir" "suspend vol" "resume vol" | grep -E 'frozen|thawed|suspended|resumed' || :
echo 'thawed' >"$fs/thawed" && sync -f "$fs/thawed" && echo "the filesystem takes writes"

say "3. A disk dies while nothing is written; then somebody makes a second snapshot"
die_while_idle
until_said 'the cycle'
echo
sed -n '/nothing has moved/,$ s/^[0-9:.]* watchdog *//p' "$log"

say "4. The command hangs in the freeze, with the lock; the repair waits for the lock"
"$dmspec" do "$dir" --status | grep '^process'

say "5. A way out: the repair by hand, without the lock"
step "$dmspec" do "$dir" "load vol-real { linear pv2 }" "suspend vol-real noflush nolockfs" "resume vol-real" --quiet
until_said 'lvcreate *ended'
"$dmspec" do "$dir" --status | grep '^process'
echo 'goes on' >"$fs/after" && timeout "$seconds" sync -f "$fs/after" && echo "the filesystem takes writes again"
step e2fsck -fn "$dir/snap2"
debugfs -R 'cat new' "$dir/snap2" 2>/dev/null | sed 's/^/in the snapshot: /'
step umount "$fs"
step "$dmspec" umount "$dir"

say "6. The same with a passthrough on top of the mirror, and a lock of its own for the repair"
bring_up passthrough.dms
die_while_idle
until_said 'lvcreate *ended'
grep -E 'dmeventd  (if|takes|load|suspend|resume|lets)|lvcreate  (suspend|resume|ended)' "$log" | sed 's/^[0-9:.]* /    /'
if grep -q 'nothing has moved' "$log"; then
	echo 'demo-live: it stood still' >&2
	exit 1
fi
echo "it never stood still"
step e2fsck -fn "$dir/snap"
step umount "$fs"
step "$dmspec" umount "$dir"

say "7. The last way out, when nobody repairs: the mount is cut off, and with it every wait"
bring_up second-snapshot.dms
die_while_idle
until_said 'the cycle'
step "$dmspec" umount --force "$dir"
unmount_fs
if mountpoint -q "$fs" || mountpoint -q "$dir" || losetup -l -n -O BACK-FILE | grep -q "$work"; then
	echo 'demo-live: something is left' >&2
	exit 1
fi
echo "no mount, no loop device, and no process is left"

say "Shown: the deadlock of two commands on a real ext4, seen by a watchdog, resolved by hand; a stack that has none;"
echo "   and that neither can keep this machine."
