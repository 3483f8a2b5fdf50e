"""A stand-in for NVML and recorded-like nvidia-smi lines; no GPU was there."""

import sys
from types import SimpleNamespace

import pytest

from kd3d.bench import nvidia
from kd3d.bench.clocks import concerns, find_power_source, gpu_index, state
from kd3d.bench.nvidia import NvmlSource, nvml_state, parse_smi, parse_smi_state


class NVMLError(Exception):
    pass


class Nvml:
    """The calls kd3d makes, under the names of the published binding."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *, counter=True, power=True, reasons=0):
        self.counter, self.power, self.reasons, self.shut = counter, power, reasons, 0

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlShutdown(self):  # noqa: N802
        self.shut += 1

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return f"gpu{index}"

    def nvmlDeviceGetPowerUsage(self, gpu):  # noqa: N802
        if not self.power:
            raise NVMLError
        return 61_500

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):  # noqa: N802
        if not self.counter:
            raise NVMLError
        return 2_000_000

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802
        return SimpleNamespace(used=3_000_000_000)

    def nvmlDeviceGetClockInfo(self, gpu, kind):  # noqa: N802
        return 1410 if kind == self.NVML_CLOCK_SM else 1593

    def nvmlDeviceGetMaxClockInfo(self, gpu, kind):  # noqa: N802
        return 1980

    def nvmlDeviceGetTemperature(self, gpu, kind):  # noqa: N802
        return 44

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu):  # noqa: N802
        return 400_000

    def nvmlDeviceGetName(self, gpu):  # noqa: N802
        return b"NVIDIA A100-SXM4-80GB"

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "580.95"

    def nvmlDeviceGetCudaComputeCapability(self, gpu):  # noqa: N802
        return (8, 0)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu):  # noqa: N802
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):  # noqa: N802
        return [SimpleNamespace(pid=1)]


def test_a_board_gives_power_energy_clock_memory_and_heat():
    found = NvmlSource(Nvml()).read()
    assert (found.watts, found.joules, found.gpu_mhz, found.memory_mb, found.celsius) == (
        61.5,
        2000.0,
        1410,
        3000.0,
        44,
    )


def test_a_board_without_an_energy_counter_gives_power_and_one_without_both_nothing():
    assert NvmlSource(Nvml(counter=False)).read().joules is None
    assert NvmlSource(Nvml(counter=False, power=False)).read() is None


def test_the_state_names_what_slows_the_gpu_down():
    found = nvml_state(Nvml(reasons=0x4 | 0x20))
    assert found["name"] == "NVIDIA A100-SXM4-80GB"
    assert found["compute_capability"] == "8.0"
    assert found["power_limit_w"] == 400.0
    assert found["throttled_by"] == ["power cap", "software thermal slowdown"]
    assert found["other_processes"] == 1
    assert nvml_state(Nvml(reasons=0x1))["throttled_by"] == [], "idle is no slowdown"


def test_lines_of_nvidia_smi_are_read_and_gaps_in_them_left_out():
    found = parse_smi("61.50, 1410, 3000, 44")
    assert (found.watts, found.gpu_mhz, found.celsius) == (61.5, 1410.0, 44.0)
    assert found.memory_mb == pytest.approx(3145.728)
    assert parse_smi("[N/A], 1410, 3000, 44") is None
    assert parse_smi("61.50, [N/A], 3000, 44").gpu_mhz is None
    assert parse_smi("No devices were found") is None


def test_the_state_of_nvidia_smi_is_read():
    found = parse_smi_state("NVIDIA GeForce RTX 4090, 580.95, 2520, 10501, 3105, 10501, 450.00\n")
    assert found["name"] == "NVIDIA GeForce RTX 4090"
    assert (found["mhz"]["sm"], found["mhz_max"]["sm"], found["power_limit_w"]) == (2520.0, 3105.0, 450.0)
    assert parse_smi_state("") is None


def test_nvml_is_chosen_where_the_binding_is_and_closed_after_the_state_was_read(monkeypatch, tmp_path):
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert find_power_source("cuda:1", root=tmp_path).name == "NVML"
    assert state("cuda", tmp_path)["gpu"]["driver"] == "580.95"
    assert nvml.shut == 1
    assert state("cpu", tmp_path)["gpu"] is None


def test_without_a_binding_or_a_driver_there_is_no_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia.open_nvml() is None
    broken = Nvml()
    broken.nvmlInit = lambda: (_ for _ in ()).throw(NVMLError)
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    assert nvidia.open_nvml() is None


def test_a_gpu_that_slows_down_or_is_shared_is_a_concern():
    before, after = nvml_state(Nvml()), nvml_state(Nvml(reasons=0x40))
    after["mhz"]["sm"] = 1000
    cpu = {"cpu": {"governor": "powersave"}}
    said = concerns({**cpu, "gpu": before}, {**cpu, "gpu": after})
    assert any("CPU governor is powersave" in text for text in said)
    assert any("slowed down by hardware thermal slowdown" in text for text in said)
    assert any("1 other process(es) use the GPU" in text for text in said)
    assert any("sank from 1410 to 1000 MHz" in text for text in said)
    calm = {"cpu": {"governor": "performance"}, "gpu": None}
    assert concerns(calm, calm) == []


def test_a_jetson_with_free_clocks_is_a_concern():
    before = {"cpu": {"governor": None}, "gpu": None, "jetson": {"locked": False}}
    assert concerns(before, before) == ["the Jetson's GPU clock is free to sink between frames. Use: jetson_clocks"]


def test_the_index_of_a_device_is_its_number():
    assert [gpu_index(text) for text in ("cuda", "cuda:3", "cpu")] == [0, 3, 0]
