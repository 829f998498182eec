"""Every method, compared with diffusers or a closed form."""

import inspect
import itertools
import math
import textwrap
from dataclasses import fields

import pytest
import torch

from benchmarks import convergence
from src.common import torchvision_remedy  # noqa: F401 (before diffusers imports torchvision)
from src.common.dataset import to_pixels
from src.common.randomness import ImageNoise
from src.diffusion.samplers import Level, Sampler, sample
from tests.helpers import denoiser
from tests.test_schedule import oracle

from diffusers import (  # isort: skip
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddpm, scheduling_sasolver  # isort: skip

SHAPE = (1, 8, 8)
LABEL = torch.tensor([1, 2, 3, 4])
PREDICTION_NAMES = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
SCHEDULES, PREDICTIONS = ["linear", "cosine"], ["epsilon", "v", "x0"]  # those of diffusers


def pairwise(*factors: list) -> list[tuple]:
    """Few combinations that have every pair of values of any two factors, chosen greedily."""

    def pairs(combination: tuple) -> set:
        return set(itertools.combinations(enumerate(combination), 2))

    everything = list(itertools.product(*factors))
    missing = set().union(*map(pairs, everything))
    chosen = []
    while missing:
        chosen.append(max(everything, key=lambda combination: len(pairs(combination) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


class Draws:
    """Noise from a list, so that both sides of a comparison use the same."""

    def __init__(self, count: int, batch: int = 4, dtype: torch.dtype = torch.float64):
        random = torch.Generator().manual_seed(7)
        shape = (count, batch, *SHAPE)
        self.values = list(torch.randn(shape, generator=random, dtype=torch.float64).to(dtype))
        self.used = 0

    def __call__(self) -> torch.Tensor:
        self.used += 1
        return self.values[self.used - 1]


class Wave(torch.nn.Module):
    """In place of a network: a function of all its inputs, in float64, so rounding is no excuse."""

    def forward(self, x, t, label):
        return torch.sin(2 * x.flip(-1) + t.view(-1, 1, 1, 1) / 200) + label.view(-1, 1, 1, 1) / 10


def both(prediction: str, schedule: str, kind, **more):
    """Our denoiser and their scheduler, on the same float64 noise levels.

    test_schedule.py compares the noise levels.
    """
    model = denoiser(prediction, schedule)
    model.unet = Wave()
    scheduler = oracle(kind, schedule, prediction_type=PREDICTION_NAMES[prediction], **more)
    scheduler.alphas_cumprod = model.schedule.alpha**2
    scheduler.final_alpha_cumprod = scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    return model, scheduler


def final_image(model, noise, sampler: Sampler, **more) -> torch.Tensor:
    *_, last = sample(model, noise, sampler, **more)
    return last.x0


def diffusers_image(scheduler, model, x, step_arguments=dict) -> torch.Tensor:
    """The image that `scheduler` ends with, its every network output taken from `model`."""
    for t in scheduler.timesteps:
        output = model.unet(x, torch.full((len(x),), int(t)), LABEL)
        x = scheduler.step(output, t, x, **step_arguments()).prev_sample
    return x


@torch.no_grad()
@pytest.mark.parametrize(
    "schedule, steps, eta, spacing, prediction",
    pairwise(SCHEDULES, [1, 5, 10, 50], [0.0, 0.4, 1.0], ["leading", "trailing"], PREDICTIONS),
)
def test_ddim_equals_diffusers(schedule, steps, eta, spacing, prediction):
    ours, theirs = Draws(steps + 1), Draws(steps + 1)
    model, scheduler = both(
        prediction, schedule, DDIMScheduler, timestep_spacing=spacing, clip_sample=True
    )
    scheduler.set_timesteps(steps)

    def step_arguments() -> dict:
        arguments = {"eta": eta, "use_clipped_model_output": True}
        return arguments | ({"variance_noise": theirs()} if eta else {})

    image = final_image(model, ours, Sampler("ddim", steps, spacing, eta), label=LABEL)
    expected = diffusers_image(scheduler, model, theirs(), step_arguments)
    torch.testing.assert_close(image, expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    "schedule, steps, prediction", pairwise(SCHEDULES, [10, 50, 250], PREDICTIONS)
)
def test_ddpm_equals_diffusers(schedule, steps, prediction, monkeypatch):
    ours, theirs = Draws(steps + 1), Draws(steps + 1)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: theirs())
    model, scheduler = both(
        prediction,
        schedule,
        DDPMScheduler,
        timestep_spacing="trailing",
        clip_sample=True,
        variance_type="fixed_small",
    )
    scheduler.set_timesteps(steps)
    image = final_image(model, ours, Sampler("ddpm", steps, "trailing"), label=LABEL)
    expected = diffusers_image(scheduler, model, theirs())
    assert ours.used == steps  # x_T and one draw for each step but the last
    torch.testing.assert_close(image, expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    "method, schedule, steps, spacing, prediction",
    [
        *pairwise(
            ["dpmsolver++"], SCHEDULES, [1, 2, 5, 9, 20, 50], ["trailing", "logsnr"], PREDICTIONS
        ),
        *pairwise(
            ["sde-dpmsolver++"], SCHEDULES, [1, 2, 5, 20], ["trailing", "logsnr"], PREDICTIONS
        ),
    ],
)
def test_both_dpm_solvers_equal_diffusers(method, schedule, steps, spacing, prediction):
    stochastic = method == "sde-dpmsolver++"
    draws = steps + 1 if stochastic else 1
    ours, theirs = Draws(draws), Draws(draws)
    model, scheduler = both(
        prediction,
        schedule,
        DPMSolverMultistepScheduler,
        solver_order=2,
        algorithm_type=method,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(timesteps=model.schedule.sampling_timesteps(steps, spacing))
    sampler = Sampler(method, steps, spacing, eta=1.0 if stochastic else 0.0)
    image = final_image(model, ours, sampler, label=LABEL, clip=False)
    expected = diffusers_image(
        scheduler,
        model,
        theirs(),
        lambda: {"variance_noise": theirs()} if stochastic else {},
    )
    torch.testing.assert_close(image, expected, rtol=1e-3, atol=1e-3)  # its sigmas are float32


@torch.no_grad()
@pytest.mark.parametrize(
    "schedule, steps, spacing, prediction",
    pairwise(SCHEDULES, [1, 2, 3, 5, 20], ["trailing", "logsnr"], PREDICTIONS),
)
def test_unipc_equals_diffusers(schedule, steps, spacing, prediction):
    model, scheduler = both(
        prediction, schedule, UniPCMultistepScheduler, solver_order=2, solver_type="bh2"
    )
    set_levels(scheduler, model, steps, spacing)
    scheduler.num_inference_steps = steps
    scheduler.set_begin_index(0)
    image = final_image(model, Draws(1), Sampler("unipc", steps, spacing), label=LABEL, clip=False)
    expected = diffusers_image(scheduler, model, Draws(1)())
    torch.testing.assert_close(image, expected, rtol=1e-6, atol=1e-6)


def set_levels(scheduler, model, steps: int, spacing: str) -> None:
    """Give `scheduler` the noise levels of ours in float64, and a last one without noise."""
    timesteps = model.schedule.sampling_timesteps(steps, spacing)
    scheduler.timesteps = torch.tensor(timesteps)
    sigmas = (model.schedule.sigma / model.schedule.alpha)[timesteps]
    scheduler.sigmas = torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])


def doubled(values: torch.Tensor) -> torch.Tensor:
    """As diffusers' Heun schedulers want them: all but the first and the last twice."""
    return torch.cat([values[:1], values[1:-1].repeat_interleave(2), values[-1:]])


@torch.no_grad()
@pytest.mark.parametrize(
    "schedule, steps, spacing, prediction",
    pairwise(SCHEDULES, [1, 2, 5, 20], ["trailing", "karras"], ["epsilon", "v"]),
)
def test_heun_equals_diffusers(schedule, steps, spacing, prediction, monkeypatch):
    """Theirs takes x / alpha over sigma / alpha. Its last step is Euler's, to the image."""
    monkeypatch.setattr(Level, "scale", property(lambda level: level.alpha))
    model, scheduler = both(prediction, schedule, HeunDiscreteScheduler)
    set_levels(scheduler, model, steps, spacing)
    scheduler.sigmas = doubled(scheduler.sigmas)
    timesteps = model.schedule.sampling_timesteps(steps, spacing)
    scheduler.timesteps = torch.tensor([timesteps[0], *(t for t in timesteps[1:] for _ in "12")])
    scheduler.prev_derivative = scheduler.dt = None
    scheduler.set_begin_index(0)
    noise = Draws(1)()
    x = noise / model.schedule.alpha[timesteps[0]]
    for t in scheduler.timesteps:
        output = model.unet(x * model.schedule.alpha[t], t.repeat(len(x)), LABEL)
        x = scheduler.step(output, t, x).prev_sample
    sampler = Sampler("heun", steps, spacing)
    image = final_image(model, lambda: noise, sampler, label=LABEL, clip=False)
    torch.testing.assert_close(image, x, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    "method, kind",
    [("euler", FlowMatchEulerDiscreteScheduler), ("heun", FlowMatchHeunDiscreteScheduler)],
)
@pytest.mark.parametrize(
    "steps, spacing", [(1, "trailing"), (2, "logsnr"), (7, "karras"), (30, "trailing")]
)
def test_samplers_of_the_flow_path_equal_diffusers(method, kind, steps, spacing):
    model, scheduler = denoiser("velocity", "flow"), kind()
    model.unet = Wave()
    timesteps = model.schedule.sampling_timesteps(steps, spacing)
    times = torch.cat([model.schedule.sigma[timesteps], torch.zeros(1, dtype=torch.float64)])
    if method == "heun":
        timesteps = [timesteps[0], *(t for t in timesteps[1:] for _ in "12")]
        times = doubled(times)
    scheduler.sigmas, scheduler.timesteps = times, 1000 * times[:-1]
    scheduler.prev_derivative = scheduler.dt = None
    scheduler.set_begin_index(0)
    x = Draws(1)()
    for t, time in zip(timesteps, scheduler.timesteps, strict=True):
        output = model.unet(x, torch.full((len(x),), t), LABEL)
        x = scheduler.step(output, time, x, return_dict=False)[0].double()
    image = final_image(model, Draws(1), Sampler(method, steps, spacing), label=LABEL, clip=False)
    torch.testing.assert_close(image, x, rtol=1e-4, atol=1e-4)  # theirs computes in float32


@torch.no_grad()
@pytest.mark.parametrize("steps", [2, 7, 30])
def test_euler_on_the_variance_preserving_path_equals_diffusers_on_edms(steps):
    """With images of variance 1, EDM's preconditioned network predicts -v of x_t / alpha."""
    model, scheduler = denoiser("v", "cosine"), EDMEulerScheduler(sigma_data=1.0)
    model.unet = Wave()
    set_levels(scheduler, model, steps, "karras")
    timesteps, noise = scheduler.timesteps, Draws(1)()
    scheduler.set_begin_index(0)
    x = noise / model.schedule.alpha[timesteps[0]]
    for t, sigma in zip(timesteps, scheduler.sigmas[:-1], strict=True):
        inputs = scheduler.precondition_inputs(x, sigma)
        output = -model.unet(inputs, t.repeat(len(x)), LABEL)
        scheduler.is_scale_input_called = True
        x = scheduler.step(output, sigma, x).prev_sample.double()
    sampler = Sampler("euler", steps, "karras")
    image = final_image(model, lambda: noise, sampler, label=LABEL, clip=False)
    torch.testing.assert_close(image, x, rtol=1e-3, atol=1e-3)  # theirs computes in float32


class WithoutTheTermForFewSteps(SASolverScheduler):
    """Theirs adds a term to both formulas of order 2, as the authors' code does for few steps.

    Ours is the formula without it.
    """

    for name in ("stochastic_adams_bashforth_update", "stochastic_adams_moulton_update"):
        source = textwrap.dedent(inspect.getsource(getattr(SASolverScheduler, name)))
        assert source.count("order == 2") == 1
        exec(source.replace("order == 2", "False"), vars(scheduling_sasolver), locals())


@torch.no_grad()
@pytest.mark.parametrize(
    "schedule, steps, eta, spacing, prediction",
    pairwise(SCHEDULES, [1, 2, 3, 5, 20], [0.0, 0.5, 1.0], ["trailing", "logsnr"], PREDICTIONS),
)
def test_sa_solver_equals_diffusers(schedule, steps, eta, spacing, prediction, monkeypatch):
    ours, theirs = Draws(steps + 1), Draws(steps + 1)
    monkeypatch.setattr(scheduling_sasolver, "randn_tensor", lambda *args, **kwargs: theirs())
    model, scheduler = both(
        prediction,
        schedule,
        WithoutTheTermForFewSteps,
        predictor_order=2,
        corrector_order=2,
        tau_func=lambda t: eta**0.5,
        lower_order_final=False,
    )
    timesteps = model.schedule.sampling_timesteps(steps, spacing)
    alpha_bars = model.schedule.alpha[[*timesteps, 0]] ** 2
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    scheduler.timesteps = torch.tensor(timesteps)
    scheduler.sigmas = ((1 - alpha_bars) / alpha_bars).sqrt()
    image = final_image(
        model, ours, Sampler("sa-solver", steps, spacing, eta), label=LABEL, clip=False
    )
    diffusers_image(scheduler, model, theirs())
    expected = scheduler.model_outputs[-1]  # the last x0: theirs takes one more step from there
    torch.testing.assert_close(image, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "flow"])
@pytest.mark.parametrize(
    "method, order", [("euler", 1), ("heun", 2), ("dpmsolver++", 2), ("sa-solver", 2), ("unipc", 3)]
)
def test_errors_fall_with_the_order_of_the_sampler(method, order, schedule):
    """Normal values have an exact solution. The corrector raises UniPC's order by one."""
    errors = {steps: convergence.error(method, schedule, steps) for steps in (256, 512)}
    assert convergence.slope(errors) == pytest.approx(order, abs=0.15)


@torch.no_grad()
@pytest.mark.parametrize("steps", [3, 10])
def test_ddim_without_fresh_noise_is_eulers_method_in_the_right_variable(steps):
    """On the flow path over time, on a variance-preserving path as x / alpha over sigma / alpha."""
    noise = Draws(1)()
    for schedule, prediction in (("flow", "velocity"), ("cosine", "epsilon")):
        model = denoiser(prediction, schedule)
        model.unet = Wave()
        timesteps = model.schedule.sampling_timesteps(steps, "trailing")
        alpha, sigma = model.schedule.alpha[timesteps], model.schedule.sigma[timesteps]
        scale = torch.ones_like(alpha) if schedule == "flow" else alpha
        z = noise / scale[0]
        for i, t in enumerate(timesteps):
            slope = model.unet(z * scale[i], torch.full((len(z),), t), LABEL)  # dz / ds
            last = model.predict_x0(z * scale[i], t, LABEL)
            if i + 1 < steps:
                z = z + (sigma[i + 1] / scale[i + 1] - sigma[i] / scale[i]) * slope
        sampler = Sampler("ddim", steps, "trailing")
        image = final_image(model, lambda: noise, sampler, label=LABEL, clip=False)
        torch.testing.assert_close(image, last, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    "method, other, eta, draws",
    [
        ("ddpm", "ddim", 1.0, 9),
        ("euler", "ddim", 0.0, 1),
        ("dpmsolver++", "sde-dpmsolver++", 0.0, 1),
    ],
)
def test_a_method_without_eta_is_another_one_at_a_fixed_eta(prediction, method, other, eta, draws):
    model, _ = both(prediction, "cosine", DDIMScheduler)
    settings = dict(steps=9, spacing="logsnr", guidance=2.0, guidance_interval=(-3.0, 1.0))
    fixed = final_image(model, Draws(draws), Sampler(other, eta=eta, **settings), label=LABEL)
    for ignored in (0.0, 1.0):
        sampler = Sampler(method, eta=ignored, **settings)
        image = final_image(model, Draws(draws), sampler, label=LABEL)
        torch.testing.assert_close(image, fixed, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize(
    "method, eta",
    [
        ("ddim", 0.5),
        ("sde-dpmsolver++", 0.5),
        ("sde-dpmsolver++", 1.5),
        ("sde-dpmsolver++", 2.0),
        ("sa-solver", 0.5),
        ("sa-solver", 1.0),
        ("sa-solver", 2.0),
    ],
)
@pytest.mark.parametrize("schedule", ["cosine", "flow"])
def test_fresh_noise_of_any_share_leaves_the_distribution_as_it_is(method, eta, schedule):
    """Normal pixels have a denoiser in closed form; many small steps keep their deviation."""
    model, random = denoiser(schedule=schedule), torch.Generator().manual_seed(0)

    def expected_x0(x_t, t, label, *guidance):
        alpha, sigma = model.schedule.alpha[t], model.schedule.sigma[t]
        return alpha * 0.16 / (alpha**2 * 0.16 + sigma**2) * x_t

    def noise() -> torch.Tensor:
        return torch.randn(200, 1, 10, 10, generator=random, dtype=torch.float64)

    model.predict_x0 = expected_x0
    image = final_image(model, noise, Sampler(method, 200, "logsnr", eta), clip=False)
    assert image.std().item() == pytest.approx(0.4, rel=0.03)


@torch.no_grad()
@pytest.mark.parametrize(
    "method, eta",
    [
        ("ddim", 0.0),
        ("ddim", 0.7),
        ("ddpm", 0.0),
        ("heun", 0.0),
        ("unipc", 0.0),
        ("dpmsolver++", 0.0),
        ("sde-dpmsolver++", 0.5),
        ("sa-solver", 0.5),
    ],
)
def test_image_k_does_not_depend_on_the_rest_of_its_batch(method, eta):
    model, sampler = denoiser(), Sampler(method, 6, "trailing", eta)

    def draw(numbers: range) -> torch.Tensor:
        label = torch.tensor(numbers) % 10
        return final_image(model, ImageNoise(3, numbers, SHAPE), sampler, label=label)

    whole = draw(range(1, 9))
    parts = torch.cat([draw(range(1, 2)), draw(range(2, 6)), draw(range(6, 9))])
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)
    assert (to_pixels(whole).int() - to_pixels(parts).int()).abs().max() <= 1
    assert not torch.allclose(whole[0], whole[1], atol=1e-2)


def test_noise_depends_on_seed_and_number_alone():
    one, other = ImageNoise(5, range(1, 6), SHAPE), ImageNoise(5, range(3, 5), SHAPE)
    for _ in range(3):
        assert torch.equal(one()[2:4], other())
    assert not torch.equal(ImageNoise(6, range(1, 6), SHAPE)(), ImageNoise(5, range(1, 6), SHAPE)())


def test_each_step_shows_what_went_in_and_the_last_is_the_image():
    model, noise = denoiser(), Draws(1, dtype=torch.float32)
    steps = list(sample(model, noise, Sampler("ddim", 4, "trailing"), label=LABEL))
    assert [step.t for step in steps] == model.schedule.sampling_timesteps(4, "trailing")
    assert torch.equal(steps[0].x_t, noise.values[0])
    assert all(step.x0.abs().max() <= 1 for step in steps)


def test_a_sampler_that_the_model_cannot_take_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"^steps: expected 1 to 1000 .*got 1001"):
        sample(denoiser(), Draws(1), Sampler("ddim", 1001, "trailing"))
    with pytest.raises(ValueError, match=r"^guidance: expected 1\.0 .*got 2\.0"):
        sample(
            denoiser(label_dropout=0.0),
            Draws(1),
            Sampler("ddim", 5, "trailing", guidance=2.0),
            LABEL,
        )
    with pytest.raises(ValueError, match=r"^autoguidance: expected 1\.0 .*got 2\.0"):
        sample(denoiser(), Draws(1), Sampler("ddim", 5, "trailing", autoguidance=2.0), LABEL)


RIGHT = dict(
    method="sa-solver",
    steps=9,
    spacing="logsnr",
    eta=1.0,
    guidance=2.0,
    guidance_interval=(-3.0, 1.0),
    autoguidance=0.0,
    autoguidance_interval=(0.0, 0.0),
)
MISTAKES = [
    ("method", "plms", r"expected one of ddpm, ddim, .*got 'plms'"),
    ("steps", 0, "expected an integer of at least 1, got 0"),
    ("steps", 2.5, r"expected an integer of at least 1, got 2\.5"),
    ("eta", None, "expected 0 to 2 for sa-solver, got None"),
    ("guidance_interval", (), r"expected \(low, high\), got \(\)"),
    ("guidance_interval", [0.0, 1.0], r"expected \(low, high\), got \[0\.0, 1\.0\]"),
    ("spacing", "even", "expected one of leading, trailing, logsnr, karras, got 'even'"),
    ("eta", -0.1, r"expected 0 to 2 for sa-solver, got -0\.1"),
    ("eta", 2.5, r"expected 0 to 2 for sa-solver, got 2\.5"),
    ("eta", math.nan, "expected 0 to 2 for sa-solver, got nan"),
    ("guidance", -1.0, r"expected 0 or more, got -1\.0"),
    ("guidance", math.inf, "expected 0 or more, got inf"),
    ("guidance_interval", (1.0, -3.0), r"expected \(low, high\), got \(1\.0, -3\.0\)"),
    ("autoguidance", math.nan, "expected 0 or more, got nan"),
    ("autoguidance_interval", (0.0, math.nan), r"expected \(low, high\), got \(0\.0, nan\)"),
]


@pytest.mark.parametrize("field, value, complaint", MISTAKES)
def test_a_sampler_refuses_a_wrong_value_by_the_name_of_its_field(field, value, complaint):
    assert Sampler(**RIGHT)
    with pytest.raises(ValueError, match=f"^{field}: {complaint}"):
        Sampler(**RIGHT | {field: value})


def test_a_sampler_checks_all_its_fields():
    assert {field for field, *_ in MISTAKES} == {field.name for field in fields(Sampler)}


@pytest.mark.parametrize("method, most", [("ddim", 1.0), ("sde-dpmsolver++", 2.0)])
def test_the_largest_eta_is_that_of_the_method(method, most):
    assert Sampler(method, 9, "trailing", most).eta == most
    with pytest.raises(ValueError, match=f"^eta: expected 0 to {most:g} for "):
        Sampler(method, 9, "trailing", most + 0.1)
