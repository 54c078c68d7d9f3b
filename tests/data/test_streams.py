"""Streams: the order of a pass, whatever passes there were before."""

import random
from collections.abc import Iterator

from timm.data import IterableImageDataset

from surgeon.data.streams import ImageStream


class Shuffling:
    """Shuffles as timm's readers of webdataset and TensorFlow do: by what is made once, with the first pass."""

    common_seed = worker_seed = 5
    ds: random.Random | None = None
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self.ds = self.ds or random.Random(self.worker_seed)
        return iter(self.ds.sample([(number, 0) for number in range(20)], 20))


def test_a_stream_s_pass_depends_on_its_number_and_not_on_those_before() -> None:
    def passes(*epochs: int) -> list[list[tuple[int, int]]]:
        stream = ImageStream(IterableImageDataset("", reader=Shuffling()), None)
        listed = []
        for epoch in epochs:
            stream.set_epoch(epoch)
            listed.append(list(stream))
        return listed

    first, second, third = passes(0, 1, 2)
    assert passes(2) == [third]
    assert passes(1, 0) == [second, first]
    assert first != second != third
