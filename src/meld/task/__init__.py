"""The data preprocessing tasks: what each asks, what it may answer, how answers are read and what aligns entities."""
