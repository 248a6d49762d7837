"""The same steps on a real Linux device-mapper in a guest and on the emulator, and the differences.

From the bottom up: :mod:`~dmspec.verify.guest` boots User-mode Linux and runs one shell script in it;
:mod:`~dmspec.verify.steps` says what a step is; :mod:`~dmspec.verify.layers` lets a disk of the guest fail;
:mod:`~dmspec.verify.emulate` does the steps on the emulator; :mod:`~dmspec.verify.flatten` makes steps of a
spec; :mod:`~dmspec.verify.script` makes a shell script of steps; :mod:`~dmspec.verify.compare` reads what the
guest printed; :mod:`~dmspec.verify.session` puts many cases into few boots.
"""
