"""Write what a person reads: the card and its report."""
