"""Asks a real kernel for the answers of the corpus: `make corpus`.

Every table and command line of `tables.txt` and `commands.txt` is given to the dmsetup binary of this machine on
User-mode Linux, in a guest of its own for some hundred of them, and the files are written anew with what it answered.
With `--check` nothing is written: the exit status says whether the files are what the guest answers.  File names pick
a file.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.corpus.notation import (
    COMMANDS,
    DISKS,
    TABLES,
    Entry,
    read_commands,
    read_tables,
    split_command,
    without_prose,
    write_commands,
    write_tables,
)

from dmspec.verify.guest import Guest, boot, find_guest

_TABLES_A_BOOT: Final = 120
_SECTIONS_A_BOOT: Final = 12
_HEAD: Final = """
i=0
for s in %(disks)s; do
    truncate -s $((s * 512)) /tmp/disk$i
    [ -b /dev/loop$i ] || mknod /dev/loop$i b 7 $i
    losetup /dev/loop$i /tmp/disk$i || echo "@trouble loop$i"
    i=$((i + 1))
done
k() { dmesg -r -c | sed -n -e '/%(noise)s/d' -e 's/^<\\([0-9]*\\)>\\(\\[[^]]*\\] \\)\\{0,1\\}\\(.*\\)/@log \\1 \\3/p'; }
blank() {
    for i in 0 1 2 3; do dd if=/dev/zero of=/dev/loop$i bs=128k count=1 conv=notrunc oflag=direct status=none; done
    dd if=/dev/zero of=/dev/loop4 bs=64k count=1 conv=notrunc oflag=direct status=none
    dd if=/dev/zero of=/dev/loop5 bs=512 count=1 conv=notrunc oflag=direct status=none
}
said() { sed "s/^/@$1 /" /tmp/err; }
look() {
    n=0 old=
    while [ $n -lt 100 ]; do
        new=$(dmsetup status d)
        case "$new" in *resync*|*recover*) old= ;; esac
        [ "$new" != "$old" ] || break
        old=$new n=$((n + 1))
        sleep 0.25
    done
    printf '%%s\\n' "$new" | sed 's/^/@status /'
}
t() {
    echo "@entry $1"
    blank; sync; k >/dev/null
    dmsetup create d --notable
    if dmsetup load d <"$2" 2>/tmp/err; then
        if dmsetup resume d 2>/tmp/err; then
            look
            dmsetup table d | sed 's/^/@table /'
            dmsetup deps d | sed 's/^/@deps /'
        else
            said resume
        fi
    else
        said load
    fi
    k
    dmsetup remove d
}
c() {
    echo "@entry $1"
    rm -f /tmp/out /tmp/err
    case "$2" in
    hold*) : >/tmp/err; eval "$2" ;;
    *) ( eval "$2" ) >/tmp/out 2>/tmp/err ;;
    esac
    c_status=$?
    [ -e /tmp/out ] || : >/tmp/out
    sed 's/^/1|/' /tmp/out; sed 's/^/2|/' /tmp/err; k; echo "= $c_status"
}
hold() { sleep 1000 </dev/mapper/$1 & eval holder_$1=$!; }
hold_no_more() { eval kill \\$holder_$1; eval wait \\$holder_$1; true; } 2>/dev/null
fresh() {
    n=0
    while [ "$(dmsetup ls)" != "No devices found" ] && [ $n -lt 20 ]; do
        dmsetup remove_all --force >/dev/null 2>&1; n=$((n + 1))
    done
    [ $n -lt 20 ] || echo "@trouble devices are left over before entry $1"
    blank; sync; k >/dev/null
}
k >/dev/null
"""
# What is not device-mapper's: the guest's own, and what the block layer says of the disks below.
_NOISE: Final = ("epollctl", "attempt to access beyond end of device", "> *loop[0-9]*: rw=", "I\\/O error, dev loop",
                 "detected capacity change")
_LEVELS: Final = {"2": "crit", "3": "err", "4": "warning", "5": "notice", "6": "info"}
_FAILED: Final = re.compile(r"device-mapper: \w+ ioctl on d .*failed: (.*)")


class Trouble(Exception):
    """The guest did not answer as it should."""


def _run(guest: Guest, lines: list[str]) -> dict[int, list[str]]:
    """What each entry printed, by its number."""
    script = _HEAD % {"disks": " ".join(map(str, DISKS)), "noise": "\\|".join(_NOISE)} + "\n".join(lines) + "\n"
    run = boot(guest, script, [])
    if "@kernel" not in run.output or "@trouble" in run.output:
        raise Trouble(f"{run.output[-3000:]}\n{run.console[-1000:]}")
    found: dict[int, list[str]] = {}
    number = -1
    for line in run.output.splitlines()[1:]:
        if line.startswith("@entry "):
            found[number := int(line.split()[1])] = []
        elif line != "@end":
            found[number].append(line)
    if not run.ended:
        raise Trouble(f"the guest stopped at entry {number} of this boot:\n{run.output[-500:]}\n{run.console[-4000:]}")
    print(f"{len(found)} entries, Linux {run.output.split()[1]}, {run.seconds:.0f} s", file=sys.stderr)
    return found


def _log(line: str) -> str:
    _, level, text = line.split(" ", 2)
    return f"{_LEVELS[level]}: {text}"


def table_script(entries: list[Entry]) -> list[str]:
    """The tables of one boot."""
    lines = []
    for number, entry in enumerate(entries):
        lines += [f"cat >/tmp/table <<'END OF TABLE'\n{entry.given}\nEND OF TABLE", f"t {number} /tmp/table"]
    return lines


def table_facts(answer: list[str]) -> Iterator[str]:
    """The facts of one table, in the order of the notation."""
    for word in ("load", "resume"):
        for line in answer:
            if line.startswith(f"@{word} ") and line != f"@{word} Command failed.":
                text = line.removeprefix(f"@{word} ")
                match = _FAILED.fullmatch(text)
                yield f"{word:7} {match[1] if match else text}"
    for word in ("table", "status"):
        for line in answer:
            if line.startswith(f"@{word} "):
                yield f"{word:7} {line.removeprefix(f'@{word} ')}".rstrip()
    for line in answer:
        if line.startswith("@deps ") and not line.startswith("@deps 0 "):
            yield f"deps    {line.partition(':')[2].strip()}"
    for line in answer:
        if line.startswith("@log "):
            yield f"log     {_log(line)}"


def command_script(entries: list[Entry]) -> list[str]:
    """The sections of one boot."""
    lines = []
    for number, entry in enumerate(entries):
        if entry.heading:
            lines.append(f"fresh {number}")
        words, text = split_command(entry.given)
        if text is not None:
            words = f"printf %s {shlex.quote(text)} | {words}"
        match words.split():
            case ["open", name]:
                words = f"hold {name}"
            case ["close", name]:
                words = f"hold_no_more {name}"
        lines.append(f"c {number} {shlex.quote(words)}")
    return lines


def command_facts(answer: list[str]) -> Iterator[str]:
    """The facts of one command."""
    for line in answer:
        yield f"k|{_log(line)}" if line.startswith("@log ") else line


def _parts(entries: list[Entry], most: int, begins: Callable[[Entry], bool]) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    begun = 0
    for entry in entries:
        if begins(entry):
            if begun == most:
                yield part
                part, begun = [], 0
            begun += 1
        part.append(entry)
    if part:
        yield part


def answered(path: Path, guest: Guest, section: str = "") -> str:
    """A file with the guest's answers, for commands in the sections whose heading has a word in it."""
    text = path.read_text()
    if path == TABLES:
        entries, after = read_tables(text)
        parts = list(_parts(entries, _TABLES_A_BOOT, lambda _entry: True))
        scripts, facts = [table_script(part) for part in parts], table_facts
    else:
        entries, after = read_commands(text)
        wanted, is_wanted = [], False
        for entry in entries:
            is_wanted = section in entry.heading if entry.heading else is_wanted
            wanted += [entry] if is_wanted else []
        parts = list(_parts(wanted, _SECTIONS_A_BOOT, lambda entry: bool(entry.heading)))
        scripts, facts = [command_script(part) for part in parts], command_facts
    with ThreadPoolExecutor(2) as pool:
        for part, found in zip(parts, pool.map(lambda lines: _run(guest, lines), scripts), strict=True):
            for number, entry in enumerate(part):
                entry.facts = without_prose(entry.given, list(facts(found[number])))
    return write_tables(entries, after) if path == TABLES else write_commands(entries, after)


def main() -> int:
    """Record, or check."""
    parser = argparse.ArgumentParser(prog="corpus", description=__doc__)
    parser.add_argument("files", nargs="*", help="tables, commands; without names both")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--section", default="", metavar="WORD", help="only those sections of commands")
    options = parser.parse_args()
    guest = find_guest()
    different = False
    for path in (TABLES, COMMANDS):
        if options.files and path.stem not in options.files:
            continue
        before, after = path.read_text(), answered(path, guest, options.section)
        different = different or before != after
        if not options.check:
            path.write_text(after)
        elif before != after:
            print(f"{path.name} is not what the guest answers", file=sys.stderr)
    return 1 if options.check and different else 0


if __name__ == "__main__":
    sys.exit(main())
