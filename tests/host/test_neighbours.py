"""Beside other extensions: what each does to the host is done here by a stand-in, whose docstring says who does it so.
They are written from what those extensions do, not from how they are written."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.host.conftest import Bench
from tests.host.measure import OUTPUT_BLOCKS, messages, replaced, strengths
from tests.host.test_modes import output_block

STEPS = 4
OUTALL = f"OUTALL:{OUTPUT_BLOCKS}"
SCHEDULED = "a red cat <lora:t_lora:0.8:lbw=OUTALL:start=1:stop=3>"
STRENGTHS = [0, 0.8, 0.8, 0]
FACE = "a face <lora:t_lora2:0.6:lbw=OUTALL:stop=1>"


class Detailer:
    """As ADetailer: paints over every image by a generation of its own, with those of the scripts whose files it knows
    by name. Before the first one it tells all scripts that the generation is over, and after the last one of each batch
    that it begins, both with a copy of the request, whose prompts it keeps."""

    SCRIPTS = ("lora_block_weight", "dynamic_prompting")

    def __init__(self, bench: Bench, prompt: str = "") -> None:
        self._bench, self._prompt, self.is_busy = bench, prompt, False
        self.made: list[Any] = []

    def __call__(self, p: Any, pp: Any) -> None:
        if self.is_busy:
            return
        self.is_busy = True
        try:
            self._detail(p, pp)
        finally:
            self.is_busy = False

    def _detail(self, p: Any, pp: Any) -> None:
        if p.batch_index == 0:
            from modules.processing import Processed

            p.scripts.postprocess(copy.copy(p), Processed(p, [], p.seed, ""))
        inner = self._bench.webui.request(
            prompt=self._prompt or p.prompts[p.batch_index], init_images=[pp.image], steps=p.steps,
            denoising_strength=1.0, extra_generation_params=dict(p.extra_generation_params),
        )
        inner.scripts = copy.copy(p.scripts)
        inner.scripts.alwayson_scripts = [
            script for script in p.scripts.alwayson_scripts if Path(script.filename).stem in self.SCRIPTS
        ]
        inner.scripts.callback_map = {}
        inner.script_args = p.script_args
        with closing(inner):
            result = self._bench.webui.processing.process_images(inner)
        self.made.append(result)
        pp.image = result.images[0]
        if p.batch_index == p.batch_size - 1:
            again = copy.copy(p)
            p.scripts.before_process(again)
            p.scripts.process(again)


@contextmanager
def after_each_image(bench: Bench, act: Callable[[Any, Any], None]) -> Iterator[None]:
    runner = bench.webui.scripts.scripts_txt2img

    def and_then(original: Callable[..., None]) -> Callable[..., None]:
        def postprocess_image(p: Any, pp: Any, *args: Any, **named: Any) -> None:
            original(p, pp, *args, **named)
            act(p, pp)

        return postprocess_image

    with replaced(runner, "postprocess_image", and_then):
        yield


@pytest.mark.parametrize("prompt", ["", FACE, "a face"], ids=["the same prompt", "a prompt of its own", "no LoRA"])
def test_a_detailer_that_tells_all_scripts_that_all_is_over_and_begins_again(bench: Bench, prompt: str):
    alone = bench.webui.generate([OUTALL], prompt=SCHEDULED, steps=STEPS, n_iter=2, batch_size=2)
    detailer = Detailer(bench, prompt)
    with after_each_image(bench, detailer):
        result, record = bench.record(
            "t_lora", "t_lora2", args=[OUTALL], prompt=SCHEDULED, steps=STEPS, n_iter=2, batch_size=2
        )
    assert len(detailer.made) == 4
    assert len(result.images) == len(alone.images)
    of_detail = {"": STRENGTHS, FACE: [0] * STEPS, "a face": [0] * STEPS}[prompt]
    assert output_block(record) == 2 * (STRENGTHS + 2 * of_detail)
    face = [0.6, 0, 0, 0] if prompt == FACE else [0] * STEPS
    assert output_block(record, "t_lora2") == 2 * ([0] * STEPS + 2 * face)
    assert messages(result) == []
    from lbw.hosts import under_way

    assert under_way.sessions() == []
    for key in ("LBW steps", "LBW presets"):
        assert (key in result.extra_generation_params) == (key in alone.extra_generation_params)


class Regions:
    """As Regional Prompter in its Latent mode: a prompt in parts joined by AND, evaluated one after the other, of which
    each has the LoRAs that it names at their strengths, and the negative prompt none. When all scripts are told that
    the generation begins, it has networks added to the output of layers (``lora_functional``), unless it is asked not
    to; it stands in the forward of Linear, and writes the multipliers there, in the first layer of either model. At
    the end it puts the forward and the option back."""

    ENCODER = "transformer_text_model_encoder_layers_0_self_attn_q_proj"
    UNET = "diffusion_model_time_embed_0"

    def __init__(self, bench: Bench, parts: list[dict[str, float]], *, is_functional: bool = True) -> None:
        self._networks, self._shared = bench.webui.networks, bench.webui.shared
        self._encoded, self._evaluated = cycle([{}, *parts]), cycle([*parts, {}])
        self._is_functional = is_functional

    def begin(self) -> None:
        networks, opts = self._networks, self._shared.opts
        self._forward, self._option = torch.nn.Linear.forward, opts.lora_functional
        opts.lora_functional = self._is_functional
        original = networks.originals.Linear_forward

        def forward(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
            name = getattr(layer, "network_layer_name", None)
            if name == self.ENCODER:
                self._write(next(self._encoded), "te_multiplier")
            elif name == self.UNET:
                self._write(next(self._evaluated), "unet_multiplier")
            if opts.lora_functional:
                return networks.network_forward(layer, x, original)
            networks.network_apply_weights(layer)
            return original(layer, x)

        torch.nn.Linear.forward = forward

    def end(self) -> None:
        torch.nn.Linear.forward = self._forward
        self._shared.opts.lora_functional = self._option
        self._networks.loaded_networks.clear()

    def _write(self, strengths: dict[str, float], multiplier: str) -> None:
        for net in self._networks.loaded_networks:
            setattr(net, multiplier, strengths.get(net.name, 0.0))


@contextmanager
def told(bench: Bench, begin: Callable[[], None], end: Callable[[], None], *, before_ours: bool) -> Iterator[None]:
    """Have functions called where all scripts are told that a generation begins and that it is over: before our own
    script is, as it is sorted by names of folders, or after it."""
    runner = bench.webui.scripts.scripts_txt2img

    def around(act: Callable[[], None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def wrap(original: Callable[..., None]) -> Callable[..., None]:
            def tell(p: Any, *args: Any) -> None:
                if before_ours:
                    act()
                original(p, *args)
                if not before_ours:
                    act()

            return tell

        return wrap

    with replaced(runner, "process", around(begin)), replaced(runner, "postprocess", around(end)):
        yield


@contextmanager
def seen_in_unet(bench: Bench, *names: str) -> Iterator[list[dict[str, tuple[float, float]]]]:
    """{network: (strength in IN04, in OUT05)} in each evaluation of the U-Net, as its last block begins."""
    found: list[dict[str, tuple[float, float]]] = []
    deltas = {name: bench.deltas[name] for name in names}
    layers = bench.layers()
    last = bench.webui.shared.sd_model.model.diffusion_model.out

    def note(_module: Any, _inputs: Any) -> None:
        blocks = strengths(layers, bench.base, deltas)
        found.append({
            name: (round(blocks[name]["IN04"][0], 2), round(blocks[name]["OUT05"][0], 2)) for name in names
        })

    handle = last.register_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def patched_by_host(bench: Bench) -> Iterator[list[str]]:
    """The names of layers that the host restores, to patch them anew or to add networks to their output."""
    found: list[str] = []

    def noted(original: Callable[..., None]) -> Callable[..., None]:
        def restore(layer: Any) -> None:
            name = getattr(layer, "network_layer_name", None)  # the decoder's have none
            if name is not None:
                found.append(name)
            original(layer)

        return restore

    with replaced(bench.webui.networks, "network_restore_weights_from_backup", noted):
        yield found


TWO = "a red cat <lora:t_lora:1:lbw=OUTALL> AND a blue dog <lora:t_lora2:0.5:lbw=OUTALL:stop=2>"


@pytest.mark.parametrize("before_ours", [True, False], ids=["loaded before ours", "loaded after ours"])
@pytest.mark.parametrize("is_functional", [True, False], ids=["lora_functional", "its other way"])
def test_a_lora_for_each_region_has_its_blocks_and_steps(
    bench: Bench, option: Callable[..., None], before_ours: bool, is_functional: bool
):
    bench.not_on_forge("looks at multipliers when it loads networks, and never again")
    option(batch_cond_uncond=False)
    first, second = ({"t_lora": (0, 1), "t_lora2": (0, 0)}, {"t_lora": (0, 0), "t_lora2": (0, 0.5)})
    nothing = {"t_lora": (0, 0), "t_lora2": (0, 0)}
    regions = Regions(bench, [{"t_lora": 1.0}, {"t_lora2": 0.5}], is_functional=is_functional)
    with (
        told(bench, regions.begin, regions.end, before_ours=before_ours),
        seen_in_unet(bench, "t_lora", "t_lora2") as seen,
        patched_by_host(bench) as patched,
    ):
        result = bench.webui.generate([OUTALL], prompt=TWO, steps=3)
    assert patched == []
    assert seen == 2 * [first, second, nothing] + [first, nothing, nothing]
    assert messages(result) == []
    assert not bench.webui.shared.opts.lora_functional
    assert torch.nn.Linear.forward is bench.webui.networks.network_Linear_forward
    bench.webui.generate(prompt="nothing", steps=1)
    assert bench.differences_from_base() == []


def test_an_extension_that_adds_loras_to_the_output_of_layers_is_told(bench: Bench):
    """As the later Composable LoRA does while it is enabled: its forwards restore the weights of each layer, forget
    what was in them, and add the LoRAs of each part of the prompt by themselves."""
    bench.not_on_forge("has no layers whose forward such an extension could replace")
    networks = bench.webui.networks
    kinds = [(torch.nn.Linear, "Linear"), (torch.nn.Conv2d, "Conv2d")]
    known = [kind.forward for kind, _name in kinds]

    def forward_of(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
            networks.network_restore_weights_from_backup(layer)
            networks.network_reset_cached_weight(layer)
            return original(layer, x)

        return forward

    def begin() -> None:
        for kind, name in kinds:
            kind.forward = forward_of(getattr(networks.originals, f"{name}_forward"))

    def end() -> None:
        for (kind, _name), forward in zip(kinds, known, strict=True):
            kind.forward = forward

    with told(bench, begin, end, before_ours=False):
        result = bench.webui.generate([OUTALL], prompt=SCHEDULED, steps=STEPS)
    assert messages(result) == [
        f"another extension ({__name__}) adds the LoRAs to the output of layers by itself; block weights and steps did "
        "not count"
    ]
    after, record = bench.record("t_lora", args=[OUTALL], prompt=SCHEDULED, steps=STEPS)
    assert output_block(record) == STRENGTHS
    assert messages(after) == []


def test_loras_that_another_extension_activates_for_tiles_of_the_picture(bench: Bench):
    """As Tiled Diffusion does for each of its regions, in each evaluation, with the tags of the region's prompt."""
    bench.not_on_forge("loads a model's networks before it is evaluated")
    from lbw.hosts.hooks import session_of
    from modules import extra_networks

    regions = {"t_lora": "<lora:t_lora:1:lbw=OUTALL:stop=2>", "t_lora2": "<lora:t_lora2:0.5:lbw=OUTALL:start=1>"}
    seen: dict[str, list[float]] = {name: [] for name in regions}

    def evaluate_regions(_params: Any) -> None:
        for name, prompt in regions.items():
            extra_networks.activate(bench.webui.p, extra_networks.parse_prompts([prompt])[1])
            blocks = strengths(bench.layers(), bench.base, {name: bench.deltas[name]})[name]
            seen[name].append(round(blocks["OUT05"][0], 2))

    passes: list[int] = []
    with bench.webui.observing(evaluate_regions), bench.webui.observing(
        lambda _params: passes.append(len(session_of(bench.webui.p).passes))
    ):
        result = bench.webui.generate([OUTALL], prompt=SCHEDULED, steps=STEPS)
    assert max(passes) == 1 + len(regions)
    assert seen == {"t_lora": [1, 1, 0, 0], "t_lora2": [0, 0.5, 0.5, 0.5]}
    assert messages(result) == []
    bench.webui.generate(prompt="nothing", steps=1)
    assert bench.differences_from_base() == []


def test_a_detailer_beside_an_extension_that_activates_loras_for_tiles(bench: Bench):
    """Two at once: what is detailed has the LoRAs of its own prompt, between images whose tiles have theirs."""
    bench.not_on_forge("loads a model's networks before it is evaluated")
    from modules import extra_networks

    prompt, detailer, seen = "<lora:t_lora2:0.5:lbw=OUTALL:start=1>", Detailer(bench, FACE), []

    def evaluate_tile(_params: Any) -> None:
        if not detailer.is_busy:
            extra_networks.activate(bench.webui.p, extra_networks.parse_prompts([prompt])[1])
            found = strengths(bench.layers(), bench.base, {"t_lora2": bench.deltas["t_lora2"]})
            seen.append(round(found["t_lora2"]["OUT05"][0], 2))

    with after_each_image(bench, detailer), bench.webui.observing(evaluate_tile):
        result, record = bench.record("t_lora", "t_lora2", args=[OUTALL], prompt=SCHEDULED, steps=STEPS, n_iter=2)
    assert seen == 2 * [0, 0.5, 0.5, 0.5]
    of_details = [[*range(start, start + STEPS)] for start in (STEPS, 3 * STEPS)]
    for name, face in (("t_lora", [0] * STEPS), ("t_lora2", [0.6, 0, 0, 0])):
        assert [[output_block(record, name)[number] for number in detail] for detail in of_details] == [face, face]
    assert messages(result) == []
    bench.webui.generate(prompt="nothing", steps=1)
    assert bench.differences_from_base() == []


class ForgeRegions:
    """As Regional Prompter in its Latent mode on Forge: when all scripts are told that the generation begins, it puts a
    loader of its own in the place of the host's, for good, which has LoRAs added in each forward of their layers,
    where it sets their strengths for each region."""

    def __init__(self, bench: Bench) -> None:
        self._networks, self._shared = bench.webui.networks, bench.webui.shared

    def begin(self) -> None:
        self._networks.load_networks = self._load

    def _load(self, names: list[str], te: list[float], unet: list[float], *_columns: Any) -> None:
        model, networks = self._shared.sd_model, self._networks
        files = [networks.available_networks[name] for name in names]
        networks.loaded_networks[:] = map(networks.load_network, names, files)
        targets = str([[file.filename, *strengths, True] for file, *strengths in zip(files, unet, te, strict=True)])
        if model.current_lora_hash == targets:
            return
        model.current_lora_hash = targets
        parts, originals = model.forge_objects, model.forge_objects_original
        parts.unet, parts.clip = originals.unet, originals.clip
        for file, of_unet, of_encoder in zip(files, unet, te, strict=True):
            parts.unet, parts.clip = networks.load_lora_for_models(
                parts.unet, parts.clip, networks.load_lora_state_dict(file.filename), of_unet, of_encoder,
                filename=file.filename, online_mode=True,
            )  # fmt: skip
        model.forge_objects_after_applying_lora = parts.shallow_copy()


@pytest.mark.parametrize("before_ours", [True, False], ids=["loaded before ours", "loaded after ours"])
def test_a_lora_that_another_extension_sets_in_each_forward_is_left_to_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, before_ours: bool
):
    networks, hosts_own = bench.webui.networks, bench.webui.networks.load_networks
    if not bench.webui.is_forge or "online_mode" not in inspect.signature(networks.load_lora_for_models).parameters:
        pytest.skip("for Forge")
    monkeypatch.setattr(networks, "load_networks", networks.load_networks)  # it leaves its own there
    networks.list_available_networks()
    regions, online = ForgeRegions(bench), []

    def note(_params: Any) -> None:
        patches = bench.webui.shared.sd_model.forge_objects.unet.lora_patches
        online.append([bool(entries) for key, entries in patches.items() if key[-1]])

    with told(bench, regions.begin, lambda: None, before_ours=before_ours), bench.webui.observing(note):
        result = bench.webui.generate([OUTALL], prompt=SCHEDULED, steps=2, n_iter=2)
    assert online == [[True]] * 4
    fault = "<lora:t_lora>: another extension has it added in each forward, as a whole; blocks and steps do not count"
    assert messages(result) == [fault]

    def load_as_host(*args: Any) -> None:  # as it does where its mode is off
        with monkeypatch.context() as patch:
            load = networks.load_lora_for_models
            patch.setattr(networks, "load_lora_for_models", lambda *a, online_mode, **named: load(*a, **named))
            regions._load(*args)

    networks.load_networks = load_as_host
    prompts = [SCHEDULED, "a red cat <lora:t_lora2:0.5:lbw=OUTALL>"]
    for prompt, first, second in ((prompts[0], STRENGTHS, [0.0] * 4), (prompts[1], [0.0] * 4, [0.5] * 4)):
        result, record = bench.record("t_lora", "t_lora2", args=[OUTALL], prompt=prompt, steps=STEPS, n_iter=2)
        assert output_block(record) == 2 * first
        assert output_block(record, "t_lora2") == 2 * second
        assert messages(result) == []
    for others in ("", "<lora:gone:1>"):  # one that has no file costs all of them, where we are not asked
        if others:
            networks.load_networks = hosts_own
        _, record = bench.record(
            "t_lora", "t_lora2", steps=4, prompt=f"a red cat {others} <lora:t_lora:1:lbw=OUTALL:stop=2>",
            enable_hr=True, hr_prompt="a red cat <lora:t_lora2:0.5:lbw=OUTALL:start=1>", hr_upscaler="Latent",
            hr_second_pass_steps=3, denoising_strength=0.7,
        )
        assert output_block(record) == [1, 1, 0, 0, 0, 0, 0]
        assert output_block(record, "t_lora2") == [0, 0, 0, 0, 0, 0.5, 0.5]
