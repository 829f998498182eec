from dataclasses import asdict, fields

import pytest
from dvc.utils.serialize import loads_yaml

from src import params
from src.common import yaml12
from src.common.errors import UserError
from src.diffusion.samplers import Sampler
from src.params import Sample, SamplerFields
from tests.helpers import ROOT


def changed(tmp_path, before: str, after: str):
    text = (ROOT / "params.yaml").read_text()
    assert before in text
    (tmp_path / "params.yaml").write_text(text.replace(before, after, 1))
    return tmp_path / "params.yaml"


def test_the_committed_parameters_are_valid(params):
    assert params.timesteps == 1000 and params.sample.count == 10_000


@pytest.mark.parametrize("number", ["1e-05", "1e-5", "0.00001", "1.0e-05"])
def test_small_numbers_are_read_however_they_are_written(tmp_path, number):
    assert params.load(changed(tmp_path, "lr: 2.0e-3", f"lr: {number}")).train.lr == 1e-5


@pytest.mark.parametrize(
    "before, after, complaint",
    [
        (
            "schedule: cosine",
            "schedule: cosin",
            "schedule: input should be 'linear', 'cosine' or 'flow'; found 'cosin'",
        ),
        ("schedule: cosine", "shedule: cosine", "shedule: unknown key"),
        ("schedule: cosine", "shedule: cosine", "schedule: missing"),
        ("  steps: 16 ", "  stepz: 16 ", "sample.stepz: unknown key"),
        ("  method: sde-dpmsolver++ ", "  method: plms ", "sample.method: .*'ddim'.*found 'plms'"),
        ("  spacing: logsnr ", "  spacing: even ", "sample.spacing: .*'logsnr'.*found 'even'"),
        ("  count: 10000", "  count: 1e4", "sample.count: .*integer"),
        ("  count: 10000", "  count: '10000'", "sample.count: .*integer.*found '10000'"),
        ("  count: 10000", "  count: 0", "sample.count: .*greater than or equal to 2; found 0"),
        ("  ema: true", "  ema: 1", "train.ema: .*boolean"),
        ("  lr: 2.0e-3", "  lr: fast", "train.lr: .*number.*found 'fast'"),
        ("  lr: 2.0e-3", "  lr: .nan", "train.lr: .*finite"),
        ("  lr: 2.0e-3", "  lr: -1", "train.lr: .*greater than 0"),
        ("times: auto", "times: focus 2 2", "train.times: .*expected .uniform.*found 'focus 2 2'"),
        ("weighting: uniform", "weighting: snr", "train.weighting: .*min-snr GAMMA.*found 'snr'"),
        ("  label_dropout: 0.1", "  label_dropout: 1.5", "model.label_dropout"),
        ("  multipliers: ", "  multipliers: 3 # ", "model.multipliers: .*list"),
        (
            "  accumulation: 1",
            "  accumulation: 3",
            "train: accumulation .3. must divide batch_size",
        ),
        (
            "  label_dropout: 0.1 ",
            "  label_dropout: 0 ",
            "sample.guidance .1.7. must be 1 where model.label_dropout is 0",
        ),
        (
            "  guide_at: 0.08 ",
            "  guide_at: 0 ",
            "sample.autoguidance .1.8. must be 1 where train.guide_at is 0",
        ),
        ("beta_start: 1.0e-4", "beta_start: 0.5", "beta_start .0.5. must not exceed beta_end"),
        ("  steps: 16 ", "  steps: 2000 ", "sample.steps .2000. must not exceed timesteps"),
        (
            "timesteps: 1000 ",
            "timesteps: 100000 ",
            "timesteps: only .* of the signal is left",
        ),
        ("  eta: 1.0", "  eta: 2.5", "sample.eta: expected 0 to 2 for sde-dpmsolver.., got 2.5"),
        ("  guidance: 1.7", "  guidance: -1", "sample.guidance: expected 0 or more, got -1"),
        (
            "ddim trailing,",
            "ddim trailing 1.5,",
            "sweep.samplers.0.eta: expected 0 to 1 for ddim, got 1.5",
        ),
        (
            "ddim trailing,",
            "plms trailing,",
            "sweep.samplers.0.method: expected one of ddpm, ddim, .*got 'plms'",
        ),
        (
            "ddim trailing,",
            "ddim even,",
            "sweep.samplers.0.spacing: expected one of leading, .*got 'even'",
        ),
        (
            "ddim trailing,",
            "ddim,",
            "sweep.samplers.0: expected .*such as .sa-solver logsnr 1.*found 'ddim'",
        ),
        (
            "ddim trailing,",
            "sa-solver logsnr 2.5,",
            "sweep.samplers.0.eta: expected 0 to 2 for sa-solver, got 2.5",
        ),
        (
            "ddim trailing,",
            "dpmsolver++ logsnr 1,",
            "sweep.samplers.0: expected no eta for dpmsolver",
        ),
        ("  statistics: null", "  statistics: ../../x.npz", "fid.statistics"),
        ("unpack:", "unpack: [", "not valid YAML"),
    ],
)
def test_mistakes_are_refused_by_the_name_of_the_key(tmp_path, before, after, complaint):
    with pytest.raises(UserError, match=rf"params\.yaml:(?s:.*){complaint}"):
        params.load(changed(tmp_path, before, after))


def test_more_noise_than_the_reverse_diffusions_is_for_the_solver_alone(tmp_path):
    path = changed(tmp_path, "  eta: 1.0", "  eta: 1.5")
    assert params.load(path).sample.eta == 1.5
    path.write_text(path.read_text().replace("method: sde-dpmsolver++ ", "method: ddim "))
    with pytest.raises(UserError, match=r"sample\.eta: expected 0 to 1 for ddim, got 1\.5"):
        params.load(path)


def test_the_keys_of_sample_that_make_a_sampler_are_exactly_its_fields(params):
    names = [field.name for field in fields(Sampler)]
    assert list(SamplerFields.model_fields) == names
    others = ["classes", "count", "batch_size", "precision", "seed"]
    assert list(Sample.model_fields) == names + others
    values = {name: getattr(params.sample, name) for name in names}
    assert asdict(params.sample.sampler) == values


def test_the_sweep_makes_samplers_of_names_and_steps(params):
    guidance = {key: getattr(params.sweep, key) for key in ("guidance", "guidance_interval")}
    auto = {key: getattr(params.sweep, f"auto{key}") for key in guidance}
    for name, expected in {
        "ddim trailing": ("ddim", 6, "trailing", 0.0),
        "sa-solver logsnr 0.5": ("sa-solver", 6, "logsnr", 0.5),
    }.items():
        sampler = params.sweep.sampler(name, 6)
        assert sampler == Sampler(*expected, *guidance.values(), *auto.values())


NUMBERS = "010 0777 0o17 0x1f 1:30 1_000 1e3 1e-05 .5 +1 yes no ~ 2001-01-01 0b11 .inf 1. 0.1e2"


@pytest.mark.parametrize("number", NUMBERS.split())
def test_values_are_read_as_dvc_reads_them(number):
    assert yaml12.load(f"a: {number}") == loads_yaml(f"a: {number}")


def test_a_key_that_appears_twice_is_refused(tmp_path):
    path = changed(tmp_path, "seed: 0", "seed: 0\nseed: 1")
    with pytest.raises(UserError, match='(?s)not valid YAML: .*duplicate key "seed"'):
        params.load(path)


def test_every_mistake_is_named_at_once(tmp_path):
    path = changed(tmp_path, "seed: 0", "seed: -1")
    path.write_text(path.read_text().replace("heads: 2", "heads: none"))
    with pytest.raises(UserError, match=r"(?s)seed: .*model\.heads: "):
        params.load(path)


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(UserError, match="params.yaml: not found; run from the root"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(UserError, match="expected a mapping"):
        params.load(tmp_path / "params.yaml")
