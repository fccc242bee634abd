"""Lets torchvision's CUDA build import beside a CPU build of torch, as SGLang needs it to.

torchvision declares replacements for two of its own operators when it is imported; beside a CPU torch the library
that defines them does not load. Declaring the operators first is enough.
"""

import importlib.abc
import sys


class DeclareVisionOperators(importlib.abc.MetaPathFinder):
    """Declares the operators at the first import of torchvision, then steps aside."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            import torch

            sys.meta_path.remove(self)
            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            torch.library._slimrl_vision_operators = self.library  # an operator lives as long as its library object


sys.meta_path.insert(0, DeclareVisionOperators())
