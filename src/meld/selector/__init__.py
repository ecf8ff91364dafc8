"""Choosing the training data of an expert: MELD-DS (diversity, quality, influence) and the simple alternatives."""
