"""What the demo model is trained on, and that training is repeatable."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

from tests.demo_model import networks, scenes, shapes, train
from tests.demo_model.networks import DemoNetworks, LoRA
from tests.demo_model.scenes import Chance

CPU = torch.device("cpu")
KEPT = train.FOLDER / "models"
SIDE = 64


def any_scenes(seed: int, count: int) -> list[scenes.Scene]:
    chance = Chance(seed)
    return [train.make_any(chance) for _ in range(count)]


def test_the_same_seed_draws_the_same_pictures():
    first, again, other = (scenes.draw_scenes(any_scenes(seed, 20), CPU, SIDE) for seed in (3, 3, 4))
    assert first.equal(again) and not first.equal(other)
    assert float(first.min()) >= 0 and float(first.max()) <= 1


def test_a_picture_does_not_depend_on_those_beside_it():
    together = any_scenes(5, 30)
    pictures = scenes.draw_scenes(together, CPU, SIDE)
    for scene, picture in zip(together, pictures, strict=True):
        assert picture.equal(scenes.draw_scenes([scene], CPU, SIDE)[0])


@pytest.mark.parametrize("thing", {**shapes.THINGS, **shapes.UNKNOWN_THINGS})
@pytest.mark.parametrize("colour", ["red", "blue"])
def test_a_thing_is_of_its_colour_and_within_the_picture(thing: str, colour: str):
    scene = scenes.Scene((scenes.Item(thing, colour, 0, 0, 0.9),), "", "", 0.5, "")
    picture, paper = scenes.draw_scenes([scene], CPU, SIDE)[0], torch.tensor(scenes._paper(scene))[:, None, None]
    painted = (picture - paper).abs().amax(0) > 1e-3
    edges = torch.cat([painted[0], painted[-1], painted[:, 0], painted[:, -1]])
    assert 0.1 < float(painted.float().mean()) < 0.8 and not edges.any()
    wanted = torch.tensor(scenes.COLOURS[colour])[:, None, None]
    assert int(((picture - wanted).abs().amax(0) < 1e-3).sum()) > 0.1 * int(painted.sum())


def test_captions_say_what_is_to_be_seen():
    for scene in any_scenes(7, 300):
        for item in scene.items:
            assert item.thing in scene.caption
            assert item.colour in scene.caption or re.search(rf"\ba {item.thing}\b", scene.caption)
        assert (scene.place in scene.caption) or not scene.place
        assert (re.search("sketch|neon", scene.caption) is not None) == bool(scene.style)


def test_no_two_words_are_one_token():
    words = {word for scene in any_scenes(8, 3000) for word in re.findall(r"[a-z]+|,", scene.caption)}
    tokens = {word: int(networks.tokens_of([word])[0, 1]) for word in words}
    assert len(set(tokens.values())) == len(words) > 35


def test_settled_latents_have_no_mean_and_decode_to_the_same_picture():
    torch.manual_seed(1)
    vae = DemoNetworks().vae
    pictures = scenes.draw_scenes(any_scenes(9, 16), CPU, SIDE) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).mean
        decoded = vae.decode(before)
        networks.settle_latents(vae, before.mean(dim=(0, 2, 3)), before.std(dim=(0, 2, 3)))
        after = vae.encode(pictures)
        latents = after.mean * networks.SCALE_FACTOR
        assert latents.mean(dim=(0, 2, 3)) == pytest.approx(torch.zeros(4), abs=1e-4)
        assert latents.std(dim=(0, 2, 3)) == pytest.approx(torch.ones(4), abs=1e-4)
        assert float((vae.decode(after.mean) - decoded).abs().max()) < 1e-4
        assert float(after.std.max()) < 1e-5


def test_a_lora_in_a_file_does_what_it_did_in_training():
    """Weights with its products added, as a host adds them, and the hooks that it was trained by."""
    torch.manual_seed(2)
    model = DemoNetworks().double()
    for parameter in model.unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # an untrained one says 0
    lora = LoRA(model, rank=4, alpha=2.0, with_convolutions=True).double()
    for part in lora.layers.values():
        torch.nn.init.normal_(part.up.weight, std=0.05)
    x, times = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.tensor([3, 700])
    tokens = networks.tokens_of(["a red cat", "a blue dog"])
    with torch.no_grad():
        hooked = model.unet(x, times, model.encode_words(tokens))
        targets = dict(LoRA._targets(model, True))
        assert targets.keys() == lora.layers.keys()
        lora.remove()
        plain = model.unet(x, times, model.encode_words(tokens))
        for key, layer in targets.items():
            part = lora.layers[key]
            delta = part.up.weight.flatten(1) @ part.down.weight.flatten(1)
            layer.weight += delta.view_as(layer.weight) * part.scale
        merged = model.unet(x, times, model.encode_words(tokens))
    assert float((merged - plain).abs().max()) > 1e-3
    assert float((merged - hooked).abs().max()) < 1e-9


def test_a_folder_of_another_demo_gets_the_trained_files_and_their_size_once(tmp_path: Path):
    import make_demo  # can be imported once tests.demo_model.networks is

    settings = tmp_path / "ui-config.json"
    settings.write_text('{"txt2img/Width/value": 512, "txt2img/Seed/value": 7}')
    other = tmp_path / "models" / train.MODEL
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another")
    make_demo.copy_trained(str(tmp_path))
    assert train.sha256(other) == train.sha256(KEPT / train.MODEL)
    kept = json.loads(settings.read_text())
    assert kept["txt2img/Seed/value"] == 7
    sides = {kept[f"{tab}/{side}/value"] for tab in ("txt2img", "img2img") for side in ("Width", "Height")}
    assert sides == {scenes.SIDE}
    settings.write_text('{"txt2img/Width/value": 512}')
    make_demo.copy_trained(str(tmp_path))
    assert json.loads(settings.read_text()) == {"txt2img/Width/value": 512}


def test_the_model_that_is_kept_is_small_and_is_what_was_trained():
    sums = dict(line.split()[::-1] for line in (KEPT / "SHA256SUMS").read_text().splitlines())
    files = sorted(KEPT.glob("*/*.safetensors"))
    assert sums == {str(file.relative_to(KEPT)): train.sha256(file) for file in files}
    assert len(files) == 4
    assert sum(file.stat().st_size for file in files) <= 4_000_000


def test_the_model_that_is_kept_makes_what_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    """By colours: of what is above the middle, and the most frequent other one in it."""
    monkeypatch.setattr(train, "SAMPLE_STEPS", 10)
    model = DemoNetworks()
    model.load(load_file(KEPT / train.MODEL))
    asked = {"a red cat": "red", "a blue dog at night": "blue", "a yellow house": "yellow"}
    names, values = list(scenes.COLOURS), torch.tensor([*scenes.COLOURS.values()])

    def colours_of(part: torch.Tensor) -> list[str]:
        """From the most frequent one."""
        nearest = torch.cdist(part.flatten(1).T, values).argmin(dim=1)
        return [names[index] for index in nearest.bincount(minlength=len(names)).argsort(descending=True).tolist()]

    for picture, (caption, colour) in zip(train.sample(model, [*asked], CPU), asked.items(), strict=True):
        backdrop = "black" if "night" in caption else "white"
        assert colours_of(picture[:, :40, 90:170])[0] == backdrop, caption
        assert next(name for name in colours_of(picture[:, 64:224, 64:192]) if name != backdrop) == colour, caption


def test_the_lora_that_is_kept_darkens_the_sky_by_its_style(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "SAMPLE_STEPS", 10)
    model = DemoNetworks()
    model.load(load_file(KEPT / train.MODEL))
    tensors = load_file(KEPT / "Lora" / "demo_locon.safetensors")
    skies = []
    for is_on in (False, True):
        lora = LoRA(model, train.RANK, train.ALPHA, with_convolutions=True)
        for key, part in lora.layers.items():
            part.load_state_dict({f"{way}.weight": tensors[f"{key}.lora_{way}.weight"] for way in ("down", "up")})
        if not is_on:
            lora.remove()
        (picture,) = train.sample(model, ["a red cat on a meadow"], CPU)
        lora.remove()
        skies.append(float(picture[:, :40, 90:170].mean()))
    assert len(tensors) == 3 * len(lora.layers)
    assert skies[0] > 0.7 and skies[1] < 0.4


def test_training_twice_makes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scenes, "SIDE", 32)
    for name, value in {
        "AUTOENCODER_SCENES": 8, "AUTOENCODER_BATCH": 2, "AUTOENCODER_STEPS": 2, "MODEL_SCENES": 8, "LORA_STEPS": 2,
        "MODEL_SCHEDULE": ((2, 2, 1, 1e-3), (1, 2, 2, 1e-3)), "LORA_SCENES": 4, "LORA_BATCH": 2,
        "SAMPLES": ["a red cat"], "SAMPLE_STEPS": 2, "NOTED_EVERY": 1,
    }.items():  # fmt: skip
        monkeypatch.setattr(train, name, value)
    written = []
    for folder in (tmp_path / "first", tmp_path / "again"):
        folder.mkdir()
        monkeypatch.setattr(sys, "argv", ["train", "--folder", str(folder)])
        try:
            train.main()
        finally:
            torch.use_deterministic_algorithms(False)
        files = [path for path in folder.rglob("*") if path.is_file()]
        written.append({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert {f"models/Lora/{name}.safetensors" for name in train.LESSONS} <= written[0].keys()
    assert f"models/{train.MODEL}" in written[0]
    losses = json.loads(written[0]["pictures/losses.json"])
    steps = {"autoencoder": 2, "model": 3, **dict.fromkeys(train.LESSONS, 2)}
    assert {name: len(noted) for name, noted in losses.items()} == steps
    lora = load(written[0]["models/Lora/demo.safetensors"])
    assert any(tensor.any() for name, tensor in lora.items() if "lora_up" in name)
