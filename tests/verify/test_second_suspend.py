"""What specs/mail/idle_disk.dms says a kernel does after a suspend that came to nothing, seen on a real one.

There the suspend fails in the freeze; here a signal ends it while it waits for a write, which needs no filesystem.
Either way the mirror has had its presuspend, and no undo of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dmspec.verify.guest import boot, find_guest

SCRIPT = """
dmsetup create leg1 --table "0 2048 linear /dev/ubda 0"
dmsetup create leg2 --table "0 2048 linear /dev/ubdb 0"
dmsetup create vol --table \
    "0 2048 mirror core 2 1024 nosync 2 /dev/mapper/leg1 0 /dev/mapper/leg2 0 1 handle_errors"
dmsetup suspend leg2 --noflush --nolockfs
busybox dd if=/dev/zero of=/dev/mapper/vol bs=4k count=1 oflag=direct 2>/dev/null & writer=$!
busybox sleep 0.5
dmsetup suspend vol --nolockfs & first=$!
busybox sleep 0.5
busybox kill -TERM $first
wait $first
dmsetup resume leg2
wait $writer
echo "write: $?"
dmsetup info vol | busybox grep State
dmsetup suspend vol --noflush --nolockfs & second=$!
busybox sleep 1
busybox kill -KILL $second
busybox sleep 1
echo "second: $(busybox awk '/State/ { print $2 }' /proc/$second/status)"
busybox cat /proc/$second/stack
"""


@pytest.mark.slow
@pytest.mark.requires("guest-kernel")
@pytest.mark.timeout(300)
def test_a_second_suspend_of_the_mirror_never_ends(tmp_path: Path) -> None:
    disks = [tmp_path / "a", tmp_path / "b"]
    for disk in disks:
        disk.write_bytes(bytes(2 << 20))
    said = boot(find_guest(), SCRIPT, disks).output
    assert "write: 0\n" in said
    assert "State:             ACTIVE\n" in said
    assert "second: D\n" in said, said
    assert "dm_rh_stop_recovery" in said
    assert "mirror_presuspend" in said
