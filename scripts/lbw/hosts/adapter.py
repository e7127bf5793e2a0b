"""What one family of hosts has of its own. What families share stands beside this file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from lbw.engine.ledger import Ledger
from lbw.engine.parts import Network, Parts
from lbw.generation.host import Host


class UnservedHostError(Exception):
    """No adapter serves this host; the message says why."""


class Adapter(Host, Protocol):
    """A family's adapter, which is a :class:`lbw.generation.host.Host`, too."""

    @property
    def ledger(self) -> Ledger:
        """How it is noted what is in a layer."""
        ...

    @property
    def parts(self) -> Parts:
        """Where the parts of networks come from."""
        ...

    def is_sdxl(self) -> bool:
        """Whether the model in use is an SDXL one."""
        ...

    def begin_generation(self) -> None:
        """A generation of ours begins, within which the host loads networks for us."""
        ...

    def end_batch(self) -> None:
        """All of a batch of ours has been sampled. With the next one comes :meth:`begin_generation`."""
        ...

    def end_generation(self) -> None:
        """It is over, or another one that is not ours begins."""
        ...

    def watch_forwards(self, call: Callable[[], None] | None) -> None:
        """Where another extension may write multipliers while the model is evaluated: have ``call`` called as soon as
        it has, and have networks in the weights till then, and not added to the output of layers. None: no longer."""
        ...

    def left_out_by(self) -> str | None:
        """While forwards are watched: the module of another extension whose forwards leave out what is in the weights;
        None if there is none."""
        ...

    def patches_in_forward(self) -> bool:
        """Whether the host adds networks to the output of layers instead, with one multiplier for all blocks."""
        ...

    def counts_timesteps(self, denoiser: Any) -> bool:
        """Whether what the sampler calls sigma is one of the model's timesteps."""
        ...

    def is_loaded(self) -> bool:
        """Whether a model is in memory; asking the host for it would load one."""
        ...

    def watch_sampling(self, p: Any, around: Callable[[Any, Callable[..., Any]], Callable[..., Any]]) -> None:
        """Where the host has no hook before a pass of ``p`` is sampled: have ``around`` called with ``p`` and what runs
        all steps of the pass, and run what it returns."""
        ...

    def unwatch_sampling(self, p: Any) -> None:
        """Take back :meth:`watch_sampling`."""
        ...

    def denoiser_of(self, params: Any) -> Any:
        """The denoiser whose evaluation a callback is told of; None if it is not one of our generations."""
        ...

    def solver_step(self, denoiser: Any, sampling_step: int) -> int:
        """The solver's step, 0-based, that a model evaluation belongs to.

        Args:
            denoiser: the host's.
            sampling_step: the host's own count.
        """
        ...

    def network_names(self, *, renewed: bool) -> list[str]:
        """The names of the network files, as tags have them; ``renewed`` has the host look for files first."""
        ...

    def network_file(self, name: str) -> Any:
        """The network file that a tag with this name means.

        Raises:
            UnknownNetworkError: there is none.
        """
        ...

    def listed_file(self, name: str) -> Any:
        """As :meth:`network_file`, of the files that the host has seen; None if there is none."""
        ...

    def read_network(self, file: Any) -> Network:
        """The network of a file, read anew and not put into use.

        Raises:
            UnmeasurableError: it cannot be read.
        """
        ...

    def has_patched(self) -> bool:
        """Whether the host has put LoRAs into the model's weights of which the ledger does not know."""
        ...

    def network_of(self, file: Any, tensors: Mapping[str, Tensor]) -> Network:
        """As :meth:`read_network`, of some of the file's tensors, or of others in their place."""
        ...

    def not_loaded(self, wanted: Iterable[str]) -> Mapping[str, str]:
        """{one of the ``wanted`` networks that has no effect: why, and what happens}, as far as the host does not tell
        its user."""
        ...

    def not_found(self, wanted: Iterable[str]) -> Sequence[str]:
        """Those of the ``wanted`` networks that have no file, whoever tells it."""
        ...
