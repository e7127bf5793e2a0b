"""A hand on the strengths while an image is made: in force from the next step on, for that generation alone, and what
was played makes the same image again."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lbw.tags.families import SD1, is_text_encoder
from tests.host.checkpoints import other_weights, switch, write_checkpoint
from tests.host.conftest import Bench
from tests.host.measure import Recording, messages, recording, replaced, status
from tests.host.test_infotext import lbw_part, paste
from tests.host.test_schedule import solver_steps, timeline

Moves = dict[int, dict[int, float]]
"""{evaluation of the generation, from 0 on, behind which it is done: {index of a tag: strength}}."""


@contextmanager
def task(name: str) -> Iterator[None]:
    """The host is at a task with this id."""
    from modules import progress

    progress.start_task(name)
    try:
        yield
    finally:
        progress.finish_task(name)


def backend() -> Any:
    from lbw.hosts.backend import Backend

    return Backend()


class Player:
    """Moves strengths of a task's generation, and notes what is shown of it at each evaluation."""

    def __init__(self, moves: Moves, name: str = "task(mine)") -> None:
        self._moves, self._name = moves, name
        self.seen: list[Any] = []

    def __call__(self, _params: Any) -> None:
        job = backend().job(self._name)
        moves = self._moves.get(len(self.seen), {})
        if moves:
            assert backend().play(self._name, {job.faders[index].key: value for index, value in moves.items()})
        self.seen.append(job)


def record(bench: Bench, *names: str, **fields: Any) -> tuple[Any, Recording]:
    """As ``bench.record``, of one layer in each block of the U-Net."""
    few = {}
    for name in names:
        layers = {SD1.block_of(layer): layer for layer in bench.deltas[name] if not is_text_encoder(layer)}
        few[name] = {layer: bench.deltas[name][layer] for layer in layers.values()}
    with recording(bench.webui, bench.base, few) as found:
        return bench.webui.generate(**fields), found


def play(bench: Bench, moves: Moves, *names: str, **fields: Any) -> tuple[Any, Recording, list[Any]]:
    """Generate while a hand plays; the result, what was in the weights, and what was shown at each evaluation."""
    player = Player(moves)
    with task("task(mine)"), bench.webui.observing(player):
        result, found = record(bench, *(names or ("t_lora",)), **fields)
    return result, found, player.seen


def prompt_of(infotext: str) -> str:
    return infotext.partition("\n")[0]


def is_same_image(one: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


PLAIN = "a cat <lora:t_lora:1>"


@pytest.fixture(autouse=True)
def quick(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A U-Net of few operations, which depends on what LoRAs do to its weights."""
    model = bench.webui.shared.sd_model
    unet = model.forge_objects_original.unet.model if bench.webui.is_forge else model.model
    names = {SD1.block_of(name): name for name in bench.deltas["t_lora"] if not is_text_encoder(name)}.values()

    def forward(x: Any, *_args: Any, **_named: Any) -> Any:
        layers = bench.layers()
        return x * (0.5 + 0.1 * sum(layers[name].weight.float().tanh().std() for name in names).to(x))

    monkeypatch.setattr(unet.diffusion_model, "forward", forward)


def test_a_move_is_in_force_from_the_next_step_on(bench: Bench):
    result, recorded, seen = play(bench, {2: {0: 0.4}, 4: {0: -1.5}}, prompt=PLAIN, steps=7)
    assert timeline(recorded) == [1, 1, 1, 0.4, 0.4, -1.5, -1.5]
    assert [job.step for job in seen] == [*range(7)]
    assert [job.faders[0].strength for job in seen] == timeline(recorded)
    assert [job.faders[0].course for job in seen] == [tuple(timeline(recorded)[: step + 1]) for step in range(7)]
    assert [job.faders[0].is_played for job in seen] == [False] * 3 + [True] * 4
    assert {(job.is_running, job.is_hires, job.steps, job.batch, job.batches) for job in seen} == {
        (True, False, 7, 0, 1)
    }
    assert "t_lora: te 1, unet 1x3 0.4x2 -1.5x2, played by hand" in status(result)
    assert messages(result) == []


def test_without_a_hand_nothing_is_other_than_it_was(bench: Bench):
    quiet, _, _ = play(bench, {}, prompt=PLAIN, steps=3)
    without = bench.webui.generate(prompt=PLAIN, steps=3)
    assert quiet.infotexts == without.infotexts
    assert quiet.comments == without.comments == ""
    assert is_same_image(quiet.images[0], without.images[0])


@pytest.mark.parametrize(
    ("sampler", "tag"),
    [
        ("Euler a", "<lora:t_lora:1>"),
        *(
            pytest.param(*each, marks=pytest.mark.of_any_forge)
            for each in (
                ("Euler", "<lora:t_lora:0.8:lbw=OUTALL:stop=3>"),
                ("DPM++ 2M", "<lora:t_lora:0.2@0,1@1:lbw=NONE@0,ALL@1:curve=cosine>"),
                ("DPM adaptive", "<lora:t_lora:1:0.6:start=30%>"),
                ("Euler", "[<lora:t_lora:1>:<lora:t_lora:0.5>:0.5]"),
            )
        ),
    ],
)
def test_the_infotext_makes_the_image_again_bit_for_bit(bench: Bench, sampler: str, tag: str):
    bench.require_sampler(sampler)
    fields = {"sampler_name": sampler, "steps": 8}
    unplayed = bench.webui.generate(prompt=f"a cat {tag}", **fields)
    first, played, _ = play(bench, {1: {0: 1.4}, 4: {0: 0.1}}, prompt=f"a cat {tag}", **fields)
    assert not is_same_image(first.images[0], unplayed.images[0])
    args, pasted = paste(bench, first.infotexts[0])
    again, recorded = record(bench, "t_lora", args=args, **fields | pasted)
    assert recorded.strengths == played.strengths
    assert is_same_image(again.images[0], first.images[0])
    told = [bench.webui.parse_infotext(result.infotexts[0]) for result in (first, again)]
    assert told[0] == told[1]


@pytest.mark.of_any_forge
@pytest.mark.parametrize("sampler", ["Heun", "DPM2", "DPM++ SDE", "UniPC", "DPM fast", "PLMS"])
def test_a_move_never_takes_effect_inside_a_step(bench: Bench, sampler: str):
    bench.require_sampler(sampler)
    result, recorded, _ = play(bench, {2: {0: 0.4}, 6: {0: 0.8}}, prompt=PLAIN, steps=8, sampler_name=sampler)
    steps = solver_steps(bench, sampler, recorded)
    first, second = steps[2] + 1, steps[6] + 1
    assert timeline(recorded) == [1 if step < first else 0.4 if step < second else 0.8 for step in steps]
    again, recorded = record(bench, "t_lora", prompt=prompt_of(result.infotexts[0]), steps=8, sampler_name=sampler)
    assert is_same_image(again.images[0], result.images[0])


HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "steps": 4}
SETTINGS = {"hr_second_pass_steps": 4}


@pytest.mark.parametrize("tag", ["<lora:t_lora:1>", "<lora:t_lora:1:stop=2:hr=0.7:hrstart=1>"])
@pytest.mark.parametrize(("at", "place"), [(1, "first"), (5, "hires")])
def test_a_hand_goes_on_in_the_hires_pass(bench: Bench, tag: str, at: int, place: str):
    fields = HIRES | SETTINGS | {"sampler_name": "Euler"}
    result, recorded, seen = play(bench, {at: {0: 0.4}}, prompt=f"a cat {tag}", **fields)
    assert timeline(recorded)[at + 1 :] == [0.4] * (len(seen) - at - 1)
    assert [job.is_hires for job in seen][at] == (place == "hires")
    assert [job.step for job in seen] == [*range(4), *range(len(seen) - 4)]
    assert "Hires prompt" not in result.infotexts[0]
    assert "hrunet=" in prompt_of(result.infotexts[0])
    assert (":unet=1@0" in prompt_of(result.infotexts[0])) == (place == "first")
    again, repeated = record(bench, "t_lora", prompt=prompt_of(result.infotexts[0]), **fields)
    assert repeated.strengths == recorded.strengths
    assert is_same_image(again.images[0], result.images[0])


def test_a_hires_prompt_of_its_own_has_its_own_tags_played(bench: Bench):
    fields = HIRES | SETTINGS | {"sampler_name": "Euler"}
    texts = {"prompt": "a cat <lora:t_lora:1>", "hr_prompt": "a dog <lora:t_lora:0.7> <lora:t_lora2:1>"}
    result, recorded, seen = play(bench, {1: {0: 0.4}, 5: {1: 0.2}}, "t_lora", "t_lora2", **fields, **texts)
    assert timeline(recorded) == [1, 1, *[0.4] * (len(seen) - 2)]
    assert timeline(recorded, "t_lora2") == [0] * 4 + [1] * 2 + [0.2] * (len(seen) - 6)
    parameters = bench.webui.parse_infotext(result.infotexts[0])
    assert parameters["Prompt"] == "a cat <lora:t_lora:te=1:unet=1@0,1@1,0.4@2>"
    assert parameters["Hires prompt"].startswith("a dog <lora:t_lora:te=0.7:unet=0.7:hrunet=0.4> <lora:t_lora2:te=1:")
    texts = {"prompt": parameters["Prompt"], "hr_prompt": parameters["Hires prompt"]}
    again = bench.webui.generate(**fields, **texts)
    assert is_same_image(again.images[0], result.images[0])
    tags = [fader.tag for fader in backend().job("task(mine)").faders]
    assert tags == ["<lora:t_lora:0.7>", "<lora:t_lora2:1>", "<lora:t_lora:1>"]


def test_each_image_of_further_batches_has_what_was_played_in_its_own(bench: Bench):
    fields = {"steps": 4, "n_iter": 3, "sampler_name": "Euler"}
    result, recorded, seen = play(bench, {5: {0: 0.4}}, prompt=PLAIN, **fields, seed=7)
    assert timeline(recorded) == [1] * 6 + [0.4] * 6
    assert [job.batch for job in seen] == [0] * 4 + [1] * 4 + [2] * 4
    images, infotexts = (each[result.index_of_first_image :] for each in (result.images, result.infotexts))
    prompts = [*map(prompt_of, infotexts)]
    assert prompts == [PLAIN, "a cat <lora:t_lora:te=1:unet=1@0,1@1,0.4@2>", "a cat <lora:t_lora:te=1:unet=0.4>"]
    for number, prompt in enumerate(prompts):
        again = bench.webui.generate(prompt=prompt, steps=4, sampler_name="Euler", seed=7 + number)
        assert is_same_image(again.images[0], images[number])


@pytest.mark.of_any_forge
def test_all_images_of_a_batch_say_what_was_played_and_so_does_the_grid(bench: Bench, option: Callable[..., None]):
    option(return_grid=True)
    fields = {"steps": 3, "batch_size": 2, "enable_hr": True, "hr_scale": 1, "denoising_strength": 0.5, "n_iter": 2}
    result, _, _ = play(bench, {1: {0: 0.4}}, prompt=[PLAIN] * 4, hr_upscaler="Latent", **fields)
    prompts = [*map(prompt_of, result.infotexts)]
    first, second = (f"a cat <lora:t_lora:te=1:unet={course}:hrunet=0.4>" for course in ("1@0,1@1,0.4@2", "0.4"))
    assert prompts[-4:] == [first, first, second, second]
    assert [prompts[0]] * len(prompts[:-4]) == prompts[:-4] == [first] * len(prompts[:-4])
    assert "Hires prompt" not in "".join(result.infotexts)
    assert result.all_prompts == prompts[-4:]


def test_an_image_is_a_start_like_any_other(bench: Bench):
    fields = {"init_images": [Image.new("RGB", (64, 64), "red")], "denoising_strength": 0.75, "sampler_name": "Euler"}
    result, recorded, _ = play(bench, {1: {0: 0.4}}, prompt=PLAIN, steps=8, **fields)
    assert timeline(recorded) == [1, 1] + [0.4] * (len(recorded.strengths) - 2)
    again = bench.webui.generate(prompt=prompt_of(result.infotexts[0]), steps=8, **fields)
    assert is_same_image(again.images[0], result.images[0])


def test_a_refiner_goes_on_with_what_was_played(
    bench: Bench, option: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()  # the Forge family loads both models anew, and those have their own U-Net
    first = bench.webui.shared.sd_model.sd_checkpoint_info
    info = write_checkpoint(bench.webui, "refining", other_weights)
    option(sd_checkpoints_limit=2)
    fields = {"steps": 8, "refiner_checkpoint": info.title, "refiner_switch_at": 0.5, "sampler_name": "Euler"}
    try:
        player = Player({1: {0: 0.4}, 6: {0: 0.8}})
        with task("task(mine)"), bench.webui.observing(player):
            result = bench.webui.generate(prompt=PLAIN, **fields)
        assert [job.faders[0].strength for job in player.seen] == [1, 1] + [0.4] * 5 + [0.8]
        again = bench.webui.generate(prompt=prompt_of(result.infotexts[0]), **fields)
        assert is_same_image(again.images[0], result.images[0])
        assert not is_same_image(again.images[0], bench.webui.generate(prompt=PLAIN, **fields).images[0])
    finally:
        option(sd_checkpoints_limit=1)
        switch(first)


def test_what_the_host_keeps_of_its_last_generation_says_what_was_played(bench: Bench):
    from modules import paths

    result, _, _ = play(bench, {1: {0: 0.4}}, prompt=PLAIN, steps=3)
    noted = Path(paths.data_path, "params.txt").read_text(encoding="utf8")
    assert prompt_of(noted) == prompt_of(result.infotexts[0])
    assert lbw_part(noted) == lbw_part(result.infotexts[0])


def interrupted(bench: Bench) -> None:
    def interrupt(params: Any) -> None:
        if params.sampling_step == 2:
            bench.webui.shared.state.interrupt()

    with bench.webui.observing(interrupt):
        play(bench, {0: {0: 0.4}, 2: {0: 5.0}}, prompt=PLAIN, steps=8)


def failed(bench: Bench) -> None:
    def fail(params: Any) -> None:
        if params.sampling_step == 2:
            raise MemoryError

    p = bench.webui.request(prompt=PLAIN, steps=8)
    sample, player = p.sample, Player({0: {0: 0.4}, 1: {0: 5.0}})

    def sample_and_break(*args: Any, **kwargs: Any) -> None:
        sample(*args, **kwargs)
        raise RuntimeError("the sampler broke")

    p.sample = sample_and_break
    with task("task(mine)"), bench.webui.observing(player), pytest.raises(RuntimeError, match="the sampler broke"):
        bench.webui.run(p)


@pytest.mark.parametrize("end", [interrupted, failed, lambda bench: play(bench, {1: {0: 0.4}}, prompt=PLAIN, steps=3)])
def test_no_hand_reaches_the_next_request(bench: Bench, end: Callable[[Bench], Any]):
    before = bench.webui.generate(prompt=PLAIN, steps=4)
    end(bench)
    assert not backend().job("task(mine)").is_running
    assert not backend().play("task(mine)", {("t_lora", 0): 0.1})
    after, recorded, _ = play(bench, {}, prompt=PLAIN, steps=4)
    assert timeline(recorded) == [1] * 4
    assert after.infotexts == before.infotexts
    assert is_same_image(after.images[0], before.images[0])


@pytest.mark.of_any_forge
def test_only_who_knows_the_id_sees_and_moves_anything(bench: Bench):
    others = ["", "task(min)", "task(mine)x", "task(other)", "None", "tâsk(mine)", "\ud800"]
    found: list[Any] = []

    def try_all(_params: Any) -> None:
        found.append([(backend().job(name), backend().play(name, {("t_lora", 0): 0.1})) for name in others])

    with task("task(mine)"), bench.webui.observing(try_all):
        _, recorded = record(bench, "t_lora", prompt=PLAIN, steps=3)
    assert timeline(recorded) == [1, 1, 1]
    assert found == [[(None, False)] * len(others)] * 3


@pytest.mark.of_any_forge
def test_a_generation_of_no_task_cannot_be_moved_by_anybody(bench: Bench):
    found: list[Any] = []

    def try_all(_params: Any) -> None:
        found.append([backend().play(name, {("t_lora", 0): 0.1}) for name in ("", "None", "task()")])

    with bench.webui.observing(try_all):
        _, recorded = record(bench, "t_lora", prompt=PLAIN, steps=3)
    assert (timeline(recorded), found) == ([1, 1, 1], [[False] * 3] * 3)


@pytest.mark.of_any_forge
def test_two_tasks_one_after_the_other_have_a_hand_each(bench: Bench):
    def generate(name: str, value: float) -> list[float]:
        with task(name), bench.webui.observing(Player({0: {0: value}}, name)):
            return timeline(record(bench, "t_lora", prompt=PLAIN, steps=3)[1])

    assert generate("task(a)", 0.4) == [1, 0.4, 0.4]
    assert generate("task(b)", 0.6) == [1, 0.6, 0.6]
    assert [backend().job(f"task({name})").faders[0].course for name in "ab"] == [(1, 0.4, 0.4), (1, 0.6, 0.6)]


def test_of_a_generation_inside_another_the_inner_one_is_shown_and_moved_alone(bench: Bench):
    """As extensions make them that go over parts of an image between two of its batches."""
    inner: list[Any] = []
    p = bench.webui.request(prompt=PLAIN, steps=3, n_iter=2)
    decode = bench.webui.scripts.scripts_txt2img.postprocess_image

    def generate_inside(outer: Any, *args: Any) -> None:
        if outer is p and not inner:
            player = Player({0: {0: 0.2}})
            inner.append(player)
            with bench.webui.observing(player):
                bench.webui.processing.process_images(bench.webui.request(prompt="<lora:t_lora2:1>", steps=2))
        decode(outer, *args)

    outer = Player({1: {0: 0.4}})

    def play_outside(params: Any) -> None:
        if not inner or len(inner[0].seen) == 2:
            outer(params)

    p.scripts = copy.copy(p.scripts)
    p.scripts.postprocess_image = generate_inside
    with task("task(mine)"), bench.webui.observing(play_outside):
        bench.webui.run(p)
    assert [job.faders[0].key[0] for job in inner[0].seen] == ["t_lora2"] * 2
    assert [job.faders[0].strength for job in inner[0].seen] == [1, 0.2]
    shown = [job.faders[0] for job in outer.seen if job.faders[0].key[0] == "t_lora"]
    assert [fader.strength for fader in shown] == [1, 1, 0.4] + [0.4] * 3
    assert backend().job("task(mine)").faders[0].key[0] == "t_lora"


def test_loras_that_are_the_hosts_alone_become_ours_when_they_are_moved(
    bench: Bench, option: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()  # the host brings weights to their strengths in the forwards of its layers
    option(lbw_plain_loras=False)
    result, recorded, seen = play(bench, {1: {0: 0.4}}, prompt=PLAIN, steps=4)
    assert timeline(recorded) == [1, 1, 0.4, 0.4]
    assert [job.step for job in seen] == [0, 1, 2, 3]
    assert [job.faders[0].strength for job in seen] == [1, 1, 0.4, 0.4]
    assert prompt_of(result.infotexts[0]) == "a cat <lora:t_lora:te=1:unet=1@0,1@1,0.4@2>"
    _, recorded = record(bench, "t_lora", prompt=PLAIN, steps=2)
    assert timeline(recorded) == [1, 1]


@pytest.mark.of_any_forge
def test_more_changes_than_a_tag_has_room_for_are_told_and_nothing_is_cut(bench: Bench, monkeypatch):
    from lbw.tags import played

    monkeypatch.setattr(played, "MOST_KEYFRAMES", 3)
    result, recorded, _ = play(bench, {0: {0: 0.1}, 1: {0: 0.2}, 2: {0: 0.3}}, prompt=PLAIN, steps=4)
    assert timeline(recorded) == [1, 0.1, 0.2, 0.3]
    assert prompt_of(result.infotexts[0]) == PLAIN
    told = "it was moved too often: 4 keyframes; expected at most 3; the infotext has the tag as it was written"
    assert messages(result) == [f"<lora:t_lora:1>: {told}"]
    assert backend().job("task(mine)").faders[0].played_tag is None


@pytest.mark.of_any_forge
def test_a_tag_that_another_script_has_put_into_the_prompt_is_told(bench: Bench):
    script = bench.webui.script(bench.webui.scripts.scripts_txt2img)

    def adding(original: Callable[..., None]) -> Callable[..., None]:
        def add(p: Any, *args: Any, prompts: list[str], **named: Any) -> None:
            prompts[:] = [f"{text} <lora:t_lora:1>" for text in prompts]
            original(p, *args, prompts=prompts, **named)

        return add

    with replaced(script, "before_process_batch", adding):
        result, _, _ = play(bench, {0: {0: 0.4}}, prompt="a cat", steps=3)
    (told,) = messages(result)
    assert told.startswith("<lora:t_lora:1>: played by hand; it is not in the prompt that the infotext has")
    assert prompt_of(result.infotexts[0]) == "a cat"


@pytest.mark.of_any_forge
def test_brackets_that_have_a_tag_off_are_shown(bench: Bench):
    _, recorded, seen = play(bench, {0: {0: 0.4}}, prompt="[<lora:t_lora:1>::2] cat", steps=4, sampler_name="Euler")
    assert [job.faders[0].is_in_prompt for job in seen] == [value != 0 for value in timeline(recorded)]
    assert timeline(recorded)[-1] == 0
    assert [job.faders[0].strength for job in seen] == [1, 0.4, 0.4, 0.4]


@pytest.mark.of_any_forge
def test_little_is_kept_of_tasks_that_are_over_and_not_for_long(bench: Bench):
    p = bench.webui.request(prompt=PLAIN, steps=1)
    with task("task(0)"):
        bench.webui.run(p)
    kept = weakref.ref(p)
    bench.webui.p = p = None
    for number in range(1, 9):
        with task(f"task({number})"):
            bench.webui.generate(prompt=PLAIN, steps=1)
    gc.collect()
    assert kept() is None
    known = [backend().job(f"task({number})") is not None for number in range(9)]
    assert known == [False] + [True] * 8
