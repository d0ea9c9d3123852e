"""The entry for `torch.hub.load(folder, "digit_net", source="local")`: a small network that reads handwritten digits.

`train_digits.py` in this folder makes its weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

dependencies = ["torch"]
"""The packages that torch.hub checks for before it calls an entry."""

WEIGHTS = Path(__file__).resolve().parent / "digit_net.pt"


def digit_net(pretrained: bool = True) -> nn.Sequential:
    """Return a convolutional network for images of 8 x 8 pixels, with about 17,000 weights, ready for inference.

    It takes floats of shape (images, 1, 8, 8), 0 for paper and 1 for ink. It returns scores of shape (images, 10). The
    digit is the index of the largest score.

    Arguments:
        pretrained: whether to load the weights in this folder. Else the weights are random.
    """
    network = nn.Sequential(
        nn.Upsample(scale_factor=3, mode="bilinear"),  # more computation for the same weights, like a larger model
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 3 * 3, 10),
    )
    if pretrained:
        # weights_only: unpickle tensors only, so that a file of weights cannot run code.
        network.load_state_dict(torch.load(WEIGHTS, map_location="cpu", weights_only=True))
    return network.eval()
