"""Progress bar over all sampling steps of a job; silent where nobody watches a terminal."""

from __future__ import annotations

from tqdm import tqdm

from modules import shared


class TotalTQDM:
    def __init__(self):
        self._bar: tqdm | None = None

    def _open(self) -> tqdm:
        if self._bar is None:
            total = max(shared.state.job_count, 1) * max(shared.state.sampling_steps, 1)
            hidden = not shared.opts.multiple_tqdm or shared.cmd_opts.disable_console_progressbars
            self._bar = tqdm(desc="Total progress", total=total, disable=True if hidden else None)
        return self._bar

    def reset(self) -> None:
        self.clear()
        self._open()

    def update(self) -> None:
        self._open().update()

    def updateTotal(self, new_total: int) -> None:  # the host's spelling
        self._open().total = new_total

    def clear(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
