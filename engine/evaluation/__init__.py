"""Clean and attacked scores of a model; sweep() takes any nn.Module from [0, 1] images to logits (docs/python.md)."""
from engine.evaluation.sweep import sweep

__all__ = ["sweep"]
