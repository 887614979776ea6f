"""Combine members into one answer, with weights chosen on validation."""
