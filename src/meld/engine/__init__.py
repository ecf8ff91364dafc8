"""Engines: how queries with different mixtures of experts are answered on one base model."""
