"""Diversity terms over embeddings: F_div of Eq. 3 and its alternatives."""
