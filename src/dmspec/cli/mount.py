"""`dmspec mount FILE DIR`."""

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmspec.cli.output import EXIT_INTERNAL, EXIT_MACHINE, EXIT_OK, EXIT_USAGE, Failure, die

if TYPE_CHECKING:
    from dmspec.runtime.plan import Plan


@click.command("mount")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option("--store", metavar="DIR", type=click.Path(file_okay=False),
              help="Keep each disk as a sparse file NAME.img in here; without it, disks that name no file are in "
                   "memory.")
@click.option("--fuse", "binding", type=click.Choice(["auto", "mfusepy", "fusepy"]), default="auto",
              help="Which binding to use: mfusepy (libfuse 3) or fusepy (libfuse 2).")
@click.option("--foreground", is_flag=True, help="Stay until unmounted, by `umount`, Ctrl-C or SIGTERM.")
@click.option("--quiet", is_flag=True, help="Say nothing when it is there.")
def command(file: str, directory: str, store: str | None, binding: str, *, foreground: bool, quiet: bool) -> int:
    """Show the devices of FILE as files in DIR, for dd, mkfs, fsck and losetup.

    The processes and scenarios of FILE do not run; `dmspec do DIR "..."` does things to the stack.
    """
    from dmspec.cli.plans import load_plan
    from dmspec.runtime.fuse import pick_binding

    plan = load_plan(file)
    choice = pick_binding()
    if binding == "auto" and choice.binding is None:
        die(EXIT_MACHINE, f"{choice.unavailable()}\n`dmspec doctor` says more")
    mountpoint = Path(directory).resolve()

    def serve(tell: Callable[[], None]) -> None:
        _serve(plan, mountpoint, tell, Path(file).resolve().parent, Path(store).resolve() if store else None, binding)

    def ready() -> None:
        if not quiet:
            names = " ".join(device.name for device in plan.devices)
            click.echo(f"mounted at {directory}: {names or 'no devices'}")

    if foreground:
        serve(ready)
        return EXIT_OK
    status = _in_background(serve, mountpoint)
    if status == EXIT_OK:
        ready()
    return status


def _serve(plan: "Plan", mountpoint: Path, ready: Callable[[], None], spec_folder: Path, store: Path | None,
           binding: str) -> None:
    """Bring the stack up, mount it, and take it down at the end; known failures leave as `Failure`."""
    from dmspec.runtime import wire
    from dmspec.runtime.errors import DmspecError
    from dmspec.runtime.fuse import FuseUnavailable, MountFailed, MountStuck
    from dmspec.runtime.server import MountServer

    try:
        with _alone(wire.lock_path(mountpoint), mountpoint):
            server = MountServer(plan, spec_folder=spec_folder, store=store)
            try:
                server.serve(mountpoint, binding=binding, on_ready=ready)
            finally:
                server.close()
    except FuseUnavailable as error:
        die(EXIT_MACHINE, str(error))
    except (DmspecError, MountFailed, MountStuck) as error:
        die(EXIT_USAGE, str(error))


@contextlib.contextmanager
def _alone(path: Path, mountpoint: Path) -> Any:
    """Hold the mountpoint's lock, which also tells others when the server has ended."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            die(EXIT_USAGE, f"a stack is mounted at {mountpoint} already")
        yield
    finally:
        os.close(fd)


def _in_background(serve: Callable[[Callable[[], None]], None], mountpoint: Path) -> int:
    """Serve in a process of its own, and wait until it is ready or has failed."""
    from dmspec.runtime import wire

    log = wire.socket_path(mountpoint).with_suffix(".log")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        os.close(reader)
        _child(serve, writer, log)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    answer: dict[str, Any] = json.loads(said) if said else {"exit": EXIT_INTERNAL, "problem": f"the mount ended at once; see {log}"}
    if "problem" in answer:
        raise Failure(int(answer["exit"]), str(answer["problem"]))
    return EXIT_OK


def _child(serve: Callable[[Callable[[], None]], None], writer: int, log: Path) -> None:
    """The server's process; it never returns."""
    status = EXIT_OK
    told = False

    def tell(answer: dict[str, Any]) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writer, json.dumps(answer).encode())
            os.close(writer)

    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        serve(lambda: tell({"ready": True}))
    except Failure as failure:
        status = failure.exit_status
        tell({"exit": status, "problem": failure.format_message()})
        print(f"dmspec: {failure.format_message()}", file=sys.stderr)
    except BaseException:  # noqa: BLE001 - it is reported, in full, in a file
        from dmspec.cli.group import report_internal_error

        status = report_internal_error()
        tell({"exit": status, "problem": f"internal error; this is our bug: {log} says where the traceback is"})
    finally:
        sys.stderr.flush()
        os._exit(status)
