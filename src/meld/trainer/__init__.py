"""Training: how a Lightning module is fitted, checkpointed at epoch ends and resumed bit for bit."""
