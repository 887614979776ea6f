"""Share trained members between the tests of the inference floor."""

from pathlib import Path

import pyarrow as pa
import pytest
from inference.made import Trained, mean, rows, train, write_data


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train two members on two classes; rows have a key."""
    folder = tmp_path_factory.mktemp("classes")
    write_data(folder / "data", rows())
    return train(folder, data={"path": "data", "target": "y", "key": "id", "ignore": ["z", "w"]})


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train two members on two numbers; rows have no key, and some are equal."""
    folder = tmp_path_factory.mktemp("numbers")
    some = rows(200).drop(["id"])
    write_data(folder / "data", some, pa.concat_tables([some.slice(150), rows(60, seed=1).drop(["id"])]))
    return train(folder, data={"path": "data", "target": ["z", "w"], "ignore": ["y"]})


@pytest.fixture(scope="session")
def model(classes: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a model that averages both members."""
    return classes.write(mean(0.25, 0.75), tmp_path_factory.mktemp("model"))
