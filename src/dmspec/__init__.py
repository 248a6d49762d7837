"""A language and an emulator for Linux device-mapper.

One file says which stack of devices there is and what happens to it; dmspec runs it, deterministically or as
volumes mounted through FUSE, without root and without a kernel module.
"""

__version__ = "0.1.0"
