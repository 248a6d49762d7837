"""`dmspec doctor`: what this machine has and lacks, what needs it, and the command that mends each lack.

Each probe tries the thing itself (opens the device, loads the library, makes the namespace), because in a
container a file may be there and yet be of no use. The tests ask the same probes what they can run here.
"""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from dmspec.cli.output import EXIT_MACHINE, EXIT_OK, print_json, stdout

DOCTOR_SHAPE_VERSION = 1
_MINIMUM_PYTHON = (3, 11)
_CAP_SYS_ADMIN = 21
_FUSE_DEVICE = Path("/dev/fuse")
_LOOP_CONTROL = Path("/dev/loop-control")
_E2FSPROGS = ("mkfs.ext4", "e2fsck", "debugfs")


@dataclass(frozen=True)
class Check:
    """One thing that a machine has or lacks.

    `found` says in words what is there, or why it does not count. `blocks_mount` is true where this lack
    alone keeps `dmspec mount` from working here.
    """

    name: str
    ok: bool
    found: str
    needed_by: str
    mend: str
    blocks_mount: bool = False


def find_command(name: str) -> str | None:
    """Return the path of a command, looking where administrators' commands are too."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    return shutil.which(name, path=path)


def examine() -> list[Check]:
    """Return all checks, in the order in which they should be mended."""
    libfuse3, libfuse2 = _libfuse(3), _libfuse(2)
    if not libfuse3.ok and not libfuse2.ok:
        libfuse3 = _blocking(libfuse3)  # one of the two is enough; we name the better one
    may_mount = _may_mount()
    fusermount = _fusermount()
    if not may_mount and not fusermount.ok:
        fusermount = _blocking(fusermount)
    return [
        _python(),
        _fuse_device(),
        libfuse3,
        libfuse2,
        fusermount,
        _mount_permission(may_mount),
        _e2fsprogs(),
        _loop(),
        _user_namespaces(),
        _guest_kernel(),
        _exec(),
    ]


def is_ready_to_mount(checks: list[Check]) -> bool:
    """Say whether `dmspec mount` can work on a machine with these checks."""
    return not any(check.blocks_mount and not check.ok for check in checks)


def _blocking(check: Check) -> Check:
    return Check(check.name, check.ok, check.found, check.needed_by, check.mend, blocks_mount=True)


def _install(package: str) -> str:
    """Return the command that installs a package."""
    if find_command("apt-get") is None:
        return f"install {package} (its name on Debian) with this system's package manager"
    return _as_root(f"apt-get install -y {package}")


def _as_root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def _python() -> Check:
    version = sys.version_info
    return Check(
        name="python",
        ok=version[:2] >= _MINIMUM_PYTHON,
        found=f"{version.major}.{version.minor}.{version.micro}",
        needed_by="everything",
        mend=_install("python3.11"),
        blocks_mount=True,
    )


def _open_error(device: Path) -> int:
    """Open a device for reading and writing; return 0, or the errno of the failure."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _fuse_device() -> Check:
    code = _open_error(_FUSE_DEVICE)
    if code == 0:
        found, mend = f"{_FUSE_DEVICE} opens", ""
    elif code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        found, mend = f"{_FUSE_DEVICE} is not there", _as_root("modprobe fuse")
    elif os.geteuid() == 0:
        found = f"{_FUSE_DEVICE} is there, but opening it fails: {os.strerror(code)}"
        mend = "start this container with --device /dev/fuse --cap-add SYS_ADMIN"
    else:
        found = f"{_FUSE_DEVICE} is there, but opening it fails: {os.strerror(code)}"
        mend = _as_root(f"chmod a+rw {_FUSE_DEVICE}")
    return Check("fuse-device", code == 0, found, "mount", mend, blocks_mount=True)


def _libfuse(generation: int) -> Check:
    """Load libfuse 3 or 2 and ask it for its version."""
    sonames = ("libfuse3.so.4", "libfuse3.so.3") if generation == 3 else ("libfuse.so.2",)
    binding = "mfusepy" if generation == 3 else "fusepy"
    found = "no " + " or ".join(sonames)
    ok = False
    for soname in sonames:
        try:
            library = ctypes.CDLL(soname)
        except OSError:
            continue
        library.fuse_version.restype = ctypes.c_int
        number = library.fuse_version()  # 29 is 2.9, 314 is 3.14
        major, minor = (number // 10, number % 10) if number < 100 else (number // 100, number % 100)
        found = f"{soname}, version {major}.{minor}"
        ok = True
        break
    return Check(
        name=f"libfuse{generation}",
        ok=ok,
        found=found,
        needed_by=f"mount --fuse {generation} (through {binding}); one of libfuse3 and libfuse2 is enough",
        mend="" if ok else _install("fuse3" if generation == 3 else "libfuse2"),
    )


def _fusermount() -> Check:
    paths = [path for name in ("fusermount3", "fusermount") if (path := find_command(name))]
    return Check(
        name="fusermount",
        ok=bool(paths),
        found=", ".join(paths) if paths else "no fusermount3 or fusermount",
        needed_by="mount and umount without root",
        mend="" if paths else _install("fuse3"),
    )


def _process_status(field: str, default: str) -> str:
    """Return one field of /proc/self/status."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return default
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}:")), default)


def _may_mount() -> bool:
    """Say whether this very process may call mount(2)."""
    return bool(int(_process_status("CapEff", "0"), 16) >> _CAP_SYS_ADMIN & 1)


def _mount_permission(may_mount: bool) -> Check:
    """Check that a mount is allowed at all: by our own capability, or through the set-uid fusermount."""
    bounded = int(_process_status("CapBnd", "0"), 16) >> _CAP_SYS_ADMIN & 1
    if may_mount:
        ok, found, mend = True, "this process has CAP_SYS_ADMIN", ""
    elif not bounded:
        ok, found = False, "CAP_SYS_ADMIN was taken away from everything in this container"
        mend = "start this container with --device /dev/fuse --cap-add SYS_ADMIN"
    elif os.geteuid() == 0:
        ok, found, mend = False, "root without CAP_SYS_ADMIN", "give this process CAP_SYS_ADMIN"
    elif _process_status("NoNewPrivs", "0") != "0":
        ok, found = False, "no_new_privs is set, so the set-uid fusermount gains nothing"
        mend = "run dmspec outside the sandbox or service that sets no_new_privs"
    else:
        ok, found, mend = True, "through fusermount", ""
    return Check("mount-permission", ok, found, "mount", mend, blocks_mount=True)


def _e2fsprogs() -> Check:
    lacking = [name for name in _E2FSPROGS if find_command(name) is None]
    return Check(
        name="e2fsprogs",
        ok=not lacking,
        found=("no " + ", ".join(lacking)) if lacking else ", ".join(_E2FSPROGS),
        needed_by="the demo and the tests that put ext4 on a volume",
        mend=_install("e2fsprogs") if lacking else "",
    )


def _loop() -> Check:
    needed_by = "mounting a file system that lies on a volume"
    if find_command("losetup") is None:
        return Check("loop", False, "no losetup", needed_by, _install("mount"))
    code = _open_error(_LOOP_CONTROL)
    if code == 0:
        return Check("loop", True, f"losetup, and {_LOOP_CONTROL} opens", needed_by, "")
    found = f"opening {_LOOP_CONTROL} fails: {os.strerror(code)}"
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        mend = _as_root("modprobe loop")
    elif os.geteuid() == 0:
        mend = "start this container with --privileged, or with --device for /dev/loop-control and /dev/loop*"
    else:
        mend = "run as root (sudo)"
    return Check("loop", False, found, needed_by, mend)


def _user_namespaces() -> Check:
    """Make a user namespace in a child process, with this user as its root."""
    needed_by = "mounting without root and without fusermount, inside `unshare --map-root-user --mount`"
    unshare = find_command("unshare")
    if unshare is None:
        return Check("user-namespaces", False, "no unshare", needed_by, _install("util-linux"))
    tried = subprocess.run(
        [unshare, "--user", "--map-root-user", "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode == 0:
        return Check("user-namespaces", True, "a user namespace can be made", needed_by, "")
    found = tried.stderr.strip().splitlines()[-1] if tried.stderr.strip() else "unshare fails"
    mend = "allow user namespaces for this container or user"
    for setting, wanted in (
        ("kernel/unprivileged_userns_clone", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
    ):
        file = Path("/proc/sys") / setting
        if file.exists() and file.read_text().strip() != wanted:
            mend = _as_root(f"sysctl -w {setting.replace('/', '.')}={wanted}")
    return Check("user-namespaces", False, found, needed_by, mend)


def _guest_kernel() -> Check:
    """Look for what a guest is made of: user-mode Linux, and the two programs that run in it."""
    from dmspec.verify.guest import PACKAGES, find_modules, is_static

    paths = {name: find_command(name) for name in PACKAGES}
    if (busybox := paths["busybox"]) and not is_static(Path(busybox)):
        paths["busybox"] = None
    if not find_modules():
        paths["linux.uml"] = None
    lacking = [name for name, path in paths.items() if not path]
    return Check(
        name="guest-kernel",
        ok=not lacking,
        found=("no " + " or ".join(lacking)) if lacking else ", ".join(path for path in paths.values() if path),
        needed_by="verify, which compares with a real Linux device-mapper",
        mend=_install(" ".join(PACKAGES[name] for name in lacking)) if lacking else "",
    )


def _exec() -> Check:
    """Make the filter and the mount namespace of `dmspec exec`, in a child process."""
    tried = subprocess.run([sys.executable, "-m", "dmspec.exec"], stdin=subprocess.DEVNULL, capture_output=True,
                           text=True, check=False)
    found = tried.stdout.strip() or (tried.stderr.strip().splitlines() or ["the probe fails"])[-1]
    return Check(
        name="exec",
        ok=tried.returncode == 0,
        found=found,
        needed_by="exec, which runs the real dmsetup, LVM2 and dmeventd",
        mend="" if tried.returncode == 0 else "run dmspec on x86-64 with Linux 5.14 or newer, outside of a sandbox "
                                              "that forbids seccomp or namespaces",
    )


@click.command(short_help="Say what this machine has and lacks.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (shape dmspec_doctor, version 1).")
def command(as_json: bool) -> int:
    """Say what this machine has and lacks for dmspec, what needs it, and the command that mends it.

    The exit status is 0 where `dmspec mount` can work, and 3 where it cannot.
    """
    checks = examine()
    ready = is_ready_to_mount(checks)
    if as_json:
        body = {"ready_to_mount": ready, "checks": [_as_json(check) for check in checks]}
        print_json("dmspec_doctor", DOCTOR_SHAPE_VERSION, body)
    else:
        _print_checks(checks, ready)
    return EXIT_OK if ready else EXIT_MACHINE


def _as_json(check: Check) -> dict[str, object]:
    return {
        "name": check.name,
        "status": "ok" if check.ok else "missing",
        "found": check.found,
        "needed_by": check.needed_by,
        "mend": None if check.ok else check.mend,
        "blocks_mount": check.blocks_mount and not check.ok,
    }


def _print_checks(checks: list[Check], ready: bool) -> None:
    from rich.text import Text

    console = stdout()
    width = max(len(check.name) for check in checks)
    for check in checks:
        style = "green" if check.ok else "red" if check.blocks_mount else "yellow"
        status = "ok" if check.ok else "missing"
        console.print(Text.assemble((f"{status:8}", style), f"{check.name:{width}}  {check.found}"))
        if not check.ok:
            console.print(Text.assemble(" " * 8, f"{'':{width}}  needed by: {check.needed_by}"))
            console.print(Text.assemble(" " * 8, f"{'':{width}}  to mend:   ", (check.mend, "bold")))
    console.print()
    if ready:
        console.print("dmspec mount works here.")
    else:
        blockers = ", ".join(check.name for check in checks if check.blocks_mount and not check.ok)
        console.print(f"dmspec mount does not work here for want of: {blockers}.")
