"""Clocks are locked and given back, on stand-ins: no clock of this machine is touched, and no GPU was there."""

import os
import signal
from subprocess import CompletedProcess

import pytest

from kd3d.bench import locking
from kd3d.bench.clocks import gpu_index
from kd3d.bench.locking import locked_clocks
from kd3d.errors import BackendError


class NVMLError(Exception):
    pass


class Nvml:
    """Notes what is set and reset; ``refuse`` names calls that fail."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, *refuse, names=("H200",)):
        self.refuse, self.names, self.calls = refuse, names, []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if name in self.refuse or f"{name} {arguments[-1:]}" in self.refuse:
                raise NVMLError("Insufficient Permissions")

        return call

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.names)

    def nvmlDeviceGetName(self, gpu):  # noqa: N802
        return self.names[gpu]

    def nvmlDeviceGetMaxClockInfo(self, gpu, kind):  # noqa: N802
        return 1980 if kind == self.NVML_CLOCK_SM else 3201


SET, RESET = "nvmlDeviceSetGpuLockedClocks", "nvmlDeviceResetGpuLockedClocks"
SET_MEMORY, RESET_MEMORY = "nvmlDeviceSetMemoryLockedClocks", "nvmlDeviceResetMemoryLockedClocks"


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def made(*refuse, **about):
        nvml = Nvml(*refuse, **about)
        monkeypatch.setattr(locking, "open_nvml", lambda: nvml)
        return nvml

    return made


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_a_gpu_is_locked_at_what_it_sustains_and_given_back_however_it_ends(gpu, tmp_path, error):
    nvml = gpu()
    try:
        with locked_clocks(["cuda", "cuda"], root=tmp_path) as held:
            assert held == [{"device": "cuda:0", "by": "NVML", "sm": "tdp", "memory_mhz": 3201.0}]
            assert [call[0] for call in nvml.calls] == [SET, SET_MEMORY]
            if error:
                raise error
    except BaseException as caught:  # noqa: BLE001  Ctrl-C is one of the cases
        assert type(caught) is error
    assert [call[0] for call in nvml.calls[2:]] == [RESET_MEMORY, RESET, "nvmlShutdown"]


def test_drivers_without_the_sustained_clock_get_the_highest_and_old_boards_keep_their_memory(gpu, tmp_path):
    nvml = gpu(f"{SET} {(0xFFFFFF00,)}", SET_MEMORY)
    with locked_clocks(["cuda"], root=tmp_path) as held:
        assert (held[0]["sm"], held[0]["memory_mhz"]) == (1980.0, None)
    assert [call[0] for call in nvml.calls[-2:]] == [RESET, "nvmlShutdown"]
    assert (RESET_MEMORY, 0) not in nvml.calls


def test_without_permission_nothing_is_timed_and_the_error_says_what_to_do(gpu, tmp_path):
    nvml = gpu(SET)
    with (
        pytest.raises(BackendError, match=r"Insufficient Permissions.*by sudo, or leave --lock-clocks out") as caught,
        locked_clocks(["cuda"], root=tmp_path),
    ):
        raise AssertionError("never reached")
    assert caught.value.exit_code == 5
    assert RESET not in [call[0] for call in nvml.calls]
    assert nvml.calls[-1] == ("nvmlShutdown",)


def test_without_nvml_the_error_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(locking, "open_nvml", lambda: None)
    with pytest.raises(BackendError, match="pip install nvidia-ml-py"), locked_clocks(["cuda"], root=tmp_path):
        pass


def test_the_wrong_gpu_is_never_touched(gpu, tmp_path, monkeypatch):
    nvml = gpu(names=("A100", "T4"))
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with pytest.raises(BackendError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"), locked_clocks(["cuda"], root=tmp_path):
        pass
    assert SET not in [call[0] for call in nvml.calls]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert gpu_index("cuda") == 1
    assert gpu_index("cuda:1") == 0
    with locked_clocks(["cuda"], root=tmp_path) as held:
        assert held[0]["device"] == "cuda:1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-4b1c")
    with pytest.raises(BackendError, match="numbers in CUDA_VISIBLE_DEVICES"), locked_clocks(["cuda"], root=tmp_path):
        pass


@pytest.fixture
def jetson(tmp_path):
    model = tmp_path / "firmware/devicetree/base/model"
    model.parent.mkdir(parents=True)
    model.write_text("NVIDIA Jetson AGX Orin Developer Kit\0")
    return tmp_path


def test_a_jetson_s_clocks_are_stored_locked_and_restored_from_the_same_file(jetson):
    ran = []

    def run(command):
        ran.append(list(command))
        return CompletedProcess(command, 0, "", "")

    with pytest.raises(KeyboardInterrupt), locked_clocks(["cuda", "cpu"], root=jetson, run=run) as held:
        assert held == [{"device": "jetson", "by": "jetson_clocks"}]
        assert [line[:2] for line in ran] == [["jetson_clocks", "--store"], ["jetson_clocks"]]
        raise KeyboardInterrupt
    assert ran[2] == ["jetson_clocks", "--restore", ran[0][2]]


def test_a_jetson_without_permission_or_tool_says_so(jetson):
    def refused(command):
        return CompletedProcess(command, 1, "", "jetson_clocks has to be run as root\n")

    with (
        pytest.raises(BackendError, match=r"jetson_clocks --store failed: .* as root\. .* run kd3d by sudo"),
        locked_clocks(["cuda"], root=jetson, run=refused),
    ):
        pass
    with pytest.raises(BackendError, match="jetson_clocks is not here"), locked_clocks(["cuda"], root=jetson):
        pass


def governors(root, *kinds):
    files = []
    for at, kind in enumerate(kinds):
        file = root / f"devices/system/cpu/cpu{at}/cpufreq/scaling_governor"
        file.parent.mkdir(parents=True)
        file.write_text(kind)
        files.append(file)
    return files


def test_a_processor_gets_its_governors_back(tmp_path):
    files = governors(tmp_path, "powersave\n", "schedutil\n")
    with pytest.raises(ValueError, match="stop"), locked_clocks(["cpu"], root=tmp_path) as held:
        assert held == [{"device": "cpu", "by": "governor performance", "before": ["powersave", "schedutil"]}]
        assert [file.read_text() for file in files] == ["performance"] * 2
        raise ValueError("stop")
    assert [file.read_text() for file in files] == ["powersave\n", "schedutil\n"]


def test_a_processor_that_is_locked_half_way_is_unlocked_again(tmp_path, monkeypatch):
    first, second = governors(tmp_path, "powersave", "powersave")
    write = type(first).write_text

    def refusing(self, text, **about):
        if self == second and text == "performance":
            raise PermissionError(13, "Permission denied")
        return write(self, text, **about)

    monkeypatch.setattr(type(first), "write_text", refusing)
    with (
        pytest.raises(BackendError, match=r"cpu1/.*Permission denied.*run kd3d by sudo"),
        locked_clocks(["cpu"], root=tmp_path),
    ):
        pass
    assert first.read_text() == "powersave"


def test_a_machine_without_clocks_to_lock_is_refused(tmp_path):
    with pytest.raises(BackendError, match="shows no clocks"), locked_clocks(["cpu"], root=tmp_path):
        pass


def test_a_terminated_benchmark_gives_its_clocks_back_and_the_signal_its_meaning(tmp_path):
    (file,) = governors(tmp_path, "powersave")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, locked_clocks(["cpu"], root=tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert file.read_text() == "powersave"
    assert signal.getsignal(signal.SIGTERM) == before
