"""Cases that do not run on the emulator, or not to the end, each with the reason; the list is to shrink."""

LISTED: dict[str, str] = {
    "g-ioctl": "it shows with strace how a dmsetup binary calls the kernel; here that is a question to a socket. "
               "The same structures are compared byte by byte in tests/runtime/test_ioctl.py",
    "d3-merge-transient": "the recorded kernel crashes at the resume, where the recording ends; the emulator refuses "
                          "the resume, as the README of the recordings says it should",
}

# What our own command cannot show, the real one can.
NOT_WITH_REAL: frozenset[str] = frozenset({"g-ioctl"})


def listed_for(*, real: bool) -> dict[str, str]:
    """The cases that do not run with our own command, or with the unmodified dmsetup."""
    return {name: reason for name, reason in LISTED.items() if not (real and name in NOT_WITH_REAL)}
