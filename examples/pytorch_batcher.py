"""Read handwritten digits with a PyTorch model in parallel, in batches, and count them.

    python examples/pytorch_batcher.py             the held-out part of scikit-learn's digits, many times over
    python examples/pytorch_batcher.py ~/digits    the pictures in any folder, each filled by one digit; those in
                                                   folders named 0 to 9 or zero to nine are checked as well

Four steps, each an ordinary generator that can be called and tested without any process:

    load_held_out -> classify (two replicas, each with a model of its own) -> name_classes (a thread) -> print_counts

By default the pipeline runs twice, each step where it belongs and then all in this process, so that times and counts
can be compared. The counts are the same whatever the order in which images arrive and however they are batched.

The model comes from `hub/` by `torch.hub.load`, as one comes from the network. Where there are CUDA devices, each
replica has one to itself as far as they go; else it computes on one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from digit_images import DIGIT_NAMES, DigitImage, DigitsError, folder_pictures, load_held_out, load_pictures

    from pipeline_executor import PipelineTask, execute, worker_info
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    sys.exit(f"pytorch_batcher: the package {missing.name} is not installed; run: pip install '.[examples]'")

# PyTorch is imported by the step that needs it. So the other steps start without it, and no process that forks has
# used it before: neither CUDA nor the threads that PyTorch computes with survive a fork.

HUB = Path(__file__).resolve().parent / "hub"
HUB_ENTRY = "digit_net"

REPEAT_HELD_OUT = 50
"""As often as it takes for the work to outweigh the start: each process that has a model imports PyTorch first."""
NAMES_PER_LINE = 5

PYTORCH_MISSING = (
    "PyTorch is not installed; the CPU build is enough, and https://pytorch.org/get-started/locally/ has the command"
    " for it (on Linux, a plain `pip install torch` fetches one for CUDA, several GB)"
)


@dataclass(frozen=True)
class Prediction:
    """What the model takes an image for: the index of a class; `label` is the one that it should be, if known."""

    image: str
    class_index: int
    label: int | None


@dataclass(frozen=True)
class NamedPrediction:
    """The same with the names of the classes."""

    image: str
    class_name: str
    label_name: str | None


def batches(images: Iterable[DigitImage], size: int) -> Iterator[list[DigitImage]]:
    """Lists of `size` images; the last one has what is left."""
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def device_for(replica: int, num_cuda_devices: int) -> str:
    """The CUDA devices are dealt out in turn, so that each replica has its own if there are enough of them."""
    return f"cuda:{replica % num_cuda_devices}" if num_cuda_devices else "cpu"


def classify(images: Iterable[DigitImage], hub: Path, entry: str, batch_size: int) -> Iterable[Prediction]:
    """Worker: asks the model that torch.hub finds in the folder `hub` under the name `entry`, batch by batch."""
    import torch

    try:
        replica = worker_info().replica
    except RuntimeError:  # a plain generator, in no pipeline
        replica = 0
    device = device_for(replica, torch.cuda.device_count())
    torch.set_num_threads(1)  # the replicas are the parallelism; more threads in each would only get in the way
    model = torch.hub.load(str(hub), entry, source="local").to(device)  # once, before the first image
    for batch in batches(images, batch_size):
        pixels = torch.from_numpy(np.stack([image.pixels for image in batch])).to(device)
        with torch.inference_mode():  # not around the yield, where it would hold for other steps as well
            scores = model(pixels.unsqueeze(1) / 255)
        for image, class_index in zip(batch, scores.argmax(dim=1).tolist(), strict=True):
            yield Prediction(image.name, class_index, image.label)


def name_classes(predictions: Iterable[Prediction], names: list[str]) -> Iterable[NamedPrediction]:
    """Worker: puts names in place of class indices; too little work for a process of its own."""
    for prediction in predictions:
        label_name = None if prediction.label is None else names[prediction.label]
        yield NamedPrediction(prediction.image, names[prediction.class_index], label_name)


def print_counts(predictions: Iterable[NamedPrediction], names: list[str], counts_file: Path) -> None:
    """Sink: counts how often each class was seen and how often rightly, prints it and writes it as JSON."""
    counts = dict.fromkeys(names, 0)
    labelled = right = 0
    for prediction in predictions:
        counts[prediction.class_name] += 1
        if prediction.label_name is not None:
            labelled += 1
            right += prediction.class_name == prediction.label_name
    for first in range(0, len(names), NAMES_PER_LINE):
        cells = (f"{name:>7} {counts[name]:>8,}" for name in names[first : first + NAMES_PER_LINE])
        print("", *cells, sep="")
    if labelled:
        print(f"  {right / labelled:.2%} right of {labelled:,} images whose digit is known")
    counts_file.write_text(json.dumps({"counts": counts, "labelled": labelled, "right": right}))


def build_tasks(
    pictures: list[Path] | None, repeat: int, batch_size: int, procs: int, counts_file: Path
) -> list[PipelineTask[Any, Any]]:
    """The pipeline: `procs` processes with a model each; `pictures` to read, None for the held-out digits."""
    if pictures is None:
        source: PipelineTask[Any, DigitImage] = PipelineTask(load_held_out, constants={"repeat": repeat})
    else:
        source = PipelineTask(load_pictures, constants={"paths": pictures, "repeat": repeat})
    model = {"hub": HUB, "entry": HUB_ENTRY, "batch_size": batch_size}
    return [
        source,
        PipelineTask(classify, constants=model, num_procs=procs),
        PipelineTask(name_classes, constants={"names": DIGIT_NAMES}, num_threads=1),
        PipelineTask(print_counts, constants={"names": DIGIT_NAMES, "counts_file": counts_file}),
    ]


def count_digits(arguments: argparse.Namespace) -> None:
    """Runs the pipeline each way, says how long it took, and compares the counts."""
    if importlib.util.find_spec("torch") is None:
        raise DigitsError(PYTORCH_MISSING)
    if arguments.folder is None:
        pictures, origin = None, "held-out digits of scikit-learn"
    else:
        pictures = folder_pictures(arguments.folder)
        origin = f"{len(pictures):,} pictures of {arguments.folder}"
    repeat = arguments.repeat or (REPEAT_HELD_OUT if pictures is None else 1)
    # The sequential way uses PyTorch in this process, which must not fork afterwards: it comes last.
    ways: list[Any] = ["process", "sequential"] if arguments.parallelism == "both" else [arguments.parallelism]
    times = f", {repeat} times over" if repeat > 1 else ""
    print(f"{origin}{times}, in batches of {arguments.batch_size}", flush=True)
    seconds, counts = [], []
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            replicas = 1 if way == "sequential" else arguments.procs
            print(f"{way}, {replicas} model{'s' if replicas > 1 else ''}:", flush=True)
            counts_file = Path(folder, f"{way}.json")
            tasks = build_tasks(pictures, repeat, arguments.batch_size, arguments.procs, counts_file)
            started = time.perf_counter()
            execute(tasks, parallelism=way)
            seconds.append(time.perf_counter() - started)
            counts.append(json.loads(counts_file.read_text()))
            images = sum(counts[-1]["counts"].values())
            print(f"  {seconds[-1]:.2f} s, {images / seconds[-1]:,.0f} images a second", flush=True)
    if len(ways) == 2:
        if counts[0] != counts[1]:
            raise DigitsError("the two ways counted differently; report this")
        print(f"the same counts both ways, in parallel {seconds[1] / seconds[0]:.2f} times as fast")


def positive(text: str) -> int:
    """An option's value that must be at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Read handwritten digits with a PyTorch model and count them.")
    add = parser.add_argument
    add("folder", nargs="?", type=Path, help="pictures, each filled by one digit (default: scikit-learn's digits)")
    ways: list[Any] = ["both", "sequential", "thread", "process", "process-fork", "process-forkserver", "process-spawn"]
    add("--parallelism", choices=ways, default="both", help="both: process, then sequential (default)")
    add("--procs", type=positive, default=2, help="replicas of the model (default: %(default)s)")
    add("--batch-size", type=positive, default=16, help="images in a batch (default: %(default)s)")
    add("--repeat", type=positive, help=f"how many times over (default: a folder once, the digits {REPEAT_HELD_OUT})")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    try:
        count_digits(parse_arguments(argv))
    except DigitsError as error:
        print(f"pytorch_batcher: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
