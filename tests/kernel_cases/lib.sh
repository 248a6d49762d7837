# Sourced by the recorded cases on the emulator, in place of the guest's own file: the same functions, and the
# same conventions for what is printed ("$ " a command, "[exit N]" its status, "kernel: " what was logged
# meanwhile, "# " a remark).  The runner provides CASE_STORE (the disks' files) and CASE_PYTHON.

# What the guest has and this machine has not, or has in another form.
modprobe() { for m in "$@"; do [ "$m" != dm-raid ] || dmsetup target-version raid >/dev/null 2>&1; done; }
losetup() { :; } # the disks are always there, and read their file anew each time
uname() { echo 6.1.176; }
sed() { command busybox sed "$@"; }
ls() { command busybox ls -C "$@"; }
busybox() {
	case "$1 $2" in
	"dmesg "*) klog "$2" "$3" ;;
	*) command busybox "$@" ;;
	esac
}
# The guest needed 0.07 to 0.12 s for each dmsetup, and the scripts' counts of how often they look rely on it; the real
# dmsetup needs a tenth of that here.
[ -z "$CASE_REAL" ] || dmsetup() {
	command dmsetup "$@"
	dmsetup_status=$?
	sleep 0.1
	return $dmsetup_status
}
# klog: the kernel log since it was last cleared, as busybox dmesg -r has it.
klog() {
	"$CASE_PYTHON" -S -E "$CASE_LIB/klog.py"
}

busybox dmesg -c >/dev/null

# x COMMANDLINE: shows it, runs it, shows its failure and the kernel's log.
x() {
	printf '$ %s\n' "$1"
	eval "$1"
	x_status=$?
	[ $x_status = 0 ] || echo "[exit $x_status]"
	k
	return $x_status
}

# k: what the kernel logged since the last time.
k() { klog | sed -n 's/^<\([^>]*\)>\(.*\)/kernel: \1: \2/p'; }

# q COMMANDLINE: shows and runs it, without a look at the kernel's log.
q() {
	printf '$ %s\n' "$1"
	eval "$1"
	q_status=$?
	[ $q_status = 0 ] || echo "[exit $q_status]"
	return $q_status
}

# r TEXT: a remark;  h TEXT: a heading.
r() { echo "# $*"; }
h() { echo; echo "##### $*"; }

# disks N KIB: N disks of KIB each, all zero: /dev/loop0 and up.  The runner has made them already.
disks() {
	disks_i=0
	while [ $disks_i -lt $1 ]; do
		ln -sf "$CASE_STORE/loop$disks_i.img" /tmp/disk$disks_i
		disks_i=$((disks_i + 1))
	done
	klog >/dev/null
}

# blank N: disk N is all zero again.
blank() { dd if=/dev/zero of=/dev/loop$1 bs=1M oflag=direct conv=notrunc status=none 2>/dev/null; }

# bg NAME COMMANDLINE: runs it in the background.
bg() {
	rm -f /tmp/bg.$1.*
	printf '$ (%s) %s &\n' "$1" "$2"
	(
		eval "$2" >/tmp/bg.$1.out 2>&1
		echo $? >/tmp/bg.$1.status
	) &
}

# wt NAME TENTHS: waits at most so long for bg NAME; says how it stands.
wt() {
	wt_i=0
	while [ ! -s /tmp/bg.$1.status ] && [ $wt_i -lt $2 ]; do
		sleep 0.1
		wt_i=$((wt_i + 1))
	done
	if [ -s /tmp/bg.$1.status ]; then
		sed "s/^/($1) /" /tmp/bg.$1.out
		echo "($1) ended [exit $(cat /tmp/bg.$1.status)]"
	else
		echo "($1) still blocked after $2 tenths of a second"
	fi
	k
}

# pat SEED SECTORS: a pattern that differs from sector to sector.
pat() {
	awk -v s="$1" -v n="$2" 'BEGIN {
		dots = "................"
		while (length(dots) < 512)
			dots = dots dots
		for (i = 0; i < n; i++) {
			line = sprintf("%s sector %08d ", s, i)
			print line substr(dots, 1, 511 - length(line))
		}
	}'
}

# unit COUNT: a block size, in sectors, for direct i/o of so many sectors: one piece if that is at most 128 KiB.
unit() {
	if [ $1 -le 256 ]; then echo $1
	elif [ $(($1 % 256)) = 0 ]; then echo 256
	elif [ $(($1 % 8)) = 0 ]; then echo 8
	else echo 1
	fi
}

# put DEVICE SECTOR SEED COUNT: writes the pattern with O_DIRECT.  Two may run at once, in subshells of one shell: each
# has a file of its own, or on two processors one would empty what the other writes.
put() {
	put_file=$(mktemp /tmp/put.XXXXXX)
	pat "$3" "$4" >$put_file
	put_u=$(unit $4)
	dd if=$put_file of=$1 bs=$((put_u * 512)) seek=$(($2 * 512)) \
		count=$(($4 / put_u)) oflag=direct,seek_bytes conv=notrunc \
		status=none
}

# get DEVICE SECTOR COUNT: reads with O_DIRECT.
get() {
	get_u=$(unit $3)
	dd if=$1 bs=$((get_u * 512)) skip=$(($2 * 512)) count=$(($3 / get_u)) \
		iflag=direct,skip_bytes status=none
}

# sum DEVICE SECTOR COUNT: sha256 of a part.
sum() { get $1 $2 $3 | sha256sum | cut -c1-64; }

# first DEVICE SECTOR: the first 24 bytes of a sector, as text.
first() {
	get $1 $2 1 | head -c 24 | tr '\000' '0'
	echo
}

# hd DEVICE SECTOR COUNT: hexdump of a part.
hd() { get $1 $2 $3 | hexdump -C; }
