"""How quick is a mount beside the C programs that people use instead?  See :mod:`tests.bench.mount.run`."""
