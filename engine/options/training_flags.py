"""Flags of training: the schedule, sharpness-aware optimizers, adversarial training, memory and processes."""
import argparse

from attacks import NORMS
from engine.values import number, share_of_eps
from optim import BASE_OPTIMIZERS, LOSSES, OPTIMIZERS, SCHEDULERS

ADVERSARIES = ("fgsm", "pgd", "segpgd")
CHOSEN = [name for name in OPTIMIZERS if name != "AWP"]  # that one comes with --awp_gamma


def add_training(parser):
    """--total_itrs to --val_interval."""
    group = parser.add_argument_group("training")
    group.add_argument("--total_itrs", type=number(int, low=1), default=30000, help="iterations to train")
    group.add_argument("--optimizer", default="sgd", choices=CHOSEN,
                       help="SAM and its kin are on top of --base_optimizer")
    group.add_argument("--lr", type=number(float, above=0),
                       help="learning rate of the head (default: 0.01; adam 5e-4)")
    group.add_argument("--backbone_lr_mult", type=number(float, low=0), default=0.1,
                       help="the backbone's learning rate is this times lr (VainF 0.1, SAM_AT 1)")
    group.add_argument("--lr_policy", default="poly", choices=list(SCHEDULERS),
                       help="poly: power 0.9 down to 1e-6 at total_itrs; step: x 0.1 every step_size")
    group.add_argument("--step_size", type=number(int, low=1), default=10000, help="iterations, for --lr_policy step")
    group.add_argument("--weight_decay", type=number(float, low=0), default=1e-4, help="on all parameters")
    group.add_argument("--loss_type", default="cross_entropy", choices=list(LOSSES), help="focal_loss has gamma 2")
    group.add_argument("--random_seed", type=number(int, low=0, high=2**32 - 1), default=1,
                       help="seed of weights and data")
    group.add_argument("--print_interval", type=number(int, low=1), default=10, help="iterations between loss lines")
    group.add_argument("--val_interval", type=number(int, low=1), default=100, help="iterations between validations")
    group.add_argument("--save_interval", type=number(int, low=1),
                       help="iterations between checkpoints (default: one at every validation, and where a run stops)")
    group.add_argument("--keep", type=number(int, low=1), default=2,
                       help="how many of a run's last checkpoints stay: latest_*, previous1_* and so on; best_* does "
                            "anyway")


def add_sharpness(parser):
    """--rho to --sam_decay."""
    group = parser.add_argument_group("sharpness-aware training")
    group.add_argument("--rho", type=number(float, low=0), default=0.02, help="radius of the perturbation, L2")
    group.add_argument("--base_optimizer", default="sgd", choices=BASE_OPTIMIZERS, help="what takes SAM's steps")
    group.add_argument("--adaptive", action=argparse.BooleanOptionalAction, default=False,
                       help="ASAM: perturbation relative to each weight's size; wants a rho ten times larger")
    group.add_argument("--eta", type=number(float, low=0), default=0.01, help="ASAM: size is |w| + eta")
    group.add_argument("--sam_start_itr", type=number(float, low=0), default=0,
                       help="plain steps before this iteration; below 1 it is a share of total_itrs, such as 0.8")
    group.add_argument("--sam_interval", type=number(int, low=1),
                       help="perturb in every k-th step, plain steps between (default: 1; LookSAM 5)")
    group.add_argument("--sam_perturb", default="all", choices=["all", "norm", "no_norm"],
                       help="what is perturbed: everything, weights of normalisation layers alone (SAM-ON), or all but "
                            "those")
    group.add_argument("--sam_mode", default="full", choices=["full", "micro"],
                       help="with --accumulate: one perturbation for the whole batch, or one for each part")
    group.add_argument("--sam_sync", choices=["local", "global"],
                       help="under torchrun: each process perturbs along the gradient of its share of the batch, or "
                            "all along that of the whole (default: local for SAM and AWP, else global)")
    group.add_argument("--sam_alpha", type=number(float, low=0),
                       help="weight of the reused component in LookSAM (0.7), of the removed one in GSAM (0.4)")
    group.add_argument("--sam_sigma", type=number(float, low=0), default=1.0,
                       help="FriendlySAM: share of the gradient's running mean that is taken out")
    group.add_argument("--sam_decay", type=number(float, low=0, high=1), default=0.9,
                       help="FriendlySAM: decay of that mean")


def add_adversarial(parser):
    """--adv to --awp_start_itr."""
    group = parser.add_argument_group("adversarial training")
    group.add_argument("--adv", action=argparse.BooleanOptionalAction, default=False,
                       help="train on attacked images; the optimizer may be any")
    group.add_argument("--adv_attack", default="pgd", choices=ADVERSARIES,
                       help="attack of training images; fgsm is one step of the whole eps")
    group.add_argument("--train_eps", type=number(float, above=0),
                       help="radius: 4/255 or a number below 1; for l2 any (default: 4/255; l2 0.5)")
    group.add_argument("--train_alpha", type=share_of_eps, default="eps/2",
                       help="step size: a share of eps, or a number")
    group.add_argument("--train_step", type=number(int, low=1), default=3, help="steps")
    group.add_argument("--train_rand_init", action=argparse.BooleanOptionalAction, default=True,
                       help="begin at a random point of the ball")
    group.add_argument("--norm", default="linf", choices=list(NORMS), help="norm of the radius in training")
    group.add_argument("--adv_ratio", type=number(float, above=0, high=1), default=1.0,
                       help="share of each batch that is attacked, rounded down (DDC-AT: 0.5)")
    group.add_argument("--awp_gamma", type=number(float, low=0), default=0.0,
                       help="adversarial weight perturbation, relative to each layer's norm; 0.005 is usual, 0 is none")
    group.add_argument("--awp_start_itr", type=number(float, low=0), default=0,
                       help="no weight perturbation before this iteration; below 1 a share of total_itrs")


def add_scale(parser):
    """--amp to --sync_bn."""
    group = parser.add_argument_group("memory and processes")
    group.add_argument("--amp", action=argparse.BooleanOptionalAction, default=False,
                       help="bfloat16 forward passes in training and clean evaluation; weights and losses stay float32")
    group.add_argument("--attack_amp", action=argparse.BooleanOptionalAction, default=False,
                       help="attacks, and what is scored under them, in bfloat16 too; says how many signs of the "
                            "gradient that changes")
    group.add_argument("--accumulate", type=number(int, low=1), default=1, metavar="K",
                       help="run each batch in K parts, for less memory; the step is the whole batch's")
    group.add_argument("--sync_bn", action=argparse.BooleanOptionalAction, default=True,
                       help="under torchrun: BatchNorm over the whole batch instead of each process's share")
