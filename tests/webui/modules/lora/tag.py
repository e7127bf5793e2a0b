"""The <lora:name:strength> tag."""
from __future__ import annotations

import networks
from modules import extra_networks, shared


def _strengths(params: extra_networks.ExtraNetworkParams) -> tuple[float, float, int | None]:
    """Text encoder strength, U-Net strength and rank limit of one tag; a named item wins over a positional one.

    Raises:
        ValueError: one of them is not a number.
    """
    positional, named = params.positional, params.named
    te = float(positional[1]) if len(positional) > 1 else 1.0
    te = float(named.get("te", te))
    unet = float(positional[2]) if len(positional) > 2 else te
    unet = float(named.get("unet", unet))
    dyn = int(positional[3]) if len(positional) > 3 else None
    dyn = int(named["dyn"]) if "dyn" in named else dyn
    return te, unet, dyn


class ExtraNetworkLora(extra_networks.ExtraNetwork):
    """`errors` counts, by network name, the layers that a network could not be applied to in this generation."""

    remove_symbols = str.maketrans("", "", ":,")
    leaves_zeros_out = False
    """Whether a tag with both strengths 0 counts as not written."""

    def __init__(self):
        super().__init__("lora")
        self.errors: dict[str, int] = {}

    def activate(self, p, params_list: list[extra_networks.ExtraNetworkParams]) -> None:
        self.errors.clear()
        self._add_network_of_settings(p, params_list)
        names, strengths = [], []
        for params in params_list:
            of_tag = _strengths(params)
            if self.leaves_zeros_out and of_tag[:2] == (0, 0):
                continue
            names.append(params.positional[0])
            strengths.append(of_tag)
        te, unet, dyn = (list(column) for column in zip(*strengths, strict=True)) if strengths else ([], [], [])
        networks.load_networks(names, te, unet, dyn)
        if shared.opts.lora_add_hashes_to_infotext:
            self._add_hashes(p)

    def _add_network_of_settings(self, p, params_list: list[extra_networks.ExtraNetworkParams]) -> None:
        """The network chosen in the settings joins in, unless the prompt names it already."""
        name = shared.opts.sd_lora
        if name == "None" or name not in networks.available_networks or any(x.items[0] == name for x in params_list):
            return
        multiplier = shared.opts.extra_networks_default_multiplier
        p.all_prompts = [f"{prompt}<lora:{name}:{multiplier}>" for prompt in p.all_prompts]
        params_list.append(extra_networks.ExtraNetworkParams(items=[name, multiplier]))

    def _add_hashes(self, p) -> None:
        """Note the files' hashes for the infotext; a hires pass adds its own to those of the first pass."""
        if not getattr(p, "is_hr_pass", False) or not hasattr(p, "lora_hashes"):
            p.lora_hashes = {}
        for net in networks.loaded_networks:
            if net.network_on_disk.shorthash and net.mentioned_name:
                name = net.mentioned_name.translate(self.remove_symbols)
                p.lora_hashes[name] = net.network_on_disk.shorthash
        if p.lora_hashes:
            p.extra_generation_params["Lora hashes"] = ", ".join(f"{k}: {v}" for k, v in p.lora_hashes.items())

    def deactivate(self, p) -> None:
        if self.errors:
            p.comment("Networks with errors: " + ", ".join(f"{k} ({v})" for k, v in self.errors.items()))
            self.errors.clear()
