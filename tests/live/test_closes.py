"""When a close counts: a release reaches a file system after the close(2) that caused it has returned."""

import threading
from typing import Any

import pytest

from dmspec.runtime.fuse import adapter
from dmspec.runtime.fuse.sizes import KernelSizes


class Openings:
    """An export that knows only how often its device is open; a close takes until `gate` opens."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = threading.Event()

    def size_bytes(self, name: str) -> int:
        return 512

    def is_read_only(self, name: str) -> bool:
        return False

    def open(self, name: str, *, write: bool) -> None:
        self.count += 1

    def straight(self, name: str) -> None:
        """There is no way past it."""

    def close(self, name: str, *, write: bool) -> None:
        self.gate.wait()
        self.count -= 1


def files_of(export: Any) -> adapter.Files:
    def ignore(*_: object) -> None:
        pass

    sizes = KernelSizes(Any, export.size_bytes)  # type: ignore[arg-type]  # nothing here makes it act
    return adapter.Files(export, sizes, passes_short_writes=False, on_mounted=ignore, on_bug=ignore, on_end=ignore)


def test_a_release_under_way_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "RELEASE_SECONDS", 60)
    export = Openings()
    files = files_of(export)
    handle = files.open("/a", 0)
    files.flush(None, handle)
    release = threading.Thread(target=files.release, args=(None, handle))
    release.start()
    threading.Timer(0.05, export.gate.set).start()
    files.settle_closes()
    assert export.count == 0
    release.join()


def test_the_close_of_a_duplicate_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    export = Openings()
    export.gate.set()
    files = files_of(export)
    handle = files.open("/a", 0)
    monkeypatch.setattr(adapter, "RELEASE_SECONDS", 0.001)
    files.flush(None, handle)
    files.settle_closes()
    assert export.count == 1
    monkeypatch.setattr(adapter, "RELEASE_SECONDS", 3600)
    files.settle_closes()
    files.release(None, handle)
    assert export.count == 0
