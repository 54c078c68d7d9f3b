"""Networks that do not classify: batches of any structure, a loss and figures of one's own."""

import copy
import json
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from two_stages import loader as labelled_loader
from two_stages import make_network

import surgeon
from surgeon.errors import DataError, OptionError
from surgeon.measure.bn import recalibrate
from surgeon.tuning import Metrics, TuningConfig

EXAMPLE = torch.zeros(2, 1, 8, 8)
ADAM = TuningConfig(opt="adamw", lr=0.02)


class Segmenter(nn.Module):
    """Answers for every pixel, in a dictionary as torchvision's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.two(self.one(images)))}


class Scenes(Dataset[dict[str, Tensor]]):
    """Bright spots on noise, and which pixels they are."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        mask = (torch.rand(8, 8, generator=generator) > 0.7).long()
        return {"mask": mask, "image": 0.3 * torch.randn(1, 8, 8, generator=generator) + mask}


def segmenter() -> Segmenter:
    """Return a network whose BatchNorm scales differ, as those of a trained one do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Segmenter().eval()
        for norm in (model.one[1], model.two[1]):
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.uniform_(norm.weight, 0.05, 1.5)
    return model


def scenes(*, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(Scenes(), 8, shuffle=shuffle, generator=torch.Generator().manual_seed(0) if shuffle else None)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch["image"])["out"], batch["mask"])


def pixels_right(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    right = pixels = 0
    for batch in batches:
        hits = model(batch["image"])["out"].argmax(1) == batch["mask"]
        right, pixels = right + int(hits.sum()), pixels + hits.numel()
    return {"pixels right": right / pixels}


def image_of(batch: dict[str, Tensor]) -> Tensor:
    return batch["image"]


def run(model: nn.Module, method: str, **options: Any) -> Any:
    given = {"train": scenes(shuffle=True), "val": scenes(), "calibration": scenes(), "loss": loss, "inputs": image_of,
             "metric": pixels_right, "tuning": ADAM, "example_input": EXAMPLE}  # fmt: skip
    return surgeon.apply(model, method, **{**given, **options})


def test_a_network_is_operated_on_and_tuned_without_a_label() -> None:
    model = segmenter()
    record = run(model, "channel-regeneration", epochs=4)
    assert [stage.name for stage in record.stages] == ["original", "operated", "recalibrated", "finetuned"]
    figures = [stage.metrics["pixels right"] for stage in record.stages]
    (measured,) = pixels_right(model.eval(), scenes()).values()
    assert figures[-1] == measured == record.epochs[-1]["metrics"]["pixels right"]
    assert figures[-1] > 0.85 > figures[0]
    assert record.epochs[-1]["train_loss"] < record.epochs[0]["train_loss"]
    assert all(stage.top1 is stage.loss is stage.drift is None for stage in record.stages)
    written = json.loads(record.to_json())
    assert [stage["metrics"]["pixels right"] for stage in written["stages"]] == figures


def test_the_recalibration_reads_the_images_of_the_batches() -> None:
    model, other = segmenter(), segmenter()
    run(model, "channel-regeneration", epochs=0)
    surgeon.execute(other, surgeon.plan(other, "channel-regeneration", example_input=EXAMPLE))
    plain = [(batch["image"], torch.zeros(len(batch["image"]))) for batch in scenes()]
    recalibrate(other, plain, device="cpu")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_preserve_keeps_what_the_network_computes() -> None:
    model = segmenter()
    images = next(iter(scenes()))["image"]
    before = model(images)["out"]
    record = run(model, "channel-regeneration", epochs=0, preserve=True)
    assert record.edits
    assert [stage.name for stage in record.stages] == ["original", "operated"]
    torch.testing.assert_close(model(images)["out"], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("as_list", [False, True])
def test_criteria_that_need_no_label_are_measured(as_list: bool) -> None:
    batches = list(scenes()) if as_list else scenes()
    mine = run(segmenter(), "reinit", criterion="apoz", epochs=0, calibration=batches)
    plain = [(batch["image"], torch.zeros(len(batch["image"]), dtype=torch.int64)) for batch in scenes()]
    theirs = run(segmenter(), "reinit", criterion="apoz", epochs=0, calibration=plain, inputs=None)
    assert mine.edits == theirs.edits != ()


@pytest.mark.parametrize(
    ("method", "options"), [("sofm", {}), ("reinit", {"criterion": "taylor"}), ("reinit", {"criterion": "oracle"})]
)
def test_methods_that_read_labels_are_refused_before_anything_is_changed(method: str, options: dict[str, Any]) -> None:
    model = segmenter()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match="this task has none"):
        run(model, method, **options)
    with pytest.raises(DataError, match="this task has none"):
        run(model, method, inputs=None, calibration=None, **options)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_labelled_images_let_a_network_with_a_loss_of_its_own_be_measured_by_class() -> None:
    record = surgeon.apply(
        make_network(),
        "sofm",
        ["two"],
        train=labelled_loader(),
        val=labelled_loader(),
        calibration=labelled_loader(),
        loss=lambda model, batch: functional.multi_margin_loss(model(batch[0]), batch[1]),
        epochs=1,
        example_input=EXAMPLE,
    )
    assert [stage.name for stage in record.stages] == ["original", "operated", "recalibrated", "finetuned"]
    # Without a metric the figure is the loss itself.
    assert all(set(stage.metrics) == {"loss"} for stage in record.stages)


def test_classification_may_have_figures_of_its_own() -> None:
    def right(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, int]:
        return {"right": sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)}

    record = surgeon.finetune(make_network(), labelled_loader(), val=labelled_loader(), metric=right, epochs=1)
    plain = surgeon.finetune(make_network(), labelled_loader(), val=labelled_loader(), epochs=1)
    assert [stage.metrics["right"] for stage in record.stages] == [
        pytest.approx(0.24 * stage.top1) for stage in plain.stages
    ]
    # The answers are still logits of classes, which are compared with the original's.
    assert [stage.agreement for stage in record.stages] == [stage.agreement for stage in plain.stages]


def test_the_best_epoch_is_that_of_the_figure() -> None:
    best: list[int] = []
    shown = iter([9.0, 3.0, 1.0, 2.0])

    def metric(model: nn.Module, batches: Iterable[Any]) -> Metrics:
        list(batches)
        return Metrics({"error": next(shown), "other": 0.0}, best_by="error", larger_is_better=False)

    surgeon.finetune(
        segmenter(), scenes(), val=scenes(), loss=loss, metric=metric, epochs=3,
        on_best=lambda epoch, state: best.append(epoch),
    )  # fmt: skip
    assert best == [1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tuning": TuningConfig(smoothing=0.1)}, "smoothing"),
        ({"tuning": TuningConfig(mixup=0.2)}, "Mixup"),
        ({"teacher": "original"}, "teacher"),
    ],
)
def test_what_belongs_to_the_loss_of_classification_is_refused_beside_another(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        surgeon.finetune(segmenter(), scenes(), val=scenes(), loss=loss, epochs=1, **options)


def test_losses_that_a_detector_returns_itself_fall() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    images = [torch.zeros(3, 40, 60), torch.zeros(3, 50, 40)]
    target = {"boxes": torch.tensor([[5.0, 5.0, 35.0, 35.0]]), "labels": torch.tensor([1])}
    items = [(image, target) for image in images]
    data = DataLoader(items, 2, collate_fn=lambda chosen: tuple(zip(*chosen, strict=True)))

    def boxes(model: nn.Module, batches: Iterable[Any]) -> dict[str, int]:
        return {"boxes": sum(len(found["boxes"]) for images, _ in batches for found in model(list(images)))}

    record = surgeon.finetune(
        detector, data, val=data, epochs=3, metric=boxes, tuning=TuningConfig(opt="adamw", lr=1e-3, sched="none"),
        loss=lambda model, batch: sum(model(list(batch[0]), list(batch[1])).values(), torch.zeros(())),
    )  # fmt: skip
    losses = [epoch["train_loss"] for epoch in record.epochs]
    assert losses[0] > losses[1] > losses[2]
    assert all(stage.metrics["boxes"] > 0 for stage in record.stages)
