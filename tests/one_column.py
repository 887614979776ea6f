"""Hand rows of one column to a step, and see what it learns and gives."""

import polars as pl

from fmray.schema import Column, Schema

NUMBER = Schema((Column("x", "number"),))
TEXT = Schema((Column("c", "text"),))


def numbers(values, dtype=pl.Float64):
    return pl.DataFrame({"x": pl.Series(values, dtype=dtype)})


def text(values):
    return pl.DataFrame({"c": pl.Series(values, dtype=pl.String)})


def run(step, frame, schema, on=None):
    fitted = step.learn(step.fit(frame, schema), schema)
    return step.apply(frame if on is None else on, fitted.state), fitted
