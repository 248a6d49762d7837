"""One logic, two engines: the same spec ends with the same bytes on every disk, simulated and live.

The corpus is every stack with every sequence of operations that it can take; besides the bytes, the
status and table lines, event numbers and the kernel log are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmspec.compiler import compile_text
from dmspec.runtime.backing import memory_file
from dmspec.runtime.build import SetUp, build, furnish
from dmspec.runtime.control import status_lines
from dmspec.runtime.live import LiveEngine
from dmspec.runtime.plan import Plan
from dmspec.runtime.process import ProcessTask
from dmspec.runtime.registry import OPERATIONS, TARGETS
from dmspec.runtime.server import RunProcess
from dmspec.runtime.sim import SeededChooser, SimEngine
from dmspec.runtime.world import World

DEADLINE_S = 30.0

DISKS = "disk a 2MiB\ndisk b 2MiB\ndisk c 2MiB\ndisk log 64KiB\ndisk cow 1MiB\n"

# The device that the operations are done to is always called top.
STACKS = {
    "linear": "device top { linear a }",
    "segments": "device top { 512KiB linear a @64KiB  512KiB linear b  64KiB zero  64KiB linear c @1MiB }",
    "striped": "device top { striped a b c chunk=32KiB }",
    "zero": "device top { 1MiB zero }",
    "error": "device top { 1MiB error }",
    "half-error": "device top { 512KiB linear a  512KiB error }",
    "mirror": "device top { mirror a b log=core region=128KiB nosync handle_errors }",
    "mirror-sync": "device top { mirror a b c log=core region=128KiB }",
    "mirror-disk": "device top { mirror a b log=log region=128KiB handle_errors }",
    "mirror-keep": "device top { mirror a b log=log region=64KiB nosync handle_errors keep_log }",
    "over-mirror": "device legs { mirror a b log=log region=128KiB handle_errors }\ndevice top { linear legs }",
    "origin": "device base { linear a }\ndevice snap { snapshot base cow P chunk=4KiB }\n"
              "device top { snapshot-origin base }",
    "origin-two": "device base { linear a }\ndevice s1 { snapshot base cow P chunk=16KiB }\n"
                  "device s2 { snapshot base c N chunk=4KiB }\ndevice top { snapshot-origin base }",
    "snapshot": "device base { linear a }\ndevice origin { snapshot-origin base }\n"
                "device top { snapshot base cow P chunk=8KiB }",
    "snapshot-po": "device base { linear a }\ndevice top { snapshot base cow PO chunk=4KiB }",
    "snapshot-mirror": "device base { mirror a b log=log region=128KiB nosync handle_errors }\n"
                       "device snap { snapshot base cow P chunk=4KiB }\ndevice top { snapshot-origin base }",
    "merge": "device base { linear a }\ndevice top { snapshot-merge base cow P chunk=4KiB }",
    "raid": "device top { raid a b c region=64KiB write-mostly=2 }",
    "raid-metadata": "device top { raid log a cow b metadata nosync region=128KiB }",
    "delay": 'device top { "0 4096 delay a 0 0 b 0 1" }',
    "flakey-drop": "device top { flakey a up=0s down=3600s drop_writes }",
    "flakey-error": "device top { 512KiB flakey a up=0s down=3600s error_writes  512KiB flakey b up=3600s down=1s }",
    "flakey-byte": 'device top { "0 4096 flakey a 0 0 3600 5 corrupt_bio_byte 3 w 64 0" }',
    "dust": "device top { dust a block=4KiB }",
    "log-writes": "device sink { 1MiB zero }\ndevice top { log-writes a sink }",
}

SEQUENCES = {
    "write": "write top at=0 size=300KiB",
    "unaligned": "write top at=1000 size=70001\nwrite top at=5 size=3\nread top at=700 size=9000",
    "small": "write top at=4KiB size=512 times=40\nflush top",
    "rewrite": "write top at=0 size=64KiB\nwrite top at=32KiB size=64KiB\nwrite top at=0 size=4KiB fua",
    "discard": "write top at=0 size=256KiB\ndiscard top at=64KiB size=64KiB\nread top at=0 size=256KiB",
    "suspend": "write top at=0 size=64KiB\nsuspend top\nresume top\nwrite top at=16KiB size=64KiB",
    "noflush": "write top at=0 size=8KiB\nsuspend top noflush nolockfs\nresume top\nwrite top at=4KiB size=8KiB",
    "reload": "write top at=0 size=64KiB\nload top table=table-of(top)\nresume top\nwrite top at=128KiB size=8KiB",
    "rename": "write top at=0 size=8KiB\nrename top other\nrename other top\nwrite top at=8KiB size=8KiB",
    "fail-read": "write top at=0 size=64KiB\nfail a reads\nread top at=0 size=64KiB\nheal a\nread top at=0 size=8KiB",
    "fail-range": "fail b reads range=0+4KiB\nread top at=0 size=64KiB\nheal b",
    "parallel": "parallel { write top at=0 size=16KiB } { write top at=64KiB size=16KiB }",
    "clear": "load top table=table-of(top)\nclear top\nwrite top at=0 size=4KiB",
    "create": "create extra { linear c }\nwrite extra at=0 size=8KiB\nremove extra\nwrite top at=0 size=8KiB",
    "hash": "write top at=0 size=64KiB\nsha256 top 0+64KiB as=first\nread top at=0 size=64KiB",
    "slow": "delay a 1ms\nwrite top at=0 size=8KiB\nheal a\nsleep 1ms\nflush top",
    "detach": "write top at=0 size=8KiB\ndetach c\nread top at=0 size=64KiB\nheal c\nread top at=0 size=8KiB",
    "mishaps": "tear a next-write keep=1KiB\nwrite top at=0 size=8KiB\nlose-write b\nwrite top at=16KiB size=8KiB\n"
               "misdirect a by=64KiB\nwrite top at=32KiB size=4KiB\ncorrupt c at=9KiB bits=9\nlose-flush a\nflush top",
    "repair": "write top at=0 size=8KiB\nlvm-repair top\nwrite top at=4KiB size=8KiB",
    "wipe": "write top at=0 size=16KiB\nwipe top at=4KiB size=4KiB\nwipe top at=700 size=9000",
    "watched": "register top\nwrite top at=0 size=8KiB\nunregister top\nwrite top at=8KiB size=8KiB",
    "message": "message top \"hello\"",
    "marks": "write top at=0 size=8KiB\nflush top\nmessage top \"mark one\"\nwrite top at=4KiB size=8KiB\nflush top",
    "bad-blocks": "message top \"addbadblock 3 1\"\nmessage top \"enable\"\nread top at=0 size=64KiB\n"
                  "write top at=0 size=64KiB\nread top at=8KiB size=8KiB\n"
                  "write top at=0 size=64KiB\nread top at=0 size=64KiB",
}

# What a stack cannot do fails in the same way on both engines, so every statement may.
ALLOWED = ("EIO", "EOPNOTSUPP", "ENOSPC", "EINVAL", "EBUSY")


@dataclass
class End:
    """Where a run came to."""

    disks: dict[str, bytes]
    devices: dict[str, tuple[list[str], list[str], int]]
    log: list[tuple[str, str]]


def spec(stack: str, statements: str) -> Plan:
    lines = []
    for line in statements.splitlines():
        for error in ALLOWED:
            line = f"allow error {error} {{ {line} }}"
        lines.append(line)
    mirrors = [name for name in ("top", "legs", "base") if f"device {name} {{ mirror" in stack]
    insync = "".join(f"await insync({name})\n" for name in mirrors)
    compiled = compile_text(f"{DISKS}{stack}\nprocess app {{\n{insync}" + "\n".join(lines) + "\n}\n", "corpus")
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


def end_of(world: World, read: Callable[[str, memoryview], None]) -> End:
    disks = {}
    for name, disk in world.stack.disks.items():
        data = bytearray(disk.sectors * 512)
        read(name, memoryview(data))
        disks[name] = bytes(data)
    devices = {name: (status_lines(md), status_lines(md, table=True), md.event_nr)
               for name, md in sorted(world.stack.devices.items())}
    return End(disks, devices, list(world.stack.log_lines))


def simulated(plan: Plan, seed: int | None = None) -> End:
    engine = SimEngine()
    world = build(plan, engine, target_types=TARGETS)
    if seed is not None:
        engine.chooser = SeededChooser(seed)
    process = ProcessTask(world, plan.process("app"))
    world.processes["app"] = process
    process.run()
    while engine.step():
        world.settle()
    assert (process.ended, process.value) == (True, 0), process.waiting
    return end_of(world, lambda name, data: world.stack.disks[name].backing.read(0, data))


def live(plan: Plan) -> End:
    backings = {disk.name: memory_file(disk.name, disk.sectors) for disk in plan.disks}
    engine = LiveEngine()
    try:
        world = engine.call(lambda: furnish(plan, engine, disk_factory=lambda disk: backings[disk.name],
                                            target_types=TARGETS))
        engine.after_step = world.settle
        assert not engine.run(SetUp(world), "setup")
        process = ProcessTask(world, plan.process("app"))
        assert not engine.run(RunProcess(process), "app")
        deadline = time.monotonic() + DEADLINE_S
        while not engine.call(lambda: not engine.runnable and not engine.performing):
            assert time.monotonic() < deadline, "the live engine does not come to rest"
        return end_of(world, lambda name, data: backings[name].read(0, data))
    finally:
        engine.stop()
        for backing in backings.values():
            backing.close()


def agree(plan: Plan) -> None:
    one, other = simulated(plan), live(plan)
    for name, data in one.disks.items():
        assert data == other.disks[name], f"disk {name} differs"
    assert one.devices == other.devices
    assert one.log == other.log


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("stack", STACKS)
def test_engines_agree(stack: str, sequence: str) -> None:
    agree(spec(STACKS[stack], SEQUENCES[sequence]))


@pytest.mark.parametrize("sequence", [name for name in SEQUENCES if name != "parallel"])
def test_engines_agree_on_what_is_in_a_log(sequence: str) -> None:
    """The log has the order of completion, so only what is done one after the other gives the same one."""
    agree(spec("device top { log-writes a c }", SEQUENCES[sequence]))


def test_the_corpus_has_every_target_and_most_operations() -> None:
    used = {kind for text in STACKS.values() for kind in TARGETS if f" {kind} " in text.replace("{", " ")}
    assert used == set(TARGETS)
    words = {line.split()[0] for text in SEQUENCES.values() for line in text.splitlines()}
    missing = {name for name, one in OPERATIONS.items()
               if not name.startswith("expect") and name not in words}
    # The first two are of a simulated filesystem; on a mount the power is cut by killing its server.
    assert missing == {"freeze", "thaw", "power-cut"}


DRAWN = st.lists(st.sampled_from(sorted(SEQUENCES)), min_size=2, max_size=5)


@settings(max_examples=25, deadline=None)
@given(stack=st.sampled_from(sorted(STACKS)), sequences=DRAWN)
def test_engines_agree_on_drawn_sequences(stack: str, sequences: list[str]) -> None:
    agree(spec(STACKS[stack], "\n".join(SEQUENCES[name] for name in sequences)))
