"""The command line.

One subcommand is one file in this package that defines `command`, a click command, and one entry in COMMANDS.
The file is imported only when its command runs; `dmspec --help` shows the summaries from here, and so stays
quick. A command returns its exit status (None is 0), or leaves with `dmspec.cli.output.die`.
"""

import click

from dmspec import __version__
from dmspec.cli.group import CommandEntry, DmspecGroup

# In the order in which `dmspec --help` shows them: along a user's way, not along the alphabet.
COMMANDS: tuple[CommandEntry, ...] = (
    CommandEntry("check", "dmspec.cli.check", "Parse and check specs."),
    CommandEntry("run", "dmspec.cli.run", "Run a spec's scenarios and say what happened."),
    CommandEntry("replay", "dmspec.cli.replay", "Run a kept trace again, byte for byte."),
    CommandEntry("compile", "dmspec.cli.compile", "Write a spec in another form."),
    CommandEntry("test", "dmspec.cli.test", "Test a spec's properties with drawn operations, faults and power cuts."),
    CommandEntry("explore", "dmspec.cli.explore", "Look at every interleaving of a spec's scenarios."),
    CommandEntry("mount", "dmspec.cli.mount", "Show a spec's devices as files."),
    CommandEntry("do", "dmspec.cli.do", "Do something to a mounted stack, or show its status."),
    CommandEntry("dmsetup", "dmspec.cli.dmsetup", "Run dmsetup's own command line on a mounted stack."),
    CommandEntry("exec", "dmspec.cli.exec", "Run the real dmsetup, LVM2 or any program on a mounted stack."),
    CommandEntry("shell", "dmspec.cli.shell", "Run scripts that use dmsetup and /dev/mapper on a mounted stack."),
    CommandEntry("log", "dmspec.cli.log", "Show what the kernel would have logged."),
    CommandEntry("umount", "dmspec.cli.umount", "Unmount a stack and take it down."),
    CommandEntry("verify", "dmspec.cli.verify", "Compare with a real Linux device-mapper."),
    CommandEntry("doctor", "dmspec.cli.doctor", "Say what this machine has and lacks, and how to mend it."),
)


@click.group(
    "dmspec",
    cls=DmspecGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 as expected, 1 a check failed, 2 wrong usage or spec, 3 something lacks here.",
)
@click.version_option(__version__, prog_name="dmspec", message="%(prog)s %(version)s")
def main() -> None:
    """Specify a stack of Linux device-mapper devices, run it, and mount it."""
