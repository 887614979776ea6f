"""Turn Parquet into lanes: scan, split, fit, apply, and one order for every epoch."""
