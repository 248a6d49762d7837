"""Bugs planted in the runtime: the explorer finds each, and finds nothing without it."""

from __future__ import annotations

import pytest

from dmspec.runtime import mapped_device, suspend
from dmspec.runtime.bio import REQUEUE, Bio
from dmspec.runtime.explore import Explorer
from dmspec.runtime.plan import Plan
from dmspec.runtime.targets.mirror_work import Presuspend
from dmspec.runtime.task import Latch, Outcome, Task

from .test_explore import plan_of

REPAIR = plan_of("""
disk pv1 1MiB
disk pv2 1MiB
device vol { mirror pv1 pv2 log=core region=512KiB nosync handle_errors }
process app { write vol at=0 size=512 }
process dmeventd { await event(vol)  load vol { linear pv2 }  suspend vol noflush nolockfs  resume vol }
scenario main "repair" {
    run app dmeventd
    fault fail pv1 at=any most=1
    always no-deadlock
    always no-io-error
    finally no-lost-write vol
}
""")

REPLACE = plan_of("""
disk old 1MiB
disk new 1MiB
device vol { linear old }
process app { write vol at=0 size=512 times=2 }
process admin { load vol { linear new }  suspend vol  resume vol  expect state vol ACTIVE }
scenario main "replace" {
    run app admin
    always no-deadlock
    always expectation
    finally resumed-at-end
}
""")

SNAPSHOT = """
disk pv1 1MiB
disk pv2 1MiB
device vol {{ mirror pv1 pv2 log=core region=512KiB nosync handle_errors }}
process lvcreate {{
    create vol-real
    load vol-real table=table-of(vol)
    {first}
    load vol {{ snapshot-origin vol-real }}
    suspend vol
    resume vol-real
    resume vol
}}
process app {{ write vol at=0 size=512 }}
scenario main "layers" {{ run lvcreate app
    always no-race
}}
"""


def found(plan: Plan) -> set[str]:
    return set(Explorer(plan, "main").run().findings)


def test_nothing_is_found_without_a_bug() -> None:
    assert found(REPAIR) == set()
    assert found(REPLACE) == set()
    assert found(plan_of(SNAPSHOT.format(first=""))) == set()


def test_held_bios_forgotten_at_presuspend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Presuspend, "_end_holds", lambda _self: None)
    assert found(REPAIR) == {"no-deadlock"}


def test_a_requeued_bio_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = mapped_device.MappedIo.piece_over

    def wrong(self: mapped_device.MappedIo, clone: Bio, status: int) -> None:
        real(self, clone, 0 if status == REQUEUE else status)

    monkeypatch.setattr(mapped_device.MappedIo, "piece_over", wrong)
    plan = plan_of("""
disk pv1 1MiB
disk pv2 1MiB
device vol { mirror pv1 pv2 log=log region=512KiB nosync handle_errors }
disk log 64KiB
process app { write vol at=0 size=512 }
process dmeventd { await event(vol)  load vol { linear pv2 }  suspend vol noflush nolockfs  resume vol }
scenario main "the log fails, so nothing was written" {
    run app dmeventd
    fault fail log at=any most=1
    finally no-lost-write vol
}
""")
    assert found(plan) == {"no-lost-write"}
    monkeypatch.undo()
    assert found(plan) == set()


def test_a_device_unlocked_before_its_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bios pass into the table that is about to be replaced: what they write is not there afterwards."""
    real = suspend.Suspend.finish

    def wrong(self: suspend.Suspend, task: Task) -> Outcome:
        self.md.block_io = False
        self.md.kick()
        return real(self, task)

    monkeypatch.setattr(suspend.Suspend, "finish", wrong)
    plan = plan_of("""
disk old 1MiB
disk new 1MiB
device vol { linear old }
process admin { load vol { linear new }  suspend vol  resume vol }
process app { await suspended(vol)  write vol at=0 size=512 }
scenario main "what is written behind the suspend is on the new disk" {
    run app admin
    finally no-lost-write vol
}
""")
    assert found(plan) == {"no-lost-write"}
    monkeypatch.undo()
    assert found(plan) == set()


FREEZE = plan_of("""
disk old 64KiB
disk new 64KiB
device vol { linear old }
filesystem fs on vol
lock token
process admin { load vol { linear new }  suspend vol  with token { resume vol } }
process agent { with token { freeze fs }  thaw fs }
scenario main "a filesystem is frozen while its device is suspended" {
    run admin agent
    always no-deadlock
    finally resumed-at-end
}
""")


def test_a_filesystem_unlocked_before_the_resume_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who freezes it once more writes its journal, to a device that does not take it, and keeps the resume waiting."""
    assert found(FREEZE) == set()
    real = suspend.Suspend.finish

    def wrong(self: suspend.Suspend, task: Task) -> Outcome:
        self.md.stack.thaw(self.md)
        return real(self, task)

    monkeypatch.setattr(suspend.Suspend, "finish", wrong)
    findings = Explorer(FREEZE, "main").run().findings
    assert set(findings) == {"no-deadlock", "resumed-at-end"}
    assert "agent waits for a write to vol" in findings["no-deadlock"].text


def test_a_freeze_that_does_not_end_the_wait_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of ours: who froze a filesystem as the second waited for its thaw, not for the end of that freeze."""
    monkeypatch.setattr(Latch, "release", lambda self, real=Latch.release: self.name == "freeze of fs" or real(self))
    assert found(FREEZE) == {"no-deadlock", "resumed-at-end"}


def test_two_live_mirrors_over_one_leg() -> None:
    assert found(plan_of(SNAPSHOT.format(first="resume vol-real"))) == {"no-race"}
