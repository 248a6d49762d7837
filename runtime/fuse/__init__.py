"""Block devices as files: `serve` an `Export` at a mountpoint.

| file | what it holds |
|---|---|
| export | what has to be given: the `Export` protocol; what can go wrong |
| adapter | the file operations, the same for both bindings |
| binding_mfusepy, binding_fusepy | what differs between libfuse 3 and libfuse 2 |
| libraries | which binding this machine can use, and what it lacks |
| sizes | the kernel's idea of a file's size |
| session | a mount's life: ready, served, unmounted |
| inbox | what the session waits for, signals among it |
| guardian | the process that works on the mount from outside and cleans up after a killed server |
| helper | our end of the guardian |
| mounts | the mount table, unmounting and cutting off |
"""

from dmspec.runtime.fuse.export import Export, FuseUnavailable, MountFailed, MountStuck
from dmspec.runtime.fuse.libraries import BindingChoice, Finding, pick_binding
from dmspec.runtime.fuse.mounts import force_unmount, unmount
from dmspec.runtime.fuse.session import Mount, serve

__all__ = [
    "Export",
    "FuseUnavailable",
    "MountFailed",
    "MountStuck",
    "Mount",
    "serve",
    "unmount",
    "force_unmount",
    "BindingChoice",
    "Finding",
    "pick_binding",
]
