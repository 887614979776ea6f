"""Read, validate and freeze what a user asks for."""
