"""A report of an exploration: one HTML page that needs nothing else, for a screen, a keyboard and a printer.

`render` makes it from what `dmspec explore` has found. The same exploration gives the same bytes: nothing in the
page says when it was made, or how long the search took.
"""

from dmspec.report.page import Explored, render
from dmspec.report.sources import Source, read_sources

__all__ = ["Explored", "Source", "read_sources", "render"]
