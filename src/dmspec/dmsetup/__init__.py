r"""The `dmsetup` command line on a mount of dmspec.

A thin client: it builds the buffers that dmsetup builds, sends them to the mount, and prints what dmsetup
prints.  It is held against the binary of dmsetup 1.02.185 on a real kernel, command by command (`tests/corpus`).

dmsetup is free software under the GPL, and this is not derived from it.  What a script or a person meets is the same to
the byte, because it is the interface: the syntax of the command line, names and headings of columns, the layout of what
is printed, error messages.  What explains something in sentences (the end of the help text, the descriptions of columns
and operators) is in words of our own, here and in what the tests keep of the binary's answers.  It stays so: whoever
adds to this package writes from what the binary does and from its manual page, not from its sources.

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
