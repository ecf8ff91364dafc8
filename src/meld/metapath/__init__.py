"""Meta-paths: sequences of experts whose answers are added to a query before its own expert answers."""
