"""Declare every parameter of every name of the catalogue: type, default, bounds, and what it means.

One class per name, called after it, in the module of its kind. Checks, the JSON schema, the reference and the search
space are derived from these classes. They import neither torch nor ray, so a job is checked in a second.
"""
