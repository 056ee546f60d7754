"""One thread for each test process: tiny models are faster so, and two runs beside each other do not fight."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
