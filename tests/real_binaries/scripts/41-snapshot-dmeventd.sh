# A snapshot that fills: dmeventd extends it
sed -i 's/^activation {/activation {\n\tsnapshot_autoextend_threshold = 50\n\tsnapshot_autoextend_percent = 50/' /etc/lvm/lvm.conf
t 'vgcreate vg /dev/pv1 /dev/pv2 /dev/pv3'
t 'lvcreate -y -n vol -L 16M vg'
t 'mkfs.ext4 -q -d $W/tree /dev/vg/vol'
t 'lvcreate -y -s -n snap -L 8M vg/vol'
t 'dd if=/dev/urandom of=/dev/vg/vol bs=64k count=80 oflag=direct conv=notrunc status=none'
t 'lvs -o name,size,origin,snap_percent vg'
soon 'test "$(lvs --noheadings --units m --nosuffix -o size vg/snap | cut -d. -f1 | tr -d " ")" -gt 8'
t 'lvs -o name,size,origin,snap_percent vg'
prove 'the snapshot was extended' 'test "$(lvs --noheadings --units m --nosuffix -o size vg/snap | cut -d. -f1 | tr -d " ")" -gt 8'
prove 'it holds the old files' 'holds /dev/vg/snap'
t 'lvremove -y vg/snap vg/vol'
