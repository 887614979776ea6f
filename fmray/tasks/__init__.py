"""Hold the objectives: batch to loss, output to prediction columns."""
