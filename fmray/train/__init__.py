"""Train populations of members over one pass of the data, and resume them exactly."""
