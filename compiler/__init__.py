"""From the text of a specification to a checked plan: parser, checker, lowering, backends.

The modules are in the order of the way through them: ``source``, ``scan`` and ``parser`` (with ``tree`` and
``explain``) make an ``ast`` of a text; ``library`` finds what it uses; ``checker`` makes a ``model`` of it with
``scope``, ``numbers``, ``values``, ``bind``, ``tables``, ``split``, ``statements`` and ``scenarios``; ``lower``
makes a plan of that, and ``backends`` other things of the plan.  What is wrong goes into ``diagnostics``, which
``render`` shows.
"""

from dmspec.compiler.api import Compiled, compile_file, compile_statements, compile_text

__all__ = ["Compiled", "compile_file", "compile_statements", "compile_text"]
