"""What keyed datamodules share: workers that take one core each."""

import cv2

from datamodules.keyed import KeyedData


def test_a_worker_takes_one_core():
    loader = KeyedData(batch_size=2, seed=0, num_workers=0).loader(["a", "b"], [[0, 1]])
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        assert cv2.getNumThreads() == 2, "negative control"
        loader.worker_init_fn(0)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
