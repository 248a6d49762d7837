"""Lets `python -m dmspec` be the command `dmspec`."""

from dmspec.cli import main

if __name__ == "__main__":
    main(prog_name="dmspec")
