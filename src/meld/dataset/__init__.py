"""Datasets: published layouts and the built-in synthetic sets, as units with hidden labels apart."""
