"""The steps of the chain, one file each: typed inputs in, one artifact directory out."""
