"""Differences to Linux 6.1.176 that drawn sequences and specs have found, each as short as it could be made.

What is expected here is what the kernel did. The last test lets a kernel say it again.
"""

import pytest

from dmspec.verify.emulate import play
from dmspec.verify.guest import find_guest
from dmspec.verify.session import Session
from dmspec.verify.steps import Case, DiskSpec, Played, Step, step

DISKS = (DiskSpec("pv1", 2048), DiskSpec("pv2", 2048), DiskSpec("cow", 512))
SHARED = (
    step("create", name="vol", table=["0 1024 mirror core 1 64 2 pv1 0 pv2 0"]),
    step("load", device="vol", table=["0 1024 linear pv2 0"]),
)
MODES = (
    step("create", name="base", table=["0 1024 linear pv1 0"]),
    step("create", name="snap", table=["0 1024 snapshot base cow P 16"]),
    step("create", name="vol", table=["0 1024 snapshot-origin base"]),
    step("load", device="vol", table=["0 1024 snapshot-merge base cow P 16"]),
)
DISCARD = (
    step("create", name="vol", table=["0 1024 linear pv1 0", "1024 1024 zero"]),
    step("discard", target="vol", at=0, size=4096),
    step("create", name="other", table=["0 1024 linear pv2 0"]),
    step("discard", target="other", at=0, size=4096),
)
STRIPES = (
    step("create", name="vol", table=["0 256 striped 2 8 pv1 0 pv2 0"]),
    step("fail", disk="pv2"),
    step("write", target="vol", at=0, size=131072, pattern="all"),
)
# The bits that nosync sets at a resume are written by a flush, which meets the legs.
NOSYNC = (
    step("fail", disk="pv1"),
    step("create", name="vol", table=["0 1024 mirror disk 3 cow 128 nosync 2 pv1 0 pv2 0 1 handle_errors"]),
)
# The mirror answers EOPNOTSUPP, and the ioctl calls that a success.
DISCARD_FAILS = (
    step("create", name="vol", table=["0 1024 mirror core 1 64 2 pv1 0 pv2 0"]),
    step("fail", disk="pv1"), step("fail", disk="pv2"),
    step("discard", target="vol", at=0, size=4096),
)
# /dev/mapper/base is not there before the first resume, yet a table can name the device, by its number.
NEVER_RESUMED = (
    step("create", name="base", table=None),
    step("load", device="base", table=["0 1024 linear pv1 0"]),
    step("create", name="vol", table=None),
    step("load", device="vol", table=["0 1024 linear base 0"]),
    step("resume", device=["base"]),
    step("resume", device=["vol"]),
)
# The read of a leg that fails is known at once, the flush of the other one takes its time: two events, not one.
EVENTS = (
    step("create", name="vol",
         table=["0 512 mirror disk 3 cow 16 sync 2 pv1 0 pv2 64 2 handle_errors keep_log"]),
    step("suspend", device=["vol"], noflush=True, nolockfs=True),
    step("fail", disk="pv1"),
    step("read", target="vol", at=118784, size=32768),
    step("resume", device=["vol"]),
)
# Who discards opens the device for himself alone, which comes before the question whether it takes discards.
DISCARD_IN_USE = (
    step("create", name="base", table=["0 1024 error"]),
    step("create", name="vol", table=["0 1024 linear base 0"]),
    step("discard", target="base", at=0, size=4096),
)
# "sync" counts at each resume: the regions are out of sync again, and the mirror does not know. Its first leg cannot be
# read then, so it takes the second one for good, and copies it over what has been written since.
SYNC_AGAIN = (
    step("create", name="vol", table=["0 1024 mirror disk 3 cow 128 sync 2 pv1 0 pv2 0 1 handle_errors"]),
    step("suspend", device=["vol"]),
    step("fail", disk="pv1", what="reads", range=[65536, 65536]),
    step("write", target="vol", at=458752, size=4096, pattern="ONE"),
    step("resume", device=["vol"]),
)
# "nosync" does too: the region whose write has failed on a leg is in sync again.
NOSYNC_AGAIN = (
    step("create", name="vol", table=["0 1024 mirror disk 3 cow 128 nosync 2 pv1 0 pv2 0 1 handle_errors"]),
    step("fail", disk="pv1", what="writes"),
    step("write", target="vol", at=0, size=4096, pattern="ONE"),
    step("suspend", device=["vol"]),
    step("heal", disk="pv1"),
    step("resume", device=["vol"]),
)
# After a flush that failed, a region that is written to takes its next write on the first leg only; and nobody knows.
AFTER_A_FLUSH = (
    step("create", name="vol", table=["0 1024 mirror core 2 128 nosync 2 pv1 0 pv2 0 1 handle_errors"]),
    step("fail", disk="pv2", what="writes"),
    step("flush", target="vol"),
    step("heal", disk="pv2"),
    step("write", target="vol", at=0, size=4096, pattern="ONE"),
    step("write", target="vol", at=0, size=4096, pattern="TWO"),
    step("fail", disk="pv1"),
    step("read", target="vol", at=0, size=4096),
)
ALL = {"shared": SHARED, "modes": MODES, "discard": DISCARD, "stripes": STRIPES, "nosync": NOSYNC,
       "discard fails": DISCARD_FAILS, "never resumed": NEVER_RESUMED, "events": EVENTS,
       "discard in use": DISCARD_IN_USE, "sync again": SYNC_AGAIN, "nosync again": NOSYNC_AGAIN,
       "after a flush": AFTER_A_FLUSH}


def played(steps: tuple[Step, ...]) -> Played:
    return play(Case("found", DISKS, steps))


def open_count(after: Played, name: str) -> int:
    [line] = [line for line in after.last if line.startswith(f"{name}:") and line.count(":") == 6]
    return int(line.split(":")[3])


def test_an_inactive_table_opens_nothing_that_the_live_one_has_open() -> None:
    after = played(SHARED)
    assert open_count(after, "pv1") == open_count(after, "pv2") == 1


def test_but_each_mode_of_opening_counts() -> None:
    assert open_count(played(MODES), "base") == 3  # read (snap), read and write (vol), write (vol's inactive one)


def test_a_table_with_a_target_over_no_device_takes_no_discards() -> None:
    assert [str(seen.outcome) for seen in played(DISCARD).seen] == ["done", "EOPNOTSUPP", "done", "done"]


def test_errors_of_one_write_are_one_event_of_a_striped_device() -> None:
    after = played(STRIPES)
    assert after.seen[-1].outcome.error == "EIO"
    assert "vol::0:0:1:1:L--w" in after.last


def test_a_nosync_log_flushes_the_legs_once_it_is_resumed() -> None:
    after = played(NOSYNC)
    assert "vol: 0 1024 mirror 2 254:200 254:201 8/8 1 FA 3 disk 254:202 A" in after.last
    assert "vol::0:0:1:1:L--w" in after.last


def test_a_discard_that_no_leg_takes_is_forgiven() -> None:
    assert played(DISCARD_FAILS).seen[-1].outcome.error == ""


def test_a_device_without_a_live_table_can_be_named() -> None:
    assert [seen.outcome.error for seen in played(NEVER_RESUMED).seen] == [""] * len(NEVER_RESUMED)


def test_a_discard_of_a_device_in_use_is_refused_for_that() -> None:
    assert [str(seen.outcome) for seen in played(DISCARD_IN_USE).seen] == ["done", "done", "EBUSY"]


def test_an_acknowledged_write_is_lost_when_a_table_with_sync_is_resumed_again() -> None:
    after = played(SYNC_AGAIN)
    assert [str(seen.outcome) for seen in after.seen] == ["done"] * len(SYNC_AGAIN)
    assert not any(after.contents[name][0][458752:462848] != bytes(4096) for name in ("pv1", "pv2", "vol"))


def test_legs_that_differ_are_called_the_same_when_a_table_with_nosync_is_resumed_again() -> None:
    after = played(NOSYNC_AGAIN)
    assert "vol: 0 1024 mirror 2 254:200 254:201 8/8 1 AA 3 disk 254:202 A" in after.last
    assert after.contents["pv1"][0] != after.contents["pv2"][0]


def test_an_old_write_is_read_after_a_flush_that_failed() -> None:
    after = played(AFTER_A_FLUSH)
    assert [seen.outcome.error for seen in after.seen[4:]] == [""] * 4
    assert (after.seen[7].outcome.data or b"").startswith(b"ONE")


def test_errors_of_recovery_and_of_a_flush_are_two_events() -> None:
    assert "vol::0:0:1:3:L--w" in played(EVENTS).last


@pytest.mark.requires("guest-kernel")
@pytest.mark.timeout(300)
def test_the_kernel_does_the_same() -> None:
    verdicts = Session(find_guest()).compare([play(Case(name, DISKS, steps)) for name, steps in ALL.items()])
    assert [one for verdict in verdicts for one in verdict.differences] == []
