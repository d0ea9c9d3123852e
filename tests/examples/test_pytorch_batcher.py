"""The PyTorch example of `examples/`: its steps as plain generators, the same counts every way, bad input."""

# The imports below stand after what decides whether and where they are found.
# ruff: noqa: E402

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from marks import needs_fork

for package in ("numpy", "PIL", "sklearn"):
    pytest.importorskip(package)

import numpy as np
from PIL import Image, ImageOps

# At import, not in a fixture: a spawned process imports this module too, and unpickles the example's classes.
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import digit_images
import pytorch_batcher
from digit_images import DIGIT_NAMES, DigitImage, DigitsError
from pytorch_batcher import HUB, HUB_ENTRY, NamedPrediction, Prediction

from pipeline_executor import PipelineResults, PipelineTask, execute
from pipeline_executor.options import Parallelism

HELD_OUT = 1797 - digit_images.TRAINING_COUNT


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """PyTorch, kept off the graphics cards: a process that has used one cannot fork."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return pytest.importorskip(
        "torch", reason="PyTorch is not installed; README.md, 'A PyTorch example', says how to install it"
    )


def held_out_images() -> list[DigitImage]:
    return list(digit_images.load_held_out(repeat=1))


def classified(images: list[DigitImage], batch_size: int) -> list[Prediction]:
    return list(pytorch_batcher.classify(iter(images), hub=HUB, entry=HUB_ENTRY, batch_size=batch_size))


# Source


def test_training_and_held_out_parts_share_no_image_and_are_all_there_is() -> None:
    learnt, learnt_labels = digit_images.training_digits()
    held_out, held_out_labels = digit_images.held_out_digits()
    assert len(learnt) == len(learnt_labels) == digit_images.TRAINING_COUNT
    assert len(held_out) == len(held_out_labels) == HELD_OUT
    assert not {image.tobytes() for image in learnt} & {image.tobytes() for image in held_out}
    assert set(learnt_labels.tolist()) == set(held_out_labels.tolist()) == set(range(10))


def test_source_yields_each_held_out_digit_as_often_as_asked() -> None:
    pixels, labels = digit_images.held_out_digits()
    images = list(digit_images.load_held_out(repeat=2))
    assert len(images) == 2 * HELD_OUT
    for image, expected, label in zip(images, [*pixels, *pixels], [*labels, *labels], strict=True):
        assert image.pixels.shape == (8, 8)
        assert image.pixels.dtype == np.uint8
        assert np.array_equal(image.pixels, expected)
        assert image.label == label
    assert Counter(image.name for image in images) == {f"digits[{number}]": 2 for number in range(1198, 1797)}
    assert max(image.pixels.max() for image in images) == 255


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Held-out digits as pictures: named folders, one enlarged, one black on white; and what is no picture."""
    folder = tmp_path / "digits"
    for number, image in enumerate(held_out_images()[:20]):
        assert image.label is not None
        inside = folder / (str(image.label) if number % 2 else DIGIT_NAMES[image.label])
        inside.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image.pixels)
        if number == 0:
            picture = picture.resize((32, 32), Image.Resampling.NEAREST)
        if number == 1:
            picture = ImageOps.invert(picture)
        picture.save(inside / f"{number:02}.png")
    (folder / "notes.txt").write_text("no picture")
    Image.fromarray(held_out_images()[20].pixels).save(folder / "20.PNG")
    return folder


def test_source_reads_pictures_of_any_size_and_of_dark_ink(folder: Path) -> None:
    images = list(digit_images.load_pictures(digit_images.folder_pictures(folder), repeat=1))
    expected = held_out_images()[:21]
    assert len(images) == 21
    for image in images:
        original = expected[int(Path(image.name).stem)]
        assert np.array_equal(image.pixels, original.pixels), image.name
        assert image.label == (None if Path(image.name).parent == folder else original.label)


def test_a_picture_that_is_not_square_is_not_stretched(tmp_path: Path) -> None:
    Image.new("L", (8, 16), 0).save(tmp_path / "a.png")
    picture = Image.new("L", (4, 8), 255)
    picture.paste(0, (0, 0, 4, 1))  # paper at the corners
    picture.paste(0, (0, 7, 4, 8))
    picture.save(tmp_path / "a.png")
    pixels = digit_images.read_picture(tmp_path / "a.png")
    assert pixels[1:7, 2:6].min() == 255
    assert pixels[:, [0, 1, 6, 7]].max() == 0


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DigitsError, match="nowhere: there is no such folder; name a folder"):
        digit_images.folder_pictures(tmp_path / "nowhere")


def test_file_in_place_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(DigitsError, match=r"notes\.txt: is not a folder"):
        digit_images.folder_pictures(folder / "notes.txt")


def test_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DigitsError, match=r"no pictures in this folder; name one that holds any of \.bmp"):
        digit_images.folder_pictures(tmp_path)


def test_unreadable_picture_is_refused_by_name(folder: Path) -> None:
    (folder / "z.png").write_text("no picture")
    with pytest.raises(DigitsError, match=r"z\.png: cannot be read as a picture \(UnidentifiedImageError\); repair it"):
        list(digit_images.load_pictures(digit_images.folder_pictures(folder), repeat=1))


# Worker: the model


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_batches_are_full_but_for_the_last(count: int, sizes: list[int]) -> None:
    images = held_out_images()[:count]
    found = list(pytorch_batcher.batches(iter(images), 4))
    assert [len(batch) for batch in found] == sizes
    assert [image for batch in found for image in batch] == images


def test_a_batch_is_handed_over_before_the_image_after_it_is_asked_for() -> None:
    taken: list[DigitImage] = []

    def source() -> Iterator[DigitImage]:
        for image in held_out_images()[:8]:
            taken.append(image)
            yield image

    found = pytorch_batcher.batches(source(), 4)
    assert next(found) == taken
    assert len(taken) == 4


def test_each_replica_has_a_cuda_device_of_its_own_while_there_are_enough() -> None:
    assert [pytorch_batcher.device_for(replica, 2) for replica in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert pytorch_batcher.device_for(1, 8) == "cuda:1"
    assert [pytorch_batcher.device_for(replica, 0) for replica in range(2)] == ["cpu", "cpu"]


def test_model_reads_over_95_percent_of_the_held_out_digits(torch: Any) -> None:
    predictions = classified(held_out_images(), 64)
    assert [prediction.image for prediction in predictions] == [image.name for image in held_out_images()]
    assert sum(prediction.class_index == prediction.label for prediction in predictions) > 0.95 * HELD_OUT


def test_predictions_do_not_depend_on_the_size_of_the_batches(torch: Any) -> None:
    images = held_out_images()[:100]
    one_by_one = classified(images, 1)
    for batch_size in (7, 100, 1000):
        assert classified(images, batch_size) == one_by_one


def test_no_prediction_is_so_close_that_rounding_could_change_it(torch: Any) -> None:
    """What batches an image falls into changes the order of sums, so the scores' last digits, and must not show."""
    model = torch.hub.load(str(HUB), HUB_ENTRY, source="local")
    pixels, _ = digit_images.held_out_digits()
    torch.set_num_threads(1)
    with torch.inference_mode():
        best = model(torch.from_numpy(pixels).unsqueeze(1) / 255).topk(2, dim=1).values
    assert float((best[:, 0] - best[:, 1]).min()) > 1e-2


def test_weights_are_small_and_hold_only_tensors(torch: Any) -> None:
    path = HUB / "digit_net.pt"
    assert path.stat().st_size < 100_000
    weights = torch.load(path, map_location="cpu", weights_only=True)
    expected = torch.hub.load(str(HUB), HUB_ENTRY, source="local", pretrained=False).state_dict()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


COUNTING_HUB = """
import torch

def log(*words):
    with open(LOG, "a") as file:
        print(*words, file=file)

class AlwaysThree(torch.nn.Module):
    def to(self, device):
        log("device", device)
        return self

    def forward(self, inputs):
        log("batch", len(inputs))
        log("threads", torch.get_num_threads())
        return torch.eye(10)[[3] * len(inputs)]

def always_three():
    log("model", 1)
    return AlwaysThree()
"""


def log_of_run(folder: Path, parallelism: Parallelism, procs: int) -> list[list[str]]:
    """What a model that takes every digit for a three writes down while it is asked about all that are held out."""
    log = folder / "log"
    (folder / "hubconf.py").write_text(COUNTING_HUB.replace("LOG", repr(str(log))))
    constants = {"hub": folder, "entry": "always_three", "batch_size": 10}
    results = execute(
        [
            PipelineTask(digit_images.load_held_out, constants={"repeat": 1}),
            PipelineTask(pytorch_batcher.classify, constants=constants, num_procs=procs),
        ],
        parallelism=parallelism,
    )
    assert isinstance(results, PipelineResults)
    assert [prediction.class_index for prediction in results] == [3] * HELD_OUT
    return [line.split() for line in log.read_text().splitlines()]


def test_model_is_loaded_once_per_replica_and_asked_in_batches_on_one_core(
    parallelism: Parallelism, torch: Any, tmp_path: Path
) -> None:
    lines = log_of_run(tmp_path, parallelism, procs=2)
    replicas = 1 if parallelism == "sequential" else 2
    assert [kind for kind, _ in lines].count("model") == replicas
    sizes = [int(size) for kind, size in lines if kind == "batch"]
    assert sum(sizes) == HELD_OUT
    assert max(sizes) == 10
    assert sum(size < 10 for size in sizes) <= replicas  # only the last batch of each
    assert {count for kind, count in lines if kind == "threads"} == {"1"}


@needs_fork  # what is put in the function's place exists in this process only
def test_device_of_a_replica_is_chosen_by_its_index(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The main memory by several names stands for several devices.
    monkeypatch.setattr(pytorch_batcher, "device_for", lambda replica, num_cuda_devices: f"cpu:{replica}")
    lines = log_of_run(tmp_path, "process-fork", procs=3)
    assert sorted(device for kind, device in lines if kind == "device") == ["cpu:0", "cpu:1", "cpu:2"]


# Worker: the names


def test_names_stand_in_place_of_indices() -> None:
    predictions = [Prediction("a", 0, 2), Prediction("b", 1, None)]
    assert list(pytorch_batcher.name_classes(predictions, names=["zero", "one", "two"])) == [
        NamedPrediction("a", "zero", "two"),
        NamedPrediction("b", "one", None),
    ]


# Sink


def test_sink_prints_and_writes_counts_and_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [NamedPrediction(str(number), "one", "one") for number in range(1500)]
    named += [NamedPrediction("x", "seven", "one"), NamedPrediction("y", "two", None)]
    pytorch_batcher.print_counts(iter(named), names=DIGIT_NAMES, counts_file=tmp_path / "counts.json")
    written = json.loads((tmp_path / "counts.json").read_text())
    assert written["counts"] == {**dict.fromkeys(DIGIT_NAMES, 0), "one": 1500, "two": 1, "seven": 1}
    assert (written["labelled"], written["right"]) == (1501, 1500)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split() == ["zero", "0", "one", "1,500", "two", "1", "three", "0", "four", "0"]
    assert second.split() == ["five", "0", "six", "0", "seven", "1", "eight", "0", "nine", "0"]
    assert third == "  99.93% right of 1,501 images whose digit is known"


def test_sink_claims_no_accuracy_where_no_label_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = [NamedPrediction("a", "one", None)]
    pytorch_batcher.print_counts(iter(named), names=DIGIT_NAMES, counts_file=tmp_path / "counts.json")
    assert "right" not in capsys.readouterr().out


# The pipeline


def test_counts_are_the_same_however_the_steps_are_run(parallelism: Parallelism, torch: Any, tmp_path: Path) -> None:
    named = pytorch_batcher.name_classes(classified(held_out_images(), 32), names=DIGIT_NAMES)
    pytorch_batcher.print_counts(named, names=DIGIT_NAMES, counts_file=tmp_path / "by_hand.json")
    expected = json.loads((tmp_path / "by_hand.json").read_text())
    assert expected["right"] > 0.95 * expected["labelled"] > 0

    tasks = pytorch_batcher.build_tasks(None, repeat=1, batch_size=16, procs=2, counts_file=tmp_path / "counts.json")
    execute(tasks, parallelism=parallelism)
    assert json.loads((tmp_path / "counts.json").read_text()) == expected


def test_error_of_the_source_reaches_the_caller_as_itself(
    parallelism: Parallelism, torch: Any, folder: Path, tmp_path: Path
) -> None:
    (folder / "z.png").write_text("no picture")
    pictures = digit_images.folder_pictures(folder)
    tasks = pytorch_batcher.build_tasks(pictures, repeat=1, batch_size=16, procs=2, counts_file=tmp_path / "out.json")
    with pytest.raises(DigitsError, match=r"z\.png: cannot be read as a picture"):
        execute(tasks, parallelism=parallelism)
    assert not (tmp_path / "out.json").exists()


# The program, as it is run from a shell


def run_program(*arguments: str | Path, cwd: Path, program: str = "pytorch_batcher.py") -> tuple[int, str, str]:
    finished = subprocess.run(
        [sys.executable, EXAMPLES / program, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    return finished.returncode, finished.stdout, finished.stderr


def test_program_runs_both_ways_and_compares_them(torch: Any, tmp_path: Path) -> None:
    status, printed, complaints = run_program("--repeat", "2", cwd=tmp_path)
    assert (status, complaints) == (0, "")
    assert "held-out digits of scikit-learn, 2 times over, in batches of 16\nprocess, 2 models:\n" in printed
    assert "sequential, 1 model:\n" in printed
    assert printed.count(f"right of {2 * HELD_OUT:,} images") == 2
    assert "\nthe same counts both ways, in parallel " in printed
    assert list(tmp_path.iterdir()) == []


def test_program_counts_the_pictures_of_a_folder(torch: Any, folder: Path, tmp_path: Path) -> None:
    status, printed, complaints = run_program(folder, "--parallelism", "process-spawn", cwd=tmp_path)
    assert (status, complaints) == (0, "")
    assert printed.startswith(f"21 pictures of {folder}, in batches of 16\nprocess-spawn, 2 models:\n")
    assert " right of 20 images whose digit is known\n" in printed


@needs_fork
def test_the_process_that_forks_has_imported_none_of_what_the_steps_work_with(torch: Any, tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import pytorch_batcher
assert pytorch_batcher.main(["--repeat", "1", "--parallelism", "process-fork"]) == 0
print(sorted(set(sys.modules) & {{"torch", "sklearn", "PIL"}}))
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.splitlines()[-1] == "[]"


def test_program_fails_if_the_two_ways_disagree(
    torch: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_something_else_each_time(tasks: list[PipelineTask[Any, Any]], parallelism: str) -> None:
        counts_file = (tasks[-1].constants or {})["counts_file"]
        counts_file.write_text(json.dumps({"counts": {parallelism: 1}}))

    monkeypatch.setattr(pytorch_batcher, "execute", write_something_else_each_time)
    assert pytorch_batcher.main([]) == 1
    assert capsys.readouterr().err == "pytorch_batcher: the two runs counted differently; report this\n"


def test_program_says_in_one_line_that_pytorch_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert importlib.util.find_spec("torch") is None
    assert pytorch_batcher.main([]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("pytorch_batcher: PyTorch is not installed; ")
    assert "https://pytorch.org/get-started/locally/" in printed.err
    assert printed.err.count("\n") == 1


def test_program_refuses_a_missing_folder(torch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert pytorch_batcher.main(["nowhere"]) == 1
    assert capsys.readouterr().err.startswith("pytorch_batcher: nowhere: there is no such folder; ")


@pytest.mark.slow
def test_training_again_gives_weights_that_read_over_95_percent(torch: Any, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    status, printed, complaints = run_program("--weights", weights, cwd=tmp_path, program="hub/train_digits.py")
    assert (status, complaints) == (0, "")
    assert f"written: {weights} ({weights.stat().st_size:,} bytes)" in printed
    model = torch.hub.load(str(HUB), HUB_ENTRY, source="local", pretrained=False)
    model.load_state_dict(torch.load(weights, weights_only=True))
    pixels, labels = digit_images.held_out_digits()
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = model(torch.from_numpy(pixels).unsqueeze(1) / 255).argmax(dim=1)
    right = int((found == torch.from_numpy(labels)).sum())
    assert right > 0.95 * HELD_OUT
    assert f"held-out   599 digits, {right / HELD_OUT:.2%} right\n" in printed
