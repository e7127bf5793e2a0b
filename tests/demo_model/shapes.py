"""Things as layers of flat shapes, each given by its signed distance: negative inside, in units of the thing's size.

The formulas are those of I. Quilez, "2D distance functions" (2008), in their convex and symmetric cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce

import torch
from torch import Tensor

Layer = tuple[Tensor, str]
"""The distances of all pixels to a shape, (images, height, width), and the name of its paint: ``main``, ``shade`` and
``light`` are the thing's colour, a darker and a lighter one, others are of :data:`tests.demo_model.scenes.PAINTS`."""

Thing = Callable[[Tensor, Tensor], Iterator[Layer]]
"""Layers from back to front, for coordinates to the right and down, of which a thing fills -1 to 1."""


def everywhere(v: Tensor) -> Tensor:
    return v - 9


def ellipse(u: Tensor, v: Tensor, x: float, y: float, half_width: float, half_height: float) -> Tensor:
    """Exact for circles, near enough for an edge otherwise."""
    return (torch.hypot((u - x) / half_width, (v - y) / half_height) - 1) * min(half_width, half_height)


def box(
    u: Tensor, v: Tensor, x: float, y: float, half_width: float, half_height: float, round_by: float = 0.0
) -> Tensor:
    right, down = (u - x).abs() - half_width + round_by, (v - y).abs() - half_height + round_by
    outside = torch.hypot(right.clamp(min=0), down.clamp(min=0))
    return outside + torch.maximum(right, down).clamp(max=0) - round_by


def line(u: Tensor, v: Tensor, x: float, y: float, to_x: float, to_y: float, radius: float) -> Tensor:
    """One with round ends, a capsule."""
    along_x, along_y = to_x - x, to_y - y
    share = ((u - x) * along_x + (v - y) * along_y) / (along_x**2 + along_y**2)
    share = share.clamp(0, 1)
    return torch.hypot(u - x - share * along_x, v - y - share * along_y) - radius


def polygon(u: Tensor, v: Tensor, *corners: tuple[float, float]) -> Tensor:
    """A convex one, its corners clockwise as seen."""
    edges = []
    for (x, y), (to_x, to_y) in zip(corners, (*corners[1:], corners[0]), strict=True):
        length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
        edges.append(((u - x) * (to_y - y) - (v - y) * (to_x - x)) / length)
    return reduce(torch.maximum, edges)


def joined(*distances: Tensor) -> Tensor:
    return reduce(torch.minimum, distances)


def cat(u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield joined(line(u, v, 0.4, 0.85, 0.8, 0.65, 0.09), line(u, v, 0.8, 0.65, 0.78, 0.15, 0.09)), "shade"
    yield ellipse(u, v, 0, 0.5, 0.46, 0.5), "main"
    yield ellipse(u, v, 0, 0.6, 0.22, 0.32), "light"
    yield joined(ellipse(u, v, -0.2, 0.92, 0.17, 0.1), ellipse(u, v, 0.2, 0.92, 0.17, 0.1)), "shade"
    for side in (-1, 1):
        ear = ((-0.48, -0.36), (-0.46, -0.98), (-0.04, -0.66))
        inner = ((-0.4, -0.5), (-0.4, -0.82), (-0.18, -0.64))
        yield polygon(side * u, v, *ear), "main"
        yield polygon(side * u, v, *inner), "pink"
    yield ellipse(u, v, 0, -0.3, 0.5, 0.42), "main"
    for side in (-1, 1):
        yield ellipse(u, v, side * 0.21, -0.36, 0.12, 0.13), "white"
        yield ellipse(u, v, side * 0.2, -0.35, 0.06, 0.11), "black"
    yield polygon(u, v, (-0.09, -0.2), (0.09, -0.2), (0, -0.09)), "pink"


def dog(u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield line(u, v, 0.4, 0.75, 0.85, 0.25, 0.1), "main"
    yield box(u, v, 0, 0.55, 0.42, 0.42, 0.3), "main"
    yield joined(box(u, v, -0.24, 0.88, 0.15, 0.12, 0.1), box(u, v, 0.24, 0.88, 0.15, 0.12, 0.1)), "light"
    yield box(u, v, 0, -0.35, 0.45, 0.45, 0.3), "main"
    for side in (-1, 1):
        yield line(side * u, v, 0.5, -0.6, 0.62, -0.1, 0.16), "shade"
    yield ellipse(u, v, 0, -0.1, 0.3, 0.24), "light"
    yield ellipse(u, v, 0, 0.08, 0.09, 0.13), "tongue"
    yield ellipse(u, v, 0, -0.2, 0.14, 0.1), "black"
    for side in (-1, 1):
        yield ellipse(u, v, side * 0.21, -0.48, 0.09, 0.1), "black"


def house(u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield box(u, v, 0.42, -0.6, 0.1, 0.25), "grey"
    yield box(u, v, 0, 0.4, 0.66, 0.55), "main"
    yield polygon(u, v, (-0.9, -0.1), (0, -0.9), (0.9, -0.1)), "shade"
    yield box(u, v, 0, 0.62, 0.17, 0.33), "brown"
    for side in (-1, 1):
        yield box(u, v, side * 0.42, 0.3, 0.15, 0.16), "lamp"


def tree(u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield box(u, v, 0, 0.6, 0.12, 0.4), "brown"
    crown = (ellipse(u, v, x, y, 0.42, 0.42) for x, y in ((-0.35, -0.05), (0.35, -0.05), (0, -0.5)))
    yield joined(*crown), "main"
    yield joined(ellipse(u, v, 0.3, 0.05, 0.2, 0.2), ellipse(u, v, -0.1, -0.3, 0.2, 0.2)), "shade"


def car(u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield polygon(u, v, (-0.62, 0.1), (-0.4, -0.42), (0.3, -0.42), (0.62, 0.1)), "main"
    yield joined(
        polygon(u, v, (-0.47, 0.05), (-0.32, -0.3), (-0.06, -0.3), (-0.06, 0.05)),
        polygon(u, v, (0.06, 0.05), (0.06, -0.3), (0.24, -0.3), (0.46, 0.05)),
    ), "glass"
    yield box(u, v, 0, 0.28, 0.95, 0.24, 0.15), "main"
    yield ellipse(u, v, 0.88, 0.22, 0.09, 0.09), "lamp"
    for side in (-1, 1):
        yield ellipse(u, v, side * 0.52, 0.52, 0.25, 0.25), "black"
        yield ellipse(u, v, side * 0.52, 0.52, 0.11, 0.11), "grey"


def boat(u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield box(u, v, 0, -0.15, 0.05, 0.75), "brown"
    yield polygon(u, v, (0.1, 0.3), (0.1, -0.85), (0.75, 0.3)), "white"
    yield polygon(u, v, (-0.1, 0.3), (-0.6, 0.3), (-0.1, -0.6)), "light"
    yield polygon(u, v, (-0.95, 0.4), (0.95, 0.4), (0.6, 0.9), (-0.6, 0.9)), "main"
    yield box(u, v, 0, 0.45, 0.9, 0.06), "shade"


def fish(u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield polygon(u, v, (0.4, 0), (0.98, -0.5), (0.98, 0.5)), "shade"
    yield polygon(u, v, (-0.3, -0.3), (0.1, -0.75), (0.3, -0.2)), "shade"
    yield ellipse(u, v, -0.15, 0, 0.75, 0.46), "main"
    yield ellipse(u, v, -0.15, 0.2, 0.5, 0.2), "light"
    yield polygon(u, v, (-0.1, 0.05), (0.3, -0.08), (0.22, 0.3)), "shade"
    yield ellipse(u, v, -0.55, -0.1, 0.14, 0.14), "white"
    yield ellipse(u, v, -0.57, -0.1, 0.07, 0.07), "black"


def daisy(u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield line(u, v, 0, -0.2, 0, 0.95, 0.07), "leaf"
    yield joined(ellipse(u, v, 0.25, 0.55, 0.25, 0.1), ellipse(u, v, -0.25, 0.7, 0.25, 0.1)), "leaf"
    around = torch.arange(6) * (torch.pi / 3)
    petals = (ellipse(u, v, 0.36 * float(a.cos()), -0.35 + 0.36 * float(a.sin()), 0.28, 0.28) for a in around)
    yield joined(*petals), "main"
    yield ellipse(u, v, 0, -0.35, 0.23, 0.23), "lamp"


def robot(u: Tensor, v: Tensor) -> Iterator[Layer]:
    yield line(u, v, 0, -0.9, 0, -0.6, 0.04), "grey"
    yield ellipse(u, v, 0, -0.9, 0.1, 0.1), "tongue"
    for side in (-1, 1):
        yield line(side * u, v, 0.45, 0.15, 0.78, 0.5, 0.09), "grey"
        yield box(u, v, side * 0.24, 0.85, 0.14, 0.15), "grey"
    yield box(u, v, 0, 0.32, 0.48, 0.42, 0.05), "main"
    yield box(u, v, 0, 0.3, 0.28, 0.2), "shade"
    yield joined(ellipse(u, v, -0.12, 0.3, 0.08, 0.08), ellipse(u, v, 0.12, 0.3, 0.08, 0.08)), "lamp"
    yield box(u, v, 0, -0.38, 0.46, 0.28, 0.05), "main"
    for side in (-1, 1):
        yield box(u, v, side * 0.2, -0.43, 0.11, 0.1), "glass"
    yield box(u, v, 0, -0.2, 0.24, 0.05), "black"


THINGS: dict[str, Thing] = {
    "cat": cat, "dog": dog, "house": house, "tree": tree, "car": car, "boat": boat, "fish": fish, "daisy": daisy,
}  # fmt: skip
UNKNOWN_THINGS: dict[str, Thing] = {"robot": robot}
"""What the model is not shown: LoRAs are for it."""
