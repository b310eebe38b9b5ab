"""The ten classes of a scene, and one painter for each that stands on the ground: things first, then stuff.

A painter draws one thing in metres, seen from the side and facing right; its foot is at (0, 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minidetr.panoptic import Category
from minidetr.scenes.canvas import Canvas, Colour, pick, shade, turned

CATEGORIES: tuple[Category, ...] = (  # colours: Okabe-Ito's and Tol's, which colour-blind readers can tell apart
    Category(1, "sky", False, (86, 180, 233)),
    Category(2, "ground", False, (187, 170, 120)),
    Category(3, "building", False, (150, 150, 150)),
    Category(4, "vegetation", False, (0, 158, 115)),
    Category(5, "excavator", True, (240, 228, 66)),
    Category(6, "dump truck", True, (0, 114, 178)),
    Category(7, "tower crane", True, (213, 94, 0)),
    Category(8, "traffic cone", True, (230, 159, 0)),
    Category(9, "brick stack", True, (136, 34, 85)),
    Category(10, "worker", True, (204, 121, 167)),
)
SKY, GROUND, BUILDING, VEGETATION, EXCAVATOR, TRUCK, CRANE, CONE, BRICKS, WORKER = (c.id for c in CATEGORIES)
PAINTS: tuple[Colour, ...] = (  # machines, and sometimes cones, vests, helmets and walls
    (240, 185, 25), (232, 118, 28), (196, 48, 38), (44, 92, 170), (226, 226, 220), (62, 132, 70), (120, 124, 128), (245, 214, 60),
)  # fmt: skip
VESTS: tuple[Colour, ...] = ((238, 110, 30), (225, 230, 50), (200, 45, 45), (50, 95, 180), (60, 140, 75), (235, 180, 40))
BRICK_PAINTS: tuple[Colour, ...] = ((166, 78, 56), (190, 104, 66), (206, 172, 112), (150, 146, 140), (214, 208, 196), (118, 66, 52))
GROUNDS: tuple[Colour, ...] = ((150, 118, 82), (186, 156, 112), (160, 98, 66), (150, 148, 142), (118, 104, 88), (140, 134, 92))
LEAVES: tuple[Colour, ...] = ((66, 112, 52), (88, 126, 48), (48, 92, 62), (140, 128, 52), (176, 112, 44))
WALLS: tuple[Colour, ...] = (
    (176, 172, 164), (206, 192, 166), (168, 96, 74), (128, 146, 162), (214, 210, 204), (198, 168, 104), (120, 122, 126),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((236, 196, 164), (200, 150, 112), (140, 94, 66), (92, 62, 46))
TROUSERS: tuple[Colour, ...] = ((52, 62, 92), (70, 66, 60), (96, 88, 70), (210, 110, 40))
DARK, METAL, GLASS, WOOD = (44, 44, 48), (150, 152, 156), (96, 122, 140), (164, 128, 84)


# Things.


def excavator(canvas: Canvas, rng: np.random.Generator) -> None:
    """Tracks with rollers, a house with counterweight and cab, and an arm of boom, stick and bucket in some pose."""
    paint = pick(rng, PAINTS)
    canvas.polygon([(-2.0, 0.25), (-1.7, 0), (1.7, 0), (2.0, 0.25), (2.0, 0.65), (1.7, 0.9), (-1.7, 0.9), (-2.0, 0.65)], DARK)
    canvas.rectangle(-1.6, 0.22, 1.6, 0.68, shade(DARK, 1.7))
    for x in (-1.5, -0.75, 0.0, 0.75, 1.5):
        canvas.ellipse(x, 0.42, 0.27, 0.27, shade(METAL, 0.62))
        canvas.ellipse(x, 0.42, 0.11, 0.11, DARK)
    canvas.rectangle(-0.8, 0.88, 0.8, 1.1, shade(DARK, 1.3))
    shoulder, lift = (0.75, 1.65), rng.uniform(0.5, 1.1)
    elbow = turned([(3.7, 0)], lift, shoulder)[0]
    knee = turned([(1.9, 0.62)], lift, shoulder)[0]
    reach = lift - rng.uniform(1.25, 2.5)
    wrist = turned([(2.3, 0)], reach, elbow)[0]
    curl = reach - rng.uniform(-0.5, 0.9)
    canvas.bar(turned([(-0.45, 0.12)], reach, elbow)[0], wrist, 0.5, shade(paint, 0.86), 0.3)
    bucket = [(-0.25, 0.2), (0.25, 0.3), (0.95, -0.1), (1.05, -0.55), (0.55, -0.85), (-0.1, -0.7), (0.3, -0.25)]
    canvas.polygon(turned(bucket, curl, wrist), shade(METAL, 0.55))
    canvas.bar(shoulder, knee, 0.5, paint, 0.62)
    canvas.bar(knee, elbow, 0.62, shade(paint, 1.05), 0.42)
    for joint, size in ((knee, 0.31), (elbow, 0.26), (wrist, 0.17)):
        canvas.ellipse(*joint, size, size, shade(paint, 0.95))
    canvas.bar((1.05, 1.3), turned([(1.7, 0.4)], lift, shoulder)[0], 0.16, METAL)
    canvas.bar(knee, turned([(-0.4, 0.2)], reach, elbow)[0], 0.14, METAL)
    canvas.polygon([(-2.2, 1.15), (-2.3, 1.7), (-2.1, 2.15), (-1.2, 2.25), (1.15, 2.0), (1.15, 1.08), (-1.9, 1.08)], paint)
    canvas.polygon([(-2.2, 1.15), (-2.3, 1.7), (-2.1, 2.15), (-1.55, 2.21), (-1.55, 1.08), (-1.9, 1.08)], shade(paint, 0.66))
    for x in (-1.3, -1.05, -0.8):
        canvas.rectangle(x, 1.45, x + 0.13, 1.9, shade(paint, 0.5))
    canvas.polygon([(-0.25, 1.1), (-0.25, 2.85), (0.75, 2.85), (1.2, 2.0), (1.2, 1.1)], shade(paint, 0.92))
    canvas.polygon([(-0.1, 1.75), (-0.1, 2.68), (0.66, 2.68), (1.05, 1.95), (1.05, 1.75)], GLASS)
    canvas.polygon([(0.1, 1.75), (0.4, 2.68), (0.55, 2.68), (0.25, 1.75)], shade(GLASS, 1.4))
    canvas.rectangle(-0.3, 2.82, 0.82, 2.95, shade(paint, 0.55))


def dump_truck(canvas: Canvas, rng: np.random.Generator) -> None:
    """Three axles, a cab with a windscreen, and a ribbed bed, flat or tipped, sometimes with a load."""
    paint = pick(rng, PAINTS)
    bed = paint if rng.random() < 0.5 else pick(rng, PAINTS)
    tip = rng.uniform(0.25, 0.75) if rng.random() < 0.35 else 0.0
    canvas.rectangle(-3.3, 0.75, 3.3, 1.1, shade(DARK, 1.2))
    hinge = (-3.2, 1.15)
    if tip:
        canvas.bar((0.3, 1.0), turned([(3.4, 0.1)], tip, hinge)[0], 0.2, METAL)
    if rng.random() < 0.65:
        heap = [(0.1, 1.2), (1.1, 1.75), (2.2, 2.0 + rng.uniform(0, 0.5)), (3.4, 1.8), (4.3, 1.2)]
        canvas.polygon(turned(heap, tip, hinge), pick(rng, GROUNDS))
    canvas.polygon(turned([(-0.15, 0.35), (0.3, 0), (4.35, 0), (4.55, 0.25), (4.55, 1.45), (-0.35, 1.45)], tip, hinge), bed)
    canvas.polygon(turned([(-0.35, 1.3), (4.55, 1.3), (4.55, 1.5), (-0.35, 1.5)], tip, hinge), shade(bed, 1.15))
    for x in (0.4, 1.35, 2.3, 3.25, 4.2):
        canvas.polygon(turned([(x, 0.02), (x + 0.16, 0.02), (x + 0.16, 1.32), (x, 1.32)], tip, hinge), shade(bed, 0.68))
    if not tip:
        canvas.polygon([(1.3, 2.6), (2.3, 2.75), (2.3, 2.9), (1.3, 2.75)], shade(bed, 0.8))
    canvas.polygon([(1.55, 0.6), (1.55, 2.75), (2.9, 2.75), (3.25, 1.8), (3.4, 1.7), (3.4, 0.55)], paint)
    canvas.polygon([(1.9, 1.75), (1.9, 2.55), (2.75, 2.55), (3.05, 1.75)], GLASS)
    canvas.polygon([(2.2, 1.75), (2.45, 2.55), (2.6, 2.55), (2.35, 1.75)], shade(GLASS, 1.4))
    canvas.rectangle(1.75, 0.7, 1.85, 2.6, shade(paint, 0.7))
    canvas.rectangle(3.05, 0.95, 3.42, 1.2, (236, 230, 200))
    canvas.rectangle(2.9, 0.45, 3.5, 0.72, shade(DARK, 1.6))
    for x in (-2.6, -1.35, 2.3):
        canvas.ellipse(x, 0.58, 0.58, 0.58, DARK)
        canvas.ellipse(x, 0.58, 0.28, 0.28, METAL)
        canvas.ellipse(x, 0.58, 0.1, 0.1, shade(METAL, 0.5))


def lattice(canvas: Canvas, start: tuple[float, float], end: tuple[float, float], width: float, paint: Colour) -> None:
    """A truss: two chords, zigzag bracing, and between them a half-transparent fill that counts as the thing."""
    length, angle = math.dist(start, end), math.atan2(end[1] - start[1], end[0] - start[0])

    def at(along: float, side: int) -> tuple[float, float]:
        """The point on one of the chords (side 1 or -1), `along` 0..1 of the way."""
        return turned([(along * length, side * width / 2)], angle, start)[0]

    canvas.polygon([at(0, 1), at(1, 1), at(1, -1), at(0, -1)], (*shade(paint, 0.6), 150))
    bays = max(2, round(length / width / 1.2))
    for k in range(bays):
        side = 1 if k % 2 else -1
        canvas.bar(at(k / bays, side), at((k + 1) / bays, -side), width / 9, paint)
    for side in (1, -1):
        canvas.bar(at(0, side), at(1, side), width / 5, shade(paint, 0.95 + 0.1 * side))


def tower_crane(canvas: Canvas, rng: np.random.Generator) -> None:
    """A lattice mast on a concrete foot; on top a cab, a jib with trolley and hook, a counter-jib with its weight, and ties."""
    paint, top, turn = pick(rng, PAINTS), rng.uniform(20, 34), rng.uniform(0.55, 1.0)  # turn: how far the jib is turned to us
    jib, counter, rise = turn * rng.uniform(20, 32), turn * 10, rng.uniform(0, 0.12)
    canvas.polygon([(-2.6, 0), (2.6, 0), (2.2, 1.2), (-2.2, 1.2)], (170, 168, 162))
    lattice(canvas, (0, 1), (0, top), 2.4, paint)
    peak, tip = (0, top + 6.5), (jib, top + 1 + rise * jib)
    for end in ((0.62 * jib, top + 1.5 + 0.62 * rise * jib), (-counter, top + 1.6)):
        canvas.bar(peak, end, 0.25, shade(DARK, 1.4))
    canvas.bar((-0.9, top), peak, 0.7, paint, 0.4)
    canvas.bar((0.9, top), peak, 0.7, shade(paint, 0.85), 0.4)
    lattice(canvas, (0, top + 1), tip, 2.0, paint)
    canvas.rectangle(-counter, top + 0.5, 0, top + 1.5, shade(paint, 0.85))
    canvas.rectangle(-counter, top - 1.8, -counter + 2.6 * turn, top + 1.7, (164, 162, 158))
    canvas.rectangle(0.8, top - 1.9, 2.9, top + 0.5, (214, 214, 210))
    canvas.rectangle(1.7, top - 1.2, 2.7, top + 0.1, GLASS)
    along = rng.uniform(0.35, 0.95)
    x, y = along * jib, top + along * rise * jib
    drop = y - rng.uniform(5, 0.6 * top)
    canvas.bar((x, y), (x, drop), 0.2, DARK)
    canvas.rectangle(x - 0.7, drop - 1.1, x + 0.7, drop, shade(paint, 0.75))
    if rng.random() < 0.5:
        canvas.rectangle(x - 2.4 * turn, drop - 2.6, x + 2.4 * turn, drop - 1.4, pick(rng, BRICK_PAINTS))


def traffic_cone(canvas: Canvas, rng: np.random.Generator) -> None:
    """A slim cone with reflecting stripes on a square base, lit from one side."""
    paint = pick(rng, PAINTS[:2] * 2 + PAINTS)
    band = (240, 238, 232) if min(paint) < 180 else (214, 92, 36)
    tall, wide, lean = rng.uniform(0.68, 0.95), rng.uniform(0.15, 0.21), rng.uniform(-0.05, 0.05)

    def ring(low: float, high: float, left: float, right: float, colour: Colour) -> None:
        """The part of the cone between two heights (0..1), from `left` to `right` (-1..1)."""
        a, b = wide + (0.035 - wide) * low, wide + (0.035 - wide) * high  # half as wide as the cone there
        foot, head = 0.05 + low * (tall - 0.05), 0.05 + high * (tall - 0.05)
        lowest = (lean * low + (left + right) / 2 * a, foot - 0.12 * a)  # an arc: we look down on a round cone
        upper = [(lean * high + right * b, head), (lean * high + left * b, head)]
        canvas.polygon([(lean * low + left * a, foot), lowest, (lean * low + right * a, foot), *upper], colour)

    base = shade(paint, 0.7) if rng.random() < 0.6 else DARK
    canvas.polygon([(-1.5 * wide, -0.04), (1.5 * wide, -0.04), (1.3 * wide, 0.07), (-1.3 * wide, 0.07)], base)
    canvas.rectangle(-1.5 * wide, -0.08, 1.5 * wide, -0.04, shade(base, 0.7))
    bands = ((0.3, 0.5), (0.66, 0.82)) if rng.random() < 0.6 else ((0.42, 0.68),)
    for left, right, light in ((-1, 1, 1.0), (0.3, 1, 0.78), (-1, -0.55, 1.12)):
        ring(0, 1, left, right, shade(paint, light))
        for low, high in bands:
            ring(low, high, left, right, shade(band, light))
    canvas.ellipse(lean, tall, 0.035, 0.015, shade(paint, 0.5))


def brick_stack(canvas: Canvas, rng: np.random.Generator) -> None:
    """Courses of bricks on a wooden pallet, seen over a corner, the top course perhaps not full."""
    paint, courses, columns = pick(rng, BRICK_PAINTS), int(rng.integers(4, 9)), int(rng.integers(3, 6))
    wide, deep, lift, thick = 1.3, rng.uniform(0.3, 0.6), rng.uniform(0.08, 0.16), 0.135

    def face(x: float, low: float, near: float, far: float, joint: float, colour: Colour) -> None:
        """A brick of the side that runs away from us, from `near` to `far` (0..1) of its depth."""
        a, b, c, d = x + near * deep, x + far * deep, low + near * lift, low + far * lift
        canvas.polygon([(a, c + joint), (b, d + joint), (b, d + thick - joint), (a, c + thick - joint)], colour)

    for x in (-0.65, -0.06, 0.53):
        canvas.rectangle(x, 0, x + 0.12, 0.13, shade(WOOD, 0.7))
    canvas.polygon([(0.65, 0), (0.65 + deep, lift), (0.65 + deep, lift + 0.13), (0.65, 0.13)], shade(WOOD, 0.5))
    canvas.rectangle(-0.68, 0.1, 0.68, 0.16, WOOD)
    missing = int(rng.integers(0, columns))
    for course in range(courses):
        count = columns - missing if course == courses - 1 else columns
        low, right = 0.16 + course * thick, -0.65 + count * wide / columns
        canvas.rectangle(-0.65, low, right, low + thick, shade(paint, 0.55))  # the joints
        face(right, low, 0, 1, 0, shade(paint, 0.45))
        top = low + thick
        canvas.polygon([(-0.65, top), (right, top), (right + deep, top + lift), (-0.65 + deep, top + lift)], shade(paint, 1.2))
        edges = [min(max(k - 0.5 * (course % 2), 0), count) * wide / columns - 0.65 for k in range(count + 2)]
        for left, end in zip(edges[:-1], edges[1:], strict=True):
            if end - left > 0.02:
                canvas.rectangle(left + 0.012, low + 0.014, end - 0.012, low + thick - 0.014, shade(paint, rng.uniform(0.82, 1.1)))
        for near, far in ((0.025, 0.46), (0.525, 0.96)):
            face(right, low, near, far, 0.014, shade(paint, rng.uniform(0.58, 0.74)))


POSES = (  # of a worker: both elbows, then both hands
    (((0.27, 1.12), (-0.28, 1.12)), ((0.25, 0.85), (-0.2, 0.85))),  # standing
    (((0.22, 1.12), (-0.32, 1.15)), ((0.3, 0.95), (-0.3, 0.9))),  # walking
    (((0.42, 1.42), (-0.3, 1.12)), ((0.5, 1.75), (-0.25, 0.85))),  # waving
    (((0.2, 1.08), (-0.12, 1.1)), ((0.38, 1.0), (0.28, 1.2))),  # with a shovel
)


def worker(canvas: Canvas, rng: np.random.Generator) -> None:
    """A person with boots, trousers, vest with reflecting stripes and helmet; standing, walking, waving or with a shovel."""
    vest, helmet, skin, trousers = pick(rng, VESTS), pick(rng, PAINTS), pick(rng, SKINS), pick(rng, TROUSERS)
    sleeve = shade(vest, 0.85) if rng.random() < 0.5 else pick(rng, TROUSERS)
    stride, pose = rng.uniform(0.02, 0.32), int(rng.integers(4))
    elbows, hands = POSES[pose]
    canvas.bar((-0.16, 1.4), elbows[1], 0.12, shade(sleeve, 0.8))
    canvas.bar(elbows[1], hands[1], 0.1, shade(sleeve, 0.8))
    for side, light in ((-1, 0.78), (1, 1.0)):
        foot = (side * (0.08 + stride), 0.08)
        joint = (side * (0.09 + 0.5 * stride) + 0.3 * stride, 0.5)
        canvas.bar((side * 0.08, 0.95), joint, 0.19, shade(trousers, light), 0.16)
        canvas.ellipse(*joint, 0.08, 0.08, shade(trousers, light))
        canvas.bar(joint, foot, 0.16, shade(trousers, light), 0.12)
        canvas.polygon([(foot[0] - 0.08, 0), (foot[0] + 0.18, 0), (foot[0] + 0.14, 0.1), (foot[0] - 0.07, 0.14)], DARK)
    canvas.polygon([(-0.17, 0.88), (0.17, 0.88), (0.22, 1.4), (0.12, 1.5), (-0.12, 1.5), (-0.22, 1.4)], vest)
    canvas.polygon([(0.06, 0.88), (0.17, 0.88), (0.22, 1.4), (0.12, 1.5), (0.07, 1.5)], shade(vest, 0.84))
    stripe = (232, 232, 220)
    canvas.rectangle(-0.19, 1.0, 0.19, 1.06, stripe)
    for x in (-0.13, 0.08):
        canvas.rectangle(x, 1.06, x + 0.05, 1.48, stripe)
    if pose == 3:
        canvas.bar((0.5, 0.3), (0.2, 1.45), 0.05, WOOD)
        canvas.polygon([(0.42, 0.32), (0.58, 0.36), (0.66, 0.08), (0.54, 0.0), (0.46, 0.06)], METAL)
    canvas.bar((0.17, 1.4), elbows[0], 0.12, sleeve)
    canvas.ellipse(*elbows[0], 0.055, 0.055, sleeve)
    canvas.bar(elbows[0], hands[0], 0.1, sleeve)
    for x, y in hands:
        canvas.ellipse(x, y, 0.06, 0.06, skin)
    canvas.rectangle(-0.05, 1.45, 0.06, 1.56, shade(skin, 0.8))
    canvas.ellipse(0.01, 1.62, 0.105, 0.13, skin)
    dome = [(-0.14, 1.66), (-0.12, 1.76), (-0.05, 1.83), (0.05, 1.83), (0.12, 1.77), (0.14, 1.68), (0.21, 1.66), (0.2, 1.64)]
    canvas.polygon(dome, helmet)
    canvas.polygon([(-0.02, 1.7), (-0.03, 1.82), (0.03, 1.84), (0.03, 1.7)], shade(helmet, 1.15))


# Stuff that stands on the ground.


def building(canvas: Canvas, rng: np.random.Generator) -> None:
    """A block with rows of windows, a house with a roof, or the concrete frame of a house to be."""
    wall, kind = pick(rng, WALLS), int(rng.integers(3))
    floors, bays, storey = int(rng.integers(2, 9)) if kind else int(rng.integers(2, 4)), int(rng.integers(3, 8)), 3.2
    half, high = bays * 1.7, floors * storey
    canvas.rectangle(-half, -0.3, half, high, wall)
    side = rng.uniform(1.5, 5)
    canvas.polygon([(half, -0.3), (half + side, 0), (half + side, 0.97 * high), (half, high)], shade(wall, 0.7))
    if kind == 0:
        roof = [(-half - 0.6, high), (half + 0.5, high), (half - 2, high + 3.6), (-half + 2, high + 3.6)]
        canvas.polygon(roof, pick(rng, BRICK_PAINTS))
    pane = pick(rng, (GLASS, shade(GLASS, 0.6), (190, 204, 214)))
    if kind == 2:  # under construction: one can look into the floors
        pane = shade(wall, 0.42)
        for column in range(bays + 1):
            x = -half + 0.6 + column * (2 * half - 1.2) / bays
            canvas.bar((x, high), (x, high + 1.4), 0.25, shade(wall, 0.6))
    inset = 0.2 if kind == 2 else rng.uniform(0.5, 0.9)
    for row in range(floors):
        for column in range(bays):
            left, low, colour = -half + column * 3.4, row * storey, shade(pane, rng.uniform(0.75, 1.2))
            canvas.rectangle(left + inset, low + 0.3 + inset, left + 3.4 - inset, low + storey - 0.25, colour)


def vegetation(canvas: Canvas, rng: np.random.Generator) -> None:
    """A group of trees or bushes: trunks and blobs of leaves, the lower ones in the shade."""
    leaf = pick(rng, LEAVES)
    for _ in range(int(rng.integers(1, 5))):
        middle, size, tree = rng.uniform(-8, 8), rng.uniform(1.2, 3.6), rng.random() < 0.7
        trunk = size * rng.uniform(0.8, 1.6) if tree else 0.1
        canvas.bar((middle, -0.1), (middle, trunk + size), 0.35, (92, 72, 54), 0.2)
        for k in range(14):
            angle, far = rng.uniform(0, 2 * math.pi), size * math.sqrt(rng.random()) * 0.75
            x, y = middle + far * math.cos(angle) * (1.0 if tree else 1.6), trunk + size * 0.8 + far * math.sin(angle)
            light = 0.7 + 0.3 * (y - trunk) / size + rng.uniform(-0.12, 0.12) + 0.01 * k
            canvas.ellipse(x, max(y, 0.3 * size), size * rng.uniform(0.28, 0.5), size * rng.uniform(0.24, 0.42), shade(leaf, light))


PAINTERS: dict[int, Callable[[Canvas, np.random.Generator], None]] = {
    BUILDING: building, VEGETATION: vegetation, EXCAVATOR: excavator, TRUCK: dump_truck, CRANE: tower_crane, CONE: traffic_cone,
    BRICKS: brick_stack, WORKER: worker,
}  # fmt: skip
DEPTHS = {  # metres: nearest and farthest
    BUILDING: (60, 160), VEGETATION: (35, 120), EXCAVATOR: (9, 26), TRUCK: (9, 30), CRANE: (65, 120), CONE: (3, 9),
    BRICKS: (4, 14), WORKER: (4, 15),
}  # fmt: skip
FOOTPRINTS = {  # half of the width that throws a shadow, metres
    BUILDING: 12, VEGETATION: 6, EXCAVATOR: 2.4, TRUCK: 3.6, CRANE: 3, CONE: 0.34, BRICKS: 0.95, WORKER: 0.4,
}  # fmt: skip
