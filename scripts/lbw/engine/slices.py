"""Weights that are written in one go, if they are as they were left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import eq, getitem, is_
from typing import Any

from torch import Tensor

from lbw.engine.binding import BoundLayer
from lbw.engine.ledger import Names, Pages
from lbw.engine.member import Member, Place
from lbw.engine.parameters import parameter_of


class Watch:
    """Tells whether layers are as they were at its last :meth:`look`: where their weights are, and their backups."""

    def __init__(self, members: Sequence[Member]) -> None:
        owners = [member.slot.parameter.rpartition(".") for member in members]
        self._parameters = [
            member.bound.layer.get_submodule(owner)._parameters
            for member, (owner, _, _) in zip(members, owners, strict=True)
        ]
        self._names = [name for _, _, name in owners]
        self._pages = Pages(bound.page for bound in dict.fromkeys(member.bound for member in members))
        self._pointers: list[int] | None = None
        self._backups: list[Any] = []

    def look(self) -> None:
        """Take all as it is now."""
        self._pointers, self._backups = list(self._pointers_now()), list(self._pages.backups())

    def forget(self) -> None:
        self._pointers, self._backups = None, []

    def holds(self, names: Names) -> bool:
        """Whether all are so, and have these very ``names``."""
        try:
            return (
                self._pointers is not None
                and all(map(eq, self._pointers_now(), self._pointers))
                and all(map(is_, self._pages.backups(), self._backups))
                and self._pages.have(names)
            )
        except KeyError:
            return False

    def _pointers_now(self) -> Iterator[int]:
        return map(Tensor.data_ptr, map(getitem, self._parameters, self._names))


class Slice:
    """The weights of a cohort that are written in one stage.

    Args:
        launches: those that each launch writes.
    """

    def __init__(self, launches: Sequence[Sequence[Member]]) -> None:
        self.launches = launches
        members = [member for each in launches for member in each]
        self.watch = Watch(members)
        self._places = list(dict.fromkeys((member.bound, member.slot.parameter) for member in members))
        self._refills: list[tuple[BoundLayer, str, Tensor]] = []

    def look(self, copies_in_ram: Mapping[Place, Tensor]) -> None:
        """Take all as it is now.

        Args:
            copies_in_ram: pristine values that have to be copied to where the kernel works on them.
        """
        self.watch.look()
        if copies_in_ram:
            self._refills = [(*place, copies_in_ram[place]) for place in self._places if place in copies_in_ram]

    def forget(self) -> None:
        """Let go of copies."""
        self.watch.forget()
        self._refills = []

    def refill(self) -> None:
        for bound, parameter, base in self._refills:
            parameter_of(bound.layer, parameter).copy_(base, non_blocking=True)
