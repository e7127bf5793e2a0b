"""The section Live: what it asks of the server and when, what it shows, and what it writes into the prompt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.actions import PAGE_LIMIT_MS, open_page, open_tab
from tests.browser.gradios import on_one_gradio
from tests.browser.jobs import Job, begin, end, put_in_place
from tests.browser.panel import Panel
from tests.server import Server

pytestmark = pytest.mark.usefixtures("preset_files", "version")

BETWEEN_QUESTIONS_MS = 500


@pytest.fixture
def serve(page: Page) -> Callable[[Job], Job]:
    """Have a job in the place of the server's."""

    def serve(job: Job) -> Job:
        put_in_place(page, job)
        return job

    return serve


def live(panel: Panel, inside: str = "") -> Locator:
    return panel.find("lbw_live_loras", f".lbw-live {inside}".strip())


def slider(panel: Panel, name: str) -> Locator:
    return panel.find("lbw_live_loras").get_by_label(f"Strength of {name}", exact=True)


def number(panel: Panel, name: str) -> Locator:
    return panel.find("lbw_live_loras").get_by_label(f"Strength of {name} as a number")


def play(panel: Panel, job: Job, value: str = "0.4") -> None:
    """Move the first LoRA, and wait until it is in force."""
    name = job.state["loras"][0]["name"]
    number(panel, name).fill(value)
    number(panel, name).press("Enter")
    expect(live(panel, ".lbw-live-now")).to_have_text(f"{value} from the next step on")
    wait_for_moves(panel, job)
    job.advance()
    expect(live(panel, ".lbw-live-now")).to_have_text(f"now {value}")


def wait_for_moves(panel: Panel, job: Job) -> None:
    """Wait until the server has got what was wanted."""
    while not job.moves:
        panel.page.wait_for_timeout(50)


def test_the_running_pass_and_the_strengths_are_shown(panel: Panel, serve: Callable[[Job], Job]):
    panel.open("lbw_live")
    expect(live(panel)).to_contain_text("While an image is made, each of its LoRAs has a slider here.")
    job = serve(Job("<lora:one:1>", "<lora:two:0.5>", strength=0.8))
    begin(panel.page)
    expect(live(panel)).to_contain_text("First pass, step 1 of 20")
    expect(live(panel, "b")).to_have_text("one")
    expect(slider(panel, "two")).to_have_value("0.8")
    expect(number(panel, "two")).to_have_value("0.8")
    job.state |= {"pass_title": "hires", "step": 1, "steps": 4, "batch": 1, "batches": 3}
    job.state["loras"][0] |= {"course": [1, 0], "strength": 0.83}
    job.state["loras"][1] |= {"in_prompt": False}
    expect(live(panel)).to_contain_text("Hires pass, step 2 of 4, batch 2 of 3")
    expect(live(panel)).to_contain_text("now 0.83")
    expect(live(panel)).to_contain_text("off by the prompt")
    expect(number(panel, "one")).to_have_value("0.83")
    # Two of four steps: 1 over the first quarter, 0 over the second.
    expect(live(panel, "polyline").first).to_have_attribute("points", "0,3 50,3 50,33 100,33")


@on_one_gradio
def test_the_slider_is_dragged_and_the_last_value_counts(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job("<lora:one:1>"))
    panel.open("lbw_live")
    begin(panel.page)
    expect(slider(panel, "one")).to_be_enabled()
    slider(panel, "one").scroll_into_view_if_needed()
    box = slider(panel, "one").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    panel.page.mouse.move(box["x"] + box["width"] * 2 / 3, middle)
    panel.page.mouse.down()
    for share in range(60, 20, -1):
        panel.page.mouse.move(box["x"] + box["width"] * share / 100, middle)
    value = float(slider(panel, "one").input_value())
    assert value < 0
    expect(live(panel)).to_contain_text(f"{value:g} from the next step on")
    panel.page.wait_for_timeout(2 * BETWEEN_QUESTIONS_MS)  # what is held stays where it is, whatever the server says
    assert float(slider(panel, "one").input_value()) == value
    panel.page.mouse.up()
    assert job.moves[-1] == [{"index": 0, "strength": value}]
    job.advance()
    expect(live(panel)).to_contain_text(f"now {value:g}")


@on_one_gradio
def test_of_values_in_a_row_the_last_is_sent(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job("<lora:one:1>", "<lora:two:1>"))
    panel.open("lbw_live")
    begin(panel.page)
    expect(slider(panel, "one")).to_be_enabled()
    live(panel).evaluate(
        """live => {
            const sliders = live.querySelectorAll("input[type=range]");
            for (let count = 0; count < 20; count++) {
                for (const slider of sliders) {
                    slider.value = count / 20;
                    slider.dispatchEvent(new Event("input"));
                }
            }
        }"""
    )
    panel.page.wait_for_timeout(2 * BETWEEN_QUESTIONS_MS)
    assert len(job.moves) == 2
    assert {move["index"]: move["strength"] for move in job.moves[-1]} == {0: 0.95, 1: 0.95}


@on_one_gradio
def test_the_keyboard_moves_it_in_small_steps(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job("<lora:one:1>", "<lora:two:1>"))
    panel.open("lbw_live")
    begin(panel.page)
    slider(panel, "two").focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowLeft"):
        panel.page.keyboard.press(key)
    expect(number(panel, "two")).to_have_value("0.9")
    panel.page.wait_for_timeout(BETWEEN_QUESTIONS_MS)
    assert job.moves[-1] == [{"index": 1, "strength": 0.9}]
    assert {move["index"] for moves in job.moves for move in moves} == {1}
    expect(slider(panel, "two")).to_be_focused()


@on_one_gradio
def test_a_number_beyond_the_slider_widens_it(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job("<lora:one:3.5>", strength=3.5))
    panel.open("lbw_live")
    begin(panel.page)
    expect(slider(panel, "one")).to_have_value("3.5")
    assert [slider(panel, "one").get_attribute(name) for name in ("min", "max")] == ["-1", "4"]
    play(panel, job, "-2.7")
    assert job.moves == [[{"index": 0, "strength": -2.7}]]
    expect(slider(panel, "one")).to_have_value("-2.7")
    assert slider(panel, "one").get_attribute("min") == "-3"


@on_one_gradio
def test_nothing_is_asked_without_a_job_or_while_nobody_looks(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job("<lora:one:1>"))
    panel.open("lbw_live")
    panel.page.wait_for_timeout(2 * BETWEEN_QUESTIONS_MS)
    assert job.asked == []
    begin(panel.page)
    expect(live(panel)).to_contain_text("First pass")
    title = panel.find("lbw_live", "> .label-wrap")

    def is_quiet() -> bool:
        panel.page.wait_for_timeout(100)
        before = len(job.asked)
        panel.page.wait_for_timeout(3 * BETWEEN_QUESTIONS_MS)
        return len(job.asked) == before

    def wait_for_questions() -> None:
        before = len(job.asked)
        for _ in range(PAGE_LIMIT_MS // 50):
            panel.page.wait_for_timeout(50)
            if len(job.asked) >= before + 2:
                return
        pytest.fail("nothing is asked")

    wait_for_questions()
    title.click()
    assert is_quiet()
    title.click()
    live(panel).scroll_into_view_if_needed()
    wait_for_questions()
    hide = """hidden => {
        Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    panel.page.evaluate(hide, True)
    assert is_quiet()
    panel.page.evaluate(hide, False)
    wait_for_questions()
    job.state["running"] = False
    end(panel.page)
    expect(live(panel)).to_contain_text("The generation is over.")
    assert is_quiet()
    assert set(job.asked) == {"task(1)"}


def test_what_was_played_is_written_into_its_tag(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job("<lora:one:1>", "<lora:one:1>"))
    panel.write("a <lora:one:1> cat <lora:one:1> here", caret=3)
    panel.open("lbw_live")
    begin(panel.page)
    expect(slider(panel, "one").first).to_be_enabled()
    expect(panel.button("lbw_live_loras", "Write into the tag")).to_have_count(0)
    slider(panel, "one").nth(1).focus()
    panel.page.keyboard.press("ArrowLeft")
    wait_for_moves(panel, job)
    job.advance()
    button = panel.button("lbw_live_loras", "Write into the tag")
    button.click()
    expect(panel.prompt).to_have_value("a <lora:one:1> cat <lora:one:played> here")
    expect(live(panel)).to_contain_text("Written into the prompt.")
    # It is played on, and the other one, too.
    job.state["loras"][0] |= {"played": True, "played_tag": "<lora:one:first>"}
    job.state["loras"][1] |= {"played_tag": "<lora:one:further>"}
    job.state["running"] = False
    end(panel.page)
    expect(slider(panel, "one").first).to_be_disabled()
    expect(button).to_have_count(2)
    button.nth(1).click()
    button.nth(0).click()
    expect(panel.prompt).to_have_value("a <lora:one:first> cat <lora:one:further> here")
    panel.prompt.focus()
    for _ in range(3):
        panel.page.keyboard.press("Control+z")
    expect(panel.prompt).to_have_value("a <lora:one:1> cat <lora:one:1> here")


@on_one_gradio
def test_a_tag_that_is_gone_from_the_prompt_is_offered_to_copy(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job("<lora:one:1>"))
    panel.write("a cat <lora:one:0.9>")
    panel.open("lbw_live")
    begin(panel.page)
    play(panel, job)
    panel.button("lbw_live_loras", "Write into the tag").click()
    expect(live(panel)).to_contain_text("Its tag is not in the prompt any more; this is what was played:")
    expect(panel.prompt).to_have_value("a cat <lora:one:0.9>")
    expect(panel.find("lbw_live_loras").get_by_label("The tag as it was played")).to_have_value("<lora:one:played>")
    panel.button("lbw_live_loras", "Copy").click()
    expect(live(panel)).to_contain_text("Copied.")
    panel.prompt.fill("")
    panel.prompt.press("Control+v")
    expect(panel.prompt).to_have_value("<lora:one:played>")


@on_one_gradio
def test_each_page_of_a_browser_shows_its_own_job(panel: Panel, serve: Callable[[Job], Job], server: Server):
    """They share what the browser keeps, so that the id of the later job is there for both."""
    job = serve(Job("<lora:one:1>"))
    panel.open("lbw_live")
    begin(panel.page)
    other = Panel(panel.page.context.new_page())
    open_page(other.page, server)
    others = Job("<lora:two:1>")
    put_in_place(other.page, others)
    other.open("lbw_live")
    other.page.wait_for_timeout(2 * BETWEEN_QUESTIONS_MS)
    assert others.asked == []
    begin(other.page, "task(2)")
    expect(live(other)).to_contain_text("two")
    end(other.page)
    panel.page.bring_to_front()
    job.asked.clear()
    panel.page.wait_for_timeout(2 * BETWEEN_QUESTIONS_MS)
    assert set(job.asked) == {"task(1)"}
    assert set(others.asked) == {"task(2)"}


@on_one_gradio
def test_a_job_that_began_while_the_section_was_closed_is_shown(panel: Panel, serve: Callable[[Job], Job]):
    serve(Job("<lora:one:1>")).state["running"] = False
    begin(panel.page)
    end(panel.page)
    panel.open("lbw_live")
    expect(live(panel)).to_contain_text("The generation is over.")
    expect(slider(panel, "one")).to_be_disabled()


def test_img2img_has_its_own(panel: Panel, serve: Callable[[Job], Job]):
    serve(Job("<lora:one:1>"))
    open_tab(panel.page, "img2img")
    other = Panel(panel.page, "img2img").open("lbw_live")
    begin(panel.page, tab="img2img")
    expect(live(other)).to_contain_text("First pass, step 1 of 20")
    open_tab(panel.page, "txt2img")
    panel.open("lbw_live")
    expect(live(panel)).to_contain_text("While an image is made")


@on_one_gradio
def test_while_others_are_served_first_nothing_is_asked(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job("<lora:one:1>"))
    job.is_active = False
    panel.open("lbw_live")
    begin(panel.page)
    expect(live(panel)).to_contain_text("Waiting for the first step.")
    panel.page.wait_for_timeout(2 * BETWEEN_QUESTIONS_MS)
    assert job.asked == []
    job.is_active = True
    expect(live(panel)).to_contain_text("First pass, step 1 of 20")


@on_one_gradio
def test_the_sliders_of_one_image_do_not_move_the_next(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job("<lora:one:1>"))
    panel.open("lbw_live")
    begin(panel.page)
    expect(slider(panel, "one")).to_be_enabled()
    panel.find("lbw_live", "> .label-wrap").click()
    end(panel.page)
    job.is_active = False
    begin(panel.page, "task(2)")
    panel.open("lbw_live")
    expect(live(panel)).to_contain_text("Waiting for the first step.")
    expect(slider(panel, "one")).to_be_disabled()


def test_where_nothing_can_be_moved_it_says_so(panel: Panel, serve: Callable[[Job], Job]):
    job = serve(Job())
    panel.open("lbw_live")
    begin(panel.page)
    expect(live(panel)).to_have_text("This image has no LoRA.")
    end(panel.page)
    panel.page.locator(panel.id("lbw_active-visible-checkbox")).click()
    job.asked.clear()
    begin(panel.page)
    expect(live(panel)).to_have_text("The extension is switched off for this image.")
    panel.page.wait_for_timeout(2 * BETWEEN_QUESTIONS_MS)
    assert job.asked == []


@pytest.fixture
def strange(blank: Page, server: Server) -> Panel:
    """A panel on a page that may complain: a browser notes each answer that is an error."""
    open_page(blank, server)
    return Panel(blank).open("lbw_live")


@on_one_gradio
@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((404, "Not Found"), "The server has nothing to move LoRAs with; restart it if the extension was updated."),
        ((404, "no such job"), "The server knows of no LoRA that can be moved in this image."),
        ((500, "broken"), "The server answered 500: broken"),
        ((401, "Not authenticated"), "The server answered 401: Not authenticated"),
    ],
)
def test_a_server_that_refuses_is_told_in_one_line(strange: Panel, refusal: tuple[int, str], said: str):
    job = Job("<lora:one:1>")
    job.refusal = refusal
    put_in_place(strange.page, job)
    begin(strange.page)
    expect(live(strange)).to_contain_text(said)


@on_one_gradio
def test_a_move_that_is_refused_is_told(strange: Panel):
    job = Job("<lora:one:1>")
    put_in_place(strange.page, job)
    begin(strange.page)
    expect(slider(strange, "one")).to_be_enabled()
    strange.page.route(
        "**/internal/lbw/live",
        lambda route: route.fulfill(status=422, json={"detail": [{"msg": "strength: expected at most 1000000"}]}),
    )
    number(strange, "one").fill("1e9")
    number(strange, "one").press("Enter")
    expect(live(strange)).to_contain_text("The server answered 422: strength: expected at most 1000000")
    expect(live(strange)).to_contain_text("now 1")
    expect(number(strange, "one")).to_have_value("1")


@on_one_gradio
def test_a_server_that_is_gone_is_told(strange: Panel):
    job = Job("<lora:one:1>")
    put_in_place(strange.page, job)
    begin(strange.page)
    expect(live(strange)).to_contain_text("First pass")
    strange.page.unroute("**/internal/lbw/live*")
    strange.page.route("**/internal/lbw/live*", lambda route: route.abort())
    expect(live(strange)).to_contain_text("The server does not answer.")
    end(strange.page)
    expect(slider(strange, "one")).to_be_disabled()
