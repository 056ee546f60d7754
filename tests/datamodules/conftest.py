"""What tests of the data share."""

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a module's tests keep the images that they draw, out of the user's own cache."""
    return tmp_path_factory.mktemp("pictures")
