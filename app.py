"""The demo's page: draw digits with a trained model, and leaf through the steps from noise.

`make demo` starts it, for this machine alone. src/demo/request.py bounds what a visitor may ask
for, src/demo/trajectory.py draws it.
"""

from __future__ import annotations

import html
import random
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator
from torch import Tensor

from src import model_file, params
from src.common.errors import UserError
from src.demo import trajectory
from src.demo.request import MAX_GUIDANCE, MAX_IMAGES, MAX_SEED, MAX_STEPS, Request
from src.demo.trajectory import Trajectory
from src.diffusion.denoiser import Denoiser
from src.diffusion.samplers import MAX_ETA
from src.show import animation

METHODS = {
    "sa-solver": "SA-Solver",
    "sde-dpmsolver++": "DPM-Solver++ with fresh noise",
    "dpmsolver++": "DPM-Solver++(2M)",
    "ddim": "DDIM",
    "ddpm": "DDPM",
}
SPACINGS = {
    "logsnr": "equal in log-SNR",
    "trailing": "equal in t, from the end",
    "leading": "equal in t, from the start",
}
VIEWS = {"x_t": "noisy image", "x0": "predicted image"}
MAX_DIGITS = 12  # of a number
KEPT_BYTES = 2**26  # of trajectories per session, so that going back to earlier settings is free
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
    """Noise that turns into an image, from left to right.

    It is drawn here because the browser would fetch a named icon from the network.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16)) * np.linspace(1, 0, 16)
    return Image.fromarray(pixels.astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)


def main() -> None:
    st.set_page_config(page_title="Digits from noise", page_icon=icon(), layout="centered")
    st.html(STYLE)
    st.title("Digits from noise", anchor=False)
    models = {
        path.stem: path
        for path in sorted(Path("models").glob("*.safetensors"))
        if path.stem != "classifier"
    }
    if not models:
        st.info(NO_MODEL)
        return
    try:
        settings = params.load().sample
        with st.sidebar:
            requests, columns = what_to_draw(models, settings)
        # A box of fixed height for the progress bar, so that nothing below it jumps.
        slot = st.container(height=44, border=False)
        trajectories = [draw(slot, name, request) for name, request in requests]
    except (UserError, OSError) as error:
        st.error(str(error), icon=":material/error:")
        return
    slot.caption(about(models[requests[0][0]]))
    leaf_through(list(zip(headings(requests), trajectories, strict=True)), columns)


# --- what to draw ---------------------------------------------------------------------------------


def what_to_draw(
    models: dict[str, Path], settings: params.Sample
) -> tuple[list[tuple[str, Request]], int]:
    """All widgets of the sidebar: (model name, request) of each panel, and images per row."""
    digits, columns = which_digits(count_classes(models))
    images = {"seed": which_seed(), "digits": digits, "count": len(digits)}
    requests = [how_to_draw("first", models, settings, images)]
    if st.toggle(
        "Compare with another", key="compare", help="a second sampler or model, from the same noise"
    ):
        requests.append(how_to_draw("second", models, settings, images))
    return requests, columns


def count_classes(models: dict[str, Path]) -> int:
    """Classes of the first panel's model; 0 if it cannot be read, which its own widget reports."""
    name = st.session_state.get("first_model", default_model(models))
    try:
        denoiser, _ = open_model(models[name if name in models else default_model(models)])
    except (UserError, OSError):
        return 0
    return denoiser.config.unet.classes


def default_model(models: dict[str, Path]) -> str:
    return "model" if "model" in models else next(iter(models))


def which_seed() -> int:
    st.session_state.setdefault("seed", 0)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    seed = left.number_input(
        "Seed",
        0,
        MAX_SEED,
        key="seed",
        help="image k follows from this and from k alone, so the same seed starts every "
        "sampler from the same noise",
    )
    right.button(
        "Another",
        key="another",
        on_click=change_seed,
        width="stretch",
        help="a seed drawn at random",
    )
    return int(seed)


def change_seed() -> None:
    others = [n for n in range(10_000) if n != st.session_state["seed"]]
    st.session_state["seed"] = random.choice(others)


def which_digits(classes: int) -> tuple[tuple[int, ...], int]:
    """The class of each image, row by row (zeros if there are no classes), and images per row."""
    if not classes:
        count = st.slider("How many", 1, MAX_IMAGES, 40, key="count")
        return (0,) * count, min(count, 10)
    kinds = ["All", "One class"] + ["A number"] * (classes == 10)
    kind = st.segmented_control(
        "Draw", kinds, default="All", required=True, key="kind", width="stretch"
    )
    if kind == "All":
        most = max(1, min(10, MAX_IMAGES // classes))
        each = st.slider("How many of each", 1, most, most, key="each") if most > 1 else 1
        shown = range(min(classes, MAX_IMAGES))
        return tuple(c for c in shown for _ in range(each)), each if each > 1 else min(classes, 10)
    if kind == "One class":
        digit = st.selectbox("Which", range(classes), key="class")
        count = st.slider("How many", 1, MAX_IMAGES, 40, key="count")
        return (digit,) * count, min(count, 10)
    return digits_of_number()


def digits_of_number() -> tuple[tuple[int, ...], int]:
    """The digits of a number that the visitor types, in as many rows as chosen, and its length."""
    number = st.text_input(
        "Which number",
        "2026",
        max_chars=MAX_DIGITS,
        key="number",
        help="each digit is drawn on its own",
    )
    if not (number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS):
        st.error(f"expected up to {MAX_DIGITS} digits, such as 2026, found {number!r}")
        # Draw the last good number, so that all other settings stay as they are, too.
        number = st.session_state.get("last_number", "2026")
    st.session_state["last_number"] = number
    rows = st.slider("How often", 1, min(8, MAX_IMAGES // MAX_DIGITS), 1, key="rows")
    return tuple(map(int, number)) * rows, len(number)


def how_to_draw(
    panel: str, models: dict[str, Path], settings: params.Sample, images: dict
) -> tuple[str, Request]:
    """Widgets for a panel's model and sampler ("first" or "second").

    Returns the model's name and the request for `images` (seed, digits, count).
    """
    with st.container(border=panel == "second"):
        name = which_model(panel, models)
        denoiser, _ = open_model(models[name])
        first_method = settings.method if panel == "first" else "ddim"
        method = st.selectbox(
            "Sampler",
            METHODS,
            list(METHODS).index(first_method),
            METHODS.get,
            key=f"{panel}_method",
        )
        limit = min(MAX_STEPS, len(denoiser.schedule))
        steps = st.slider("Steps", 1, limit, min(settings.steps, limit), key=f"{panel}_steps")
        spacing = st.selectbox(
            "Which timesteps",
            SPACINGS,
            list(SPACINGS).index(settings.spacing),
            SPACINGS.get,
            key=f"{panel}_spacing",
        )
        eta = how_much_noise(panel, method, settings)
        guidance = how_much_guidance(panel, denoiser, settings)
    if not denoiser.config.unet.classes:
        images = images | {"digits": None}
    request = Request.of(method=method, steps=steps, spacing=spacing, eta=eta, **guidance, **images)
    return name, request


def which_model(panel: str, models: dict[str, Path]) -> str:
    names = list(models)
    if len(names) == 1:
        return names[0]
    return st.selectbox(
        "Model",
        names,
        names.index(default_model(models)),
        key=f"{panel}_model",
        help="files in models/; docs/demo.md says "
        "how to put one of an experiment beside it, to compare schedules",
    )


def how_much_noise(panel: str, method: str, settings: params.Sample) -> float:
    """The sampler's eta, 0 for methods that have none."""
    if method not in MAX_ETA:
        return 0.0
    default = settings.eta if method == settings.method else 0.0 if method == "ddim" else 1.0
    return st.slider(
        "Fresh noise (eta)",
        0.0,
        MAX_ETA[method],
        default,
        0.05,
        key=f"{panel}_eta_{method}",
        help="1: as much as the "
        "reverse diffusion has; 0: none, the image follows from the first noise alone",
    )


def how_much_guidance(panel: str, denoiser: Denoiser, settings: params.Sample) -> dict:
    """The sampler's four guidance fields, without guidance that the model was not trained for."""
    guidance = autoguidance = 1.0
    if denoiser.conditional and denoiser.config.label_dropout:
        guidance = st.slider(
            "Guidance to the class",
            0.0,
            MAX_GUIDANCE,
            min(settings.guidance, MAX_GUIDANCE),
            0.05,
            key=f"{panel}_guidance",
            help="1: none; more: surer digits, less variety; 0: the class is not told",
        )
    if denoiser.guide is not None:
        autoguidance = st.slider(
            "Away from the early self",
            0.0,
            MAX_GUIDANCE,
            min(settings.autoguidance, MAX_GUIDANCE),
            0.05,
            key=f"{panel}_autoguidance",
            help="autoguidance: 1: none; more: away from what the model drew early on",
        )
    interval = settings.guidance_interval if guidance != 1 else None
    auto_interval = settings.autoguidance_interval if autoguidance != 1 else None
    within = (interval or auto_interval) and st.toggle(
        "Guide only where digits take shape",
        True,
        key=f"{panel}_within",
        help="between the log-SNR of params.yaml",
    )
    return {
        "guidance": guidance,
        "autoguidance": autoguidance,
        "guidance_interval": list(interval) if interval and within else None,
        "autoguidance_interval": list(auto_interval) if auto_interval and within else None,
    }


def headings(requests: list[tuple[str, Request]]) -> list[str]:
    """For each panel its sampler and steps, and whatever else differs between the panels."""
    panels = [dict(request) | {"model": name} for name, request in requests]
    always = ("method", "steps", "digits")
    differing = [
        key
        for key in panels[0]
        if key not in always and any(panel[key] != panels[0][key] for panel in panels)
    ]
    texts = []
    for panel in panels:
        differences = [f"{key.replace('_', ' ')} {panel[key]}" for key in differing]
        texts.append(", ".join([METHODS[panel["method"]], f"{panel['steps']} steps", *differences]))
    return texts


# --- drawing it -----------------------------------------------------------------------------------


def open_model(path: Path) -> tuple[Denoiser, dict]:
    """The model and what its file says about it.

    Opened once for all sessions, and again when the file has changed.
    """
    return _open_model(str(path), path.stat().st_mtime_ns)


@st.cache_resource(max_entries=4, show_spinner=False)
def _open_model(path: str, changed: int) -> tuple[Denoiser, dict]:
    return model_file.open_model(path, "auto")


def draw(slot: DeltaGenerator, name: str, request: Request) -> Trajectory:
    """The trajectory of a request, computed once a session, with a progress bar in `slot`."""
    path = Path("models", f"{name}.safetensors")
    kept: dict[object, Trajectory] = st.session_state.setdefault("trajectories", {})
    key = (name, path.stat().st_mtime_ns, request)
    if key in kept:
        kept[key] = kept.pop(key)  # the latest goes last
        return kept[key]
    denoiser, _ = open_model(path)
    labels = request.labels(denoiser)
    bar = slot.progress(0.0, "Drawing")
    kept[key] = trajectory.compute(
        denoiser,
        request.sampler,
        request.seed,
        request.count,
        labels,
        lambda done: bar.progress(done / request.steps, f"Drawing, step {done} of {request.steps}"),
    )
    bar.empty()
    while len(kept) > 2 and sum(steps.nbytes for steps in kept.values()) > KEPT_BYTES:
        del kept[next(iter(kept))]
    return kept[key]


def about(path: Path) -> str:
    denoiser, header = open_model(path)
    data = header.get("dataset", "unknown data")
    schedule, prediction = denoiser.config.schedule.name, denoiser.config.prediction
    weights = sum(weight.numel() for weight in denoiser.unet.parameters())
    return f"{data}, {schedule} schedule, predicts {prediction}, {weights:,} parameters"


# --- looking at it --------------------------------------------------------------------------------


@st.fragment
def leaf_through(panels: list[tuple[str, Trajectory]], columns: int) -> None:
    """The images at one step. The slider shows what was kept and computes nothing."""
    last = max(len(steps) for _, steps in panels)
    key = f"position_{last}"
    st.session_state.setdefault(key, last)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        step_button("previous", "left", key, -1, last)
        position = st.slider("Step", 0, last, key=key, format="%d", label_visibility="collapsed")
        step_button("next", "right", key, 1, last)
    view = st.segmented_control(
        "Show",
        list(VIEWS),
        format_func=VIEWS.get,
        default="x_t",
        required=True,
        key="view",
        label_visibility="collapsed",
        width="stretch",
    )
    places = st.columns(len(panels))
    for number, (place, (heading, steps)) in enumerate(zip(places, panels, strict=True)):
        i = round(position * len(steps) / last)
        with place:
            if len(panels) > 1:
                st.html(f'<div class="heading">{html.escape(heading)}</div>')
            st.html(f'<div class="where">{where(steps, i)}</div>')
            show_images(number, view, steps.x_t if view == "x_t" else steps.x0, i, columns)


def show_images(panel: int, view: str, states: Tensor, i: int, columns: int) -> None:
    """The images of `states` (S + 1, N, C, H, W) at position i, with buttons to download them."""
    # The browser enlarges the picture. It is a PNG because JPEG would be smeared.
    st.image(
        animation.png(states[i], columns, 1),
        width="stretch" if columns > 5 else columns * 112,
        output_format="PNG",
    )
    rows = -(-states.shape[1] // columns)
    scale = max(1, 1120 // (max(columns, rows) * states.shape[-1]))
    with st.container(horizontal=True):
        st.download_button(
            "PNG",
            lambda: animation.png(states[i], columns, scale),
            f"digits_{view}_step_{i}.png",
            "image/png",
            key=f"png_{panel}",
            on_click="ignore",
            icon=":material/download:",
            help="this picture, enlarged",
        )
        st.download_button(
            "GIF",
            lambda: animation.gif(states, columns, -(-scale // 2)),
            f"digits_{view}.gif",
            "image/gif",
            key=f"gif_{panel}",
            on_click="ignore",
            icon=":material/animation:",
            help="all steps, animated",
        )


def step_button(name: str, side: str, key: str, by: int, last: int) -> None:
    """Moves the session's position `key` by so many steps, within 0 to `last`."""

    def move() -> None:
        st.session_state[key] = min(max(st.session_state[key] + by, 0), last)

    st.button(
        "",
        icon=f":material/chevron_{side}:",
        key=name,
        help=f"{name} step",
        on_click=move,
        disabled=not 0 <= st.session_state[key] + by <= last,
    )


def where(steps: Trajectory, i: int) -> str:
    """HTML that describes position `i`: its step, timestep and noise level."""
    if i == len(steps):
        return f"Finished, after {len(steps)} steps.<br>No noise is left."
    before = "Pure noise, before" if i == 0 else "Before"
    log_snr = f"{steps.log_snr[i]:+.2f}".replace("-", "−")
    return (
        f"{before} step {i + 1} of {len(steps)}: t = {steps.timesteps[i]}<br>"
        f"noise level σ = {steps.sigma[i]:.4f}, log-SNR = {log_snr}"
    )


main()
