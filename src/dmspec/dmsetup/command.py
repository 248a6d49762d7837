"""Which commands there are, and what one call of dmsetup does from its arguments to its exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dmspec.dmsetup import devices, options, show
from dmspec.dmsetup.door import Door, NoMountError, find
from dmspec.dmsetup.report import Report
from dmspec.dmsetup.task import CommandFailed, Session
from dmspec.dmsetup.tree import style_of
from dmspec.dmsetup.usage import usage

_EACH: Final = 1  # one run for each argument
_SELECTS: Final = 2  # the same, and `-S` says for which devices

Function = Callable[[Session, list[str]], None]


@dataclass(frozen=True)
class Command:
    """A command: its arguments in the help text, how many it takes (-1: any number), how it is repeated."""

    name: str
    arguments: str
    least: int
    most: int
    repeats: int
    function: Function


def _help(session: Session, _arguments: list[str]) -> None:
    session.error(usage((one.name, one.arguments) for one in COMMANDS).rstrip("\n") + "\n")
    if "columns" in session.options:
        session.options.set("options", "help")
        Report(session, "help").show_help()


def _stats(session: Session, _arguments: list[str]) -> None:
    session.fail("dmspec keeps no statistics of I/O; stats is not emulated.")


COMMANDS: Final = (
    Command("help", "[-c|-C|--columns]", 0, 0, 0, _help),
    Command("create", "<dev_name>\n\t    [-j|--major <major> -m|--minor <minor>]\n"
            "\t    [-U|--uid <uid>] [-G|--gid <gid>] [-M|--mode <octal_mode>]\n"
            "\t    [-u|--uuid <uuid>] [--addnodeonresume|--addnodeoncreate]\n"
            "\t    [--readahead {[+]<sectors>|auto|none}]\n"
            "\t    [-n|--notable|--table {<table>|<table_file>}]\n"
            "\tcreate --concise [<concise_device_spec_list>]", 0, 2, 0, devices.create),
    Command("remove", "[--deferred] [-f|--force] [--retry] <device>...", 0, -1, _SELECTS, devices.remove),
    Command("remove_all", "[-f|--force]", 0, 0, 0, devices.remove_all),
    Command("suspend", "[--noflush] [--nolockfs] <device>...", 0, -1, _SELECTS, devices.suspend),
    Command("resume", "[--noflush] [--nolockfs] <device>...\n\t       [--addnodeonresume|--addnodeoncreate]\n"
            "\t       [--readahead {[+]<sectors>|auto|none}]", 0, -1, _SELECTS, devices.resume),
    Command("load", "<device> [<table>|<table_file>]", 0, 2, 0, devices.load),
    Command("clear", "<device>", 0, -1, _SELECTS, devices.clear),
    Command("reload", "<device> [<table>|<table_file>]", 0, 2, 0, devices.load),
    Command("wipe_table", "[-f|--force] [--noflush] [--nolockfs] <device>...", 0, -1, _SELECTS,
            devices.wipe_table),
    Command("rename", "<device> [--setuuid] <new_name_or_uuid>", 1, 2, 0, devices.rename),
    Command("measure", "[<device>...]", 0, -1, _SELECTS, show.status),
    Command("message", "<device> <sector> <message>", 2, -1, 0, devices.message),
    Command("ls", "[--target <target_type>] [--exec <command>] [-o <options>] [--tree]", 0, 0, 0, show.ls),
    Command("info", "[<device>...]", 0, -1, _EACH, show.info),
    Command("deps", "[-o <options>] [<device>...]", 0, -1, _SELECTS, show.deps),
    Command("stats", "<command> [<options>] [<device>...]", 1, -1, _EACH, _stats),
    Command("status", "[<device>...] [--noflush] [--target <target_type>]", 0, -1, _SELECTS, show.status),
    Command("table", "[<device>...] [--concise] [--target <target_type>] [--showkeys]", 0, -1, _SELECTS, show.status),
    Command("wait", "<device> [<event_nr>] [--noflush]", 0, 2, 0, devices.wait),
    Command("mknodes", "[<device>...]", 0, -1, _EACH, show.mknodes),
    Command("mangle", "[<device>...]", 0, -1, _EACH, devices.mangle),
    Command("udevcreatecookie", "", 0, 0, 0, show.udevcreatecookie),
    Command("udevreleasecookie", "[<cookie>]", 0, 1, 0, show.udevreleasecookie),
    Command("udevflags", "<cookie>", 1, 1, 0, show.udevflags),
    Command("udevcomplete", "<cookie>", 1, 1, 0, show.udevcomplete),
    Command("udevcomplete_all", "[<age_in_minutes>]", 0, 1, 0, show.udevcomplete_all),
    Command("udevcookies", "", 0, 0, 0, show.udevcookies),
    Command("target-version", "[<target>...]", 1, -1, _EACH, show.target_version),
    Command("targets", "", 0, 0, 0, show.targets),
    Command("version", "", 0, 0, 0, show.version),
    Command("setgeometry", "<device> <cyl> <head> <sect> <start>", 5, 5, 0, devices.setgeometry),
    Command("splitname", "<device> [<subsystem>]", 1, 2, 0, show.splitname),
)
_BY_NAME: Final = {one.name: one for one in COMMANDS}
_NAME_STYLES: Final = ("devno", "blkdevname", "devname")


def run() -> None:
    """The program: arguments from the command line, signals as any C program takes them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    words = sys.argv[1:]
    mountpoint = None
    if words and words[0] == "--mount":
        mountpoint = words[1] if len(words) > 1 else ""
        words = words[2:]
    status = main(words, mountpoint)
    sys.stdout.flush()
    os._exit(status)


def main(words: list[str], mountpoint: str | None = None, door: Door | None = None) -> int:
    """One call of dmsetup; its exit status.  ``door`` is the mount, unless it is still to be found."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    session = Session(options.Options(), door or _Unopened(mountpoint))
    try:
        session.options = options.parse("dmsetup", words)
    except options.UsageError as error:
        session.error(str(error))
        session.error("Couldn't process command line.")
        return 1
    if "udevcookie" in session.options:
        with contextlib.suppress(CommandFailed):
            show.cookie_value(session, session.options["udevcookie"])
    session.mangling = session.options["manglename"].lower() or "auto"
    try:
        return _chosen(session)
    except CommandFailed:
        return 1
    except NoMountError as error:
        session.error(f"dmspec: {error}")
        session.error("Command failed.")
        return 1


class _Unopened(Door):
    """Looks for the mount when it is first asked something: help needs none."""

    def __init__(self, mountpoint: str | None) -> None:
        self.wanted = mountpoint

    def __getattr__(self, name: str) -> object:
        if name != "path":
            raise AttributeError(name)
        self.path = find(self.wanted).path
        return self.path


def _chosen(session: Session) -> int:
    given, arguments = session.options, session.options.arguments
    if "help" in given or "version" in given:
        _perform(session, _BY_NAME["help" if "help" in given else "version"], [])
        return 0
    if not arguments:
        session.error(_usage())
        return 1
    command = _BY_NAME.get(arguments[0])
    if command is None:
        session.error("Unknown command.")
        session.error(_usage())
        return 1
    arguments = arguments[1:]
    if len(arguments) < command.least or 0 <= command.most < len(arguments):
        session.error("Incorrect number of arguments.")
        session.error(_usage())
        return 1
    if command.name == "splitname" and "columns" not in given:
        given.set("columns")
    if command.name == "mangle":
        session.mangling = "none"
    if not _name_style(session):
        session.error("Couldn't process command line.")
        return 1
    return _reported(session, command, arguments)


def _usage() -> str:
    return usage((one.name, one.arguments) for one in COMMANDS).rstrip("\n") + "\n"


def _name_style(session: Session) -> bool:
    """What `-o` means where it does not name columns: how `ls` and `deps` call devices."""
    given = session.options
    if "tree" in given:
        session.tree_style = style_of(session, given["options"])
        return session.tree_style is not None
    if "columns" in given or "options" not in given:
        return True
    words = [word for word in given["options"].split(",") if given["options"]]
    for index, word in enumerate(words):
        style = next((name for name in _NAME_STYLES if name.startswith(word)), None)
        if style is None:
            session.error(f"Option not recognised: {','.join(words[index:])}.")
            return False
        session.name_style = style
    return True


def _reported(session: Session, command: Command, arguments: list[str]) -> int:
    """Run a command with its report, if it has one; `-S` with other commands says for which devices they run."""
    given = session.options
    if "select" in given and command.repeats == _SELECTS:
        given.set("columns")
        session.report = Report(session, command.name)
        return _perform(session, command, _selected(session, arguments))
    if "columns" in given:
        session.report = Report(session, command.name)
        if session.report.help_only:
            session.report.show_help()
            return 0
    return _perform(session, command, arguments)


def _selected(session: Session, arguments: list[str]) -> list[str]:
    report, session.report = session.report, None
    assert report is not None
    chosen = []
    for name in arguments or show.each_device(session):
        answer = session.run(session.task("info", name))
        if not answer.exists:
            session.fail("Device does not exist.")
        if report.selects(report.row_of(answer)):
            chosen.append(name)
    session.several = True
    return chosen


def _perform(session: Session, command: Command, arguments: list[str]) -> int:
    """Run it once, or for each argument until one fails; then print what has been collected."""
    given = session.options
    session.command = command.name
    session.several = bool(command.repeats) and len(arguments) != 1 and \
        (bool(arguments) or ("uuid" not in given and "major" not in given))
    calls = [[word] for word in arguments] if command.repeats and arguments else [arguments]
    if "select" in given and command.repeats == _SELECTS:
        calls = [[word] for word in arguments]
        session.several = True
    status = 0
    for call in calls:
        try:
            command.function(session, call)
        except CommandFailed:
            session.error("Command failed.")
            status = 1
            break
    if session.concise_output:
        session.print("")
    if session.report is not None and command.name not in ("version", "help"):
        session.report.output()
    return status
