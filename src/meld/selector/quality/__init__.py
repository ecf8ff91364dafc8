"""Quality terms: what the label's perplexity says about an item."""
