"""The tiny model that tests share."""

from __future__ import annotations

import pytest

from tiny import tiny_model_folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny random model with a character tokenizer."""
    return str(tiny_model_folder(tmp_path_factory.mktemp("tiny")))
