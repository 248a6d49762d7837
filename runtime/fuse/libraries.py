"""Which FUSE libraries this machine has, why one is chosen, and what to install when one is missing.

Nothing is imported before a mount needs it: dmspec checks and runs specs on machines without libfuse, where
importing a binding fails.
"""

import ctypes
import importlib
import importlib.util
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from dmspec.runtime.fuse.export import FuseUnavailable
from dmspec.runtime.fuse.mounts import fusermount

BindingName = Literal["mfusepy", "fusepy"]


class Binding(Protocol):
    """One FUSE library, loaded."""

    name: BindingName
    has_writeback_cache: bool
    has_device_loop: bool
    passes_short_writes: bool

    def run(self, files: Any, mountpoint: str, options: dict[str, Any]) -> None:
        """Mount, and serve until the mount has ended."""
        ...

    def configure(self, connection: Any, *, writeback_cache: bool) -> None:
        """Choose the connection's flags and limits; called once, while the kernel waits for them."""
        ...

    def session(self) -> int:
        """Give the address of libfuse's `struct fuse`; only callbacks may ask."""
        ...

    def descriptor(self, session: int) -> int:
        """Give the descriptor of a session's connection."""
        ...

    def exit(self, session: int) -> None:
        """Make the loop of a session end with the next request."""
        ...

    def forget_attributes(self, session: int, inode: int) -> None:
        """Make the kernel ask for an inode's attributes before it next needs them."""
        ...


@dataclass(frozen=True, slots=True)
class Library:
    """A Python binding and the C library that it stands on."""

    module: str
    package: str
    sonames: tuple[str, ...]
    remedy: str

    def soname(self) -> str | None:
        """Find the C library the way the dynamic linker does, without the help of a compiler or ldconfig."""
        for soname in self.sonames:
            try:
                ctypes.CDLL(soname)
            except OSError:
                continue
            return soname
        return None


LIBFUSE_3 = Library("mfusepy", "mfusepy", ("libfuse3.so.4", "libfuse3.so.3"), "apt-get install fuse3")
LIBFUSE_2 = Library(
    "fuse",
    "fusepy",
    ("libfuse.so.2",),
    "apt-get install libfuse2t64 (libfuse2 before Debian 13 and Ubuntu 24.04)",
)
LIBRARIES: dict[BindingName, Library] = {"mfusepy": LIBFUSE_3, "fusepy": LIBFUSE_2}

_importing = threading.Lock()


def load(library: Library) -> ModuleType:
    """Import a binding on the C library that it is meant for.

    Left alone, mfusepy takes libfuse 2 when both are installed. The variable is read once, at import, by
    both bindings, so it is set for no longer than that.
    """
    soname = library.soname()
    if soname is None:
        raise FuseUnavailable(f"{library.package} needs {' or '.join(library.sonames)}", library.remedy)
    with _importing:
        before = os.environ.get("FUSE_LIBRARY_PATH")
        os.environ["FUSE_LIBRARY_PATH"] = soname
        try:
            module = importlib.import_module(library.module)
        except ImportError as problem:
            raise FuseUnavailable(f"the Python package {library.package} is missing", _pip(library)) from problem
        finally:
            if before is None:
                del os.environ["FUSE_LIBRARY_PATH"]
            else:
                os.environ["FUSE_LIBRARY_PATH"] = before
    if not hasattr(module, "_libfuse") or not hasattr(module, "FUSE"):
        raise FuseUnavailable(f"the module {library.module!r} is not {library.package}", _pip(library))
    major = module._libfuse.fuse_version() // (10 if module._libfuse.fuse_version() < 100 else 100)
    if major != (3 if library is LIBFUSE_3 else 2):
        raise FuseUnavailable(f"{library.package} was already imported here on libfuse {major}")
    return module


def _pip(library: Library) -> str:
    return f"pip install {library.package}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for: `needed` ones stop every mount when they are missing."""

    subject: str
    found: bool
    needed: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class BindingChoice:
    """The binding that a mount would use, None when there is none, and all that led to it."""

    binding: BindingName | None
    findings: tuple[Finding, ...]

    def unavailable(self) -> FuseUnavailable:
        """Say what is missing, as the exception that serve() raises."""
        missing = [finding for finding in self.findings if not finding.found]
        remedies = dict.fromkeys(finding.remedy for finding in missing if finding.remedy)
        return FuseUnavailable(
            "cannot mount: " + "; ".join(finding.detail for finding in missing), " or ".join(remedies)
        )


def _device() -> Finding:
    path = Path("/dev/fuse")
    if not path.exists():
        remedy = "modprobe fuse, or docker run --device /dev/fuse"
        return Finding("/dev/fuse", False, True, "there is no /dev/fuse", remedy)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as problem:
        detail = f"/dev/fuse: {problem.strerror}"
        return Finding("/dev/fuse", False, True, detail, "chmod 666 /dev/fuse, as root")
    return Finding("/dev/fuse", True, True, "/dev/fuse can be opened")


def _helper() -> Finding:
    path = fusermount()
    is_root = os.geteuid() == 0
    if path:
        return Finding("fusermount3", True, not is_root, path)
    detail = "not found; root mounts without it" if is_root else "ordinary users cannot mount without fusermount3"
    return Finding("fusermount3", False, not is_root, detail, "apt-get install fuse3")


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _look_for(library: Library) -> tuple[Finding, Finding]:
    soname = library.soname()
    has_module = _has_module(library.module)
    return (
        Finding(
            library.package,
            has_module,
            False,
            f"Python package {library.package}" + ("" if has_module else " is not installed"),
            "" if has_module else _pip(library),
        ),
        Finding(
            library.sonames[-1],
            soname is not None,
            False,
            soname or f"{' or '.join(library.sonames)} is not installed",
            "" if soname else library.remedy,
        ),
    )


def pick_binding(wanted: Literal["auto", "mfusepy", "fusepy"] = "auto") -> BindingChoice:
    """Choose a binding, libfuse 3 first, and list what was found and what is missing."""
    findings = [_device(), _helper()]
    works: list[BindingName] = []
    for name, library in LIBRARIES.items():
        if wanted in ("auto", name):
            parts = _look_for(library)
            findings += parts
            if all(part.found for part in parts):
                works.append(name)
    is_ready = all(finding.found for finding in findings if finding.needed)
    return BindingChoice(works[0] if works and is_ready else None, tuple(findings))


def load_binding(wanted: Literal["auto", "mfusepy", "fusepy"]) -> Binding:
    """Load the binding that `pick_binding` chooses, or raise FuseUnavailable with what to install."""
    choice = pick_binding(wanted)
    if choice.binding is None:
        raise choice.unavailable()
    makers: dict[BindingName, Callable[[], Binding]] = {"mfusepy": _mfusepy, "fusepy": _fusepy}
    return makers[choice.binding]()


def _mfusepy() -> Binding:
    from dmspec.runtime.fuse.binding_mfusepy import Mfusepy

    return Mfusepy(load(LIBFUSE_3))


def _fusepy() -> Binding:
    from dmspec.runtime.fuse.binding_fusepy import Fusepy

    return Fusepy(load(LIBFUSE_2))
