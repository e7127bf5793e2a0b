"""What a new LoRA file says of itself: which model it is for, what it was made of, and what its sources ask for.

Keys are those that WebUIs read: kohya's (``ss_``, ``sshs_``, as sd-scripts' own merges write them), those of the model
specification (https://github.com/Stability-AI/ModelSpec, version 1.0.1), and ours (``lbw_``). Nothing is said of a
training, as there was none: neither epochs nor learning rates, nor in which precision it was done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from lbw.bake.hashes import MODEL, PLACEHOLDERS
from lbw.files.origin import model_name
from lbw.tags.families import Family

LONGEST_TEXT = 1000
"""Characters of a value that is carried over; a longer one is left out."""

LONGEST_LICENSE = 20_000
"""Characters: a license may stand there with all its terms. A longer one is cut."""

LONGEST_FREQUENCIES = 4_000_000
"""Characters of a source's words with how often each was trained; longer ones are left out."""

LONGEST_WORD = 200
"""Characters of such a word, and of a folder's name; longer ones are left out."""

MOST_WORDS = 2000
"""Such words of all sources: the most frequent ones."""

_CARRIED = (
    "ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash", "modelspec.author", "modelspec.resolution",
    "modelspec.prediction_type",
)  # fmt: skip
"""What is true of the new file where it is true of all its sources."""

_VERSION, _ARCHITECTURE = "ss_base_model_version", "modelspec.architecture"

_MOST_IMAGES = 1 << 31
"""That a word was trained on."""

_HASH = re.compile(r"[0-9a-fA-F]{8,64}")


@dataclass(frozen=True)
class Source:
    """A file that a part of the new one is from. ``sha256`` is of the file; values of metadata that are no text are
    left out."""

    name: str
    metadata: Mapping[str, object]
    sha256: str


@dataclass(frozen=True)
class _Model:
    """How trainers call a model.

    Args:
        version: ``ss_base_model_version``; empty where models that are called differently have the same layers.
        architecture: of the specification.
        implementation: whose names the model's own layers have.
        versions: a pattern of versions that fit it as well,
        architectures: and of architectures.
    """

    version: str
    architecture: str
    implementation: str
    versions: str
    architectures: str


_SGM = "https://github.com/Stability-AI/generative-models"
_FLUX_2 = "https://github.com/black-forest-labs/flux2"
_WAN = _Model("wan", "wan2.1", "https://github.com/Wan-Video/Wan2.1", "(?i)wan", "(?i)wan")

_MODELS = {
    "SD1": _Model("sd_v1", "stable-diffusion-v1", "diffusers", "sd_?v?1", "stable-diffusion-v1(-inpainting)?$"),
    "SD2": _Model("sd_v2", "stable-diffusion-v2-512", "diffusers", "sd_?v?2", "stable-diffusion-v2-"),
    "SDXL": _Model("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", _SGM, "sdxl_(?!refiner)",
                   "stable-diffusion-xl-(v1-(base|edit)|turbo-v1)$"),
    "SDXL refiner": _Model("sdxl_refiner_v1-0", "stable-diffusion-xl-v1-refiner", _SGM, "sdxl_refiner",
                           "stable-diffusion-xl-v1-refiner$"),
    "SD3": _Model("", "stable-diffusion-3", "diffusers", "(3-|5-)?medium$|sd_?3", "stable-diffusion-v?3"),
    "SD3.5 large": _Model("5-large", "stable-diffusion-3-5-large", "diffusers", "5-large$|sd_?3",
                          "stable-diffusion-v?3"),
    "Flux": _Model("flux1", "flux-1-dev", "https://github.com/black-forest-labs/flux",
                   "(?i)flux(?![-_.]?2)", "(?i)flux(?![-_.]?2)"),
    "Chroma": _Model("chroma", "chroma", "https://huggingface.co/lodestones/Chroma", "(?i)chroma", "(?i)chroma"),
    "Flux.2": _Model("flux_2_dev", "Flux.2-dev", _FLUX_2, "(?i)flux[-_.]?2", "(?i)flux[-_.]?2"),
    "Flux.2 Klein 9B": _Model("flux_2_klein_9b", "Flux.2-klein-9b", _FLUX_2,
                              "(?i)flux[-_.]?2.*9b", "(?i)flux[-_.]?2.*9b"),
    "Flux.2 Klein 4B": _Model("flux_2_klein_4b", "Flux.2-klein-4b", _FLUX_2,
                              "(?i)flux[-_.]?2.*4b", "(?i)flux[-_.]?2.*4b"),
    "Lumina 2": _Model("lumina2", "lumina-2", "https://github.com/Alpha-VLLM/Lumina-Image-2.0",
                       "(?i)lumina", "(?i)lumina"),
    "Z-Image": _Model("z_image", "Z-Image", "https://github.com/Tongyi-MAI/Z-Image",
                      "(?i)z[-_]?image", "(?i)z[-_]?image"),
    "Qwen-Image": _Model("qwen_image", "Qwen-Image", "https://github.com/QwenLM/Qwen-Image",
                         "(?i)qwen[-_]?image", "(?i)qwen[-_]?image"),
    "Wan 14B": _WAN,
    "Wan 1.3B/5B": _WAN,
    "Anima": _Model("anima", "anima-unknown", "https://huggingface.co/circlestone-labs/Anima",
                    "(?i)anima", "(?i)anima"),
}  # fmt: skip
"""By :func:`lbw.files.origin.model_name`. sd-scripts and musubi-tuner, of the same author, write these; the refiner,
for which they train nothing, is called so that AUTOMATIC1111 lists its files with those for SDXL."""

_UNKNOWN = _Model("", "unknown", "unknown", "(?!sd)", "(?!stable-diffusion)")
"""One that the table does not have: what a file says of it is taken, but for what is said of models that it has."""

_ALGORITHMS = {
    "loha": "loha", "lokr": "lokr", "ia3": "ia3", "glora": "glora", "full": "full", "oft": "diag-oft", "boft": "boft",
}  # fmt: skip
"""What LyCORIS calls a kind of part."""


def describe(
    name: str,
    sources: Sequence[Source],
    tags: Sequence[str],
    family: Family,
    *,
    kinds: Iterable[str],
    ranks: Iterable[int],
    alphas: Iterable[float],
    made: datetime,
    notes: Sequence[str] = (),
    with_words: bool,
) -> dict[str, str]:
    """The metadata of a new file; hashes are placeholders, until the data are known.

    A source that is hostile, or broken, costs a bounded time and place: what is no text, or longer than the limits of
    this module, is left out.

    Args:
        name: of the new file, without its ending; as :func:`lbw.bake.new_file.require_name` has it.
        sources: each file once.
        tags: what was baked, as text.
        family: of the model whose layers the file is for. Where a source says something else of the model, that is
            left out.
        kinds: of the parts in the file: ``lora`` of linear layers and convolutions, ``loha``, ``full``.
        ranks: of its parts, where they have one,
        alphas: and their alphas.
        made: when.
        notes: what else whoever reads the file later should know.
        with_words: whether words that bring the sources out are carried over.
    """
    metadata = [source.metadata for source in sources]
    found = {
        **_of_network(set(kinds), set(ranks), set(alphas)),
        **_of_model(family, metadata),
        **{key: value for key in _CARRIED if (value := _agreed(metadata, key))},
        "ss_output_name": name,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": name,
        "modelspec.date": made.isoformat(timespec="seconds"),
        "modelspec.merged_from": ", ".join(dict.fromkeys(map(_title, sources))),
        "modelspec.license": "; ".join(_licenses(metadata)),
        **(_words(metadata) if with_words else {}),
        "lbw_tags": json.dumps(list(tags)),
        "lbw_sources": json.dumps([_named(source) for source in sources]),
        "lbw_notes": json.dumps(list(notes)),
    }
    return {**{key: value for key, value in found.items() if value}, **PLACEHOLDERS}


def _of_network(kinds: Set[str], ranks: Set[int], alphas: Set[float]) -> dict[str, str]:
    algorithm = _ALGORITHMS.get(*kinds) if len(kinds) == 1 else None
    return {
        "ss_network_module": "networks.lora" if kinds <= {"lora"} else "lycoris.kohya",
        "ss_network_dim": _shared(ranks),
        "ss_network_alpha": _shared(alphas),
        "ss_network_args": json.dumps({"algo": algorithm}) if algorithm else "",
    }


def _shared(numbers: Set[float]) -> str:
    """The number that all parts have; nothing if no part has one."""
    if len(numbers) != 1:
        return "Dynamic" if numbers else ""
    number = float(*numbers)
    return str(int(number)) if number.is_integer() else str(number)


def _of_model(family: Family, metadata: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """AUTOMATIC1111 takes a file for one for SDXL by ``sdxl_``, and for one for SD2 by ``ss_v2``; Forge goes by the
    architecture and the implementation, too."""
    title = model_name(family)
    model = _MODELS.get(title, _UNKNOWN)
    version = _fitting(_agreed(metadata, _VERSION), model.versions) or model.version
    architecture = "stable-diffusion-v2-768-v" if version == "sd_v2_v" else model.architecture
    said = _agreed(metadata, _ARCHITECTURE).split("/")[0]
    return {
        "ss_v2": str(title == "SD2"),
        _VERSION: version,
        _ARCHITECTURE: f"{_fitting(said, model.architectures) or architecture}/lora",
        "modelspec.implementation": model.implementation,
    }


def _fitting(said: str, pattern: str) -> str:
    """What a file says of its model, if it fits; else nothing."""
    return said if re.fullmatch(r"[\w.-]+", said) and re.match(pattern, said) else ""


def _agreed(metadata: Sequence[Mapping[str, object]], key: str) -> str:
    """What all sources say; nothing if one of them says nothing, or something else."""
    said = {_text(each.get(key)) for each in metadata}
    return said.pop() if len(said) == 1 else ""


def _text(value: object) -> str:
    """A value that says something, and can be carried over; else nothing. sd-scripts writes "None" for nothing."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not _is_writable(value):
        return ""
    return "" if value.strip() == "None" else value.strip()


def _is_writable(text: str) -> bool:
    """Whether it has whole characters only."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _title(source: Source) -> str:
    return _text(source.metadata.get("modelspec.title")) or source.name.encode(errors="replace").decode()


def _named(source: Source) -> dict[str, str]:
    named = {"name": source.name, "sha256": source.sha256}
    said = source.metadata.get(MODEL)
    return {**named, MODEL: said} if isinstance(said, str) and _HASH.fullmatch(said) else named


def _licenses(metadata: Iterable[Mapping[str, object]]) -> Iterable[str]:
    """Each of them once: whoever passes the file on has to keep to all, whatever sources without one allow."""
    said = (each.get("modelspec.license") for each in metadata)
    cut = (
        text.strip() if len(text) <= LONGEST_LICENSE else f"{text[:LONGEST_LICENSE]} … (cut)"
        for text in said if isinstance(text, str) and _is_writable(text[:LONGEST_LICENSE])
    )  # fmt: skip
    return dict.fromkeys(text for text in cut if text not in ("", "None"))


def _words(metadata: Sequence[Mapping[str, object]]) -> dict[str, str]:
    phrases = dict.fromkeys(_text(each.get("modelspec.trigger_phrase")) for each in metadata)
    frequencies = _frequencies(metadata)
    return {
        "modelspec.trigger_phrase": ", ".join(phrase for phrase in phrases if phrase),
        "ss_tag_frequency": json.dumps(frequencies) if frequencies else "",
    }


def _frequencies(metadata: Iterable[Mapping[str, object]]) -> dict[str, dict[str, int]]:
    """The most frequent words of all sources: {folder of images: {word: how many images have it}}. Folders of several
    sources that have the same name are numbered, as sd-scripts does."""
    found: dict[str, dict[str, int]] = {}
    for each in metadata:
        for folder, words in _folders(each.get("ss_tag_frequency")).items():
            name, number = folder, 1
            while found.get(name, words) != words:
                number += 1
                name = f"{folder} ({number})"
            found[name] = words
    counted = [(count, folder, word) for folder, words in found.items() for word, count in words.items()]
    kept: dict[str, dict[str, int]] = {}
    for count, folder, word in sorted(counted, key=lambda entry: -entry[0])[:MOST_WORDS]:
        kept.setdefault(folder, {})[word] = count
    return kept


def _folders(value: object) -> dict[str, dict[str, int]]:
    """What a source says of words, as far as it can be read."""
    if not isinstance(value, str) or len(value) > LONGEST_FREQUENCIES:
        return {}
    try:
        folders = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(folders, dict):
        return {}
    found = {
        folder: {word: count for word, count in words.items() if _is_word(word) and _is_count(count)}
        for folder, words in folders.items() if isinstance(words, dict) and _is_word(folder)
    }  # fmt: skip
    return {folder: words for folder, words in found.items() if words}


def _is_word(text: str) -> bool:
    return 0 < len(text.strip()) <= len(text) <= LONGEST_WORD and _is_writable(text)


def _is_count(count: object) -> bool:
    return type(count) is int and 0 < count < _MOST_IMAGES
