"""A shell script of cases, for the guest, and where on its disks everything lies.

The guest has three disks: ``/dev/ubda`` holds the disks of all cases side by side (they start as zeros, so nothing
has to be wiped between cases), ``/dev/ubdb`` what is written, ``/dev/ubdc`` takes what is read.  Contents are thus
compared on the host, byte by byte, and the guest starts as few processes as possible, for they are what costs.

After each step the script looks at everything, and looks again for a while as long as it is not what the emulator
says that it will be: what a device does by itself takes time.  What it sees last is the result; a view that is as
expected is only said to be so.  At the end of a case the script waits a moment and looks once more, in order that
something that only passed through the expected state is found.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from dmspec.runtime.byte_io import stream
from dmspec.runtime.units import MIB, SECTOR_BYTES
from dmspec.verify.layers import Layer
from dmspec.verify.steps import CONTROL, FAULTS, IO, Played, Step

INFO: Final = "name,uuid,minor,open,segments,events,attr"
# So often the script looks again, with pauses of a tenth of a second: 6 to 8 s.  Once something differs in a case,
# the rest of it is bound to differ, and is not waited for.
LOOKS: Final = 30
MOST_SLEEP_S: Final = 2.0
# What is larger is read and written in pieces.
MOST_PIECE_BYTES: Final = 8 * MIB
# A smaller buffer of busybox's dd is not aligned, and then dd goes through the page cache without a word.
PAGE_BYTES: Final = 4096
_HEAD: Final = """
look() {
    echo status; dmsetup status
    echo info; dmsetup info -c --noheadings -o %(info)s
    [ -z "$1" ] || { echo table; dmsetup table; echo inactive; dmsetup table --inactive; }
    echo steps
    for p in $P; do [ -s /tmp/$p.status ] || echo "$p:-"; done
}
v() {
    n=0
    while g=$(look "$2" 2>&1); [ "$g" != "$1" ] && [ $n -lt $L ]; do n=$((n + 1)); sleep 0.1; done
    if [ "$g" = "$1" ]; then echo @as-expected; else echo @view; printf '%%s\\n' "$g"; L=2; fi
}
s() {
    echo "@step $1"
    t=$(eval "$2" 2>&1) || { echo "@failed $?"; printf '%%s\\n' "$t"; }
}
b() {
    echo "@step $1"
    rm -f /tmp/$1.*
    ( eval "$2" >/tmp/$1.said 2>&1; echo $? >/tmp/$1.status ) &
    P="$P $1"
    sleep 0.3
}
there() { [ -b /dev/mapper/$1 ] || { echo "No such device or address"; return 1; }; }
w() { there "$1" && dd if=/dev/ubdb of=/dev/mapper/$1 bs=$3 count=$5 skip=$4 seek=$2 \\
    iflag=direct,skip_bytes,count_bytes oflag=direct,seek_bytes conv=notrunc status=none; }
r() { there "$1" && dd if=/dev/mapper/$1 of=/dev/ubdc bs=$3 count=$5 skip=$2 seek=$4 \\
    iflag=direct,skip_bytes,count_bytes oflag=direct,seek_bytes conv=notrunc status=none; }
d() { there "$1" && blkdiscard -o $2 -l $3 /dev/mapper/$1; }
f() { there "$1" && sync -d /dev/mapper/$1; }
a() {
    echo "@contents $1"
    t=$(dd if=/dev/mapper/$1 of=/dev/ubdc bs=1M seek=$2 iflag=direct oflag=direct,seek_bytes conv=notrunc \\
        status=none 2>&1) || { echo "@failed $?"; printf '%%s\\n' "$t"; }
}
e() {
    for p in $P; do
        [ ! -s /tmp/$p.status ] || { echo "@ended $p $(cat /tmp/$p.status)"; cat /tmp/$p.said; }
    done
}
z() {
    P=
    dmsetup remove_all 2>/dev/null
    n=0
    while [ "$(dmsetup ls)" != "No devices found" ]; do
        [ $n -lt 2 ] || { echo @dirty; echo @end; sync; poweroff -f; }
        n=$((n + 1))
        ( dmsetup remove_all --force; sleep 0.5; dmsetup remove_all ) >/dev/null 2>&1 &
        sleep 2
    done
    echo @clean
}
echo "@targets $(dmsetup targets | awk '{ printf "%%s ", $1 }')"
grep -q '^254 device-mapper$' /proc/devices || echo "@trouble device-mapper's major number is not 254"
"""


@dataclass(slots=True)
class Placed:
    """Where the things of one case lie, in bytes: its disks on ubda, what its steps and its end read on ubdc."""

    played: Played
    disks: dict[str, int] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    contents: dict[str, int] = field(default_factory=dict)


class Script:
    """Builds the script and the layout of its disks; ``payload`` is what ubdb holds."""

    def __init__(self) -> None:
        self.lines = [_HEAD % {"info": INFO}]
        self.placed: list[Placed] = []
        self.disks_end = 0
        self.reads_end = 0
        self.payload = bytearray()

    @property
    def text(self) -> str:
        """The script as it stands."""
        return "\n".join(self.lines) + "\n"

    def add(self, played: Played) -> None:
        """Add a case."""
        placed = Placed(played)
        layers = []
        for index, disk in enumerate(played.case.disks):
            placed.disks[disk.name] = self.disks_end
            layers.append(Layer(disk, index, self.disks_end // SECTOR_BYTES))
            self.disks_end += -(-disk.sectors * SECTOR_BYTES // MIB) * MIB
        self.lines.append(f"echo @case {len(self.placed)}; P= L={LOOKS}")
        self.lines += [layer.create() for layer in layers]
        self.placed.append(placed)
        for number, step in enumerate(played.steps):
            self._step(placed, number, step, layers)
        self._end(placed, layers)

    def _step(self, placed: Placed, number: int, step: Step, layers: list[Layer]) -> None:
        commands = list(self._commands(placed, number, step, layers))
        seen = placed.played.seen[number]
        started = "b" if _begins_pending(placed.played, number) else "s"
        self.lines.append(f"{started} {number} {shlex.quote('; '.join(commands))}")
        self._view(seen.view, layers)

    def _view(self, view: list[str], layers: list[Layer]) -> None:
        tables = " t" if "table" in view else ""
        self.lines.append(f"v {shlex.quote(guest_view(view, layers))}{tables}")

    def _end(self, placed: Placed, layers: list[Layer]) -> None:
        played = placed.played
        self.lines.append("echo @last; sleep 0.3")
        self._view(played.last, layers)
        self.lines.append("e")
        for disk in played.case.disks:
            offset = placed.contents[disk.name] = self._room(disk.sectors * SECTOR_BYTES)
            size = disk.sectors * SECTOR_BYTES
            self.lines.append(f"echo @contents {disk.name}; dd if=/dev/ubda of=/dev/ubdc bs=1M count={size} "
                              f"skip={placed.disks[disk.name]} seek={offset} iflag=direct,skip_bytes,count_bytes "
                              "oflag=direct,seek_bytes conv=notrunc status=none")
        names = {disk.name for disk in played.case.disks}
        for name in played.contents:
            if name not in names:
                offset = placed.contents[name] = self._room(played.sizes[name])
                self.lines.append(f"a {shlex.quote(name)} {offset}")
        self.lines.append("z")

    def _room(self, length: int) -> int:
        offset = self.reads_end
        self.reads_end += -(-length // 4096) * 4096
        return offset

    def _commands(self, placed: Placed, number: int, step: Step, layers: list[Layer]) -> Iterable[str]:
        if step.op in CONTROL:
            yield control_command(step, placed.played.tables.get(number))
        elif step.op in FAULTS:
            [layer] = [one for one in layers if one.disk.name == step.args["disk"]]
            yield from layer.strike(step)
        elif step.op == "sleep":
            yield f"sleep {min(step.args['time'] / 1e9, MOST_SLEEP_S):.3f}"
        elif step.op in IO:
            yield self._io(placed, number, step)
        else:
            yield ":"

    def _io(self, placed: Placed, number: int, step: Step) -> str:
        name = shlex.quote(step.args["target"])
        if step.op == "flush":
            return f"f {name}"
        at, size = step.args["at"], step.args["size"]
        if step.op == "discard":
            return f"d {name} {at} {size}"
        piece = -(-size // PAGE_BYTES) * PAGE_BYTES if size <= MOST_PIECE_BYTES else MIB
        if step.op == "read":
            placed.reads[number] = self._room(size)
            return f"r {name} {at} {piece} {placed.reads[number]} {size}"
        offset = len(self.payload)
        self.payload += bytes(size) if step.op == "wipe" else stream(step.args["pattern"], 0, size)
        return f"w {name} {at} {piece} {offset} {size}"


def guest_view(view: list[str], layers: list[Layer]) -> str:
    """A view with the layers where they lie in this boot: the emulator placed all of them at sector 0."""
    from_zero = {line: f"{name}: {real}" for one in layers for name, lines in one.table_lines().items()
                 for line, real in _pairs(one, name, lines)}
    return "\n".join(from_zero.get(line, line) for line in view)


def _pairs(layer: Layer, name: str, lines: list[str]) -> list[tuple[str, str]]:
    offset, layer.offset = layer.offset, 0
    at_zero = layer.table_lines()[name]
    layer.offset = offset
    return [(f"{name}: {zero}", real) for zero, real in zip(at_zero, lines, strict=True)]


def _begins_pending(played: Played, number: int) -> bool:
    """Whether the step had not ended when the emulator came to rest after it."""
    return f"{number}:-" in played.seen[number].view


def control_command(step: Step, table: list[str] | None) -> str:
    """The ``dmsetup`` call of a control step; ``table``: the one of a ``create`` or ``load``, resolved."""
    args = step.args
    words = ["dmsetup", "load" if step.op == "load" else step.op]
    words += [f"--{flag}" for flag in ("noflush", "nolockfs", "force", "deferred") if args.get(flag)]
    if args.get("read_only"):
        words.append("--readonly")
    if step.op == "create":
        words += ["--uuid", shlex.quote(args["uuid"])] if args["uuid"] else []
        words += ["--notable"] if args["table"] is None else []
    if step.op == "rename":
        new = ["--setuuid", shlex.quote(args["device"]), shlex.quote(args["uuid"])] if args["new_name"] is None \
            else [shlex.quote(args["device"]), shlex.quote(args["new_name"])]
        return " ".join([*words, *new])
    device = args["name"] if step.op == "create" else args["device"]
    words += [shlex.quote(one) for one in ([device] if isinstance(device, str) else device)]
    if step.op == "message":
        words += [str(args["sector"]), shlex.quote(args["text"])]
    if table is None:
        return " ".join(words)
    return f"printf '%s\\n' {' '.join(shlex.quote(line) for line in table)} | {' '.join(words)}"
