"""A short soak; ``make soak`` is the long one."""

import pytest
from tests.soak.lanes import Lost, Model
from tests.soak.run import soak
from tests.soak.stacks import KINDS


@pytest.mark.requires("fuse", "libfuse3")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_acknowledged_is_lost(kind: str) -> None:
    [done] = soak(2, 7, [kind], lambda _text: None)
    assert done.kills == 2
    assert done.checks == done.kills + done.ends + 1
    assert sum(lane.operations for lane in done.lanes)


def test_a_loss_is_seen() -> None:
    """The model takes what was acknowledged, or a write whose end nobody heard of, and nothing else."""
    model = Model(4096)
    model.doubtful.append((0, b"a" * 512))
    model.check(b"a" * 512 + bytes(3584), "not heard of")
    model.check(bytes(4096), "not heard of")
    model.done(0, b"b" * 1024)
    model.check(b"b" * 1024 + bytes(3072), "acknowledged")
    for found in (bytes(4096), b"a" * 512 + b"b" * 512 + bytes(3072), b"b" * 1024 + bytes(3071) + b"c"):
        with pytest.raises(Lost):
            model.check(found, "lost")
    model.doubtful.append((100, b"c" * 2000))
    model.done(600, b"d" * 512)
    assert model.doubtful == [(100, b"c" * 500), (1112, b"c" * 988)]
