"""Presets of grids and launchers, shipped as the package data of ``meld.sweeps``."""
