# raid1 with raid_fault_policy = allocate: dmeventd replaces a failed leg
. "$LIB"
sed -i 's/^activation {/activation {\n\traid_fault_policy = "allocate"/' /etc/lvm/lvm.conf
t 'vgcreate vg /dev/pv1 /dev/pv2 /dev/pv3 /dev/pv4'
t 'lvcreate -y --type raid1 -m1 -L 16M -n vol vg /dev/pv1 /dev/pv2'
soon 'in_sync vg/vol'
t 'mkfs.ext4 -q -d $W/tree /dev/vg/vol'
fault 'fail pv2'
t 'dd if=/dev/zero of=/dev/vg/vol bs=64k seek=200 count=8 oflag=direct conv=notrunc status=none'
soon '! lvs -a --noheadings -o devices vg | grep -q -e pv2 -e unknown'
soon 'in_sync vg/vol'
t 'lvs -a -o name,attr,copy_percent,health_status,devices vg'
prove 'the leg was replaced' 'in_sync vg/vol && dmsetup status vg-vol | grep -q " AA "'
prove 'both legs are the same' 'cmp /dev/mapper/vg-vol_rimage_0 /dev/mapper/vg-vol_rimage_1'
prove 'ext4 holds its files' 'holds /dev/vg/vol'
t 'lvremove -y vg/vol'
