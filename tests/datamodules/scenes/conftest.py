"""What tests of scenes share."""

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where the tests of scenes keep the images that they draw, out of the user's own cache."""
    return tmp_path_factory.mktemp("scenes")
