import inspect
import textwrap

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, SASolverScheduler
from diffusers.schedulers import scheduling_ddpm, scheduling_sasolver

from src.common.dataset import to_pixels
from src.common.errors import UserError
from src.diffusion.samplers import ImageNoise, sample
from tests.conftest import denoiser
from tests.test_schedule import oracle

SHAPE = (1, 8, 8)


class Draws:
    """Noise from a list, so that both sides of a comparison use the same."""

    def __init__(self, count: int, batch: int = 4):
        random = torch.Generator().manual_seed(7)
        self.values = [torch.randn(batch, *SHAPE, generator=random, dtype=torch.float64) for _ in range(count)]
        self.used = 0

    def __call__(self) -> torch.Tensor:
        self.used += 1
        return self.values[self.used - 1]


class Wave(torch.nn.Module):
    """In place of a network: some function of all its inputs, in float64, where rounding hides no mistake."""

    def forward(self, x, t, label):
        return torch.sin(2 * x.flip(-1) + t.view(-1, 1, 1, 1) / 200) + label.view(-1, 1, 1, 1) / 10


def both(prediction: str, schedule: str, kind, **more):
    """Our denoiser and their scheduler, on the same float64 noise levels (test_schedule.py compares those)."""
    model = denoiser(prediction, schedule)
    model.unet = Wave()
    scheduler = oracle(kind, schedule, prediction_type=PREDICTION_NAMES[prediction], **more)
    scheduler.alphas_cumprod = model.schedule.alpha_bar
    scheduler.final_alpha_cumprod = scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    return model, scheduler


def walk_diffusers(scheduler, model, x, label, step_arguments) -> torch.Tensor:
    """The image that `scheduler` ends with, its every network output taken from `model`."""
    for t in scheduler.timesteps:
        output = model.unet(x, torch.full((len(x),), int(t)), label)
        x = scheduler.step(output, t, x, **step_arguments()).prev_sample
    return x


@pytest.fixture(params=["epsilon", "v", "x0"])
def prediction(request):
    return request.param


PREDICTION_NAMES = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
LABEL = torch.tensor([1, 2, 3, 4])


@torch.no_grad()
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 5, 10, 50])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_equals_diffusers(schedule, steps, eta, spacing, prediction):
    ours, theirs = Draws(steps + 1), Draws(steps + 1)
    model, scheduler = both(prediction, schedule, DDIMScheduler, timestep_spacing=spacing, clip_sample=True)
    scheduler.set_timesteps(steps)
    *_, last = sample(model, ours, model.schedule.sampling_timesteps(steps, spacing), "ddim", eta=eta, label=LABEL)
    expected = walk_diffusers(
        scheduler, model, theirs(), LABEL,
        lambda: {"eta": eta, "use_clipped_model_output": True, **({"variance_noise": theirs()} if eta else {})},
    )
    torch.testing.assert_close(last.x0, expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [10, 50, 250])
def test_ddpm_equals_diffusers(schedule, steps, prediction, monkeypatch):
    ours, theirs = Draws(steps + 1), Draws(steps + 1)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: theirs())
    model, scheduler = both(
        prediction, schedule, DDPMScheduler, timestep_spacing="trailing", clip_sample=True, variance_type="fixed_small"
    )
    scheduler.set_timesteps(steps)
    *_, last = sample(model, ours, model.schedule.sampling_timesteps(steps, "trailing"), "ddpm", label=LABEL)
    expected = walk_diffusers(scheduler, model, theirs(), LABEL, dict)
    assert ours.used == steps  # x_T and one draw for each step but the last
    torch.testing.assert_close(last.x0, expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 5, 9, 20, 50])
@pytest.mark.parametrize("spacing", ["trailing", "logsnr"])
def test_dpm_solver_equals_diffusers(schedule, steps, spacing, prediction):
    ours, theirs = Draws(1), Draws(1)
    model, scheduler = both(
        prediction, schedule, DPMSolverMultistepScheduler, solver_order=2, algorithm_type="dpmsolver++",
        solver_type="midpoint", final_sigmas_type="zero",
    )
    timesteps = model.schedule.sampling_timesteps(steps, spacing)
    scheduler.set_timesteps(timesteps=timesteps)
    *_, last = sample(model, ours, timesteps, "dpmsolver++", label=LABEL, clip=False)
    expected = walk_diffusers(scheduler, model, theirs(), LABEL, dict)
    torch.testing.assert_close(last.x0, expected, rtol=1e-3, atol=1e-3)  # its sigmas are float32


@torch.no_grad()
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("spacing", ["trailing", "logsnr"])
def test_the_stochastic_solver_equals_diffusers(schedule, steps, spacing, prediction):
    ours, theirs = Draws(steps + 1), Draws(steps + 1)
    model, scheduler = both(
        prediction, schedule, DPMSolverMultistepScheduler, solver_order=2, algorithm_type="sde-dpmsolver++",
        solver_type="midpoint", final_sigmas_type="zero",
    )
    timesteps = model.schedule.sampling_timesteps(steps, spacing)
    scheduler.set_timesteps(timesteps=timesteps)
    *_, last = sample(model, ours, timesteps, "sde-dpmsolver++", eta=1.0, label=LABEL, clip=False)
    expected = walk_diffusers(scheduler, model, theirs(), LABEL, lambda: {"variance_noise": theirs()})
    torch.testing.assert_close(last.x0, expected, rtol=1e-3, atol=1e-3)  # its sigmas are float32


class WithoutTheTermForFewSteps(SASolverScheduler):
    """Theirs adds a term to both formulas of order 2, as the authors' code does for few steps; ours is the formula without it."""

    for name in ("stochastic_adams_bashforth_update", "stochastic_adams_moulton_update"):
        source = textwrap.dedent(inspect.getsource(getattr(SASolverScheduler, name)))
        assert source.count("order == 2") == 1
        exec(source.replace("order == 2", "False"), vars(scheduling_sasolver), locals())


@torch.no_grad()
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["trailing", "logsnr"])
def test_sa_solver_equals_diffusers(schedule, steps, eta, spacing, prediction, monkeypatch):
    ours, theirs = Draws(steps + 1), Draws(steps + 1)
    monkeypatch.setattr(scheduling_sasolver, "randn_tensor", lambda *args, **kwargs: theirs())
    model, scheduler = both(
        prediction, schedule, WithoutTheTermForFewSteps, predictor_order=2, corrector_order=2, tau_func=lambda t: eta**0.5,
        lower_order_final=False,
    )
    timesteps = model.schedule.sampling_timesteps(steps, spacing)
    alpha_bars = model.schedule.alpha_bar[[*timesteps, 0]]
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    scheduler.timesteps, scheduler.sigmas = torch.tensor(timesteps), ((1 - alpha_bars) / alpha_bars).sqrt()
    *_, last = sample(model, ours, timesteps, "sa-solver", eta, label=LABEL, clip=False)
    x = theirs()
    for t in timesteps:
        x = scheduler.step(model.unet(x, torch.full((len(x),), t), LABEL), t, x).prev_sample
    torch.testing.assert_close(last.x0, scheduler.model_outputs[-1], rtol=1e-6, atol=1e-6)  # of x0; theirs takes a last step


@torch.no_grad()
def test_dpm_solver_has_no_noise_whatever_eta_says(prediction):
    model, _ = both(prediction, "cosine", DDIMScheduler)
    timesteps = model.schedule.sampling_timesteps(9, "logsnr")
    *_, plain = sample(model, Draws(1), timesteps, "dpmsolver++", 1.0, 2.0, (-3.0, 1.0), label=LABEL)
    *_, none = sample(model, Draws(1), timesteps, "sde-dpmsolver++", 0.0, 2.0, (-3.0, 1.0), label=LABEL)
    torch.testing.assert_close(none.x0, plain.x0, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize(
    "method, eta", [
        ("ddim", 0.5), ("sde-dpmsolver++", 0.5), ("sde-dpmsolver++", 1.5), ("sde-dpmsolver++", 2.0), ("sa-solver", 0.5),
        ("sa-solver", 1.0), ("sa-solver", 2.0),
    ],
)
def test_fresh_noise_of_any_share_leaves_the_distribution_as_it_is(method, eta):
    """Pixels that are normal with deviation 0.4 have a denoiser in closed form; many small steps end in that deviation."""
    model, random = denoiser(), torch.Generator().manual_seed(0)

    def expected(x_t, t, label, *guidance):
        alpha_bar = model.schedule.alpha_bar[t]
        return alpha_bar.sqrt() * 0.16 / (alpha_bar * 0.16 + 1 - alpha_bar) * x_t

    model.predict_x0 = expected
    noise = lambda: torch.randn(200, 1, 10, 10, generator=random, dtype=torch.float64)  # noqa: E731
    *_, last = sample(model, noise, model.schedule.sampling_timesteps(200, "logsnr"), method, eta, clip=False)
    assert last.x0.std().item() == pytest.approx(0.4, rel=0.03)


@torch.no_grad()
@pytest.mark.parametrize(
    "method, eta", [
        ("ddim", 0.0), ("ddim", 0.7), ("ddpm", 0.0), ("dpmsolver++", 0.0), ("sde-dpmsolver++", 0.5), ("sa-solver", 0.5),
    ],
)
def test_image_k_does_not_depend_on_the_rest_of_its_batch(method, eta):
    model = denoiser()
    timesteps = model.schedule.sampling_timesteps(6, "trailing")

    def draw(numbers: range) -> torch.Tensor:
        label = torch.tensor(numbers) % 10
        *_, last = sample(model, ImageNoise(3, numbers, SHAPE), timesteps, method, eta, label=label)
        return last.x0

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
    model = denoiser()
    timesteps = model.schedule.sampling_timesteps(4, "trailing")
    noise = Draws(1)
    noise.values = [value.float() for value in noise.values]
    steps = list(sample(model, noise, timesteps, "ddim", label=LABEL))
    assert [step.t for step in steps] == timesteps
    assert torch.equal(steps[0].x_t, noise.values[0].float())
    assert all(step.x0.abs().max() <= 1 for step in steps)


def test_unknown_method_is_refused_by_name():
    with pytest.raises(UserError, match="sample.method.*'plms'"):
        next(sample(denoiser(), Draws(1), [5], "plms"))
