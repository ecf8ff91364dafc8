"""The router N: which experts answer a query."""
