"""Batches in memory, their order, and augmentation."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from amc.data import TensorLoader, load_data, start_epoch
from amc.data.arrays.augment import both, random_flip, random_shift
from data_streams import everything, refused, same


def numbered(count=10, side=6):
    """Images that say which one they are, as uint8, and their labels."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, side, side)
    return images, torch.arange(count)


def test_loader_keeps_pairs_order_and_the_last_batch():
    images, labels = numbered()
    loader = TensorLoader(images, labels, batch_size=4)
    assert [len(part) for _, part in loader] == [4, 4, 2] and len(loader) == 3
    seen, order = everything(loader)
    assert torch.equal(order, labels) and torch.equal(seen, images.float() / 255)


def test_loader_shuffles_as_a_function_of_seed_and_epoch():
    images, labels = numbered(100)

    def loader(seed, epoch):
        made = TensorLoader(
            images, labels, batch_size=8, shuffle=True, augment=random_shift(1), seed=seed
        )
        made.set_epoch(epoch)
        return made

    first = loader(3, 5)
    seen, order = everything(first)
    assert sorted(order.tolist()) == list(range(100))
    assert torch.equal(seen[:, 0, 0, 0] * 255, order.float())
    torch.manual_seed(99)  # the global generator plays no part, in either direction
    state = torch.get_rng_state()
    assert same(first, loader(3, 5))
    assert torch.equal(state, torch.get_rng_state())
    for other in (loader(3, 6), loader(4, 5), loader(5, 3)):
        assert not torch.equal(order, everything(other)[1])


def test_loader_normalises_and_keeps_its_images():
    images, labels = numbered()
    kept = images.clone()
    loader = TensorLoader(images, labels, batch_size=10, normalise=((0.5, 0.4, 0), (0.5, 2, 1)))
    for batch, _ in loader:
        pixel = images[:, 0, 0, 0] / 255
        expected = torch.stack([(pixel - 0.5) / 0.5, (pixel - 0.4) / 2, pixel], dim=1)
        torch.testing.assert_close(batch[:, :, 2, 3], expected)
        batch.zero_()
    floats = torch.rand(4, 1, 2, 2)
    for batch, _ in TensorLoader(floats, labels[:4], batch_size=4):
        assert torch.equal(batch, floats)
        batch.zero_()
    assert torch.equal(images, kept) and bool(floats.any())


def test_loader_refuses_what_does_not_fit():
    images, labels = numbered()
    refused(lambda: TensorLoader(images, labels[:9], batch_size=4), "[10, 3, 6, 6]", "[9]")
    refused(lambda: TensorLoader(images[:0], labels[:0], batch_size=4), "at least 1")
    refused(lambda: TensorLoader(images, labels, batch_size=0), "batch_size: 0")
    refused(lambda: load_data("digits", seed=-1), "seed: -1")
    refused(lambda: load_data("digits", eval_batch_size=0), "eval_batch_size: 0")


def test_shift_moves_each_image_by_its_own_offset_and_repeats_the_edge():
    images = torch.randint(0, 256, (200, 3, 7, 9), dtype=torch.uint8)
    moved = random_shift(2)(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.dtype == images.dtype
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="replicate").byte()
    offsets = [(y, x) for y in range(5) for x in range(5)]
    windows = torch.stack([padded[:, :, y : y + 7, x : x + 9] for y, x in offsets])
    matches = (windows == moved).flatten(2).all(dim=2)  # [25 offsets, 200 images]
    assert bool((matches.sum(dim=0) == 1).all()), "a shift by more, or none of the image's own"
    assert bool(matches.any(dim=1).all()), "an offset that never comes"


def test_flip_mirrors_about_half_of_the_images():
    images = torch.rand(400, 3, 4, 5)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert bool((mirrored | (flipped == images).flatten(1).all(1)).all())
    assert 150 < int(mirrored.sum()) < 250
    twice = both(lambda batch, _: batch + 1, lambda batch, _: batch * 2)
    assert torch.equal(twice(images, torch.Generator()), (images + 1) * 2)


def test_start_epoch_passes_over_loaders_without_epochs():
    images, labels = numbered()
    start_epoch(DataLoader(TensorDataset(images, labels)), 3)
    loader = TensorLoader(images, labels, batch_size=10, shuffle=True)
    before = everything(loader)[1]
    start_epoch(loader, 3)
    assert not torch.equal(before, everything(loader)[1])
