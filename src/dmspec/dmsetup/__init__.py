r"""The `dmsetup` command line on a mount of dmspec.

A thin client: it builds the buffers that dmsetup builds, sends them to the mount, and prints what dmsetup
prints.  The facts (options, wording, order) are those of dmsetup 1.02.185 as recorded in the kernel cases and as
its sources (libdm/dm-tools/dmsetup.c, libdm/ioctl/libdm-iface.c, libdm/libdm-common.c) have them.

| Module | What is in it |
|---|---|
| options | the command line's own grammar: what getopt_long does |
| door | the way to the mount |
| names | names as /dev/mapper has them: characters that udev would not take are written `\xNN` |
| task | one ioctl: its buffer, its retries, its error message |
| devices | the commands that do something to a device |
| show | the commands that print |
| report | columns: `info -c -o ...` |
| tree | `ls --tree` |
| usage | the help text |
| command | which commands there are, and what one call does |
"""

VERSION = "1.02.185 (2022-05-18)"
