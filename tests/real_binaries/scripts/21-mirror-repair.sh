# A mirror that nobody watches: lvconvert --repair by hand
. "$LIB"
t 'pvcreate /dev/pv1 /dev/pv2 /dev/pv3 /dev/pv4'
t 'vgcreate vg /dev/pv1 /dev/pv2 /dev/pv3 /dev/pv4'
t 'lvcreate -y --type mirror -m1 -L 16M -n vol vg /dev/pv1 /dev/pv2 /dev/pv3'
soon 'in_sync vg/vol'
t 'mkfs.ext4 -q -d $W/tree /dev/vg/vol'
t 'lvchange --monitor n vg/vol'
fault 'fail pv1'
no 'unwatched it has no handle_errors, and a region that has lost its first leg is written to that leg alone' \
	'dd if=/dev/zero of=/dev/vg/vol bs=64k seek=200 count=8 oflag=direct conv=notrunc status=none'
t 'lvs -a -o name,attr,copy_percent,devices vg'
t 'lvconvert -y -i 1 --repair vg/vol'
t 'lvs -a -o name,attr,copy_percent,devices vg'
prove 'ext4 holds its files' 'holds /dev/vg/vol'
prove 'nothing lies on the failed disk' '! lvs -a --noheadings -o devices vg | grep -q -e pv1 -e unknown'
t 'vgreduce --removemissing vg'
t 'lvremove -y vg/vol'
