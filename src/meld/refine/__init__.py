"""Expert refinement: from the initial expert to the one that answers."""
