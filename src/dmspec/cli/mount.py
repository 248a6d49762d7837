"""`dmspec mount FILE DIR`."""

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmspec.cli.beside import Beside
from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_INTERNAL, EXIT_MACHINE, EXIT_OK, EXIT_USAGE, Failure, die

if TYPE_CHECKING:
    from dmspec.runtime import wire
    from dmspec.runtime.plan import Plan
    from dmspec.runtime.server import MountServer


@click.command("mount")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option("--store", metavar="DIR", type=click.Path(file_okay=False),
              help="Keep each disk as a sparse file NAME.img in here; without it, disks that name no file are in "
                   "memory.")
@click.option("--fuse", "binding", type=click.Choice(["auto", "mfusepy", "fusepy"]), default="auto",
              help="Which binding to use: mfusepy (libfuse 3) or fusepy (libfuse 2).")
@click.option("--disks", "show_disks", flag_value="listed", default=None, help="Show the disks as files too.")
@click.option("--like-dev-mapper", "show_disks", flag_value="hidden",
              help="Look like /dev/mapper: with a file `control`, and disks that are there but not listed.")
@click.option("--run", "names", metavar="NAME", multiple=True,
              help="Run this process of FILE on the mount, such as a dmeventd, or all of a scenario's.")
@click.option("--log", "log_path", metavar="OUT", type=click.Path(dir_okay=False),
              help="Append what such processes do to this file.")
@click.option("--watchdog", metavar="SECONDS", type=click.FloatRange(min=0.1), default=None,
              help="Say in the log who waits for whom when nothing has moved for so long, and somebody waits.")
@click.option("--allow-path", "allowed", metavar="DIR", type=click.Path(exists=True, file_okay=False), multiple=True,
              help="Let disks of FILE lie in DIR or below too, not only beside FILE; may be given again.")
@click.option("--allow-other", is_flag=True, help="Let every user of this machine read and write the devices.")
@click.option("--foreground", is_flag=True, help="Stay until unmounted, by `umount`, Ctrl-C or SIGTERM.")
@click.option("--quiet", is_flag=True, help="Say nothing when it is there.")
def command(file: str, directory: str, store: str | None, binding: str, *, show_disks: str | None,
            names: tuple[str, ...], log_path: str | None, watchdog: float | None, allowed: tuple[str, ...],
            allow_other: bool, foreground: bool, quiet: bool) -> int:
    """Show the devices of FILE as files in DIR, for dd, mkfs, fsck and losetup.

    The processes and scenarios of FILE do not run, but for those of --run; `dmspec do DIR "..."` does things to
    the stack.
    """
    from dmspec.cli.plans import load_plan
    from dmspec.runtime.fuse import pick_binding

    plan = load_plan(file)
    choice = pick_binding()
    if binding == "auto" and choice.binding is None:
        die(EXIT_MACHINE, f"{choice.unavailable()}\n`dmspec doctor` says more")
    mountpoint = Path(directory).resolve()
    store_folder = Path.cwd() / store if store else None
    beside = Beside(plan, names, log_path, watchdog, foreground=foreground)
    folders = [Path.cwd() / folder for folder in allowed]

    def serve(tell: Callable[[], None]) -> None:
        server = _server(plan, Path(file).resolve().parent, store_folder, show_disks or "", folders)
        _serve(server, mountpoint, tell, binding, beside, allow_other=allow_other)

    def ready() -> None:
        if not quiet:
            names = " ".join(device.name for device in plan.devices)
            click.echo(f"mounted at {directory}: {names or 'no devices'}")

    lock = _lock(mountpoint, store_folder)
    if foreground:
        try:
            serve(ready)
        finally:
            lock.release()
        return EXIT_OK
    _in_background(serve, lock)
    ready()
    return EXIT_OK


def _lock(mountpoint: Path, store: Path | None) -> "wire.Lock":
    """Take the mountpoint, or end with the reason why it cannot be used."""
    from dmspec.runtime import wire

    try:
        lock = wire.Lock(mountpoint)
    except wire.WireError as error:
        die(EXIT_USAGE, str(error))
    except OSError as error:
        die(EXIT_USAGE, f"{error.filename}: {error.strerror}")
    problem = ""
    try:
        if any(mountpoint.iterdir()):
            problem = "not empty; what is in it would be hidden by the mount"
        elif store is not None and store.resolve().is_relative_to(mountpoint):
            problem = "the store cannot be inside the mountpoint"
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        lock.release()
        die(EXIT_USAGE, f"{mountpoint}: {problem}")
    return lock


def _server(plan: "Plan", spec_folder: Path, store: Path | None, show_disks: str,
            allowed: list[Path]) -> "MountServer":
    """Bring the stack up."""
    from dmspec.runtime.errors import DmspecError, InternalError
    from dmspec.runtime.server import MountServer

    try:
        return MountServer(plan, spec_folder=spec_folder, store=store, show_disks=show_disks, allowed=allowed)
    except InternalError:
        raise
    except DmspecError as error:
        die(EXIT_USAGE, str(error))
    except OSError as error:
        _out_of_descriptors(error)
        raise


def _out_of_descriptors(error: OSError) -> None:
    """Say so, if that is what it is: a limit of this machine, and no bug."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        die(EXIT_MACHINE, f"{error.strerror}; `ulimit -n` says how many there may be")


def _serve(server: "MountServer", mountpoint: Path, ready: Callable[[], None], binding: str, beside: "Beside", *,
           allow_other: bool) -> None:
    """Mount the stack, and take it down at the end; known failures leave as `Failure`."""
    from dmspec.runtime.errors import DmspecError, InternalError
    from dmspec.runtime.fuse import FuseUnavailable, MountFailed
    from dmspec.runtime.server import GAVE_UP

    was_ready = False

    def now_ready() -> None:
        nonlocal was_ready
        was_ready = True
        beside.begin(server)
        ready()

    try:
        try:
            server.serve(mountpoint, binding=binding, allow_other=allow_other, on_ready=now_ready)
        finally:
            beside.end()
            server.close(undo=not was_ready)
            beside.close()
        if server.gave_up:
            die(EXIT_CHECK_FAILED, f"{mountpoint}: {GAVE_UP}")
    except InternalError:
        raise
    except FuseUnavailable as error:
        die(EXIT_MACHINE, str(error))
    except (DmspecError, MountFailed) as error:
        die(EXIT_USAGE, str(error))
    except OSError as error:
        _out_of_descriptors(error)
        raise


def _in_background(serve: Callable[[Callable[[], None]], None], lock: "wire.Lock") -> None:
    """Serve in a process of its own, and wait until it is ready or has failed."""
    log = lock.path.with_suffix(".log")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _child(serve, writer, lock, log)
    lock.leave_to_child()
    os.close(writer)
    try:
        with open(reader, encoding="utf-8") as pipe:
            said = pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    answer: dict[str, Any] = {"exit": EXIT_INTERNAL, "problem": f"the mount ended at once; see {log}"}
    if said:
        answer = json.loads(said)
    if "problem" in answer:
        raise Failure(int(answer["exit"]), str(answer["problem"]))


def _child(serve: Callable[[Callable[[], None]], None], writer: int, lock: "wire.Lock", log: Path) -> None:
    """The server's process; it never returns.  The log stays when it has something to say."""
    answer: dict[str, Any] = {"exit": EXIT_OK}
    told = False

    def tell(answer: dict[str, Any]) -> None:
        nonlocal told
        if not told:
            told = True
            with contextlib.suppress(BrokenPipeError):  # `dmspec mount` was killed; the mount stays
                os.write(writer, json.dumps(answer).encode())
            os.close(writer)

    try:
        os.setsid()
        lock.name_holder()
        null = os.open(os.devnull, os.O_RDWR)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        serve(lambda: tell({"ready": True}))
    except Failure as failure:
        answer = {"exit": failure.exit_status, "problem": failure.format_message()}
    except BaseException:  # noqa: BLE001 - it is reported, in full, in a file
        from dmspec.cli.group import report_internal_error

        status = report_internal_error()
        answer = {"exit": status, "problem": f"internal error; this is our bug: {log} says where the traceback is"}
    finally:
        with contextlib.suppress(OSError):
            _end_log(log, answer, told=told)
            lock.release()
        tell(answer)
        os._exit(int(answer["exit"]))


def _end_log(log: Path, answer: dict[str, Any], *, told: bool) -> None:
    """Keep the log of a mount that has failed; what libfuse said about one that never was goes to the user."""
    sys.stdout.flush()
    sys.stderr.flush()
    said = log.read_text(errors="replace").strip()
    if answer["exit"] == EXIT_INTERNAL:
        return
    if answer["exit"] != EXIT_OK and told:
        with log.open("a") as file:
            file.write(f"dmspec: {answer['problem']}\n")
        return
    if answer["exit"] != EXIT_OK and said:
        answer["problem"] += f"\n{said}"
    if not told or not said:
        log.unlink()
