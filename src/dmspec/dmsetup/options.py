"""The command line's grammar: options as getopt_long takes them, anywhere among the arguments.

A long option may be cut short as long as it stays unambiguous; `--verbose` wants an argument, as the original's
table of options says by mistake.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

SHORT: Final = "cCfG:hj:m:M:no:O:rS:u:U:vy"

_ALIAS: Final = {"c": "columns", "C": "columns", "f": "force", "G": "gid", "h": "help", "j": "major", "m": "minor",
                 "M": "mode", "n": "notable", "o": "options", "O": "sort", "r": "readonly", "S": "select",
                 "u": "uuid", "U": "uid", "v": "verbose", "y": "yes"}

# In the original's order, in which getopt lists the candidates of an ambiguous abbreviation; "=" takes a value.
_LONG: Final = """
    readonly alias= alldevices allprograms allregions area areas= areasize= bounds= checks clear columns concise
    count= deferred select= exec= filemap follow= force foreground gid= group groupid= help histogram inactive
    interval= length= manglename= major= minor= mode= nameprefixes nogroup noflush noheadings nolockfs
    noopencount nosuffix notable notimesuffix udevcookie= nomonitor noudevrules noudevsync options= precise
    programid= raw readahead= region regions= regionid= relative retry rows segments separator= setuuid showkeys
    sort= start= table= target= tree uid= units= uuid= unbuffered unquoted userdata= verbose= verifyudev version
    yes addnodeonresume addnodeoncreate
"""
LONG: Final = tuple(_LONG.split())

_TAKES: Final = {word.rstrip("="): word.endswith("=") for word in LONG}

class UsageError(Exception):
    """The command line cannot be understood; the text may be empty."""


def atoi(text: str) -> int:
    """What C makes of a number's beginning, in 32 bits."""
    match = re.match(r"\s*[+-]?[0-9]{1,40}", text, re.ASCII)
    number = int(match[0]) if match else 0
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


class Options:
    """What was given: ``given`` counts each option, ``values`` has the last value of each."""

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()
        self.values: dict[str, str] = {}
        self.arguments: list[str] = []

    def __contains__(self, name: str) -> bool:
        return self.given[name] > 0

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    def number(self, name: str) -> int:
        """The value of an option that wants a number; 0 where there is none."""
        return atoi(self[name])

    def set(self, name: str, value: str | None = None) -> None:
        """Count an option, and keep its value."""
        self.given[name] += 1
        if value is not None:
            self.values[name] = value


def parse(program: str, words: list[str]) -> Options:
    """Take a command line apart; what it says wrong is a :class:`UsageError` with getopt's words."""
    options = Options()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            options.arguments += rest
            break
        if word.startswith("--"):
            _long(program, word[2:], rest, options)
        elif word.startswith("-") and len(word) > 1:
            _short(program, word[1:], rest, options)
        else:
            options.arguments.append(word)
    _check(options)
    return options


def _long(program: str, word: str, rest: list[str], options: Options) -> None:
    name, equals, value = word.partition("=")
    found = [name] if name in _TAKES else [known for known in _TAKES if known.startswith(name)]
    if not found:
        raise UsageError(f"{program}: unrecognized option '--{name}'")
    if len(found) > 1:
        candidates = " ".join(f"'--{known}'" for known in found)
        raise UsageError(f"{program}: option '--{word}' is ambiguous; possibilities: {candidates}")
    name = found[0]
    if not _TAKES[name]:
        if equals:
            raise UsageError(f"{program}: option '--{name}' doesn't allow an argument")
        options.set(name)
    elif equals:
        options.set(name, value)
    elif rest:
        options.set(name, rest.pop(0))
    else:
        raise UsageError(f"{program}: option '--{name}' requires an argument")


def _short(program: str, letters: str, rest: list[str], options: Options) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in _ALIAS:
            raise UsageError(f"{program}: invalid option -- '{letter}'")
        if f"{letter}:" not in SHORT:
            options.set(_ALIAS[letter])
        elif letters:
            options.set(_ALIAS[letter], letters)
            return
        elif rest:
            options.set(_ALIAS[letter], rest.pop(0))
        else:
            raise UsageError(f"{program}: option requires an argument -- '{letter}'")


def _check(options: Options) -> None:
    """What is wrong with the values, in the original's words."""
    if "count" in options and options.number("count") < 0:
        raise UsageError("Count must be zero or greater.")
    if "mode" in options and (not re.fullmatch(r"[0-7]+", options["mode"]) or not int(options["mode"], 8)):
        raise UsageError(f"Invalid argument for --mode: {options['mode']}. ")
    if "interval" in options and options.number("interval") <= 0:
        raise UsageError("Interval must be a positive integer.")
    if "manglename" in options and options["manglename"].lower() not in ("none", "auto", "hex"):
        raise UsageError("Unknown name mangling mode.")
    if "readahead" in options and options["readahead"].lower() not in ("auto", "none") \
            and options.number("readahead") < -1:
        raise UsageError(f"Negative read ahead value ({options.number('readahead')}) is not understood.")
    if ("major" in options) != ("minor" in options):
        raise UsageError("Please specify both major number and minor number.")
    if "table" in options and "notable" in options:
        raise UsageError("--table and --notable are incompatible.")
    if "addnodeonresume" in options and "addnodeoncreate" in options:
        raise UsageError("--addnodeonresume and --addnodeoncreate are incompatible.")
