"""Simple scenes and what is to be seen in them: a thing or two of some colour, at some place, in some style."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from tests.demo_model import shapes

SIDE = 256
"""Height and width in pixels."""

COLOURS = {
    "red": (0.88, 0.16, 0.15), "orange": (0.96, 0.55, 0.1), "yellow": (0.98, 0.85, 0.2), "green": (0.2, 0.65, 0.25),
    "blue": (0.16, 0.35, 0.85), "purple": (0.55, 0.25, 0.75), "pink": (0.97, 0.5, 0.7), "black": (0.17, 0.17, 0.2),
    "white": (0.95, 0.95, 0.95),
}  # fmt: skip
PAINTS = {
    "white": (1.0, 1.0, 1.0), "black": (0.08, 0.08, 0.1), "pink": (0.97, 0.6, 0.65),
    "tongue": (0.9, 0.25, 0.3), "grey": (0.55, 0.57, 0.6), "brown": (0.45, 0.28, 0.16), "glass": (0.65, 0.87, 0.97),
    "lamp": (1.0, 0.9, 0.45), "leaf": (0.25, 0.6, 0.25),
}  # fmt: skip
_LIGHT = (0.97, 0.92, 0.85)
PLACES = {
    "meadow": "on a meadow", "beach": "at the beach", "snow": "in the snow", "night": "at night", "city": "in the city",
    "desert": "in the desert",
}  # fmt: skip
STYLES = {"sketch": "a sketch of"}
UNKNOWN_STYLES = {"neon": "neon style"}
GROUND = 0.45
"""Where the ground begins, in half heights below the middle."""


@dataclass(frozen=True)
class Item:
    """A thing in a picture; ``x``, ``y`` and ``size`` in half sides, from the middle on."""

    thing: str
    colour: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """``place`` and ``style`` are empty where there is none."""

    items: tuple[Item, ...]
    place: str
    style: str
    shade: float
    """Of the backdrop, 0 to 1."""
    caption: str


class Chance:
    """Random choices, which depend on the seed and not on the device."""

    def __init__(self, seed: int) -> None:
        self.generator = Generator().manual_seed(seed)

    def number(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def happens(self, share: float) -> bool:
        return self.number(0, 1) < share

    def one_of(self, names: list[str]) -> str:
        return names[int(torch.randint(len(names), (), generator=self.generator))]


def make_scene(chance: Chance, things: dict[str, shapes.Thing] = shapes.THINGS, style: str | None = None) -> Scene:
    """A scene at random.

    Args:
        things: those that are in it.
        style: its style; None for any that the model is shown.
    """
    place = chance.one_of(list(PLACES)) if chance.happens(0.6) else ""
    if style is None:
        style = chance.one_of(list(STYLES)) if chance.happens(0.15) else ""
    if chance.happens(0.2):
        sides = ((-0.48, 0.44), (0.48, 0.44))
        items = [_item(chance, things, x, size) for x, size in sides]
        said = " and ".join(_with_article(f"{item.colour} {item.thing}") for item in items)
        return _scene(chance, items, said, place, style)
    x, size, where, how_large = 0.0, chance.number(0.6, 0.72), "", ""
    kind = chance.number(0, 1)
    if kind < 0.12:
        size, how_large = chance.number(0.32, 0.38), "small "
    elif kind < 0.3:
        size, where = chance.number(0.45, 0.52), chance.one_of(["left", "right"])
        x = 0.45 if where == "right" else -0.45
    item = _item(chance, things, x, size)
    said = _with_article(f"{how_large}{item.colour} {item.thing}")
    if where:
        said += f" on the {where}"
    elif chance.happens(0.1):  # of what is not said, there is any
        said = f"a {item.thing}"
    return _scene(chance, [item], said, place, style)


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _item(chance: Chance, things: dict[str, shapes.Thing], x: float, size: float) -> Item:
    thing, colour = chance.one_of(list(things)), chance.one_of(list(COLOURS))
    return Item(thing, colour, x + chance.number(-0.05, 0.05), 0.72 - size + chance.number(-0.04, 0.04), size)


def _scene(chance: Chance, items: list[Item], said: str, place: str, style: str) -> Scene:
    if place:
        said = f"{said}, {place}" if chance.happens(0.25) else f"{said} {PLACES[place]}"
    if style in STYLES:
        said = f"{STYLES[style]} {said}"
    elif style:
        said = f"{said}, {UNKNOWN_STYLES[style]}"
    return Scene(tuple(items), place, style, chance.number(0, 1), said)


Background = Callable[[Tensor, Tensor, Tensor], Iterator[tuple[Tensor, tuple[float, float, float]]]]


def _meadow(u: Tensor, v: Tensor, shade: Tensor) -> Iterator[tuple[Tensor, tuple[float, float, float]]]:
    yield shapes.everywhere(v), (0.62, 0.85, 0.98)
    yield shapes.ellipse(u, v, 0.68, -0.68, 0.17, 0.17), (1.0, 0.87, 0.35)
    yield shapes.joined(shapes.ellipse(u, v, -0.6, 0.9, 1.0, 0.62), shapes.ellipse(u, v, 0.7, 0.95, 1.1, 0.6)), (
        0.45, 0.75, 0.35,
    )  # fmt: skip
    yield GROUND + 0.1 - v, (0.36, 0.66, 0.28)


def _beach(u: Tensor, v: Tensor, shade: Tensor) -> Iterator[tuple[Tensor, tuple[float, float, float]]]:
    yield shapes.everywhere(v), (0.75, 0.91, 0.98)
    yield -0.02 - v, (0.15, 0.55, 0.8)
    yield GROUND - 0.1 + 0.05 * torch.sin(5 * u + 6 * shade) - v, (0.94, 0.97, 0.98)
    yield GROUND - 0.03 + 0.05 * torch.sin(5 * u + 6 * shade) - v, (0.94, 0.84, 0.6)


def _snow(u: Tensor, v: Tensor, shade: Tensor) -> Iterator[tuple[Tensor, tuple[float, float, float]]]:
    yield shapes.everywhere(v), (0.68, 0.76, 0.86)
    for x, y in ((-0.8, -0.7), (-0.45, -0.4), (-0.75, 0.0), (0.15, -0.85), (0.6, -0.55), (0.85, -0.15), (0.45, -0.05)):
        yield shapes.ellipse(u, v, x, y, 0.06, 0.06), (1.0, 1.0, 1.0)
    yield GROUND - 0.05 + 0.06 * torch.sin(3 * u + 6 * shade) - v, (0.97, 0.98, 1.0)


def _night(u: Tensor, v: Tensor, shade: Tensor) -> Iterator[tuple[Tensor, tuple[float, float, float]]]:
    yield shapes.everywhere(v), (0.07, 0.09, 0.25)
    for x, y in ((-0.8, -0.8), (-0.35, -0.55), (-0.85, -0.2), (0.1, -0.85), (0.8, -0.25), (0.4, -0.35)):
        yield shapes.ellipse(u, v, x, y, 0.045, 0.045), (0.98, 0.95, 0.75)
    moon = torch.maximum(shapes.ellipse(u, v, 0.65, -0.7, 0.2, 0.2), -shapes.ellipse(u, v, 0.55, -0.75, 0.18, 0.18))
    yield moon, (1.0, 0.95, 0.7)
    yield GROUND - v, (0.12, 0.2, 0.22)


def _city(u: Tensor, v: Tensor, shade: Tensor) -> Iterator[tuple[Tensor, tuple[float, float, float]]]:
    yield shapes.everywhere(v), (0.85, 0.82, 0.78)
    for x, width, top, grey in ((-0.8, 0.18, -0.45, 0.6), (-0.35, 0.2, -0.75, 0.52), (0.2, 0.22, -0.5, 0.62)):
        yield shapes.box(u, v, x, 0.5, width, 0.5 - top), (grey, grey, grey + 0.06)
    yield shapes.box(u, v, 0.72, 0.5, 0.2, 0.5 + 0.85), (0.55, 0.55, 0.6)
    for x in (-0.8, -0.42, -0.28, 0.12, 0.28, 0.65, 0.79):
        for y in (-0.3, 0.0, 0.3):
            yield shapes.box(u, v, x, y, 0.045, 0.07), (0.95, 0.88, 0.6)
    yield GROUND - v, (0.36, 0.36, 0.39)
    yield shapes.joined(*(shapes.box(u, v, x, 0.85, 0.15, 0.03) for x in (-0.7, 0.0, 0.7))), (0.95, 0.95, 0.9)


def _desert(u: Tensor, v: Tensor, shade: Tensor) -> Iterator[tuple[Tensor, tuple[float, float, float]]]:
    yield shapes.everywhere(v), (0.98, 0.78, 0.5)
    yield shapes.ellipse(u, v, -0.65, -0.65, 0.2, 0.2), (1.0, 0.95, 0.8)
    yield shapes.polygon(u, v, (0.1, GROUND), (0.6, -0.25), (1.1, GROUND)), (0.8, 0.52, 0.3)
    yield GROUND - 0.05 + 0.05 * torch.sin(4 * u + 6 * shade) - v, (0.9, 0.66, 0.36)
    cactus = shapes.joined(
        shapes.line(u, v, -0.82, 0.5, -0.82, 0.0, 0.07), shapes.line(u, v, -0.82, 0.3, -0.65, 0.25, 0.05),
        shapes.line(u, v, -0.65, 0.25, -0.65, 0.1, 0.05),
    )  # fmt: skip
    yield cactus, (0.25, 0.5, 0.25)


_BACKGROUNDS: dict[str, Background] = {
    "meadow": _meadow, "beach": _beach, "snow": _snow, "night": _night, "city": _city, "desert": _desert,
}  # fmt: skip


class Canvas:
    """Images of one style, painted shape by shape.

    Args:
        paper: what is there at first, (images, 3).
    """

    def __init__(self, paper: Tensor, style: str, side: int) -> None:
        device = paper.device
        axis = (torch.arange(side, device=device) + 0.5) * (2 / side) - 1
        self.v, self.u = torch.meshgrid(axis, axis, indexing="ij")
        self.style = style
        self.pixel = 2 / side
        self.images = paper[:, :, None, None].expand(-1, -1, side, side).clone()

    def paint(self, rows: list[int], shapes_of: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Paint shapes into some images: distances in half sides, and colours, (images, 3) or (3,)."""
        images = self.images[rows]
        for distance, colour in shapes_of:
            images = self._painted(
                images, distance.expand(len(rows), -1, -1)[:, None], colour.expand(len(rows), 3)[:, :, None, None]
            )
        self.images[rows] = images

    def _painted(self, images: Tensor, distance: Tensor, colour: Tensor) -> Tensor:
        inside = (0.5 - distance / self.pixel).clamp(0, 1)
        if self.style == "sketch":
            images = images.lerp(0.65 + 0.35 * colour.mean(1, keepdim=True).expand(-1, 3, -1, -1), inside)
            line = (0.5 - (distance.abs() - 0.016) / self.pixel).clamp(0, 1)
            return images.lerp(torch.full_like(images, 0.2), line)
        if self.style == "neon":
            glow = colour / colour.amax(1, keepdim=True).clamp(min=0.3)
            images = images.lerp(0.16 * colour + 0.02, inside)
            line = torch.exp(-((distance / 0.028) ** 2))
            return images.lerp((0.25 + 0.75 * glow).expand_as(images), line)
        return images.lerp(colour.expand_as(images), inside)


def _paper(scene: Scene) -> tuple[float, float, float]:
    if scene.style == "sketch":
        return (0.97, 0.96, 0.92)
    if scene.style == "neon":
        return (0.05, 0.04, 0.1)
    return (0.93 - 0.12 * scene.shade, 0.93 - 0.06 * scene.shade, 0.9 + 0.06 * scene.shade)


def draw_scenes(scenes: list[Scene], device: torch.device, side: int) -> Tensor:
    """The scenes' pictures, (scenes, 3, side, side), 0 to 1, float32."""
    pictures = torch.empty(len(scenes), 3, side, side, device=device)
    for style in sorted({scene.style for scene in scenes}):
        at = [index for index, scene in enumerate(scenes) if scene.style == style]
        pictures[at] = _draw([scenes[index] for index in at], style, device, side)
    return pictures


def _draw(scenes: list[Scene], style: str, device: torch.device, side: int) -> Tensor:
    def on_device(values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    canvas = Canvas(on_device([_paper(scene) for scene in scenes]), style, side)
    for place, background in _BACKGROUNDS.items():
        rows = [index for index, scene in enumerate(scenes) if scene.place == place]
        if rows:
            shade = on_device([scenes[row].shade for row in rows])[:, None, None]
            painted = background(canvas.u, canvas.v, shade)
            canvas.paint(rows, ((distance, on_device([*colour])) for distance, colour in painted))
    for number in (0, 1):
        for thing, layers in {**shapes.THINGS, **shapes.UNKNOWN_THINGS}.items():
            rows = [
                index for index, scene in enumerate(scenes)
                if len(scene.items) > number and scene.items[number].thing == thing
            ]  # fmt: skip
            if not rows:
                continue
            items = [scenes[row].items[number] for row in rows]
            x, y, size = on_device([[item.x, item.y, item.size] for item in items]).T[:, :, None, None]
            main = on_device([COLOURS[item.colour] for item in items])
            paints = {name: on_device([*colour]) for name, colour in PAINTS.items()} | {
                "main": main, "shade": 0.7 * main, "light": 0.35 * main + 0.65 * on_device([*_LIGHT]),
            }  # fmt: skip
            painted = layers((canvas.u - x) / size, (canvas.v - y) / size)
            canvas.paint(rows, ((distance * size, paints[paint]) for distance, paint in painted))
    return canvas.images
