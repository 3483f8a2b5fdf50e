"""Ray casting: distances, occlusion, ground, and pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.datasets.world.cast import intersect, normals
from kd3d.datasets.world.catalog import CLASSES
from kd3d.datasets.world.lidar import scan
from kd3d.datasets.world.primitives import Material, PlacedPrimitives, Primitives, Shape
from kd3d.datasets.world.recorder import visibility_level
from kd3d.datasets.world.rig import CAMERAS, quaternion
from kd3d.datasets.world.roads import Road, Terrain

PLAIN = Material(0.8, (0.5, 0.5, 0.5))
FLAT = Terrain((Road(0.0, 0.0, 0.0, 0.0, 500.0, 1),), (0.0, 0.0), np.zeros((0, 4)))


def _box(size: tuple[float, float, float]) -> Shape:
    shape = Shape()
    shape.box((0, 0, size[2] / 2), size, PLAIN)
    return shape


def _placed(*things: tuple[Shape, tuple[float, float, float, float]]) -> PlacedPrimitives:
    return Primitives.stack([shape for shape, _ in things]).place(np.array([pose for _, pose in things]))


def _scan(placed: PlacedPrimitives, objects: int, seed: int = 0):  # type: ignore[no-untyped-def]
    return scan(placed, FLAT, (0.0, 0.0, 1.84, 0.0), objects, np.random.default_rng(seed))


def test_an_object_behind_a_wall_gets_no_points() -> None:
    car = (_box((4.5, 1.9, 1.7)), (20.0, 0.0, 0.0, 0.3))
    wall = (_box((0.3, 12.0, 4.0)), (10.0, 0.0, 0.0, 0.0))
    alone, hidden = _scan(_placed(car), 1), _scan(_placed(car, wall), 2)
    assert (alone.owner == 0).sum() > 40
    assert (hidden.owner == 0).sum() == 0
    assert hidden.hits[0] == 0 and hidden.reach[0] == alone.reach[0] > 40


def test_a_half_hidden_object_is_half_visible() -> None:
    target = (_box((1.0, 6.0, 2.0)), (20.0, 0.0, 0.0, 0.0))
    wall = (_box((0.1, 4.0, 6.0)), (10.0, 2.0, 0.0, 0.0))
    sweep = _scan(_placed(target, wall), 2)
    assert sweep.hits[0] / sweep.reach[0] == pytest.approx(0.5, abs=0.08)


def test_points_lie_on_the_objects_and_on_the_ground() -> None:
    sweep = _scan(_placed((_box((4.0, 2.0, 1.5)), (12.0, 5.0, 0.0, 0.7))), 1)
    ground = sweep.points[sweep.owner == -1]
    assert np.abs(ground[:, 2] + 1.84).max() < 0.09
    right, ahead, up = sweep.points[sweep.owner == 0][:, :3].T
    dx, dy = ahead - 12.0, -right - 5.0
    cos, sin = np.cos(0.7), np.sin(0.7)
    assert np.abs(cos * dx + sin * dy).max() < 2.0 + 0.08
    assert np.abs(cos * dy - sin * dx).max() < 1.0 + 0.08
    assert (up + 1.84).max() < 1.5 + 0.08


def test_a_hill_hides_what_lies_behind_it() -> None:
    hill = Terrain(FLAT.roads, (0.0, 0.0), np.array([[1.5, 2 * np.pi / 60, 0.0, -np.pi / 2]]))
    placed = _placed((_box((0.5, 0.5, 0.5)), (60.0, 0.0, -1.5, 0.0)))
    nearest = scan(placed, hill, (0.0, 0.0, -1.5 + 1.84, 0.0), 1, np.random.default_rng(0))
    assert nearest.reach[0] > 0
    assert (nearest.owner == 0).sum() == 0
    assert (nearest.owner == -1).sum() > 5_000


def test_returns_thin_out_with_distance() -> None:
    dark = Shape()
    dark.box((0, 0, 5), (1, 40, 10), Material(0.15, (0, 0, 0)))
    counts = []
    for distance in (15.0, 70.0):
        sweep = _scan(_placed((dark, (distance, 0.0, 0.0, 0.0))), 1)
        counts.append((sweep.owner == 0).sum() / sweep.hits[0])
    assert counts[0] > 0.8 > counts[1] + 0.1


def test_porous_surfaces_let_rays_pass() -> None:
    mesh = Shape()
    mesh.box((0, 0, 2), (0.1, 12, 4), Material(0.8, (0, 0, 0), porosity=0.5))
    sweep = _scan(_placed((_box((2, 4, 2)), (20.0, 0.0, 0.0, 0.0)), (mesh, (10.0, 0.0, 0.0, 0.0))), 2)
    assert sweep.hits[0] / sweep.reach[0] == pytest.approx(0.5, abs=0.1)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2), st.floats(-3, 3), st.floats(0.3, 4), st.floats(0.3, 4), st.floats(0.3, 3), st.floats(0.0, 1.2)
)
def test_hits_lie_on_the_surface_and_normals_face_the_ray(
    kind: int, yaw: float, length: float, width: float, height: float, taper: float
) -> None:
    shape = Shape()
    size = (length, width, height)
    if kind == 0:
        shape.box((0, 0, height / 2), size, PLAIN)
    elif kind == 1:
        shape.ellipsoid((0, 0, height / 2), size, PLAIN)
    else:
        shape.frustum((0, 0, height / 2), size, PLAIN, taper=taper)
    placed = _placed((shape, (9.0, 2.0, 0.0, yaw)))
    rng = np.random.default_rng(0)
    aim = np.array([9.0, 2.0, height / 2]) + rng.uniform(-0.6, 0.6, (300, 3)) * np.array(size)
    origin = np.array([0.0, 0.0, 1.5])
    ray = (aim - origin).astype(np.float32)
    t = intersect(placed, origin, np.zeros(300, np.int32), (ray[:, 0], ray[:, 1], ray[:, 2]))
    hit = np.isfinite(t)
    assert hit.any()
    point = origin + t[hit, None].astype(np.float64) * ray[hit]
    delta = point - placed.centre[0]
    local = np.stack(
        [
            np.cos(yaw) * delta[:, 0] + np.sin(yaw) * delta[:, 1],
            np.cos(yaw) * delta[:, 1] - np.sin(yaw) * delta[:, 0],
            delta[:, 2],
        ],
        axis=1,
    )
    scaled = np.abs(local) / placed.table.half[0]
    wide = np.maximum(1.0, taper) if kind == 2 else 1.0
    assert (scaled[:, :2] <= wide + 1e-2).all() and (scaled[:, 2] <= 1 + 1e-2).all()
    normal = normals(placed, np.zeros(len(point), np.int32), point)
    assert np.allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)
    assert ((normal * ray[hit]).sum(axis=1) <= 0.12 * np.linalg.norm(ray[hit], axis=1)).mean() > 0.95


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_fills_its_box_and_stays_inside(name: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        size = CLASSES[name].draw(rng)
        shape = CLASSES[name].shape(size, rng)
        low = np.array(shape.centre) - np.array(shape.half)
        high = np.array(shape.centre) + np.array(shape.half)
        limit = np.array([size[0] / 2, size[1] / 2, size[2]])
        assert (high <= limit * 1.12 + 0.06).all(), (name, high.max(axis=0), limit)
        assert (low[:, :2] >= -limit[:2] * 1.12 - 0.06).all() and (low[:, 2] >= -0.05).all()
        assert high[:, 2].max() > 0.9 * size[2]


def test_road_coordinates_invert_each_other() -> None:
    for curvature in (0.0, 0.006, -0.005):
        road = Road(10.0, -4.0, 0.8, curvature, 6.0, 1)
        s, d = np.meshgrid(np.linspace(-60, 120, 15), np.linspace(-20, 20, 9))
        pose = road.pose(s, d)
        back_s, back_d = road.locate(pose[..., 0], pose[..., 1])
        assert np.allclose(back_s, s, atol=1e-6) and np.allclose(back_d, d, atol=1e-6)


def test_visibility_levels_are_those_of_nuscenes() -> None:
    assert [visibility_level(f) for f in (0.0, 0.4, 0.5, 0.7, 0.9)] == ["1", "1", "2", "3", "4"]


def test_quaternions_give_back_the_mounts_rotation() -> None:
    for mount in CAMERAS:
        w, x, y, z = quaternion(mount.rotation())
        rebuilt = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        assert np.allclose(rebuilt, mount.rotation(), atol=1e-9)
