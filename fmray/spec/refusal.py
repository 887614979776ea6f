"""Say what a refusal of a job holds."""

from fmray.spec.ranges import Keys

Refusal = tuple[Keys, str]
"""Keys, and what is wrong with them in words."""
