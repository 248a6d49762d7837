# Sourced by the scripts beside this one, which run inside `dmspec exec`.  A script shows each command line that it
# runs with `t`, and what it proves with `prove`; both go into $RESULTS, from which docs/real-binaries.md is made.

export LVM_SUPPRESS_FD_WARNINGS=1 LC_ALL=C
W=$SCRATCH

# t COMMANDLINE: runs it and shows it, its output and its failure.
t() {
	printf '$ %s\n' "$1"
	eval "$1" 2>"$W/stderr"
	t_status=$?
	cat "$W/stderr"
	printf 't\t%s\t%s\t%s\n' "$t_status" "$1" "$(grep -v WARNING "$W/stderr" | tail -1 | sed 's/^ *//')" >>"$RESULTS"
	[ $t_status = 0 ] || echo "[exit $t_status]"
	return $t_status
}

# no REASON COMMANDLINE: the same for a command line that has to fail, with the reason.
no() {
	printf '$ %s\n' "$2"
	eval "$2" >"$W/stderr" 2>&1
	t_status=$?
	cat "$W/stderr"
	echo "[exit $t_status]"
	if [ $t_status = 0 ]; then t_status=0; kind=bad; else kind=no; fi
	printf '%s\t%s\t%s\t%s\n' $kind "$t_status" "$2" "$1" >>"$RESULTS"
}

# prove WHAT COMMANDLINE: the command line says whether it is so.
prove() {
	if eval "$2" >"$W/proof" 2>&1; then prove_status=0; else prove_status=1; cat "$W/proof"; fi
	printf '# %s: %s\n' "$1" "$([ $prove_status = 0 ] && echo yes || echo NO)"
	printf 'prove\t%s\t%s\t\n' $prove_status "$1" >>"$RESULTS"
}

# fault STATEMENT: something happens to a disk (`fail pv1`, `heal pv1`).
fault() {
	echo "# $1"
	printf 'fault\t0\t%s\t\n' "$1" >>"$RESULTS"
	if [ -z "${GUEST:-}" ]; then
		"$DMSPEC" do --quiet "$DMSPEC_MOUNT" "$1"
		return
	fi
	# In a guest a disk is a linear device over one of the kernel's.
	fault_disk=${1#* }
	fault_number=${fault_disk#pv}
	case $1 in
	fail*) fault_table='0 131072 error' ;;
	heal*) fault_table="0 131072 linear 98:$(((fault_number - 1) * 16)) 0" ;;
	esac
	dmsetup load "$fault_disk" --table "$fault_table"
	dmsetup suspend --noflush --nolockfs "$fault_disk"
	dmsetup resume "$fault_disk"
}

# soon COMMANDLINE: waits until it succeeds, for a minute at most.
soon() {
	soon_i=0
	until eval "$1" >/dev/null 2>&1; do
		soon_i=$((soon_i + 1))
		[ $soon_i -lt 600 ] || return 1
		sleep 0.1
	done
}

# A tree of files of which a file system is made, and which is compared with what is in one.
mkdir -p "$W/tree/folder"
[ -s "$W/tree/words" ] || {
	head -c 300000 /dev/urandom >"$W/tree/folder/bytes"
	seq 5000 >"$W/tree/words"
}

# holds DEVICE: the file system there is whole and holds exactly these files.
holds() {
	rm -rf "$W/seen"
	mkdir "$W/seen"
	e2fsck -fn "$1" && debugfs -R "rdump / $W/seen" "$1" && rmdir "$W/seen/lost+found" && diff -r "$W/tree" "$W/seen"
}

in_sync() { [ "$(lvs --noheadings -o copy_percent "$1" | tr -d ' ')" = 100.00 ]; }
