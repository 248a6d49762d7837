"""What one side wrote the other activates: a persistent COW device, and a mirror's log on disk."""

import pytest

from dmspec.verify.emulate import play
from dmspec.verify.guest import find_guest
from dmspec.verify.session import Session
from dmspec.verify.steps import Case, DiskSpec, Played, Step, step

DISKS = (DiskSpec("pv1", 2048), DiskSpec("pv2", 2048), DiskSpec("log", 64), DiskSpec("cow", 1024))
CREATE_SNAPSHOT = (
    step("create", name="base", table=["0 2048 linear pv1 0"]),
    step("create", name="snap", table=["0 2048 snapshot base cow P 16"]),
    step("create", name="vol", table=["0 2048 snapshot-origin base"]),
)
REMOVE_SNAPSHOT = tuple(step("remove", device=[name]) for name in ("vol", "snap", "base"))
WRITE_COW = (
    step("write", target="pv1", at=0, size=65536, pattern="before"), *CREATE_SNAPSHOT,
    step("write", target="vol", at=4096, size=12288, pattern="origin"),
    step("write", target="snap", at=131072, size=512, pattern="snap"),
    step("write", target="snap", at=5120, size=8192, pattern="both"), *REMOVE_SNAPSHOT,
)
READ_COW = (*CREATE_SNAPSHOT, step("read", target="snap", at=0, size=1 << 20), step("look"),
            step("write", target="snap", at=262144, size=4096, pattern="more"))

CREATE_MIRROR = (step("create", name="vol", table=["0 2048 mirror disk 2 log 64 2 pv1 0 pv2 0 1 handle_errors"]),)
WRITE_LOG = (
    step("write", target="pv1", at=0, size=1 << 20, pattern="first"), *CREATE_MIRROR,
    step("write", target="vol", at=65536, size=8192, pattern="vol"), step("fail", disk="pv2", what="writes"),
    step("write", target="vol", at=524288, size=4096, pattern="held"),
    step("load", device="vol", table=["0 2048 linear pv1 0"]),
    step("suspend", device=["vol"], noflush=True, nolockfs=True), step("resume", device=["vol"]),
    step("remove", device=["vol"]), step("heal", disk="pv2"),
)
READ_LOG = (*CREATE_MIRROR, step("look"), step("read", target="vol", at=0, size=1 << 20),
            step("write", target="vol", at=65536, size=512, pattern="again"))


def written(steps: tuple[Step, ...]) -> Played:
    return play(Case("written", DISKS, steps))


def activated(disks: dict[str, bytes], steps: tuple[Step, ...]) -> Played:
    return play(Case("activated", tuple(DiskSpec(one.name, one.sectors, disks[one.name]) for one in DISKS), steps))


@pytest.mark.requires("guest-kernel")
@pytest.mark.timeout(300)
def test_what_one_side_wrote_the_other_activates() -> None:
    session = Session(find_guest())
    ours = [written(WRITE_COW), written(WRITE_LOG)]
    verdicts = session.compare(ours)
    by_the_kernel = [verdict.disks for verdict in verdicts]
    by_us = [{name: data for name, (data, _error) in played.contents.items()} for played in ours]
    assert by_the_kernel[0]["cow"][:4] == by_us[0]["cow"][:4] == b"SnAp"
    assert by_the_kernel[1]["log"][:4] == by_us[1]["log"][:4] == b"MiRr"[::-1]

    # Both sides activate what the kernel wrote, and what the emulator wrote, and hold the same.
    cases = [activated(disks, steps) for wrote in (by_the_kernel, by_us)
             for disks, steps in zip(wrote, (READ_COW, READ_LOG), strict=True)]
    assert [one for verdict in session.compare(cases) for one in verdict.differences] == []
    assert [one for verdict in verdicts for one in verdict.differences] == []
    snap, mirror = cases[0].contents, cases[1].contents
    assert snap["snap"][0][5120:5140] == b"both sector 00000000"
    assert snap["snap"][0][131072:131092] == b"snap sector 00000000"
    assert snap["snap"][0][14336:14358] == b"before sector 00000028"
    assert mirror["pv1"] == mirror["pv2"]
    assert mirror["pv2"][0][524288:524308] == b"held sector 00000000"
