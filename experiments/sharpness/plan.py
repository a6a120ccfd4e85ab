"""What is trained and what is measured: methods, seeds and the commands of each network."""
from dataclasses import dataclass, replace

SMALL, LARGE = ("0.25/255", "0.5/255", "1/255"), ("2/255", "4/255")


@dataclass(frozen=True)
class Method:
    """A way to train. length: iterations in units of the plan's; passes: forward and backward ones of an iteration."""

    title: str
    flags: tuple[str, ...]
    seeds: int
    length: int = 1
    passes: int = 1
    eps: tuple[str, ...] = SMALL


@dataclass(frozen=True)
class Job:
    """One command for a network. passes: forward and backward ones of a whole image, to estimate the time."""

    name: str
    arguments: tuple[str, ...]
    passes: float


@dataclass(frozen=True)
class Network:
    """A method with one seed."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of its run folder, such as sam_0.02-1."""
        return f"{self.method}-{self.seed}"


METHODS = {
    "sgd": Method("SGD", (), seeds=3),
    "sgd_twice": Method("SGD, twice the iterations", (), seeds=3, length=2),
    "sam_0.02": Method("SAM, rho 0.02", ("--optimizer", "SAM", "--rho", "0.02"), seeds=3, passes=2),
    "sam_0.05": Method("SAM, rho 0.05", ("--optimizer", "SAM", "--rho", "0.05"), seeds=3, passes=2),
    "sam_0.1": Method("SAM, rho 0.1", ("--optimizer", "SAM", "--rho", "0.1"), seeds=3, passes=2),
    "asam_0.2": Method("ASAM, rho 0.2", ("--optimizer", "SAM", "--adaptive", "--rho", "0.2"), seeds=3, passes=2),
    "sam_on_0.5": Method("SAM-ON, rho 0.5", ("--optimizer", "SAM", "--sam_perturb", "norm", "--rho", "0.5"), seeds=3,
                         passes=2),
    "at_1": Method("adversarial, PGD-3 at 1/255", ("--adv", "--train_eps", "1/255", "--train_step", "3"), seeds=3,
                   passes=4, eps=SMALL + LARGE),
}
# What is trained unless --methods names others; their networks come before all others.
CORE = ("sgd", "sam_0.02", "at_1", "asam_0.2", "sgd_twice")
CONVERGENCE = ("sgd", "sam_0.02", "at_1")  # methods whose first network shows how many steps race needs


@dataclass(frozen=True)
class Plan:
    """An experiment: the flags that all trainings share, and how much is measured."""

    name: str
    data: tuple[str, ...]
    recipe: tuple[str, ...]
    methods: dict[str, Method]
    iterations: int = 1000
    images: int = 16
    race_steps: int = 30
    other_race_steps: tuple[int, ...] = (10, 60, 120)
    apgd_steps: int = 60
    l2_eps: str = "0.5"
    radius_steps: int = 30
    queries: int = 100
    corruptions: tuple[str, ...] = ("all",)
    verified: tuple[str, ...] = ("--val_images", "4")  # flags of --verify
    probe_iterations: int = 30
    measured: tuple[str, ...] = ()  # names of jobs; all without any
    crop_share: float = 240 * 240 / (360 * 480)  # pixels of a training crop as a share of a whole image's

    def networks(self) -> list[Network]:
        """Return all networks, in the order in which they are trained."""
        def rank(network: Network):
            place = CORE.index(network.method) if network.method in CORE else len(CORE)
            return network.method not in CORE, network.seed, place

        every = [Network(name, seed) for name, method in self.methods.items() for seed in range(1, method.seeds + 1)]
        return sorted(every, key=rank)

    def training(self, network: Network) -> Job:
        """Return the training of a network. Its best checkpoint is its last, as it is validated only at the end."""
        method = self.methods[network.method]
        length = self.iterations * method.length
        batch = int(self.recipe[self.recipe.index("--batch_size") + 1])
        return Job("train", (*self.data, *self.recipe, *method.flags, "--total_itrs", str(length), "--val_interval",
                             str(length), "--random_seed", str(network.seed)),
                   passes=length * method.passes * batch * self.crop_share)

    def measurements(self, network: Network) -> list[Job]:
        """Return what is measured on a trained network, by main.py and by probes.py."""
        eps, count = self.methods[network.method].eps, self.images
        middle = eps[min(1, len(eps) - 1)]
        some = ("--test_only", "--val_images", str(count), "--sheet_images", "4")

        def attack(name: str, *flags: str, passes: float) -> Job:
            return Job(name, (*some, "--attack", *flags), passes * count)

        jobs = [
            attack("race", "race", "--steps", str(self.race_steps), "--eps", *eps, passes=len(eps) * self.race_steps),
            attack("pgd", "pgd", "--steps", "10", "--eps", *eps, passes=len(eps) * 10),
            attack("l2", "race", "--steps", str(self.race_steps), "--attack_norm", "l2", "--eps", self.l2_eps,
                   passes=self.race_steps),
            attack("min_radius", "min_radius", "--steps", str(self.radius_steps), passes=self.radius_steps),
            attack("square", "square", "--steps", str(self.queries), "--eps", middle, passes=self.queries / 3),
            Job("corruptions", (*some, "--corrupt", *self.corruptions, "--severity", "3"),
                passes=count * 15 if "all" in self.corruptions else count * len(self.corruptions)),
            Job("verify", ("--verify", "--eps", middle, *self.verified), passes=300),
            Job("probe", (), passes=600),
            *(attack(f"race-{steps}", "race", "--steps", str(steps), "--eps", middle, passes=steps)
              for steps in self.other_race_steps if network.seed == 1 and network.method in CONVERGENCE),
        ]
        if network.seed == 1:  # docs/attacks.md: where race leaves more than half of the pixels, this may leave less
            radii = (middle, *eps[len(SMALL):][-1:])
            jobs.append(attack("apgd", "apgd", "--attack_loss", "blend", "--steps", str(self.apgd_steps), "--eps",
                               *radii, passes=self.apgd_steps * len(radii)))
        return [job for job in jobs if not self.measured or job.name in self.measured]


CAMVID = Plan(
    name="camvid", data=("--dataset", "camvid"),
    recipe=("--model", "deeplabv3_mobilenet", "--output_stride", "16", "--lr", "0.05", "--backbone_lr_mult", "0.2",
            "--bn_momentum", "0.1", "--crop_size", "240", "--batch_size", "8", "--save_interval", "50",
            "--keep", "1", "--num_workers", "1"), methods=METHODS)
# A second network, shorter and with less measured: is the sign the same?
CAMVID_V3PLUS = replace(
    CAMVID, name="camvid_v3plus", recipe=("--model", "deeplabv3plus_mobilenet", *CAMVID.recipe[2:]), iterations=500,
    methods={name: METHODS[name] for name in ("sgd", "sgd_twice", "sam_0.02")}, other_race_steps=(),
    measured=("race", "pgd", "verify"))
PLANS = {plan.name: plan for plan in (CAMVID, CAMVID_V3PLUS)}
QUICK = Plan(
    name="synthetic", data=("--dataset", "synthetic"),
    recipe=("--model", "deeplabv3_mobilenet", "--output_stride", "16", "--no-pretrained_backbone", "--lr", "0.1",
            "--backbone_lr_mult", "1", "--bn_momentum", "0.1", "--crop_size", "65", "--batch_size", "4",
            "--keep", "1", "--num_workers", "0"),
    methods={name: replace(METHODS[name], seeds=2, eps=("8/255",)) for name in ("sgd", "sam_0.02")},
    iterations=20, images=2, race_steps=5, other_race_steps=(10,), apgd_steps=4, radius_steps=5, queries=5,
    corruptions=("gaussian_noise", "fog"), verified=("--val_images", "1"), probe_iterations=2, crop_share=1.0)


def choose_methods(plan: Plan, names: list[str] | None) -> Plan:
    """Return the plan with these of its methods; None: those of CORE."""
    return replace(plan, methods={name: method for name, method in plan.methods.items() if name in (names or CORE)})
