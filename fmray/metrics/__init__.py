"""Hold the numbers a model is judged by."""
