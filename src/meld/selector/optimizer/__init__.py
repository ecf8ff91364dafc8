"""Greedy maximisers of a selection objective (Theorem 4)."""
