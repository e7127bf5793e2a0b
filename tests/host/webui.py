"""The WebUI under test, in this process: the stand-in in tests/webui, or the real one that WEBUI_ROOT names.

Only what extensions may use of the host is used, so the same code drives both, and AUTOMATIC1111's as well as the Forge
family.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.host import real_host
from tests.host.real_host import STAND_IN
from tests.server import write_demo

DEFAULTS = {
    "prompt": "a red cat",
    "negative_prompt": "blurry",
    "seed": 1,
    "steps": 8,
    "sampler_name": "Euler a",
    "cfg_scale": 7,
    "width": 64,
    "height": 64,
    "do_not_save_samples": True,
    "do_not_save_grid": True,
}


class WebUI:
    """A WebUI that has been started without a server.

    Args:
        data: a folder of its own for the host's settings, LoRA files and extensions.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.lora_folder = data / "models" / "Lora"
        self.lora_folder.mkdir(parents=True, exist_ok=True)
        if os.environ.get("WEBUI_ROOT"):
            real_host.boot(Path(os.environ["WEBUI_ROOT"]), self.data)
        else:
            self._boot_stand_in()
        import networks
        from modules import processing, script_callbacks, scripts, shared

        self.networks, self.processing, self.scripts, self.shared = networks, processing, scripts, shared
        self.is_forge = hasattr(networks, "load_lora_for_models")
        self.p: Any = None
        """The request that was run last."""
        self.before_evaluation: list[Callable[[Any], None]] = []
        self.after_evaluation: list[Callable[[Any], None]] = []
        script_callbacks.on_cfg_denoiser(lambda params: self._call(self.before_evaluation, params))
        after = script_callbacks.on_cfg_after_cfg if self.is_forge else script_callbacks.on_cfg_denoised
        after(lambda params: self._call(self.after_evaluation, params))
        if self.is_forge:
            self.generate(prompt="nothing", steps=1)  # the model is loaded for the first one

    @staticmethod
    def _call(observers: list[Callable[[Any], None]], params: Any) -> None:
        for observer in list(observers):
            observer(params)

    @contextmanager
    def observing(self, observer: Callable[[Any], None], *, before: bool = False) -> Iterator[None]:
        """Call ``observer`` after, or before, each model evaluation, for as long as the block runs."""
        observers = self.before_evaluation if before else self.after_evaluation
        observers.append(observer)
        try:
            yield
        finally:
            observers.remove(observer)

    def _boot_stand_in(self) -> None:
        sys.path.insert(0, str(STAND_IN))
        write_demo(self.data)
        from modules import initialize

        torch.backends.mkldnn.set_flags(False)  # it prepares for longer than a layer as narrow as these takes
        initialize.initialize(["--data-dir", str(self.data), "--lora-dir", str(self.lora_folder)])
        initialize.create_script_runners()

    def layers(self) -> dict[str, Any]:
        """{name: layer} of the model in use, named as a LoRA in kohya's format has them."""
        if hasattr(self.shared.sd_model, "network_layer_mapping"):
            mapping: dict[str, Any] = self.shared.sd_model.network_layer_mapping
            return mapping
        objects = self.shared.sd_model.forge_objects_original
        return {
            name.replace(".", "_"): layer
            for part in (objects.unet.model, objects.clip.cond_stage_model)
            for name, layer in part.named_modules()
            if isinstance(getattr(layer, "weight", None), Tensor) and not isinstance(layer, nn.Embedding)
        }

    def script(self, runner: Any) -> Any:
        """Our script in ``scripts_txt2img`` or ``scripts_img2img``."""
        return next(script for script in runner.alwayson_scripts if script.title() == "LoRA Block Weight")

    def request(self, args: list[Any] | None = None, **fields: Any) -> Any:
        """A txt2img request, or an img2img one if it has ``init_images``; ``args`` are our script's arguments."""
        is_img2img = "init_images" in fields
        runner = self.scripts.scripts_img2img if is_img2img else self.scripts.scripts_txt2img
        kind = "StableDiffusionProcessingImg2Img" if is_img2img else "StableDiffusionProcessingTxt2Img"
        make = getattr(self.processing, kind)
        if fields.get("enable_hr"):
            known = inspect.signature(make).parameters
            needed = {"hr_additional_modules": ["Use same choices"], "hr_cfg_scale": DEFAULTS["cfg_scale"]}
            fields = {name: value for name, value in needed.items() if name in known} | fields
        p = make(**{**DEFAULTS, **fields})
        p.is_api = True
        p.scripts = runner
        p.outpath_samples = p.outpath_grids = str(self.data)
        values = self._default_arguments(runner)
        script = self.script(runner)
        for index, value in enumerate(args or []):
            values[script.args_from + index] = value
        p.script_args = tuple(values)
        return p

    @staticmethod
    def _default_arguments(runner: Any) -> list[Any]:
        size = max((script.args_to or 0) for script in runner.scripts)
        values: list[Any] = [0] + [None] * size
        for script in runner.alwayson_scripts:
            values[script.args_from : script.args_to] = [control.value for control in controls_of(runner, script)]
        return values

    @staticmethod
    def parse_infotext(text: str) -> dict[str, Any]:
        """By the host's own function, which before 1.8 was elsewhere."""
        try:
            from modules.infotext_utils import parse_generation_parameters
        except ImportError:
            from modules.generation_parameters_copypaste import parse_generation_parameters

        return parse_generation_parameters(text)

    def run(self, p: Any) -> Any:
        """Generate, as the host's API does."""
        self.p = p
        with closing(p):
            self.shared.state.begin(job="test")
            try:
                return self.processing.process_images(p)
            finally:
                self.shared.state.end()

    def denoiser(self, params: Any) -> Any:
        """The denoiser that a callback is about; hosts before 1.8 do not say which."""
        return getattr(params, "denoiser", None) or self.p.sampler.model_wrap_cfg

    def generate(self, args: list[Any] | None = None, **fields: Any) -> Any:
        return self.run(self.request(args, **fields))


def controls_of(runner: Any, script: Any) -> list[Any]:
    """The components of a script, one for each of its arguments."""
    return runner.inputs[script.args_from : script.args_to]
