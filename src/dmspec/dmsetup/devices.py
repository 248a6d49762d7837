"""The commands that do something to a device: create, load, suspend, resume, remove, rename, message, wait."""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import replace
from pathlib import Path

from dmspec.dmsetup import names
from dmspec.dmsetup.options import Options, atoi
from dmspec.dmsetup.show import display_info, each_device
from dmspec.dmsetup.task import CommandFailed, Session, Task
from dmspec.runtime import ioctl_format as form
from dmspec.runtime.block import DM_MAJOR

_NUMBER = re.compile(r"\s*([+-]?[0-9]+)", re.ASCII)
_U64 = (1 << 64) - 1
_ENDS = " \t\n\v\f\r"


# Tables


def parse_line(session: Session, text: str, where: str, number: int) -> form.Spec | None:
    """One line of a table, as ``sscanf("%llu %llu %s")`` takes it; nothing for a blank line or a remark.

    A backslash quotes the next character for the kernel, so what is meant by one is two of them.
    """
    text = text.strip(_ENDS)
    if not text or text.startswith("#"):
        return None
    values = []
    rest = text
    for _ in range(2):
        match = _NUMBER.match(rest)
        if match is None:
            break
        value = int(match[1][:60])
        values.append(value & _U64 if value < 0 else min(value, _U64))
        rest = rest[match.end():]
    rest = rest.lstrip(_ENDS)
    if len(values) < 2 or not rest:
        session.fail(f"Invalid format on line {number} of table {where}.")
    kind = re.split(f"[{_ENDS}]", rest, maxsplit=1)[0]
    params = rest[len(kind):].lstrip(_ENDS).split("#", 1)[0]
    if len(form.encode(kind)) >= 16:
        session.fail(f"Target type name {kind} is too long.")
    return form.Spec(values[0], values[1], kind, params.replace("\\", "\\\\"))


def read_table(session: Session, file: str | None) -> list[form.Spec]:
    """The table of ``--table``, else that of a file, else that on stdin."""
    if "table" in session.options:
        lines, where = session.options["table"].split("\n"), ""
    elif file is not None:
        try:
            lines, where = _text(Path(file).read_bytes()), file
        except OSError:
            session.fail(f"Couldn't open '{file}' for reading.")
    else:
        lines, where = _text(sys.stdin.buffer.read()), "on stdin"
    specs = [parse_line(session, line, where, number) for number, line in enumerate(lines, 1)]
    return [spec for spec in specs if spec is not None]


def _text(data: bytes) -> list[str]:
    return data.decode("utf-8", "surrogateescape").split("\n")


def load(session: Session, arguments: list[str]) -> None:
    """``load`` and ``reload``."""
    options = session.options
    if "notable" in options:
        session.fail("--notable only available when creating new device.")
    name = None
    rest = list(arguments)
    if "uuid" not in options and "major" not in options:
        if not rest:
            session.fail("Please specify device.")
        name = rest.pop(0)
    elif len(rest) > 1:
        session.fail("Too many command line arguments.")
    task = session.task("reload", name)
    session.check_name(task)
    task.targets = read_table(session, rest[0] if rest else None)
    if "readonly" in options:
        task.flags |= form.READONLY
    answer = session.run(task)
    if "verbose" in options:
        display_info(session, answer)


# Create


def create(session: Session, arguments: list[str]) -> None:
    """``create``, of one device or of those of a concise description."""
    options = session.options
    if "concise" in options:
        if len(arguments) > 1:
            session.fail("dmsetup create --concise takes at most one argument")
        create_concise(session, arguments)
        return
    if not arguments:
        session.fail("Please provide a name for the new device.")
    create_one(session, arguments[0], arguments[1] if len(arguments) == 2 else None)


def create_one(session: Session, name: str, file: str | None) -> None:
    """Create; with a table load it and resume; take the device away again if one of them fails."""
    options = session.options
    task = Task("create", name)
    session.name_task(task, name)
    session.check_name(task)
    if "uuid" in options:
        task.uuid = options["uuid"]
    table = [] if "notable" in options else read_table(session, file)
    read_only = form.READONLY if "readonly" in options else 0
    if "major" in options:
        task.major = options.number("major")
    if "minor" in options:
        task.minor = options.number("minor")
        task.major = task.major if "major" in options else DM_MAJOR
    task.node_on_create = "addnodeoncreate" in options
    task.read_ahead = read_ahead(options)
    if not table:
        task.flags |= read_only
        answer = session.run(task)
    else:
        # This task alone takes device-mapper's own major number, whatever the user says .
        answer = session.run(replace(task, major=DM_MAJOR) if task.minor >= 0 else task)
        device = form.decode_dev(answer.header.dev)
        try:
            reload = Task("reload", name, major=device[0], minor=device[1], targets=table, flags=read_only)
            session.run(reload)
            resume = Task("resume", name, major=task.major, minor=task.minor, flags=read_only,
                          node_on_resume=not task.node_on_create, read_ahead=task.read_ahead)
            answer = session.run(resume)
        except CommandFailed:
            try:
                session.run(Task("remove", name, major=task.major, minor=task.minor))
            except CommandFailed:
                session.error("Failed to revert device creation.")
            raise
    if "verbose" in options:
        display_info(session, answer)


def read_ahead(options: Options) -> str:
    """What ``--readahead`` asks for: sectors, sectors behind a plus, or nothing (``auto``)."""
    value = options["readahead"]
    return "" if value == "auto" else "0" if value == "none" else value


def create_concise(session: Session, arguments: list[str]) -> None:
    """``create --concise``: devices between semicolons, each with five fields between commas."""
    options = session.options
    if any(name in options for name in ("table", "minor", "uuid", "notable", "inactive")):
        session.fail("--concise is incompatible with --[no]table, --minor, --uuid and --inactive.")
    text = arguments[0] if arguments else sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    fields = [""]
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "\\":
            if position == len(text):
                session.error("Backslash must be followed by another character at end of string.")
                _parsed(session, fields)
            fields[-1] += text[position]
            position += 1
        elif char == "," and len(fields) < 5:
            fields.append("")
            position += len(text[position:]) - len(text[position:].lstrip(_ENDS))
        elif char == ",":
            fields[-1] += "\n"
        elif char == ";" or position == len(text):
            if char != ";":
                fields[-1] += char
            if len(fields) != 5:
                session.error("Five comma-separated fields are required for each device")
                _parsed(session, fields)
            _create_described(session, fields)
            fields = [""]
            position += len(text[position:]) - len(text[position:].lstrip(_ENDS))
        else:
            fields[-1] += char
    if fields != [""]:
        session.error("Incomplete entry: five comma-separated fields are required for each device")
        _parsed(session, fields)


def _parsed(session: Session, fields: list[str]) -> None:
    shown = [*fields, *["(null)"] * (5 - len(fields))]
    session.fail(f"Parsed {len(fields)} fields: name: {shown[0]} uuid: {shown[1]} minor: {shown[2]} "
                 f"flags: {shown[3]} table: {shown[4]}")


def _create_described(session: Session, fields: list[str]) -> None:
    """The fields stand for the options that would say the same."""
    options = session.options
    name, uuid, minor, flags, table = fields
    if uuid:
        options.set("uuid", uuid)
    if minor:
        options.set("minor", minor)
    if flags == "ro":
        options.set("readonly")
    elif flags and flags != "rw":
        session.fail(f"Invalid flags parameter '{flags}' must be 'ro' or 'rw' or empty.")
    options.set("table", table)
    create_one(session, name, None)
    for option in ("uuid", "minor", "readonly", "table"):
        options.given[option] = 0


# State


def simple(session: Session, kind: str, name: str | None, event_nr: int = 0, *, display: bool = True) -> None:
    """One ioctl with the flags of the command line."""
    options = session.options
    task = session.task(kind, name)
    task.event_nr = event_nr
    if "noflush" in options:
        task.flags |= form.NOFLUSH
    if "nolockfs" in options:
        task.flags |= form.SKIP_LOCKFS
    if kind == "remove":
        task.retry = "retry" in options
    if kind in ("remove", "remove_all") and "deferred" in options:
        task.flags |= form.DEFERRED_REMOVE
    task.node_on_resume = "addnodeoncreate" not in options
    if kind == "resume":
        task.read_ahead = read_ahead(options)
    answer = session.run(task)
    if display and "verbose" in options:
        display_info(session, answer)


def _first(arguments: list[str]) -> str | None:
    return arguments[0] if arguments else None


def suspend(session: Session, arguments: list[str]) -> None:
    """``suspend``."""
    simple(session, "suspend", _first(arguments))


def resume(session: Session, arguments: list[str]) -> None:
    """``resume``."""
    simple(session, "resume", _first(arguments))


def clear(session: Session, arguments: list[str]) -> None:
    """``clear``."""
    simple(session, "clear", _first(arguments))


def wait(session: Session, arguments: list[str]) -> None:
    """``wait``: without a number until the first event."""
    rest = list(arguments)
    name = None
    if "uuid" not in session.options and "major" not in session.options:
        if not rest:
            session.fail("No device specified.")
        name = rest.pop(0)
    simple(session, "waitevent", name, atoi(rest[-1]) & 0xFFFFFFFF if rest else 0)


def wipe_table(session: Session, arguments: list[str]) -> None:
    """``wipe_table``: an error table of the same size, at once."""
    _error_device(session, arguments[0] if arguments else "")


def _error_device(session: Session, name: str) -> None:
    options = session.options
    if not name:
        session.fail("No device specified.")
    try:
        size = sum(spec.length for spec in session.run(session.task("table", name)).specs())
    except CommandFailed:
        size = 0
    task = session.task("reload", name)
    task.targets = [form.Spec(0, size, "error", "")]
    if "readonly" in options:
        task.flags |= form.READONLY
    session.run(task)
    if "force" in options:  # so that it does not hang in a flush
        options.set("nolockfs")
        options.set("noflush")
    try:
        simple(session, "resume", name, display=False)
    except CommandFailed:
        simple(session, "clear", name, display=False)
        raise


def remove(session: Session, arguments: list[str]) -> None:
    """``remove``; with ``--force`` an error table comes first, whether that works or not."""
    if "force" in session.options and arguments:
        with contextlib.suppress(CommandFailed):
            _error_device(session, arguments[0])
    simple(session, "remove", _first(arguments), display=False)


def remove_all(session: Session, arguments: list[str]) -> None:
    """``remove_all``; with ``--force`` what is left gets error tables, and then goes if it can."""
    del arguments
    simple(session, "remove_all", "", display=False)
    if "force" not in session.options:
        return
    left = each_device(session)
    for name in left:
        try:
            _error_device(session, name)
        except CommandFailed:
            continue
    if left:
        simple(session, "remove_all", "", display=False)
    left = each_device(session)
    if left:
        session.error(f"Unable to remove {len(left)} device(s).")


# Names, messages, geometry


def rename(session: Session, arguments: list[str]) -> None:
    """``rename``, or with ``--setuuid`` a uuid for a device that has none."""
    task = session.task("rename", arguments[0] if len(arguments) == 2 else None)
    session.check_name(task)
    try:
        if "setuuid" in session.options:
            task.payload = form.encode(names.uuid(arguments[-1], session.mangling, "new UUID")) + b"\0"
            task.flags |= form.UUID
        else:
            task.payload = form.encode(names.new_name(arguments[-1], session.mangling)) + b"\0"
    except names.BadNameError as error:
        session.fail(str(error))
    session.run(task)


def _device_first(session: Session, kind: str, arguments: list[str]) -> tuple[Task, list[str]]:
    options = session.options
    if "uuid" in options or "major" in options:
        return session.task(kind), arguments
    return session.task(kind, arguments[0]), arguments[1:]


def message(session: Session, arguments: list[str]) -> None:
    """``message``: what the target answers is printed."""
    task, rest = _device_first(session, "message", arguments)
    match = _NUMBER.match(rest[0]) if rest else None
    if match is None or match.end() != len(rest[0]):
        session.fail("Invalid sector.")
    sector = int(match[1][:60])
    if sector > _U64:
        session.fail("Invalid sector.")
    if len(rest) == 1:
        session.error("No message supplied.")
    task.payload = form.write_message(sector & _U64, " ".join(rest[1:]))
    answer = session.run(task)
    if answer.header.flags & form.DATA_OUT:
        said = form.text_at(answer.data, answer.header.data_start) or ""
        session.print(said, end="" if not said or said.endswith("\n") else "\n")


def setgeometry(session: Session, arguments: list[str]) -> None:
    """``setgeometry``."""
    task, rest = _device_first(session, "setgeometry", arguments)
    words = [*rest, "", "", "", ""][:4]
    task.payload = form.encode(" ".join(words)) + b"\0"
    session.run(task)


def mangle(session: Session, arguments: list[str]) -> None:
    """``mangle``: bring names into the form that udev takes."""
    if not arguments and "uuid" not in session.options and "major" not in session.options:
        failed = False
        devices = each_device(session)
        if not devices:
            session.print("No devices found")
        for name in devices:
            try:
                mangle(session, [name])
            except CommandFailed:
                failed = True
        if failed:
            raise CommandFailed
        return
    answer = session.run(session.task("status", _first(arguments)))
    if not answer.exists:
        raise CommandFailed
    mode = session.options["manglename"].lower() or "auto"
    name, uuid = arguments[0] if arguments else answer.header.name, answer.header.uuid
    try:
        for text, what in ((name, "name"), (uuid, "UUID")):
            names.check_once(text, what, mode, "Manual intervention required to rename the device.")
        new_name = names.unmangle(name, "auto") if mode == "none" else names.mangle(name, "name", mode)
        new_uuid = names.unmangle(uuid, "auto") if mode == "none" else names.mangle(uuid, "UUID", mode)
    except names.BadNameError as error:
        session.fail(str(error))
    if uuid != new_uuid:
        session.error(f"{name}: {uuid}: UUID in incorrect form. ")
        session.fail("Unable to change device UUID. The device must be deactivated first.")
    if name == new_name:
        session.print(f"{name}: {uuid or '[no UUID]'}: name {'and UUID ' if uuid else ''}already in correct form")
        return
    session.print(f"{name}: renaming to {new_name}")
    task = session.task("rename", name)
    task.payload = form.encode(new_name) + b"\0"
    session.run(task)
