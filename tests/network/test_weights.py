"""load_weights: weights load or raise an error with a reason; torchvision's DeepLabV3 weights load too."""
import pytest
import torch
from torchvision.models import segmentation

import network
from utils.errors import UserError

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
    """Return the error of loading `state`: at most 6 lines, starting with the file's name; the model is unchanged."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        network.load_weights(model, state, source="some.pth")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    message = str(caught.value)
    assert message.startswith("some.pth: ")
    assert len(message.splitlines()) <= 6
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


def test_own_weights_load_with_a_wrappers_prefix():
    saved, loaded = build(), build()
    state = {f"module.{key}": tensor for key, tensor in saved.state_dict().items()}
    network.load_weights(loaded, state, source="some.pth")
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in saved.state_dict().items())


def test_old_files_without_batch_norm_counters_load():
    state = {key: value for key, value in build().state_dict().items() if not key.endswith("num_batches_tracked")}
    model = build()
    network.load_weights(model, state, source="some.pth")
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in state.items())


def test_the_error_names_another_number_of_classes():
    message = refusal(build(num_classes=11), build(num_classes=21).state_dict())
    assert "the file has 21 classes, the model 11: --dataset" in message
    assert "classifier.classifier.4.weight 21x256x1x1 in the file, 11x256x1x1 in the model" in message


def test_the_error_suggests_another_model():
    message = refusal(build("deeplabv3_mobilenet"), build("deeplabv3plus_mobilenet").state_dict())
    assert "weights of another model: check --model" in message
    message = refusal(build("deeplabv3_mobilenet"), build("deeplabv3_xception").state_dict())
    assert "weights of another model" in message


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
