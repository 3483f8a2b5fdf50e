"""The CUDA kernels on a CUDA device, against numpy, and their time. Run with ``pytest -m gpu``; needs no torch."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from kd3d.errors import BackendError
from kd3d.runtime.cuda.gpu import Gpu
from kd3d.runtime.device.choose import open_backend

KERNEL_TESTS = Path(__file__).resolve().parents[1] / "unit" / "runtime" / "cuda"


def device_reason():
    try:
        open_backend("auto").close()
    except BackendError as error:
        return f"no CUDA device: {error}"
    return None


REASON = device_reason()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


def tests_of(name):
    """The comparisons that the tests on the processor make."""
    spec = importlib.util.spec_from_file_location(name, KERNEL_TESTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu():
    made = Gpu(open_backend("auto"))
    yield made
    made.close()


@pytest.mark.parametrize("count", [0, 1, 300, 20000])
def test_pillars_equal_numpy_to_the_bit(gpu, count):
    shared = tests_of("test_cuda_pillars")
    points, spec = shared.cloud(count, count), shared.capped(5, 60)
    found = shared.on_device(gpu, points, spec, rows=80)
    shared.same(found, shared.select_features(points, shared.NAMES, spec.points), spec)


@pytest.mark.parametrize("nms", ["none", "rotate", "circle"])
@pytest.mark.parametrize("rule", ["class", "cell"])
@pytest.mark.parametrize("coarse", [False, True])
def test_boxes_equal_numpy(gpu, nms, rule, coarse):
    shared = tests_of("test_cuda_decode")
    for seed in range(20):
        spec = shared.ruled(nms=nms, top_k_rule=rule, peak_kernel=1 + 2 * (seed % 2), top_k=200)
        shared.check(gpu, shared.heads(seed, spec, coarse=coarse, near=0.4 * (seed % 3)), spec)


def test_neighbour_tables_equal_numpy(gpu):
    shared = tests_of("test_cuda_sparse")
    shape, coords = (41, 300, 300), shared.some_sites(0, 60000, (41, 300, 300), batches=1)
    sites = shared.empty(gpu, (1, *shape), 60000)
    shared.put(gpu, sites, coords)
    for window in shared.STRIDED:
        same = shared.SubmanifoldTable(gpu, sites, (3, 3, 3))
        down = shared.StridedTable(gpu, sites, window, capacity=1_000_000)
        same.run()
        down.run()
        out, table, _ = shared.strided_table(coords, shape, *window)
        np.testing.assert_array_equal(gpu.fetch(same.table), shared.submanifold_table(coords, shape, (3, 3, 3)))
        np.testing.assert_array_equal(gpu.fetch(down.out.sites)[: len(out)], out)
        np.testing.assert_array_equal(gpu.fetch(down.table)[: len(out)], table)


def test_results_are_the_same_every_time(gpu):
    shared = tests_of("test_cuda_decode")
    spec = shared.ruled(nms="rotate", top_k=500, score_threshold=0.0)
    tasks = shared.heads(1, spec, coarse=True)
    decoder, seen = shared.decoder_of(gpu, tasks, spec), set()
    for _ in range(50):
        decoder.decode()
        decoder.nms()
        found = decoder.boxes()
        seen.add((found.array.tobytes(), found.label.tobytes(), found.score.tobytes()))
    assert len(seen) == 1


def test_before_and_after_the_network_half_a_millisecond_is_enough(gpu, capsys):
    """Device time by events: 100,000 points, then decoding and rotated suppression. Orin-class devices take longer."""
    pillars, boxes = tests_of("test_cuda_pillars"), tests_of("test_cuda_decode")
    points = pillars.cloud(0, 100_000, spread=4.0)
    maker = pillars.DevicePillars(gpu, pillars.capped(20, 128), pillars.NAMES, capacity=1 << 17)
    out = gpu.array((128, 20, 10), np.float32), gpu.array((128,), np.int64), gpu.array((128,), np.int64)
    spec = boxes.ruled(nms="rotate", top_k=500)
    decoder = boxes.decoder_of(gpu, boxes.heads(0, spec, near=0.5), spec)
    start, end = gpu.device.event(), gpu.device.event()
    times = []
    for _ in range(30):
        maker.group(points)
        gpu.device.record(start, gpu.stream)
        maker._launch()
        maker.write(128, *out)
        decoder.decode()
        decoder.nms()
        gpu.device.record(end, gpu.stream)
        times.append(gpu.device.elapsed_ms(start, end))
    with capsys.disabled():
        print(f"pillars, decoding and suppression: median {np.median(times):.3f} ms on {gpu.device.info().name}")
    if gpu.device.info().compute_capability in ((8, 0), (9, 0)):
        assert np.median(times) < 0.5
