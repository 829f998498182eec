"""The demo: draw digits with a trained model and leaf through the steps from noise. `make demo` starts it, on this machine alone.

Here are the page and its widgets. What may be asked for is in src/request.py, how it is drawn in src/trajectory.py.
"""

from __future__ import annotations

import html
import math
import random
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator

from src import drawing, params, pictures, trajectory
from src.common.errors import UserError
from src.diffusion.denoiser import Denoiser
from src.params import MOST_ETA
from src.request import MOST_GUIDANCE, MOST_IMAGES, MOST_SEED, MOST_STEPS, Request
from src.trajectory import Trajectory

METHODS = {
    "sa-solver": "SA-Solver", "sde-dpmsolver++": "DPM-Solver++ with fresh noise", "dpmsolver++": "DPM-Solver++(2M)",
    "ddim": "DDIM", "ddpm": "DDPM",
}
SPACINGS = {"logsnr": "equal in log-SNR", "trailing": "equal in t, from the end", "leading": "equal in t, from the start"}
MOST_DIGITS = 12  # of a number
KEPT_BYTES = 2**26  # of walks, per session, so that going back to earlier settings costs nothing
NO_MODEL = """
**No model yet.** Get one, then reload this page:

- `dvc pull models/model.safetensors` fetches the committed one, offline;
- `make run` trains your own; `make run DATA=digits` one of 8x8 digits, in a few minutes.
"""
STYLE = """<style>
[data-testid="stImage"] img {image-rendering: pixelated; border-radius: 4px; background: #000}
[data-testid="stMainBlockContainer"] {padding-top: 3rem; padding-bottom: 2rem}
.heading {font-weight: 600; min-height: 3em}
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
            digits, columns = what_to_draw(classes_of(models))
            wanted = {"seed": seed(), "digits": digits, "count": len(digits)}
            asked = [how_to_draw("first", models, settings, wanted)]
            if st.toggle("Compare with another", key="compare", help="a second sampler or model, from the same noise"):
                asked.append(how_to_draw("second", models, settings, wanted))
        slot = st.container(height=44, border=False)  # where progress is told, so that nothing below jumps
        found = [drawn(slot, name, request) for name, request in asked]
    except (UserError, OSError) as error:
        st.error(str(error), icon=":material/error:")
        return
    slot.caption(about(models[asked[0][0]]))
    leaf_through(list(zip(headings(asked), found, strict=True)), columns)


# --- what to draw ----------------------------------------------------------------------------------------------------


def classes_of(models: dict[str, Path]) -> int:
    """How many classes the model has that the page shows; 0 where it cannot be read, which its own widget tells."""
    chosen = st.session_state.get("first_model", default_of(models))
    try:
        return opened(models[chosen if chosen in models else default_of(models)])[0].config.unet.classes
    except (UserError, OSError):
        return 0


def default_of(models: dict[str, Path]) -> str:
    return "model" if "model" in models else next(iter(models))


def seed() -> int:
    st.session_state.setdefault("seed", 0)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    chosen = left.number_input(
        "Seed", 0, MOST_SEED, key="seed", help="image k follows from this and from k alone, so the same seed starts every "
        "sampler from the same noise",
    )
    right.button("Another", key="another", on_click=another_seed, width="stretch", help="a seed drawn at random")
    return int(chosen)


def another_seed() -> None:
    st.session_state["seed"] = random.choice([n for n in range(10_000) if n != st.session_state["seed"]])


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
        return tuple(c for c in shown for _ in range(each)), each if each > 1 else min(classes, 10)
    if kind == "One class":
        chosen = st.selectbox("Which", range(classes), key="class")
        count = st.slider("How many", 1, MOST_IMAGES, 40, key="count")
        return (chosen,) * count, min(count, 10)
    typed = st.text_input("Which number", "2026", max_chars=MOST_DIGITS, key="number", help="each digit is drawn on its own")
    if not (typed.isascii() and typed.isdigit() and len(typed) <= MOST_DIGITS):
        st.error(f"expected up to {MOST_DIGITS} digits, such as 2026, found {typed!r}")
        typed = st.session_state.get("last_number", "2026")  # all other settings stay as they are, too
    st.session_state["last_number"] = typed
    rows = st.slider("How often", 1, min(8, MOST_IMAGES // MOST_DIGITS), 1, key="rows")
    return tuple(map(int, typed)) * rows, len(typed)


def how_to_draw(key: str, models: dict[str, Path], settings: params.Sample, wanted: dict) -> tuple[str, Request]:
    """Widgets for the model and its sampler: the model's name, and all of what is asked of it."""
    names = list(models)
    with st.container(border=key == "second"):
        name = st.selectbox(
            "Model", names, names.index(default_of(models)), key=f"{key}_model", help="files in models/; docs/demo.md says "
            "how to put one of an experiment beside it, to compare schedules",
        ) if len(names) > 1 else names[0]
        model, _ = opened(models[name])
        method = st.selectbox(
            "Sampler", METHODS, list(METHODS).index(settings.method if key == "first" else "ddim"), METHODS.get,
            key=f"{key}_method",
        )
        limit = min(MOST_STEPS, len(model.schedule))
        steps = st.slider("Steps", 1, limit, min(settings.steps, limit), key=f"{key}_steps")
        spacing = st.selectbox(
            "Which timesteps", SPACINGS, list(SPACINGS).index(settings.spacing), SPACINGS.get, key=f"{key}_spacing"
        )
        eta = 0.0
        if method in MOST_ETA:
            usual = settings.eta if method == settings.method else 0.0 if method == "ddim" else 1.0
            eta = st.slider(
                "Fresh noise (eta)", 0.0, MOST_ETA[method], usual, 0.05, key=f"{key}_eta_{method}", help="1: as much as the "
                "reverse diffusion has; 0: none, the image follows from the first noise alone",
            )
        guidance = autoguidance = 1.0
        if model.conditional and model.config.label_dropout:
            guidance = st.slider(
                "Guidance to the class", 0.0, MOST_GUIDANCE, min(settings.guidance, MOST_GUIDANCE), 0.05, key=f"{key}_guidance",
                help="1: none; more: surer digits, less variety; 0: the class is not told",
            )
        if model.guide is not None:
            autoguidance = st.slider(
                "Away from the early self", 0.0, MOST_GUIDANCE, min(settings.autoguidance, MOST_GUIDANCE), 0.05,
                key=f"{key}_autoguidance", help="autoguidance: 1: none; more: away from what the model drew early on",
            )
        within = False
        if (guidance != 1 and settings.guidance_interval) or (autoguidance != 1 and settings.autoguidance_interval):
            within = st.toggle(
                "Guide only where digits take shape", True, key=f"{key}_within", help="between the log-SNR of params.yaml"
            )
    return name, Request.of(
        method=method, steps=steps, spacing=spacing, eta=eta, guidance=guidance, autoguidance=autoguidance,
        guidance_interval=interval(settings.guidance_interval, within and guidance != 1),
        autoguidance_interval=interval(settings.autoguidance_interval, within and autoguidance != 1),
        **wanted | {"digits": wanted["digits"] if model.config.unet.classes else None},
    )


def interval(bounds: list[float] | None, within: bool) -> tuple[float, float] | None:
    return (bounds[0], bounds[1]) if bounds and within else None


def headings(asked: list[tuple[str, Request]]) -> list[str]:
    """What tells the panels apart: sampler and steps, and whatever else is not the same in both."""
    fields = [dict(request) | {"model": name} for name, request in asked]
    others = [key for key in fields[0] if any(field[key] != fields[0][key] for field in fields)]
    others = [key for key in others if key not in ("method", "steps", "digits")]
    found = []
    for field in fields:
        told = [METHODS[field["method"]], f"{field['steps']} steps", *(f"{key.replace('_', ' ')} {field[key]}" for key in others)]
        found.append(", ".join(told))
    return found


# --- drawing it ------------------------------------------------------------------------------------------------------


def opened(path: Path) -> tuple[Denoiser, dict]:
    """The model and what its file says; opened once for all sessions, and again when the file has changed."""
    return _opened(str(path), path.stat().st_mtime_ns)


@st.cache_resource(max_entries=4, show_spinner=False)
def _opened(path: str, changed: int) -> tuple[Denoiser, dict]:
    return drawing.open_model(path, "auto")


def drawn(slot: DeltaGenerator, name: str, request: Request) -> Trajectory:
    """The trajectory that was asked for: computed once a session, with progress told in `slot`."""
    path = Path("models", f"{name}.safetensors")
    kept: dict[object, Trajectory] = st.session_state.setdefault("walks", {})
    key = (name, path.stat().st_mtime_ns, request)
    if key in kept:
        kept[key] = kept.pop(key)  # the last one asked for goes last
        return kept[key]
    model, _ = opened(path)
    labels = request.labels(model)
    bar = slot.progress(0.0, "Drawing")
    found = trajectory.compute(
        model, request.sampler(), request.seed, request.count, labels,
        lambda done: bar.progress(done / request.steps, f"Drawing, step {done} of {request.steps}"),
    )
    bar.empty()
    kept[key] = found
    while len(kept) > 2 and sum(walk.nbytes for walk in kept.values()) > KEPT_BYTES:
        del kept[next(iter(kept))]
    return found


def about(path: Path) -> str:
    model, said = opened(path)
    config = model.config
    data, weights = said.get("dataset", "unknown data"), sum(weight.numel() for weight in model.unet.parameters())
    return f"{data}, {config.schedule.name} schedule, predicts {config.prediction}, {weights:,} parameters"


# --- looking at it ---------------------------------------------------------------------------------------------------


@st.fragment
def leaf_through(panels: list[tuple[str, Trajectory]], columns: int) -> None:
    """The images at one moment of their way. Moving the slider shows what was kept and computes nothing."""
    most = max(len(found) for _, found in panels)
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
    for k, (place, (heading, found)) in enumerate(zip(st.columns(len(panels)), panels, strict=True)):
        i = round(position * len(found) / most)
        states = found.x_t if view == "x_t" else found.x0
        with place:
            if len(panels) > 1:
                st.html(f'<div class="heading">{html.escape(heading)}</div>')
            st.html(f'<div class="where">{where(found, i)}</div>')
            picture, width = pictures.png(states[i], columns, 1), "stretch" if columns > 5 else columns * 112
            st.image(picture, width=width, output_format="PNG")  # the browser enlarges it; as JPEG it would be smeared
            rows = -(-states.shape[1] // columns)
            scale = max(1, 1120 // (max(columns, rows) * states.shape[-1]))
            file = f"digits_{view}_step_{i}"
            with st.container(horizontal=True):
                st.download_button(
                    "PNG", lambda s=states, i=i, c=columns, k=scale: pictures.png(s[i], c, k), f"{file}.png", "image/png",
                    key=f"png_{k}", on_click="ignore", icon=":material/download:", help="this picture, enlarged",
                )
                st.download_button(
                    "GIF", lambda s=states, c=columns, k=-(-scale // 2): pictures.gif(s, c, k), f"digits_{view}.gif",
                    "image/gif", key=f"gif_{k}", on_click="ignore", icon=":material/animation:", help="all steps, animated",
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
