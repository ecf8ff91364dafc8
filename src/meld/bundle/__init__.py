"""A trained MELD outside the lab: one folder that predicts on a user's own tables."""
