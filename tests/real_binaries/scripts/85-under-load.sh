# Everything while it is written to: snapshots, conversions, pvmove, growing; no write is lost
cat >$W/writer <<'SCRIPT'
# Writes a block with its number and a count again and again, all over the first 8 MiB; ends when told to.
count=0
while [ ! -e $W/stop ]; do
	count=$((count + 1))
	i=0
	while [ $i -lt 16 ]; do
		yes "$i $count" | head -c 65536 | dd of=$1 bs=64k seek=$((i * 8)) count=1 oflag=direct conv=notrunc iflag=fullblock status=none || exit 1
		i=$((i + 1))
	done
	echo $count >$2
done
SCRIPT
export W
# is_written DEVICE FILE: what the writer wrote last is there.
is_written() {
	i=0
	while [ $i -lt 16 ]; do
		dd if=$1 bs=64k skip=$((i * 8)) count=1 iflag=direct status=none >$W/block || return 1
		yes "$i $(cat $2)" | head -c 65536 | cmp - $W/block || return 1
		i=$((i + 1))
	done
}
t 'vgcreate vg /dev/pv1 /dev/pv2 /dev/pv3 /dev/pv4'
t 'lvcreate -y -n vol -L 8M vg /dev/pv1'
t 'lvcreate -y --type raid1 -m1 -n raid -L 8M vg /dev/pv2 /dev/pv3'
sh $W/writer /dev/vg/vol $W/vol &
sh $W/writer /dev/vg/raid $W/raid &
soon 'test -s $W/vol && test -s $W/raid'
t 'lvconvert -y -i 1 --type mirror -m1 --mirrorlog core vg/vol /dev/pv2'
soon 'in_sync vg/vol'
t 'for i in 1 2 3; do lvcreate -y -s -L 12M -n snap$i vg/vol /dev/pv4 && lvremove -y vg/snap$i || exit 1; done'
t 'lvcreate -y -s -L 12M -n one vg/vol /dev/pv4; lvcreate -y -s -L 12M -n two vg/vol /dev/pv4'
t 'lvcreate -y -s -L 12M -n three vg/raid /dev/pv4'
t 'lvremove -y vg/one vg/two vg/three'
t 'lvconvert -y --type raid1 vg/vol'
soon 'in_sync vg/vol'
t 'lvextend -L +4M vg/vol; lvextend -L +4M vg/raid'
t 'pvmove -i 1 -n raid /dev/pv3 /dev/pv4'
t 'lvconvert -y -m2 vg/raid /dev/pv1'
soon 'in_sync vg/raid'
fault 'fail pv2'
t 'lvconvert -y --repair vg/vol; lvconvert -y --repair vg/raid || true'
soon 'in_sync vg/vol'
touch $W/stop
wait
t 'lvs -a -o name,attr,copy_percent,devices vg'
prove 'every write to vol is there' 'is_written /dev/vg/vol $W/vol'
prove 'every write to raid is there' 'is_written /dev/vg/raid $W/raid'
