"""`python -m dmspec.dmsetup ARGUMENTS`: what a `dmspec shell` calls dmsetup."""

from dmspec.dmsetup.command import run

run()
