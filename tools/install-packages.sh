#!/bin/sh
# Installs, through apt, the Debian or Ubuntu packages that `make test` and `make demo` need and this machine lacks.
#
#     tools/install-packages.sh PYTHON            what everything here needs
#     tools/install-packages.sh PYTHON browser    Chromium, which only the tests of a report's page need
#     tools/install-packages.sh PYTHON guest      a real kernel as a process, which only `dmspec verify` needs
#     tools/install-packages.sh PYTHON lvm        LVM2, dmeventd and strace, which only tests of `dmspec exec` need
#     tools/install-packages.sh PYTHON bench      what `make bench` measures beside us, and with
#
# It looks for the things themselves (a library, a command, a Python module), not for package names, because the names
# differ between releases. Where nothing is missing it says nothing and does not touch apt. Without root and without
# sudo it prints the one command to run and exits 3; exit 1 means that apt ran and something is missing still.
set -u

python=${1:?usage: tools/install-packages.sh PYTHON [browser|guest|lvm|bench]}
wanted=${2:-}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # where mkfs, losetup and ldconfig are, also for a plain user

have_library() { ldconfig -p 2>/dev/null | grep -q "^[[:space:]]*$1\.so\.[0-9]"; }
have_command() { command -v "$1" >/dev/null 2>&1; }
have_static_busybox() { have_command busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1; }
have_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

# Prints one line for each thing that is missing: what it is, then the packages that may bring it, best first. The last
# is a name that every release knows, if only as one that another package provides.
list_missing() {
    if [ "$wanted" = browser ]; then
        have_command chromium || echo 'chromium: chromium'
        have_command chromedriver || echo 'chromedriver: chromium-driver'
        return
    fi
    if [ "$wanted" = guest ]; then
        have_command linux.uml || echo 'linux.uml: user-mode-linux'
        have_static_busybox || echo 'static busybox: busybox-static'
        have_command dmsetup || echo 'dmsetup: dmsetup'
        return
    fi
    if [ "$wanted" = lvm ]; then
        have_command dmsetup || echo 'dmsetup: dmsetup'
        have_command lvm || echo 'lvm: lvm2'
        have_command dmeventd || echo 'dmeventd: dmeventd'
        have_command strace || echo 'strace: strace'
        return
    fi
    if [ "$wanted" = bench ]; then
        have_command qemu-storage-daemon || echo 'qemu-storage-daemon: qemu-system-common'
        have_command qemu-img || echo 'qemu-img: qemu-utils'
        have_command nbdkit || echo 'nbdkit: nbdkit'
        have_command nbdfuse || echo 'nbdfuse: nbdfuse libnbd-bin'
        have_command fio || echo 'fio: fio'
        return
    fi
    have_library libfuse3 || echo 'libfuse3: libfuse3-4 libfuse3-3 fuse3'
    have_library libfuse || echo 'libfuse2: libfuse2t64 libfuse2'
    have_command fusermount3 || echo 'fusermount3: fuse3'
    for tool in mkfs.ext4 e2fsck debugfs; do
        have_command "$tool" || echo "$tool: e2fsprogs"
    done
    for tool in mount umount losetup; do
        have_command "$tool" || echo "$tool: mount util-linux"
    done
    have_command unshare || echo 'unshare: util-linux'
    for tool in spin gcc; do # the tests of --to promela
        have_command "$tool" || echo "$tool: $tool"
    done
    if ! have_venv; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || version=3
        echo "venv for $python: python$version-venv python3-venv"
    fi
}

# Reads lines of list_missing and prints the packages to install: of each line the first that apt knows, or, where apt
# knows none of them (no lists yet, say), the last, so that apt itself reports the name.
choose_packages() {
    while IFS= read -r line; do
        chosen=
        for package in ${line#*: }; do
            chosen=$package
            if apt-cache show --no-all-versions "$package" >/dev/null 2>&1; then
                break
            fi
        done
        echo "$chosen"
    done | sort -u | tr '\n' ' ' | sed 's/ $//'
}

missing=$(list_missing)
[ -n "$missing" ] || exit 0
what=$(printf '%s\n' "$missing" | sed 's/: .*//' | tr '\n' ',' | sed 's/,$//; s/,/, /g')

if ! have_command apt-get; then
    echo "dmspec: missing on this machine: $what; there is no apt-get here, so install them by your own means" >&2
    exit 3
fi

if [ "$(id -u)" -eq 0 ]; then
    as_root='env DEBIAN_FRONTEND=noninteractive'
elif have_command sudo; then
    if [ -t 0 ]; then
        as_root='sudo env DEBIAN_FRONTEND=noninteractive'
    else
        as_root='sudo -n env DEBIAN_FRONTEND=noninteractive' # nobody is there to type a password
    fi
else
    packages=$(printf '%s\n' "$missing" | choose_packages)
    echo "dmspec: missing on this machine: $what; as root, run:" >&2
    echo "    apt-get update && apt-get install -y --no-install-recommends $packages" >&2
    exit 3
fi

echo "dmspec: missing on this machine: $what"
apt_options='-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3'
echo "dmspec: $as_root apt-get update"
# One broken foreign source must not stop us: what matters is whether the install works.
# shellcheck disable=SC2086
$as_root apt-get $apt_options -qq update </dev/null || echo 'dmspec: apt-get update complained; going on' >&2

packages=$(printf '%s\n' "$missing" | choose_packages)
echo "dmspec: $as_root apt-get install -y --no-install-recommends $packages"
# shellcheck disable=SC2086
$as_root apt-get $apt_options -qq install -y --no-install-recommends $packages </dev/null || {
    echo "dmspec: apt-get could not install: $packages" >&2
    exit 1
}

missing=$(list_missing)
if [ -n "$missing" ]; then
    echo 'dmspec: apt-get ended well, but these are missing still:' >&2
    printf '%s\n' "$missing" | sed 's/^/    /' >&2
    exit 1
fi
echo "dmspec: installed: $packages"
