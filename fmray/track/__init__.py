"""Show what trainings went through to the tools people already watch."""
