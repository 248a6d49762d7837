"""The commands that print: info, status, table, deps, ls, targets, version, and what belongs to udev."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from dmspec.dmsetup import VERSION
from dmspec.dmsetup.report_fields import Row, read_ahead, split_lvm_name
from dmspec.dmsetup.task import Answer, CommandFailed, Session, Task
from dmspec.dmsetup.tree import show_tree
from dmspec.runtime import ioctl_format as form

_UDEV_FLAGS = ("DISABLE_DM_RULES", "DISABLE_SUBSYSTEM_RULES", "DISABLE_DISK_RULES", "DISABLE_OTHER_RULES",
               "LOW_PRIORITY", "DISABLE_LIBRARY_FALLBACK", "PRIMARY_SOURCE")
_MOST_WORDS = 64


def each_device(session: Session) -> list[str]:
    """The names of all devices."""
    return [entry.name for entry in session.entries()]


def for_all(session: Session, command: Callable[[str], None]) -> None:
    """Run a command for every device; the failure of one fails the whole when all have had their turn."""
    devices = each_device(session)
    failed = False
    if not devices:
        session.print("No devices found")
    for name in devices:
        try:
            command(name)
        except CommandFailed:
            failed = True
    if failed:
        raise CommandFailed


def _named(session: Session, arguments: list[str]) -> bool:
    """Whether the command line says which device."""
    return bool(arguments) or "uuid" in session.options or "major" in session.options


def _first(arguments: list[str]) -> str | None:
    return arguments[0] if arguments else None


# info


def info(session: Session, arguments: list[str]) -> None:
    """`info`, in lines or in columns."""
    if not _named(session, arguments):
        for_all(session, lambda name: _info_one(session, name))
    else:
        _info_one(session, _first(arguments))


def _info_one(session: Session, name: str | None) -> None:
    display_info(session, session.run(session.task("info", name)))


def display_info(session: Session, answer: Answer) -> None:
    """A device's state, in lines or as a line of the report."""
    if not answer.exists:
        session.fail("Device does not exist.")
    if session.report is not None:
        session.report.add(session.report.row_of(answer))
        return
    header, flags = answer.header, answer.header.flags
    state = "SUSPENDED" if flags & form.SUSPEND else "ACTIVE"
    state += " (READ-ONLY)" if flags & form.READONLY else ""
    state += " (DEFERRED REMOVE)" if flags & form.DEFERRED_REMOVE else ""
    session.print(f"Name:              {answer.name}")
    session.print(f"State:             {state}")
    sectors = read_ahead(session, header)
    if sectors is not None:
        session.print(f"Read Ahead:        {sectors}")
    tables = [word for flag, word in ((form.ACTIVE_PRESENT, "LIVE"), (form.INACTIVE_PRESENT, "INACTIVE"))
              if flags & flag]
    session.print(f"Tables present:    {' & '.join(tables) or 'None'}")
    session.print(f"Open count:        {header.open_count}")
    session.print(f"Event number:      {header.event_nr}")
    major, minor = form.decode_dev(header.dev)
    session.print(f"Major, minor:      {major}, {minor}")
    session.print(f"Number of targets: {header.target_count}")
    if answer.uuid:
        session.print(f"UUID: {answer.uuid}")
    session.print("")


# status and table


def status(session: Session, arguments: list[str]) -> None:
    """`status`, `table`, `measure`, and `ls --target`."""
    if not _named(session, arguments):
        for_all(session, lambda name: _status_one(session, name, several=True))
    else:
        _status_one(session, _first(arguments), several=session.several)


def _status_one(session: Session, name: str | None, *, several: bool) -> None:
    options = session.options
    task = session.task("table" if session.command == "table" else "status", name)
    if "noflush" in options:
        task.flags |= form.NOFLUSH
    if session.command == "measure":
        task.flags |= form.IMA_MEASUREMENT
    answer = session.run(task)
    if not answer.exists:
        session.fail("Device does not exist.")
    name = name if name is not None else answer.name
    specs: list[form.Spec | None] = list(answer.specs()) or [None]
    matched = False
    concise = session.command == "table" and "concise" in options
    silent = "exec" in options and "verbose" not in options
    for spec in specs:
        if "target" in options and (spec is None or spec.kind != options["target"]):
            continue
        if not silent and session.command == "ls":
            major, minor = form.decode_dev(answer.header.dev)
            session.print(f"{name}\t({major}, {minor})")
        elif not silent:
            _show_target(session, answer, name, spec, first=not matched, several=several, concise=concise)
        matched = True
        if session.command == "ls":
            break
    is_list = session.command == "ls" or (concise and options.given["verbose"] < 2)
    if several and "verbose" in options and matched and not is_list:
        session.print("")
    if matched and "exec" in options:
        _execute(session, name)


def _show_target(session: Session, answer: Answer, name: str, spec: form.Spec | None, *, first: bool, several: bool,
                 concise: bool) -> None:
    verbose = "verbose" in session.options
    if not concise:
        if first and verbose:
            display_info(session, answer)
        if several and not verbose:
            session.print(f"{name}: ", end="")
    elif first:
        mode = "ro" if answer.header.flags & form.READONLY else "rw"
        minor = form.decode_dev(answer.header.dev)[1]
        session.print(f"{';' if session.concise_output else ''}{_quoted(name)},{_quoted(answer.uuid)},{minor},{mode}",
                      end="")
        session.concise_output = True
    if spec is not None:
        text = _hide_keys(session, spec)
        session.print(f"{',' if concise else ''}{spec.start} {spec.length} {spec.kind} "
                      f"{_quoted(text) if concise else text}", end="")
    if not concise:
        session.print("")


def _quoted(text: str) -> str:
    return re.sub(r"([,;\\])", r"\\\1", text)


def _hide_keys(session: Session, spec: form.Spec) -> str:
    """Keys of encryption are zeros unless they are asked for."""
    if "showkeys" in session.options or session.command != "table":
        return spec.text
    if spec.kind == "crypt":
        words = spec.text.split(" ")
        if len(words) > 1 and not words[1].startswith(":"):
            words[1] = "0" * len(words[1])
        return " ".join(words)
    if spec.kind == "integrity":
        return re.sub(r"((?:internal_hash|journal_crypt|journal_mac):[^ :]*:)(\S*)",
                      lambda match: match[1] + "0" * len(match[2]), spec.text)
    return spec.text


def _execute(session: Session, name: str) -> None:
    """`--exec`: the command gets the device's path."""
    words = session.options["exec"].split()
    if not words:
        raise CommandFailed
    if len(words) >= _MOST_WORDS:
        session.fail("Too many args to --exec.")
    path = Path("/dev/mapper") / name
    if not path.exists():
        path = Path(session.door.mountpoint()) / name
    session.flush()
    try:
        subprocess.run([*words, str(path)], check=False)
    except OSError:
        return


# Lists


def ls(session: Session, arguments: list[str]) -> None:
    """`ls`."""
    options = session.options
    if options["target"] or options["exec"]:
        status(session, arguments)
    elif "tree" in options:
        entries = session.entries()
        if not entries:
            session.print("No devices found")
        assert session.tree_style is not None
        show_tree(session, entries, session.tree_style)
    else:
        entries = session.entries()
        if not entries:
            session.print("No devices found")
        for entry in entries:
            major, minor = form.decode_dev(entry.dev)
            shown = _device_word(session, major, minor) or f"{major}:{minor}"
            session.print(f"{entry.name}\t({shown})")


def _device_word(session: Session, major: int, minor: int) -> str | None:
    """A device's name, where `-o devname` or `-o blkdevname` asks for names."""
    style = session.name_style
    return session.device_name(major, minor, kernel=style == "blkdevname") if style != "devno" else None


def deps(session: Session, arguments: list[str]) -> None:
    """`deps`."""
    if not _named(session, arguments):
        for_all(session, lambda name: _deps_one(session, name, several=True))
    else:
        _deps_one(session, _first(arguments), several=session.several)


def _deps_one(session: Session, name: str | None, *, several: bool) -> None:
    verbose = "verbose" in session.options
    answer = session.run(session.task("deps", name))
    size = answer.header.data_size
    numbers = form.read_deps(answer.data[:size], answer.header.data_start) if size > form.HEADER_BYTES else []
    if verbose:
        display_info(session, answer)
    line = f"{name}: " if several and not verbose else ""
    line += f"{len(numbers)} dependencies\t:"
    for dev in numbers:
        major, minor = form.decode_dev(dev)
        line += f" ({_device_word(session, major, minor) or f'{major}, {minor}'})"
    session.print(line)
    if several and verbose:
        session.print("")


def targets(session: Session, _arguments: list[str]) -> None:
    """`targets`."""
    _show_versions(session, Task("versions"))


def target_version(session: Session, arguments: list[str]) -> None:
    """`target-version`."""
    _show_versions(session, Task("target-version", arguments[0]))


def _show_versions(session: Session, task: Task) -> None:
    answer = session.run(task)
    for name, version in form.read_versions(answer.data[:answer.header.data_size], answer.header.data_start):
        session.print(f"{name:16} v{version[0]}.{version[1]}.{version[2]}")


def version(session: Session, _arguments: list[str]) -> None:
    """`version`."""
    session.print(f"Library version:   {VERSION}")
    answer = session.run(Task("version"))
    session.print("Driver version:    " + ".".join(str(number) for number in answer.header.version))


def splitname(session: Session, arguments: list[str]) -> None:
    """`splitname`: the parts of a logical volume's name."""
    subsystem = arguments[1] if len(arguments) == 2 else "LVM"
    parts = split_lvm_name(arguments[0]) if subsystem == "LVM" else ("", "", "")
    assert session.report is not None
    session.report.add(Row(session, None, (subsystem, *parts)))


# What belongs to udev, which does not run here: cookies are taken and mean nothing.


def cookie_value(session: Session, text: str) -> int:
    """A cookie: 32 bits, and not 0."""
    try:
        value = int(text, 0) if not re.fullmatch(r"\s*0[0-7]+", text) else int(text, 8)
    except ValueError:
        value = 0
    if not 0 < value <= 0xFFFFFFFF:
        session.fail("Incorrect cookie value.")
    return value


def udevcreatecookie(session: Session, _arguments: list[str]) -> None:
    """`udevcreatecookie`: without udev there is none, and nothing is printed."""


def udevreleasecookie(session: Session, arguments: list[str]) -> None:
    """`udevreleasecookie`."""
    if arguments:
        cookie_value(session, arguments[0])
    elif "udevcookie" not in session.options:
        session.fail("No udev transaction cookie given.")


def udevflags(session: Session, arguments: list[str]) -> None:
    """`udevflags`: what a cookie says to udev's rules."""
    flags = cookie_value(session, arguments[0]) >> 16
    for bit in range(16):
        if not flags & (1 << bit):
            continue
        if bit < len(_UDEV_FLAGS):
            session.print(f"DM_UDEV_{_UDEV_FLAGS[bit]}_FLAG='1'")
        elif bit < 8:
            session.print(f"DM_UDEV_FLAG{bit}='1'")
        else:
            session.print(f"DM_SUBSYSTEM_UDEV_FLAG{bit - 8}='1'")


def udevcomplete(session: Session, arguments: list[str]) -> None:
    """`udevcomplete`."""
    session.print(f"DM_COOKIE_COMPLETED=0x{cookie_value(session, arguments[0]):<10x}")


def udevcomplete_all(session: Session, arguments: list[str]) -> None:
    """`udevcomplete_all`."""
    if arguments and not re.match(r"\s*[0-9]", arguments[0]):
        session.fail("Failed to read age_in_minutes parameter.")
    session.print("0 semaphores with keys prefixed by 3405 (0xd4d) destroyed. 0 skipped.")


def udevcookies(session: Session, _arguments: list[str]) -> None:
    """`udevcookies`."""
    session.print("Cookie       Semid      Value      Last semop time           Last change time")


def mknodes(session: Session, arguments: list[str]) -> None:
    """`mknodes`: each device that is there gets its node."""
    for entry in session.entries():
        if not arguments or entry.name == arguments[0]:
            session.door.node(session.kernel_name(entry.name), there=True)
