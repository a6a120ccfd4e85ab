"""load_weights: weights load or raise an error with a reason; torchvision's DeepLabV3 weights load too."""
import logging

import pytest
import torch
from torchvision import models
from torchvision.models import segmentation

import network
from utils.errors import UserError
from utils.logging import logger

BUILDERS = {
    "deeplabv3_resnet50": segmentation.deeplabv3_resnet50,
    "deeplabv3_resnet101": segmentation.deeplabv3_resnet101,
}


def build(name="deeplabv3_mobilenet", *, num_classes=21, output_stride=16):
    return network.MODELS[name](num_classes, output_stride, pretrained_backbone=False)


def torchvision_model(name):
    """Build torchvision's network with random weights and BN statistics (which eval mode uses)."""
    model = BUILDERS[name](weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.copy_(torch.rand(tensor.shape) + 0.5 * key.endswith("var"))
    return model


def refusal(model, state):
    """Return the error of loading `state`: one line, starting with the file's name; the model is unchanged."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        network.load_weights(model, state, source="some.pth")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    message = str(caught.value)
    assert message.startswith("some.pth: ")
    assert "\n" not in message
    return message


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
@torch.no_grad()
def test_torchvisions_network_gives_the_same_logits_to_the_bit(name):
    theirs, ours = torchvision_model(name), build(name, output_stride=8).eval()
    network.load_weights(ours, theirs.state_dict(), source="torchvision")
    images = torch.randn(1, 3, 65, 97)
    assert (ours(images) - theirs(images)["out"]).abs().max() == 0.0


@pytest.mark.slow
def test_torchvisions_weights_are_an_error_for_other_networks():
    with torch.device("meta"):
        state = BUILDERS["deeplabv3_resnet50"](weights=None, weights_backbone=None).state_dict()
    state = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in state.items()}
    assert "--output_stride 8" in refusal(build("deeplabv3_resnet50", output_stride=16), state)
    assert "deeplabv3_resnet101 only" in refusal(build("deeplabv3plus_resnet50", output_stride=8), state)
    assert "deeplabv3_resnet101 only" in refusal(build("deeplabv3_mobilenet", output_stride=8), state)


def test_old_files_without_batch_norm_counters_load():
    state = {key: value for key, value in build().state_dict().items() if not key.endswith("num_batches_tracked")}
    model = build()
    network.load_weights(model, state, source="some.pth")
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in state.items())


def test_the_error_names_another_number_of_classes():
    message = refusal(build(num_classes=11), build(num_classes=21).state_dict())
    assert "the file has 21 classes, the model 11: --dataset" in message and "--new_head" in message
    assert "classifier.classifier.4.weight 21x256x1x1 in the file, 11x256x1x1 in the model" in message


@pytest.mark.slow
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("name", network.MODELS)
def test_the_error_names_the_network_that_the_file_is_of(name, separable):
    with torch.device("meta"):
        other = network.MODELS[name](7, 4 if "hrnet" in name else 16, False)
        if separable:
            network.convert_to_separable_conv(other.classifier)
    model = build("deeplabv3_mobilenet" if name != "deeplabv3_mobilenet" else "deeplabv3_resnet50")
    flag = " --separable_conv" if separable else ""
    message = refusal(model, other.state_dict())
    assert f"these are the weights of --model {name}{flag} with 7 classes" in message


def meta(make, **settings) -> dict:
    with torch.device("meta"):
        return make(**settings).state_dict()


@pytest.mark.parametrize(("state", "cause"), [
    (lambda: meta(segmentation.fcn_resnet50, weights=None, weights_backbone=None),
     "torchvision's FCN: give the file as --backbone_weights"),
    (lambda: meta(models.resnet50), "a resnet50 classifier or backbone: give the file as --backbone_weights"),
    (lambda: {f"{part}.w": torch.ones(1) for part in ("encoder", "decoder", "segmentation_head")},
     "segmentation_models.pytorch, another architecture"),
    (lambda: meta(models.vgg11), "none of the twelve networks of --model has these tensors (features.*, classifier.*)"),
    (lambda: {**meta(lambda: build().backbone), "x": torch.ones(1)}, "a mobilenet classifier or backbone"),
    (lambda: {key: value for key, value in meta(build).items() if "aspp" not in key and ".0.convs" not in key},
     "the backbone is that of deeplabv3_mobilenet and deeplabv3plus_mobilenet, the head is another one"),
])
def test_the_error_names_what_else_it_is(state, cause):
    assert cause in refusal(build("deeplabv3_mobilenet"), state())


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "ema.", "module.model.", "model.module._orig_mod.",
                                    "_orig_mod.module.", "ema_model.module."])
def test_prefixes_are_stripped(prefix):
    saved, loaded = build(), build()
    state = {prefix + key: tensor for key, tensor in saved.state_dict().items()}
    network.load_weights(loaded, state, source="some.pth")
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in saved.state_dict().items())


def test_of_a_network_and_its_average_the_network_is_taken_and_the_log_says_so(caplog):
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger=logger.name)
    saved, average, loaded = build(), build(), build()
    state = {f"ema.module.{key}": tensor for key, tensor in average.state_dict().items()}
    state |= {f"model.{key}": tensor for key, tensor in saved.state_dict().items()} | {"loss.weight": torch.ones(3)}
    network.load_weights(loaded, state, source="some.pth")
    logger.removeHandler(caplog.handler)
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in saved.state_dict().items())
    count = len(average.state_dict()) + 1
    assert f"some.pth: took the tensors named model.*, left out {count} others (ema.module." in caplog.text


def test_a_new_head_is_new_and_the_rest_is_taken_or_refused():
    saved, loaded = build(num_classes=21), build(num_classes=11)
    before = {key: tensor.clone() for key, tensor in loaded.state_dict().items()}
    network.load_weights(loaded, saved.state_dict(), source="some.pth", new_head=True)
    last = {"classifier.classifier.4.weight", "classifier.classifier.4.bias"}
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, before[key] if key in last else saved.state_dict()[key]), key
    state = saved.state_dict()
    del state["backbone.low_level_features.0.0.weight"]
    with pytest.raises(UserError, match="1 missing: backbone.low_level_features.0.0.weight"):
        network.load_weights(loaded, state, source="some.pth", new_head=True)
    with pytest.raises(UserError, match="the weights of --model deeplabv3_mobilenet with 21 classes"):
        network.load_weights(build("deeplabv3plus_mobilenet"), saved.state_dict(), source="some.pth", new_head=True)


def test_a_few_missing_and_unexpected_keys_are_listed():
    state = build().state_dict()
    for key in list(state)[:4]:
        state[f"extra.{key}"] = state.pop(key)
    message = refusal(build(), state)
    assert "4 missing: backbone.low_level_features.0.0.weight" in message
    assert "4 unexpected: extra.backbone" in message
    assert message.count("...") == 2
    assert "another model" not in message


def test_the_error_names_separable_weights():
    separable = build("deeplabv3plus_mobilenet")
    network.convert_to_separable_conv(separable.classifier)
    plain = build("deeplabv3plus_mobilenet")
    assert "made with --separable_conv" in refusal(plain, separable.state_dict())
    assert "made without --separable_conv" in refusal(separable, plain.state_dict())


def test_a_dict_that_is_not_a_state_dict_is_an_error():
    assert "not a state_dict" in refusal(build(), {"model_state": {}, "cur_itrs": 7})
    assert "missing" in refusal(build(), {})
