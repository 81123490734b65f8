"""Build and render the sample scene: a room against the light, with a sunlit valley outside.

Everything is modelled and textured by this script, so the pictures need no one else's assets.
It writes three float PFM files to the folder given (linear light, albedo and normals);
expose.py turns them into the under- and over-exposed pair:

    blender -b -P samples/render.py -- OUT_DIR [SAMPLES] [WIDTH]
"""
import math
import sys
from pathlib import Path

import bpy
from mathutils import Vector, noise

sys.path.insert(0, str(Path(__file__).resolve().parent))
from materials import (bricks, build_sky, bump, coords, drawn, fabric, finish, hazed, leafy,
                       material, math_node, mix, node, noise_fac, paint, plaster, ramp, rgba, wood)
from output import render
from shapes import add, add_light, ball, box, gather, grid, lathe, panel, plant, rng, shape, \
    tree_mesh, tube

HALF, DEPTH, HEIGHT = 2.5, 5.2, 2.8  # the room, in metres; the window wall is at y = DEPTH
WIN_X, WIN_Z = (-0.72, 2.02), (0.5, 2.42)
LAKE_Z = -24.0


def floor_wood():
    mat, tree = material("floor")
    metres = coords(tree, "UV")
    ins = {"Vector": metres, "Color1": rgba((0.50, 0.24, 0.09)), "Color2": rgba((0.27, 0.11, 0.04)),
           "Mortar": rgba((0.03, 0.015, 0.01)), "Scale": 1.0, "Mortar Size": 0.0022,
           "Mortar Smooth": 0.3, "Bias": 0.0, "Brick Width": 1.3, "Row Height": 0.115}
    planks = node(tree, "TexBrick", ins, offset=0.37)
    # Each plank gets its own piece of grain: its random tone moves the grain's pattern.
    tone = node(tree, "SeparateColor", {0: planks.outputs["Color"]}).outputs[0]
    shifted = node(tree, "VectorMath", {0: metres, 1: tone}, operation="ADD").outputs[0]
    stretched = node(tree, "Mapping", {"Vector": shifted, "Scale": (1.3, 24, 9)}).outputs[0]
    grain = noise_fac(tree, stretched, 1.6, 9, 1.5)
    shade = ramp(tree, grain, [(0.3, (0.42, 0.42, 0.42)), (0.65, (1.15, 1.1, 1.05))])
    color = mix(tree, 1.0, planks.outputs["Color"], shade, "MULTIPLY")
    gaps = math_node(tree, "MULTIPLY", planks.outputs["Fac"], -1.0)
    height = math_node(tree, "ADD", gaps, math_node(tree, "MULTIPLY", grain, 0.25))
    finish(tree, Base_Color=color, Roughness=0.32, Normal=bump(tree, height, 0.5, 0.003))
    return mat


def pillow(size, loc, rot, mat):
    """A cushion: two bulging sheets, standing in the x-z plane with the corners drawn out."""
    for side in (-1, 1):
        def point(u, v):
            a, b = 2 * u - 1, 2 * v - 1
            bulge = math.sqrt(max(0, (1 - a * a) * (1 - b * b)))
            pinch = 1 - 0.10 * (1 - a * a) * b * b, 1 - 0.10 * (1 - b * b) * a * a
            return (a * size / 2 * pinch[1], side * 0.17 * size * bulge ** 0.7,
                    b * size / 2 * pinch[0])
        grid(24, 24, point, mat, loc=loc, rot=rot)


# --- the room ----------------------------------------------------------------------------------

def wallpaper_at(u, v):
    """Teal paper with a repeat of leaves and dots."""
    a, b = (u * 24) % 1 - 0.5, (v * 8 + (0.5 if int(u * 24) % 2 else 0)) % 1 - 0.5
    leaf = abs(a) < 0.26 * math.cos(b * math.pi / 0.84) if abs(b) < 0.42 else False
    if abs(a) < 0.02 and leaf:
        return (0.05, 0.20, 0.22)
    if leaf:
        return (0.55, 0.62, 0.42) if a > 0 else (0.40, 0.52, 0.38)
    if math.hypot(abs(a) - 0.5, abs(b) - 0.5) < 0.13:
        return (0.85, 0.62, 0.25)
    return (0.10, 0.32, 0.34)


def build_shell():
    white = plaster("plaster", (0.80, 0.76, 0.69))
    beam = wood("beam", (0.16, 0.07, 0.03), (0.36, 0.18, 0.08), "Y", 0.6)
    panel((-HALF, -1, 0), (0, DEPTH + 1, 0), (2 * HALF, 0, 0), floor_wood(), unit=False)
    panel((-HALF, -1, HEIGHT), (2 * HALF, 0, 0), (0, DEPTH + 1, 0), white)
    panel((-HALF, -1, 0), (2 * HALF, 0, 0), (0, 0, HEIGHT), white)
    panel((HALF, -1, 0), (0, DEPTH + 1, 0), (0, 0, HEIGHT), bricks(), unit=False)
    paper = drawn("wallpaper", 1600, 720, wallpaper_at, 0.8)
    panel((-HALF, DEPTH, 0), (0, -DEPTH - 1, 0), (0, 0, HEIGHT), paper)
    thick, y = 0.3, DEPTH + 0.15
    for x0, x1, z0, z1 in ((-HALF, WIN_X[0], 0, HEIGHT), (WIN_X[1], HALF, 0, HEIGHT),
                           (*WIN_X, 0, WIN_Z[0]), (*WIN_X, WIN_Z[1], HEIGHT)):
        box((x1 - x0, thick, z1 - z0), ((x0 + x1) / 2, y, (z0 + z1) / 2), white, 0)
    for x in (-1.9, -0.65, 0.6, 1.85):
        box((0.14, DEPTH + 1, 0.16), (x, DEPTH / 2 - 0.5, HEIGHT - 0.08), beam, 0.015)
    skirting = paint("skirting", (0.78, 0.75, 0.70), 0.4)
    box((2 * HALF, 0.02, 0.11), (0, DEPTH - 0.01, 0.055), skirting, 0.006)
    box((0.02, DEPTH, 0.11), (HALF - 0.01, DEPTH / 2, 0.055), skirting, 0.006)
    box((0.02, DEPTH, 0.11), (-HALF + 0.01, DEPTH / 2, 0.055), skirting, 0.006)


def build_window():
    frame = paint("window frame", (0.80, 0.79, 0.76), 0.35)
    (x0, x1), (z0, z1), y = WIN_X, WIN_Z, DEPTH + 0.2
    middle = (z0 + z1) / 2
    for x in (x0 + 0.03, x1 - 0.03):
        box((0.06, 0.08, z1 - z0), (x, y, middle), frame)
    for z in (z0 + 0.03, z1 - 0.03):
        box((x1 - x0, 0.08, 0.06), ((x0 + x1) / 2, y, z), frame)
    for k in (1, 2):
        box((0.055, 0.07, z1 - z0), (x0 + (x1 - x0) * k / 3, y, middle), frame)
    box((x1 - x0, 0.05, 0.035), ((x0 + x1) / 2, y, z1 - 0.5), frame)
    oak = wood("sill", (0.30, 0.15, 0.06), (0.55, 0.32, 0.15), "X", 0.35)
    box((x1 - x0 + 0.16, 0.42, 0.04), ((x0 + x1) / 2, DEPTH + 0.03, z0 - 0.01), oak, 0.01)


def build_curtains():
    mat, tree = material("curtain")
    place = coords(tree, "UV", (1, 1, 1))
    ins = {"Vector": place, "Scale": 5.0, "Distortion": 0.0}
    bands = node(tree, "TexWave", ins, bands_direction="X").outputs["Fac"]
    color = ramp(tree, bands, [(0.0, (0.62, 0.12, 0.06)), (0.6, (0.80, 0.46, 0.16))], "CONSTANT")
    front = node(tree, "BsdfDiffuse", {"Color": color}).outputs[0]
    through = node(tree, "BsdfTranslucent", {"Color": color}).outputs[0]
    cloth = node(tree, "MixShader", {0: 0.3, 1: front, 2: through}).outputs[0]
    node(tree, "OutputMaterial", {"Surface": cloth})
    for x0, x1 in ((WIN_X[0] - 0.30, WIN_X[0] + 0.20), (WIN_X[1] - 0.14, WIN_X[1] + 0.36)):
        def point(u, v):
            fold = math.sin(u * 2 * math.pi * 5 + 0.7 * math.sin(3 * v)) * (0.055 - 0.02 * v)
            sway = 0.02 * math.sin(v * 5 + x0)
            return (x0 + (x1 - x0) * u + sway, DEPTH - 0.12 + fold, 0.03 + 2.53 * v)
        grid(160, 40, point, mat)
    rod = paint("rod", (0.12, 0.10, 0.09), 0.3, Metallic=0.8)
    tube([(WIN_X[0] - 0.36, DEPTH - 0.12, 2.58), (WIN_X[1] + 0.42, DEPTH - 0.12, 2.58)], 0.014, rod)


def any_color(light=0.65):
    """A saturated colour of random hue, in linear light."""
    hue = rng.random() * 6
    color = [max(0, min(1, abs((hue + k) % 6 - 3) - 1)) for k in (0, 4, 2)]
    gray, value = rng.uniform(0.08, 0.55), rng.uniform(0.25, 1.0) * light
    return tuple(value * (gray + (1 - gray) * c) ** 1.4 + 0.012 for c in color)


def book(x, y, z, width, height, depth, covers, gilt, tilt=0.0):
    mat = rng.choice(covers)
    lean = math.sin(tilt) * height / 2
    box((width, depth, height), (x + lean, y, z + height / 2), mat, 0.004, (0, tilt, 0))
    if width > 0.024:
        for level in rng.sample((0.14, 0.24, 0.62, 0.74, 0.86), 2):
            tall = height * rng.choice((0.02, 0.05, 0.12))
            place = (x + math.sin(tilt) * height * level, y - depth / 2, z + height * level)
            box((width * 0.86, 0.003, tall), place, rng.choice(gilt), 0, (0, tilt, 0))


def build_bookshelf():
    board = wood("shelf", (0.20, 0.09, 0.04), (0.45, 0.24, 0.11), "X")
    post = wood("shelf post", (0.20, 0.09, 0.04), (0.45, 0.24, 0.11), "Z")
    x0, x1, y, deep, tall = -2.47, -1.08, DEPTH - 0.17, 0.32, 2.3
    for x in (x0, x1):
        box((0.035, deep, tall), (x, y, tall / 2), post)
    box((x1 - x0, 0.015, tall), ((x0 + x1) / 2, y + deep / 2, tall / 2), board, 0)
    levels = [0.08, 0.50, 0.88, 1.24, 1.60, 1.95, 2.29]
    for z in levels:
        box((x1 - x0 - 0.034, deep, 0.03), ((x0 + x1) / 2, y, z), board, 0.004)
    covers = [paint(f"cover {k}", any_color(), 0.5, 0.2, 30) for k in range(28)]
    gilt = [paint("gilt", (0.8, 0.55, 0.2), 0.35, Metallic=0.7),
            paint("label", (0.8, 0.76, 0.66)), paint("ink", (0.04, 0.04, 0.05))]
    for z, above in zip(levels[:-1], levels[1:]):
        gap = rng.uniform(x0 + 0.35, x1 - 0.5)
        x = x0 + 0.025
        while x < x1 - 0.06:
            width = rng.uniform(0.018, 0.05)
            if gap < x < gap + 0.24:
                x = gap + 0.3
                continue
            height = rng.uniform(0.62, 0.92) * (above - z - 0.03)
            deep_book = rng.uniform(0.17, 0.24)
            tilt = 0.12 if gap + 0.3 <= x < gap + 0.36 else 0.0
            if x + width < x1 - 0.02:
                book(x + width / 2, y - 0.02, z + 0.016, width, height, deep_book, covers, gilt,
                     -tilt)
            x += width + 0.002 + (0.01 if tilt else 0)
        ornament(gap + 0.15, y - 0.06, z + 0.015, rng.choice(("jar", "globe", "pot")))


def ornament(x, y, z, kind):
    glaze = paint(f"glaze {x:.3f} {z:.2f}", any_color(0.8), 0.15, 0.25, 12, Clearcoat=0.5)
    if kind == "jar":
        lathe([(0, 0), (0.04, 0), (0.07, 0.06), (0.075, 0.11), (0.05, 0.17), (0.03, 0.2),
               (0.042, 0.225)], (x, y, z), glaze)
    elif kind == "globe":
        lathe([(0, 0), (0.06, 0), (0.055, 0.015), (0.012, 0.03), (0.012, 0.06)], (x, y, z), glaze)
        ball(0.09, (x, y, z + 0.145), globe_skin())
    else:
        lathe([(0, 0), (0.05, 0), (0.065, 0.1), (0.07, 0.1), (0.07, 0.115), (0.055, 0.115),
               (0.05, 0.09), (0, 0.09)], (x, y, z), glaze)
        plant((x, y, z + 0.09), 14, 0.13, 0.02)


def globe_skin():
    mat, tree = material("globe")
    land = noise_fac(tree, coords(tree), 14, 6)
    stops = [(0.0, (0.05, 0.2, 0.5)), (0.5, (0.15, 0.35, 0.1)), (0.6, (0.6, 0.45, 0.2))]
    finish(tree, Base_Color=ramp(tree, land, stops, "CONSTANT"), Roughness=0.3)
    return mat


def rug_at(u, v):
    """A carpet: borders, a diamond medallion and small motifs in wine, navy, gold and cream."""
    wine, navy, gold, cream = (0.36, 0.03, 0.04), (0.03, 0.06, 0.20), (0.70, 0.40, 0.08), \
        (0.72, 0.62, 0.45)
    x, y = (u - 0.5) * 2 * 1.4, (v - 0.5) * 2
    edge = min(1.4 - abs(x), 1 - abs(y))
    if edge < 0.03 or 0.20 < edge < 0.225:
        return gold
    if edge < 0.20:
        beat = (x + y) * 6 % 1
        cell = abs((x * 6) % 1 - 0.5) + abs((y * 6) % 1 - 0.5)
        return cream if cell < 0.28 else (wine if beat < 0.5 else navy)
    ring = abs(x) / 1.15 + abs(y) / 0.8 + 0.02 * math.sin(40 * math.atan2(y, x))
    for limit, color in ((0.18, gold), (0.3, navy), (0.36, cream), (0.6, (0.05, 0.22, 0.22)),
                         (0.66, gold)):
        if ring < limit:
            petal = math.cos(8 * math.atan2(y, x)) * 0.5 + 0.5
            return cream if 0.42 < ring < 0.54 and petal > 0.55 else color
    motif = math.hypot((x * 5) % 1 - 0.5, (y * 5) % 1 - 0.5)
    return gold if motif < 0.12 else (navy if motif < 0.26 else wine)


def build_rug():
    mat = drawn("rug", 560, 400, rug_at, 1.0, rugged=True)

    def point(u, v):
        lift = 0.004 * math.sin(u * 9) * math.sin(v * 7)
        return (-1.2 + 2.4 * u, 2.45 + 1.75 * v, 0.016 + lift)
    grid(60, 40, point, mat)
    fringe = paint("fringe", (0.7, 0.62, 0.48), 0.9)
    for k in range(90):
        y = 2.46 + 1.73 * k / 89
        for side, x in ((-1, -1.2), (1, 1.2)):
            end = (x + side * rng.uniform(0.05, 0.08), y + rng.uniform(-0.012, 0.012), 0.006)
            tube([(x, y, 0.016), end], 0.004, fringe)


def build_sofa():
    cloth = fabric("sofa", (0.06, 0.27, 0.42))
    leg = wood("sofa leg", (0.15, 0.07, 0.03), (0.3, 0.15, 0.07), "Z")
    x, y0, y1 = 1.95, 2.55, 4.35
    middle = (y0 + y1) / 2
    box((0.82, y1 - y0 - 0.1, 0.22), (x, middle, 0.25), cloth, 0.04, segments=5)
    box((0.22, y1 - y0, 0.62), (x + 0.36, middle, 0.52), cloth, 0.07, (0, 0.08, 0), 6)
    for y in (y0 + 0.09, y1 - 0.09):
        box((0.86, 0.19, 0.50), (x, y, 0.38), cloth, 0.07, segments=6)
    for k in range(2):
        place = (x - 0.05, y0 + 0.18 + (y1 - y0 - 0.36) * (k + 0.5) / 2, 0.41)
        box((0.74, 0.70, 0.17), place, cloth, 0.06, segments=6)
    for dx in (-0.36, 0.36):
        for y in (y0 + 0.1, y1 - 0.1):
            box((0.05, 0.05, 0.14), (x + dx, y, 0.07), leg, 0.006)
    looks = [fabric("cushion a", (0.80, 0.45, 0.05)),
             fabric("cushion b", (0.75, 0.70, 0.60), (0.60, 0.05, 0.06), stripes=5),
             drawn("cushion c", 200, 200, checks_at, 0.9),
             drawn("cushion d", 240, 240, rings_at, 0.9)]
    spots = ((4.02, 0.42, -1.95), (3.68, 0.38, -1.72), (3.22, 0.40, -1.45), (2.92, 0.44, -1.2))
    for (y, size, turn), mat in zip(spots, looks):
        pillow(size, (x + 0.16, y, 0.47 + size / 2), (-0.3, 0.08, turn), mat)


def checks_at(u, v):
    a, b = int(u * 8), int(v * 8)
    tone = [(0.8, 0.72, 0.5), (0.07, 0.35, 0.3), (0.8, 0.25, 0.1), (0.1, 0.12, 0.35)]
    return tone[(a * a + 2 * b + a * b) % 4]


def build_armchair():
    """A chair turned towards the table, built at the origin and then moved as one."""
    cloth = fabric("armchair", (0.72, 0.36, 0.03))
    leg = wood("chair leg", (0.2, 0.09, 0.04), (0.4, 0.2, 0.09), "Z")
    parts = [box((0.78, 0.78, 0.2), (0, 0, 0.27), cloth, 0.04, segments=5),
             box((0.56, 0.66, 0.16), (0, -0.06, 0.43), cloth, 0.06, segments=6),
             box((0.76, 0.2, 0.66), (0, 0.33, 0.6), cloth, 0.08, (-0.16, 0, 0), 6)]
    for side in (-1, 1):
        arm = (side * 0.335, -0.02, 0.41)
        parts.append(box((0.15, 0.76, 0.42), arm, cloth, 0.06, segments=6))
        for y in (-0.32, 0.32):
            parts.append(box((0.05, 0.05, 0.18), (side * 0.32, y, 0.09), leg, 0.006))
    before = set(bpy.data.objects)
    pillow(0.4, (0.02, 0.12, 0.68), (-0.3, 0.12, 0),
           fabric("cushion e", (0.06, 0.30, 0.28), (0.75, 0.66, 0.5), stripes=7))
    parts += [obj for obj in bpy.data.objects if obj not in before]
    gather(parts, (-1.42, 3.62, 0), 0.62)


def build_table():
    oak = wood("table", (0.26, 0.12, 0.05), (0.58, 0.33, 0.15), "X", 0.3)
    x, y, z = 0.12, 3.25, 0.43
    lathe([(0, 0), (0.56, 0), (0.58, 0.012), (0.58, 0.03), (0.565, 0.04), (0, 0.04)],
          (x, y, z - 0.04), oak, 96)
    for k in range(3):
        a = math.pi * (0.5 + k / 1.5)
        foot = (x + 0.5 * math.cos(a), y + 0.5 * math.sin(a), 0.02)
        tube([(x + 0.3 * math.cos(a), y + 0.3 * math.sin(a), z - 0.04), foot], 0.022, oak)
    fruit_bowl(x + 0.1, y + 0.08, z)
    covers = [paint(f"big book {k}", any_color(0.8), 0.35) for k in range(5)]
    pages = paint("pages", (0.75, 0.70, 0.6), 0.8)
    level = z
    for k, turn in enumerate((0.3, 0.05, 0.5)):
        thick = (0.035, 0.028, 0.022)[k]
        place = (x - 0.27, y - 0.06, level + thick / 2)
        box((0.27 - 0.03 * k, 0.2 - 0.02 * k, thick), place, covers[k], 0.003, (0, 0, turn))
        inner = (0.262 - 0.03 * k, 0.204 - 0.02 * k, thick * 0.72)
        box(inner, place, pages, 0, (0, 0, turn))
        level += thick
    cup = paint("cup", (0.75, 0.2, 0.12), 0.2, Clearcoat=0.6)
    lathe([(0, 0), (0.03, 0), (0.04, 0.02), (0.042, 0.085), (0.038, 0.085), (0.036, 0.02),
           (0, 0.018)], (x + 0.02, y - 0.33, z), cup)
    handle = [(x + 0.06 + 0.026 * math.sin(t), y - 0.33, z + 0.047 + 0.024 * math.cos(t))
              for t in [k * math.pi / 10 for k in range(11)]]
    tube(handle, 0.005, cup)


def fruit_bowl(x, y, z):
    blue = paint("bowl", (0.06, 0.16, 0.42), 0.12, 0.5, 20, Clearcoat=0.7)
    lathe([(0, 0), (0.07, 0), (0.08, 0.015), (0.15, 0.05), (0.2, 0.1), (0.206, 0.1), (0.155, 0.045),
           (0.08, 0.02), (0, 0.018)], (x, y, z), blue)
    orange = paint("orange", (0.85, 0.27, 0.015), 0.4, 0.1, 40)
    apple = paint("apple", (0.55, 0.03, 0.03), 0.2, 0.6, 14)
    green = paint("green apple", (0.32, 0.52, 0.05), 0.2, 0.3, 14)
    lemon = paint("lemon", (0.85, 0.62, 0.03), 0.4, 0.1, 40)
    grape = paint("grape", (0.10, 0.02, 0.12), 0.25, 0.4, 30)
    for dx, dy, dz, mat, long in ((-0.09, -0.06, 0.1, orange, 1), (0.02, -0.1, 0.1, apple, 1),
                                  (0.1, -0.02, 0.1, orange, 1), (0.06, 0.08, 0.1, green, 1),
                                  (-0.06, 0.07, 0.1, lemon, 1.25), (-0.01, -0.01, 0.165, green, 1),
                                  (0.05, 0.0, 0.155, lemon, 1.25), (-0.05, 0.0, 0.15, apple, 1)):
        turn = (0, rng.uniform(-0.5, 0.5), rng.uniform(0, 3))
        ball(0.045, (x + dx, y + dy, z + dz), mat, (long, 1, 0.95), turn)
    for k in range(26):
        a, r = k * 2.4, 0.012 * math.sqrt(k)
        place = (x + 0.125 + r * math.cos(a) * 0.8, y - 0.095 + r * math.sin(a) * 0.7,
                 z + 0.125 - 0.009 * k ** 0.5 + rng.uniform(0, 0.01))
        ball(0.0135, place, grape)
    banana = paint("banana", (0.85, 0.60, 0.06), 0.45, 0.15, 20)
    for k in range(3):
        left, near, low = x - 0.14 + 0.02 * k, y - 0.02 + 0.03 * k, z + 0.10 + 0.02 * k
        arc = [(left + 0.10 * math.cos(t), near + 0.05 * math.sin(t), low + 0.10 * math.sin(t))
               for t in [0.3 + i * 0.16 for i in range(13)]]
        skin = tube(arc, 0.019, banana)
        for i, point in enumerate(skin.data.splines[0].points):
            point.radius = max(0.25, math.sin(math.pi * (i + 0.7) / 13.4) ** 0.4)


def build_side_table():
    oak = wood("side table", (0.30, 0.15, 0.07), (0.60, 0.36, 0.18), "Y", 0.35)
    x, y, z = -1.5, 2.62, 0.62
    box((0.46, 0.46, 0.035), (x, y, z - 0.0175), oak, 0.008)
    for dx in (-0.19, 0.19):
        for dy in (-0.19, 0.19):
            box((0.035, 0.035, z - 0.035), (x + dx, y + dy, (z - 0.035) / 2), oak, 0.004)
    box((0.4, 0.4, 0.02), (x, y, 0.2), oak, 0.004)
    build_vase(x + 0.02, y + 0.03, z)
    covers = [paint(f"low book {k}", any_color(0.8), 0.4) for k in range(4)]
    for k, mat in enumerate(covers):
        place = (x + 0.02, y, 0.225 + 0.03 * k)
        box((0.27, 0.2, 0.028), place, mat, 0.003, (0, 0, rng.uniform(-0.3, 0.3)))


def build_vase(x, y, z):
    mat, tree = material("vase")
    place = coords(tree)
    ins = {"Vector": place, "Scale": 7.0, "Distortion": 3.0, "Detail": 2.0}
    bands = node(tree, "TexWave", ins, bands_direction="Z").outputs["Fac"]
    stops = [(0.0, (0.75, 0.72, 0.64)), (0.45, (0.05, 0.20, 0.45)), (0.7, (0.7, 0.68, 0.6))]
    finish(tree, Base_Color=ramp(tree, bands, stops, "CONSTANT"), Roughness=0.15, Clearcoat=0.5)
    lathe([(0, 0), (0.055, 0), (0.085, 0.07), (0.09, 0.12), (0.06, 0.2), (0.04, 0.24),
           (0.055, 0.27), (0.05, 0.27), (0.034, 0.24), (0.034, 0.2)], (x, y, z), mat)
    stem = paint("stem", (0.10, 0.28, 0.06), 0.5)
    petals = [paint("petal a", (0.85, 0.08, 0.10), 0.5), paint("petal b", (0.9, 0.5, 0.05), 0.5),
              paint("petal c", (0.75, 0.20, 0.50), 0.5), paint("petal d", (0.85, 0.80, 0.68), 0.5)]
    for k in range(13):
        a, lean = k * 2.4, 0.03 + 0.05 * math.sqrt(k)
        top = (x + lean * math.cos(a), y + lean * math.sin(a), z + 0.60 - 0.9 * lean
               + rng.uniform(-0.03, 0.03))
        foot = Vector((x, y, z + 0.2))
        along = Vector(top) - foot
        way = [foot + Vector((along.x * t ** 1.7, along.y * t ** 1.7, along.z * t))
               for t in (0, 0.25, 0.5, 0.75, 1)]
        tube(way, 0.004, stem)
        head = lathe([(0.004, -0.005), (0.028, 0.01), (0.034, 0.03), (0.030, 0.055), (0.022, 0.07),
                      (0.020, 0.055), (0.006, 0.02)], top, petals[k % 4], 12)
        head.rotation_euler = (-2.2 * lean * math.sin(a), 2.2 * lean * math.cos(a), a)
    plant((x, y, z + 0.25), 12, 0.3, 0.022)


def framed(center, wall, width, height, mat, wood_mat):
    """A picture on a side wall; wall is the sign of the wall's x."""
    y, z = center
    x = wall * (HALF - 0.025)
    for dy, dz, size in ((0, height / 2, (0.045, width + 0.035, 0.035)),
                         (0, -height / 2, (0.045, width + 0.035, 0.035)),
                         (width / 2, 0, (0.045, 0.035, height + 0.035)),
                         (-width / 2, 0, (0.045, 0.035, height + 0.035))):
        box(size, (x, y + dy, z + dz), wood_mat, 0.006)
    across = (0, wall * -width, 0)
    panel((x, y + wall * width / 2, z - height / 2), across, (0, 0, height), mat)


def rings_at(u, v):
    a, b = int(u * 3), int(v * 4)
    tones = [(0.8, 0.1, 0.05), (0.9, 0.6, 0.05), (0.05, 0.2, 0.6), (0.1, 0.45, 0.35),
             (0.5, 0.1, 0.35), (0.85, 0.78, 0.6), (0.9, 0.3, 0.1)]
    r = math.hypot(u * 3 - a - 0.5, v * 4 - b - 0.5)
    return tones[(a * 5 + b * 3 + int(r * 8) * (1 + (a + b) % 3)) % 7]


def sunset_at(u, v):
    sun = math.hypot(u - 0.35, (v - 0.56) * 1.3)
    ridge = [0.42 + 0.06 * math.sin(u * 7) + 0.03 * math.sin(u * 17),
             0.30 + 0.07 * math.sin(u * 5 + 2) + 0.02 * math.sin(u * 23),
             0.15 + 0.06 * math.sin(u * 6 + 4)]
    if v < ridge[2]:
        return (0.02, 0.06, 0.12)
    if v < ridge[1]:
        return (0.08, 0.14, 0.30)
    if v < ridge[0]:
        return (0.30, 0.16, 0.36)
    if sun < 0.11:
        return (0.95, 0.75, 0.25)
    return (0.9 - 0.35 * v, 0.25 + 0.25 * v, 0.08 + 0.5 * v * v)


def blocks_at(u, v):
    lines_u, lines_v = (0.0, 0.28, 0.62, 1.0), (0.0, 0.2, 0.5, 0.8, 1.0)
    tones = [(0.8, 0.75, 0.65), (0.75, 0.05, 0.04), (0.05, 0.1, 0.45), (0.85, 0.6, 0.04),
             (0.75, 0.7, 0.6)]
    if min(abs(u - w) for w in lines_u) < 0.015 or min(abs(v - w) for w in lines_v) < 0.012:
        return (0.02, 0.02, 0.02)
    a = sum(u > w for w in lines_u)
    b = sum(v > w for w in lines_v)
    return tones[(a * 3 + b * 2) % 5]


def waves_at(u, v):
    level = v + 0.05 * math.sin(u * 11 + v * 6) + 0.03 * math.sin(u * 23 - v * 4)
    tones = [(0.03, 0.09, 0.22), (0.05, 0.25, 0.42), (0.20, 0.50, 0.55), (0.80, 0.75, 0.60),
             (0.85, 0.40, 0.20), (0.55, 0.10, 0.15)]
    return tones[min(5, max(0, int(level * 6)))]


def build_pictures():
    gold = paint("gold frame", (0.65, 0.42, 0.15), 0.3, Metallic=0.8)
    dark = wood("dark frame", (0.05, 0.03, 0.02), (0.14, 0.08, 0.05), "Y")
    framed((4.35, 1.72), -1, 0.62, 0.82, drawn("sunset", 240, 320, sunset_at), gold)
    framed((3.72, 1.66), -1, 0.42, 0.56, drawn("blocks", 210, 280, blocks_at), dark)
    framed((3.80, 1.72), 1, 0.46, 0.60, drawn("waves", 230, 300, waves_at), dark)
    framed((4.42, 1.74), 1, 0.54, 0.74, drawn("rings", 270, 360, rings_at), gold)


def build_lamp():
    metal = paint("brass", (0.70, 0.45, 0.16), 0.25, Metallic=1.0)
    x, y = -2.18, 4.35
    lathe([(0, 0), (0.15, 0), (0.15, 0.015), (0.02, 0.03), (0.012, 0.05), (0.012, 1.36)],
          (x, y, 0), metal)
    mat, tree = material("shade")
    cloth = node(tree, "BsdfTranslucent", {"Color": rgba((0.85, 0.68, 0.45))}).outputs[0]
    glow = node(tree, "Emission", {"Color": rgba((1.0, 0.62, 0.28)), "Strength": 0.35}).outputs[0]
    both = node(tree, "AddShader", {0: cloth, 1: glow}).outputs[0]
    node(tree, "OutputMaterial", {"Surface": both})
    lathe([(0.2, 0), (0.13, 0.27)], (x, y, 1.34), mat)
    bulb = bpy.data.lights.new("bulb", "POINT")
    bulb.energy, bulb.color, bulb.shadow_soft_size = 9, (1.0, 0.66, 0.34), 0.06
    add_light(bulb, (x, y, 1.45))


def build_small_things():
    pot = paint("terracotta", (0.55, 0.22, 0.11), 0.8, 0.15, 20)
    lathe([(0, 0), (0.13, 0), (0.18, 0.3), (0.2, 0.3), (0.2, 0.35), (0.17, 0.35), (0.16, 0.3),
           (0, 0.3)], (1.72, 4.82, 0), pot)
    plant((1.72, 4.82, 0.3), 30, 0.85, 0.055)
    for k, x in enumerate((-0.15, 0.1, 0.9)):
        glaze = paint(f"sill pot {k}", any_color(0.9), 0.2, Clearcoat=0.4)
        lathe([(0, 0), (0.05, 0), (0.065, 0.1), (0.058, 0.1), (0.05, 0.08), (0, 0.08)],
              (x, DEPTH + 0.02, WIN_Z[0] + 0.01), glaze)
        plant((x, DEPTH + 0.02, WIN_Z[0] + 0.09), 16, 0.17 + 0.03 * k, 0.018)
    pouf = fabric("pouf", (0.65, 0.10, 0.07), (0.75, 0.6, 0.35), stripes=4)
    rim = [(0.0, 0.0), (0.25, 0.0), (0.31, 0.06), (0.33, 0.17), (0.31, 0.29), (0.25, 0.35),
           (0.12, 0.37), (0.0, 0.375)]
    lathe(rim, (0.78, 4.55, 0), pouf)
    wicker = fabric("wicker", (0.50, 0.30, 0.13), (0.28, 0.15, 0.06), 90, 14)
    lathe([(0, 0), (0.17, 0), (0.21, 0.12), (0.2, 0.24), (0.18, 0.24), (0.19, 0.12), (0, 0.05)],
          (-0.62, 4.62, 0), wicker)
    for k in range(7):
        yarn = fabric(f"yarn {k}", any_color(0.9), None, 60)
        a = k * 2.4
        reach = 0.09 if k else 0
        place = (-0.62 + reach * math.cos(a), 4.62 + reach * math.sin(a), 0.22 + 0.01 * k)
        ball(0.075, place, yarn)


# --- outdoors ----------------------------------------------------------------------------------

def smooth(low, high, value):
    t = max(0.0, min(1.0, (value - low) / (high - low)))
    return t * t * (3 - 2 * t)


def ground(x, y):
    """Height of the land: a slope down to a lake, then hills and mountains behind."""
    rough = noise.fractal(Vector((x / 70, y / 70, 0)), 1.0, 2.0, 5)
    far = noise.fractal(Vector((x / 420, y / 420, 5)), 0.9, 2.0, 6)
    ridge = 1 - abs(noise.fractal(Vector((x / 900, y / 900, 9)), 0.8, 2.1, 7))
    lake = math.exp(-((y - 335 + 0.2 * x) / 90) ** 2)
    z = -4.5 - 16.5 * smooth(5, 190, y) + 1.1 * rough * smooth(20, 90, y) - 5.5 * lake
    z += (44 + 30 * far) * smooth(400, 1100, y)
    return z + 330 * max(0, ridge - 0.25) ** 1.5 * smooth(1200, 3600, y)


def land():
    mat, tree = material("land")
    place = coords(tree)
    cells = node(tree, "TexVoronoi", {"Vector": place, "Scale": 0.014, "Randomness": 0.9})
    pick = node(tree, "SeparateColor", {0: cells.outputs["Color"]}).outputs[0]
    stops = [(0.0, (0.09, 0.20, 0.03)), (0.22, (0.40, 0.36, 0.06)), (0.38, (0.14, 0.27, 0.04)),
             (0.55, (0.50, 0.42, 0.16)), (0.70, (0.11, 0.24, 0.05)), (0.86, (0.26, 0.14, 0.34))]
    field = ramp(tree, pick, stops, "CONSTANT")
    spots = noise_fac(tree, place, 0.35, 8)
    shade = ramp(tree, spots, [(0.3, (0.55, 0.55, 0.55)), (0.7, (1.2, 1.2, 1.2))])
    field = mix(tree, 1.0, field, shade, "MULTIPLY")
    far = node(tree, "SeparateXYZ", {0: place})
    patches = math_node(tree, "MULTIPLY", noise_fac(tree, place, 0.012, 6), 900.0)
    fade = math_node(tree, "DIVIDE", math_node(tree, "ADD", far.outputs["Y"], patches), 2400.0)
    forest = ramp(tree, fade, [(0.40, (0, 0, 0)), (0.52, (1, 1, 1))])
    color = mix(tree, forest, field, rgba((0.05, 0.10, 0.04)))
    drift = math_node(tree, "MULTIPLY", noise_fac(tree, place, 0.006, 8), 130.0)
    level = math_node(tree, "DIVIDE", math_node(tree, "ADD", far.outputs["Z"], drift), 400.0)
    rock = mix(tree, ramp(tree, level, [(0.36, (0, 0, 0)), (0.46, (1, 1, 1))]), color,
               rgba((0.24, 0.22, 0.21)))
    snow = ramp(tree, level, [(0.54, (0, 0, 0)), (0.6, (1, 1, 1))])
    color = mix(tree, snow, rock, rgba((0.85, 0.87, 0.9)))
    soil = node(tree, "BsdfDiffuse", {"Color": color}).outputs[0]
    node(tree, "OutputMaterial", {"Surface": hazed(tree, soil)})

    def point(u, v):
        y = 8 * (560 ** v)
        x = (u - 0.5) * 2.0 * (y + 12)
        return (x, y, ground(x, y))
    grid(220, 320, point, mat)


def lake():
    mat, tree = material("water")
    ripples = noise_fac(tree, coords(tree, "Object", (0.25, 1.2, 1)), 1.0, 4)
    ins = {"Base Color": rgba((0.03, 0.10, 0.16)), "Roughness": 0.06,
           "Normal": bump(tree, ripples, 0.08, 0.3)}
    water = node(tree, "BsdfPrincipled", ins).outputs[0]
    node(tree, "OutputMaterial", {"Surface": hazed(tree, water)})
    panel((-400, 180, LAKE_Z), (800, 0, 0), (0, 330, 0), mat)


def tree_kinds():
    bark = paint("bark", (0.12, 0.08, 0.05), 0.9)
    round_ = [((0, 0, 4.2), 1.9), ((1.1, 0.3, 3.4), 1.3), ((-1.0, 0.5, 3.6), 1.4),
              ((0.2, -1.1, 3.3), 1.3), ((0, 0.4, 5.4), 1.2)]
    fir = [((0, 0, 1.6 + 0.75 * k), 1.65 - 0.22 * k) for k in range(7)]
    looks = [("oak", (0.05, 0.13, 0.02), (0.16, 0.27, 0.04), round_),
             ("lime", (0.14, 0.24, 0.03), (0.34, 0.40, 0.06), round_),
             ("maple", (0.42, 0.09, 0.02), (0.68, 0.27, 0.04), round_),
             ("cherry", (0.60, 0.22, 0.32), (0.80, 0.52, 0.58), round_),
             ("fir", (0.02, 0.07, 0.03), (0.06, 0.14, 0.05), fir)]
    return [tree_mesh(name, leafy(name, dark, light, haze=True), bark, crowns, 7000, 0.11)
            for name, dark, light, crowns in looks]


def put_tree(mesh, x, y, scale):
    obj = add("tree", mesh, None, (x, y, ground(x, y)), (0, 0, rng.uniform(0, 6)))
    obj.scale = (scale, scale, scale * rng.uniform(0.9, 1.2))


def build_trees():
    kinds = tree_kinds()
    # The nearest ones are placed by hand, to frame the view without hiding it.
    for kind, x, y, scale in ((3, -3.2, 33, 1.15), (1, 15.0, 40, 1.3), (2, 12.5, 62, 0.9),
                              (0, -8, 60, 1.1), (4, 24, 66, 1.5), (3, 3, 80, 0.6)):
        put_tree(kinds[kind], x, y, scale)
    placed = 0
    while placed < 1100:
        y = 75 * 13 ** rng.random()
        x = rng.uniform(-0.35, 0.6) * y
        grove = noise.noise(Vector((x / 45, y / 45, 3)))
        # Few trees stand between the window and the lake, so that the village is seen.
        view = y < 430 and -0.25 * y < x < 0.42 * y
        sparse = 0.05 if view else 0.12
        if ground(x, y) < LAKE_Z + 0.5 or (grove < 0.08 or view) and rng.random() > sparse:
            continue
        kind = rng.choices(range(5), (5, 4, 2, 0.3, 4))[0]
        put_tree(kinds[kind], x, y, rng.uniform(0.7, 1.5))
        placed += 1


def house(x, y, turn, wall, roof, glass, size=1.0, tower=False):
    z = ground(x, y) - 0.3
    wide, deep, tall = 8.5 * size, 6.0 * size, 3.6 * size
    parts = [box((wide, deep, tall), (0, 0, tall / 2), wall, 0)]
    a, b, top = wide / 2 + 0.4, deep / 2 + 0.5, 2.8 * size
    verts = [(-a, -b, tall - 0.3), (a, -b, tall - 0.3), (a, b, tall - 0.3), (-a, b, tall - 0.3),
             (-a, 0, tall + top), (a, 0, tall + top)]
    faces = [(0, 1, 5, 4), (2, 3, 4, 5), (0, 4, 3), (1, 2, 5), (0, 3, 2, 1)]
    parts.append(shape("roof", verts, faces, roof))
    parts.append(box((0.7, 0.7, 2.2), (wide * 0.25, 0.8, tall + top * 0.8), roof, 0))
    for k in range(4):
        place = ((k - 1.5) * wide * 0.23, -deep / 2, tall * 0.55)
        parts.append(box((wide * 0.1, 0.1, tall * 0.36), place, glass, 0))
    if tower:
        parts.append(box((3, 3, 10), (-wide / 2, 0, 5), wall, 0))
        spire = [(-1.8, -1.8, 0), (1.8, -1.8, 0), (1.8, 1.8, 0), (-1.8, 1.8, 0), (0, 0, 6)]
        sides = [(0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)]
        parts.append(shape("spire", spire, sides, roof, (-wide / 2, 0, 10)))
    gather(parts, (x, y, z), turn)


def build_village():
    walls = [paint(f"house {k}", color, 0.9) for k, color in enumerate(
        ((0.78, 0.74, 0.66), (0.75, 0.55, 0.25), (0.60, 0.22, 0.14), (0.50, 0.62, 0.70)))]
    roofs = [paint("tiles", (0.50, 0.13, 0.06), 0.8, 0.3, 2),
             paint("slate", (0.16, 0.17, 0.2), 0.7)]
    glass = paint("house window", (0.05, 0.07, 0.10), 0.1)
    spots = ((4.5, 98, 0.3), (15, 110, -0.5), (26, 102, 0.2), (35, 118, 0.7), (22, 128, -0.2),
             (9, 126, 0.6), (-6, 118, -0.4), (31, 140, 0.1), (44, 134, -0.6), (-14, 104, 0.5),
             (90, 445, 0.4), (110, 455, -0.3), (60, 450, 0.2), (30, 460, 0.5))
    for k, (x, y, turn) in enumerate(spots):
        house(x, y, turn, walls[k % 4], roofs[k % 3 == 2], glass, tower=k == 4)


# --- light, camera, render ---------------------------------------------------------------------

def build_light():
    azimuth, elevation = math.radians(46), math.radians(33)
    way = Vector((math.sin(azimuth) * math.cos(elevation), math.cos(azimuth) * math.cos(elevation),
                  math.sin(elevation)))
    build_sky(way)
    sun = bpy.data.lights.new("sun", "SUN")
    sun.energy, sun.angle, sun.color = 7.0, 0.009, (1.0, 0.93, 0.82)
    add_light(sun, (0, 0, 20), -way)
    portal = bpy.data.lights.new("portal", "AREA")
    portal.shape, portal.size, portal.size_y = "RECTANGLE", 2.74, 1.92
    portal.cycles.is_portal = True
    add_light(portal, (sum(WIN_X) / 2, DEPTH + 0.32, sum(WIN_Z) / 2), (0, -1, 0))
    # A second window behind the camera, out of sight: it lights the sides turned to us.
    fill = bpy.data.lights.new("fill", "AREA")
    fill.shape, fill.size, fill.size_y = "RECTANGLE", 2.2, 1.4
    fill.energy, fill.color = 14, (0.86, 0.93, 1.0)
    add_light(fill, (-1.2, -0.9, 1.8), (0.25, 1, -0.1)).visible_camera = False


def build_camera():
    data = bpy.data.cameras.new("camera")
    # Shifting the lens down shows more floor and keeps the walls upright.
    data.lens, data.shift_y = 24, -0.055
    obj = bpy.data.objects.new("camera", data)
    obj.location, obj.rotation_euler = (0, 0.12, 1.5), (math.pi / 2, 0, -0.02)
    bpy.context.scene.collection.objects.link(obj)
    bpy.context.scene.camera = obj


def main():
    given = sys.argv[sys.argv.index("--") + 1:]
    out, samples, width = given + ["80", "1536"][len(given) - 1:]
    bpy.ops.wm.read_factory_settings(use_empty=True)
    for build in (build_shell, build_window, build_curtains, build_bookshelf, build_rug, build_sofa,
                  build_armchair, build_table, build_side_table, build_pictures, build_lamp,
                  build_small_things, land, lake, build_trees, build_village, build_light,
                  build_camera):
        build()
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    render(out, int(samples), int(width))


main()
