"""The configuration that LVM2 finds in /etc/lvm: Debian's defaults, with what this machine needs otherwise.

Without a udev LVM makes and removes its nodes itself, and looks for devices in /dev; everything it writes
(metadata backups, locks, hints) stays with the mount.  A higher priority is for root alone, and of no use here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dmspec.dmsetup.surroundings import Namespace

PLACE: Final = Path("/etc/lvm")

TEXT: Final = """\
# Written by dmspec exec; edit it here and it lasts as long as the mount.
devices {
	dir = "/dev"
	scan = [ "/dev" ]
	obtain_device_list_from_udev = 0
	external_device_info_source = "none"
	use_devicesfile = 0
	hints = "none"
	multipath_component_detection = 0
}
activation {
	udev_sync = 0
	udev_rules = 0
	verify_udev_operations = 0
	process_priority = 0
}
global {
	locking_dir = "/run/lock/lvm"
	use_lvmpolld = 0
	notify_dbus = 0
	event_activation = 0
}
"""


def show_configuration(namespace: Namespace, folder: Path) -> None:
    """Put it in place, where LVM is installed at all."""
    if not PLACE.is_dir():
        return
    own = folder / "lvm"
    own.mkdir(exist_ok=True)
    if not (own / "lvm.conf").exists():
        (own / "lvm.conf").write_text(TEXT)
    for path in PLACE.iterdir():
        if path.name == "profile" and path.is_dir():
            (own / "profile").mkdir(exist_ok=True)
            namespace.bind(path, own / "profile")
    namespace.bind(own, PLACE)
