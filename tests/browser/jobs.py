"""A generation that is nothing but what the server tells the section Live of it."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, Route


class Job:
    """One job as the server tells of it. A move is in force in the step after the one in which it came."""

    def __init__(self, *tags: str, strength: float = 1.0):
        self.state: dict[str, Any] = {
            "running": True, "pass_title": "first", "step": 0, "steps": 20, "batch": 0, "batches": 1,
            "loras": [
                {
                    "index": index, "name": tag.split(":")[1], "tag": tag, "strength": strength, "next": None,
                    "played": False, "course": [strength], "in_prompt": True, "played_tag": None,
                }
                for index, tag in enumerate(tags)
            ],
        }  # fmt: skip
        self.asked: list[str] = []
        self.moves: list[list[dict[str, float]]] = []
        self.is_active = True
        self.refusal: tuple[int, Any] | None = None

    def answer(self, route: Route) -> None:
        sent = route.request.post_data_json if route.request.method == "POST" else None
        if sent is None:
            self.asked += parse_qs(urlsplit(route.request.url).query)["id_task"]
        if self.refusal:
            route.fulfill(status=self.refusal[0], json={"detail": self.refusal[1]})
            return
        if sent is not None:
            assert sent["id_task"] == "task(1)"
            self.moves.append(sent["moves"])
            for move in sent["moves"]:
                self.state["loras"][move["index"]]["next"] = move["strength"]
        route.fulfill(json=self.state)

    def advance(self) -> None:
        """The next step, with what was moved."""
        self.state["step"] += 1
        for lora in self.state["loras"]:
            if lora["next"] is not None:
                lora |= {"strength": lora["next"], "next": None, "played": True}
                lora["played_tag"] = f"<lora:{lora['name']}:played>"
            lora["course"].append(lora["strength"])


def put_in_place(page: Page, job: Job) -> None:
    """Have a job in the place of the server's."""
    page.route("**/internal/lbw/live*", job.answer)
    page.route("**/internal/progress", lambda route: route.fulfill(json={"active": job.is_active}))


def begin(page: Page, task: str = "task(1)", tab: str = "txt2img") -> None:
    """What the host's page does when a generation is submitted."""
    page.evaluate(
        """([tab, task]) => {
            localSet(`${tab}_task_id`, task);
            const container = gradioApp().querySelector(`#${tab}_gallery_container`);
            const bar = Object.assign(document.createElement("div"), {className: "progressDiv"});
            container.parentNode.insertBefore(bar, container);
        }""",
        [tab, task],
    )


def end(page: Page, tab: str = "txt2img") -> None:
    page.evaluate("document.querySelector('.progressDiv').remove()")
    page.evaluate("tab => localRemove(`${tab}_task_id`)", tab)
