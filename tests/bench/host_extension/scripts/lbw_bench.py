"""Measures a running WebUI from inside, for tests/bench/real_host.py. Not part of the extension.

``POST /lbw-bench/begin`` {"loras": {name: path}}: what comes is measured. ``GET /lbw-bench/end``: what was.

For each pass: when it began, and for each of its evaluations when it was announced, when all extensions had been
called for that, and when it was done, in seconds; the GPU is waited for at each of these moments. For some layers, the
strength of each LoRA in each evaluation, measured from the weights: least squares of what was added to them, by what
the LoRA's file adds at strength 1. At the end, in which layers the pristine weights are not back, bit for bit.

The environment variable ``CAP_GIB`` makes a GPU look and behave like one with so much memory.
"""

import os
import time

import torch
from fastapi import Body
from safetensors.torch import load_file
from torch import nn

from modules import script_callbacks, scripts, shared

CUDA = torch.cuda.is_available()
CAP_GIB = float(os.environ.get("CAP_GIB") or 0)
BODY = Body(default={})
WATCHED = 4
"""So many layers of each LoRA are measured in each evaluation."""


def cap_memory(gib):
    total, limit = torch.cuda.get_device_properties(0).total_memory, int(gib * 2**30)
    torch.cuda.set_per_process_memory_fraction(limit / total)

    def mem_get_info(_device=None):
        return max(limit - torch.cuda.memory_reserved(), 0), limit

    torch.cuda.mem_get_info = torch.cuda.memory.mem_get_info = mem_get_info


if CUDA and CAP_GIB:
    cap_memory(CAP_GIB)


class Base:
    """The weights of a model's layers before any network: a fingerprint of all, and a few as they are."""

    def __init__(self):
        self.model = None
        self.fingerprints = {}
        self.weights = {}

    def take(self, watched):
        """Take what is not known yet of the model in use; only right while no network is in its weights."""
        if self.model is not shared.sd_model:
            self.model, self.weights = shared.sd_model, {}
            self.fingerprints = {name: fingerprint(layer.weight) for name, layer in layers().items()}
        for name in watched:
            if name not in self.weights:
                self.weights[name] = layers()[name].weight.detach().to("cpu", copy=True)

    def differing(self):
        return [name for name, layer in layers().items() if fingerprint(layer.weight) != self.fingerprints[name]]


def layers():
    mapping = getattr(shared.sd_model, "network_layer_mapping", {})
    return {name: layer for name, layer in mapping.items() if isinstance(layer, nn.Linear | nn.Conv2d)}


def fingerprint(weight):
    """Of all bits, and of where they are."""
    weight = weight.detach().to("cuda" if CUDA else "cpu").contiguous()
    bits = weight.view(torch.int16 if weight.itemsize == 2 else torch.int32).flatten().long()
    places = torch.arange(len(bits), device=bits.device) % 8191 + 1
    return int(bits.sum()), int((bits * places).sum())


def deltas_of(path):
    """{layer name of the host: what the LoRA adds at strength 1}, for some linear layers of the U-Net, in float64."""
    tensors = load_file(path)
    prefixes = [key[: -len(".lora_up.weight")] for key in tensors if key.endswith(".lora_up.weight")]
    found = {}
    unet = [prefix for prefix in prefixes if prefix.startswith("lora_unet_")]
    for prefix in unet[:: max(1, len(unet) // WATCHED)][:WATCHED]:
        name = _host_name(prefix)
        if name in layers():
            up, down = (tensors[f"{prefix}.lora_{side}.weight"].double().flatten(1) for side in ("up", "down"))
            found[name] = up @ down * float(tensors[f"{prefix}.alpha"]) / down.shape[0]
    return found


def _host_name(prefix):
    import networks

    name = prefix.replace("lora_unet", "diffusion_model")
    return name if name in layers() else networks.convert_diffusers_name_to_compvis(prefix, False)


class Measurement:
    def __init__(self):
        self.is_on = False
        self.base = Base()
        self.passes, self.deltas = [], {}
        self.began = 0.0

    def begin(self, loras):
        self.is_on, self.passes = False, []
        self.deltas = {name: deltas_of(path) for name, path in loras.items()}
        self.base.take({layer for found in self.deltas.values() for layer in found})
        if CUDA:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.is_on, self.began = True, time.perf_counter()

    def now(self):
        if CUDA:
            torch.cuda.synchronize()
        return time.perf_counter() - self.began

    def pass_begins(self):
        self.passes.append({"began": self.now(), "evaluations": []})

    def announced(self, _params):
        if self.is_on and self.passes:
            self.passes[-1]["evaluations"].append({"announced": self.now()})

    def told(self, _params):
        if self.is_on and self.passes:
            self.passes[-1]["evaluations"][-1]["told"] = self.now()

    def done(self, _params):
        if self.is_on and self.passes:
            evaluation = self.passes[-1]["evaluations"][-1]
            evaluation["done"] = self.now()
            started = time.perf_counter()
            evaluation["strengths"] = self.strengths()
            self.began += time.perf_counter() - started

    def strengths(self):
        """{network: the least and the greatest strength of the watched layers}, of each layer on its own."""
        found = {name: [] for name in self.deltas}
        for layer in {layer for deltas in self.deltas.values() for layer in deltas}:
            names = [name for name in self.deltas if layer in self.deltas[name]]
            change = layers()[layer].weight.detach().cpu().double() - self.base.weights[layer].double()
            basis = torch.stack([self.deltas[name][layer].flatten() for name in names])
            solution = torch.linalg.solve(basis @ basis.T, basis @ change.flatten())
            for name, strength in zip(names, solution.tolist(), strict=True):
                found[name].append(strength)
        return {name: [min(values), max(values)] for name, values in found.items() if values}

    def memory(self):
        if not CUDA:
            return {}
        return {"peak": torch.cuda.max_memory_allocated(), "now": torch.cuda.memory_allocated()}


measurement = Measurement()


def put_outermost(callbacks):
    """Scripts may have put callbacks before ours, or behind, since."""
    own = {measurement.announced: 0, measurement.told: -1, measurement.done: -1}
    mine = [callback for callback in callbacks if callback.callback in own]
    for callback in mine:
        callbacks.remove(callback)
    for callback in mine:
        callbacks.insert(0 if own[callback.callback] == 0 else len(callbacks), callback)


script_callbacks.on_cfg_denoiser(measurement.announced)
script_callbacks.on_cfg_denoiser(measurement.told)
script_callbacks.on_cfg_denoised(measurement.done)

_before_sampling = scripts.ScriptRunner.process_before_every_sampling


def _process_before_every_sampling(self, p, **kwargs):
    if measurement.is_on:
        measurement.pass_begins()
    return _before_sampling(self, p, **kwargs)


if not hasattr(_before_sampling, "is_measured"):
    _process_before_every_sampling.is_measured = True
    scripts.ScriptRunner.process_before_every_sampling = _process_before_every_sampling


def app_started(_demo, app):
    @app.post("/lbw-bench/begin")
    def begin(body: dict = BODY):
        for key in ("callbacks_cfg_denoiser", "callbacks_cfg_denoised"):
            put_outermost(script_callbacks.callback_map[key])
            getattr(script_callbacks, "ordered_callbacks_map", {}).pop(key.removeprefix("callbacks_"), None)
        measurement.begin(body.get("loras", {}))
        return {"memory": measurement.memory()}

    @app.get("/lbw-bench/end")
    def end(checks_base: bool = False):
        took = measurement.now()
        measurement.is_on = False
        result = {"took": took, "passes": measurement.passes, "memory": measurement.memory()}
        if checks_base:
            result["not_pristine"] = measurement.base.differing()
        return result

    @app.get("/lbw-bench/about")
    def about():
        weight = next(iter(layers().values())).weight
        return {
            "device": torch.cuda.get_device_name() if CUDA else "CPU", "cap_gib": CAP_GIB, "torch": torch.__version__,
            "dtype": str(weight.dtype), "model": shared.sd_model.sd_checkpoint_info.name,
            "medvram": bool(shared.cmd_opts.medvram), "lowvram": bool(shared.cmd_opts.lowvram),
        }


script_callbacks.on_app_started(app_started)
