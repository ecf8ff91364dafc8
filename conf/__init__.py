"""The configuration groups, shipped as the package data of ``meld.conf``."""
