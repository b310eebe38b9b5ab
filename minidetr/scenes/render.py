"""Construction-site scenes drawn by code from a seed, with exact panoptic truth: data to learn from without a download.

A scene is a flat ground seen by a camera above it. Everything is measured in metres: a point on the ground at depth `z` lies
`camera_height * focal / z` below the horizon, and one metre there is `focal / z` long (both as fractions of the image). Near
things are therefore large and low in the image, far ones small and close to the horizon, and painting from far to near makes them
occlude each other. Every shape goes into the colour image and the id map at once, so the truth is exact by construction.
Colours are shared between the classes on purpose: shape and place have to tell a yellow excavator from a yellow crane.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from minidetr.errors import InputError
from minidetr.panoptic import boxes_of_ids
from minidetr.presets import SCENE_SIZE
from minidetr.scenes.canvas import LIGHTS, SUPERSAMPLING, Canvas, Item, pick
from minidetr.scenes.painters import (
    BUILDING,
    DEPTHS,
    EXCAVATOR,
    FOOTPRINTS,
    GROUND,
    GROUNDS,
    PAINTERS,
    SKY,
    VEGETATION,
    WORKER,
)

VERSION = 2  # of the pictures: counts up when a seed's scene changes, so that stored scenes are rendered again
SMALLEST_VISIBLE = 0.001  # a thing that shows less than this share of the image is left out


@dataclass
class Scene:
    """A rendered scene and its truth.

    `image` H x W x 3 uint8; `segment_ids` H x W int32, every pixel in a segment (no void); `segments_info` one COCO dict per
    segment: id, category_id, area (pixels), bbox (x, y, width, height in pixels), iscrowd. Stuff has its category id as
    segment id; things count on from there, from far to near.
    """

    image: np.ndarray
    segment_ids: np.ndarray
    segments_info: list[dict]


@lru_cache(maxsize=2)
def noise_tile(smoothness: float) -> np.ndarray:
    """512 x 512 noise that repeats without a seam, mean 0, standard deviation 1: white (smoothness 0) or cloudy (1.2)."""
    spectrum = np.fft.rfft2(np.random.Generator(np.random.PCG64(0)).random((512, 512)))
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None])
    spectrum[0, 0], frequency[0, 0] = 0, 1
    noise = np.fft.irfft2(spectrum / frequency**smoothness)
    return (noise / noise.std()).astype(np.float32)


def noise(rows: np.ndarray, columns: np.ndarray, smoothness: float = 1.2) -> np.ndarray:
    """The noise at the given places of the endless tile (arrays that broadcast to H x W)."""
    tile, row, column = noise_tile(smoothness), np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    down, right = (rows - row).astype(np.float32), (columns - column).astype(np.float32)  # between four entries: bilinear
    top, bottom, left, beside = row % 512, (row + 1) % 512, column % 512, (column + 1) % 512
    upper = tile[top, left] * (1 - right) + tile[top, beside] * right
    return upper * (1 - down) + (tile[bottom, left] * (1 - right) + tile[bottom, beside] * right) * down


class View:
    """Light, camera and everything that a seed decides about a scene, for an image of `height` x `width` pixels."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.height, self.width, self.unit = height, width, min(height, width)
        self.light = LIGHTS[rng.integers(len(LIGHTS))]
        self.horizon, self.camera_height, self.focal = rng.uniform(0.34, 0.52), rng.uniform(1.9, 3.4), rng.uniform(0.95, 1.35)
        self.ground, self.offset = np.array(pick(rng, GROUNDS)), rng.integers(0, 512, 6)
        self.roughness, self.sun = rng.uniform(0.05, 0.14), rng.uniform(-1, 1)
        self.exposure, self.contrast, self.cast = rng.uniform(0.8, 1.15), rng.uniform(0.85, 1.2), rng.uniform(0.94, 1.06, 3)
        self.grain = rng.uniform(0.005, 0.03)
        things = int(rng.integers(2, 8))
        slots = np.argsort(rng.random(things))  # spread over the width, so that few hide each other completely
        self.items = [self._item(rng, int(rng.integers(EXCAVATOR, WORKER + 1)), (slot + rng.random()) / things) for slot in slots]
        for category_id, most in ((BUILDING, 4), (VEGETATION, 5)):
            self.items += [self._item(rng, category_id, rng.uniform(-0.05, 1.05)) for _ in range(rng.integers(0, most + 1))]
        self.items.sort(key=lambda item: -item.depth)

    def _item(self, rng: np.random.Generator, category_id: int, across: float) -> Item:
        nearest, far = DEPTHS[category_id]
        near = max(nearest, self.camera_height * self.focal / (0.96 - self.horizon))  # its foot stays in the image
        depth = near * (max(far, near) / near) ** rng.random()  # as many between 4 and 8 m as between 8 and 16 m
        return Item(category_id, across, depth, int(rng.integers(2**31)))

    def foot(self, item: Item) -> tuple[float, float]:
        """Where it touches the ground, in pixels of the canvas."""
        down = self.horizon + self.camera_height * self.focal / item.depth
        return SUPERSAMPLING * self.width * item.across, SUPERSAMPLING * self.height * down

    def pixels_per_metre(self, item: Item) -> float:
        """How long a metre is at the item's depth, in pixels of the canvas."""
        return SUPERSAMPLING * self.unit * self.focal / item.depth

    def background(self) -> tuple[np.ndarray, np.ndarray]:
        """Sky with clouds over ground in perspective: colours H x W x 3 float32 and ids H x W uint8."""
        line = round(self.height * self.horizon)
        rows = (np.arange(self.height, dtype=np.float32)[:, None] + 0.5) / self.height
        columns = ((np.arange(self.width, dtype=np.float32) + 0.5)[None] - self.width / 2) / self.unit
        up, down = rows[:line], rows[line:]
        haze, zenith = np.array(self.light.haze, np.float32), np.array(self.light.zenith, np.float32)
        fade = ((1 - up / self.horizon).clip(0) ** 0.7)[..., None]
        sky = haze + (zenith - haze) * fade
        distance = 0.25 / (self.horizon - up + 0.12)
        cloud = noise(self.offset[0] + 160 * distance, self.offset[1] + 120 * columns * distance)
        cloud = (cloud * 0.5 + 0.15).clip(0, 1)[..., None] * self.light.clouds * (0.25 + 0.75 * fade)
        sky = sky + (np.array([244, 242, 240], np.float32) * np.array(self.light.tint, np.float32) - sky) * cloud.clip(0, 1)
        depth = (self.camera_height * self.focal / (down - self.horizon).clip(1e-3)).clip(0, 300)
        across = columns * depth / self.focal
        bumps = noise(self.offset[2] + 22 * depth, self.offset[3] + 22 * across)
        bumps += 0.6 * noise(self.offset[4] + 3 * depth, self.offset[5] + 3 * across)
        tracks = np.abs((across + 0.06 * depth * self.sun + 2.2 * self.sun) % 9 - 4.5)  # pairs of ruts that run away from us
        worn = noise(self.offset[0] + 9 * depth, self.offset[1] + 9 * across) > -0.4
        ruts = 0.13 * (worn & (np.abs(tracks - 0.9) < 0.25))
        relief = 1 + self.roughness * bumps - ruts
        ground = self.ground.astype(np.float32) * relief[..., None]
        ground = haze + (ground - haze) * np.exp(-depth / self.light.visibility)[..., None]
        ids = np.full((self.height, self.width), GROUND, np.uint8)
        ids[:line] = SKY
        return np.concatenate([np.broadcast_to(sky, (line, self.width, 3)), ground]), ids

    def shadows(self) -> np.ndarray:
        """How much light the ground loses, H x W x 1 in 0..1: a soft spot under each thing, drawn away from the sun."""
        layer = Image.new("L", (self.width, self.height))
        pen = ImageDraw.Draw(layer)
        for item in self.items:
            (x, y), metre = (v / SUPERSAMPLING for v in self.foot(item)), self.pixels_per_metre(item) / SUPERSAMPLING
            half, slip = FOOTPRINTS[item.category_id] * metre * 1.15, self.sun * FOOTPRINTS[item.category_id] * metre
            deep = max(1.0, 0.16 * half)
            pen.ellipse([round(v) for v in (x - half + slip, y - deep, x + half + slip, y + deep)], fill=255)
        layer = layer.filter(ImageFilter.GaussianBlur(self.unit / 90))
        return np.asarray(layer, np.float32)[..., None] / 255 * self.light.shadow

    def paint(self) -> tuple[np.ndarray, np.ndarray, dict[int, Item]]:
        """Draw everything: image H x W x 3 uint8, ids H x W int32, and which thing has which id."""
        colours, ids = self.background()
        colours *= 1 - self.shadows() * (ids == GROUND)[..., None]
        layers = colours.clip(0, 255).astype(np.uint8), ids
        colours, ids = (layer.repeat(SUPERSAMPLING, 0).repeat(SUPERSAMPLING, 1) for layer in layers)
        canvas = Canvas(colours, ids, self.light.haze, self.light.visibility)
        things: dict[int, Item] = {}
        for item in self.items:
            segment_id = item.category_id
            if item.category_id > VEGETATION:
                segment_id = VEGETATION + 1 + len(things)
                things[segment_id] = item
            facing, rng = looks_of(item)
            canvas.place(segment_id, self.foot(item), self.pixels_per_metre(item), facing, item.depth)
            PAINTERS[item.category_id](canvas, rng)
        image = np.asarray(canvas.image.reduce(SUPERSAMPLING), np.float32)
        nearest = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
        segment_ids = np.asarray(canvas.ids)[nearest, nearest].astype(np.int32)
        return self.develop(image, segment_ids), segment_ids, things

    def develop(self, image: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
        """Texture, light and camera: H x W x 3 float32 in 0..255 -> uint8."""
        y, x = np.arange(self.height)[:, None], np.arange(self.width)[None]
        rough = np.full(256, 0.04, np.float32)  # things are a little dirty
        rough[[SKY, GROUND, BUILDING, VEGETATION]] = 0.0, 0.02, 0.04, 0.16
        texture = noise(self.offset[3] + 500 / self.unit * y, self.offset[2] + 500 / self.unit * x) * rough[segment_ids]
        texture += noise(self.offset[1] + y, self.offset[0] + x, smoothness=0.0) * self.grain  # the sensor's noise
        corner = ((y / self.height - 0.5) ** 2 + (x / self.width - 0.5) ** 2) * 0.22
        white = np.array(self.light.tint, np.float32) * self.cast * self.exposure
        gain = ((1 + texture - corner)[..., None] * white).astype(np.float32)
        return (128 + (image * gain - 128) * np.float32(self.contrast)).clip(0, 255).astype(np.uint8)


def looks_of(item: Item) -> tuple[int, np.random.Generator]:
    """Which way an item faces (+1: right), and the random numbers from which its painter draws its looks."""
    rng = np.random.Generator(np.random.PCG64(item.seed))
    return 1 if rng.random() < 0.5 else -1, rng


def render_scene(seed: int, height: int = SCENE_SIZE, width: int = SCENE_SIZE) -> Scene:
    """Render one construction site, `height` x `width` pixels; the same seed gives the same site on every machine.

    Pillow 12 fills some polygons by a pixel otherwise than 10 and 11 do; apart from that, id maps are equal to the last pixel.
    Two to seven things. A thing that shows less than 0.1 % of the image is left out and the scene painted again without it.
    Raises InputError for a negative seed or a side under 32 pixels.
    """
    if seed < 0 or min(height, width) < 32:
        raise InputError(f"render_scene needs a seed >= 0 and sides of at least 32 pixels, but got seed {seed}, {height} x {width}")
    _, (image, segment_ids, things) = settled(seed, height, width)
    ids = np.unique(segment_ids)
    areas, boxes = boxes_of_ids(segment_ids, ids)
    info = []
    for i, area, box in zip(ids.tolist(), areas.tolist(), boxes.tolist(), strict=True):
        category_id = things[i].category_id if i in things else i
        info.append({"id": i, "category_id": category_id, "area": area, "bbox": box, "iscrowd": 0})
    return Scene(image, segment_ids, info)


def settled(seed: int, height: int, width: int) -> tuple[View, tuple[np.ndarray, np.ndarray, dict[int, Item]]]:
    """The view of a seed without the things that would hardly be seen, and what it paints."""
    attempt = 0
    view = View(np.random.Generator(np.random.PCG64([seed, attempt])), height, width)
    while True:
        painted = view.paint()
        _, segment_ids, things = painted
        areas = np.bincount(segment_ids.ravel(), minlength=VEGETATION + 1 + len(things))
        hidden = [item for segment_id, item in things.items() if areas[segment_id] < SMALLEST_VISIBLE * height * width]
        if not hidden and len(things) >= 2:
            return view, painted
        view.items = [item for item in view.items if item not in hidden]
        if len(things) - len(hidden) < 2:  # nearly empty: another site for the same seed
            attempt += 1
            view = View(np.random.Generator(np.random.PCG64([seed, attempt])), height, width)
