"""The demo: draw digits with a trained model and leaf through the steps from noise. `make demo` starts it, on this machine alone.

Here are the page and its widgets. What may be asked for is in src/request.py, how it is drawn in src/trajectory.py.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

from src import drawing, params, pictures, trajectory
from src.denoiser import Denoiser
from src.errors import UserError
from src.request import MOST_GUIDANCE, MOST_IMAGES, MOST_SEED, MOST_STEPS, Request
from src.trajectory import Trajectory

METHODS = {
    "sde-dpmsolver++": "DPM-Solver++ with fresh noise", "dpmsolver++": "DPM-Solver++(2M)", "ddim": "DDIM", "ddpm": "DDPM",
}
SPACINGS = {"logsnr": "equal in log-SNR", "trailing": "equal in t, from the end", "leading": "equal in t, from the start"}
KEPT_WALKS = 6  # per session, so that going back to earlier settings costs nothing
NO_MODEL = """
**No model yet.** Get one, then reload this page:

- `dvc pull models/model.safetensors` fetches the committed one, offline;
- `make run` trains your own; `make run DATA=digits` one of 8x8 digits, in a few minutes.
"""
STYLE = """<style>
[data-testid="stImage"] img {image-rendering: pixelated; border-radius: 4px; background: #000}
[data-testid="stMainBlockContainer"] {padding-top: 3rem; padding-bottom: 2rem}
.where {font-variant-numeric: tabular-nums; min-height: 3.2em; opacity: .8; font-size: .9rem}
</style>"""


def icon() -> Image.Image:
    """Noise that turns into an image, from left to right: drawn here, since named icons come from the network."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16)) * np.linspace(1, 0, 16)
    return Image.fromarray(pixels.astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)


def main() -> None:
    st.set_page_config(page_title="Digits from noise", page_icon=icon(), layout="centered")
    st.html(STYLE)
    st.title("Digits from noise", anchor=False)
    models = {path.stem: path for path in sorted(Path("models").glob("*.safetensors")) if path.stem != "classifier"}
    if not models:
        st.info(NO_MODEL)
        return
    try:
        settings = params.load().sample
        with st.sidebar:
            first, asked, columns = everything(models, settings)
            compare = st.toggle("Compare with another", key="compare", help="a second sampler or model, from the same noise")
            second, other = sampler_and_model("second", models, settings, asked) if compare else (None, None)
        slot = st.container(height=44, border=False)  # where progress is told, so that nothing below jumps
        panels = [(name_of(first, asked), walk(slot, first, asked), columns)]
        if second is not None and other is not None:
            panels.append((name_of(second, other), walk(slot, second, other), columns))
    except UserError as error:
        st.error(str(error), icon=":material/error:")
        return
    slot.caption(told(models[first]))
    leaf_through(panels)


# --- what to draw ----------------------------------------------------------------------------------------------------


def everything(models: dict[str, Path], settings: params.Sample) -> tuple[str, Request, int]:
    """The widgets of the sidebar: the name of a model, what to draw with it, and in how many columns to show that."""
    classes = opened(models[main_model(models)])[0].config.unet.classes
    digits, columns = what_to_draw(classes)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    seed = left.number_input(
        "Seed", 0, MOST_SEED, 0, key="seed", help="image k follows from this and from k alone, so the same seed starts every "
        "sampler from the same noise",
    )
    right.button("Another", key="another", on_click=another_seed, width="stretch", help="a seed drawn at random")
    base = {"seed": int(seed), "digits": digits if classes else None, "count": len(digits)}
    name, request = sampler_and_model("first", models, settings, base)
    return name, request, columns


def main_model(models: dict[str, Path]) -> str:
    chosen = st.session_state.get("first_model")
    return chosen if chosen in models else "model" if "model" in models else next(iter(models))


def another_seed() -> None:
    st.session_state["seed"] = random.randrange(10_000)


def what_to_draw(classes: int) -> tuple[tuple[int, ...], int]:
    """The class of each image, row by row (zeros where there are no classes), and how many make a row."""
    if not classes:
        count = st.slider("How many", 1, MOST_IMAGES, 40, key="count")
        return (0,) * count, min(count, 10)
    kinds = ["All", "One class"] + ["A number"] * (classes == 10)
    kind = st.segmented_control("Draw", kinds, default="All", required=True, key="kind", width="stretch")
    if kind == "All":
        most = max(1, min(10, MOST_IMAGES // classes))
        each = st.slider("How many of each", 1, most, most, key="each") if most > 1 else 1
        shown = range(min(classes, MOST_IMAGES))
        return tuple(c for c in shown for _ in range(each)), each
    if kind == "One class":
        chosen = st.selectbox("Which", range(classes), key="class")
        count = st.slider("How many", 1, MOST_IMAGES, 40, key="count")
        return (chosen,) * count, min(count, 10)
    typed = st.text_input("Which number", "2026", max_chars=12, key="number", help="up to 12 digits, each drawn on its own")
    if not typed.isascii() or not typed.isdigit():
        raise UserError(f"Which number: expected digits such as 2026, found {typed!r}")
    rows = st.slider("How often", 1, max(1, min(8, MOST_IMAGES // len(typed))), 1, key="rows")
    return tuple(map(int, typed)) * rows, len(typed)


def sampler_and_model(
    key: str, models: dict[str, Path], settings: params.Sample, base: Request | dict
) -> tuple[str, Request]:
    """Widgets for how to draw. The second of two starts from what the first draws."""
    same = {"seed": base.seed, "digits": base.digits, "count": base.count} if isinstance(base, Request) else base
    names = list(models)
    with st.container(border=key == "second"):
        name = st.selectbox(
            "Model", names, names.index(main_model(models)), key=f"{key}_model", help="files in models/; docs/demo.md says how "
            "to put one of an experiment beside it, to compare schedules",
        ) if len(names) > 1 else names[0]
        model, _ = opened(models[name])
        first = list(METHODS).index(settings.method if key == "first" else "ddim")
        method = st.selectbox("Sampler", METHODS, first, METHODS.get, key=f"{key}_method")
        limit = min(MOST_STEPS, len(model.schedule))
        steps = st.slider("Steps", 1, limit, min(settings.steps, limit), key=f"{key}_steps")
        spacing = st.selectbox(
            "Which timesteps", SPACINGS, list(SPACINGS).index(settings.spacing), SPACINGS.get, key=f"{key}_spacing"
        )
        eta = 0.0
        if method in ("ddim", "sde-dpmsolver++"):
            most = 1.0 if method == "ddim" else 2.0
            usual = 0.0 if method == "ddim" else min(settings.eta, most)
            eta = st.slider(
                "Fresh noise (eta)", 0.0, most, usual, 0.05, key=f"{key}_eta_{method}", help="1: as much as the reverse "
                "diffusion has; 0: none, the image follows from the first noise alone",
            )
        guidance = autoguidance = 1.0
        if model.conditional and model.config.label_dropout:
            guidance = st.slider(
                "Guidance to the class", 0.0, MOST_GUIDANCE, settings.guidance, 0.05, key=f"{key}_guidance",
                help="1: none; more: surer digits, less variety; 0: the class is not told",
            )
        if model.guide is not None:
            autoguidance = st.slider(
                "Away from the early self", 0.0, MOST_GUIDANCE, settings.autoguidance, 0.05, key=f"{key}_autoguidance",
                help="autoguidance: 1: none; more: away from what the model drew early in its training",
            )
        within = st.toggle(
            "Guide only where digits take shape", True, key=f"{key}_within", help="between the log-SNR of params.yaml",
        ) if guidance != 1 or autoguidance != 1 else False
    return name, Request.of(
        method=method, steps=steps, spacing=spacing, eta=eta, guidance=guidance, autoguidance=autoguidance,
        guidance_interval=interval(settings.guidance_interval, within),
        autoguidance_interval=interval(settings.autoguidance_interval, within), **same,
    )


def interval(bounds: list[float] | None, within: bool) -> tuple[float, float] | None:
    return (bounds[0], bounds[1]) if bounds and within else None


# --- drawing it ------------------------------------------------------------------------------------------------------


def opened(path: Path) -> tuple[Denoiser, dict]:
    """The model and what its file says; opened once for all sessions, and again when the file has changed."""
    return _opened(str(path), path.stat().st_mtime_ns)


@st.cache_resource(max_entries=4, show_spinner=False)
def _opened(path: str, changed: int) -> tuple[Denoiser, dict]:
    return drawing.open_model(path, "auto")


def walk(slot: st.delta_generator.DeltaGenerator, name: str, request: Request) -> Trajectory:
    """The trajectory that was asked for: computed once a session, with progress told in `slot`."""
    path = Path("models", f"{name}.safetensors")
    kept: dict[object, Trajectory] = st.session_state.setdefault("walks", {})
    key = (name, path.stat().st_mtime_ns, request)
    if key not in kept:
        model, _ = opened(path)
        labels = request.labels(model)
        bar = slot.progress(0.0, "Drawing")
        found = trajectory.compute(
            model, request.sampler(), request.seed, request.count, labels,
            lambda done: bar.progress(done / request.steps, f"Drawing, step {done} of {request.steps}"),
        )
        bar.empty()
        while len(kept) >= KEPT_WALKS:
            del kept[next(iter(kept))]
        kept[key] = found
    return kept[key]


def name_of(name: str, request: Request) -> str:
    return f"{METHODS[request.method]}, {request.steps} steps" + (f", {name}" if name != "model" else "")


def told(path: Path) -> str:
    model, about = opened(path)
    config = model.config
    data, weights = about.get("dataset", "unknown data"), sum(weight.numel() for weight in model.unet.parameters())
    return f"{data}, {config.schedule.name} schedule, predicts {config.prediction}, {weights:,} parameters"


# --- looking at it ---------------------------------------------------------------------------------------------------


@st.fragment
def leaf_through(panels: list[tuple[str, Trajectory, int]]) -> None:
    """The images at one moment of their way. Moving the slider shows what was kept and computes nothing."""
    most = max(len(found) for _, found, _ in panels)
    key = f"position_{most}"
    st.session_state.setdefault(key, most)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        step_button("previous", "left", key, -1, most)
        position = st.slider("Step", 0, most, key=key, format="%d", label_visibility="collapsed")
        step_button("next", "right", key, 1, most)
    view = st.segmented_control(
        "Show", ["x_t", "x0"], format_func={"x_t": "noisy image", "x0": "predicted image"}.get, default="x_t", required=True,
        key="view", label_visibility="collapsed", width="stretch",
    )
    for place, (name, found, columns) in zip(st.columns(len(panels)), panels, strict=True):
        i = round(position * len(found) / most)
        states = found.x_t if view == "x_t" else found.x0
        side = states.shape[-1]
        with place:
            if len(panels) > 1:
                st.markdown(f"**{name}**")
            st.html(f'<div class="where" data-position="{i}">{where(found, i)}</div>')
            picture, width = pictures.png(states[i], columns, 1), "stretch" if columns > 5 else columns * 112
            st.image(picture, width=width, output_format="PNG")  # the browser enlarges it; as JPEG it would be smeared
            scale = max(1, 1120 // (columns * side))
            file = f"digits_{view}_step_{i}"
            with st.container(horizontal=True):
                st.download_button(
                    "PNG", lambda s=states, i=i, c=columns, k=scale: pictures.png(s[i], c, k), f"{file}.png", "image/png",
                    key=f"png_{name}", on_click="ignore", icon=":material/download:", help="this picture, enlarged",
                )
                st.download_button(
                    "GIF", lambda s=states, c=columns, k=-(-scale // 2): pictures.gif(s, c, k), f"digits_{view}.gif",
                    "image/gif", key=f"gif_{name}", on_click="ignore", icon=":material/animation:", help="all steps, animated",
                )


def step_button(name: str, side: str, key: str, by: int, most: int) -> None:
    """Moves the position that the session keeps under `key` by so many steps, where it can."""
    def moved() -> None:
        st.session_state[key] = min(max(st.session_state[key] + by, 0), most)

    there = not 0 <= st.session_state[key] + by <= most
    st.button("", icon=f":material/chevron_{side}:", key=name, help=f"{name} step", on_click=moved, disabled=there)


def where(found: Trajectory, i: int) -> str:
    """What position `i` is, with its exact timestep and noise level."""
    if i == len(found):
        return f"Finished, after {len(found)} steps.<br>No noise is left."
    sigma = 1 / math.sqrt(1 + math.exp(found.log_snr[i]))
    before = "Pure noise, before" if i == 0 else "Before"
    return (
        f"{before} step {i + 1} of {len(found)}: t = {found.timesteps[i]}<br>"
        f"noise level σ = {sigma:.4f}, log-SNR = {format(found.log_snr[i], '+.2f').replace('-', '−')}"
    )


main()
