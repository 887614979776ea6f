"""Let a trained model predict rows it has never seen."""
