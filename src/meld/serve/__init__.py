"""A trained MELD behind HTTP: rows in, answers out."""
