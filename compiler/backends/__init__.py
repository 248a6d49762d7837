"""The forms in which a plan can be written."""
