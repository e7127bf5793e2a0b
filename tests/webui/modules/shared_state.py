"""What the host is doing now, and what it has been asked to do next."""

from __future__ import annotations

import logging
import threading
import time

from modules import devices, errors, shared

log = logging.getLogger(__name__)


class State:
    """Progress of the running job and the flags by which a user stops it; one instance, `shared.state`."""

    # What the user has asked for.
    interrupted = skipped = stopping_generation = False
    # The job, and how far it has come.
    time_start = server_start = None
    job, job_timestamp = "", "0"
    job_count = job_no = sampling_steps = sampling_step = 0
    processing_has_refined_job_count = False
    # What the page shows of it.
    textinfo = current_image = current_latent = None
    id_live_preview = current_image_sampling_step = 0

    def __init__(self):
        self.server_start = time.time()
        self._server_command: str | None = None
        self._server_command_given = threading.Event()

    @property
    def server_command(self) -> str | None:
        return self._server_command

    @server_command.setter
    def server_command(self, value: str | None) -> None:
        self._server_command = value
        self._server_command_given.set()

    @property
    def need_restart(self) -> bool:
        return self.server_command == "restart"

    @need_restart.setter
    def need_restart(self, wanted: bool) -> None:
        # Extensions set it to restart the host; that cannot be taken back.
        if not wanted:
            return
        self.server_command = "restart"

    def wait_for_server_command(self, timeout: float | None = None) -> str | None:
        """Wait for 'stop' or 'restart' and take it; None when the time is up."""
        if not self._server_command_given.wait(timeout):
            return None
        self._server_command_given.clear()
        command, self._server_command = self._server_command, None
        return command

    def request_restart(self) -> None:
        self.interrupt()
        self.server_command = "restart"

    def skip(self) -> None:
        self.skipped = True
        log.info("skip requested")

    def interrupt(self) -> None:
        self.interrupted = True
        log.info("interrupt requested")

    def stop_generating(self) -> None:
        self.stopping_generation = True
        log.info("stop after this image requested")

    def begin(self, job: str = "(unknown)") -> None:
        self.job = job
        self.job_count = -1
        self.job_no = 0
        self.processing_has_refined_job_count = False
        self.time_start = time.time()
        self.job_timestamp = time.strftime("%Y%m%d%H%M%S")
        self.sampling_step = 0
        self.skipped = self.interrupted = self.stopping_generation = False
        self.current_latent = self.current_image = self.textinfo = None
        self.current_image_sampling_step = 0
        self.id_live_preview = 0
        devices.torch_gc()
        log.info("job %s begins", job)

    def end(self) -> None:
        log.info("job %s took %.2f s", self.job, time.time() - (self.time_start or time.time()))
        self.job = ""
        self.job_count = 0
        devices.torch_gc()

    def nextjob(self) -> None:
        """Count one finished sampling pass; the next one begins at step 0."""
        once_a_pass = shared.opts.show_progress_every_n_steps == -1
        if once_a_pass and shared.opts.live_previews_enable:
            self.do_set_current_image()
        self.current_image_sampling_step = self.sampling_step = 0
        self.job_no += 1

    def dict(self) -> dict:
        names = (
            "skipped", "interrupted", "stopping_generation", "job", "job_count", "job_timestamp", "job_no",
            "sampling_step", "sampling_steps",
        )
        return {name: getattr(self, name) for name in names}

    def set_current_image(self) -> None:
        """Decode a preview if enough steps have passed since the last one."""
        period = shared.opts.show_progress_every_n_steps
        passed = self.sampling_step - self.current_image_sampling_step
        due = shared.opts.live_previews_enable and period != -1 and passed >= period
        if shared.parallel_processing_allowed and due:
            self.do_set_current_image()

    def do_set_current_image(self) -> None:
        if self.current_latent is None:
            return
        from modules import sd_samplers_common

        decode = (
            sd_samplers_common.samples_to_image_grid
            if shared.opts.show_progress_grid
            else sd_samplers_common.sample_to_image
        )
        try:
            self.assign_current_image(decode(self.current_latent))
        except RuntimeError:
            # A model switch moves the decoder away under our hands; a preview is not worth an error.
            errors.record_exception()
            return
        self.current_image_sampling_step = self.sampling_step

    def assign_current_image(self, image) -> None:
        unfit = {"jpeg": ("P", "RGBA")}.get(shared.opts.live_previews_image_format, ())
        self.current_image = image.convert("RGB") if image.mode in unfit else image
        self.id_live_preview += 1
