"""The chain: which stages, for which units, in which order, and how a run is carried out and written down."""
