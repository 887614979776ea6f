"""Let a trained model speak about rows it has never seen."""
