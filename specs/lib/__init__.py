"""The library of procedures that `use NAME` reads: one NAME.dms in this folder each."""
