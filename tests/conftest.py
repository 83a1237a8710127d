"""One thread in every test: small tensors gain nothing from more, and sums stay the same."""

from collections.abc import Iterator

import pytest
import torch

from amc.solve import least_squares


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares without the caution that few rows ask for, to be compared with lstsq."""
    monkeypatch.setattr(least_squares, "SCARCE", 0.0)
