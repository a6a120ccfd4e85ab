"""All checks pass on a smooth network with correct attacks; each kind of defect fails the check made for it."""
import copy
import json

import pytest
import torch
from torch import nn

from attacks import APGD, LOSSES, PGD, Race
from attacks.base import Attack
from attacks.losses import Loss
from attacks.norms import LinfBall
from attacks.search import Problem
from engine.verify import CHECKS, format_check, run_checks
from engine.verify.bench import Bench, pooled_accuracy, pooled_mean_iou
from main import main
from metrics import StreamSegMetrics

pytestmark = pytest.mark.slow  # each runs attacks of many steps

EPS = 8 / 255
COLOURS = torch.tensor([[0.5, 0.5, 0.5], [0.62, 0.42, 0.5], [0.42, 0.6, 0.45], [0.45, 0.45, 0.65]])


def blobs(number, height, width):
    """Noisy discs of three colours on grey, 8 bits, the first rows void: image [3, H, W], labels [H, W]."""
    generator = torch.Generator().manual_seed(number)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    labels = torch.zeros(height, width, dtype=torch.int64)
    for kind in (1, 2, 3, 1, 2, 3):
        y, x, radius = torch.rand(3, generator=generator)
        labels[(row - y * height) ** 2 + (column - x * width) ** 2 < (4 + 6 * radius) ** 2] = kind
    image = COLOURS[labels].permute(2, 0, 1) + 0.04 * torch.randn(3, height, width, generator=generator)
    labels[:2] = 255
    return (image.clamp(0, 1) * 255).round() / 255, labels


@pytest.fixture(scope="session")
def smooth():
    """A small network without kinks, trained for half a second; tests may not change it.

    In float64: in float32 every CPU, rounding as it does, would train another one.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 12, 5, padding=2), nn.BatchNorm2d(12), nn.SiLU(),
                            nn.Conv2d(12, 12, 5, padding=2), nn.BatchNorm2d(12), nn.SiLU(), nn.Conv2d(12, 4, 1))
    model = Before(lambda images: (images - 0.5) / 0.1, network).double()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    images, labels = map(torch.stack, zip(*(blobs(number, 32, 32) for number in range(100, 164)), strict=True))
    for itr in range(80):
        batch = slice(8 * (itr % 8), 8 * (itr % 8) + 8)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images[batch].double()), labels[batch], ignore_index=255).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.float().eval()


@pytest.fixture(scope="session")
def pairs():
    """Images and labels of three sizes."""
    return tuple(zip(*map(blobs, range(4), (40, 32, 40, 36), (48, 40, 48, 36)), strict=True))


@pytest.fixture
def failed(pairs):
    """A function (model, names of checks or none for all) -> the names of those that fail."""
    def run(model, *names):
        found = run_checks(model, *pairs, eps=EPS, only=names or None)
        assert [check["name"] for check in found] == list(names or (name for name in CHECKS if name != "transfer"))
        return {check["name"] for check in found if not check["passed"]}

    return run


class Before(nn.Module):
    """A function of the images in front of a model."""

    def __init__(self, function, model):
        super().__init__()
        self.function, self.model = function, model

    def forward(self, images):
        return self.model(self.function(images))


class Scaled(Before):
    """A function of the logits behind a model."""

    def forward(self, images):
        return self.function(self.model(images))


class StraightThrough(torch.autograd.Function):
    """Eight grey levels, whose gradient is defined as 1."""

    @staticmethod
    def forward(ctx, images):
        return (8 * images).round() / 8

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_smooth_network_passes_every_check(smooth, pairs, failed):
    bench = Bench(smooth, *pairs, eps=EPS)
    assert pooled_accuracy(bench.clean) > 90
    assert failed(smooth) == set()


def test_every_check_has_figures_and_a_tolerance(smooth, pairs, caplog):
    found = run_checks(smooth, *pairs, eps=EPS, only=["step order", "constraint"], class_weights=[1.0] * 4)
    for check in found:
        assert set(check) == {"name", "passed", "figures", "tolerance", "why", "seconds"}
        assert check["figures"] and check["tolerance"] and check["why"] == ""
    figures = found[0]["figures"]
    assert figures["clean"] > figures["noise"] > figures["fgsm"] > figures["pgd-10"]
    assert json.loads(json.dumps(found)) == found


def test_figures_are_those_of_the_metrics(smooth, pairs):
    """Pooled over images that differ in size, as StreamSegMetrics pools."""
    metrics = StreamSegMetrics(4)
    for image, labels in zip(*pairs, strict=True):
        metrics.update(labels, smooth(image[None]).argmax(1)[0])
    clean, results = Bench(smooth, *pairs, eps=EPS).clean, metrics.get_results()
    assert pooled_accuracy(clean) == pytest.approx(100 * results["Overall Acc"], rel=1e-12)
    assert pooled_mean_iou(clean) == pytest.approx(100 * results["Mean IoU"], rel=1e-12)


def test_attack_runs_once_for_all_checks(smooth, pairs):
    bench, titles = Bench(smooth, *pairs, eps=EPS), []
    bench.on_attack = titles.append
    for _ in range(2):
        scored = bench.score_attacked(bench.make_attack(PGD, steps=2), bench.few)
    bench.score_attacked(bench.make_attack(PGD, steps=2), bench.every)
    assert list(scored) == [0, 1] and len(titles) == 4 and titles[0] == "pgd linf 8/255"


def test_slow_checks_skip_images_without_labels(smooth, pairs):
    images, labels = pairs
    void = torch.full_like(labels[0], 255)
    assert Bench(smooth, images, (void, *labels[1:]), eps=EPS).few == [1, 2]
    (check,) = run_checks(smooth, images[:1], [void], eps=EPS)
    assert not check["passed"] and "no pixel of these images is labelled" in check["why"]


@pytest.mark.parametrize(("eps", "note"), [(0.5 / 255, "not checked: an eps below 1/255"), (1, "of pgd-10's effect")])
def test_radii_at_which_parts_are_not_checked(smooth, pairs, eps, note):
    """Half a grey level does not survive rounding, and no pixel can move by a whole range unless it is at its end."""
    (check,) = run_checks(smooth, *pairs, eps=eps, only=["constraint"])
    assert check["passed"] and note in check["figures"]["8 bits"]


def test_one_image_is_enough(smooth, pairs):
    cheap = ["eps 0", "void invariance", "batch invariance", "gradient", "model untouched"]
    assert all(check["passed"] for check in run_checks(smooth, *(values[:1] for values in pairs), eps=EPS, only=cheap))


def test_quantised_input_has_no_gradient(smooth, failed):
    model = Before(lambda images: (8 * images).round() / 8, smooth)
    assert failed(model, "gradient", "step order", "unbounded", "black box", "extreme logits") == {
        "gradient", "step order", "unbounded", "black box", "extreme logits"}


def test_straight_through_gradient_differs_from_the_loss_gradient(smooth, failed):
    """It attacks well enough, but its gradient is not that of the model that is scored."""
    assert failed(Before(StraightThrough.apply, smooth), "gradient", "eps 0") == {"gradient"}


def test_shattered_gradient_passes_gradient_check_but_fails_strength_checks(smooth, failed):
    """Autograd computes it correctly; only the attacks' results reveal it."""
    model = Before(lambda images: images + 0.01 * torch.sin(3000 * images), smooth)
    assert failed(model, "gradient", "step order", "unbounded", "black box") == {
        "step order", "unbounded", "black box"}


@pytest.mark.parametrize(("factor", "expected"), [(0.01, set()), (100, {"logit scale", "unbounded"}),
                                                  (1e6, {"logit scale", "unbounded", "black box"})])
def test_large_temperature_masks_gradients(smooth, failed, factor, expected):
    """The predictions are the same and derivatives agree, but gradients vanish."""
    model = Scaled(lambda logits: factor * logits, smooth)
    assert failed(model, "gradient", "extreme logits", "logit scale", "unbounded", "black box") == expected


def test_random_numbers_in_the_model(smooth, failed):
    model = Before(lambda images: images + 0.01 * torch.randn_like(images), smooth)
    names = ("eps 0", "void invariance", "batch invariance", "gradient", "model untouched")
    assert failed(model, *names) == {*names} - {"model untouched"}


def test_batchnorm_that_stays_in_training_mode(smooth, failed):
    class Stuck(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(True)

    model = copy.deepcopy(smooth)
    for place in (1, 4):
        stuck = Stuck(12)
        stuck.load_state_dict(model.model[place].state_dict())
        model.model[place] = stuck.train()
    assert failed(model, "batch invariance", "model untouched", "constraint") == {"batch invariance", "model untouched"}


def test_a_model_that_counts_its_calls(smooth, failed):
    model = Before(lambda images: model.calls.add_(1) * 0 + images, smooth)
    model.register_buffer("calls", torch.zeros(()))
    assert failed(model, "eps 0", "model untouched") == {"model untouched"}


def test_check_that_raises_an_error_fails(smooth, pairs):
    checks = run_checks(Before(torch.detach, smooth), *pairs, eps=EPS, only=["eps 0", "gradient"])
    assert [check["passed"] for check in checks] == [False, False]
    assert "RuntimeError: " in checks[0]["why"] and "grad" in checks[0]["why"]
    assert format_check(checks[0]).endswith("(docs/verify.md#eps-0)")
    (check,) = run_checks(Before(torch.linalg.inv, smooth), *pairs, eps=EPS)
    assert check["name"] == "clean images" and "RuntimeError: " in check["why"]


def test_ctrl_c_is_not_reported_as_a_failure(smooth, pairs, monkeypatch):
    monkeypatch.setitem(CHECKS, "eps 0", lambda bench: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_checks(smooth, *pairs, eps=EPS)
    assert not torch.are_deterministic_algorithms_enabled()


def fgsm_of_a_quarter(monkeypatch):
    """As in a published implementation."""
    init = PGD.__init__
    monkeypatch.setattr(PGD, "__init__", lambda self, *, eps, **rest: init(self, eps=eps, **(
        rest | ({"step_size": eps / 4} if rest.get("steps") == 1 else {}))))


def beyond_eps(monkeypatch):
    monkeypatch.setattr(LinfBall, "project", lambda self, points: points.clamp(0, 1))


def a_start_beyond_eps(monkeypatch):
    monkeypatch.setattr(LinfBall, "start_from", lambda self, initial: (self.images + 0.1).clamp(0, 1))
    beyond_eps(monkeypatch)


def void_as_class_0(monkeypatch):
    for module in ("attacks.pixels", "attacks.search"):
        monkeypatch.setattr(f"{module}.valid_labels", lambda labels, num_classes: labels % 255 % num_classes)


def other_void_labels_as_classes(monkeypatch):
    for module in ("attacks.pixels", "attacks.search"):
        monkeypatch.setattr(f"{module}.valid_labels", lambda labels, num_classes: torch.where(
            labels == 255, labels, labels % num_classes))


def race_beyond_eps(monkeypatch):
    """Also where eps is 0."""
    attempt = Race.attempt
    monkeypatch.setattr(Race, "attempt", lambda self, *args: (attempt(self, *args)[0].mul(0.99), None))


def race_with_void_as_class_0(monkeypatch):
    def attempt(self, problem, initial):
        problem.labels = problem.labels % 255
        return honest(self, problem, initial)

    honest = Race.attempt
    monkeypatch.setattr(Race, "attempt", attempt)


def gradients_left_behind(monkeypatch):
    def run(self, model, *args, **settings):
        next(model.parameters()).grad = torch.zeros_like(next(model.parameters()))
        return honest(self, model, *args, **settings)

    honest = Attack.run
    monkeypatch.setattr(Attack, "run", run)


def eval_mode_left_behind(monkeypatch):
    def run(self, model, *args, **settings):
        outcome = honest(self, model, *args, **settings)
        model.eval()
        return outcome

    honest = Attack.run
    monkeypatch.setattr(Attack, "run", run)


def descent_for_ascent(monkeypatch):
    """Attacks that go down."""
    def differentiate(self, *args, **settings):
        pixels, gradient = honest(self, *args, **settings)
        return pixels, -gradient

    honest = Problem.differentiate
    monkeypatch.setattr(Problem, "differentiate", differentiate)


def naive_js(monkeypatch):
    """Not in log space: 0 * log(inf) is nan."""
    monkeypatch.setitem(LOSSES, "js", Loss(lambda pixels: (
        pixels.log_py.exp() * ((1 + pixels.log_py.exp()) / pixels.log_py.exp()).log()).log()))


def weak_losses(monkeypatch):
    """Weights on the pixels that are wrong already."""
    for name in ("segpgd", "cospgd", "mce", "mce_even", "logodds", "js", "tsallis"):
        monkeypatch.setitem(LOSSES, name, Loss(lambda pixels: torch.where(pixels.correct, -torch.inf, 0.0)))


def only_ten_good_steps(monkeypatch):
    """Longer attacks return the clean image."""
    attempt = PGD.attempt
    monkeypatch.setattr(PGD, "attempt", lambda self, problem, begin: (
        attempt(self, problem, begin) if self.steps <= 10 else (problem.images, None)))


def no_warm_start(monkeypatch):
    """Larger radii start from the clean image and leave it unchanged."""
    run = APGD.run
    monkeypatch.setattr(APGD, "run", lambda self, model, images, labels, *, image_ids, start: run(
        self if start is None else APGD(eps=0), model, images, labels, image_ids=image_ids))


@pytest.mark.parametrize(("defect", "expected"), [
    (fgsm_of_a_quarter, {"constraint"}),
    (beyond_eps, {"constraint"}),
    (a_start_beyond_eps, {"eps 0", "constraint", "void invariance"}),
    (void_as_class_0, {"void invariance"}),
    (other_void_labels_as_classes, {"void invariance"}),
    (race_beyond_eps, {"eps 0", "void invariance"}),
    (race_with_void_as_class_0, {"void invariance"}),
    (gradients_left_behind, {"model untouched"}),
    (eval_mode_left_behind, {"model untouched"}),
    (descent_for_ascent, {"gradient", "step order", "black box"}),
    (naive_js, {"extreme logits"}),
    (weak_losses, {"losses"}),
    (only_ten_good_steps, {"more steps"}),
    (no_warm_start, {"eps monotone"}),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_defect_of_an_attack_fails_its_check(smooth, failed, monkeypatch, defect, expected):
    defect(monkeypatch)
    assert failed(smooth, *expected) == expected


def test_of_the_losses_the_best_for_each_image_counts(smooth, pairs, monkeypatch):
    """A race that does nothing is no failure: which one is strongest is no law."""
    monkeypatch.setattr(Race, "attempt", lambda self, problem, begin: (problem.images, None))
    bench = Bench(smooth, *pairs, eps=EPS)
    check, = run_checks(smooth, *pairs, eps=EPS, only=["losses"])
    figures = check["figures"]
    assert check["passed"] and figures["race"] == pytest.approx(pooled_accuracy({k: bench.clean[k] for k in bench.few}))
    assert set(figures) == {"ce", "segpgd", "cospgd", "mce", "mce_even", "logodds", "js", "race", "best of the others"}
    fewest = dict.fromkeys(bench.few, float("inf"))
    for loss in set(figures) - {"ce", "race", "best of the others"}:
        scored = bench.score_attacked(PGD(eps=EPS, steps=20, best_iterate=True, attack_loss=loss), bench.few)
        assert figures[loss] == pytest.approx(pooled_accuracy(scored))
        fewest = {k: min(fewest[k], scored[k].correct) for k in bench.few}
    pixels = sum(int(bench.clean[k].pixels.sum()) for k in bench.few)
    assert figures["best of the others"] == pytest.approx(100 * sum(fewest.values()) / pixels)


@pytest.fixture
def some_checks(monkeypatch):
    """A function that leaves only the checks of these names."""
    def leave(*names):
        monkeypatch.setattr("engine.verify.CHECKS", {name: CHECKS[name] for name in CHECKS if name in names})

    return leave


def test_main_writes_its_results_and_exits_with_1_if_a_check_failed(trained, some_checks, capsys):
    """A network of four iterations may fail some checks."""
    some_checks("batch invariance", "step order", "gradient")
    argv = ["--verify", "--output_dir", str(trained), "--num_workers", "0", "--val_images", "1", "--eps", "8/255"]
    for old in (trained / "exp").glob("verify*.json"):
        old.unlink()
    code, results = 0, None
    try:
        results = main(argv)
    except SystemExit as stop:
        code = stop.code
    written = json.loads((trained / "exp" / "verify.json").read_text())
    assert set(written) == {"options", "images", "eps", "checks"}
    assert written["images"] == ["val_0000"] and written["eps"] == 8 / 255 and written["options"]["verify"]
    assert [check["name"] for check in written["checks"]] == ["batch invariance", "gradient", "step order"]
    passed = [check["passed"] for check in written["checks"]]
    assert code == (0 if all(passed) else 1) and (results is None) == (code == 1)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("pass  ", "FAIL  ")) for line in lines) == 3
    assert lines[-1].startswith(f"{sum(passed)} of 3 checks passed")


def test_main_keeps_the_earlier_file_and_exits_with_1_on_a_failure(trained, some_checks, monkeypatch):
    some_checks("eps 0")
    folder, argv = trained / "exp", ["--verify", "--output_dir", str(trained), "--num_workers", "0"]
    for old in folder.glob("verify*.json"):
        old.unlink()
    results = main(argv)
    assert len(results["images"]) == 4 and results["images"][0] == "val_0000" and results["images"][-1] == "val_0031"
    assert results["eps"] == 4 / 255 and results["checks"][0]["passed"]
    a_start_beyond_eps(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 1
    assert json.loads((folder / "verify.1.json").read_text())["checks"][0]["passed"]
    assert not json.loads((folder / "verify.json").read_text())["checks"][0]["passed"]


@pytest.mark.parametrize(("flags", "words"), [
    (["--eps", "0"], "above 0"), (["--attack_norm", "l2", "--eps", "1"], "leave out --attack_norm")])
def test_main_refuses_eps_0_and_l2(trained, refused, flags, words):
    line = refused(["--verify", "--output_dir", str(trained), "--num_workers", "0", *flags])
    assert words in line


class WrongGradient(torch.autograd.Function):
    """The images as they are, with the gradient of their mirror images."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.flip(-1)


def test_the_check_of_transfer_compares_with_images_made_on_other_networks(smooth, pairs):
    other, generator = copy.deepcopy(smooth), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in [parameter for parameter in other.parameters() if parameter.ndim == 4]:
            weight.add_(0.3 * weight.std() * torch.randn(weight.shape, generator=generator))
    honest, = run_checks(smooth, *pairs, eps=EPS, only=["transfer"], transfer_from={"other": other})
    assert honest["passed"] and honest["figures"]["own"] < honest["figures"]["from other"] < honest["figures"]["clean"]
    hidden = Before(WrongGradient.apply, smooth)
    caught, = run_checks(hidden, *pairs, eps=EPS, only=["transfer"], transfer_from={"one": smooth, "two": other})
    assert not caught["passed"] and caught["figures"]["from one+two"] < caught["figures"]["own"]
    assert "Gradient masking" in caught["why"] and "docs/verify.md#transfer" in format_check(caught)


def test_main_checks_transfer_where_networks_are_given(trained, some_checks, capsys):
    some_checks("eps 0", "transfer")
    best, = (trained / "exp").glob("best_*.pth")
    argv = ["--verify", "--output_dir", str(trained), "--num_workers", "0", "--val_images", "2"]
    assert [check["name"] for check in main(argv)["checks"]] == ["eps 0"]
    checks = main([*argv, "--transfer_from", str(best)])["checks"]
    assert [check["name"] for check in checks] == ["eps 0", "transfer"]
    assert checks[1]["figures"]["own"] == checks[1]["figures"]["from exp"]  # its own weights
