"""Settings: what there is (`OptionInfo`), what the user chose (`Options.data`), and where it is written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from modules import errors
from modules.shared_cmd_options import cmd_opts


@dataclass(eq=False, repr=False)
class OptionInfo:
    """One setting: its default, how the settings page shows it, and what runs when it changes."""

    default: Any = None
    label: str = ""
    component: Any = None
    component_args: Any = None
    onchange: Callable[[], Any] | None = None
    section: tuple | None = None
    refresh: Callable[[], Any] | None = None
    comment_before: str = ""
    comment_after: str = ""
    infotext: str | None = None
    restrict_api: bool = False
    category_id: str | None = None
    do_not_save: bool = field(default=False, init=False)

    def link(self, label: str, url: str) -> OptionInfo:
        self.comment_before += f"[<a href='{url}' target='_blank'>{label}</a>]"
        return self

    def js(self, label: str, js_func: str) -> OptionInfo:
        self.comment_before += f"[<a onclick='{js_func}(); return false'>{label}</a>]"
        return self

    def info(self, info: str) -> OptionInfo:
        return self.html(f"<span class='info'>({info})</span>")

    def html(self, html: str) -> OptionInfo:
        self.comment_after += html
        return self

    def needs_restart(self) -> OptionInfo:
        return self.html(" <span class='info'>(takes a restart)</span>")

    def needs_reload_ui(self) -> OptionInfo:
        return self.html(" <span class='info'>(takes Reload UI)</span>")


class OptionHTML(OptionInfo):
    """Text on the settings page that looks like a setting to those who walk over them, and is never saved."""

    def __init__(self, text: str):
        super().__init__(str(text).strip())
        self.component = _html_component
        self.do_not_save = True


def _html_component(**kwargs):
    import gradio as gr

    return gr.HTML(elem_classes="settings-info", **kwargs)


def options_section(section_identifier: tuple, options_dict: dict[str, OptionInfo]) -> dict[str, OptionInfo]:
    """Put every option of a dict into one section; a third item of the identifier names the category."""
    section, category = tuple(section_identifier[:2]), section_identifier[2:]
    for info in options_dict.values():
        info.section = section
        if category:
            info.category_id = category[0]
    return options_dict


_OWN_FIELDS = {"data_labels", "data", "restricted_opts", "typemap"}


class Options:
    """Settings as attributes. A name without a template is an ordinary attribute and is not saved."""

    typemap: ClassVar[dict[type, type]] = {int: float}

    def __init__(self, data_labels: dict[str, OptionInfo], restricted_opts: set[str]):
        self.data_labels = data_labels
        self.data = {key: info.default for key, info in data_labels.items() if not info.do_not_save}
        self.restricted_opts = restricted_opts

    def __setattr__(self, key: str, value: Any) -> None:
        if key in _OWN_FIELDS or not (key in self.data or key in self.data_labels):
            super().__setattr__(key, value)
            return
        info = self.data_labels.get(key)
        if info is not None and info.do_not_save:
            return
        self._refuse_if_frozen(key, info)
        self.data[key] = value

    def _refuse_if_frozen(self, key: str, info: OptionInfo | None) -> None:
        """Raise for a setting that the command line protects: AssertionError if frozen, RuntimeError if hidden."""
        assert not cmd_opts.freeze_settings, "settings are frozen by --freeze-settings"
        component_args = info.component_args if info is not None else None
        if isinstance(component_args, dict) and component_args.get("visible", True) is False:
            raise RuntimeError(f"setting {key!r} is hidden and cannot be changed")
        if cmd_opts.freeze_settings_in_sections is not None and info is not None and info.section:
            frozen = [name.strip() for name in cmd_opts.freeze_settings_in_sections.split(",")]
            assert info.section[0] not in frozen, f"setting {key!r} is in the frozen section {info.section[0]!r}"
        if cmd_opts.freeze_specific_settings is not None:
            frozen = [name.strip() for name in cmd_opts.freeze_specific_settings.split(",")]
            assert key not in frozen, f"setting {key!r} is frozen"
        if cmd_opts.hide_ui_dir_config and key in self.restricted_opts:
            raise RuntimeError(f"setting {key!r} cannot be changed with --hide-ui-dir-config")

    def __getattr__(self, key: str) -> Any:
        if key in _OWN_FIELDS:
            raise AttributeError(key)
        if key in self.data:
            return self.data[key]
        if key in self.data_labels:
            return self.data_labels[key].default
        raise AttributeError(f"there is no setting {key!r}")

    def set(self, key: str, value: Any, is_api: bool = False, run_callbacks: bool = True) -> bool:
        """Set one option and run its `onchange`; a failing `onchange` puts the old value back.

        Returns:
            Whether the option has a new value now.
        """
        before = self.data.get(key)
        if before == value or not self._may_set(self.data_labels[key], is_api):
            return False
        try:
            setattr(self, key, value)
        except RuntimeError:
            return False
        if not run_callbacks or self._tell(key, value):
            return True
        setattr(self, key, before)
        return False

    @staticmethod
    def _may_set(info: OptionInfo, is_api: bool) -> bool:
        return not (info.do_not_save or (is_api and info.restrict_api))

    def _tell(self, key: str, value: Any) -> bool:
        """Run the option's `onchange`, if it has one; False, and a report, if that fails."""
        react = self.data_labels[key].onchange
        try:
            if react is not None:
                react()
        except Exception as failure:
            errors.display(failure, f"setting {key} to {value}")
            return False
        return True

    def get_default(self, key: str) -> Any:
        info = self.data_labels.get(key)
        return None if info is None else info.default

    def onchange(self, key: str, func: Callable[[], Any], call: bool = True) -> None:
        """Run `func` whenever the option changes, and once now unless `call` is false."""
        self.data_labels[key].onchange = func
        if call:
            func()

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info
        if not info.do_not_save:
            self.data.setdefault(key, info.default)

    def save(self, filename: str) -> None:
        assert not cmd_opts.freeze_settings, "settings are frozen by --freeze-settings"
        os.makedirs(os.path.dirname(os.path.abspath(filename)), exist_ok=True)
        with open(filename, "w", encoding="utf8") as file:
            json.dump(self.data, file, indent=4, ensure_ascii=False)

    def load(self, filename: str) -> None:
        """Read the settings file; as on the real host, what it does not name falls back to the template's default."""
        try:
            with open(filename, encoding="utf8") as file:
                self.data = json.load(file)
        except FileNotFoundError:
            self.data = {}
        except (OSError, ValueError):
            errors.report(f"cannot read settings from {filename}: every setting has its default", exc_info=True)
            self.data = {}
        for key, value in self.data.items():
            info = self.data_labels.get(key)
            if info is not None and not self.same_type(info.default, value):
                expected = type(info.default).__name__
                print(f"setting {key} should be {expected}, the file has {value!r}", file=sys.stderr)

    def same_type(self, x: Any, y: Any) -> bool:
        """Whether two values are of one kind; integers and floats are, and None goes with everything."""
        kinds = {self.typemap.get(type(value), type(value)) for value in (x, y) if value is not None}
        return len(kinds) < 2 or x is None or y is None

    def dumpjson(self) -> str:
        """All settings with their notes, as the page's script wants them."""
        values: dict[str, Any] = {key: self.data.get(key, info.default) for key, info in self.data_labels.items()}
        values["_comments_before"] = {key: info.comment_before for key, info in self.data_labels.items()}
        values["_comments_after"] = {key: info.comment_after for key, info in self.data_labels.items()}
        first_section: dict[str, str] = {}
        for info in self.data_labels.values():
            if info.section and info.section[0] is not None:
                category = categories.mapping.get(info.category_id)
                first_section.setdefault(category.label if category else "Uncategorized", info.section[1])
        values["_categories"] = [[section, label] for label, section in first_section.items()] + [["Defaults", "Other"]]
        return json.dumps(values, default=str)

    def reorder(self) -> None:
        """Sort by category in order of registration, then by section title; one section has one category."""
        category_of: dict[tuple, str | None] = {}
        for info in self.data_labels.values():
            category_of.setdefault(info.section, info.category_id)
        rank = {category_id: index for index, category_id in enumerate(categories.mapping)}
        for info in self.data_labels.values():
            info.category_id = category_of[info.section]

        def position(item: tuple[str, OptionInfo]) -> tuple[int, str]:
            info = item[1]
            return rank.get(info.category_id, len(rank)), info.section[1] if info.section else ""

        self.data_labels = dict(sorted(self.data_labels.items(), key=position))

    def cast_value(self, key: str, value: Any) -> Any:
        """Bring a value, often text from an infotext, to the type of the option."""
        model = self.data_labels[key].default
        if model is None:
            model = getattr(self, key, None)
        if value is None or model is None:
            return None
        if isinstance(model, bool) and value == "False":
            return False
        return type(model)(value)


@dataclass
class OptionsCategory:
    id: str
    label: str


class OptionsCategories:
    """Chapters of the settings page, in order of registration."""

    def __init__(self):
        self.mapping: dict[str, OptionsCategory] = {}

    def register_category(self, category_id: str, label: str) -> str:
        self.mapping.setdefault(category_id, OptionsCategory(category_id, label))
        return category_id


categories = OptionsCategories()
