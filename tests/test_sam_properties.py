"""The 34 properties of a correct SAM, and that each has tests, which carry its number: test_<number>_..."""
import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

import pytest

PROPERTIES = {
    1: "rho = 0 is the base optimizer bit for bit: BatchNorm, dropout and random numbers too",
    2: "||e|| is rho over the perturbed parameters, along the gradient",
    3: "the step is the base step at w from the gradient at w + e",
    4: "NumPy on a quadratic, momentum and weight decay, SAM and ASAM",
    5: "ASAM is invariant to a rescaling of layers, and has length rho in its own metric",
    6: "e doesn't depend on the scale of the loss",
    7: "the climb raises the loss",
    8: "a group with rho = 0 stays where it is in the second pass",
    9: "restoring is exact, in place and idempotent",
    10: "a gradient that is not finite never reaches the weights",
    11: "parameters with a gradient in one pass only, or in none",
    12: "an error in the second pass leaves all as it was",
    13: "what makes no sense at perturbed weights is refused",
    14: "BatchNorm's statistics are those of one forward pass at w",
    15: "nested second passes leave the flags right",
    16: "both passes draw the same dropout",
    17: "resuming is bit for bit the run without a break",
    18: "checkpoints of base and SAM interchange",
    19: "groups and state are the base optimizer's own objects",
    20: "a switch to SAM in mid-run keeps momentum and learning rate",
    21: "schedules work on SAM and on its base",
    22: "the GradScaler recipe",
    23: "step(closure) is the loop of two steps, with exactly two calls",
    24: "gradient accumulation: the whole batch, or the mean of the parts' SAM gradients",
    25: "two processes: weights bit-equal, local and global perturbations",
    26: "clipping before the first step changes nothing",
    27: "step hooks fire once an update",
    28: "fused and single-tensor arithmetic agree",
    29: "an interval of k costs (k + 1) / k passes",
    30: "AWP: ||v_l|| = gamma ||w_l|| layer by layer, none on biases and BatchNorm",
    31: "attacks leave parameter gradients and BatchNorm alone",
    32: "a SAM that would never start is refused; the log says when it starts",
    33: "flags parse as people write them",
    34: "no copy of the weights is kept between steps",
}


@functools.cache
def numbered_tests() -> dict[int, list[str]]:
    found = defaultdict(list)
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.name if isinstance(node, ast.FunctionDef) else ""
            numbers = re.match(r"test_(\d{1,2}(?:_and_\d{1,2})*)_", name)
            for number in numbers[1].split("_and_") if numbers else ():
                found[int(number)].append(f"{path.name}::{name}")
    return found


@pytest.mark.parametrize("number", PROPERTIES, ids=[f"{number}: {text}" for number, text in PROPERTIES.items()])
def test_every_property_has_a_test(number):
    assert numbered_tests()[number]


def test_no_other_numbers_are_used():
    assert set(numbered_tests()) <= set(PROPERTIES)
