"""The experiment on sharpness: probes against autograd, statistics against least squares, and jobs that continue."""
import json
from contextlib import closing
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from experiments.sharpness import __main__ as entry
from experiments.sharpness import analysis, differences, length, probes, results, work
from experiments.sharpness.plan import CAMVID, QUICK, Network, choose_methods
from tests import thin
from utils.errors import UserError
from utils.files import AppendOnly


@pytest.fixture
def tiny():
    """A network with few parameters in double precision, and two batches of its training data."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 3, 1)).double().eval()
    batches = [(torch.rand(2, 3, 5, 6, dtype=torch.double), torch.randint(0, 3, (2, 5, 6))) for _ in range(2)]
    return network, batches


def loss_of(network, batches, flat):
    """The loss as a function of one vector of all parameters."""
    values, start = {}, 0
    for name, parameter in network.named_parameters():
        values[name] = flat[start:start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return torch.stack([nn.functional.cross_entropy(torch.func.functional_call(network, values, images), labels)
                        for images, labels in batches]).mean()


def vector_of(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_the_largest_eigenvalue_is_that_of_the_whole_hessian(tiny):
    network, batches = tiny
    hessian = torch.autograd.functional.hessian(lambda flat: loss_of(network, batches, flat), vector_of(network))
    values = torch.linalg.eigvalsh(hessian)
    largest = values[values.abs().argmax()].item()
    found, change = probes.largest_eigenvalue(network, batches, iterations=500)
    assert found == pytest.approx(largest, rel=0.03) and change < probes.TOLERANCE


@pytest.mark.parametrize("rho", [0.02, 0.5])
def test_the_sam_gap_is_that_of_the_vector(tiny, rho):
    network, batches = tiny
    before = vector_of(network)
    flat = before.clone().requires_grad_(True)
    start = loss_of(network, batches, flat)
    slope, = torch.autograd.grad(start, flat)
    expected = loss_of(network, batches, before + rho * slope / slope.norm()) - start
    assert probes.sam_gap(network, batches, rho) == pytest.approx(expected.item(), rel=1e-9)
    assert torch.equal(vector_of(network), before), "the weights are as before"


def test_input_sensitivity_is_that_of_finite_differences(tiny):
    network, batches = tiny
    images, labels = batches[0]
    found = probes.input_sensitivity(network, list(zip(images, labels, strict=True)), [0, 1])
    step, l1, l2, margins = 1e-6, [], [], []
    for image, label in zip(images, labels, strict=True):
        def loss(image, label=label):
            return nn.functional.cross_entropy(network(image[None]), label[None]).item()

        slopes = []
        for place in np.ndindex(*image.shape):
            ahead, behind = image.clone(), image.clone()
            ahead[place], behind[place] = ahead[place] + step, behind[place] - step
            slopes.append((loss(ahead) - loss(behind)) / (2 * step))
        l1.append(np.abs(slopes).sum())
        l2.append(np.linalg.norm(slopes))
        logits = network(image[None])[0].detach().numpy()
        own = [(logits[label[y, x], y, x], np.delete(logits[:, y, x], label[y, x]).max())
               for y, x in np.ndindex(*label.shape)]
        margins.append(np.mean([mine - other for mine, other in own if mine > other]))
    assert found == pytest.approx({"gradient_l1": np.mean(l1), "gradient_l2": np.mean(l2),
                                   "margin": np.mean(margins)}, rel=1e-5)


def fit(scores):
    """Slope, differences to the first method and half their t intervals, by least squares with a column per method."""
    rows = [(method, *pair) for method, pairs in scores.items() for pair in pairs]
    design = np.array([[clean, *(method == each for each in scores)] for method, clean, _ in rows], float)
    attacked = np.array([attacked for *_, attacked in rows])
    solved, *_ = np.linalg.lstsq(design, attacked, rcond=None)
    freedom = len(rows) - design.shape[1]
    covariance = np.linalg.inv(design.T @ design) * ((attacked - design @ solved) ** 2).sum() / freedom
    contrasts = np.eye(design.shape[1])[2:] - np.eye(design.shape[1])[1]
    halves = stats.t.ppf(0.975, freedom) * np.sqrt(np.diag(contrasts @ covariance @ contrasts.T))
    return solved[0], dict(zip([*scores][1:], zip(contrasts @ solved, halves, strict=True), strict=True))


def draw_scores(draws, noise=0.1):
    found = {}
    for method, level, networks in (("sgd", 0.0, 5), ("sam", 2.0, 4), ("other", -1.0, 3)):
        clean = draws.normal(40 + level, 2, networks)
        found[method] = list(zip(clean, level + 0.5 * clean + draws.normal(0, noise, networks), strict=True))
    return found


def test_the_difference_at_equal_clean_scores_is_that_of_least_squares():
    scores = draw_scores(np.random.default_rng(0))
    slope, found = analysis.adjust(scores)
    expected, differences_to_sgd = fit(scores)
    assert slope == pytest.approx(expected) and [*found] == ["sam", "other"]
    for method, (value, half) in differences_to_sgd.items():
        assert found[method] == pytest.approx((value, value - half, value + half))


def test_the_interval_at_equal_clean_scores_has_the_truth_in_19_of_20():
    draws = np.random.default_rng(1)
    intervals = [analysis.adjust(draw_scores(draws, noise=1.0))[1]["sam"] for _ in range(2000)]
    assert np.mean([low < 2.0 < high for _, low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_few_networks_have_no_interval_at_equal_clean_scores_and_equal_ones_no_slope():
    one, two, three = [(40.0, 20.0)], [(40.0, 20.0), (41.0, 23.0)], [(40.0, 20.0), (41.0, 23.0), (39.0, 22.0)]
    assert analysis.adjust({"sgd": two, "sam": two})[1]["sam"][1:] == (None, None)  # one degree of freedom
    assert None not in analysis.adjust({"sgd": two, "sam": three, "other": three})[1]["sam"]  # four
    assert analysis.adjust({"sgd": one, "sam": one}) == (None, {"sam": (None, None, None)})


def test_attacks_that_a_method_lacks_are_left_out_of_the_table_at_equal_clean_scores(monkeypatch):
    """race with other steps is measured on the first networks of some methods only."""
    race, longer = ("race", "linf", 0.002, 30), ("race", "linf", 0.002, 60)
    monkeypatch.setattr(analysis, "pair", lambda records, key: records[key])
    text = differences.format_adjusted({
        "sgd": {1: {race: (40, 20.0), longer: (40, 19.0)}, 2: {race: (42, 21.0), longer: (42, 20.0)}},
        "sam_0.02": {1: {race: (40, 23.0), longer: (40, 22.0)}}, "asam_0.2": {1: {race: (40, 21.5)}}})
    assert "race-30" in text and "race-60" not in text
    assert "+3.0" in text and "+1.5" in text and "(slope)" in text and "+0.50" in text


def test_the_true_spread_is_within_the_factors_in_19_of_20():
    seen = np.random.default_rng(2).normal(0, 3, (20_000, 4)).std(1, ddof=1)
    low, high = analysis.spread_factors(3)
    assert ((low * seen < 3) & (high * seen > 3)).mean() == pytest.approx(0.95, abs=0.01)


def test_the_detectable_difference_is_found_in_four_of_five_simulated_experiments():
    """Three seeds, differences of standard deviation 2: Student's t interval leaves out 0 in 80 % of 20,000 draws."""
    draws = np.random.default_rng(0)
    seen = [np.array([-2.0, 0.0, 2.0]), np.array([1.0, 3.0, 5.0])]  # both of standard deviation 2
    size, freedom = analysis.detectable(seen)
    assert freedom == 4
    experiments = draws.normal(size, 2, (20_000, 3))
    half = 4.303 * experiments.std(1, ddof=1) / 3 ** 0.5
    assert (experiments.mean(1) > half).mean() == pytest.approx(0.8, abs=0.012)
    assert analysis.detectable([]) is None


# The page


def test_a_page_s_tables_are_made_new_and_all_else_stays():
    page = ("Before.\n<!-- table: One -->\nold\n<!-- end -->\nBetween <!-- a note -->.\n<!-- table: Two -->\n"
            "<!-- end -->\n")
    assert results.fill(page, {"One": "| 1 |", "Two": "| 2 |", "Three": "| 3 |"}) == (
        "Before.\n<!-- table: One -->\n| 1 |\n<!-- end -->\nBetween <!-- a note -->.\n<!-- table: Two -->\n| 2 |\n"
        "<!-- end -->\n")
    with pytest.raises(UserError, match="does not exist: Two"):
        results.fill(page, {"One": "| 1 |"})
    with pytest.raises(UserError, match="no line such as"):
        results.fill("Words.", {"One": "| 1 |"})


def test_the_length_of_training_is_chosen_on_training_images(tmp_path):
    for split, count in (("train", 75), ("val", 3)):
        for kind in ("", "annot"):
            (tmp_path / "camvid" / f"{split}{kind}").mkdir(parents=True)
            for place in range(count):
                (tmp_path / "camvid" / f"{split}{kind}" / f"{place:03}.png").write_text(f"{split}{kind} {place}")
    for _ in range(2):  # the second time the links are there
        length.make_split(tmp_path / "camvid", tmp_path / "split")
    names = {split: sorted(path.name for path in (tmp_path / "split" / split).iterdir())
             for split in ("train", "trainannot", "val", "valannot")}
    assert names["train"] == names["trainannot"] == [f"{place:03}.png" for place in range(5)]
    assert names["val"] == names["valannot"] == [f"{place:03}.png" for place in range(5, 75)]
    assert (tmp_path / "split" / "valannot" / "070.png").read_text() == "trainannot 70"


# The plan


def test_the_core_methods_come_first_and_all_with_their_seeds():
    names = [network.name for network in CAMVID.networks()]
    assert len(names) == len(set(names)) == 8 * 3
    core = {"sgd", "sgd_twice", "sam_0.02", "asam_0.2", "at_1"}
    assert {name.rpartition("-")[0] for name in names[:5]} == core
    assert names[15:18] == ["sam_0.05-1", "sam_0.1-1", "sam_on_0.5-1"]
    assert [network.name for network in choose_methods(CAMVID, None).networks()] == names[:15]
    assert [network.name for network in choose_methods(CAMVID, ["sam_0.1"]).networks()] == names[16::3]


def test_sgd_twice_has_twice_the_iterations_and_the_passes_of_sam():
    sgd, twice, sam = (CAMVID.training(Network(method, 1)) for method in ("sgd", "sgd_twice", "sam_0.02"))
    length = {job: job.arguments[job.arguments.index("--total_itrs") + 1] for job in (sgd, twice, sam)}
    assert int(length[twice]) == 2 * int(length[sgd]) == 2 * int(length[sam])
    assert twice.passes == sam.passes == 2 * sgd.passes


# Jobs


@pytest.fixture
def thin_network():
    with thin.installed():
        yield


@pytest.fixture
def told(monkeypatch):
    """The commands that were run, in order; none is really run."""
    found = []
    monkeypatch.setattr(work, "main", lambda argv: found.append(argv))
    monkeypatch.setattr(work, "probe", lambda folder, **_: found.append(["probe", folder.name]))
    return found


def test_what_is_finished_is_skipped(tmp_path, told):
    assert not work.work(QUICK, tmp_path, train=False, attack=True), "nothing is trained, so nothing is attacked"
    assert told == []
    assert work.work(QUICK, tmp_path, train=True, attack=False, extra=("--data_root", "here"))
    assert len(told) == 4 and all(argv[-2:] == ["--data_root", "here"] for argv in told)
    in_all = sum(1 + len(QUICK.measurements(network)) for network in QUICK.networks())
    for _ in range(2):
        assert work.work(QUICK, tmp_path, train=True, attack=True)
        assert len(told) == in_all
    journal = work.read_journal(tmp_path, Network("sgd", 1))
    assert "here" not in json.dumps(journal) and journal[0]["command"].startswith("python main.py --exp_name sgd-1")


def test_a_network_that_another_process_works_on_is_left_to_it(tmp_path, told, monkeypatch):
    monkeypatch.setattr("utils.files.LOCK_WAIT", 0.0)
    with closing(AppendOnly(tmp_path / "sgd-1.jsonl")):
        assert not work.work(QUICK, tmp_path, train=True, attack=False)
    assert len(told) == 3 and not any("sgd-1" in argv for argv in told)


def test_a_command_that_was_stopped_is_repeated_and_a_torn_line_is_none(tmp_path, told, monkeypatch):
    def stop(argv):
        (tmp_path / "sgd-1").mkdir()
        (tmp_path / "sgd-1" / "latest_net.pth").touch()
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(work, "main", stop)
        with pytest.raises(SystemExit):
            work.work(QUICK, tmp_path, train=True, attack=False)
    (tmp_path / "sgd-1.jsonl").write_text('{"job": "tra')
    work.work(QUICK, tmp_path, train=True, attack=False, extra=("--data_root", "here"), at_start=("--start", "weights"))
    first, *others = told
    assert "sgd-1" in first and first[-3:] == ["--data_root", "here", "--continue_training"]
    assert all(argv[-4:] == ["--data_root", "here", "--start", "weights"] for argv in others)
    assert [line["job"] for line in work.read_journal(tmp_path, Network("sgd", 1))] == ["train"]


def test_a_failed_check_is_a_result_and_other_failures_are_not(tmp_path, monkeypatch):
    def fail(argv):
        if "--verify" in argv:
            raise SystemExit(1)
        if "square" in argv:
            raise SystemExit(2)

    monkeypatch.setattr(work, "main", fail)
    with pytest.raises(SystemExit):
        work.work(QUICK, tmp_path, train=True, attack=True)
    assert [line["job"] for line in work.read_journal(tmp_path, Network("sgd", 1))] == [
        "train", "race", "pgd", "l2", "min_radius"]


def test_a_method_that_the_plan_lacks_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(["train", "--data_root", "x", "--plan", "camvid_v3plus", "--methods", "sgd", "at_1"])
    assert stop.value.code == 2 and "--methods: camvid_v3plus has no at_1" in capsys.readouterr().err


def test_data_root_is_asked_for_before_anything_starts(capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(["train"])
    assert stop.value.code == 2 and "--data_root" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["train", "--data_root", "x"], ["table", "--quick"]])
def test_a_page_without_tables_of_its_own_is_refused(capsys, flags):
    with pytest.raises(SystemExit) as stop:
        entry.main([*flags, "--page", "page.md"])
    assert stop.value.code == 2 and "--page: for the step table" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(find_spec("imagecorruptions") is None, reason="an extra: make extras")
def test_the_whole_way_on_synthetic_data(tmp_path, thin_network):
    """Train, attack and compare; stopped after the trainings and continued; the tables come from the archive alone.

    With the thin network: the real one takes four minutes on a busy machine.
    """
    assert entry.main(["train", "--quick", "--folder", str(tmp_path / "runs")]) == 0
    assert entry.main(["attack", "table", "--quick", "--folder", str(tmp_path / "runs")]) == 0
    folder = tmp_path / "runs" / "results"
    archive = folder / "sharpness_synthetic_records.tar.gz"
    text = (folder / "sharpness_synthetic.md").read_text()
    assert text == results.format_tables(results.make_tables(archive))
    content = json.loads((folder / "sharpness_synthetic.json").read_text())
    assert [network["name"] for network in content["networks"]] == [network.name for network in QUICK.networks()]
    assert {path.name for path in folder.glob("*.png")} == {
        f"sharpness_synthetic_{what}.png" for what in ("curves", "clean", "sheet")}
    first = archive.read_bytes()
    assert entry.main(["train", "attack", "table", "--quick", "--folder", str(tmp_path / "runs")]) == 0
    assert archive.read_bytes() == first, "what is finished is not done again"
    elsewhere = tmp_path / "elsewhere"
    flags = ["--quick", "--folder", str(elsewhere), "--results", str(folder)]
    (elsewhere).mkdir()
    (elsewhere / "sgd-1.jsonl").touch()  # begun there: it is not overwritten
    assert entry.main(["restore", *flags]) == 0
    assert (elsewhere / "sgd-1.jsonl").read_text() == "" and not (elsewhere / "sgd-1").exists()
    (elsewhere / "sgd-1.jsonl").unlink()
    assert entry.main(["restore", "train", "attack", "table", *flags]) == 0
    assert archive.read_bytes() == first and not list(elsewhere.rglob("*.pth")), "what is restored is not done again"
    check_against_json(folder / "sharpness_synthetic.md", content)


def check_against_json(page, content):
    """The table's means and spreads are those of the figures in the JSON file, by NumPy."""
    head, _, line = page.read_text().split("\n\n")[1].splitlines()[:3]  # of the first table
    cells = dict(zip(*([cell.strip() for cell in row.split("|")[1:-1]] for row in (head, line)), strict=True))
    rows = [row for network in content["networks"] if network["method"] == "sgd" for row in network["rows"]]
    for title, attack, steps, images in (("clean, all images", "none", 0, 32), ("clean, attacked images", "none", 0, 2),
                                         ("race-5 8/255", "race", 5, 2)):
        values = [100 * row["Mean IoU"] for row in rows if (row["attack"], row["steps"], row["images"]) == (
            attack, steps, images) and row["norm"] != "l2"]
        assert cells[title] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" and len({*values}) == 2
