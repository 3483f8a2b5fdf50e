import errno
import math
import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
import torch
from training_frames import MemoryDataset, frame_of, memory_dataset

from kd3d.detectors.batch import prepare
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import load_model
from kd3d.detectors.presets import preset
from kd3d.errors import DataError, NonFiniteError, OutputError
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.decode import decode
from kd3d.runtime.heads import TaskMaps
from kd3d.training.interrupt import Interrupts
from kd3d.training.loop import train
from kd3d.training.objective import DetectionObjective, Term
from kd3d.training.settings import TrainSettings

TINY = preset("world-centerpoint-pillar-tiny")


def module():
    torch.manual_seed(0)
    return build(TINY)


def quick(**changes):
    return TrainSettings(**{"steps": 3, "batch_size": 2, "workers": 0, "log_every": 1, **changes})


def found(boxes: Boxes3D, truth: Boxes3D) -> int:
    """Ground truth with a box of its class within a metre."""
    count = 0
    for centre, label in zip(truth.center_m, truth.label, strict=True):
        near = np.linalg.norm(boxes.center_m[:, :2] - centre[:2], axis=1) < 1.0
        count += bool((near & (boxes.label == label) & (boxes.score > 0.3)).any())
    return count


def test_training_learns_four_frames_by_heart(tmp_path):
    dataset = memory_dataset(4)
    settings = TrainSettings(steps=50, batch_size=4, workers=1, log_every=1, ema_decay=0.9, lr=1e-2, norm_momentum=0.1)
    result = train(module(), dataset, settings=settings, run=tmp_path)
    losses = [line["loss"] for line in result.history]
    assert np.mean(losses[-5:]) < np.mean(losses[:3]) / 20
    with torch.no_grad():
        heads = result.module(prepare(dataset.frames, TINY)).heads
    hits = 0
    for index, frame in enumerate(dataset.frames):
        maps = [TaskMaps(*(part[index].float().numpy() for part in task)) for task in heads]
        hits += found(decode(maps, TINY), frame.boxes)
    assert hits >= 0.9 * sum(len(frame.boxes) for frame in dataset.frames)


def test_the_averaged_network_is_what_is_validated_returned_and_saved(tmp_path):
    seen = []

    def validate(network, step):
        assert not network.training
        seen.append((step, network.head.shared.conv.weight.detach().clone()))
        return {"mAP": step / 10}

    net = module()
    result = train(net, memory_dataset(), settings=quick(steps=5, eval_every=2), run=tmp_path, validate=validate)
    assert [step for step, _ in seen] == [2, 4, 5]
    stored = load_model(result.model)
    assert torch.equal(stored.module.head.shared.conv.weight, seen[-1][1])
    assert not torch.equal(stored.module.head.shared.conv.weight, net.head.shared.conv.weight)
    assert stored.meta["metrics"] == result.metrics == {"mAP": 0.5}
    assert stored.meta["training"]["steps"] == 5
    assert [line["val"]["mAP"] for line in result.history if "val" in line] == [0.2, 0.4, 0.5]


def test_norm_momentum_is_that_of_every_batch_norm_while_training(tmp_path):
    net = module()
    before = {part.momentum for part in net.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)}
    train(net, memory_dataset(2), settings=quick(steps=1, norm_momentum=0.3), run=tmp_path)
    after = {part.momentum for part in net.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)}
    assert before == {0.01, 0.1}
    assert after == {0.3}
    saved = load_model(tmp_path / "model").module
    kept = {part.momentum for part in saved.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)}
    assert kept == before


def test_metrics_lines_say_everything_about_a_step(tmp_path):
    result = train(module(), memory_dataset(), settings=quick(log_every=2), run=tmp_path)
    assert [line["step"] for line in result.history] == [2, 3]
    line = result.history[0]
    assert set(line) == {"step", "epoch", "loss", "terms", "lr", "momentum", "grad_norm", "step_s", "data_s"}
    assert line["loss"] == pytest.approx(sum(line["terms"].values()))
    assert line["epoch"] == 1.0


def test_progress_gives_the_remaining_time(tmp_path):
    updates = []
    train(module(), memory_dataset(), settings=quick(), run=tmp_path, progress=updates.append)
    assert [(update.step, update.steps) for update in updates] == [(1, 3), (2, 3), (3, 3)]
    assert updates[0].eta_s > 0
    assert updates[-1].eta_s == 0


def test_micro_batches_take_the_same_step_as_one_batch(tmp_path):
    class Frozen(DetectionObjective):
        def __call__(self, module, batch):
            return super().__call__(module.eval(), batch)  # batch statistics are the one thing that may differ

    weights = []
    for size, accumulate in [(4, 1), (2, 2), (1, 4)]:
        net = module()
        settings = quick(steps=2, batch_size=size, accumulate=accumulate, precision="fp32")
        train(net, memory_dataset(), settings=settings, run=tmp_path / str(size), objective=Frozen(TINY))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(weights[2], weights[0], rtol=0, atol=2e-5)


def test_the_counting_pass_of_micro_batches_leaves_normalisation_alone(tmp_path):
    net = module()
    train(net, memory_dataset(), settings=quick(steps=2, accumulate=2), run=tmp_path)
    assert int(net.head.shared.norm.num_batches_tracked) == 4  # two steps of two, not counted twice


class Poisoned(DetectionObjective):
    """The third step's box term is NaN."""

    calls = 0

    def __call__(self, module, batch):
        Poisoned.calls += 1
        terms = super().__call__(module, batch)
        if Poisoned.calls == 3:
            terms[1].sum = terms[1].sum * float("nan")
        return terms


def test_a_nan_stops_the_run_with_step_frames_and_term_and_keeps_the_checkpoint(tmp_path):
    Poisoned.calls = 0
    settings = quick(steps=6, batch_size=1, checkpoint_every=1)
    with pytest.raises(
        NonFiniteError, match=r"step 2: loss task0\.box=nan on frames frame-\d\. .*checkpoint is intact"
    ):
        train(module(), memory_dataset(), settings=settings, run=tmp_path, objective=Poisoned(TINY))
    saved = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert saved["step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in saved["module"].values())


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path):
    class Steep(DetectionObjective):
        def __call__(self, module, batch):
            (first, *rest) = super().__call__(module, batch)
            zero = module.head.shared.conv.weight.sum() * 0
            return [Term(first.name, first.sum + torch.sqrt(zero), first.mass, first.weight), *rest]

    net = module()
    before = net.head.shared.conv.weight.detach().clone()
    with pytest.raises(NonFiniteError, match=r"step 0: gradient not finite in head\.shared\.conv\.weight"):
        train(net, memory_dataset(), settings=quick(), run=tmp_path, objective=Steep(TINY))
    assert torch.equal(net.head.shared.conv.weight, before)


def test_frames_without_boxes_and_without_labels_train(tmp_path):
    from dataclasses import replace

    empty, unlabelled = frame_of(0, boxes=Boxes3D.empty()), replace(frame_of(1), boxes=None)
    result = train(module(), MemoryDataset([empty, unlabelled]), settings=quick(), run=tmp_path)
    assert all(math.isfinite(line["loss"]) for line in result.history)


def test_frames_without_points_train(tmp_path):
    from dataclasses import replace

    frame = frame_of(0)
    result = train(module(), MemoryDataset([replace(frame, points=frame.points[:0])]), settings=quick(), run=tmp_path)
    assert all(math.isfinite(line["loss"]) for line in result.history)


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="the training set has no frames"):
        train(module(), MemoryDataset([]), settings=quick(), run=tmp_path)


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    settings = quick(steps=4, checkpoint_every=1)

    def fill(update):
        if update.step == 3:
            monkeypatch.setattr(os, "fsync", full)

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"the disk is full\. Free some space"):
        train(module(), memory_dataset(), settings=settings, run=tmp_path, progress=fill)
    assert torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["step"] == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.pt"]


def test_a_full_disk_stops_the_data_workers_before_the_error_is_seen(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(update):
        assert len(multiprocessing.active_children()) == 2
        monkeypatch.setattr(os, "fsync", full)

    settings = quick(steps=50, checkpoint_every=1, workers=2)
    with pytest.raises(OutputError, match="the disk is full"):
        try:
            train(module(), memory_dataset(), settings=settings, run=tmp_path, progress=fill)
        except OutputError:  # whose traceback keeps every frame of the run alive
            assert multiprocessing.active_children() == []
            raise


def test_a_run_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError, match="run"):
        train(module(), memory_dataset(), settings=quick(), run=tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_adapters_are_trained_and_kept_in_the_checkpoint_but_not_in_the_model(tmp_path):
    class Adapted(DetectionObjective):
        def __init__(self):
            super().__init__(TINY)
            object.__setattr__(self, "adapters", torch.nn.Linear(1, 1))

        def __call__(self, module, batch):
            pull = self.adapters(torch.ones(1, 1)).square().sum()
            return [*super().__call__(module, batch), Term("pull", pull, torch.tensor(1.0), 1.0)]

    objective = Adapted()
    before = objective.adapters.weight.item()
    result = train(module(), memory_dataset(), settings=quick(), run=tmp_path, objective=objective)
    assert objective.adapters.weight.item() != before
    saved = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert torch.equal(saved["adapters"]["weight"], objective.adapters.weight.detach())
    assert set(load_model(result.model).module.state_dict()) == set(build(TINY).state_dict())


def test_training_leaves_the_callers_random_numbers_alone(tmp_path):
    torch.manual_seed(9)
    want = torch.rand(3)
    net = module()
    torch.manual_seed(9)
    train(net, memory_dataset(), settings=quick(), run=tmp_path)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.usefixtures("listens_to_ctrl_c")
def test_ctrl_c_during_a_step_waits_for_its_end():
    assert threading.current_thread() is threading.main_thread()
    done = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        interrupts.hold()
        os.kill(os.getpid(), signal.SIGINT)
        done.append("the rest of the step")
        interrupts.release()
    assert done
    assert not interrupts.held
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("listens_to_ctrl_c")
def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        interrupts.hold()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not reached")
    assert interrupts.held


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            interrupts.release()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listens_to_ctrl_c")
def test_ctrl_c_between_steps_is_immediate():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not reached")


def test_the_frozen_network_of_an_earlier_run_can_be_trained_further(tmp_path):
    module = build(preset("world-centerpoint-pillar-tiny")).requires_grad_(False)
    before = module.head.shared.conv.weight.clone()
    train(
        module,
        memory_dataset(2),
        settings=TrainSettings(steps=1, batch_size=2, workers=0, precision="fp32"),
        run=tmp_path / "run",
    )
    assert not torch.equal(module.head.shared.conv.weight, before)
