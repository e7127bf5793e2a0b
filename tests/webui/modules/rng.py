"""Random numbers for images: each image draws from its own generator, so a batch equals its images made alone."""

from __future__ import annotations

import torch

from modules import devices, shared


def create_generator(seed: int) -> torch.Generator:
    on_cpu = shared.opts.randn_source == "CPU"
    return torch.Generator(devices.cpu if on_cpu else devices.device).manual_seed(int(seed))


def randn_without_seed(shape, generator: torch.Generator | None = None) -> torch.Tensor:
    """Normal noise from a generator, or from torch's own."""
    source = generator.device if generator is not None else devices.cpu
    return torch.randn(shape, device=source, generator=generator).to(devices.device)


def randn(seed: int, shape, generator: torch.Generator | None = None) -> torch.Tensor:
    """The first noise of a seed. Seeds torch's own generator too, which some extensions draw from afterwards."""
    torch.manual_seed(int(seed))
    return randn_without_seed(shape, generator or create_generator(seed))


def randn_local(seed: int, shape) -> torch.Tensor:
    """The first noise of a seed, without a trace elsewhere."""
    return randn_without_seed(shape, create_generator(seed))


def randn_like(x: torch.Tensor) -> torch.Tensor:
    return randn_without_seed(x.shape).to(x.dtype)


def manual_seed(seed: int) -> None:
    torch.manual_seed(int(seed))


def slerp(val: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Move by `val` from `low` to `high` along the great circle; in a straight line where they nearly coincide."""
    unit_low = low / torch.norm(low, dim=1, keepdim=True)
    unit_high = high / torch.norm(high, dim=1, keepdim=True)
    cosine = (unit_low * unit_high).sum(1)
    if cosine.mean() > 0.9995:
        return low * (1 - val) + high * val
    omega = torch.acos(cosine)
    weight_low = (torch.sin((1.0 - val) * omega) / torch.sin(omega)).unsqueeze(1)
    weight_high = (torch.sin(val * omega) / torch.sin(omega)).unsqueeze(1)
    return weight_low * low + weight_high * high


class ImageRNG:
    """Noise for one batch: `next()` gives the starting noise, then one more for each further call."""

    def __init__(
        self, shape, seeds, subseeds=None, subseed_strength=0.0, seed_resize_from_h=0, seed_resize_from_w=0
    ):
        self.shape = tuple(int(size) for size in shape)
        self.seeds, self.subseeds, self.subseed_strength = seeds, subseeds, subseed_strength
        self.seed_resize_from_h, self.seed_resize_from_w = seed_resize_from_h, seed_resize_from_w
        self.is_first = True
        self.generators = list(map(create_generator, seeds))

    def first(self) -> torch.Tensor:
        resized = self.seed_resize_from_h > 0 and self.seed_resize_from_w > 0
        small = (self.shape[0], int(self.seed_resize_from_h) // 8, int(self.seed_resize_from_w) // 8)
        shape = small if resized else self.shape
        noises = []
        for i, (seed, generator) in enumerate(zip(self.seeds, self.generators, strict=True)):
            noise = randn_local(seed, shape) if shape != self.shape else randn(seed, shape, generator)
            if self.subseeds is not None and self.subseed_strength != 0:
                subseed = self.subseeds[i] if i < len(self.subseeds) else 0
                noise = slerp(self.subseed_strength, noise, randn_local(subseed, shape))
            if shape != self.shape:
                noise = _paste_centred(noise, onto=randn(seed, self.shape, generator))
            noises.append(noise)
        delta = shared.opts.eta_noise_seed_delta or 0
        if delta:
            self.generators = [create_generator(seed + delta) for seed in self.seeds]
        return torch.stack(noises).to(devices.device)

    def next(self) -> torch.Tensor:
        if self.is_first:
            self.is_first = False
            return self.first()
        return torch.stack([randn_without_seed(self.shape, generator) for generator in self.generators])


def _paste_centred(small: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """Put one noise over the middle of another, cutting what stands out; changes `onto` in place."""
    target, source = [slice(None)], [slice(None)]
    for size_to, size_from in zip(onto.shape[1:], small.shape[1:], strict=True):
        shift = (size_to - size_from) // 2
        length = size_from + 2 * min(shift, 0)
        target.append(slice(max(shift, 0), max(shift, 0) + length))
        source.append(slice(max(-shift, 0), max(-shift, 0) + length))
    onto[tuple(target)] = small[tuple(source)]
    return onto


# Extensions look for them in `devices` too.
for _function in (manual_seed, randn, randn_like, randn_local, randn_without_seed):
    setattr(devices, _function.__name__, _function)
