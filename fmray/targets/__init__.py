"""Hold one codec per kind of target: all that depends on the kind lies in its file."""
