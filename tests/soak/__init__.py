"""A mount under load whose disks fail and whose server is killed, again and again.  See :mod:`tests.soak.run`."""
