"""The routes of the panel: what its sections ask when they are opened and used. They are there where the page is, and
behind its login.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI

from lbw.request.preview import Backend
from lbw.request.refusals import Route, page_login, require_json
from lbw.tags.saving import version_of
from lbw.ui import make_weights
from lbw.ui.elemental import hits_html, rule_sets_in
from lbw.ui.own_default import own_html, save_own
from lbw.ui.presets_text import presets_in
from lbw.ui.route_models import (
    AddAnswer,
    AddQuestion,
    File,
    FileAnswer,
    FileQuestion,
    HitsQuestion,
    Html,
    NetworksAnswer,
    NetworksQuestion,
    OwnQuestion,
    ScheduleQuestion,
    Step,
    StrengthsQuestion,
    Texts,
)
from lbw.ui.schedule import schedule_html
from lbw.ui.strengths import strengths_html
from lbw.ui.text_file import ANY

PATH = "/internal/lbw/panel"


def add(app: FastAPI, presets_file: Path, rule_sets_file: Path, backend: Backend) -> None:
    """Add the routes to the host's application."""
    files = {File.PRESETS: presets_in(presets_file), File.ELEMENTS: rule_sets_in(rule_sets_file)}

    def file(asked: FileQuestion) -> FileAnswer:
        content = files[asked.file]
        if asked.step is Step.RELOAD:
            shown = content.reload()
        elif asked.step is Step.SAVE:
            shown = content.save(asked.text, asked.loaded)
        else:
            shown = content.check(asked.text, asked.loaded)
        return FileAnswer(html=shown.html, loaded=shown.loaded, text=shown.text, is_changed=shown.loaded == ANY)

    def add_made(asked: AddQuestion) -> AddAnswer:
        try:
            text = make_weights.with_made(asked.text, asked.weights, asked.name)
        except ValueError as error:
            return AddAnswer(text=None, said=f"Not added: {error}.")
        return AddAnswer(text=text, said=f"{asked.name.strip()} added to the presets.")

    def hits(asked: HitsQuestion) -> Html:
        return Html(html=hits_html(asked.text, list(backend.layer_names())))

    def own(asked: OwnQuestion) -> Html:
        if asked.weights is None:
            return Html(html=own_html(asked.name, asked.in_tag, backend))
        return Html(html=save_own(asked.name, asked.weights, asked.in_tag, backend))

    def networks(asked: NetworksQuestion) -> NetworksAnswer:
        return NetworksAnswer(names=backend.network_names(renewed=asked.renewed))

    def strengths(asked: StrengthsQuestion) -> Html:
        return Html(html=strengths_html(asked.name, asked.theme, backend.strengths))

    def schedule(asked: ScheduleQuestion) -> Html:
        return Html(html=schedule_html(
            asked.asked, asked.presets, asked.elements, asked.default_preset, backend=backend
        ))

    def texts() -> Texts:
        presets, elements = (content.read() for content in files.values())
        return Texts(presets=presets, elements=elements, elements_version=version_of(elements))

    login = page_login(app)
    questions: dict[str, tuple[Callable[..., Any], Any]] = {
        "file": (file, FileAnswer), "add": (add_made, AddAnswer), "hits": (hits, Html), "own": (own, Html),
        "networks": (networks, NetworksAnswer), "strengths": (strengths, Html), "schedule": (schedule, Html),
    }  # fmt: skip
    for name, (endpoint, answer) in questions.items():
        app.router.add_api_route(
            f"{PATH}/{name}", endpoint, methods=["POST"], response_model=answer,
            dependencies=[*login, Depends(require_json)],
            include_in_schema=False, route_class_override=Route,
        )  # fmt: skip
    # Questions without anything to say, so without JSON.
    for name, endpoint in (("families", make_weights.families), ("texts", texts)):
        app.router.add_api_route(
            f"{PATH}/{name}", endpoint, methods=["GET"], dependencies=login, include_in_schema=False,
            route_class_override=Route,
        )  # fmt: skip
