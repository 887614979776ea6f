"""Hold the architectures, each built from a schema and parameters."""
