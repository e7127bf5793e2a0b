"""Bakings that are nothing but what the server tells the section Bake of them."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, Route

DONE: dict[str, Any] = {
    "state": "done", "done": 310, "total": 310, "message": "", "warnings": [], "size": 22_700_000,
    "layers": {"kept": 300, "joined": 0, "cut": 0, "full": 0}, "left_out": 0, "tags": [],
    "losses": [], "lost_share": 0.0, "file": None, "may_keep": True,
}  # fmt: skip
LOSSY = DONE | {
    "layers": {"kept": 180, "joined": 12, "cut": 8, "full": 2}, "left_out": 3, "lost_share": 0.01234,
    "losses": [
        {"block": "IN01", "parts": 4, "lost_share": 0.02}, {"block": "OUT05", "parts": 3, "lost_share": 0.00012345},
        {"block": None, "parts": 1, "lost_share": 0.0},
    ],
    "warnings": [
        "<lora:one>: a file has no schedule; baked is what counts at step 0 of 20, counted from 0: strength 1 in the "
        "U-Net",
        "<lora:two>: 3 parts are for no layer of this SD1 model, first lora_unet_a; left out, as in images of this "
        "model",
    ],
}  # fmt: skip
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


class Bakings:
    """The server's jobs. A new one waits, until it is told how it is."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.orders: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.themes: list[str] = []
        self.place: dict[str, Any] = {"may_keep": True, "reason": ""}
        self.picture = _PIXEL
        self.refusal: tuple[int, Any] | None = None

    def set(self, **values: Any) -> None:
        """How the last job is now."""
        self.jobs[f"token{len(self.jobs)}"] |= values

    def answer(self, route: Route) -> None:
        address = urlsplit(route.request.url)
        what = address.path.partition("/internal/lbw/bake")[2]
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if what == "/place":
            route.fulfill(json=self.place)
        elif self.refusal:
            route.fulfill(status=self.refusal[0], json={"detail": self.refusal[1]})
        elif what == "/cancel":
            token = route.request.post_data_json["job"]
            self.cancelled.append(token)
            self.jobs[token] |= {"state": "cancelled", "message": "cancelled; nothing was written"}
            route.fulfill(json=self.jobs[token])
        elif what == "/picture.png":
            self.themes.append(query["theme"])
            route.fulfill(body=self.picture, content_type="image/png")
        elif route.request.method == "POST":
            self.orders.append(route.request.post_data_json)
            token = f"token{len(self.jobs) + 1}"
            self.jobs[token] = DONE | {"state": "waiting", "done": 0, "size": None, "layers": None}
            route.fulfill(json={"job": token})
        else:
            route.fulfill(json=self.jobs[query["job"]])


def put_in_place(page: Page) -> Bakings:
    """Have bakings in the place of the server's."""
    bakings = Bakings()
    page.route("**/internal/lbw/bake**", bakings.answer)
    return bakings
