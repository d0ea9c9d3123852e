"""Train the network of `hubconf.py` on the training part of scikit-learn's digits, and write its weights.

    python examples/hub/train_digits.py

It takes half a minute. The seed decides everything, so on one machine and with one version of PyTorch the weights are
the same each time. No weight is learnt from the held-out part, whose accuracy is printed beside that of the training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the split is the example's own

import numpy as np
import torch
from digit_images import held_out_digits, training_digits
from hubconf import WEIGHTS, digit_net
from numpy.typing import NDArray
from torch import nn

EPOCHS = 40
BATCH_SIZE = 64
HIGHEST_RATE = 6e-3
MIN_ACCURACY = 0.95


def as_inputs(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Pixels of shape (images, 8, 8) as the network takes them."""
    return torch.from_numpy(pixels).unsqueeze(1) / 255


def shifted(inputs: torch.Tensor) -> torch.Tensor:
    """The images moved by at most one pixel in each direction: what a writer might as well have written."""
    down, right = torch.randint(3, (2,)).tolist()
    return nn.functional.pad(inputs, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


def train(network: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """`EPOCHS` passes over the images in random order, every second one over shifted images."""
    steps = EPOCHS * -(-len(inputs) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=HIGHEST_RATE, total_steps=steps)
    network.train()
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(inputs)).split(BATCH_SIZE):
            batch = shifted(inputs[chosen]) if epoch % 2 else inputs[chosen]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def accuracy(network: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of the images, from 0 to 1, that the network reads as their labels say."""
    with torch.inference_mode():
        return float((network(inputs).argmax(dim=1) == labels).float().mean())


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Train the network that examples/pytorch_batcher.py runs.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args(argv)

    torch.set_num_threads(1)  # how sums are shared out among threads would show in their last digits
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(arguments.seed)
    network = digit_net(pretrained=False)
    parts = {}
    for name, (pixels, labels) in {"training": training_digits(), "held-out": held_out_digits()}.items():
        parts[name] = as_inputs(pixels), torch.from_numpy(labels)
    train(network, *parts["training"])
    reached = {name: accuracy(network, *part) for name, part in parts.items()}
    for name, (_, labels) in parts.items():
        print(f"{name:8} {len(labels):5,} digits, {reached[name]:.2%} right")
    if reached["held-out"] <= MIN_ACCURACY:
        print(f"train_digits: not written, {MIN_ACCURACY:.0%} was not reached; try another --seed", file=sys.stderr)
        return 1
    torch.save(network.state_dict(), arguments.weights)
    print(f"written: {arguments.weights} ({arguments.weights.stat().st_size:,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
