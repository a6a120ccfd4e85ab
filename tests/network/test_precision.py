"""bfloat16 forward passes."""
import torch

from network import Bfloat16


def test_the_forward_pass_runs_in_bfloat16_and_returns_float32(toy, batch):
    images, _ = batch
    dtypes = []
    toy.body[-1].register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    logits, full = Bfloat16(toy)(images), toy(images)
    assert dtypes == [torch.bfloat16, torch.float32] and logits.dtype == torch.float32
    assert not torch.equal(logits, full)
    torch.testing.assert_close(logits, full, rtol=0.05, atol=0.05)
