"""Turn one job into the members it asks for."""
