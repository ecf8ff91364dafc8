"""The command line: ``meld key=value ...`` runs the pipeline, ``meld VERB ...`` does the rest."""
