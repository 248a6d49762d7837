"""The help text: what `dmsetup help` prints.

The synopsis is the command's interface, in its own order; what explains it is said in words of our own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_HEAD: Final = """\
Usage:

dmsetup
        [--version] [-h|--help [-c|-C|--columns]]
        [-v|--verbose [-v|--verbose ...]] [-f|--force]
        [--checks] [--manglename {none|hex|auto}]
        [-r|--readonly] [--noopencount] [--noflush] [--nolockfs] [--inactive]
        [--udevcookie <cookie>] [--noudevrules] [--noudevsync] [--verifyudev]
        [-y|--yes] [--readahead {[+]<sectors>|auto|none}] [--retry]
        [-c|-C|--columns] [-o <fields>] [-O|--sort <sort_fields>]
        [-S|--select <selection>] [--nameprefixes] [--noheadings]
        [--separator <separator>]

"""

_TAIL: Final = """\

A device is named, or said by -u UUID or by -j MAJOR -m MINOR; these two can mean but one.
--manglename says how names are written that udev would not take: encoded where needed (auto), always (hex), never.
Columns for -o and -O have commas between them; `help -c` lists them.
--concise takes devices with semicolons between them, each NAME,UUID,MINOR,FLAGS,TABLE: FLAGS are ro or rw, lines of
the table have commas between them, what is not needed stays empty: a,,,,0 100 linear 7:0 0;b,,,ro,0 8 zero
A table that is not given is read from standard input.
-o for ls and deps: devno, devname or blkdevname.
-o for ls --tree: ascii, utf, vt100; compact, inverted, notrunc; blkdevname, [no]device, active, open, rw, uuid.

"""


def usage(commands: Iterable[tuple[str, str]]) -> str:
    """The whole text; each command with its arguments."""
    return _HEAD + "".join(f"\t{name} {arguments}\n" for name, arguments in commands) + _TAIL
