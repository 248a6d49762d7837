"""One task of libdm: an ioctl with its buffer, its retries, and what is said when it fails."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from dmspec.dmsetup import names
from dmspec.dmsetup.door import Block, Door
from dmspec.dmsetup.options import Options, atoi
from dmspec.runtime import ioctl_format as form

if TYPE_CHECKING:
    from dmspec.dmsetup.report import Report
    from dmspec.dmsetup.tree import Style, Tree

# Each kind's command number and the interface version that it asks for.
KINDS: Final[dict[str, tuple[int, tuple[int, int, int]]]] = {
    "create": (form.DEV_CREATE, (4, 0, 0)), "reload": (form.TABLE_LOAD, (4, 0, 0)),
    "remove": (form.DEV_REMOVE, (4, 0, 0)), "remove_all": (form.REMOVE_ALL, (4, 0, 0)),
    "suspend": (form.DEV_SUSPEND, (4, 0, 0)), "resume": (form.DEV_SUSPEND, (4, 0, 0)),
    "info": (form.DEV_STATUS, (4, 0, 0)), "deps": (form.TABLE_DEPS, (4, 0, 0)),
    "rename": (form.DEV_RENAME, (4, 0, 0)), "version": (form.DM_VERSION, (4, 0, 0)),
    "status": (form.TABLE_STATUS, (4, 0, 0)), "table": (form.TABLE_STATUS, (4, 0, 0)),
    "waitevent": (form.DEV_WAIT, (4, 0, 0)), "names": (form.LIST_DEVICES, (4, 0, 0)),
    "clear": (form.TABLE_CLEAR, (4, 0, 0)), "versions": (form.LIST_VERSIONS, (4, 1, 0)),
    "message": (form.TARGET_MSG, (4, 2, 0)), "setgeometry": (form.DEV_SET_GEOMETRY, (4, 6, 0)),
    "target-version": (form.GET_TARGET_VERSION, (4, 41, 0)),
}

_BUFFER_BYTES: Final = 16 * 1024
_MOST_DOUBLINGS: Final = 9
_REMOVE_ATTEMPTS: Final = 25
_REMOVE_PAUSE_SECONDS: Final = 0.2
# What libdm puts into event_nr for udev where udev does not run (recorded case g-ioctl).
_UDEV: Final = 0x00430000
_WITH_UEVENT: Final = frozenset({"resume", "remove", "rename"})
_GROWS: Final = frozenset({"versions", "names", "deps", "status", "table", "waitevent", "message"})
_MISSING_IS_NO_ERROR: Final = frozenset({"info", "status"})
# Files that /dev/mapper has anyway.
_NO_NODES: Final = frozenset({".", "..", "control"})
_SILENT: Final = 4  # EINTR: the user has pressed Ctrl-C and knows


class CommandFailed(Exception):
    """A command ends here; what there was to say has been said."""


@dataclass
class Task:
    """What is to be asked.  ``name`` and ``uuid`` are as the user writes them."""

    kind: str
    name: str | None = None
    uuid: str | None = None
    major: int = -1
    minor: int = -1
    flags: int = 0
    event_nr: int = 0
    payload: bytes = b""
    targets: list[form.Spec] = field(default_factory=list)
    plain_name: bool = False
    retry: bool = False
    node_on_create: bool = False
    node_on_resume: bool = True
    read_ahead: str = ""


@dataclass
class Answer:
    """What came back: the header, the whole buffer, and whether there is such a device."""

    header: form.Header
    data: bytes
    exists: bool = True
    name: str = ""
    uuid: str = ""

    def specs(self) -> list[form.Spec]:
        """The targets of a status or table."""
        return form.read_status(self.data, self.header.data_start, self.header.target_count)


class Session:
    """One call of dmsetup: its options, the mount, and where its words go."""

    def __init__(self, options: Options, door: Door) -> None:
        self.options = options
        self.door = door
        self.mangling = options["manglename"].lower() or "auto"
        self.doublings = 0
        self.command = ""
        self.several = False
        self.name_style = "devno"
        self.tree_style: Style | None = None
        self.concise_output = False
        self.report: Report | None = None
        self._blocks: list[Block] | None = None
        self._tree: Tree | None = None

    # What is said

    def print(self, text: str, end: str = "\n") -> None:
        """A line on stdout."""
        sys.stdout.write(text + end)

    def error(self, text: str) -> None:
        """A line on stderr, behind everything that has been printed."""
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def fail(self, text: str) -> NoReturn:
        """Say why, and end the command."""
        self.error(text)
        raise CommandFailed

    def flush(self) -> None:
        """Print before somebody else prints."""
        sys.stdout.flush()

    # What there is

    def blocks(self) -> list[Block]:
        """All block devices, as they are the first time that somebody asks."""
        if self._blocks is None:
            self._blocks = self.door.blocks()
        return self._blocks

    def device_name(self, major: int, minor: int, *, kernel: bool) -> str | None:
        """What sysfs calls a device: its name in device-mapper, or the kernel's."""
        for block in self.blocks():
            if (block.major, block.minor) == (major, minor):
                return block.kernel if kernel or not block.name else block.name
        return None

    def entries(self) -> list[form.NameEntry]:
        """All devices by name, with the names as they are shown."""
        answer = self.run(Task("names"))
        found = form.read_names(answer.data[:answer.header.data_size], answer.header.data_start)
        entries, failed = [], False
        for entry in found:
            try:
                name = names.shown(entry.name, "name", self.mangling)
                entries.append(form.NameEntry(entry.dev, name, entry.event_nr))
            except names.BadNameError as error:
                self.error(str(error))
                failed = True
        if failed:
            raise CommandFailed
        return entries

    def tree(self) -> Tree:
        """The tree of all devices, made the first time that somebody asks."""
        if self._tree is None:
            from dmspec.dmsetup.tree import build

            self._tree = build(self, self.entries())
        return self._tree

    # Tasks

    def task(self, kind: str, name: str | None = None, *, required: bool = True) -> Task:
        """A task for a device: by its name, else by the options that say which; with the common flags."""
        options = self.options
        task = Task(kind)
        if name is not None:
            self.name_task(task, name)
        elif "uuid" in options:
            task.uuid = options["uuid"]
        elif "major" in options and "minor" in options:
            task.major, task.minor = options.number("major"), options.number("minor")
        elif required:
            self.fail("No device specified.")
        if "noopencount" in options:
            task.flags |= form.SKIP_BDGET
        if "inactive" in options:
            task.flags |= form.QUERY_INACTIVE
        return task

    def name_task(self, task: Task, name: str) -> None:
        """Say which device by its name.  A name with a slash is the path of an existing device."""
        task.name = name
        if "/" not in name:
            return
        if task.kind == "create":
            self.fail(f'Name "{name}" invalid. It contains "/".')
        path = Path(name)
        if not path.exists() and not path.is_absolute() and name.count("/") == 1:
            path = Path("/dev") / path
        base = path.name
        folders = (Path("/dev/mapper").resolve(), Path(self.door.mountpoint()).resolve())
        blocks = {block.name: block for block in self.blocks() if block.name and block.node}
        if base.startswith("dm-"):
            base = next((block.name for block in blocks.values() if block.kernel == base), base)
        elif path.parent.resolve() not in folders:
            base = ""
        if base not in blocks:
            self.fail(f"Device {name} not found")
        task.name, task.plain_name = base, True

    def run(self, task: Task) -> Answer:
        """Send it, with larger buffers while the answer does not fit; what fails is said and ends the command."""
        attempts = 0
        while True:
            header, data = self._buffer(task)
            error, back = self.door.ioctl(KINDS[task.kind][0], data)
            answer = Answer(form.Header.read(back[:form.HEADER_BYTES]), back)
            if error:
                attempts += 1
                self._failed(task, header, error, attempts)
                if error == 6 and task.kind in _MISSING_IS_NO_ERROR:
                    answer.exists = False
                    return answer
                time.sleep(_REMOVE_PAUSE_SECONDS)
                continue
            if answer.header.flags & form.BUFFER_FULL and task.kind in _GROWS and self.doublings < _MOST_DOUBLINGS:
                self.doublings += 1
                continue
            break
        answer.name = names.unmangle(answer.header.name, self.mangling)
        answer.uuid = names.unmangle(answer.header.uuid, self.mangling)
        self._nodes(task, answer)
        return answer

    def _buffer(self, task: Task) -> tuple[form.Header, bytes]:
        """What the kernel is to be told: the header, and behind it the targets or what else belongs to the command."""
        version = KINDS[task.kind][1]
        payload = form.write_specs(task.targets) or task.payload
        size = max(form.HEADER_BYTES + len(payload), _BUFFER_BYTES) << self.doublings
        header = form.Header(version, size, form.HEADER_BYTES, len(task.targets), flags=task.flags | form.EXISTS,
                             event_nr=task.event_nr)
        if task.minor >= 0:
            if task.major <= 0:
                self.error("Missing major number for persistent device.")
                self.fail("Couldn't create ioctl argument.")
            header.flags |= form.PERSISTENT_DEV
            header.dev = form.encode_dev(task.major, task.minor)
        by_number = task.minor >= 0 and task.major >= 0
        if task.name is not None and not (by_number and task.kind in ("resume", "reload")):
            header.name = self._kernel_name(task)
        if task.uuid is not None:
            header.uuid = self._checked(names.uuid, task.uuid)
        if task.kind == "suspend":
            header.flags |= form.SUSPEND
        elif task.kind == "table":
            header.flags |= form.STATUS_TABLE
        elif task.kind in _WITH_UEVENT:
            header.event_nr |= _UDEV
        return header, (header.write() + payload).ljust(size, b"\0")

    def kernel_name(self, text: str) -> str:
        """A name as the kernel has it."""
        return self._checked(names.device_name, text)

    def _kernel_name(self, task: Task) -> str:
        assert task.name is not None
        if task.kind == "target-version":
            return task.name
        return self._checked(names.device_name, task.name, "none" if task.plain_name else self.mangling)

    def _checked(self, function: object, text: str, mode: str | None = None) -> str:
        try:
            found = function(text, mode or self.mangling)  # type: ignore[operator]
        except names.BadNameError as error:
            self.fail(str(error))
        assert isinstance(found, str)
        return found

    def check_name(self, task: Task) -> None:
        """What is wrong with a name is said before anything else is looked at."""
        if task.name is not None:
            self._kernel_name(task)

    def _failed(self, task: Task, header: form.Header, error: int, attempts: int) -> None:
        """Return if it is to be tried again, or if a missing device is an answer."""
        if error == 6 and task.kind in _MISSING_IS_NO_ERROR:
            return
        if error != _SILENT:
            number = ""
            if task.major > 0:
                number = f"({task.major}:{max(task.minor, 0)})"
            name = header.name or (self._kernel_name(task) if task.name else "")
            self.error(f"device-mapper: {task.kind} ioctl on {name} {header.uuid}{number} failed: "
                       f"{os.strerror(error)}")
        if error != 16 or not task.retry or attempts >= _REMOVE_ATTEMPTS:
            raise CommandFailed

    def _read_ahead(self, answer: Answer, wanted: str) -> None:
        """Sectors, of which the queue hears in whole KiB; behind a plus they are a least value."""
        major, minor = form.decode_dev(answer.header.dev)
        block = next((one for one in self.door.blocks() if (one.major, one.minor) == (major, minor)), None)
        if block is None or not block.set_up:
            return
        sectors = min(max(atoi(wanted), 0) + 1 & ~1, 1 << 30)
        if wanted.startswith("+"):
            sectors = max(sectors, block.read_ahead)
        self.door.set_read_ahead(f"{major}:{minor}", sectors)

    def _nodes(self, task: Task, answer: Answer) -> None:
        """The files in /dev/mapper are user space's business: libdm makes, removes and renames them."""
        if task.name is None:
            return
        name = self._kernel_name(task)
        if (task.kind == "create" and task.node_on_create) or (task.kind == "resume" and task.node_on_resume):
            if name in _NO_NODES:
                self.error(f"A non-block device file at '/dev/mapper/{name}' is already present")
                return
            self.door.node(answer.header.name or name, there=True)
            if task.read_ahead:
                self._read_ahead(answer, task.read_ahead)
        elif task.kind == "remove":
            self.door.node(name, there=False)
