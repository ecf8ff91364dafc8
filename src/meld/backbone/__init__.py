"""Language models: loading them, and scoring or writing answers with them."""
