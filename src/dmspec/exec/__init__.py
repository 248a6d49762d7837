"""Unmodified dmsetup, LVM2 and dmeventd on a mounted stack: `dmspec exec`.

The program runs under a seccomp filter that hands some of its system calls to a supervisor (Linux's user
notification; no privilege, no ptrace, no preloaded library), in a mount namespace whose /dev, /run and parts of
/sys are made for it.  :mod:`~dmspec.exec.seccomp` is the kernel's interface, :mod:`~dmspec.exec.view` the files,
:mod:`~dmspec.exec.answers` says what each call gets, :mod:`~dmspec.exec.supervisor` and
:mod:`~dmspec.exec.launch` are the processes.

This is no sandbox.  What the supervisor reads in the program's memory (a path, a buffer) another thread of the
program can change before the kernel looks at it again, and there are calls that no filter sees (io_uring).  A
program gets out of it if it wants to; it has only the rights of the user who started it.
"""
