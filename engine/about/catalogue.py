"""The stored numbers that --list shows, so that it needs no torch. tests/engine/test_about.py compares them with the
networks, data sets and attacks themselves, name by name: whoever adds one adds a row here.
"""
from typing import NamedTuple


class Model(NamedTuple):
    """parameters: with 21 classes. separable: the same with --separable_conv. strides: what --output_stride takes, the
    default first. weights: the published ImageNet file of the backbone, None where there is none.
    """

    parameters: int
    separable: int
    strides: tuple[int, ...]
    weights: str | None


class DataSet(NamedTuple):
    """classes: None where the user has classes of their own. images: of training and validation. layout: what is in
    --data_root.
    """

    classes: int | None
    images: str
    layout: str


class Attack(NamedTuple):
    """steps: the default of --steps, or a fixed number. gradients: that an image gets a step. targeted: whether it
    takes --target_class.
    """

    does: str
    norms: tuple[str, ...]
    targeted: bool
    steps: int
    gradients: int
    source: str | None


class Loss(NamedTuple):
    """flag: the one that takes this loss."""

    flag: str
    does: str
    source: str | None


class Corruption(NamedTuple):
    """kind: noise, blur, weather or digital."""

    kind: str
    does: str


RESNET50, RESNET101 = "resnet50-0676ba61.pth", "resnet101-63fe2227.pth"
MOBILENET, XCEPTION = "mobilenet_v2-b0353104.pth", "xception-43020ad28.pth"
MODELS = {
    "deeplabv3_mobilenet": Model(5_113_877, 2_634_453, (16, 8), MOBILENET),
    "deeplabv3_resnet50": Model(39_638_869, 26_589_269, (16, 8), RESNET50),
    "deeplabv3_resnet101": Model(58_630_997, 45_581_397, (16, 8), RESNET101),
    "deeplabv3_xception": Model(36_937_789, 23_888_189, (16, 8), XCEPTION),
    "deeplabv3_hrnetv2_32": Model(33_795_541, 30_337_397, (4,), None),
    "deeplabv3_hrnetv2_48": Model(71_596_885, 66_670_661, (4,), None),
    "deeplabv3plus_mobilenet": Model(5_225_717, 2_648_421, (16, 8), MOBILENET),
    "deeplabv3plus_resnet50": Model(39_761_845, 26_614_373, (16, 8), RESNET50),
    "deeplabv3plus_resnet101": Model(58_753_973, 45_606_501, (16, 8), RESNET101),
    "deeplabv3plus_xception": Model(37_054_621, 23_907_149, (16, 8), XCEPTION),
    "deeplabv3plus_hrnetv2_32": Model(33_918_517, 30_362_501, (4,), None),
    "deeplabv3plus_hrnetv2_48": Model(71_719_861, 66_695_765, (4,), None),
}
DATASETS = {
    "voc": DataSet(21, "1,464 and 1,449; 2012_aug 10,582 and 1,449",
                   "VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}"),
    "cityscapes": DataSet(19, "2,975 and 500 of 2048x1024", "{leftImg8bit,gtFine}/{train,val}/CITY"),
    "camvid": DataSet(11, "367 and 101 of 480x360", "train, trainannot, val, valannot"),
    "iccv09": DataSet(8, "715 of about 320x240, 70 % train", "images, labels"),
    "folder": DataSet(None, "your own", "{train,val}/{images,masks}; val and classes.txt if you have them"),
    "synthetic": DataSet(5, "256 and 32 of 64x64", "nothing: images are drawn"),
}
BOTH, LINF = ("linf", "l2"), ("linf",)
ATTACKS = {
    "fgsm": Attack("one step of the whole eps", BOTH, True, 1, 1, "Goodfellow et al., ICLR 2015"),
    "pgd": Attack("projected steps from a random point", BOTH, True, 10, 1, "Madry et al., ICLR 2018"),
    "segpgd": Attack("pgd that weighs right and wrong pixels", BOTH, True, 10, 1, "Gu et al., ECCV 2022"),
    "cospgd": Attack("pgd that weighs pixels by their certainty", BOTH, True, 10, 1, "Agnihotri et al., ICML 2024"),
    "apgd": Attack("momentum and step sizes that adapt", BOTH, True, 100, 1, "Croce and Hein, ICML 2020"),
    "sea": Attack("apgd on 3 losses, each image's worst", BOTH, False, 300, 3, "Croce et al., ECCV 2024"),
    "ensemble": Attack("apgd on 9 losses, each image's worst", BOTH, False, 300, 9, "this program"),
    "race": Attack("blends of losses; each image's best goes on", BOTH, False, 30, 1, "this program"),
    "min_radius": Attack("the least eps that makes an image wrong", BOTH, False, 100, 1, "Pintor et al., NeurIPS 2021"),
    "square": Attack("random search; forward passes only", LINF, False, 1000, 0, "Andriushchenko et al., ECCV 2020"),
    "noise": Attack("uniform and sign noise, the baseline", BOTH, False, 0, 0, None),
}
TRAINED, ATTACKED = "--loss_type", "--attack_loss"
LOSSES = {
    "cross_entropy": Loss(TRAINED, "the mean over labelled pixels, the default", None),
    "focal_loss": Loss(TRAINED, "pixels that are right with certainty count less", "Lin et al., ICCV 2017"),
    "ohem": Loss(TRAINED, "cross-entropy of hard pixels only", "Shrivastava et al., CVPR 2016"),
    "dice": Loss(TRAINED, "1 - Dice coefficient, over the classes in an image", "Milletari et al., 3DV 2016"),
    "lovasz": Loss(TRAINED, "an extension of 1 - IoU, over the classes in an image", "Berman et al., CVPR 2018"),
    "ce": Loss(ATTACKED, "cross-entropy, the default", None),
    "segpgd": Loss(ATTACKED, "right pixels first, wrong ones later too", "Gu et al., ECCV 2022"),
    "mce": Loss(ATTACKED, "cross-entropy of pixels that are still right", "Croce et al., ECCV 2024"),
    "mce_bal": Loss(ATTACKED, "mce, over the pixels of the class in training", "Croce et al., ECCV 2024"),
    "mce_even": Loss(ATTACKED, "mce, over the right pixels of the class in the image", "this program"),
    "logodds": Loss(ATTACKED, "pixels that are right with certainty keep a gradient", "this program"),
    "cospgd": Loss(ATTACKED, "pixels count by their certainty", "Agnihotri et al., ICML 2024"),
    "js": Loss(ATTACKED, "from the Jensen-Shannon divergence", "Croce et al., ECCV 2024"),
    "tsallis": Loss(ATTACKED, "certain pixels first, all of them later", "Matyasko et al., IJCNN 2026"),
    "blend": Loss(ATTACKED, "logodds, mce, mce_even, js and cospgd, equally strong", "this program"),
    "blend_late": Loss(ATTACKED, "logodds, mce, mce_even and tsallis, equally strong", "this program"),
}
CORRUPTIONS = {
    "gaussian_noise": Corruption("noise", "normal noise on every value"),
    "shot_noise": Corruption("noise", "Poisson noise, as of little light"),
    "impulse_noise": Corruption("noise", "black and white pixels"),
    "defocus_blur": Corruption("blur", "out of focus"),
    "glass_blur": Corruption("blur", "seen through frosted glass"),
    "motion_blur": Corruption("blur", "a camera that moves"),
    "zoom_blur": Corruption("blur", "a camera that moves towards the scene"),
    "snow": Corruption("weather", "falling snow"),
    "frost": Corruption("weather", "ice on the lens"),
    "fog": Corruption("weather", "fog of changing density"),
    "brightness": Corruption("weather", "brighter"),
    "contrast": Corruption("digital", "less contrast"),
    "elastic_transform": Corruption("digital", "small regions stretched"),
    "pixelate": Corruption("digital", "fewer pixels, enlarged again"),
    "jpeg_compression": Corruption("digital", "JPEG of low quality"),
}
TABLES = {"models": MODELS, "datasets": DATASETS, "attacks": ATTACKS, "losses": LOSSES, "corruptions": CORRUPTIONS}
