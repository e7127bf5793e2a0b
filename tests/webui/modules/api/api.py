"""/sdapi/v1: images, settings, progress and lists, with the host's addresses, fields and errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from secrets import compare_digest
from typing import Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.exceptions import HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from modules import images, infotext_utils, progress, script_callbacks, scripts, sd_models, sd_samplers, shared
from modules.api import lists, models
from modules.api.errors import api_middleware
from modules.api.images import decode_base64_to_image, encode_pil_to_base64
from modules.api.script_args import apply_infotext, init_default_script_args, init_script_args, script_name_to_index
from modules.fifo_lock import FIFOLock
from modules.processing import StableDiffusionProcessingImg2Img, StableDiffusionProcessingTxt2Img, process_images
from modules.shared import opts

# Fields of a request that are not parameters of a processing object.
_NOT_FOR_PROCESSING = (
    "include_init_images", "script_name", "script_args", "alwayson_scripts", "infotext", "send_images", "save_images",
)


def validate_sampler_name(name: str) -> str:
    if name not in sd_samplers.all_samplers_map:
        raise HTTPException(status_code=400, detail="Sampler not found")
    return name


def _address_job(job, tabname: str, runner) -> None:
    """Say where a job comes from, which scripts serve it and where its files go."""
    job.is_api = True
    job.scripts = runner
    for kind in ("samples", "grids"):
        setattr(job, f"outpath_{kind}", getattr(opts, f"outdir_{tabname}_{kind}"))


@contextmanager
def _task_in_progress(task_id: str, title: str) -> Iterator[None]:
    """Report a task as running meanwhile, and as finished unless it fails."""
    with ExitStack() as afterwards:
        afterwards.callback(shared.total_tqdm.clear)
        afterwards.callback(shared.state.end)
        shared.state.begin(job=title)
        progress.start_task(task_id)
        yield
        progress.finish_task(task_id)


def _run_job(job, script_args: list, by_script: bool):
    """Make the images, by the selectable script that position 0 of the arguments chooses or without one."""
    job.script_args = script_args if by_script else tuple(script_args)
    return job.scripts.run(job, *script_args) if by_script else process_images(job)


class Api:
    """The API of one application; `queue_lock` keeps its generations and the page's apart."""

    def __init__(self, app: FastAPI, queue_lock: FIFOLock):
        self.credentials = dict(
            user.split(":", 1) for user in (shared.cmd_opts.api_auth or "").split(",") if user)
        self.router = APIRouter()
        self.app = app
        self.queue_lock = queue_lock
        api_middleware(app)
        self._add_routes()
        self._prepare_scripts()

    def _add_routes(self) -> None:
        post, get = ["POST"], ["GET"]
        add = self.add_api_route
        add("/sdapi/v1/txt2img", self.text2imgapi, methods=post, response_model=models.TextToImageResponse)
        add("/sdapi/v1/img2img", self.img2imgapi, methods=post, response_model=models.ImageToImageResponse)
        add("/sdapi/v1/png-info", self.pnginfoapi, methods=post, response_model=models.PNGInfoResponse)
        add("/sdapi/v1/progress", self.progressapi, methods=get, response_model=models.ProgressResponse)
        add("/sdapi/v1/interrupt", self.interruptapi, methods=post)
        add("/sdapi/v1/skip", self.skip, methods=post)
        add("/sdapi/v1/options", self.get_config, methods=get, response_model=models.OptionsModel)
        add("/sdapi/v1/options", self.set_config, methods=post)
        add("/sdapi/v1/cmd-flags", self.get_cmd_flags, methods=get, response_model=models.FlagsModel)
        add("/sdapi/v1/refresh-checkpoints", self.refresh_checkpoints, methods=post)
        for path, endpoint, model in lists.ROUTES:
            add(f"/sdapi/v1/{path}", endpoint, methods=get, response_model=model)
        if shared.cmd_opts.api_server_stop:
            add("/sdapi/v1/server-restart", lambda: self._command("restart"), methods=post)
            add("/sdapi/v1/server-stop", lambda: self._command("stop"), methods=post)

    def _prepare_scripts(self) -> None:
        """Read the arguments' defaults off the panels; without a page they are built for that alone."""
        if not (scripts.scripts_txt2img.scripts and scripts.scripts_img2img.scripts):
            from modules import ui

            ui.create_ui()
        self.default_script_arg_txt2img = init_default_script_args(scripts.scripts_txt2img)
        self.default_script_arg_img2img = init_default_script_args(scripts.scripts_img2img)

    def add_api_route(self, path: str, endpoint, **kwargs) -> None:
        dependencies = [Depends(self.auth)] if self.credentials else None
        self.app.add_api_route(path, endpoint, dependencies=dependencies, **kwargs)

    def auth(self, credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> bool:  # noqa: B008  (fastapi's way)
        expected = self.credentials.get(credentials.username)
        if expected is not None and compare_digest(credentials.password.encode(), expected.encode()):
            return True
        raise HTTPException(
            status_code=401, detail="user name or password is wrong", headers={"WWW-Authenticate": "Basic"})

    def text2imgapi(self, txt2imgreq: models.StableDiffusionTxt2ImgProcessingAPI):
        processed = self._generate(
            txt2imgreq, "txt2img", StableDiffusionProcessingTxt2Img, scripts.scripts_txt2img,
            self.default_script_arg_txt2img)
        return models.TextToImageResponse(
            images=self._encoded(processed, txt2imgreq), parameters=vars(txt2imgreq), info=processed.js())

    def img2imgapi(self, img2imgreq: models.StableDiffusionImg2ImgProcessingAPI):
        if img2imgreq.init_images is None:
            raise HTTPException(status_code=404, detail="Init image not found")
        mask = decode_base64_to_image(img2imgreq.mask) if img2imgreq.mask else img2imgreq.mask
        init_images = [decode_base64_to_image(image) for image in img2imgreq.init_images]
        processed = self._generate(
            img2imgreq, "img2img", StableDiffusionProcessingImg2Img, scripts.scripts_img2img,
            self.default_script_arg_img2img, mask=mask, init_images=init_images)
        if not img2imgreq.include_init_images:
            img2imgreq.init_images = img2imgreq.mask = None
        return models.ImageToImageResponse(
            images=self._encoded(processed, img2imgreq), parameters=vars(img2imgreq), info=processed.js())

    def _generate(self, request, tabname: str, processing_class: type, runner, default_args: list, **overrides):
        """Turn a request into a processing object and run it, or the selectable script that the request names."""
        task_id = request.force_task_id or progress.create_task_id(tabname)
        from_infotext = apply_infotext(request, tabname, runner)
        if request.script_name:  # to refuse an unknown one before an unknown sampler
            script_name_to_index(request.script_name, runner.selectable_scripts)
        arguments = self._processing_arguments(request) | overrides
        script_args = init_script_args(request, default_args, runner, from_infotext)

        progress.add_task_to_queue(task_id)
        with self.queue_lock, closing(processing_class(sd_model=shared.sd_model, **arguments)) as job:
            _address_job(job, tabname, runner)
            with _task_in_progress(task_id, f"scripts_{tabname}"):
                return _run_job(job, script_args, by_script=bool(request.script_name))

    def _processing_arguments(self, request) -> dict[str, Any]:
        sampler, scheduler = sd_samplers.get_sampler_and_scheduler(
            request.sampler_name or request.sampler_index, request.scheduler)
        arguments = {key: value for key, value in vars(request).items() if key not in _NOT_FOR_PROCESSING}
        arguments |= {
            "sampler_name": validate_sampler_name(sampler),
            "sampler_index": None,
            "do_not_save_samples": not request.save_images,
            "do_not_save_grid": not request.save_images,
        }
        if not request.scheduler and scheduler != "Automatic":
            arguments["scheduler"] = scheduler
        return arguments

    def _encoded(self, processed, request) -> list:
        return [encode_pil_to_base64(image) for image in processed.images] if request.send_images else []

    def pnginfoapi(self, req: models.PNGInfoRequest):
        found, items = images.read_info_from_image(decode_base64_to_image(req.image.strip()))
        infotext = found or ""
        response = {"info": infotext, "parameters": infotext_utils.parse_generation_parameters(infotext)}
        script_callbacks.infotext_pasted_callback(infotext, response["parameters"])
        return models.PNGInfoResponse(items=items, **response)

    def progressapi(self, req: models.ProgressRequest = Depends()):  # noqa: B008  (fastapi's way)
        state = shared.state
        if state.job_count == 0:
            return models.ProgressResponse(progress=0, eta_relative=0, state=state.dict(), textinfo=state.textinfo)

        done = 0.01  # as on the host, to have something to divide by
        if state.job_count > 0:
            done += state.job_no / state.job_count
        if state.sampling_steps > 0:
            done += state.sampling_step / state.sampling_steps / state.job_count
        elapsed = time.time() - state.time_start

        state.set_current_image()
        image = state.current_image
        return models.ProgressResponse(
            progress=min(done, 1), eta_relative=elapsed / done - elapsed, state=state.dict(), textinfo=state.textinfo,
            current_image=encode_pil_to_base64(image) if image and not req.skip_current_image else None)

    def interruptapi(self) -> dict:
        shared.state.interrupt()
        return {}

    def skip(self) -> None:
        shared.state.skip()

    def get_config(self) -> dict[str, Any]:
        return dict(opts.data)

    def set_config(self, req: dict[str, Any]) -> None:
        checkpoint = req.get("sd_model_checkpoint")
        if checkpoint is not None and checkpoint not in sd_models.checkpoint_aliases:
            raise RuntimeError(f"model {checkpoint!r} not found")
        for key, value in req.items():
            opts.set(key, value, is_api=True)
        opts.save(shared.config_filename)

    def get_cmd_flags(self) -> dict[str, Any]:
        return vars(shared.cmd_opts)

    def refresh_checkpoints(self) -> None:
        with self.queue_lock:
            sd_models.list_models()

    def _command(self, command: str) -> Response:
        shared.state.server_command = command
        return Response(command)

    def launch(self, server_name: str | None, port: int, root_path: str) -> None:
        self.app.include_router(self.router)
        uvicorn.run(self.app, host=server_name or "127.0.0.1", port=port, root_path=root_path, log_level="warning")
