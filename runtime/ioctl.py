"""The control core's binary door: device-mapper's ioctls as bytes in and bytes out.

What each command means is said in :mod:`~dmspec.runtime.control`; this module is the rest of
drivers/md/dm-ioctl.c (``ctl_ioctl``, ``copy_params``, ``validate_params``, ``__dev_status``): it checks the
caller's buffer, finds the device, and lays out the answer.  A front end gives the command's number and a copy
of the caller's buffer to :meth:`IoctlCore.call`, runs the frame, and writes the bytes that it gets over the
start of the caller's buffer: after an error that is the interface version alone, as the kernel does it.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any, Final

from . import control
from . import ioctl_format as form
from .control import Clear, DoResume, DoSuspend, Load, Remove, RemoveAll, WaitEvent
from .errors import DmError
from .mapped_device import MappedDevice
from .task import Enter, Frame, Outcome, Return, Task

if TYPE_CHECKING:
    from .stack import Stack
    from .table import Table
    from .targets.base import Target

DRIVER_VERSION: Final = (4, 47, 0)

# Target types in the order in which that kernel lists them, the one that was loaded last first; those in
# MODULES are loaded when somebody asks for them (recorded cases a-basic and h-others).
KERNEL_ORDER: Final = ("dust", "log-writes", "delay", "flakey", "zero", "snapshot-merge", "snapshot-origin",
                       "snapshot", "mirror", "striped", "linear", "error")
MODULES: Final = frozenset({"raid"})

# Commands whose parameters end with the header (IOCTL_FLAGS_NO_PARAMS), and those that ignore it.
_NO_PARAMS: Final = frozenset({form.REMOVE_ALL, form.DEV_CREATE, form.DEV_REMOVE, form.DEV_SUSPEND,
                               form.DEV_STATUS, form.TABLE_CLEAR, form.DEV_ARM_POLL})
_IGNORE_PARAMS: Final = frozenset({form.REMOVE_ALL, form.LIST_DEVICES, form.LIST_VERSIONS})

_COMMANDS: Final = {
    form.REMOVE_ALL: "remove_all", form.LIST_DEVICES: "list_devices", form.DEV_CREATE: "dev_create",
    form.DEV_REMOVE: "dev_remove", form.DEV_RENAME: "dev_rename", form.DEV_SUSPEND: "dev_suspend",
    form.DEV_STATUS: "dev_status", form.DEV_WAIT: "dev_wait", form.TABLE_LOAD: "table_load",
    form.TABLE_CLEAR: "table_clear", form.TABLE_DEPS: "table_deps", form.TABLE_STATUS: "table_status",
    form.LIST_VERSIONS: "list_versions", form.TARGET_MSG: "target_message",
    form.DEV_SET_GEOMETRY: "dev_set_geometry", form.DEV_ARM_POLL: "dev_arm_poll",
    form.GET_TARGET_VERSION: "get_target_version",
}

_GEOMETRY: Final = re.compile(r"\s*(\d{1,20})\s+(\d{1,20})\s+(\d{1,20})\s+(\d{1,20})\Z", re.ASCII)


class IoctlCore:
    """The ioctls of one stack.  ``loaded`` names the target types of modules that have been asked for."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.loaded: list[str] = []

    def call(self, nr: int, data: bytes) -> Ioctl:
        """A frame whose value is ``(errno, bytes)``: 0 or a positive errno, and what to write back."""
        return Ioctl(self, nr, data)

    def load_module(self, kind: str) -> None:
        """What the kernel does when a target type is asked for by name."""
        if kind in MODULES and kind in self.stack.target_types and kind not in self.loaded:
            self.loaded.insert(0, kind)

    def versions(self) -> list[form.Version]:
        """The target types that are there, in the kernel's order."""
        known = self.stack.target_types
        names = [name for name in known if name not in KERNEL_ORDER and name not in MODULES]
        names = [*self.loaded, *names, *(name for name in KERNEL_ORDER if name in known)]
        return [(name, known[name].version) for name in names]


class Ioctl(Frame):
    """One call.  ``header`` is the kernel's copy of the caller's, ``size`` how much of the buffer there is."""

    def __init__(self, core: IoctlCore, nr: int, data: bytes) -> None:
        self.core = core
        self.stack = core.stack
        self.nr = nr
        self.data = data
        self.header = form.Header()
        self.payload = b""
        self.md: MappedDevice | None = None

    def start(self, task: Task) -> Outcome:
        """``ctl_ioctl``: the checks that come before any command, in the kernel's order."""
        if len(self.data) < 12:
            return Return((errno.EFAULT, b""))
        major, minor, patch = form.read_version(self.data)
        if major != DRIVER_VERSION[0] or minor > DRIVER_VERSION[1]:
            kernel = ".".join(str(number) for number in DRIVER_VERSION)
            self._log(f"ioctl interface mismatch: kernel({kernel}), user({major}.{minor}.{patch}), cmd({self.nr})")
            return self._failed(errno.EINVAL)
        if self.nr == form.DM_VERSION:
            return self._failed(0)
        if self.nr not in _COMMANDS:
            self._log(f"dm_ctl_ioctl: unknown command 0x{0xC138FD00 | self.nr & 0xFF:x}")
            return self._failed(errno.ENOTTY)
        error = self._copy_params() or self._validate_params()
        if error:
            return self._failed(error)
        self.header.version = DRIVER_VERSION
        self.header.data_size = form.SMALLEST_BYTES
        try:
            outcome: Outcome = getattr(self, _COMMANDS[self.nr])(task)
        except DmError as problem:
            return self._failed(problem.errno)
        return outcome

    def _copy_params(self) -> int:
        if len(self.data) < form.SMALLEST_BYTES:
            return errno.EFAULT
        size = form.Header.read(self.data[:form.SMALLEST_BYTES]).data_size
        if size < form.SMALLEST_BYTES or size > form.LARGEST_BYTES:
            self._log(f"Invalid data size in the ioctl structure: {size}")
            return errno.EINVAL
        if self.nr in _NO_PARAMS:
            size = form.SMALLEST_BYTES
        if size > len(self.data):
            return errno.EFAULT
        self.data = self.data[:size]
        self.header = form.Header.read(self.data)
        return 0

    def _validate_params(self) -> int:
        header = self.header
        header.flags &= ~(form.BUFFER_FULL | form.UEVENT_GENERATED | form.SECURE_DATA | form.DATA_OUT)
        if self.nr in _IGNORE_PARAMS:
            return 0
        if self.nr == form.DEV_CREATE:
            if not header.name:
                self._log("name not supplied when creating device")
                return errno.EINVAL
        elif header.uuid and header.name:
            self._log(f"only supply one of name or uuid, cmd({self.nr})")
            return errno.EINVAL
        return 0

    # Answers

    def _log(self, text: str, level: str = "err") -> None:
        self.stack.log(level, f"device-mapper: ioctl: {text}")

    def _failed(self, error: int) -> Outcome:
        return Return((error, form.write_version(DRIVER_VERSION)))

    def _answer(self) -> Outcome:
        """As much as ``data_size`` says is copied back; 0 means nothing, but the version always is."""
        size = self.header.data_size
        if not size:
            return self._failed(0)
        return Return((0, (self.header.write() + self.payload)[:size]))

    def _status(self) -> None:
        """``__dev_status``."""
        header, md = self.header, self._device()
        header.flags &= ~(form.SUSPEND | form.READONLY | form.ACTIVE_PRESENT | form.INTERNAL_SUSPEND)
        if md.suspended:
            header.flags |= form.SUSPEND
        if md.deferred_remove:
            header.flags |= form.DEFERRED_REMOVE
        header.dev = form.encode_dev(md.major, md.minor)
        header.open_count = md.open_count
        header.event_nr = md.event_nr
        header.target_count = 0
        inactive = bool(header.flags & form.QUERY_INACTIVE)
        if md.live is not None:
            header.flags |= form.ACTIVE_PRESENT
            if not inactive:
                header.flags |= form.READONLY if md.read_only else 0
                header.target_count = len(md.live.targets)
        if inactive and md.inactive is not None:
            header.flags |= form.READONLY if md.inactive.read_only else 0
            header.target_count = len(md.inactive.targets)

    def _room(self) -> int:
        """``get_result_buffer``: results begin behind the header; how many bytes there are for them."""
        self.header.data_start = form.HEADER_BYTES
        return max(len(self.data) - form.HEADER_BYTES, 0)

    def _put(self, payload: bytes, needed: int | None = None) -> None:
        needed = len(payload) if needed is None else needed
        if self._room() < needed:
            self.header.flags |= form.BUFFER_FULL
            return
        self.payload = payload.ljust(needed, b"\0")
        self.header.data_size = form.HEADER_BYTES + needed

    # Devices

    def _find(self) -> MappedDevice:
        """``__find_device_hash_cell``: by uuid, else by name, else by number; ``ENXIO``."""
        header = self.header
        found: MappedDevice | None = None
        if header.uuid:
            if header.name or header.dev:
                self._log(f"Invalid ioctl structure: uuid {header.uuid}, name {header.name}, dev {header.dev:x}")
                raise DmError(errno.ENXIO)
            found = control.by_uuid(self.stack, header.uuid)
        elif header.name:
            if header.dev:
                self._log(f"Invalid ioctl structure: name {header.name}, dev {header.dev:x}")
                raise DmError(errno.ENXIO)
            found = self.stack.devices.get(header.name)
        elif header.dev:
            major, minor = form.decode_dev(header.dev)
            found = control.by_number(self.stack, major, minor)
        if found is None:
            raise DmError(errno.ENXIO)
        self.md = found
        header.name, header.uuid = found.name, found.uuid
        header.flags &= ~form.INACTIVE_PRESENT
        header.flags |= form.INACTIVE_PRESENT if found.inactive is not None else 0
        return found

    def _device(self) -> MappedDevice:
        assert self.md is not None
        return self.md

    def _table(self) -> Table | None:
        md = self._device()
        return md.inactive if self.header.flags & form.QUERY_INACTIVE else md.live

    # Commands that end at once

    def list_devices(self, task: Task) -> Outcome:
        """Every device by name, with its event number."""
        del task
        wants_uuid = bool(self.header.flags & form.UUID)
        self._put(form.write_names([
            form.NameEntry(form.encode_dev(md.major, md.minor), name, md.event_nr, md.uuid if wants_uuid else None)
            for name, md in sorted(self.stack.devices.items(), key=lambda item: form.encode(item[0]))]))
        return self._answer()

    def dev_create(self, task: Task) -> Outcome:
        """A new device; with the persistent flag the caller says its minor number (its major is ignored)."""
        del task
        header = self.header
        minor = form.decode_dev(header.dev)[1] if header.flags & form.PERSISTENT_DEV else None
        self.md = control.create(self.stack, header.name, uuid=header.uuid, minor=minor)
        header.flags &= ~form.INACTIVE_PRESENT
        self._status()
        return self._answer()

    def dev_rename(self, task: Task) -> Outcome:
        """Another name, or a uuid.  The header keeps the name that the caller gave."""
        del task
        header = self.header
        changes_uuid = bool(header.flags & form.UUID)
        text = form.text_at(self.data, header.data_start)
        most = (form.UUID_BYTES if changes_uuid else form.NAME_BYTES) - 1
        if not text or len(form.encode(text)) > most:
            self._log("Invalid new mapped device name or uuid string supplied.")
            raise DmError(errno.EINVAL)
        if changes_uuid:
            self.md = control.rename_by_name(self.stack, header.name, uuid=text)
        else:
            self.md = control.rename_by_name(self.stack, header.name, name=text)
        header.flags |= form.UEVENT_GENERATED
        self._status()
        return self._answer()

    def dev_status(self, task: Task) -> Outcome:
        """``dmsetup info``."""
        del task
        self._find()
        self._status()
        return self._answer()

    def table_deps(self, task: Task) -> Outcome:
        """The devices of a table, the last one first."""
        del task
        self._find()
        self._status()
        table = self._table()
        if table is not None:
            self._put(form.write_deps([form.encode_dev(one.major, one.minor) for one in table.devices]))
        return self._answer()

    def table_status(self, task: Task) -> Outcome:
        """Status or table, one spec for each target."""
        del task
        self._find()
        self._status()
        self._retrieve_status()
        return self._answer()

    def _retrieve_status(self) -> None:
        table = self._table()
        if table is None:
            return
        header = self.header
        specs = [form.Spec(target.begin, target.length, kind, self._text(kind, target))
                 for kind, target in zip(table.types, table.targets, strict=True)]
        self.payload, used, is_full = form.write_status(specs, self._room())
        if used:
            header.data_size = form.HEADER_BYTES + used
        if is_full:
            header.flags |= form.BUFFER_FULL
        header.target_count = len(specs)

    def _text(self, kind: str, target: Target) -> str:
        flags = self.header.flags
        if flags & form.STATUS_TABLE:
            return target.parameters()
        if not flags & form.IMA_MEASUREMENT:
            return target.info()
        version = ".".join(str(number) for number in self.stack.target_types[kind].version)
        words = target.measurement()
        return ",".join([f"target_name={kind}", f"target_version={version}", *words]) + ";" if words else ""

    def list_versions(self, task: Task) -> Outcome:
        """Target types and their versions."""
        del task
        self._put(*form.write_versions(self.core.versions()))
        return self._answer()

    def get_target_version(self, task: Task) -> Outcome:
        """One target type; ``EINVAL`` where there is none of that name."""
        del task
        kind = self.header.name
        if kind not in self.stack.target_types:
            raise DmError(errno.EINVAL)
        self.core.load_module(kind)
        self._put(*form.write_versions([(kind, self.stack.target_types[kind].version)]))
        return self._answer()

    def target_message(self, task: Task) -> Outcome:
        """A message to the target at a sector; without a live table it goes nowhere, and that is no error."""
        del task
        md = self._find()
        said = form.read_message(self.data, self.header.data_start)
        if said is None:
            self._log("Invalid target message parameters.")
            raise DmError(errno.EINVAL)
        sector, text = said
        self._room()
        answer = control.message(md, sector, text)
        self._status()
        if answer:
            self.header.flags |= form.DATA_OUT
            self._put(form.encode(answer) + b"\0")
        elif md.live is None and not text.lstrip().startswith("@"):
            return self._failed(0)
        return self._answer()

    def dev_set_geometry(self, task: Task) -> Outcome:
        """Cylinders, heads, sectors, start: checked, and then of no use to anybody here."""
        del task
        self._find()
        text = form.text_at(self.data, self.header.data_start)
        if text is None:
            self._log("Invalid geometry supplied.")
            raise DmError(errno.EINVAL)
        match = _GEOMETRY.match(text)
        if match is None:
            self._log("Unable to interpret geometry settings.")
            raise DmError(errno.EINVAL)
        cylinders, heads, sectors, start = (int(word) for word in match.groups())
        if cylinders > 65535 or heads > 255 or sectors > 255:
            self._log("Geometry exceeds range limits.")
            raise DmError(errno.EINVAL)
        if start > cylinders * heads * sectors:
            self.stack.log("err", "device-mapper: core: Start sector is beyond the geometry limits.")
            raise DmError(errno.EINVAL)
        self.header.data_size = 0
        return self._answer()

    def dev_arm_poll(self, task: Task) -> Outcome:
        """Nothing polls the control node here."""
        del task
        return self._answer()

    # Commands that may wait

    def dev_wait(self, task: Task) -> Outcome:
        """Wait for an event number other than the caller's; then tell the status."""
        del task
        return Enter(WaitEvent(self._find(), self.header.event_nr), "waited")

    def waited(self, task: Task) -> Outcome:
        """An event has happened, or the caller was interrupted."""
        del task
        if self._error():
            return self._failed(self._error())
        self._status()
        self._retrieve_status()
        return self._answer()

    def dev_suspend(self, task: Task) -> Outcome:
        """Suspend or resume, as the flag says."""
        del task
        md = self._find()
        flags = self.header.flags
        options: dict[str, Any] = {"noflush": bool(flags & form.NOFLUSH), "lockfs": not flags & form.SKIP_LOCKFS}
        if flags & form.SUSPEND:
            return Enter(DoSuspend(md, **options), "suspended")
        self.header.flags &= ~form.INACTIVE_PRESENT
        self.resume = DoResume(md, **options)
        return Enter(self.resume, "resumed")

    def suspended(self, task: Task) -> Outcome:
        """The suspend is over."""
        del task
        if self._error():
            return self._failed(self._error())
        self._status()
        return self._answer()

    def resumed(self, task: Task) -> Outcome:
        """The resume is over; it told udev if it resumed anything."""
        if self.resume.uevent:
            self.header.flags |= form.UEVENT_GENERATED
        return self.suspended(task)

    def table_load(self, task: Task) -> Outcome:
        """Build a table from the specs and put it into the inactive slot."""
        del task
        md = self._find()
        header = self.header
        if not header.target_count:
            self._log("populate_table: no targets specified")
            raise DmError(errno.EINVAL)
        if header.target_count > form.MOST_TARGETS:
            raise DmError(errno.EOVERFLOW)
        try:
            specs = form.read_table(self.data, header.data_start, header.target_count)
        except form.BadSpecError:
            self._log("unable to find target")
            raise DmError(errno.EINVAL) from None
        for spec in specs:
            self.core.load_module(spec.kind)
        lines = [(spec.start, spec.length, spec.kind, spec.text) for spec in specs]
        return Enter(Load(md, lines, read_only=bool(header.flags & form.READONLY)), "loaded")

    def loaded(self, task: Task) -> Outcome:
        """The table is there, or has been refused."""
        self.header.flags |= form.INACTIVE_PRESENT
        return self.suspended(task)

    def table_clear(self, task: Task) -> Outcome:
        """Destroy the inactive table."""
        del task
        return Enter(Clear(self._find()), "cleared")

    def cleared(self, task: Task) -> Outcome:
        """It is gone."""
        self.header.flags &= ~form.INACTIVE_PRESENT
        return self.suspended(task)

    def dev_remove(self, task: Task) -> Outcome:
        """Remove a device, or mark it to be removed when its last user closes it."""
        del task
        deferred = bool(self.header.flags & form.DEFERRED_REMOVE)
        return Enter(Remove(self._find(), deferred=deferred), "removed")

    def removed(self, task: Task) -> Outcome:
        """It is gone, or marked."""
        del task
        if self._error():
            return self._failed(self._error())
        if not self._device().deferred_remove:
            self.header.flags &= ~form.DEFERRED_REMOVE
            self.header.flags |= form.UEVENT_GENERATED
        return self._answer()

    def remove_all(self, task: Task) -> Outcome:
        """Remove every device that nobody uses, again and again until none goes."""
        del task
        return Enter(RemoveAll(self.stack, deferred=bool(self.header.flags & form.DEFERRED_REMOVE)), "all_removed")

    def all_removed(self, task: Task) -> Outcome:
        """What is left is in use."""
        del task
        self.header.data_size = 0
        return self._answer()

    def _error(self) -> int:
        return -self.result if isinstance(self.result, int) and self.result < 0 else 0
