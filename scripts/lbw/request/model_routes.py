"""The route by which the page learns which model is loaded: its preset menus show what presets do to this one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

from lbw.request.preview import Backend
from lbw.request.refusals import page_login
from lbw.tags.families import ENCODERS, Family, family_of_layers, label_ranges

PAGE_PATH = "/internal/lbw/model"


def family_data(family: Family) -> dict[str, Any]:
    """What the browser has to know of a family. Lists of labels are texts with ranges, because each page that is loaded
    has them."""
    encoders = family.single_encoders

    def ranges(labels: Iterable[str]) -> str:
        return " ".join(label_ranges(labels, family.order))

    def numbered(module: str) -> list[str]:
        return [label for number in range(100) for label in family.find(f"{module}.{number}")]

    return {
        "title": family.title,
        "labels": ranges(family.labels),
        "vocabulary": ranges(family.vocabulary),
        "encoders": encoders if len(encoders) > 1 else (),
        "only_encoder": encoders[0] if len(encoders) == 1 else "",
        "absent": [] if family.of_encoders != ("BASE",) else [name for name in ENCODERS if name not in encoders],
        "groups": {name: ranges(labels) for name, labels in family.groups.items()},
        "modules": {name.upper(): ranges(numbered(name)) for name in family.architecture.rows},
        "layouts": [
            {"names": ranges(layout), "fill": family.fill(length)}
            for length, layout in family.layouts.items()
            if {*family.of_encoders} | family.attended <= family.labels_in(layout) <= {*family.labels}
        ],
    }


def add(app: FastAPI, backend: Backend) -> None:
    """Add the route to the host's application, behind the page's login."""

    def model() -> dict[str, Any]:
        """The family of the loaded model; none before one is loaded."""
        layers = backend.layer_names()
        return {"family": family_data(family_of_layers(layers)) if layers else None}

    app.router.add_api_route(
        PAGE_PATH, model, methods=["GET"], dependencies=page_login(app), include_in_schema=False
    )
