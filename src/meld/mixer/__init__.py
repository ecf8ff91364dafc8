"""From router weights to the mixture of experts that answers a query."""
