"""M_RAG: the encoder that aligns entities of all datasets, its training and its vectors."""
