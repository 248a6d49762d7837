#!/bin/sh
# make demo: a run of a spec, then a real filesystem on a mounted mirror whose leg fails under it.
# Everything happens below one temporary folder, which is gone at the end, whatever happens.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dmspec=${DMSPEC:-$here/../.venv/bin/dmspec}
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
dir=$work/mnt
store=$work/disks
mkdir "$dir" "$store"

say() { printf '\n\033[1m%s\033[0m\n' "== $*"; }
[ -z "${NO_COLOR:-}" ] && [ -t 1 ] || say() { printf '\n%s\n' "== $*"; }
step() { printf '$ %s\n' "$*"; "$@"; }
leave() {
	status=$?
	trap - EXIT INT TERM
	"$dmspec" umount "$dir" 2>/dev/null || :
	[ -z "${writer:-}" ] || wait "$writer" 2>/dev/null || :
	rm -rf "$work"
	exit $status
}
trap leave EXIT INT TERM

say "1. A spec, run: a leg of a mirror fails, the write is held, the repair lets it go on"
step "$dmspec" run "$here/tour/06-repair.dms"

say "2. The same targets, mounted: a mirror on two disks of 64 MiB, each disk a sparse file"
step "$dmspec" mount "$here/demo/volume.dms" "$dir" --store "$store"
ls -l "$dir"
step mkfs.ext4 -q -F -b 4096 "$dir/vol"
printf 'hello from before the snapshot\n' >"$work/hello"
step debugfs -w -R "write $work/hello hello" "$dir/vol" 2>/dev/null

say "3. A snapshot, taken as LVM takes it"
step "$dmspec" do "$dir" "lvm.create_snapshot vol name=snap cow=pv3"
printf 'hello from after the snapshot\n' >"$work/later"
step debugfs -w -R "write $work/later later" "$dir/vol" 2>/dev/null

say "4. Leg pv1 fails while dd writes: nothing is lost, but the write has to wait"
dd if=/dev/urandom of="$work/data" bs=64k count=16 status=none
free=$(dumpe2fs "$dir/vol" 2>/dev/null | awk '/^  Free blocks: [0-9]/ { split($3, a, "-"); b = a[1] + 0 } END { print b }')
step "$dmspec" do "$dir" "fail pv1" --quiet
(cd "$work" && exec dd if=data of="$dir/vol" bs=4k seek="$free" conv=notrunc,fsync status=none) &
writer=$!
until "$dmspec" do "$dir" --status >"$work/status" && grep -q 'status.* DA ' "$work/status"; do :; done
grep -A2 '^vol-real' "$work/status"
kill -0 "$writer" && echo "dd (process $writer) waits: its write is held by the mirror"

say "5. The repair, as dmeventd does it: the mirror becomes linear, below the snapshot's origin"
step "$dmspec" do "$dir" "lvm.repair vol"
wait "$writer"
writer=
echo "dd has ended without an error"

say "6. What e2fsck says of the volume and of the snapshot"
step e2fsck -fn "$dir/vol"
step e2fsck -fn "$dir/snap"
echo "files in the snapshot:"
debugfs -R "ls -p" "$dir/snap" 2>/dev/null | awk -F/ '$6 == "hello" || $6 == "later" { print "  " $6 }'
echo "files in the volume:"
debugfs -R "ls -p" "$dir/vol" 2>/dev/null | awk -F/ '$6 == "hello" || $6 == "later" { print "  " $6 }'
dd if="$dir/vol" bs=4k skip="$free" count=256 iflag=fullblock status=none | cmp - "$work/data"
echo "what dd wrote is there, to the byte"

say "7. Unmounted; the surviving leg alone is a good filesystem"
step "$dmspec" umount "$dir"
step e2fsck -fn "$store/pv2.img"

say "Shown: a write held when a leg failed and finished by the repair, a snapshot that stayed as it was,"
echo "   two clean filesystems and a clean leg; no root, no kernel module, nothing left behind."
