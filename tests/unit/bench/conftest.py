"""A clock that moves only when somebody says so, and a detector that takes given times on it."""

from types import SimpleNamespace

import numpy as np
import pytest


class Clock:
    def __init__(self):
        self.now, self.slept = 0, []

    def __call__(self):
        return self.now

    def sleep(self, duration_ns):
        self.slept.append(duration_ns)
        self.now += max(duration_ns, 1000)


class Model:
    """Stages of one millisecond each, but for the network."""

    def __init__(self, clock, network_ms=7.0, boxes=3):
        self.clock, self.network_ms, self.boxes, self.seen = clock, network_ms, boxes, []

    def pre(self, frame):
        self.seen.append(frame.token)
        self.clock.now += 1_000_000
        return frame

    def network(self, feeds):
        taken = self.network_ms(len(self.seen) - 1) if callable(self.network_ms) else self.network_ms
        self.clock.now += int(taken * 1e6)
        return feeds

    def decode(self, outputs):
        self.clock.now += 1_000_000
        return outputs

    def nms(self, candidates):
        self.clock.now += 1_000_000
        return [0] * self.boxes


def frames(count, points=100):
    return [
        SimpleNamespace(
            token=f"f{index}",
            points=np.arange((points + index) * 4, dtype=np.float32).reshape(-1, 4),
            features=("x", "y", "z", "intensity"),
        )
        for index in range(count)
    ]


@pytest.fixture
def fake():
    return SimpleNamespace(Clock=Clock, Model=Model, frames=frames)
