"""Influence of pool items on the validation loss (Eq. 8)."""
