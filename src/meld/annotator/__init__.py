"""Self-annotation: more labelled samples without more labels (method section 2)."""
