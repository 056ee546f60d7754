"""One real SLURM for all tests of a process that want one."""

import local_cluster
import pytest


@pytest.fixture(scope="session")
def slurm_cluster():
    """The folder of a two-node SLURM that is up; the test is skipped, with the reason, where there can be none."""
    if why := local_cluster.missing():
        pytest.skip(why)
    with local_cluster.cluster() as folder:
        yield folder
