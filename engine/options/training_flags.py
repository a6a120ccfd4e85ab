"""The flags of training: the schedule, sharpness, adversarial training, memory and processes."""
from functools import partial

from engine.options.declare import (
    PREDICT,
    SAM_FAMILY,
    TEST,
    TRAIN,
    Flag,
    Need,
    given,
    list_attacks,
    optimizer,
    torchrun,
)
from engine.options.types import find_base_optimizer, number, plain_text, share_of_eps
from utils.literals import list_registered

# AWP is chosen by --awp_gamma.
OPTIMIZERS = tuple(name for name in list_registered("optim/__init__.py", "OPTIMIZERS") if name != "AWP")
ADVERSARIES = ("fgsm", "pgd", "segpgd")
VAL_ATTACKS = ("fgsm", "pgd", "segpgd", "cospgd", "apgd", "race")  # of which a validation runs one
NORMS = list_registered("attacks/norms.py", "NORMS")

A_SAM = optimizer(*SAM_FAMILY)
FRIENDLY = (optimizer("FriendlySAM"),)
ADV = given(lambda options: options.adv, "for adversarial training: add --adv")
SEVERAL_STEPS = given(lambda options: options.adv_attack != "fgsm",
                      "fgsm is one step of the whole eps from the image itself; for another one choose "
                      "--adv_attack pgd --train_step 1")
TRADES = given(lambda options: options.adv_loss == "trades", "for TRADES: add --adv_loss trades")
EVERY_IMAGE = given(lambda options: options.adv_loss != "trades" or options.adv_ratio == 1,
                    "trades attacks every image: leave it out, or give --adv_loss attacked")
NOT_TRADES = given(lambda options: options.adv_loss != "trades" or (options.adv_attack, options.train_rand_init) == (
    "pgd", True), "trades has its own pgd, from a random point: leave it out, or give --adv_loss attacked")
AWP = given(lambda options: options.awp_gamma, "for weight perturbation: add --awp_gamma")
TRAINED_BACKBONE = given(lambda options: not options.freeze_backbone, "--freeze_backbone leaves the backbone as it is: "
                         "leave one of them out")
WITH_SGD = Need(lambda options: find_base_optimizer(options.optimizer, options.base_optimizer) == "sgd",
                lambda options: f"for sgd, or with --base_optimizer sgd, this run has {options.optimizer}")
WEIGHABLE = Need(lambda options: options.loss_type in ("cross_entropy", "focal_loss"),
                 lambda options: f"for --loss_type cross_entropy or focal_loss, this run has {options.loss_type}")
SMOOTHED = Need(lambda options: options.loss_type in ("cross_entropy", "ohem"),
                lambda options: f"for --loss_type cross_entropy or ohem, this run has {options.loss_type}")
VAL_ATTACK = given(lambda options: options.val_attack, "for a validation under attack: add --val_attack pgd")
STEP_POLICY = Need(lambda options: options.lr_policy == "step",
                   lambda options: f"for --lr_policy step, this run has {options.lr_policy}")

schedule = partial(Flag, group="training")
SCHEDULE = (
    schedule("total_itrs", number(int, low=1), 30000, "iterations to train"),
    schedule("optimizer", plain_text, "sgd", "SAM and its kin are on top of --base_optimizer", choices=OPTIMIZERS),
    schedule("lr", number(float, above=0), None, "learning rate of the head (default: 0.01; adam, adamw 5e-4)"),
    schedule("backbone_lr_mult", number(float, low=0), 0.1,
             "the backbone's learning rate is this times lr (VainF 0.1, SAM_AT 1)", needs=(TRAINED_BACKBONE,)),
    schedule("lr_policy", plain_text, "poly",
             "poly: power 0.9 down to 1e-6 at total_itrs; cosine: down to 0 there; step: x 0.1 every step_size",
             choices=list_registered("optim/__init__.py", "SCHEDULERS")),
    schedule("step_size", number(int, low=1), 10000, "iterations, for --lr_policy step", needs=(STEP_POLICY,)),
    schedule("warmup_itrs", number(int, low=0), 0, "iterations at first in which the learning rate rises linearly"),
    schedule("momentum", number(float, low=0, high=1), 0.9, "of sgd", needs=(WITH_SGD,)),
    schedule("nesterov", bool, False, "Nesterov's momentum, with sgd", needs=(
        WITH_SGD, given(lambda options: options.momentum, "needs a --momentum above 0"))),
    schedule("clip_grad", number(float, above=0), None, "largest norm of the gradient, to which a longer one is scaled",
             needs=(optimizer("sgd", "adam", "adamw", "SAM"),
                    given(lambda options: options.sam_mode != "micro", "not with --sam_mode micro"))),
    schedule("weight_decay", number(float, low=0), 1e-4, "on all parameters"),
    schedule("bn_momentum", number(float, above=0, high=1), 0.01,
             "momentum of the backbone's BatchNorm statistics; a short training needs 0.1", needs=(TRAINED_BACKBONE,)),
    schedule("loss_type", plain_text, "cross_entropy", "focal_loss has gamma 2; ohem: cross-entropy of hard pixels",
             choices=list_registered("optim/__init__.py", "LOSSES")),
    schedule("class_weights", plain_text, None, "weigh pixels by class: balanced, by the classes' median frequency in "
             "the training masks, or a file with a number for each class", metavar="balanced|FILE", needs=(WEIGHABLE,)),
    schedule("label_smoothing", number(float, low=0, high=1), 0.0, "share of the target that all classes get alike",
             needs=(SMOOTHED,)),
    schedule("ema", number(float, low=0, high=0.999999), None, "decay of a moving average of the weights, such as "
             "0.999, which is validated and saved for tests instead of the trained weights", modes=(TRAIN,)),
    schedule("print_interval", number(int, low=1), 10, "iterations between loss lines"),
    schedule("val_interval", number(int, low=1), 100, "iterations between validations"),
    schedule("val_attack", plain_text, None, "attack some images at each validation too: their mean IoU is logged",
             choices=VAL_ATTACKS, modes=(TRAIN,), fixed=True),
    schedule("val_eps", number(float, above=0, high=1), 2 / 255, "its radius (linf)", modes=(TRAIN,), fixed=True,
             needs=(VAL_ATTACK,)),
    schedule("val_attack_images", number(int, low=1), 16, "the number of these images, evenly spaced", modes=(TRAIN,),
             fixed=True, needs=(VAL_ATTACK,)),
    schedule("best_by", plain_text, "clean", "which mean IoU makes a checkpoint best_*: robust is that of --val_attack",
             choices=("clean", "robust"), modes=(TRAIN,), fixed=True, needs=(VAL_ATTACK,)),
    schedule("save_interval", number(int, low=1), None,
             "iterations between checkpoints (default: one at every validation, and where a run stops)"),
    schedule("keep", number(int, low=1), 2,
             "number of last checkpoints that stay: latest_*, previous1_* and so on; best_* always stays"),
)

sharpness = partial(Flag, group="sharpness-aware training", needs=(A_SAM,))
SHARPNESS = (
    sharpness("rho", number(float, low=0), 0.02, "radius of the perturbation, L2"),
    sharpness("base_optimizer", plain_text, "sgd", "takes SAM's steps",
              choices=list_registered("optim/__init__.py", "BASE_OPTIMIZERS")),
    sharpness("adaptive", bool, False,
              "ASAM: perturbation relative to each weight's size; wants a rho ten times larger"),
    sharpness("eta", number(float, low=0), 0.01, "ASAM: size is |w| + eta",
              needs=(A_SAM, given(lambda options: options.adaptive, "for ASAM: add --adaptive"))),
    sharpness("sam_start_itr", number(float, low=0), 0,
              "plain steps before this iteration; below 1 it is a share of total_itrs, such as 0.8"),
    sharpness("sam_interval", number(int, low=1), None,
              "perturb in every k-th step, plain steps between (default: 1; LookSAM 5)"),
    sharpness("sam_perturb", plain_text, "all", "what is perturbed: everything, only the weights of normalisation "
              "layers (SAM-ON), or everything but those", choices=("all", "norm", "no_norm")),
    sharpness("sam_mode", plain_text, "full",
              "with --accumulate: one perturbation for the whole batch, or one for each part",
              choices=("full", "micro"),
              needs=(optimizer("SAM"), given(lambda options: options.accumulate > 1, "for a perturbation of each part "
                                             "of the batch: give their number with --accumulate"))),
    sharpness("sam_sync", plain_text, None,
              "under torchrun: each process perturbs along the gradient of its share of the batch, or all along that "
              "of the whole batch (default: local for SAM and AWP, else global)", choices=("local", "global"),
              needs=(Need(lambda options: options.awp_gamma or A_SAM.is_met(options), A_SAM.remedy), torchrun())),
    sharpness("sam_alpha", number(float, low=0), None,
              "weight of the reused component in LookSAM (0.7), of the removed one in GSAM (0.4)",
              needs=(optimizer("LookSAM", "GSAM"),)),
    sharpness("sam_sigma", number(float, low=0), 1.0,
              "FriendlySAM: share of the gradient's running mean that is removed", needs=FRIENDLY),
    sharpness("sam_decay", number(float, low=0, high=1), 0.9, "FriendlySAM: decay of that mean", needs=FRIENDLY),
)

adversarial = partial(Flag, group="adversarial training", needs=(ADV,))
ADVERSARIAL = (
    adversarial("adv", bool, False, "train on attacked images, with any optimizer", needs=()),
    adversarial("adv_attack", plain_text, "pgd", "attack of training images; fgsm is one step of the whole eps",
                choices=ADVERSARIES, needs=(ADV, NOT_TRADES)),
    adversarial("adv_loss", plain_text, "attacked", "the loss of the attacked images, or trades: that of the images "
                "themselves plus trades_beta times the divergence of the attacked ones' predictions",
                choices=("attacked", "trades")),
    adversarial("trades_beta", number(float, above=0), 6.0, "weight of that divergence", needs=(ADV, TRADES)),
    adversarial("train_eps", number(float, above=0), None,
                "radius: 4/255 or a number below 1; for l2 any (default: 4/255; l2 0.5)"),
    adversarial("train_alpha", share_of_eps, "eps/2", "step size: a share of eps, or a number",
                needs=(ADV, SEVERAL_STEPS)),
    adversarial("train_step", number(int, low=1), 3, "steps", needs=(ADV, SEVERAL_STEPS)),
    adversarial("train_rand_init", bool, True, "begin at a random point of the ball",
                needs=(ADV, SEVERAL_STEPS, NOT_TRADES)),
    adversarial("norm", plain_text, "linf", "norm of the radius in training", choices=NORMS),
    adversarial("adv_ratio", number(float, above=0, high=1), 1.0,
                "share of each batch that is attacked, rounded down (DDC-AT: 0.5)", needs=(ADV, EVERY_IMAGE)),
    adversarial("awp_gamma", number(float, low=0), 0.0,
                "adversarial weight perturbation, relative to each layer's norm; 0.005 is usual, 0 turns it off"),
    adversarial("awp_start_itr", number(float, low=0), 0,
                "no weight perturbation before this iteration; below 1 it is a share of total_itrs", needs=(ADV, AWP)),
)

scale = partial(Flag, group="memory and processes")
SCALE = (
    scale("amp", bool, False, "bfloat16 forward passes in training and clean evaluation; weights and losses stay "
          "float32", modes=(TRAIN, TEST, PREDICT), scope="test"),
    scale("attack_amp", bool, False, "attacks, and what is scored under them, in bfloat16 too; logs how many signs of "
          "the gradient that changes", modes=(TRAIN, TEST), scope="test",
          needs=(given(lambda options: list_attacks(options) or (options.adv and options.mode == TRAIN),
                       "nothing is attacked, give --attack or --adv"),)),
    scale("accumulate", number(int, low=1), 1, "run each batch in K parts, for less memory; the step is that of the "
          "whole batch", metavar="K"),
    scale("compile", bool, False, "train through torch.compile(): it takes minutes at first, and can pay on a GPU "
          "(docs/performance.md)"),
    scale("sync_bn", bool, True, "under torchrun: BatchNorm over the whole batch instead of each process's share",
          needs=(torchrun(),)),
)
