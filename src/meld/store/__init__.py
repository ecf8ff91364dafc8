"""Artifacts and their keys: what a stage computed, where it lies, and what names it."""
