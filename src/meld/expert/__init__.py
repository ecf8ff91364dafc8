"""Experts: the frozen base model with one LoRA adapter per unit."""
