"""Scoring predictions against hidden labels, and the simple baselines every score is shown beside."""
