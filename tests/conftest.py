"""The tiny model that tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tiny import tiny_model_folder

# A loaded machine is slow: no test may fail on the clock.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny random model with a character tokenizer."""
    return str(tiny_model_folder(tmp_path_factory.mktemp("tiny")))
