"""What is not compared between a recording and the emulator, each with the reason.

A mask changes lines on both sides before they are compared; its pattern is searched in each line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Mask:
    """Lines in which ``pattern`` is found get ``put`` in its place, or are left out (``None``)."""

    pattern: str
    put: str | None
    reason: str
    cases: tuple[str, ...] = ()
    section: str = ""

    def applies(self, case: str, section: str) -> bool:
        """Whether it is meant for this case and section; without names it is for all."""
        return (not self.cases or case in self.cases) and section.startswith(self.section)


_ONE_WRITE: Final = ("FUSE lets one direct write at a time into a file: while one is held by the mirror, a second "
                     "one waits in the kernel of this machine; it neither marks its region nor reaches the good leg "
                     "(FOPEN_PARALLEL_DIRECT_WRITES would change that; libfuse before 3.15 does not know it)")

MASKS: Final = (
    Mask(r"^kernel: \w+: Buffer I/O error on dev ", None,
         "the page cache of the block layer logs this; here the page cache is that of FUSE"),
    Mask(r"^kernel: info: loop\d+: detected capacity change", None,
         "the loop driver logs this when a file is attached; here the disks are always there"),
    Mask(r"^00000400  7f( 00){7}  ( ?00){8}  ", "00000400  ff" + " 00" * 7 + "  " + "00 " * 8 + " ",
         "the log on disk calls the last region clean when a flush of the legs is over, and one leg delays that by 0.1 "
         "seconds; status says 8/8 before it, and whoever looks then sees the one or the other",
         ("b-mirror",), "disk log, 2 legs, no features"),
    Mask(r"snapshot-merge \d+/512 16$", "snapshot-merge N/512 16",
         "how far a merge is when somebody looks is chance (README of the recordings); that it ends, and with what, "
         "is seen in the headers and the data", ("d2-merge",)),
    Mask(r" (?!(\d+)/\1 )\d+/(\d+) 1 ([AD]+) ", r" N/\2 1 \3 ",
         "how far a synchronisation is when somebody looks is chance (README of the recordings)", ("b-mirror",)),
    Mask(r"^(0 1024 mirror 2 254:0 254:1) [67]/8 1 AD 1 core$", r"\1 N/8 1 AD 1 core", _ONE_WRITE,
         ("c-mirror-failure",), "5."),
    Mask(r"^(V sector 00000000 \.{6}|0{24})$", "V or not yet", _ONE_WRITE, ("c-mirror-failure",), "5."),
    Mask(r"^00000010  [0-9a-f]{2} 00 00 00 00 00 00 00 ", "00000010  EVENTS ",
         "md counts each write of its superblock here, and how often it writes depends on when it finds itself idle",
         ("h-others",), "raid"),
    Mask(r"^(W sector 00000000 \.{6}|\((rd)\) W sector 00000000 \.{6}|(\(rd\) )?0{24})$", "W or not yet", _ONE_WRITE,
         ("c-mirror-failure",), "28."),
    Mask(r"/proc/\d+/status", "/proc/PID/status", "process ids", ("c-mirror-failure",)),
    Mask(r"^(0 1024 mirror 2 254:0 254:1) [1-7]/8 1 (A[ASD]) 1 core$", r"\1 N/8 1 \2 1 core",
         "how far a synchronisation is two seconds after its start, at 0.7 seconds a region, is chance, and so is how "
         "far it has come when the leg fails: the commands between take longer on a loaded machine",
         ("c-mirror-failure",), "27."),
    Mask(r"^kernel: err: device-mapper: raid1: Write error during recovery \(error = 0x1\)$", None,
         "one line for each region that is left when the leg fails, whose number is chance", ("c-mirror-failure",),
         "27."),
    Mask(r"^[-bcl][-rwx]{9} .* DATE (\S+)$", r"\1",
         "ls -l: the devices of a mount are regular files, with a size instead of a device number",
         ("f-control",)),
    Mask(r"^total \d+$", "total", "ls -l: regular files have blocks", ("f-control",)),
)


@dataclass(frozen=True)
class Chance:
    """Lines of a case that come out one way or the other; each way stands for all of them."""

    case: str
    ways: tuple[str, ...]
    reason: str


CHANCES: Final = (
    Chance("c-mirror-failure", (
        """\
(f) device-mapper: remove ioctl on m  failed: Device or resource busy
(f) Command failed.
(f) ended [exit 1]
(w) dd: error writing '/dev/mapper/m': Input/output error
(w) ended [exit 1]
$ dmsetup ls; dmsetup table m
leg0\t(254:0)
leg1\t(254:1)
log\t(254:2)
m\t(254:3)
0 1024 error \n""", """\
(f) ended [exit 0]
(w) dd: error writing '/dev/mapper/m': Input/output error
(w) ended [exit 1]
$ dmsetup ls; dmsetup table m
leg0\t(254:0)
leg1\t(254:1)
log\t(254:2)
device-mapper: table ioctl on m  failed: No such device or address
Command failed.
[exit 1]
"""),
        "remove --force has put in the error table, dd gets EIO and closes the device, or has not yet when the "
        "removal is asked for. On a uniprocessor without preemption (the recorded guest) it never has; Linux 6.1.192 "
        "(SMP PREEMPT_DYNAMIC, qemu) removed the device in 17 of 40 tries with two processors, in 25 of 40 with one"),
)

# Where kernel lines come from workers, it is chance whether they are printed with one command or the next (the
# README of the recordings says so); they are compared section by section, in their order.
ASYNCHRONOUS: Final = frozenset({"b-mirror", "c-mirror-failure", "d-snapshot", "d2-merge", "d3-merge-transient",
                                 "e-snapshot-of-mirror", "h-others"})


# What is printed while a synchronisation or a merge goes on is chance as well; of such a block the end counts.
_WATCHED: Final = re.compile(r"^\$ \(dmsetup status .*repeatedly, changes only\)$")
_STATUS: Final = re.compile(r"^\d+ \d+ [a-z]")


def comparable(case: str, text: str) -> list[str]:
    """A case's output as it is compared."""
    for chance in CHANCES:
        for way in chance.ways if chance.case == case else ():
            text = text.replace(way, chance.ways[0])
    lines = []
    section = ""
    for line in _finished_logs(_ends_of_watches(text.splitlines())):
        shown: str | None = line
        if line.startswith("##### "):
            section = line.removeprefix("##### ")
        for mask in MASKS:
            if mask.applies(case, section) and shown is not None and re.search(mask.pattern, shown):
                shown = None if mask.put is None else re.sub(mask.pattern, mask.put, shown)
        if shown is not None:
            lines.append(shown)
    return _kernel_last(lines) if case in ASYNCHRONOUS else lines


def _ends_of_watches(lines: list[str]) -> list[str]:
    kept: list[str] = []
    begun = -1
    for line in lines:
        if begun >= 0 and (not line or line[0] in "$#" or line.startswith("kernel: ")):
            begun = -1
        if begun >= 0 and _STATUS.match(line):
            del kept[begun:]
        kept.append(line)
        if _WATCHED.match(line):
            begun = len(kept)
    return kept


_UNDER_WAY: Final = re.compile(r"^\d+ \d+ mirror .* (?!(\d+)/\1 )\d+/\d+ 1 ")
_BITMAP: Final = re.compile(r"^000004[01]0 |^\*$")


def _finished_logs(lines: list[str]) -> list[str]:
    """Leave out the bitmap of a log that is shown beside a synchronisation under way: it is as far by chance."""
    kept: list[str] = []
    under_way = False
    for line in lines:
        if line.startswith("$"):
            under_way = False
        if _UNDER_WAY.match(line):
            under_way = True
        if not (under_way and _BITMAP.match(line)):
            kept.append(line)
    return kept


def _kernel_last(lines: list[str]) -> list[str]:
    ordered: list[str] = []
    kernel: list[str] = []
    for line in [*lines, "#####"]:
        if line.startswith("#####"):
            ordered += kernel
            kernel = []
        (kernel if line.startswith("kernel: ") else ordered).append(line)
    return ordered[:-1]
