"""Processor clocks, energy counters and memory, from files like the kernel's."""

from kd3d.bench.clocks import cpu_state, find_power_source
from kd3d.bench.memory import peak_rss_mb, rss_mb
from kd3d.bench.rapl import rapl_source


def cores(root, governors, khz):
    for index, (governor, now) in enumerate(zip(governors, khz, strict=True)):
        folder = root / f"devices/system/cpu/cpu{index}/cpufreq"
        folder.mkdir(parents=True)
        for name, value in {
            "scaling_governor": governor,
            "scaling_cur_freq": now,
            "cpuinfo_max_freq": 3_900_000,
        }.items():
            (folder / name).write_text(f"{value}\n")


def test_governors_frequencies_and_turbo_are_read(tmp_path):
    cores(tmp_path, ["powersave", "performance", "performance"], [1_000_000, 3_000_000, 2_000_000])
    turbo = tmp_path / "devices/system/cpu/intel_pstate/no_turbo"
    turbo.parent.mkdir()
    turbo.write_text("1\n")
    found = cpu_state(tmp_path)
    assert found["governor"] == "performance, powersave"
    assert (found["mhz"], found["mhz_max"], found["turbo"]) == (2000.0, 3900.0, False)


def test_a_machine_that_says_nothing_is_not_guessed(tmp_path):
    found = cpu_state(tmp_path)
    assert (found["governor"], found["mhz_max"], found["turbo"]) == (None, None, None)


def package(root, microjoules, *, span=1000):
    folder = root / "class/powercap/intel-rapl:0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(str(microjoules))
    (folder / "max_energy_range_uj").write_text(str(span))
    return folder


def test_an_energy_counter_that_wraps_goes_on_growing(tmp_path):
    package(tmp_path, 900)
    source = rapl_source(tmp_path)
    assert source.read().joules == 0
    package(tmp_path, 950)
    assert source.read().joules == 50 / 1e6
    package(tmp_path, 30)  # 50 to its end, 30 from its start
    assert source.read().joules == 130 / 1e6


def test_domains_inside_a_package_are_not_counted_twice(tmp_path):
    package(tmp_path, 1)
    inner = tmp_path / "class/powercap/intel-rapl:0:0"
    inner.mkdir()
    source = rapl_source(tmp_path)
    assert [path.name for path in source._packages] == ["intel-rapl:0"]
    assert find_power_source("cpu", root=tmp_path).name == "RAPL"


def test_a_counter_that_may_not_be_read_is_no_source(tmp_path):
    folder = package(tmp_path, 1)
    (folder / "energy_uj").write_text("")
    assert rapl_source(tmp_path) is None
    assert find_power_source("cpu", root=tmp_path / "nowhere") is None


def test_a_counter_that_vanishes_gives_no_reading(tmp_path):
    folder = package(tmp_path, 1)
    source = rapl_source(tmp_path)
    (folder / "energy_uj").unlink()
    assert source.read() is None


def test_memory_is_read_from_the_kernels_status(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n")
    assert (rss_mb(status), peak_rss_mb(status)) == (1.024, 2.048)
    assert rss_mb(tmp_path / "none") is None
    assert peak_rss_mb(tmp_path / "none") > 1, "the system's own count of this process"
