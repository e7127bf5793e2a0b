"""What a script is: the base class that extensions derive from, and the values that its hooks are handed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

AlwaysVisible = object()


@dataclass(eq=False)
class MaskBlendArgs:
    """One blending of the original into an inpainted latent; without a denoiser it is the final one."""

    current_latent: Any
    nmask: Any
    init_latent: Any
    mask: Any
    blended_latent: Any
    denoiser: Any = None
    sigma: Any = None

    @property
    def is_final_blend(self) -> bool:
        return self.denoiser is None


@dataclass(eq=False)
class PostSampleArgs:
    samples: Any


@dataclass(eq=False)
class PostprocessImageArgs:
    image: Any


@dataclass(eq=False)
class PostProcessMaskOverlayArgs:
    index: int
    mask_for_overlay: Any
    overlay_image: Any


@dataclass(eq=False)
class PostprocessBatchListArgs:
    images: list


@dataclass(eq=False)
class OnComponent:
    component: Any


class Script:
    """Base of every script. `args` are the values of the components that `ui` returned, in that order.

    A script whose `show` returns `AlwaysVisible` gets the hooks below; one that returns True is offered in the
    script menu and gets `run` alone. There is one instance for txt2img and another for img2img.
    """

    name: str | None = None
    section: str | None = None
    filename: str | None = None
    args_from: int | None = None
    args_to: int | None = None
    alwayson = False
    is_txt2img = False
    is_img2img = False
    tabname: str | None = None
    group = None
    create_group = True
    infotext_fields: list | None = None
    paste_field_names: list | None = None
    api_info = None
    on_before_component_elem_id: list | None = None
    on_after_component_elem_id: list | None = None
    setup_for_ui_only = False
    controls: list | None = None
    sorting_priority = 0

    def title(self):
        """The name in the menu, and in lower case the key in the API's `alwayson_scripts`."""
        raise NotImplementedError

    def ui(self, is_img2img):
        """Create the components and return those whose values the hooks want."""

    def show(self, is_img2img):
        """False: not here; True: in the menu; `AlwaysVisible`: always."""
        return True

    def run(self, p, *args):
        """Make the images, usually by `processing.process_images(p)`, and return its `Processed`."""

    def setup(self, p, *args):
        """As soon as `p` has both scripts and arguments."""

    def before_process(self, p, *args):
        """Before settings are overridden and the model is chosen."""

    def process(self, p, *args):
        """Once, when prompts and seeds of all images are known."""

    def before_process_batch(self, p, *args, **kwargs):
        """Before tags are taken out of the batch's prompts: `batch_number`, `prompts`, `seeds`, `subseeds`."""

    def after_extra_networks_activate(self, p, *args, **kwargs):
        """Networks are loaded, prompts not yet encoded: `extra_network_data` and what `process_batch` gets.

        Runs again in the hires pass, and not at all with `p.disable_extra_networks`.
        """

    def process_before_every_sampling(self, p, *args, **kwargs):
        """Right before a sampling pass: `x`, `noise`, `c`, `uc`; twice with a hires pass."""

    def process_batch(self, p, *args, **kwargs):
        """Before the batch's prompts are encoded: `batch_number`, `prompts`, `seeds`, `subseeds`."""

    def postprocess_batch(self, p, *args, **kwargs):
        """With the batch's images as one tensor in 0..1: `images`, `batch_number`."""

    def postprocess_batch_list(self, p, pp: PostprocessBatchListArgs, *args, **kwargs):
        """The same with a list of tensors that may be changed."""

    def on_mask_blend(self, p, mba: MaskBlendArgs, *args):
        """At each blending of original and inpainted latent."""

    def post_sample(self, p, ps: PostSampleArgs, *args):
        """With the sampled latents; after a hires pass these are decoded already."""

    def postprocess_image(self, p, pp: PostprocessImageArgs, *args):
        """For each image."""

    def postprocess_maskoverlay(self, p, ppmo: PostProcessMaskOverlayArgs, *args):
        """For each image, before the unmasked original is laid over it."""

    def postprocess_image_after_composite(self, p, pp: PostprocessImageArgs, *args):
        """For each image, after that."""

    def postprocess(self, p, processed, *args):
        """Once, with the result. Not reached if the generation failed."""

    def before_component(self, component, **kwargs):
        """Before each component of the page; `kwargs` are the component's own."""

    def after_component(self, component, **kwargs):
        """After each component of the page."""

    def on_before_component(self, callback: Callable, *, elem_id: str):
        """Run `callback(OnComponent)` before the component with this id; call it in `show` or `ui`."""
        self.on_before_component_elem_id = [*(self.on_before_component_elem_id or []), (elem_id, callback)]

    def on_after_component(self, callback: Callable, *, elem_id: str):
        """Run `callback(OnComponent)` after the component with this id."""
        self.on_after_component_elem_id = [*(self.on_after_component_elem_id or []), (elem_id, callback)]

    def describe(self):
        return ""

    def elem_id(self, item_id):
        """An id for a component, made of the tab (if the script is in both), the title, and `item_id`."""
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{self._tab_prefix()}{title}_{item_id}"

    def _tab_prefix(self) -> str:
        if self.show(True) != self.show(False):
            return ""
        return "img2img_" if self.is_img2img else "txt2img_"

    def before_hr(self, p, *args):
        """Before the hires pass samples."""


class ScriptBuiltinUI(Script):
    """A part of the host's own panel that is written as a script."""

    setup_for_ui_only = True

    def elem_id(self, item_id):
        return f"{self._tab_prefix()}{item_id}"

    def show(self, is_img2img):
        return AlwaysVisible
