"""Parts that are missing are held out."""

import numpy as np

from amc.data.arrays.pictures import Arrays, Labelled, digest, in_parts
from data_streams import refused


def labelled(count: int, classes: int = 4, colour: int = 0) -> Labelled:
    arrays = np.zeros((count, 2, 2, 3), np.uint8)
    arrays[:, 0, 0, 0], arrays[:, 1, 1, 1] = np.arange(count), colour
    return Labelled(Arrays(arrays), np.arange(count) % classes)


def numbers(part: Labelled) -> list[int]:
    """The numbers that are painted on the pictures."""
    return [int(np.asarray(part.pictures[i])[0, 0, 0]) for i in range(len(part.labels))]


def test_held_out_in_proportion() -> None:
    parts = in_parts({"train": labelled(120)}, "here")
    assert [len(parts[part].labels) for part in ("train", "val", "test")] == [96, 12, 12]
    for part in parts.values():
        assert len(set(np.bincount(part.labels).tolist())) == 1
        assert [n % 4 for n in numbers(part)] == part.labels.tolist()
        assert sorted(part.labels[:4].tolist()) == [0, 1, 2, 3]  # a stretch has all classes
    assert sorted(n for part in parts.values() for n in numbers(part)) == list(range(120))
    again = in_parts({"train": labelled(120)}, "here")
    assert numbers(again["val"]) == numbers(parts["val"])


def test_what_is_there_stays_as_it_is() -> None:
    parts = in_parts({"train": labelled(120), "test": labelled(30)}, "here")
    assert len(parts["train"].labels) == 108 and sorted(numbers(parts["test"])) == list(range(30))
    assert digest(parts) == digest(in_parts({"train": labelled(120), "test": labelled(30)}, ""))
    other = in_parts({"train": labelled(120), "test": labelled(30, colour=1)}, "here")
    assert digest(other) != digest(parts) != digest(parts, "other settings")


def test_too_few_are_refused() -> None:
    refused(lambda: in_parts({"train": labelled(9)}, "here"), "here: 9", "at least 10", "val")
