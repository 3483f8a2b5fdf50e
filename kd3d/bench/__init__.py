"""Latency over real frames, stage by stage, several models interleaved. Never imports torch or a data set's devkit."""

from kd3d.bench.protocol import STAGES, Pipeline
from kd3d.bench.report import BenchReport
from kd3d.bench.run import bench, full_bench
from kd3d.bench.settings import BenchSettings

__all__ = ["STAGES", "BenchReport", "BenchSettings", "Pipeline", "bench", "full_bench"]
