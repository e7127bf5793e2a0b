"""What may be held beside the host: much more has to be left than it has ever needed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from lbw.engine.headroom import Headroom

MB = 2**20
SMALL, LARGE = (1024, 1024, 1), (1536, 1536, 1)


@dataclass
class Card:
    """A GPU's memory, as torch counts it, in bytes."""

    total: int
    allocated: int = 0
    reserved: int = 0
    peak: int = 0

    def use(self, size: int) -> None:
        """Something is in memory for a while; torch keeps what it has reserved for it."""
        self.peak = max(self.peak, self.allocated + size)
        self.reserved = max(self.reserved, self.allocated + size)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card(total=24_000 * MB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: card.allocated)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: card.reserved)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: card.peak)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (card.total - card.reserved, card.total))
    card.allocated = card.reserved = card.peak = 7_000 * MB  # the models
    return card


def generate(headroom: Headroom, card: Card, work: object, size: int, held: int = 0) -> None:
    headroom.begin(work, 0)
    card.allocated += held
    card.use(size)
    headroom.end(held)
    card.allocated -= held


def may_hold(headroom: Headroom, work: object, size: int) -> bool:
    headroom.begin(work, 0)
    return headroom.may_hold(size)


def test_what_is_not_known_is_taken_as_not_there(card: Card):
    headroom = Headroom(torch.device("cuda"))
    assert not may_hold(headroom, SMALL, 1)
    generate(headroom, card, SMALL, 3_000 * MB)
    assert may_hold(headroom, SMALL, 100 * MB)
    assert not may_hold(headroom, LARGE, 1)


def test_twice_the_most_that_was_needed_has_to_be_left(card: Card):
    headroom = Headroom(torch.device("cuda"))
    generate(headroom, card, SMALL, 8_000 * MB)
    # 24,000 are there, 7,000 are the models'.
    assert may_hold(headroom, SMALL, 1_000 * MB)
    assert not may_hold(headroom, SMALL, 1_001 * MB)


def test_no_more_than_an_eighth_of_what_the_models_leave(card: Card):
    headroom = Headroom(torch.device("cuda"))
    generate(headroom, card, SMALL, 100 * MB)
    assert may_hold(headroom, SMALL, 17_000 * MB // 8)
    assert not may_hold(headroom, SMALL, 17_000 * MB // 8 + 1)


def test_what_we_hold_is_not_taken_for_the_hosts_need(card: Card):
    headroom = Headroom(torch.device("cuda"))
    generate(headroom, card, SMALL, 8_000 * MB, held=800 * MB)
    assert may_hold(headroom, SMALL, 1_000 * MB)


def test_a_peak_that_has_not_risen_is_a_bound_only(card: Card):
    headroom = Headroom(torch.device("cuda"))
    generate(headroom, card, LARGE, 12_000 * MB)
    generate(headroom, card, SMALL, 2_000 * MB)
    assert not may_hold(headroom, SMALL, 1), "it may have been as much as the large one"
    card.peak = card.allocated  # the host has the count begin anew
    generate(headroom, card, SMALL, 2_000 * MB)
    assert may_hold(headroom, SMALL, 1_000 * MB)
    assert not may_hold(headroom, LARGE, 1)


def test_work_that_did_not_fit_beside_it_gets_all_the_memory(card: Card):
    headroom = Headroom(torch.device("cuda"))
    generate(headroom, card, SMALL, 100 * MB)
    headroom.begin(SMALL, 0)
    assert headroom.may_hold(MB)
    assert headroom.has_run_out() and not headroom.has_run_out(), "news once"
    assert headroom.is_short and not headroom.may_hold(MB)
    headroom.end(0)
    headroom.begin(LARGE, 0)
    assert not headroom.is_short
    assert not may_hold(headroom, SMALL, MB)


def test_a_cpu_has_room_for_all():
    headroom = Headroom(torch.device("cpu"))
    headroom.begin(SMALL, 0)
    assert headroom.may_hold(2**50)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_real_card_is_measured():
    device = torch.device("cuda")
    headroom = Headroom(device)
    torch.cuda.reset_peak_memory_stats(device)
    headroom.begin(SMALL, 0)
    used = torch.empty(512 * MB, dtype=torch.uint8, device=device)
    del used
    headroom.end(0)
    headroom.begin(SMALL, 0)
    free, _total = torch.cuda.mem_get_info(device)
    assert headroom.may_hold(MB) == (free > 2 * 512 * MB)
    assert not headroom.may_hold(free)
