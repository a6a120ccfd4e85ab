"""The flags of attacks and of evaluation under them."""
from functools import partial

from engine.options.declare import (
    ATTACKING,
    PREDICT,
    REPORT,
    SCORING,
    SEGMENTING,
    TEST,
    VERIFY,
    Flag,
    Need,
    attack_with,
    given,
    list_attacks,
)
from engine.options.types import number, plain_text, shard, share_of_eps, target
from utils.literals import list_registered

ATTACKS = list_registered("attacks/__init__.py", "ATTACKS")
LOSSES = list_registered("attacks/losses.py", "LOSSES")
NORMS = list_registered("attacks/norms.py", "NORMS")
CORRUPTIONS = list_registered("attacks/corruption.py", "CORRUPTIONS")
CORRUPTED = given(lambda options: options.corrupt, "for corruptions: add --corrupt all, or some of them by name")

ATTACKED = Need(lambda options: (options.mode not in ATTACKING or list_attacks(options)
                                 or ("attack" in options.given and not options.adv)),
                lambda _: "for --attack, which is not given; the radius in training is --train_eps and --norm")
OF_PREDICTION = given(lambda options: options.mode != PREDICT or list_attacks(options), "add --attack NAME")
# What a reviewer asks for: --protocol stands for these flags.
SMALL_EPS = "--attack_norm linf --eps 0.25/255 0.5/255 1/255 2/255"
PROTOCOLS = {"smoke": f"--attack fgsm pgd --steps 10 --alpha eps/4 {SMALL_EPS}",
             "standard": f"--attack pgd segpgd cospgd --steps 20 --alpha eps/4 --best_iterate {SMALL_EPS}",
             "strong": f"--attack ensemble --steps 300 {SMALL_EPS} 4/255"}
attack = partial(Flag, group="attacked evaluation", modes=ATTACKING, scope="call")
ATTACK = (
    attack("test_only", bool, False, "evaluate, without training; model, data and seed are the checkpoint's unless "
           "given", modes=(TEST, VERIFY)),
    attack("attack", plain_text, ("none",), "attacks to evaluate under: none, " + ", ".join(ATTACKS) + "; clean images "
           "always come first", choices=("none", *ATTACKS), many=True, metavar="NAME", modes=(*ATTACKING, REPORT)),
    attack("eps", number(float, low=0), None, "radii: 4/255 or a number in [0, 1]; for l2 any (default: 2/255 4/255 "
           "8/255; l2 0.5 1 2; --verify and predict.py take one, 4/255 or l2 0.5)", many=True,
           modes=(*SEGMENTING, REPORT), needs=(ATTACKED,)),
    attack("attack_norm", plain_text, "linf", "norm of the radius", choices=NORMS, modes=(*ATTACKING, REPORT),
           needs=(ATTACKED,)),
    attack("attack_loss", plain_text, None, "losses that fgsm, pgd and apgd ascend: " + ", ".join(LOSSES) +
           " (default: ce); the other attacks have their own", choices=LOSSES, many=True, metavar="NAME",
           modes=(*ATTACKING, REPORT), needs=(attack_with("attack_loss"),)),
    attack("steps", number(int, low=1), None, "gradient steps (default: pgd, segpgd, cospgd 10, apgd and "
           "min_radius 100, race 30, sea and ensemble 300 for each loss), queries of square (1000)",
           needs=(attack_with("steps"),)),
    attack("alpha", share_of_eps, "eps/4", "step size of pgd, segpgd, cospgd: a share of eps, or a number",
           needs=(attack_with("step_size"),)),
    attack("best_iterate", bool, False, "pgd, segpgd, cospgd: each image's best iterate instead of the last one; apgd "
           "always keeps the best", needs=(attack_with("best_iterate"),)),
    attack("red_eps", bool, False, "apgd: steps shared out over radii of 2, 1.5 and 1 eps; sea and ensemble always do "
           "so", needs=(attack_with("red_eps"),)),
    attack("restarts", number(int, low=1), 1, "attempts from new random points; each image keeps its worst",
           needs=(attack_with("restarts"),)),
    attack("attack_seed", number(int, low=0, high=2**32 - 1), 1, "seed of the attacks' random numbers",
           modes=SEGMENTING, needs=(OF_PREDICTION, attack_with("seed", or_none=True))),
    attack("target_class", target, None, "drive predictions to class K, or to a label map (an image of class numbers)",
           metavar="K|FILE", needs=(attack_with("target"),)),
    attack("race_aim", plain_text, "both", "race: look for the fewest correct pixels (accuracy, both) or the lowest "
           "mean class accuracy of an image (miou); with both and miou the row's mIoU is by the worst choice of "
           "candidates over all images", choices=("both", "accuracy", "miou"), modes=SCORING,
           needs=(attack_with("race_aim"),)),
    attack("min_radius_share", number(float, above=0, high=1), 0.99, "min_radius: share of the labelled pixels of "
           "an image that must be wrong", modes=SCORING, needs=(attack_with("min_radius_share"),)),
    attack("warm_start", bool, False, "begin at the result for the next smaller --eps: no image then gets better as "
           "eps grows", modes=SCORING, needs=(attack_with("eps"),)),
    attack("transfer_from", plain_text, None, "make the adversarial images on the networks of these checkpoints, of "
           "several on the mean of their losses, and score them on this one", many=True, metavar="CKPT",
           modes=(TEST, VERIFY), needs=(given(lambda options: options.mode != TEST or list_attacks(options),
                                              "nothing is attacked, add --attack NAME"),)),
    attack("protocol", plain_text, None, "the attacks, steps and radii that a reviewer asks for: a first look (smoke), "
           "a table (standard), a claim of robustness (strong); the log shows the flags that it stands for",
           choices=tuple(PROTOCOLS), modes=SCORING, scope="once"),
    attack("corrupt", plain_text, None, "common corruptions to evaluate under, after the clean images: all, or some of "
           + ", ".join(CORRUPTIONS), choices=("all", *CORRUPTIONS), many=True, metavar="NAME",
           modes=(*SCORING, REPORT)),
    attack("severity", number(int, low=1, high=5), (1, 2, 3, 4, 5), "of the corruptions, from 1 to 5", many=True,
           modes=SCORING, needs=(CORRUPTED,)),
    attack("corrupt_baseline", plain_text, None, "another run, a folder or a name in output_dir, whose errors under "
           "the same corruptions these errors are divided by", metavar="RUN", modes=SCORING, needs=(CORRUPTED,)),
    attack("val_images", number(int, low=1), None, "evaluate on N validation images, evenly spaced, instead of all",
           metavar="N", modes=(TEST, VERIFY)),
    attack("shard", shard, None, "evaluate only share I of N, by whole batches, in a folder of its own in the run's; "
           "--report RUN joins the shares", metavar="I/N", modes=(TEST,)),
    attack("save_val_results", bool, False, "write image, target, pred, overlay and perturbation PNGs of every result "
           "and image", modes=SCORING),
    attack("sheet_images", number(int, low=0), 3, "number of images whose PNGs are always written, for the sheets of "
           "--report", modes=SCORING),
)
