"""A session: one generation, from its tags to the weights of each step. The host's adapter says when."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lbw.engine.base_weights import Policy
from lbw.engine.binding import misfits_told
from lbw.engine.engine import LoraEngine
from lbw.engine.updates import Update, total
from lbw.files import origin
from lbw.generation.fits import Fit, explanation
from lbw.generation.hand import Hand, faders, played_tags
from lbw.generation.host import Host
from lbw.plan import windows
from lbw.plan.plan import Coefficients, Pass, Plan, build
from lbw.request.live import Fader, Job, Key, keys_of
from lbw.tags.families import Family, family_of_layers, is_text_encoder, label_ranges
from lbw.tags.library import Library
from lbw.tags.limits import note, shortened
from lbw.tags.played import played
from lbw.tags.positions import nominal_sigmas
from lbw.tags.prompt import LoraRequest
from lbw.tags.weights import shown

logger = logging.getLogger("lbw")


@dataclass
class LeftPass:
    """A pass that was left to the host.

    Args:
        requests: one for each tag, in the order of the tags.
        is_hires: whether it is the hires pass.
        begin: begins it with :meth:`Session.begin_pass` after all, where a hand asks for it in one of its steps; None
            where that would fail.
        steps: how many it has, once it has begun.
    """

    requests: tuple[LoraRequest, ...]
    is_hires: bool
    begin: Callable[[], Pass] | None
    steps: int = 0


class Session:
    """Holds the plan of the sampling pass that is under way, and keeps the engine in step with it.

    ``passes`` are those of the batch that is being made, ``warnings`` what has been said to the user. ``tells_more``
    asks for a line in the console for each tag of the last batch, and one for the switches, ``draws_schedule`` for a
    picture behind the images.

    Args:
        host: the adapter of the WebUI.
        engine: the engine, which outlives the session.
        library: the presets and rule sets of this request.
        comment: shows one line to the user, with the result.
        said: what the console has been told already by generations of the same request.
    """

    def __init__(
        self,
        host: Host,
        engine: LoraEngine,
        library: Library,
        comment: Callable[[str], None],
        said: Collection[str] = frozenset(),
    ) -> None:
        self.host = host
        self.engine = engine
        self.library = library
        self.plan: Plan | None = None
        self.passes: list[Pass] = []
        self._earlier_passes: list[Pass] = []
        self.tells_more = False
        self.draws_schedule = False
        self.updates: list[Update] = []
        self.prints_changes = False
        self._comment, self._said = comment, said
        self.warnings: dict[str, None] = {}
        self._asked: tuple[LoraRequest, ...] = ()
        """What the tags of the pass say."""
        self._asked_before: list[tuple[LoraRequest, ...]] = []
        """The same of each of the batch's passes."""
        self._requests: tuple[LoraRequest, ...] = ()
        """The same, as it is: with what a hand has set."""
        self._is_hires = False
        self._multipliers: dict[str, tuple[float, float]] = {}
        self._beyond_host: tuple[str, ...] = ()
        """The names of networks that the host by itself would apply in another way than we do."""
        self._applied: tuple[float, ...] | None = None
        """The strengths that are in the weights; None if that is not known."""
        self._told: Any = ()
        """The networks' names and multipliers at the last update, as the host compares them."""
        self._seed = 0
        self._step: int | None = None
        self._evaluation = 0
        self._encodes = not engine.rests
        self._samples = not host.prepares_late()
        self.placement: Policy | None = None
        """Where the pristine weights were of layers that were patched last."""
        self.most_held = 0
        """Bytes of GPU memory that were held at a time."""
        self._unclaimed = ""
        self._is_in_pass = False
        self.fits: dict[str, Fit] = {}
        """{name of a network: how much of its file is in force}, in the batch that is being made."""
        self.lost: dict[str, str] = {}
        """{name of a network that the host could not load for that batch: why}."""
        self.is_between_batches = False
        """Whether what others generate is no part of what this session is about."""
        self.follows_editing: bool | None = None
        """Whether tags of that batch follow the editing of their prompt; None where they are in none."""
        self.most_in_forward = 0
        """Layers that the host patched in their forwards, at a time."""
        self._in_forward: Collection[str] = ()
        self._unwritable: dict[str, nn.Module] = {}
        """Layers whose weights cannot be written, wherever they are."""
        self._loaded: tuple[Any, ...] = ()
        """The networks that the host has loaded for the pass."""
        self._model: Callable[[], Any] = lambda: None
        """Tells the model for which it has."""
        self._left: set[str] = set()
        """Layers that were at work without what networks add to them."""
        self.hand = Hand()
        """What is played on the strengths while the generation is under way."""
        self._left_to_host: LeftPass | None = None
        """The pass that is under way, if it was left to the host."""

    def warn(self, message: str) -> None:
        """Say a thing once in a generation, in the console and with the result."""
        told = note(message, self.warnings)
        if told is None:
            return
        if told not in self._said:
            logger.warning("LoRA Block Weight: %s", told)
        self._comment(told)

    def begin_batch(self) -> None:
        """The passes of another batch are about to begin."""
        if not all(each.plan.is_plain for each in self.passes):
            self._earlier_passes = self.passes
        self.passes, self._asked_before = [], []
        self.fits.clear()
        self.lost.clear()
        self.follows_editing = None

    @property
    def last_passes(self) -> list[Pass]:
        """Those of the last batch that the host alone would not have made."""
        is_plain = all(each.plan.is_plain for each in self.passes)
        return self._earlier_passes if is_plain and self._earlier_passes else self.passes

    def begin_pass(
        self,
        requests: Sequence[LoraRequest],
        seed: int,
        steps: int,
        sigmas: Callable[[], tuple[float, ...]] = tuple,
        *,
        is_open: bool = False,
        is_hires: bool = False,
    ) -> Pass:
        """The host has loaded the networks of a pass: plan it, and bring the weights to its first step.

        Args:
            requests: one for each tag, in the order of the tags; a tag whose network could not be loaded is left out.
            seed: the image's seed, which random block weights follow.
            steps: the number of sampling steps as far as it is known; each step says it again.
            sigmas: tells the noise level of each, as far as it is known; asked only where a strength follows it.
            is_open: whether the solver makes as many steps as it likes; ``steps`` and ``sigmas`` are those of the noise
                schedule that it goes through.
            is_hires: whether it is the hires pass.
        """
        # Another extension may have networks loaded in the middle of a pass, for a region: it goes on from here.
        step, evaluation = (self._step, self._evaluation) if self.is_sampling else (None, 0)
        self.plan = None  # should this fail, the pass is the host's own
        self._seed, self._asked = seed, tuple(requests)
        if is_open:
            levels = sigmas() or nominal_sigmas(steps)
            requests = [request.by_noise(levels) for request in requests]
        self._requests, self._is_hires = self._held(requests), is_hires
        self._left_to_host, self._step = None, step
        plan = self._plan_loaded()
        levels = sigmas() if plan.depends_on_noise else ()
        self._add_pass(Pass(plan, steps, levels, is_open=is_open, is_hires=is_hires), goes_on=step is not None)
        self.plan, self._evaluation, self._is_in_pass = plan, evaluation, True
        self._apply()
        return self.passes[-1]

    def _add_pass(self, made: Pass, *, goes_on: bool) -> None:
        """One that goes on with tags that have been there before takes the place of theirs: else there would be one for
        each region of each evaluation."""
        same = [
            index for index, asked in enumerate(self._asked_before)
            if goes_on and asked == self._asked and self.passes[index].is_hires == made.is_hires
        ]  # fmt: skip
        for index in same[-1:]:
            made = replace(self.passes.pop(index), plan=made.plan)
            del self._asked_before[index]
        self.passes.append(made)
        self._asked_before.append(self._asked)

    @property
    def is_sampling(self) -> bool:
        """Whether a pass of ours is in one of its steps."""
        return self._is_in_pass and self.plan is not None and self._step is not None

    def goes_on(self, requests: Sequence[LoraRequest]) -> bool:
        """The host has loaded networks, as the Forge family does for a refiner in the middle of a pass: if they are
        those of the pass that is under way, plan its rest for that model, with what was played so far.

        Args:
            requests: one for each tag, in the order of the tags.

        Returns:
            Whether they are; otherwise a pass has to begin.
        """
        if not self.is_sampling or tuple(requests) != self._asked:
            return False
        self.plan = None  # should this fail, the pass is the host's own
        self.plan = self._plan_loaded()
        self._apply()
        return True

    def _plan_loaded(self) -> Plan:
        """A plan for the model and the networks that the host has just loaded."""
        self._note_networks()
        self._encodes, self._samples = not self.engine.rests, not self.host.prepares_late()
        plan = self._make_plan()
        self._tell_of_files(plan.family)
        self._multipliers = {net.name: (net.te_multiplier, net.unet_multiplier) for net in self.host.networks()}
        return plan

    def step(self, step: int, steps: int, sigma: Callable[[], float], evaluation: int | None = None) -> None:
        """The model is about to be evaluated: bring the weights to the step, if they are not there already.

        Args:
            step: the solver's step, 0-based, that the evaluation belongs to.
            steps: the number of sampling steps.
            sigma: tells the noise level of the evaluation; asked only where a strength follows it.
            evaluation: how many the pass has had before, as the host counts where it edits prompts; None: ``step``.
        """
        if self.plan is None:
            is_new, self._step = step != self._step, step
            if self._left_to_host is not None:
                self._left_to_host.steps = steps
            if not (is_new and self.hand.has_moved):
                return
            self._begin_late()
            if self.plan is None:
                return
        self._evaluation = step if evaluation is None else evaluation
        self.passes[-1] = replace(self.passes[-1], steps=step + 1 if self.passes[-1].is_open else steps)
        if self.hand.has_moved and step != self._step:
            self._follow_hand(step)
        if self.plan.depends_on_noise and step != self._step:
            self.passes[-1] = self.passes[-1].with_level(step, sigma())
        if self.plan.is_edited:
            self.passes[-1] = self.passes[-1].with_evaluation(step, self._evaluation)
        self._step, self._is_in_pass = step, True
        if not self._samples:
            self._samples, self._applied = True, None
            self._make_room()
        self.catch_up()
        if step == 0:
            for message in windows.told_before(self.passes[-1]):
                self.warn(message)

    def _held(self, requests: Iterable[LoraRequest]) -> tuple[LoraRequest, ...]:
        """The requests of a pass that begins, where those that a hand has set keep the strength that they have."""
        requests, strengths = tuple(requests), self.hand.strengths
        return tuple(
            played(request, (strengths[key],)) if key in strengths else request
            for key, request in zip(_keys(requests), requests, strict=True)
        )

    def _begin_late(self) -> None:
        """A hand asks for the pass that was left to the host: begin it, if that is possible."""
        left = self._left_to_host
        if left is None or left.begin is None:
            return
        try:
            left.begin()
        except Exception as error:
            logger.exception("LoRA Block Weight: a pass could not be taken over from the host")
            reason = f"what was moved by hand cannot be put in force ({type(error).__name__}: {error})"
            self.warn(f"{reason}; the LoRAs stay as their tags say")
            self.hand.drop()
            self.leave_to_host(left.requests, is_hires=left.is_hires)

    def _follow_hand(self, step: int) -> None:
        """A step begins: what a hand has moved holds from here on. What was in force in the steps before stays known,
        so that the pass can be made again, and planned anew for another model."""
        assert self.plan is not None
        moved, made = self.hand.take(), self.passes[-1]

        def after_move(requests: Sequence[LoraRequest]) -> dict[int, LoraRequest]:
            return {
                index: played(request, (*made.strengths_apart(request, step), moved[key]))
                for index, (key, request) in enumerate(zip(_keys(requests), requests, strict=True))
                if key in moved
            }

        changed = after_move(self._requests)
        self._requests = tuple(changed.get(index, request) for index, request in enumerate(self._requests))

        def followed(plan: Plan) -> Plan:
            for index, request in after_move(plan.requests).items():
                plan = plan.with_request(index, request)
            return plan

        is_first_plan = made.plan is self.plan  # else it has been made anew for a refiner
        self.plan = followed(self.plan)
        plan = self.plan if is_first_plan else followed(made.plan)
        self.passes[-1], self._applied = replace(made, plan=plan), None

    def _make_room(self) -> None:
        """A host that leaves layers in RAM while they are at work counts every byte, and makes smaller batches for what
        we hold."""
        assert self.plan is not None
        if self.engine.works_elsewhere and self.engine.headroom.has_run_out():
            self.engine.begin_pass(self.plan.reach())

    def _note_networks(self) -> None:
        self._loaded, self._model = tuple(self.host.networks()), weakref.ref(self.host.model())

    def before_encoding(self) -> None:
        """The host is about to encode the prompt; in the middle of a pass for a refiner. To load one, it unloads all
        networks, which stay where it finds the refiner in memory: so that is how it is in both cases."""
        if self._loaded and not self.host.networks() and self.host.model() is not self._model():
            if self.plan is not None:
                try:
                    self.host.load_again(self._loaded)
                except Exception:  # of the host's own, in the middle of an image
                    logger.exception("LoRA Block Weight: the LoRAs could not be loaded again for the refiner")
            if not self.host.networks():
                self.warn("the host has unloaded all LoRAs to load the refiner, which works without them")
        self.catch_up()

    def catch_up(self) -> None:
        """Bring the weights to the step that is under way, if they are not there: the host may be using another model
        now, or somebody else may have changed networks or weights."""
        if self.plan is None:
            return
        names = self.host.wanted_names()
        if not self._is_bound():
            self.plan = self._make_plan()
            self._applied = None
            assert self.engine.binding is not None
            for name, reasons in self.engine.binding.misfits.items():
                if name not in self.fits or not self.fits[name].is_nothing:  # else it is told already
                    self.warn(f"<lora:{shortened(name)}>: {misfits_told(reasons)}")
        if names != self._told:
            self._follow_multipliers()
        if (self._strengths(), names) != (self._applied, self._told) or not self.engine.holds(names):
            self._apply()

    def _is_bound(self) -> bool:
        assert self.plan is not None
        networks = self._unique_networks()
        are_planned = self.plan.networks == tuple(net.name for net in networks)
        return are_planned and self.engine.is_bound_to(self.host.model(), networks)

    def _encoder_works(self) -> None:
        """Layers of the text encoder that wait are about to be at work."""
        self._encodes = True
        self._bring_waiting()

    def _layers_work(self) -> None:
        """Other layers that wait are about to be at work."""
        self._samples = True
        self._bring_waiting()

    def _bring_waiting(self) -> None:
        """If another generation has come in between, unannounced, layers that wait are the host's."""
        if self.plan is not None and self.host.wanted_names() == self._told and self._is_bound():
            self._apply()
        else:
            self._stop_at_forwards()

    @property
    def encoding(self) -> tuple[Any, ...]:
        """What an encoded prompt of the pass depends on beyond its tags; nothing where the host encodes it alike. With
        networks it does not, not even with all of them at 1: its weights are rounded in another way."""
        made = self.passes[-1]
        return (made.plan.networks, *made.text_encoder_ratios(), *self._beyond_host) if made.plan.networks else ()

    def has_encoded(self) -> None:
        """The prompt of a pass has been encoded. A text encoder that is about to leave the GPU is restored before."""
        if self.plan is None or not self.engine.rests:
            return
        self._encodes = False
        if self.host.moves_parts():
            self.engine.settle(of_text_encoder=True)
            if self._is_bound():  # a refiner may be in use by now
                self._apply()

    def has_sampled(self) -> None:
        """The images of a pass are about to be decoded, which takes the most memory: give back what is held, unless
        there is room to spare. Other generations may come before the next pass."""
        self._is_in_pass = False
        if not self.engine.rests:
            return
        self._stop_at_forwards()
        self._warn_of_layers_left()
        self.engine.settle(of_text_encoder=True)
        self._applied, self._samples = None, not self.host.prepares_late()
        if self.host.moves_parts() or not self.engine.headroom.may_hold(self.engine.held):
            self.engine.settle()
        self._disown()

    def rest(self) -> None:
        """Leave the model as it is without networks, and hold nothing, until the next evaluation."""
        self.host.add_in_forward({})
        self.engine.settle()
        self._applied = None

    def _part_leaves(self) -> None:
        """A part of the model leaves the GPU, or gets other weights. What is at work goes on, and has to be brought
        to its strengths again before it does."""
        self.rest()
        if self._is_in_pass and self.plan is not None and self.host.prepares_late() and self._is_bound():
            self._encodes = self._samples = False
            self._apply()

    def gives_way(self, error: Exception) -> bool:
        """The GPU's memory ran out. Give back what is held, and hold as little as possible from now on.

        Returns:
            Whether there was anything to give back, so that it may fit now.
        """
        held = self.engine.held
        if self.plan is None or not held or not self.engine.headroom.has_run_out():
            return False
        self.rest()
        if self.hand.has_moved and self._step is not None:  # the pass begins anew, and the move is for the step behind
            self._follow_hand(self._step + 1)
        self.engine.begin_pass(self.plan.reach())
        self.warn(
            f"the GPU's memory ran out while {held / 1e6:.0f} MB of it were held for switches; they are given back, "
            f"and for images of this size they will be held no longer than a switch takes"
        )
        logger.debug("%s", error)
        return True

    def leave_to_host(
        self,
        requests: Sequence[LoraRequest] = (),
        *,
        is_hires: bool = False,
        begin_later: Callable[[], Pass] | None = None,
    ) -> None:
        """The host has loaded the networks of a pass that needs nothing of ours: it brings the weights there itself.

        Args:
            requests: one for each tag, in the order of the tags.
            is_hires: whether it is the hires pass.
            begin_later: begins the pass with :meth:`begin_pass` after all, where a hand asks for it in one of its
                steps; None where that would fail.
        """
        self.end()
        self._left_to_host = LeftPass(tuple(requests), is_hires, begin_later)
        self._step, self._is_in_pass = None, True
        if self.engine.rests:
            self.rest()
        self.engine.end_pass(names_are_true=False)  # what is ours differs from the host's by how it is rounded
        self._note_networks()
        try:
            for net in self._unique_networks():
                of_encoders = [is_text_encoder(key) for key in self.engine.keys_of(net)]
                fit = Fit(of_encoders.count(False), of_encoders.count(True), self._origin_of(net))
                self._tell_of_fit(net.name, fit, lambda: family_of_layers(self.host.layers()), ())
        except Exception:  # whatever is wrong with a file; the host may have no trouble with it
            logger.exception("LoRA Block Weight: how much of the LoRAs fits this model cannot be told")

    @property
    def is_in_pass(self) -> bool:
        """Whether a pass is being sampled, or about to be."""
        return self._is_in_pass

    def job(self) -> Job:
        """What is shown of the generation. It may be asked for by any thread, while this one samples."""
        passes, step, left = self.passes, self._step, self._left_to_host
        tags, waiting = played_tags([*passes]), self.hand.waiting()
        if left is not None:
            shown = faders(left.requests, tags, waiting, step=step, steps=left.steps)
            obstacle = "" if left.begin or not shown else "the host applies the LoRAs of this pass by itself"
            return Job(True, left.is_hires, step or 0, left.steps, faders=self._found(shown), obstacle=obstacle)
        if self.plan is None or not passes:
            shown = faders(self._requests, tags, waiting, step=None, steps=0)
            return Job(is_hires=self._is_hires, faders=self._found(shown))
        made = passes[-1]
        shown = faders(
            self._requests, tags, waiting,
            step=step, steps=made.steps, sigmas=made.sigmas, evaluation=self._evaluation,
        )  # fmt: skip
        return Job(True, made.is_hires, step or 0, made.steps, faders=self._found(shown))

    def _found(self, shown: Iterable[Fader]) -> tuple[Fader, ...]:
        """Those whose networks the host could load."""
        return tuple(fader for fader in shown if fader.key[0] not in self.lost)

    def over(self) -> Job:
        """What is kept of the generation when it is over: its last pass, and tags that only the prompt of the first one
        had, so that what was played on them can be written, too."""
        job = self.job()
        known = {fader.tag for fader in job.faders}
        first = [made for made in self.passes if not made.is_hires][-1:] if job.is_hires else []
        others = [
            fader
            for made in first
            for fader in faders(
                made.plan.requests, played_tags(self.passes), {}, step=made.steps - 1, steps=made.steps,
                sigmas=made.sigmas,
            )
            if fader.tag not in known
        ]  # fmt: skip
        return replace(job, is_running=False, faders=(*job.faders, *others))

    def details(self) -> Iterator[str]:
        """Lines that say what the tags came to, and what the switches cost."""
        for each in self.last_passes:
            for request, weights in zip(each.plan.requests, each.plan.weights, strict=True):
                vectors = "; ".join(",".join(map(shown, vector.values)) for vector in weights) or "1"
                strengths = " ".join(f"{factor:g}" for factor in each.strengths(request.schedule))
                yield (
                    f"LoRA Block Weight: <lora:{request.name}>: te {request.te_strength(each.steps, each.sigmas):g}, "
                    f"unet {request.unet_multiplier:g}, weights {vectors}, elements {request.elements or 'none'}, "
                    f"strength in {each.steps} steps: {strengths}"
                )
        count, done = total(self.updates)
        yield (
            f"LoRA Block Weight: {count} updates of {done.layers_updated} layers in {done.seconds * 1000:.1f} ms, with "
            f"up to {self.most_held / 1e6:.0f} MB of GPU memory, of which {self.engine.held / 1e6:.0f} MB are still "
            "held"
        )

    def end(self) -> None:
        """The generation is over, or failed: leave nothing behind that the next one could mistake for its own."""
        self._stop_listening()
        if self.engine.rests and self.host.moves_parts():
            self.engine.settle()
        self._disown()
        self.plan, self._loaded, self._left_to_host = None, (), None

    def suspend(self) -> None:
        """Another generation begins. It may be inside this one, or this one has failed without a word: it holds
        nothing, hears nothing and claims nothing, until it goes on."""
        self._stop_listening()
        if self.engine.rests:
            self.rest()
        self._disown()
        self._applied = None

    def _stop_listening(self) -> None:
        self._stop_at_forwards()
        self.host.before_departure(None)

    def _stop_at_forwards(self) -> None:
        self.host.before_forward({})
        self.host.add_in_forward({})

    def _disown(self) -> None:
        self.engine.end_pass(names_are_true=self.plan is None or (self.plan.is_plain and not self._beyond_host))

    def is_beyond_host(self, network: Any) -> bool:
        """Whether the host would leave out parts of a network that we read, or add numbers that are none."""
        return self.engine.has_own_parts(network) or self.engine.has_broken_parts(network)

    def _unique_networks(self) -> list[Any]:
        return list({id(net): net for net in self.host.networks()}.values())

    def _make_plan(self) -> Plan:
        networks = self._unique_networks()
        order = [net.name for net in networks]
        requests = [request for request in self._requests if request.name in order]
        asked = {request.name for request in requests}
        requests += [
            LoraRequest(net.name, net.te_multiplier, net.unet_multiplier) for net in networks if net.name not in asked
        ]
        requests.sort(key=lambda request: order.index(request.name))
        layers, keys_of = self.host.layers(), self.engine.keys_of
        plan = build(
            requests,
            {net.name: tuple(keys_of(net)) for net in networks},
            self.library.in_pass(self._is_hires),
            self.warn,
            model_layers=layers,
            seed=self._seed,
        )
        self._tell_of_own_blocks(plan)
        self.engine.bind(self.host.model(), layers, networks)
        self.engine.begin_pass(plan.reach())
        self._beyond_host = tuple(net.name for net in networks if self.is_beyond_host(net))
        self._unwritable = self.engine.unwritable(layers)
        self._list_unclaimed(plan.family, {layer for net in networks for layer in keys_of(net)})
        return plan

    def _tell_of_files(self, family: Family) -> None:
        """Say what of the networks' files is in force in the pass that begins, where that is not all."""
        binding = self.engine.binding
        assert binding is not None
        for net in self._unique_networks():
            encoders, unet = binding.counts[net.name]
            fit = Fit(unet, encoders, self._origin_of(net))
            self._tell_of_fit(net.name, fit, lambda: family, binding.misfits.get(net.name, ()))

    def _origin_of(self, network: Any) -> origin.Origin | None:
        path = self.host.file_of(network)
        return None if path is None else origin.of_file(path)

    def _tell_of_fit(self, name: str, fit: Fit, family: Callable[[], Family], reasons: Sequence[str]) -> None:
        """
        Args:
            reasons: why parts that are for layers of the model cannot be used, one for each.
        """
        if name in self.lost:
            return
        known = self.fits.get(name)
        if known is None or known.is_nothing:  # a hires pass may have another model
            self.fits[name] = fit
        if fit.is_nothing:
            self.warn(f"<lora:{shortened(name)}>: {explanation(fit, family(), reasons[0] if reasons else '')}")
        elif reasons:
            self.warn(f"<lora:{shortened(name)}>: {misfits_told(reasons)}")

    def _tell_of_own_blocks(self, plan: Plan) -> None:
        """A model that no family is known for has blocks by the names of its own layers: say which, to whoever has
        block weights."""
        family = plan.family
        if family.is_in_table or not any((*plan.weights, *plan.rules)):
            return
        ranges, first = label_ranges(family.labels, family.labels), family.blocks[0]
        self.warn(
            f"the model is of a kind that is not known here; its blocks, by the names of its layers, are "
            f"{', '.join(ranges)}, with the groups {', '.join(family.groups)}; for instance lbw=NONE,{first}=1"
        )

    def _list_unclaimed(self, family: Family, patched: Iterable[str]) -> None:
        """Block weights leave layers alone that are in no block: say which ones, once in a generation."""
        unclaimed = sorted(layer for layer in patched if family.block_of(layer) is None)
        message = f"in no block, so that block weights leave them alone: {', '.join(unclaimed)}"
        if unclaimed and message != self._unclaimed:
            self._unclaimed = message
            logger.debug("%d layers are %s", len(unclaimed), message)

    def _follow_multipliers(self) -> None:
        """A multiplier that somebody else wrote into a network since the pass began takes effect."""
        assert self.plan is not None
        for net in self.host.networks():
            multipliers = (net.te_multiplier, net.unet_multiplier)
            if self._multipliers.setdefault(net.name, multipliers) != multipliers:
                self._multipliers[net.name] = multipliers
                self.plan = self.plan.with_multipliers(net.name, *multipliers)

    def _strengths(self) -> tuple[float, ...]:
        assert self.plan is not None
        return self.plan.strengths(*self._moment())

    def _moment(self) -> tuple[int, int, tuple[float, ...], tuple[int]]:
        """Where the pass is, as its plan asks: step, number of steps, noise levels, evaluation of the model."""
        return self._step or 0, self.passes[-1].steps, self.passes[-1].sigmas, (self._evaluation,)

    def _apply(self) -> None:
        assert self.plan is not None
        names = self.host.wanted_names()
        coefficients = self.plan.coefficients(*self._moment())
        start = time.perf_counter()
        count = self._bring(coefficients, names)
        unserved = self._add_in_forward(coefficients)
        if unserved and self.engine.write_where_they_are(unserved):
            count += self._bring(coefficients, names)
        self._left |= unserved & {*self._unwritable, *(each.keys[0] for each in self.engine.waiting)}
        self._left |= {each.keys[0] for each in self.engine.failed}
        update = Update(count + len(self._in_forward), time.perf_counter() - start)
        self._applied, self._told = self._strengths(), names
        self.updates.append(update)
        self.placement = self.engine.placement or self.placement
        self.most_held = max(self.most_held, self.engine.held)
        self.host.before_departure(self._part_leaves if self.engine.rests and names else None)
        late = {
            name: layer
            for name, layer in self._unwritable.items()
            if name in coefficients and not self._is_at_work(name)
        }
        late |= {each.keys[0]: each.layer for each in self.engine.waiting}
        self.host.before_forward({
            layer: self._encoder_works if is_text_encoder(name) else self._layers_work
            for name, layer in late.items()
            if name not in self._in_forward
        })  # fmt: skip
        if update.layers_updated:
            logger.debug("step %d: %d layers in %.1f ms", self._step or 0, update.layers_updated, update.seconds * 1000)

    def _bring(self, coefficients: Coefficients, names: Any) -> int:
        """Returns how many layers have been written."""
        update = self.engine.manual_lora_update(coefficients, names, encodes=self._encodes, samples=self._samples)
        return update.layers_updated

    def _add_in_forward(self, coefficients: Coefficients) -> set[str]:
        """Layers that are at work and could not be brought to their coefficients get what is added to them from the
        host. Returns those for which it has no means."""
        wanted = dict(self._unwritable)
        if self.host.prepares_late():
            wanted |= {each.keys[0]: each.layer for each in self.engine.waiting}
        names = {name for name in coefficients.keys() & wanted.keys() if self._is_at_work(name)}
        self._in_forward = self.host.add_in_forward({name: (wanted[name], coefficients[name]) for name in names})
        self.most_in_forward = max(self.most_in_forward, len(self._in_forward))
        return {name for name in names if name not in self._in_forward and any(coefficients[name])}

    def _is_at_work(self, layer: str) -> bool:
        return self._encodes if is_text_encoder(layer) else self._samples

    def _warn_of_layers_left(self) -> None:
        if self._left:
            first = min(self._left)
            self.warn(f"{len(self._left)} layers, first {first}, can be patched in no way, and were without LoRAs")
            self._left.clear()

    def is_through(self) -> None:
        """All steps of a pass have been made."""
        if self.plan is not None:
            for message in windows.told_after(self.passes[-1]):
                self.warn(message)


def _keys(requests: Iterable[LoraRequest]) -> list[Key]:
    return keys_of(request.name for request in requests)
