"""Recorded-like lines and files; no Jetson was there."""

import sys

import pytest

from kd3d.bench.energy import Reading
from kd3d.bench.jetson import (
    InaSource,
    TegrastatsSource,
    ina_rails,
    jetson_state,
    parse_nvpmodel,
    parse_tegrastats,
    total_w,
)
from kd3d.bench.lines import LineStream
from kd3d.errors import BackendError

AGX_ORIN = (
    "11-21-2026 10:00:00 RAM 6232/30588MB (lfb 14x4MB) SWAP 0/15294MB (cached 0MB) CPU [12%@2201,off,3%@1190] "
    "EMC_FREQ 8%@3199 GR3D_FREQ 41%@[1300,1300] NVDEC off APE 174 CV0@-256C CPU@52.2C SOC2@48.9C gpu@47.5C tj@52.2C "
    "VDD_GPU_SOC 8940mW/4938mW VDD_CPU_CV 2988mW/1388mW VIN_SYS_5V0 5048mW/4948mW VDDQ_VDD2_1V8AO 1091mW/891mW"
)
ORIN_NANO = (
    "RAM 2448/7471MB (lfb 2x4MB) SWAP 0/3735MB (cached 0MB) CPU [1%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@305 "
    "cpu@46.5C gpu@45.1C VDD_IN 5081mW/5004mW VDD_CPU_GPU_CV 519mW/519mW VDD_SOC 1479mW/1460mW"
)
OLD_NANO = "RAM 900/3964MB IRAM 0/252kB CPU [5%@1428] GR3D_FREQ 99%@921 POM_5V_IN 3520/3400 POM_5V_GPU 1200/1100"


def test_an_agx_orin_has_no_input_rail_so_its_rails_are_added():
    found = parse_tegrastats(AGX_ORIN)
    assert found.rails == {"VDD_GPU_SOC": 8.94, "VDD_CPU_CV": 2.988, "VIN_SYS_5V0": 5.048, "VDDQ_VDD2_1V8AO": 1.091}
    assert found.watts == pytest.approx(18.067)
    assert (found.gpu_mhz, found.memory_mb, found.celsius) == (1300.0, 6232.0, 47.5)


def test_an_orin_nano_has_one_and_it_is_the_total():
    found = parse_tegrastats(ORIN_NANO)
    assert found.watts == 5.081
    assert len(found.rails) == 3
    assert total_w(found.rails)[1] == "module input VDD_IN"


def test_older_lines_without_units_are_milliwatts_too():
    found = parse_tegrastats(OLD_NANO)
    assert (found.watts, found.gpu_mhz) == (3.52, 921.0)


def test_a_line_without_rails_says_nothing():
    assert parse_tegrastats("RAM 1/2MB CPU [1%@2]") is None


def monitors(root, channels):
    for index, (label, millivolts, milliamperes) in enumerate(channels):
        folder = root / f"bus/i2c/drivers/ina3221/1-004{index // 3}/hwmon/hwmon{3 + index // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        channel = index % 3 + 1
        (folder / f"in{channel}_label").write_text(f"{label}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")


def test_monitors_in_sysfs_are_volts_times_amperes(tmp_path):
    monitors(
        tmp_path, [("VDD_GPU_SOC", 20000, 500), ("VDD_CPU_CV", 20000, 100), ("VIN_SYS_5V0", 5000, 1000), ("NC", 0, 0)]
    )
    source = InaSource(ina_rails(tmp_path))
    assert source.read() == Reading(17.0, rails={"VDD_GPU_SOC": 10.0, "VDD_CPU_CV": 2.0, "VIN_SYS_5V0": 5.0})
    assert source.scope == "sum of VDD_CPU_CV, VDD_GPU_SOC, VIN_SYS_5V0"


def test_a_monitor_that_stops_answering_gives_no_reading(tmp_path):
    monitors(tmp_path, [("VDD_IN", 20000, 500)])
    source = InaSource(ina_rails(tmp_path))
    next(tmp_path.rglob("curr1_input")).write_text("")
    assert source.read() is None


def test_another_machine_has_no_monitors_and_no_jetson(tmp_path):
    assert ina_rails(tmp_path) == {}
    assert jetson_state(tmp_path) is None


@pytest.mark.parametrize(("lowest", "locked"), [(306000000, False), (1300500000, True)])
def test_whether_the_gpu_clock_may_sink_is_seen(tmp_path, lowest, locked):
    board = tmp_path / "firmware/devicetree/base/model"
    board.parent.mkdir(parents=True)
    board.write_text("NVIDIA Jetson AGX Orin Developer Kit\0")
    gpu = tmp_path / "class/devfreq/17000000.gpu"
    gpu.mkdir(parents=True)
    for name, value in {"cur": 1300500000, "min": lowest, "max": 1300500000}.items():
        (gpu / f"{name}_freq").write_text(str(value))
    found = jetson_state(tmp_path)
    assert found["model"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert found["gpu_mhz"] == {"cur": 1300.5, "min": lowest / 1e6, "max": 1300.5}
    assert found["locked"] is locked


def test_the_power_mode_is_read_from_nvpmodel():
    assert parse_nvpmodel("NV Power Mode: MODE_30W\n2\n") == "MODE_30W"
    assert parse_nvpmodel("nothing") is None


def program(tmp_path, lines):
    path = tmp_path / "tegrastats"
    said = "".join(f"print({line!r}, flush=True)\n" for line in lines)
    path.write_text(f"#!{sys.executable}\nimport time\n{said}time.sleep(60)\n")
    path.chmod(0o755)
    return str(path)


def test_the_latest_line_of_a_running_tegrastats_is_read_and_the_program_ended(tmp_path):
    source = TegrastatsSource(command=program(tmp_path, [OLD_NANO, ORIN_NANO]))
    found = None
    for _ in range(2000):
        found = source.read()
        if found is not None and "VDD_IN" in found.rails:
            break
        source._lines._thread.join(0.005)
    source.close()
    assert found.watts == 5.081
    assert source._lines._process.poll() is not None
    assert source.read() is None


def test_a_program_that_is_not_there_is_an_error_that_says_so():
    with pytest.raises(BackendError, match="no-such-tegrastats cannot be started"):
        LineStream(["no-such-tegrastats"])
