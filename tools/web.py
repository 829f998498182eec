"""`make web`: write web/digits.html, one file that draws digits in a browser without a server.

It holds a student as an ONNX graph, ONNX Runtime Web and the page, and fetches nothing. npm
downloads ONNX Runtime Web once.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import html
import json
import math
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import torch
from torch import Tensor, nn

from src import model_file
from src.common.errors import UserError
from src.common.files import replacing
from src.diffusion.denoiser import Denoiser
from src.diffusion.samplers import Sampler
from src.distillation.students import student_sampler

MODEL = Path("students/student-2.safetensors")
PAGE, TEMPLATE = Path("web/digits.html"), Path("tools/web.html")
RUNTIME = "onnxruntime-web-1.27.0.tgz"
SHA512 = (
    "a200cbb2a228cc767089f3ee377ecea6ba00a346f25fab78dff6cff06cde6560"
    "560fa30e184c6cc05031deea78352fefbd604e836bb63d7a260eddeb3267504a"
)


class OneEvaluation(nn.Module):
    """x_t (B, 1, 28, 28) float32, t and label (B,) int64 -> the clipped x0, encoded."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.unet, self.margin = denoiser.unet, denoiser.config.margin
        for name in ("x0_per_x_t", "x0_per_output"):
            self.register_buffer(name, getattr(denoiser, name).float().view(-1, 1, 1, 1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        x0 = self.x0_per_x_t[t] * x + self.x0_per_output[t] * self.unet(x, t, label)
        return x0.clamp(-1 - self.margin, 1.0)


def onnx_graph(denoiser: Denoiser) -> bytes:
    """One evaluation of the network as an ONNX model, for any number of images."""
    batch = torch.export.Dim("batch", min=1, max=10_000)
    inputs = torch.zeros(2, 1, 28, 28), torch.ones(2).long(), torch.ones(2).long()
    program = torch.onnx.export(
        OneEvaluation(denoiser).eval(),
        inputs,
        dynamo=True,
        dynamic_shapes=({0: batch},) * 3,
        input_names=["x", "t", "label"],
        output_names=["x0"],
        verbose=False,
    )
    assert program is not None  # it is None only without dynamo
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces: a tenth of the file
    for value in (*model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    return model.SerializeToString()


def settings(denoiser: Denoiser, sampler: Sampler) -> dict:
    """What the page needs of each step of DDIM, from x_t to x_s (Song et al. 2021, eqs. 12, 16).

    x_s = alpha_next x0 + direction (x_t - alpha x0) + fresh noise. The last step ends in x0.
    """
    schedule = denoiser.schedule
    timesteps = sampler.timesteps(schedule)
    alphas, sigmas = schedule.alpha[timesteps].tolist(), schedule.sigma[timesteps].tolist()
    log_snrs = schedule.log_snr[timesteps].tolist()
    steps = []
    for i, t in enumerate(timesteps):
        step = {"t": t, "alpha": alphas[i], "alpha_next": 1.0, "direction": 0.0, "fresh": 0.0}
        if i + 1 < len(timesteps):
            added = -math.expm1(log_snrs[i] - log_snrs[i + 1])
            fresh = sampler.eta * sigmas[i + 1] * math.sqrt(added)
            step["alpha_next"], step["fresh"] = alphas[i + 1], fresh
            step["direction"] = math.sqrt(sigmas[i + 1] ** 2 - fresh**2) / sigmas[i]
        steps.append(step)
    return {"steps": steps}


def runtime(folder: Path) -> tuple[bytes, bytes]:
    """ONNX Runtime Web: its JavaScript module and its WebAssembly. Downloads it into `folder`.

    Raises UserError if npm is missing or fails, or if the package is another.
    """
    path = folder / RUNTIME
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _download(folder)
    digest = hashlib.sha512(path.read_bytes()).hexdigest()
    if digest != SHA512:
        raise UserError(f"{path}: expected the sha512 {SHA512}, got {digest}. Delete the file")
    names = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
    with tarfile.open(path) as package:
        javascript, wasm = (_member(package, name) for name in names)
    return javascript, wasm


def _download(folder: Path) -> None:
    npm = shutil.which("npm")
    name, _, version = RUNTIME.removesuffix(".tgz").rpartition("-")
    if npm is None:
        raise UserError(
            f"npm: not found in the path. It downloads ONNX Runtime Web. Install Node.js, or put "
            f"{RUNTIME} into {folder}"
        )
    command = [npm, "pack", f"{name}@{version}", "--pack-destination", str(folder), "--silent"]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise UserError(f"npm could not download {RUNTIME}: {process.stderr.strip()[-500:]}")


def _member(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(f"package/dist/{name}")
    assert file is not None  # the sha512 fixes the content
    return file.read()


def packed(content: bytes) -> str:
    """gzip in base64: without characters that mean something in HTML."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def page(denoiser: Denoiser, sampler: Sampler, dataset: str, folder: Path) -> str:
    """The whole page. It names the data set of the training.

    Raises UserError if the model does not fit it, and as `runtime` does.
    """
    unet = denoiser.config.unet
    shape = unet.image_channels, unet.image_size, unet.classes
    if shape != (1, 28, 10):
        raise UserError(
            f"the page draws grey digits of 28x28 pixels in 10 classes; this model has "
            f"{shape[0]} channels, {shape[1]}x{shape[1]} pixels and {shape[2]} classes"
        )
    javascript, wasm = runtime(folder)
    parameters = sum(weights.numel() for weights in denoiser.unet.parameters())
    blocks = {
        "DATASET": html.escape(dataset),
        "PARAMETERS": f"{parameters:,}",
        "EVALUATIONS": str(sampler.steps),
        "SETTINGS": json.dumps(settings(denoiser, sampler)),
        "RUNTIME": packed(javascript),
        "WASM": packed(wasm),
        "MODEL": packed(onnx_graph(denoiser)),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, block in blocks.items():
        text = text.replace(f"{{{{{name}}}}}", block)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="a student")
    path = parser.parse_args().model
    try:
        denoiser, about = model_file.load(path)
        if not about.get("evaluations"):
            raise UserError(f"{path}: expected a student. `make student` makes them")
        text = page(denoiser, student_sampler(about), about["dataset"], Path(".scratch"))
    except (UserError, OSError) as error:
        sys.exit(f"web: {error}")
    PAGE.parent.mkdir(exist_ok=True)
    with replacing(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"web: wrote {PAGE}, {len(text) / 1e6:.1f} MB. Open it in a browser, or send it")


if __name__ == "__main__":
    main()
