"""Properties of a spec through Hypothesis: `dmspec test`, the pytest plugin, and what generated tests stand on.

:mod:`.program` makes a scenario out of what is drawn, :mod:`.example` runs it, :mod:`.session` has Hypothesis
draw and shrink, :mod:`.spec_text` writes a counterexample as a spec, and :mod:`.machine` is what
`dmspec compile --to pytest` builds upon.
"""
