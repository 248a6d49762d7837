# What has no target here is refused by LVM before anything is changed
t 'vgcreate vg /dev/pv1 /dev/pv2 /dev/pv3'
no 'no thin-pool target' 'lvcreate -y -T -L 16M vg/pool'
no 'no cache target' 'lvcreate -y --type cache-pool -L 16M -n pool vg'
no 'raid has raid1 only' 'lvcreate -y --type raid5 -i 2 -L 16M -n r5 vg'
no 'no cache target' 'lvcreate -y --type writecache -L 8M -n wc vg'
prove 'nothing was left behind' 'test -z "$(lvs -a --noheadings vg)$(dmsetup ls | grep -v -e "No devices" -e "^pv")"'
