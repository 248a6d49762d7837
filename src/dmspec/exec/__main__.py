"""A probe for `dmspec doctor`: whether this machine has what `dmspec exec` needs; says what it found."""

import sys

from dmspec.dmsetup.surroundings import Namespace
from dmspec.exec import seccomp


def main() -> int:
    """Try both; this process is of no use for anything else afterwards."""
    try:
        seccomp.check()
        Namespace()
        seccomp.install()
    except (seccomp.Unavailable, OSError) as problem:
        print(problem)
        return 1
    print("seccomp user notification, and a mount namespace of one's own")
    return 0


if __name__ == "__main__":
    sys.exit(main())
