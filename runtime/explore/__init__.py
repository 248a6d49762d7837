"""Exploring: every interleaving of a scenario over the real runtime."""

from .moves import Move
from .search import Exploration, Explorer, Finding, MemoryStore, Progress, Store, trace_of

__all__ = ["Exploration", "Explorer", "Finding", "MemoryStore", "Move", "Progress", "Store", "trace_of"]
