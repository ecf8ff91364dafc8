"""Presets of the papers' tables and figures, shipped as the package data of ``meld.experiments``."""
