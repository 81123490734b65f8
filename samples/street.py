"""Build and render an old square with an arcade, by day or by night.

Everything is modelled and textured by this script, so the pictures need no one else's assets.
By day it writes three renders, OUT_DIR/1 to OUT_DIR/3, between which two people walk on; by night
it writes one, to OUT_DIR. expose.py turns them into exposures:

    blender -b -P samples/street.py -- OUT_DIR day|night [SAMPLES] [WIDTH]

The pictures in square/ and night/ have 24 and 48 samples, at the width of 1200 given by default.
"""
import math
import sys
from pathlib import Path

import bpy
from mathutils import Vector

sys.path.insert(0, str(Path(__file__).resolve().parent))
from materials import (build_sky, bump, coords, drawn, finish, leafy, material, math_node, mix,
                       node, noise_fac, paint, plaster, ramp, rgba, wood)
from output import render
from shapes import (add, add_light, ball, box, gather, grid, lathe, panel, rng, shape, tree_mesh,
                    tube)

# Metres; the arcade's front is at x = 0, its back wall at -ARCADE, the row opposite at WIDE.
WIDE, LONG, ARCADE = 14.0, 36.0, 3.4
BAY, PIER, SPRING, STOREY = 3.6, 0.7, 2.0, 3.9
FLOOR = 0.12  # the arcade's floor above the square
SUN_WAY = Vector((-0.62, -0.42, 0.84)).normalized()
LAMPS = ((4.0, 8.0), (4.0, 18.0), (11.6, 13.0), (11.6, 24.0))
TABLES = ((7.4, 17.6), (9.2, 20.2))
FRUIT = {"orange": ((0.88, 0.25, 0.01), 0.045), "apple": ((0.58, 0.02, 0.02), 0.042),
         "lemon": ((0.88, 0.64, 0.03), 0.038), "lime": ((0.25, 0.50, 0.04), 0.036),
         "plum": ((0.14, 0.02, 0.16), 0.030), "tomato": ((0.75, 0.05, 0.015), 0.044)}


# --- materials ---------------------------------------------------------------------------------

def cobbles(night):
    """Stone setts, dull by day, wet with a few puddles by night."""
    mat, tree = material("cobbles")
    place = coords(tree, scale=(8.5, 8.5, 8.5))
    sett = {"Vector": place, "Scale": 1.0, "Randomness": 0.4}
    tone = node(tree, "TexVoronoi", sett).outputs["Color"]
    pick = node(tree, "SeparateColor", {0: tone}).outputs[0]
    color = ramp(tree, pick, [(0.0, (0.20, 0.175, 0.15)), (1.0, (0.44, 0.39, 0.33))])
    edge = node(tree, "TexVoronoi", sett, feature="DISTANCE_TO_EDGE").outputs["Distance"]
    round_ = ramp(tree, edge, [(0.0, (0, 0, 0)), (0.07, (0.6, 0.6, 0.6)), (0.3, (1, 1, 1))])
    worn = noise_fac(tree, coords(tree), 0.5, 5)
    color = mix(tree, 1.0, color, ramp(tree, worn, [(0.3, (0.7, 0.7, 0.7)), (0.7, (1, 1, 1))]),
                "MULTIPLY")
    color = mix(tree, ramp(tree, edge, [(0.02, (1, 1, 1)), (0.07, (0, 0, 0))]), color,
                rgba((0.07, 0.06, 0.05)))
    grain = math_node(tree, "MULTIPLY", noise_fac(tree, coords(tree), 70, 4), 0.15)
    height = math_node(tree, "ADD", round_, grain)
    if night:
        color = mix(tree, 1.0, color, rgba((0.45, 0.45, 0.45)), "MULTIPLY")
        gloss = ramp(tree, worn, [(0.42, (0.10, 0.10, 0.10)), (0.6, (0.34, 0.34, 0.34))])
        finish(tree, Base_Color=color, Roughness=gloss, Normal=bump(tree, height, 0.5, 0.012))
    else:
        finish(tree, Base_Color=color, Roughness=0.8, Normal=bump(tree, height, 0.9, 0.015))
    return mat


def slabs(name, one, two, wide, deep):
    """Rectangular stones laid in bond; the panel's UVs are in metres."""
    mat, tree = material(name)
    metres = coords(tree, "UV")
    ins = {"Vector": metres, "Color1": rgba(one), "Color2": rgba(two),
           "Mortar": rgba((0.10, 0.09, 0.08)), "Scale": 1.0, "Mortar Size": 0.006,
           "Mortar Smooth": 0.3, "Brick Width": wide, "Row Height": deep}
    stones = node(tree, "TexBrick", ins)
    grain = noise_fac(tree, metres, 9, 8)
    shade = ramp(tree, grain, [(0.25, (0.65, 0.65, 0.65)), (0.75, (1.1, 1.1, 1.1))])
    color = mix(tree, 1.0, stones.outputs["Color"], shade, "MULTIPLY")
    gaps = math_node(tree, "MULTIPLY", stones.outputs["Fac"], -1.0)
    finish(tree, Base_Color=color, Roughness=0.45, Normal=bump(tree, gaps, 0.5, 0.006))
    return mat


def weathered(name, color):
    """Limewash on an old wall: blotches, and streaks where rain has run."""
    mat, tree = material(name)
    blotch = noise_fac(tree, coords(tree), 0.9, 9, 0.6)
    streak = noise_fac(tree, coords(tree, scale=(3.5, 3.5, 0.25)), 1.0, 5)
    grain = noise_fac(tree, coords(tree), 32, 6)
    dark = tuple(c * 0.72 for c in color)
    base = ramp(tree, blotch, [(0.3, dark), (0.62, color)])
    wash = ramp(tree, streak, [(0.32, (0.72, 0.70, 0.68)), (0.5, (1, 1, 1))])
    base = mix(tree, 1.0, base, wash, "MULTIPLY")
    finish(tree, Base_Color=base, Roughness=0.92, Normal=bump(tree, grain, 0.4, 0.008))
    return mat


def louvres(name, color):
    mat, tree = material(name)
    ins = {"Vector": coords(tree), "Scale": 4.4, "Distortion": 0.0}
    slats = node(tree, "TexWave", ins, bands_direction="Z", wave_profile="SAW").outputs["Fac"]
    shade = ramp(tree, slats, [(0.0, tuple(c * 0.45 for c in color)), (0.35, color)])
    finish(tree, Base_Color=shade, Roughness=0.55, Normal=bump(tree, slats, 0.6, 0.02))
    return mat


def tiles():
    mat, tree = material("tiles")
    place = coords(tree)
    ins = {"Vector": place, "Scale": 1.6, "Distortion": 0.2}
    rows = node(tree, "TexWave", ins, bands_direction="X").outputs["Fac"]
    tone = noise_fac(tree, place, 3, 6)
    color = ramp(tree, tone, [(0.3, (0.30, 0.09, 0.04)), (0.7, (0.60, 0.24, 0.11))])
    finish(tree, Base_Color=color, Roughness=0.85, Normal=bump(tree, rows, 0.9, 0.05))
    return mat


def cloth(name, color, other=None, bands=10):
    """Awning cloth that lets some light through; other is the colour of its stripes."""
    mat, tree = material(name)
    base = rgba(color)
    if other:
        across = node(tree, "SeparateXYZ", {0: coords(tree, "UV", (bands, 1, 1))}).outputs["X"]
        half = math_node(tree, "GREATER_THAN", math_node(tree, "FRACT", across), 0.5)
        base = mix(tree, half, rgba(color), rgba(other))
    front = node(tree, "BsdfDiffuse", {"Color": base}).outputs[0]
    through = node(tree, "BsdfTranslucent", {"Color": base}).outputs[0]
    both = node(tree, "MixShader", {0: 0.35, 1: front, 2: through}).outputs[0]
    node(tree, "OutputMaterial", {"Surface": both})
    return mat


def pane():
    """Thin clear glass: it mirrors a little, more at a slant, and light passes unbent."""
    mat, tree = material("pane")
    slant = node(tree, "Fresnel", {"IOR": 1.5}).outputs[0]
    clear = node(tree, "BsdfTransparent").outputs[0]
    mirror = node(tree, "BsdfGlossy", {"Roughness": 0.02}).outputs[0]
    both = node(tree, "MixShader", {0: slant, 1: clear, 2: mirror}).outputs[0]
    node(tree, "OutputMaterial", {"Surface": both})
    return mat


def glowing(name, color, strength):
    mat, tree = material(name)
    glow = node(tree, "Emission", {"Color": rgba(color), "Strength": strength}).outputs[0]
    node(tree, "OutputMaterial", {"Surface": glow})
    return mat


def lit_window(name, color, strength):
    """A window with the light on behind drawn curtains and a ceiling lamp's falloff."""
    mat, tree = material(name)
    way = node(tree, "SeparateXYZ", {0: coords(tree, "UV")}).outputs
    folds = node(tree, "TexWave", {"Vector": coords(tree, "UV"), "Scale": 6.0, "Distortion": 1.0},
                 bands_direction="X").outputs["Fac"]
    middle = math_node(tree, "ABSOLUTE", math_node(tree, "SUBTRACT", way["X"], 0.5))
    curtain = ramp(tree, middle, [(0.16, (1, 1, 1)), (0.18, (0.42, 0.33, 0.25))])
    shade = ramp(tree, folds, [(0.0, (0.75, 0.75, 0.75)), (1.0, (1, 1, 1))])
    fall = ramp(tree, way["Y"], [(0.0, (0.35, 0.32, 0.3)), (0.9, (1, 1, 1))])
    tone = mix(tree, 1.0, mix(tree, 1.0, curtain, shade, "MULTIPLY"), fall, "MULTIPLY")
    tone = mix(tree, 1.0, tone, rgba(color), "MULTIPLY")
    glow = node(tree, "Emission", {"Color": tone, "Strength": strength}).outputs[0]
    node(tree, "OutputMaterial", {"Surface": glow})
    return mat


def make_kit(night):
    """The materials that several parts of the place share, by name."""
    glass = paint("glass", (0.025, 0.035, 0.045), 0.04, 0.6, 1.5)
    lamp = glowing("lamp", (1.0, 0.56, 0.20), 6.0) if night else paint("milk", (0.8, 0.78, 0.7),
                                                                       0.2)
    return {
        "night": night, "glass": glass, "lamp": lamp, "pane": pane(), "tiles": tiles(),
        "lit": [lit_window("lit a", (1.0, 0.60, 0.26), 1.3),
                lit_window("lit b", (1.0, 0.74, 0.42), 0.8)] if night else [glass, glass],
        "stone": plaster("stone", (0.60, 0.54, 0.45)),
        "frame": paint("frame", (0.72, 0.70, 0.66), 0.4),
        "iron": paint("iron", (0.025, 0.03, 0.03), 0.4, Metallic=0.4),
        "board": wood("board", (0.32, 0.18, 0.08), (0.62, 0.42, 0.22), "X", 0.6),
        "beam": wood("beam", (0.12, 0.06, 0.03), (0.30, 0.16, 0.08), "X", 0.6),
        "inside": paint("inside", (0.70, 0.58, 0.42), 0.8),
        "leaf": leafy("leaf", (0.05, 0.14, 0.02), (0.24, 0.36, 0.05)),
        "gold": paint("gold", (0.85, 0.62, 0.25), 0.4),
        "goods": [paint(f"goods {k}", color, 0.35) for k, color in enumerate(
            ((0.75, 0.08, 0.05), (0.85, 0.55, 0.08), (0.08, 0.28, 0.50), (0.80, 0.74, 0.62),
             (0.10, 0.38, 0.20), (0.50, 0.12, 0.35), (0.85, 0.30, 0.05)))],
        "fruit": {name: paint(name, color, 0.35, 0.25, 18)
                  for name, (color, _) in FRUIT.items()},
        "shutters": [louvres(f"shutters {k}", color) for k, color in enumerate(
            ((0.05, 0.22, 0.14), (0.10, 0.22, 0.38), (0.36, 0.10, 0.05), (0.30, 0.32, 0.28)))],
        "trims": [paint(f"trim {k}", color, 0.4) for k, color in enumerate(
            ((0.03, 0.15, 0.10), (0.05, 0.11, 0.22), (0.24, 0.05, 0.03), (0.16, 0.10, 0.05)))],
        "petals": [paint("petal a", (0.85, 0.04, 0.08), 0.5),
                   paint("petal b", (0.80, 0.25, 0.45), 0.5)],
    }


# --- houses ------------------------------------------------------------------------------------
# Fronts are built facing -y with their lower left corner at the origin, then moved as one.

def wall(width, low, high, holes, mat, deep=0.22):
    """A front with openings (x0, x1, z0, z1), each with reveals of the given depth."""
    xs = sorted({0, width, *(x for hole in holes for x in hole[:2])})
    zs = sorted({low, high, *(z for hole in holes for z in hole[2:])})
    verts, faces = [], []

    def quad(*corners):
        faces.append(tuple(range(len(verts), len(verts) + 4)))
        verts.extend(corners)
    for a, b in zip(xs, xs[1:]):
        for c, d in zip(zs, zs[1:]):
            if not any(x0 <= a < x1 and z0 <= c < z1 for x0, x1, z0, z1 in holes):
                quad((a, 0, c), (b, 0, c), (b, 0, d), (a, 0, d))
    for x0, x1, z0, z1 in holes:
        ring = [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]
        for (a, c), (b, d) in zip(ring, ring[1:] + ring[:1]):
            quad((a, 0, c), (b, 0, d), (b, deep, d), (a, deep, c))
    return shape("wall", verts, faces, mat)


def window(hole, kit, shutter, flowers, light):
    """Glass, bars, surround and sill for an opening of a front, maybe shutters and flowers."""
    x0, x1, z0, z1 = hole
    wide, tall, middle = x1 - x0, z1 - z0, (x0 + x1) / 2
    glass = rng.choice(kit["lit"]) if light else kit["glass"]
    parts = [panel((x0, 0.15, z0), (wide, 0, 0), (0, 0, tall), glass)]
    for x in (x0 + 0.03, middle, x1 - 0.03):
        parts.append(box((0.06, 0.06, tall), (x, 0.13, (z0 + z1) / 2), kit["frame"], 0.006))
    for z in (z0 + 0.03, z0 + tall * 0.62, z1 - 0.03):
        parts.append(box((wide, 0.06, 0.05), (middle, 0.13, z), kit["frame"], 0.006))
    for x in (x0 - 0.07, x1 + 0.07):
        parts.append(box((0.14, 0.06, tall), (x, -0.01, (z0 + z1) / 2), kit["stone"]))
    parts.append(box((wide + 0.32, 0.10, 0.16), (middle, -0.02, z1 + 0.08), kit["stone"]))
    parts.append(box((wide + 0.4, 0.22, 0.09), (middle, -0.06, z0 - 0.045), kit["stone"]))
    if shutter:
        for x in (x0 - 0.16 - wide / 4, x1 + 0.16 + wide / 4):
            parts.append(box((wide / 2, 0.04, tall), (x, -0.06, (z0 + z1) / 2), shutter))
    if flowers:
        parts += flower_box(middle, z0, wide, kit)
    return parts


def flower_box(x, z, wide, kit):
    parts = [box((wide, 0.2, 0.16), (x, -0.2, z + 0.06), kit["shutters"][2])]
    for _ in range(26):
        place = (x + rng.uniform(-0.5, 0.5) * wide, -0.2 + rng.uniform(-0.14, 0.1),
                 z + rng.uniform(0.12, 0.36))
        mat = rng.choice((kit["leaf"], kit["leaf"], *kit["petals"]))
        parts.append(ball(rng.uniform(0.05, 0.09), place, mat, (1, 1, 0.8)))
    return parts


def words(text, size, loc, mat):
    """Raised lettering facing -y, centred on loc."""
    curve = bpy.data.curves.new("words", "FONT")
    curve.body, curve.size, curve.extrude = text, size, 0.012
    curve.align_x, curve.align_y = "CENTER", "CENTER"
    curve.materials.append(mat)
    obj = bpy.data.objects.new("words", curve)
    obj.location, obj.rotation_euler = loc, (math.pi / 2, 0, 0)
    bpy.context.scene.collection.objects.link(obj)
    return obj


def goods(x0, x1, z, y, kit):
    """A row of bottles, boxes and balls on a shelf."""
    parts, x = [], x0 + 0.08
    while x < x1 - 0.1:
        mat, kind = rng.choice(kit["goods"]), rng.randrange(3)
        if kind == 0:
            tall = rng.uniform(0.14, 0.3)
            parts.append(box((0.13, 0.12, tall), (x, y, z + tall / 2), mat, 0.006))
        elif kind == 1:
            parts.append(lathe([(0, 0), (0.045, 0), (0.045, 0.18), (0.016, 0.24), (0.016, 0.31),
                                (0, 0.31)], (x, y, z), mat, 16))
        else:
            parts.append(ball(0.075, (x, y, z + 0.075), mat))
        x += rng.uniform(0.15, 0.24)
    return parts


def shop(x0, x1, kit, trim, name):
    """A shop front from x0 to x1: a fascia with the name, a door and a window full of goods."""
    z0, z1, deep = 0.55, 2.5, 1.0
    door = x0 + 1.0
    middle, wide = (door + x1) / 2, x1 - door
    parts = [box((x1 - x0 + 0.2, 0.12, 0.46), ((x0 + x1) / 2, -0.06, 2.78), trim, 0.01),
             box((x1 - x0 + 0.3, 0.22, 0.06), ((x0 + x1) / 2, -0.1, 3.03), trim, 0.01),
             words(name, 0.3, ((x0 + x1) / 2, -0.13, 2.78), kit["gold"]),
             box((wide, 0.1, z0), (middle, -0.03, z0 / 2), trim, 0.01),
             box((wide + 0.06, 0.2, 0.06), (middle, -0.06, z0), trim, 0.008),
             panel((door, 0.06, z0), (wide, 0, 0), (0, 0, z1 - z0), kit["pane"])]
    for x in (x0, door, middle, x1):
        thick = 0.05 if x == middle else 0.12
        parts.append(box((thick, 0.14, 2.55), (x, -0.02, 1.275), trim, 0.008))
    parts.append(box((0.86, 0.06, 1.0), (x0 + 0.5, 0.1, 0.5), trim, 0.01))
    parts.append(panel((x0, 0.1, 1.0), (1.0, 0, 0), (0, 0, 1.5), kit["lit"][0]))
    for x in (x0 + 0.12, x0 + 0.5, x0 + 0.88):
        parts.append(box((0.06, 0.06, 1.5), (x, 0.08, 1.75), trim, 0.006))
    room = kit["inside"]
    for origin, across, up in (((door, deep, z0), (wide, 0, 0), (0, 0, z1 - z0)),
                               ((door, 0.08, z0), (wide, 0, 0), (0, deep, 0)),
                               ((door, 0.08, z1), (wide, 0, 0), (0, deep, 0)),
                               ((door, 0.08, z0), (0, deep, 0), (0, 0, z1 - z0)),
                               ((x1, 0.08, z0), (0, deep, 0), (0, 0, z1 - z0))):
        parts.append(panel(origin, across, up, room))
    for z, y in ((z0, 0.3), (z0 + 0.45, 0.62), (z0 + 0.95, 0.84), (z0 + 1.4, 0.84)):
        if z > z0:
            parts.append(box((wide, 0.24, 0.03), (middle, y, z), kit["board"], 0.004))
        parts += goods(door, x1, z + 0.015, y, kit)
    if kit["night"]:
        data = bpy.data.lights.new("shop", "AREA")
        data.shape, data.size, data.size_y = "RECTANGLE", wide * 0.9, 0.2
        data.energy, data.color = 17 * wide, (1.0, 0.76, 0.48)
        parts.append(add_light(data, (middle, 0.2, z1 - 0.03), (0, 0.25, -1)))
    return parts


def awning(x, z, wide, deep, mat):
    """A sloping cloth with a scalloped edge, out from the wall at height z."""
    drop, hem = deep * 0.42, 0.22

    def slope(u, v):
        return (x + wide * (u - 0.5), -0.05 - deep * v,
                z - drop * v - 0.04 * math.sin(math.pi * v))

    def edge(u, v):
        scallop = 0.05 * abs(math.sin(math.pi * u * 10))
        return (x + wide * (u - 0.5), -0.05 - deep, z - drop - (hem + scallop) * v)
    return [grid(40, 8, slope, mat), grid(120, 2, edge, mat)]


def roof(width, high, deep, kit):
    """The tiled slope above a front, its eaves and a chimney."""
    verts = [(-0.15, -0.45, high), (width + 0.15, -0.45, high), (width + 0.15, deep, high + 1.9),
             (-0.15, deep, high + 1.9)]
    back = [(x, 2 * deep, high) for x in (width + 0.15, -0.15)]
    slope = shape("roof", verts + back, [(0, 1, 2, 3), (3, 2, 4, 5)], kit["tiles"])
    ends = [shape("gable", [(x, 0, high), (x, 2 * deep, high), (x, deep, high + 1.85)],
                  [(0, 1, 2)], kit["stone"]) for x in (0, width)]
    eaves = box((width + 0.1, 0.4, 0.16), (width / 2, -0.16, high - 0.09), kit["stone"], 0.02)
    gutter = tube([(-0.1, -0.47, high), (width + 0.1, -0.47, high)], 0.06, kit["iron"])
    chimney = box((0.6, 0.5, 1.5), (width * 0.3, deep * 0.7, high + 1.6), kit["stone"], 0.02)
    return [slope, *ends, eaves, gutter, chimney]


def house(width, storeys, mat, kit, loc, turn, sign=None, shade=None):
    """A house of a row: a shop or a door below, windows above, a roof."""
    low, floor = 3.5, 3.0
    high = low + floor * storeys
    count = max(2, round(width / 2.4))
    shutter = rng.choice(kit["shutters"])
    opening = (0.6, width - 0.6, 0.0, 3.0) if sign else (width / 2 - 0.6, width / 2 + 0.6, 0, 2.4)
    holes = [((k + 0.5) * width / count - 0.5, (k + 0.5) * width / count + 0.5,
              low + floor * level + 0.75, low + floor * level + 2.4)
             for level in range(storeys) for k in range(count)]
    parts = [wall(width, 0, high, holes + [opening], mat)]
    for hole in holes:
        parts += window(hole, kit, shutter, rng.random() < 0.3, rng.random() < 0.5)
    if sign:
        parts += shop(0.6, width - 0.6, kit, rng.choice(kit["trims"]), sign)
    else:
        parts.append(box((1.2, 0.08, 2.4), (width / 2, 0.16, 1.2), shutter))
        parts.append(box((1.6, 0.12, 0.2), (width / 2, -0.02, 2.5), kit["stone"]))
    parts.append(box((width, 0.1, 0.14), (width / 2, -0.04, low), kit["stone"], 0.015))
    if shade:
        parts += awning(width / 2, 3.0, width - 1.0, 1.5, shade)
    for x in (0, width):
        parts.append(panel((x, 0, 0), (0, 8, 0), (0, 0, high), mat))
    parts += roof(width, high, 4.0, kit)
    gather(parts, loc, turn)


def build_rows(kit):
    """The row of houses opposite the arcade, and those that close the square."""
    walls = [weathered(f"wall {k}", color) for k, color in enumerate(
        ((0.80, 0.50, 0.16), (0.74, 0.30, 0.18), (0.82, 0.72, 0.52), (0.46, 0.56, 0.62),
         (0.78, 0.42, 0.34), (0.84, 0.64, 0.28)))]
    orange = cloth("orange awning", (0.90, 0.27, 0.02), (0.85, 0.80, 0.70), 10)
    red = cloth("red awning", (0.72, 0.03, 0.03), (0.85, 0.80, 0.70), 9)
    plain = cloth("plain awning", (0.85, 0.16, 0.02))
    y = LONG
    for width, storeys, tone, sign, shade in (
            (6.0, 2, 3, None, None), (7.0, 2, 1, "LIBRI", red), (6.0, 1, 5, "FRUTTA", orange),
            (7.5, 2, 2, "CAFFE", plain), (6.5, 1, 4, "PANE", red), (7.0, 2, 0, "FIORI", orange),
            (7.0, 2, 3, None, None)):
        house(width, storeys, walls[tone], kit, (WIDE, y, 0), -math.pi / 2, sign, shade)
        y -= width
    x = -8.0
    for width, storeys, tone, sign in ((7.0, 1, 2, None), (6.0, 2, 0, "BAR"), (2.4, 0, 0, None),
                                       (6.5, 1, 4, "VINI"), (7.0, 2, 2, None)):
        if storeys:
            house(width, storeys, walls[tone], kit, (x, LONG, 0), 0, sign)
        x += width
    house(10.0, 1, walls[3], kit, (2.0, LONG + 16, 0), 0)
    for x in (-9.0, 0.0, 9.0):
        house(9.0, 1, walls[2], kit, (x, -13, 0), math.pi)


def clock_at(u, v):
    """A clock's face: a ring, twelve marks and two hands at ten past ten."""
    x, y = 2 * u - 1, 2 * v - 1
    r, a = math.hypot(x, y), math.atan2(x, y)
    if r > 0.97 or 0.80 < r < 0.92 and abs((a * 6 / math.pi + 0.5) % 1 - 0.5) < 0.14:
        return (0.03, 0.03, 0.04)
    for way, length, wide in ((math.radians(60), 0.72, 0.05), (math.radians(-55), 0.5, 0.07)):
        along = x * math.sin(way) + y * math.cos(way)
        aside = x * math.cos(way) - y * math.sin(way)
        if -0.1 < along < length and abs(aside) < wide:
            return (0.03, 0.03, 0.04)
    return (0.80, 0.76, 0.66)


def build_tower(kit):
    x, y, half, high = 3.6, LONG + 10, 2.3, 17.0
    mat = slabs("ashlar", (0.58, 0.50, 0.38), (0.48, 0.41, 0.31), 0.9, 0.4)
    panel((x - half, y - half, 0), (2 * half, 0, 0), (0, 0, high), mat, unit=False)
    for side in (-half, half):
        panel((x + side, y - half, 0), (0, 2 * half, 0), (0, 0, high), mat, unit=False)
    for z in (10.6, high):
        box((2 * half + 0.4, 2 * half + 0.4, 0.35), (x, y, z), kit["stone"], 0.03)
    for dx in (-0.75, 0.75):
        box((0.8, 0.1, 2.0), (x + dx, y - half, 15.0), kit["iron"], 0)
        ball(0.4, (x + dx, y - half + 0.35, 16.0), kit["iron"])
    panel((x - 1.05, y - half - 0.08, 11.3), (2.1, 0, 0), (0, 0, 2.1),
          drawn("clock", 160, 160, clock_at))
    tip = [(x - half - 0.3, y - half - 0.3, high), (x + half + 0.3, y - half - 0.3, high),
           (x + half + 0.3, y + half + 0.3, high), (x - half - 0.3, y + half + 0.3, high),
           (x, y, high + 5.5)]
    shape("spire", tip, [(0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)], kit["tiles"])


# --- the arcade --------------------------------------------------------------------------------

def arch(y, mat, kit):
    """One bay's arch: both faces, the soffit and a moulding round its edge."""
    radius, rise = (BAY - PIER) / 2, STOREY - SPRING

    def rim(u, reach=radius):
        a = math.pi * u
        return y + reach * math.cos(a), SPRING + reach * math.sin(a)

    def face(u, v):
        a = math.pi * u
        far = min(BAY / 2 / max(1e-6, abs(math.cos(a))), rise / max(1e-6, math.sin(a)))
        return rim(u, radius + (far - radius) * v)
    for x in (0.0, -0.55):
        grid(64, 2, lambda u, v, x=x: (x, *face(u, v)), mat, smooth=False)
    grid(48, 1, lambda u, v: (-0.55 * v, *rim(u)), mat)
    grid(48, 1, lambda u, v: (0.04, *rim(u, radius + 0.2 * v)), kit["stone"], smooth=False)
    tube([(0.03, *rim(k / 48, radius + 0.2)) for k in range(49)], 0.045, kit["stone"])


def build_arcade(kit):
    mat = weathered("arcade", (0.76, 0.60, 0.38))
    inner = weathered("arcade inside", (0.74, 0.68, 0.56))
    bays, start, span = 14, -12.6, ARCADE - 0.3
    end = start + bays * BAY
    for k in range(bays + 1):
        y = start + k * BAY
        box((0.55, PIER, SPRING), (-0.275, y, SPRING / 2), mat, 0.02)
        box((0.67, PIER + 0.12, 0.14), (-0.275, y, SPRING - 0.07), kit["stone"], 0.02)
        box((0.67, PIER + 0.12, 0.45), (-0.275, y, 0.225), kit["stone"], 0.02)
        box((span, 0.26, 0.3), (-0.3 - span / 2, y, STOREY - 0.3), kit["beam"], 0.02)
        if k < bays:
            arch(y + BAY / 2, mat, kit)
            for j in range(1, 6):
                place = (-0.3 - span / 2, y + j * BAY / 6, STOREY - 0.2)
                box((span, 0.1, 0.14), place, kit["beam"], 0.01)
            if k % 2:
                hanging_lantern(-ARCADE / 2, y + BAY / 2, kit)
    stones = slabs("flags", (0.42, 0.36, 0.29), (0.33, 0.28, 0.23), 0.9, 0.6)
    panel((-ARCADE, start, FLOOR), (0, end - start, 0), (ARCADE + 0.15, 0, 0), stones, unit=False)
    box((0.3, end - start, FLOOR), (0.1, (start + end) / 2, FLOOR / 2 - 0.005), kit["stone"], 0.02)
    panel((-ARCADE, start, STOREY - 0.12), (0, end - start, 0), (ARCADE, 0, 0), inner)
    box((0.2, end - start, 0.22), (0.03, (start + end) / 2, STOREY), kit["stone"], 0.02)
    arcade_shops(start, bays, inner, kit)
    upper_floor(start, bays, mat, kit)


def arcade_shops(start, bays, mat, kit):
    names = ("OLIO", "CARTA", "DOLCI", "SPEZIE", "TESSUTI", "OTTICA", "MUSICA")
    for k in range(0, bays, 2):
        width = 2 * BAY
        parts = [wall(width, 0, STOREY, [(0.5, 4.1, 0, 3.0)], mat)]
        parts += shop(0.5, 4.1, kit, kit["trims"][(k // 2) % 4], names[(k // 2) % 7])
        parts.append(box((width - 4.2, 0.06, 0.9), ((width + 4.2) / 2, -0.03, 0.45), kit["stone"]))
        gather(parts, (-ARCADE, start + k * BAY, FLOOR), math.pi / 2)


def upper_floor(start, bays, mat, kit):
    """The storey over the arcade, with its roof."""
    width, low, high = bays * BAY, STOREY, STOREY + 3.7
    holes = [((k + 0.5) * BAY - 0.55, (k + 0.5) * BAY + 0.55, low + 0.9, low + 2.8)
             for k in range(bays)]
    parts = [wall(width, low, high, holes, mat)]
    for hole in holes:
        parts += window(hole, kit, kit["shutters"][0], rng.random() < 0.25, rng.random() < 0.5)
    parts += roof(width, high, 4.0, kit)
    gather(parts, (0, start, 0), math.pi / 2)


def lantern(loc, kit):
    """A six-sided glass in an iron frame, lit by night; loc is the middle of the glass."""
    x, y, z = loc
    lathe([(0.10, -0.2), (0.17, 0.2)], loc, kit["lamp"], 6)
    lathe([(0.03, -0.26), (0.11, -0.2), (0.10, -0.19)], loc, kit["iron"], 6)
    lathe([(0.23, 0.19), (0.19, 0.24), (0.05, 0.36), (0.03, 0.42), (0, 0.43)], loc, kit["iron"], 6)
    for k in range(6):
        a = math.pi * k / 3
        c, s = math.cos(a), math.sin(a)
        tube([(x + 0.105 * c, y + 0.105 * s, z - 0.2), (x + 0.175 * c, y + 0.175 * s, z + 0.2)],
             0.012, kit["iron"])


def glow(loc, energy, color):
    data = bpy.data.lights.new("glow", "POINT")
    data.energy, data.color, data.shadow_soft_size = energy, color, 0.15
    add_light(data, loc)


def hanging_lantern(x, y, kit):
    z = 2.75
    lantern((x, y, z), kit)
    tube([(x, y, z + 0.4), (x, y, STOREY)], 0.015, kit["iron"])
    if kit["night"]:
        glow((x, y, z - 0.45), 26, (1.0, 0.60, 0.26))


# --- the square --------------------------------------------------------------------------------

def street_lamp(x, y, kit):
    lathe([(0, 0), (0.2, 0), (0.2, 0.12), (0.13, 0.2), (0.11, 0.6), (0.07, 0.7), (0.05, 0.8),
           (0.04, 3.2), (0.07, 3.25), (0.03, 3.35), (0.03, 3.6)], (x, y, 0), kit["iron"], 24)
    lantern((x, y, 3.8), kit)
    if kit["night"]:
        glow((x, y, 3.4), 230, (1.0, 0.50, 0.17))


def crate(kind, kit):
    """A slatted box heaped with one kind of fruit, centred on the origin and open to +z."""
    wide, deep, tall, radius = 0.52, 0.38, 0.2, FRUIT[kind][1]
    parts = [box((wide, deep, 0.02), (0, 0, 0.01), kit["board"], 0)]
    for z in (0.05, 0.15):
        for side in (-1, 1):
            parts.append(box((wide, 0.015, 0.075), (0, side * deep / 2, z), kit["board"], 0.003))
            parts.append(box((0.015, deep, 0.075), (side * wide / 2, 0, z), kit["board"], 0.003))
    columns, rows = int((wide - 0.04) / (2 * radius)), int((deep - 0.04) / (2 * radius))
    for layer in range(2):
        for i in range(columns - layer):
            for j in range(rows - layer):
                place = ((i - (columns - layer - 1) / 2) * 2.05 * radius + rng.gauss(0, 0.004),
                         (j - (rows - layer - 1) / 2) * 2.05 * radius + rng.gauss(0, 0.004),
                         tall - 0.04 + layer * 1.4 * radius + rng.gauss(0, 0.004))
                turn = (rng.uniform(0, 3), rng.uniform(0, 3), 0)
                parts.append(ball(radius, place, kit["fruit"][kind], (1, 1, 0.94), turn))
    return parts


def fruit_stand(loc, turn, columns, kit):
    """Two tilted rows of crates on a stand, facing -y before it is turned."""
    parts = []
    names = list(FRUIT)
    for row, (y, z) in enumerate(((-0.2, 0.52), (0.22, 0.78))):
        for k in range(columns):
            x = (k - (columns - 1) / 2) * 0.56
            heap = gather(crate(names[(2 * k + 3 * row + columns) % 6], kit), (x, y, z))
            heap.rotation_euler[0] = 0.42
            parts.append(heap)
    wide = columns * 0.56
    for y, z in ((-0.3, 0.44), (0.12, 0.7), (0.4, 0.9)):
        parts.append(box((wide, 0.05, 0.05), (0, y, z), kit["board"], 0.004))
        for x in (-wide / 2 + 0.05, wide / 2 - 0.05):
            parts.append(box((0.05, 0.05, z), (x, y, z / 2), kit["board"], 0.004))
    gather(parts, loc, turn)


def stall(loc, turn, kit):
    """A market stall: a fruit stand under a striped roof on four poles."""
    red = cloth("stall", (0.88, 0.20, 0.02), (0.85, 0.80, 0.70), 8)
    fruit_stand(loc, turn, 4, kit)
    parts = [tube([(x, y, 0), (x, y, z)], 0.025, kit["board"])
             for x in (-1.25, 1.25) for y, z in ((-0.75, 2.15), (0.75, 2.55))]

    def top(u, v):
        sag = 0.06 * math.sin(math.pi * u) * math.sin(math.pi * v)
        return (2.8 * (u - 0.5), 2.0 * (v - 0.5), 2.06 + 0.55 * v - sag)

    def hem(u, v):
        return (2.8 * (u - 0.5), -1.0, 2.06 - (0.2 + 0.05 * abs(math.sin(8 * math.pi * u))) * v)
    parts += [grid(32, 16, top, red), grid(96, 2, hem, red)]
    gather(parts, loc, turn)


def cafe_table(x, y, color, kit):
    """A round table with two stools under a parasol."""
    white = paint("table top", (0.75, 0.73, 0.68), 0.3)
    lathe([(0, 0), (0.22, 0), (0.2, 0.03), (0.03, 0.05), (0.03, 0.7), (0.38, 0.71), (0.4, 0.73),
           (0, 0.735)], (x, y, 0), white, 32)
    for dx, dy in ((-0.75, -0.2), (0.7, 0.25)):
        lathe([(0, 0.44), (0.18, 0.44), (0.19, 0.47), (0, 0.475)], (x + dx, y + dy, 0),
              kit["board"], 24)
        for k in range(3):
            a = 2.1 * k
            tube([(x + dx, y + dy, 0.44), (x + dx + 0.2 * math.cos(a),
                                           y + dy + 0.2 * math.sin(a), 0)], 0.014, kit["iron"])
    tube([(x, y, 0), (x, y, 2.6)], 0.022, kit["board"])
    lathe([(0.02, 2.62), (0.7, 2.42), (1.35, 2.1), (1.35, 1.92)], (x, y, 0),
          cloth(f"parasol {x}", color), 8).data.use_auto_smooth = False


def build_square(kit):
    panel((-10, -14, 0), (40, 0, 0), (0, 70, 0), cobbles(kit["night"]))
    slab = slabs("pavement", (0.45, 0.41, 0.36), (0.36, 0.33, 0.29), 0.8, 0.5)
    box((2.0, 60, 0.1), (WIDE - 1.0, 16, 0.05), kit["stone"], 0.02)
    panel((WIDE - 1.9, -14, 0.105), (0, 60, 0), (1.9, 0, 0), slab, unit=False)
    for x, y in LAMPS:
        street_lamp(x, y, kit)
    stall((5.6, 11.4, 0), -0.35, kit)
    fruit_stand((WIDE - 1.3, 20.0, 0.1), -math.pi / 2, 5, kit)
    fruit_stand((-ARCADE + 0.55, 6.5, FLOOR), math.pi / 2, 4, kit)
    for (x, y), color in zip(TABLES, ((0.85, 0.22, 0.02), (0.75, 0.05, 0.03))):
        cafe_table(x, y, color, kit)
    bark = paint("bark", (0.16, 0.11, 0.08), 0.9)
    crowns = [((0, 0, 4.2), 1.9), ((1.1, 0.3, 3.5), 1.3), ((-1.0, 0.5, 3.7), 1.4),
              ((0.2, -1.1, 3.4), 1.3), ((0, 0.4, 5.3), 1.2)]
    mesh = tree_mesh("tree", kit["leaf"], bark, crowns, 16000, 0.085)
    for x, y, turn in ((8.6, 25.5, 0.4), (10.2, 8.2, 2.0)):
        add("tree", mesh, None, (x, y, 0), (0, 0, turn))
        lathe([(0.9, 0), (0.9, 0.35), (0.75, 0.35), (0.7, 0.28), (0, 0.28)], (x, y, 0),
              kit["stone"], 32)
    for y in range(2, 34, 4):
        lathe([(0, 0), (0.12, 0), (0.09, 0.1), (0.08, 0.7), (0.11, 0.75), (0.06, 0.88), (0, 0.9)],
              (WIDE - 2.25, y, 0), kit["iron"], 16)


# --- people ------------------------------------------------------------------------------------

def limb(points, radii, mat):
    """A tube whose thickness follows the points."""
    made = tube(points, 1.0, mat)
    for point, radius in zip(made.data.splines[0].points, radii):
        point.radius = radius
    return made


def person(x, y, z, turn, colors, swing):
    """Someone in a coat, mid-step, facing -y before being turned; swing is the leg in front."""
    coat, trousers, hair = (paint(f"clothes {color}", color, 0.85, 0.1, 25) for color in colors)
    skin, shoe = paint("skin", (0.58, 0.33, 0.23), 0.55), paint("shoe", (0.03, 0.025, 0.02), 0.4)
    body = lathe([(0.235, 0.62), (0.225, 0.8), (0.185, 1.02), (0.20, 1.2), (0.205, 1.34),
                  (0.17, 1.42), (0.075, 1.47), (0.06, 1.5), (0, 1.5)], (0, 0, 0), coat)
    body.scale = (1, 0.68, 1)
    parts = [body, lathe([(0.052, 1.44), (0.05, 1.56)], (0, 0, 0), skin),
             ball(0.1, (0, -0.02, 1.64), skin, (0.82, 0.95, 1.2)),
             ball(0.108, (0, 0.012, 1.67), hair, (0.86, 0.95, 1.08))]
    for side in (-1, 1):
        reach = side * swing  # positive where this leg is in front
        hip, knee = (side * 0.09, 0, 0.85), (side * 0.09, -0.15 * reach - 0.05, 0.48)
        ankle = (side * 0.09, -0.33 * reach, 0.08 if reach > 0 else 0.13)
        parts.append(limb([hip, knee, ankle], (0.088, 0.066, 0.048), trousers))
        tip = 0.0 if reach > 0 else 0.5
        parts.append(ball(0.1, (ankle[0], ankle[1] - 0.06, ankle[2] - 0.03), shoe,
                          (0.5, 1.3, 0.45), (tip, 0, 0)))
        elbow, hand = (side * 0.265, 0.08 * reach + 0.03, 1.1), (side * 0.25, 0.2 * reach - 0.05,
                                                                 0.86)
        shoulder = (side * 0.185, 0, 1.37)
        parts.append(ball(0.067, shoulder, coat))
        parts.append(limb([shoulder, elbow, hand], (0.066, 0.054, 0.044), coat))
        parts.append(ball(0.045, (hand[0], hand[1] - 0.01, hand[2] - 0.05), skin, (0.7, 0.9, 1.3)))
    parts.append(box((0.09, 0.26, 0.3), (0.33, 0.0, 0.78), shoe, 0.03, segments=4))
    gather(parts, (x, y, z), turn)


def build_people(step):
    """Two people, one crossing the sunlit square and one under the arcade, at step 0, 1 or 2."""
    swing = (1, -0.8, 1)[step]
    person((3.5, 5.0, 7.4)[step], 9.7 + 0.2 * step, 0, math.pi / 2 + 0.12,
           ((0.62, 0.03, 0.03), (0.05, 0.06, 0.10), (0.05, 0.03, 0.02)), swing)
    person(-1.9 + 0.25 * step, 6.6 + 2.4 * step, FLOOR, math.pi,
           ((0.05, 0.20, 0.42), (0.12, 0.10, 0.09), (0.30, 0.17, 0.08)), -swing)


# --- light, camera, render ---------------------------------------------------------------------

def build_light(night):
    if night:
        world = bpy.data.worlds.new("sky")
        bpy.context.scene.world = world
        world.use_nodes = True
        dusk = world.node_tree.nodes["Background"].inputs
        dusk["Color"].default_value, dusk["Strength"].default_value = rgba((0.10, 0.20, 0.55)), 0.03
        return
    build_sky(SUN_WAY)
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy, sun.angle, sun.color = 7.0, 0.009, (1.0, 0.93, 0.82)
    add_light(sun, (0, 0, 20), -SUN_WAY)


def build_camera(night):
    """Under the arcade by day, out on the square by night."""
    data = bpy.data.cameras.new("camera")
    obj = bpy.data.objects.new("camera", data)
    # Shifting the lens keeps the walls upright.
    if night:
        data.lens, data.shift_y = 24, 0.09
        obj.location, obj.rotation_euler = (6.6, -1.5, 1.65), (math.pi / 2, 0, -0.03)
    else:
        data.lens, data.shift_y = 24, 0.05
        obj.location, obj.rotation_euler = (-1.6, 1.75, 1.7), (math.pi / 2, 0, -0.37)
    bpy.context.scene.collection.objects.link(obj)
    bpy.context.scene.camera = obj


def build(night, step=None):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    rng.seed(7)
    kit = make_kit(night)
    for part in (build_square, build_arcade, build_rows, build_tower):
        part(kit)
    if step is not None:
        build_people(step)
    build_light(night)
    build_camera(night)


def main():
    given = sys.argv[sys.argv.index("--") + 1:]
    out, variant, samples, width = given + ["48", "1200"][len(given) - 2:]
    out, night = Path(out).resolve(), variant == "night"
    for step in ((None,) if night else (0, 1, 2)):
        build(night, step)
        folder = out if night else out / str(step + 1)
        folder.mkdir(parents=True, exist_ok=True)
        render(folder, int(samples), int(width))


main()
