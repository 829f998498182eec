"""The demo's page, without a browser: it draws, keeps and shows what its widgets say."""

import re
import shutil

import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest

from src import model_file
from src.demo import trajectory
from src.diffusion import Sampler
from src.distillation.students import student_of
from tests.helpers import ROOT, denoiser
from tools import demo

pytestmark = pytest.mark.slow

KEPT = "trajectories"  # the trajectories in the state of a session
NOTHING = torch.zeros(0, dtype=torch.uint8)
BIG = trajectory.Trajectory([], [], [], torch.zeros(2**26, dtype=torch.uint8), NOTHING)
ABOUT = {"dataset": "own", "dataset_fingerprint": "0" * 12, "class_counts": [1] * 10}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the demo runs: parameters, and a small model with a guide."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "models").mkdir()
    model = denoiser()
    model.guide = denoiser(base_channels=8).unet
    model_file.save(model, tmp_path / "models" / "model.safetensors", ABOUT)
    monkeypatch.chdir(tmp_path)
    st.cache_resource.clear()
    return tmp_path


@pytest.fixture
def computed(monkeypatch):
    """The trajectories that were computed, as (sampler, seed, labels)."""
    calls, compute = [], trajectory.compute

    def counted(model, sampler, seed, count, labels, progress):
        calls.append((sampler, seed, None if labels is None else labels.tolist()))
        return compute(model, sampler, seed, count, labels, progress)

    monkeypatch.setattr(trajectory, "compute", counted)
    return calls


def start() -> AppTest:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=900).run()
    assert not page.exception and not page.error
    return page


def html_of(page: AppTest, kind: str) -> list[str]:
    """The HTML of all elements of the class `kind`."""
    bodies = [element.proto.body for element in page.get("html")]
    return [body for body in bodies if f'class="{kind}"' in body]


def shown(element) -> str:
    """The text of an element whose Markdown escapes all of it."""
    return element.value.replace("\\", "")


def where(page: AppTest) -> str:
    """What the page says of the step that it shows."""
    return " ".join(html_of(page, "where"))


def test_a_student_draws_by_its_own_sampler(folder, computed):
    (folder / "students").mkdir()
    student = student_of(denoiser())
    path = folder / "students" / "student-2.safetensors"
    model_file.save(student, path, ABOUT | {"evaluations": 2, "eta": 1.0})
    page = start()
    page.selectbox(key="first_model").select("student-2").run()
    assert not page.exception and not page.error
    assert "it draws in 2 evaluations" in page.sidebar.caption[0].value
    assert computed[-1][0] == Sampler("ddim", 2, "trailing", eta=1.0)
    assert "first_method" not in page.session_state


def test_the_page_opens_on_finished_images_of_every_class(folder, computed, params):
    page = start()
    ((sampler, seed, labels),) = computed
    wanted = params.sample.sampler
    assert (sampler.method, sampler.steps, sampler.eta) == (wanted.method, wanted.steps, wanted.eta)
    assert seed == 0 and labels == [c for c in range(10) for _ in range(10)]
    assert "Finished" in where(page)
    assert page.button(key="next").disabled and not page.button(key="previous").disabled


def test_leafing_through_the_steps_computes_nothing(folder, computed, params):
    page, steps = start(), params.sample.steps
    key, seen = f"position_{steps}", [where(page)]
    page.slider(key=key).set_value(0).run()
    assert "Pure noise" in where(page) and "t = 999" in where(page)
    for i in range(1, steps):
        page.button(key="next").click().run()
        assert f"step {i + 1} of {steps}" in where(page) and page.session_state[key] == i
        seen.append(where(page))
    page.button(key="previous").click().run()
    page.segmented_control(key="view").set_value("x0").run()
    assert len(computed) == 1 and len(set(seen)) == steps and not page.exception


def test_the_timestep_and_noise_level_shown_are_those_of_the_schedule(folder, params):
    page, schedule = start(), denoiser().schedule
    timesteps = schedule.sampling_timesteps(params.sample.steps, params.sample.spacing)
    page.slider(key=f"position_{params.sample.steps}").set_value(5).run()
    sigma = float((1 - schedule.alpha[timesteps[5]] ** 2).sqrt())
    assert f"t = {timesteps[5]}<br>" in where(page) and f"σ = {sigma:.4f}" in where(page)
    assert f"log-SNR = −{-float(schedule.log_snr[timesteps[5]]):.2f}" in where(page)


def test_a_flow_model_is_drawn_step_by_step(folder, params):
    model = denoiser("velocity", "flow")
    model_file.save(model, folder / "models" / "model.safetensors", ABOUT)
    page, schedule = start(), model.schedule
    page.selectbox(key="first_method").select("heun").run()
    steps = params.sample.steps
    t = schedule.sampling_timesteps(steps, params.sample.spacing)[5]
    page.slider(key=f"position_{steps}").set_value(5).run()
    assert f"t = {t}<br>" in where(page) and f"σ = {float(schedule.sigma[t]):.4f}" in where(page)
    page.slider(key=f"position_{steps}").set_value(0).run()
    assert "Pure noise" in where(page) and not page.exception


def test_a_number_is_drawn_digit_by_digit(folder, computed):
    page = start()
    page.segmented_control(key="kind").set_value("A number").run()
    page.text_input(key="number").set_value("1984").run()
    page.slider(key="rows").set_value(2).run()
    assert [labels for _, _, labels in computed[1:]] == [
        [2, 0, 2, 6],
        [1, 9, 8, 4],
        [1, 9, 8, 4] * 2,
    ]
    page.number_input(key="seed").set_value(5).run()
    page.text_input(key="number").set_value("../7").run()
    assert "expected up to 12 digits" in page.error[0].value and not page.exception
    page.text_input(key="number").set_value("7").run()
    assert not page.error and computed[-1][1:] == (5, [7, 7])  # all other settings are kept


def test_one_class_sampler_seed_and_count_are_as_chosen(folder, computed):
    page = start()
    page.segmented_control(key="kind").set_value("One class").run()
    page.selectbox(key="class").set_value(7).run()
    page.slider(key="count").set_value(3).run()
    page.number_input(key="seed").set_value(11).run()
    page.selectbox(key="first_method").set_value("ddim").run()
    page.slider(key="first_steps").set_value(4).run()
    page.slider(key="first_eta_ddim").set_value(0.3).run()
    page.slider(key="first_guidance").set_value(2.0).run()
    sampler, seed, labels = computed[-1]
    assert (sampler.method, sampler.steps) == ("ddim", 4)
    assert (sampler.eta, sampler.guidance) == (0.3, 2.0)
    assert seed == 11 and labels == [7] * 3 and not page.exception
    before = len(computed)
    page.slider(key="first_guidance").set_value(1.5).run()
    page.slider(key="first_guidance").set_value(2.0).run()
    assert len(computed) == before + 1  # 2.0 had been drawn before


def test_another_seed_is_another_image_and_the_same_seed_the_same(folder, computed):
    page = start()
    page.button(key="another").click().run()
    assert [seed for _, seed, _ in computed] == [0, page.session_state["seed"]]
    assert page.session_state["seed"] > 0
    first, second = (list(page.session_state[KEPT].values())[i].x_t for i in (0, 1))
    again = next(iter(start().session_state[KEPT].values())).x_t
    assert torch.equal(again, first) and not torch.equal(first, second)


def test_two_samplers_are_compared_from_the_same_noise(folder, computed):
    page = start()
    page.toggle(key="compare").set_value(True).run()
    page.slider(key="second_steps").set_value(5).run()
    (one, _, labels), (other, _, same) = computed[0], computed[-1]
    assert one.method != other.method and other.steps == 5 and labels == same
    first, *_, last = page.session_state[KEPT].values()
    assert torch.equal(first.x_t[0], last.x_t[0])
    assert not torch.equal(first.x_t[-1], last.x_t[-1])
    page.slider(key=f"position_{one.steps}").set_value(0).run()
    assert where(page).count("Pure noise") == 2 and not page.exception


def test_another_solver_with_fresh_noise_starts_with_some(folder):
    page = start()
    page.selectbox(key="first_method").set_value("sde-dpmsolver++").run()
    assert page.slider(key="first_eta_sde-dpmsolver++").value == 1.0
    page.selectbox(key="first_method").set_value("ddim").run()
    assert page.slider(key="first_eta_ddim").value == 0.0


@pytest.mark.parametrize(
    "kind, key, value",
    [
        ("slider", "second_eta_sde-dpmsolver++", 0.5),
        ("selectbox", "second_spacing", "trailing"),
        ("slider", "second_guidance", 2.0),
    ],
)
def test_a_sampler_is_compared_with_itself_and_the_difference_is_shown(
    folder, params, kind, key, value
):
    page = start()
    page.toggle(key="compare").set_value(True).run()
    page.selectbox(key="second_method").set_value(params.sample.method).run()
    getattr(page, kind)(key=key).set_value(value).run()
    assert not page.exception and not page.error
    headings = html_of(page, "heading")
    assert len(set(headings)) == 2 and str(value) in headings[1]


def test_a_model_that_cannot_be_read_can_be_left_again(folder):
    (folder / "models" / "broken.safetensors").write_bytes(b"damaged")
    page = start()
    page.selectbox(key="first_model").set_value("broken").run()
    assert "models/broken.safetensors: damaged" in shown(page.error[0]) and not page.exception
    page.selectbox(key="first_model").set_value("model").run()
    assert not page.error and not page.exception and "Finished" in where(page)


def test_parameters_beyond_the_demos_bounds_are_cut_to_them(folder, computed):
    text = (folder / "params.yaml").read_text()
    changed = re.sub("(?m)^  guidance: [0-9.]+", "  guidance: 6.5", text)
    changed = re.sub("(?m)^  autoguidance: [0-9.]+", "  autoguidance: 7", changed)
    changed = re.sub("(?m)^  steps: [0-9]+(?= +# steps per image)", "  steps: 300", changed)
    (folder / "params.yaml").write_text(changed)
    start()
    ((sampler, _, _),) = computed
    assert (sampler.guidance, sampler.autoguidance, sampler.steps) == (5.0, 5.0, 100)


def test_two_models_are_compared_by_the_names_of_their_files(folder, computed):
    other = denoiser(schedule="linear", prediction="epsilon")
    model_file.save(other, folder / "models" / "linear.safetensors", ABOUT)
    (folder / "models" / "classifier.safetensors").write_bytes(b"no denoiser")
    page = start()
    choice = page.selectbox(key="first_model")
    assert choice.options == ["linear", "model"] and choice.value == "model"
    page.toggle(key="compare").set_value(True).run()
    page.selectbox(key="second_model").set_value("linear").run()
    assert not page.exception and not page.error
    keys = list(page.session_state[KEPT])
    assert keys[0][0].stem == "model" and keys[-1][0].stem == "linear"


def test_the_last_used_trajectories_are_kept_up_to_a_size(folder, computed):
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=900)
    page.session_state[KEPT] = {"old": BIG, "newer": BIG}
    page.run()
    assert len(page.session_state[KEPT]) == 2
    assert next(iter(page.session_state[KEPT])) == "newer"
    for seed in (1, 2, 0):
        page.number_input(key="seed").set_value(seed).run()
    assert len(computed) == 3 and [key[2].seed for key in page.session_state[KEPT]] == [1, 2, 0]


def test_without_a_model_the_page_says_how_to_get_one(folder):
    (folder / "models" / "model.safetensors").unlink()
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=900).run()
    assert not page.exception and "make run" in page.info[0].value
    assert "dvc pull models/model.safetensors" in page.info[0].value


def test_a_damaged_model_is_named(folder):
    (folder / "models" / "model.safetensors").write_bytes(b"damaged")
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=900).run()
    assert not page.exception
    assert "models/model.safetensors: damaged" in shown(page.error[0])


def test_text_of_a_model_file_is_shown_as_it_is(folder):
    """As Markdown it could load a picture from elsewhere."""
    about = ABOUT | {"dataset": "![x](http://example.org/x.png)"}
    model_file.save(denoiser(), folder / "models" / "model.safetensors", about)
    caption = start().caption[0]
    assert shown(caption).startswith("![x](http://example.org/x.png), cosine schedule")
    assert caption.value.startswith("\\!\\[x\\]\\(http\\:")


def test_a_model_without_classes_has_nothing_to_choose(folder, computed):
    about = ABOUT | {"class_counts": []}
    model_file.save(denoiser(classes=0), folder / "models" / "model.safetensors", about)
    page = start()
    assert computed[0][2] is None
    assert not [slider for slider in page.slider if slider.key == "first_guidance"]
    assert not [c for c in page.get("button_group") if c.key == "kind"]


def test_beside_a_model_without_classes_another_draws_its_classes_in_turn(folder, computed):
    about = ABOUT | {"class_counts": []}
    model_file.save(denoiser(classes=0), folder / "models" / "model.safetensors", about)
    model_file.save(denoiser(), folder / "models" / "other.safetensors", ABOUT)
    page = start()
    page.toggle(key="compare").set_value(True).run()
    page.selectbox(key="second_model").set_value("other").run()
    assert not page.exception and not page.error
    assert computed[-1][2] == [i % 10 for i in range(40)]


@pytest.mark.parametrize(
    "host, origin, path, accepted",
    [
        ("localhost:8501", "http://localhost:8501", "/_stcore/stream", True),
        ("127.0.0.1:8501", None, "/", True),
        ("[::1]:8501", "http://[::1]:8501", "/", True),
        ("evil.example:8501", "http://evil.example:8501", "/_stcore/stream", False),
        ("localhost:8501", "http://evil.example", "/_stcore/stream", False),
        ("localhost:8501", "null", "/_stcore/stream", False),
        ("[::1", None, "/", False),
        ("", None, "/", False),
        ("localhost:8501", None, "/_stcore/metrics", False),
    ],
)
def test_other_hosts_and_sites_are_refused(host, origin, path, accepted):
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    assert demo.allowed({"type": "http", "path": path, "headers": headers}) == accepted


def test_a_proxys_name_can_be_allowed(monkeypatch):
    monkeypatch.setattr(demo.config, "get_option", lambda name: ["https://lab.example"])
    headers = [(b"host", b"lab.example"), (b"origin", b"https://lab.example")]
    assert demo.allowed({"type": "http", "path": "/", "headers": headers})


def test_the_demo_listens_to_this_machine_alone_and_sends_no_statistics():
    config = (ROOT / ".streamlit" / "config.toml").read_text()
    assert re.search('^address = "localhost"$', config, re.MULTILINE)
    assert re.search("^gatherUsageStats = false$", config, re.MULTILINE)
