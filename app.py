"""The demo's page: draw digits with a trained model, and see each step from noise to image.

`make demo` starts it, for this machine alone. src/demo/request.py limits what a visitor may
request, and src/demo/trajectory.py draws it.
"""

from __future__ import annotations

import html
import random
import re
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator
from torch import Tensor

from src import model_file, params
from src.common.dataset import names_of_classes
from src.common.errors import UserError, printable
from src.demo import trajectory
from src.demo.request import MAX_GUIDANCE, MAX_IMAGES, MAX_SEED, MAX_STEPS, Request
from src.demo.trajectory import Trajectory
from src.diffusion.denoiser import Denoiser
from src.diffusion.samplers import MAX_ETA
from src.distillation.students import student_sampler
from src.show import animation

METHODS = {
    "sa-solver": "SA-Solver",
    "sde-dpmsolver++": "SDE-DPM-Solver++(2M)",
    "dpmsolver++": "DPM-Solver++(2M)",
    "unipc": "UniPC",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "heun": "Heun (two predictions a step)",
}
SPACINGS = {
    "logsnr": "equal in log-SNR",
    "trailing": "trailing (equal in t)",
    "leading": "leading (equal in t)",
    "karras": "Karras (equal in the 7th root of sigma)",
}
VIEWS = {"x_t": "noisy image", "x0": "predicted image"}
MAX_DIGITS = 12  # in a number
KEPT_BYTES = 2**26  # trajectories kept per session: going back to earlier settings is free
NO_MODEL = """
**No model yet.** Get one, then reload this page:

- `dvc pull models/model.safetensors` fetches the committed model. It needs no network.
- `make run` trains your own. `make run DATA=digits` trains one on 8x8 digits in a few minutes.
"""
STYLE = """<style>
[data-testid="stImage"] img {image-rendering: pixelated; border-radius: 4px; background: #000}
[data-testid="stMainBlockContainer"] {padding-top: 3rem; padding-bottom: 2rem}
.heading {font-weight: 600; min-height: 3em}
.where {font-variant-numeric: tabular-nums; min-height: 3.2em; opacity: .8; font-size: .9rem}
</style>"""


def icon() -> Image.Image:
    """The page's icon: noise that fades from left to right.

    It is drawn here, because the browser would fetch a named icon from the network.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16)) * np.linspace(1, 0, 16)
    return Image.fromarray(pixels.astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)


def main() -> None:
    st.set_page_config(page_title="Digits from noise", page_icon=icon(), layout="centered")
    st.html(STYLE)
    st.title("Digits from noise", anchor=False)
    folders = Path("models"), Path("students")
    paths = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    models = {path.stem: path for path in paths if path.stem != "classifier"}
    if not models:
        st.info(NO_MODEL)
        return
    try:
        settings = params.load().sample
        with st.sidebar:
            requests, columns = what_to_draw(models, settings)
        # A box of fixed height for the progress bar, so that nothing below it jumps.
        slot = st.container(height=44, border=False)
        trajectories = [draw(slot, models[name], request) for name, request in requests]
    except (UserError, OSError) as error:
        st.error(plain(printable(str(error))), icon=":material/error:")
        return
    slot.caption(plain(printable(about(models[requests[0][0]]))))
    step_through(list(zip(headings(requests), trajectories, strict=True)), columns)


def plain(text: str) -> str:
    """Markdown that shows `text` as it is. Text from files could load pictures from elsewhere."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


# --- what to draw ---------------------------------------------------------------------------------


def what_to_draw(
    models: dict[str, Path], settings: params.Sample
) -> tuple[list[tuple[str, Request]], int]:
    """Show the sidebar. Returns (model name, request) of each panel, and images per row."""
    digits, columns = which_digits(class_names(models))
    images = {"seed": which_seed(), "digits": digits, "count": len(digits)}
    requests = [how_to_draw("first", models, settings, images)]
    if st.toggle(
        "Compare with another",
        key="compare",
        help="Show a second sampler or model, from the same noise.",
    ):
        requests.append(how_to_draw("second", models, settings, images))
    return requests, columns


def class_names(models: dict[str, Path]) -> list[str]:
    """Classes of the first panel's model; [] if it cannot be read, which its panel then reports."""
    name = st.session_state.get("first_model", default_model(models))
    try:
        denoiser, about = open_model(models[name if name in models else default_model(models)])
    except (UserError, OSError):
        return []
    classes = denoiser.config.unet.classes
    return names_of_classes(about.get("class_names"), classes) if classes else []


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
        help="Image k depends on the seed and k alone, so all samplers start from the same noise.",
    )
    right.button(
        "Random",
        key="another",
        on_click=change_seed,
        width="stretch",
        help="Choose a seed at random.",
    )
    return int(seed)


def change_seed() -> None:
    others = [n for n in range(10_000) if n != st.session_state["seed"]]
    st.session_state["seed"] = random.choice(others)


def which_digits(names: list[str]) -> tuple[tuple[int, ...], int]:
    """The class of each image, row by row (zeros if there are no classes), and images per row.

    `names` are those of the classes.
    """
    classes = len(names)
    if not classes:
        count = st.slider("Images", 1, MAX_IMAGES, 40, key="count")
        return (0,) * count, min(count, 10)
    kinds = ["All", "One class"] + ["A number"] * (names == list("0123456789"))
    kind = st.segmented_control(
        "Draw", kinds, default="All", required=True, key="kind", width="stretch"
    )
    if kind == "All":
        most = max(1, min(10, MAX_IMAGES // classes))
        each = st.slider("Images per class", 1, most, most, key="each") if most > 1 else 1
        shown = range(min(classes, MAX_IMAGES))
        return tuple(c for c in shown for _ in range(each)), each if each > 1 else min(classes, 10)
    if kind == "One class":
        digit = st.selectbox("Class", range(classes), format_func=names.__getitem__, key="class")
        count = st.slider("Images", 1, MAX_IMAGES, 40, key="count")
        return (digit,) * count, min(count, 10)
    return digits_of_number()


def digits_of_number() -> tuple[tuple[int, ...], int]:
    """The digits of the number that the visitor types, repeated for each row, and its length."""
    number = st.text_input(
        "Number",
        "2026",
        max_chars=MAX_DIGITS,
        key="number",
        help="The model draws each digit on its own.",
    )
    if not (number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS):
        st.error(f"number: expected up to {MAX_DIGITS} digits, such as 2026, got {number!r}")
        # Draw the last good number, so that all other settings stay as they are, too.
        number = st.session_state.get("last_number", "2026")
    st.session_state["last_number"] = number
    rows = st.slider("Rows", 1, min(8, MAX_IMAGES // MAX_DIGITS), 1, key="rows")
    return tuple(map(int, number)) * rows, len(number)


def how_to_draw(
    panel: str, models: dict[str, Path], settings: params.Sample, images: dict
) -> tuple[str, Request]:
    """Show the widgets for the model and sampler of a panel, "first" or "second".

    Returns the model's name and the request for `images` (seed, digits, count).
    """
    with st.container(border=panel == "second"):
        name = which_model(panel, models)
        denoiser, header = open_model(models[name])
        classes = denoiser.config.unet.classes
        if not classes:
            images = images | {"digits": None}
        elif not class_names(models):  # the other model has none to choose: draw them in turn
            images = images | {"digits": tuple(i % classes for i in range(images["count"]))}
        if header.get("evaluations"):
            return name, as_student(header, images)
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
            "Timestep spacing",
            SPACINGS,
            list(SPACINGS).index(settings.spacing),
            SPACINGS.get,
            key=f"{panel}_spacing",
        )
        eta = how_much_noise(panel, method, settings)
        guidance = how_much_guidance(panel, denoiser, settings)
    request = Request.of(method=method, steps=steps, spacing=spacing, eta=eta, **guidance, **images)
    return name, request


def as_student(about: dict, images: dict) -> Request:
    """The request for a student, whose sampler is fixed."""
    evaluations = about["evaluations"]
    word = "evaluation" if evaluations == 1 else "evaluations"
    st.caption(f"A student: it draws in {evaluations} {word} of the network, without guidance.")
    return Request.of(**vars(student_sampler(about)), **images)


def which_model(panel: str, models: dict[str, Path]) -> str:
    names = list(models)
    if len(names) == 1:
        return names[0]
    return st.selectbox(
        "Model",
        names,
        names.index(default_model(models)),
        key=f"{panel}_model",
        help="A file in models/ or students/. docs/guide.md says how to add the model of an "
        "experiment.",
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
        help="0: none, so the initial noise determines the image. "
        "1: as much as in the reverse diffusion.",
    )


def how_much_guidance(panel: str, denoiser: Denoiser, settings: params.Sample) -> dict:
    """The sampler's four guidance fields. Guidance that the model was not trained for is off."""
    guidance = autoguidance = 1.0
    if denoiser.conditional and denoiser.config.label_dropout:
        guidance = st.slider(
            "Guidance",
            0.0,
            MAX_GUIDANCE,
            min(settings.guidance, MAX_GUIDANCE),
            0.05,
            key=f"{panel}_guidance",
            help="Classifier-free guidance. 1: off. Higher: clearer digits, less variety. "
            "0: without the class.",
        )
    if denoiser.guide is not None:
        autoguidance = st.slider(
            "Autoguidance",
            0.0,
            MAX_GUIDANCE,
            min(settings.autoguidance, MAX_GUIDANCE),
            0.05,
            key=f"{panel}_autoguidance",
            help="Guidance away from the model of an early training step. 1: off.",
        )
    interval = settings.guidance_interval if guidance != 1 else None
    auto_interval = settings.autoguidance_interval if autoguidance != 1 else None
    within = (interval or auto_interval) and st.toggle(
        "Guidance interval",
        True,
        key=f"{panel}_within",
        help="Guide only at the log-SNR where digits take shape, as in params.yaml.",
    )
    return {
        "guidance": guidance,
        "autoguidance": autoguidance,
        "guidance_interval": list(interval) if interval and within else None,
        "autoguidance_interval": list(auto_interval) if auto_interval and within else None,
    }


def headings(requests: list[tuple[str, Request]]) -> list[str]:
    """A heading per panel: its sampler, its steps, and all else that differs between the panels."""
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
    """The model and the header of its file.

    All sessions share one copy. A file that changed is opened again.
    """
    return _open_model(str(path), path.stat().st_mtime_ns)


@st.cache_resource(max_entries=4, show_spinner=False)
def _open_model(path: str, changed: int) -> tuple[Denoiser, dict]:
    return model_file.open_model(path, "auto")


def draw(slot: DeltaGenerator, path: Path, request: Request) -> Trajectory:
    """The trajectory of a request, computed once per session, with a progress bar in `slot`."""
    kept: dict[object, Trajectory] = st.session_state.setdefault("trajectories", {})
    key = (path, path.stat().st_mtime_ns, request)
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
def step_through(panels: list[tuple[str, Trajectory]], columns: int) -> None:
    """Show the images at one step. All steps are kept, so moving the slider computes nothing."""
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
    """Show the images of `states` (S + 1, N, C, H, W) at position i, with download buttons."""
    # The browser enlarges the picture. It is a PNG, because JPEG would blur the pixels.
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
            help="This picture, enlarged.",
        )
        st.download_button(
            "GIF",
            lambda: animation.gif(states, columns, -(-scale // 2)),
            f"digits_{view}.gif",
            "image/gif",
            key=f"gif_{panel}",
            on_click="ignore",
            icon=":material/animation:",
            help="All steps, as an animation.",
        )


def step_button(name: str, side: str, key: str, by: int, last: int) -> None:
    """Show a button that moves the position `key` by `by` steps, within 0 to `last`."""

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
