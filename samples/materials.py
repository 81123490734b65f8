"""Shader nodes, and the materials and the sky made of them."""
import math

import bpy


def node(tree, kind, ins=None, **attrs):
    """Add a shader node; each input is set to a value or linked to a socket."""
    made = tree.nodes.new("ShaderNode" + kind)
    for name, value in attrs.items():
        setattr(made, name, value)
    for name, value in (ins or {}).items():
        if isinstance(value, bpy.types.NodeSocket):
            tree.links.new(value, made.inputs[name])
        else:
            made.inputs[name].default_value = value
    return made


def rgba(color):
    return (*color, 1.0)


def material(name):
    mat = bpy.data.materials.new(name)
    mat.use_nodes = True
    mat.node_tree.nodes.clear()
    return mat, mat.node_tree


def finish(tree, **inputs):
    """Close a material with a Principled BSDF; input names have _ for a space."""
    bsdf = node(tree, "BsdfPrincipled", {k.replace("_", " "): v for k, v in inputs.items()})
    node(tree, "OutputMaterial", {"Surface": bsdf.outputs[0]})


def mix(tree, fac, one, two, blend="MIX"):
    ins = {"Fac": fac, "Color1": one, "Color2": two}
    return node(tree, "MixRGB", ins, blend_type=blend).outputs[0]


def math_node(tree, operation, a, b=0.0):
    made = node(tree, "Math", {0: a, 1: b}, operation=operation)
    return made.outputs[0]


def ramp(tree, fac, stops, interpolation="LINEAR"):
    made = node(tree, "ValToRGB", {"Fac": fac})
    made.color_ramp.interpolation = interpolation
    elements = made.color_ramp.elements
    while len(elements) < len(stops):
        elements.new(0.5)
    for element, (position, color) in zip(elements, stops):
        element.position, element.color = position, rgba(color)
    return made.outputs[0]


def noise_fac(tree, vector, scale, detail=4.0, distortion=0.0):
    ins = {"Vector": vector, "Scale": scale, "Detail": detail, "Distortion": distortion}
    return node(tree, "TexNoise", ins).outputs["Fac"]


def coords(tree, kind="Object", scale=(1, 1, 1)):
    source = node(tree, "TexCoord").outputs[kind]
    return node(tree, "Mapping", {"Vector": source, "Scale": scale}).outputs[0]


def bump(tree, height, strength=0.3, distance=0.01):
    ins = {"Height": height, "Strength": strength, "Distance": distance}
    return node(tree, "Bump", ins).outputs[0]


def paint(name, color, rough=0.5, spread=0.12, scale=6.0, **more):
    """A plain surface, with faint uneven tone so that nothing is perfectly flat."""
    mat, tree = material(name)
    spots = noise_fac(tree, coords(tree), scale)
    dark = tuple(c * (1 - spread) for c in color)
    light = tuple(min(1, c * (1 + spread)) for c in color)
    color = ramp(tree, spots, [(0.3, dark), (0.7, light)])
    finish(tree, Base_Color=color, Roughness=rough, **more)
    return mat


def plaster(name, color):
    mat, tree = material(name)
    grain = noise_fac(tree, coords(tree), 45, 6)
    tone = noise_fac(tree, coords(tree), 1.3)
    dark = tuple(c * 0.9 for c in color)
    base = ramp(tree, tone, [(0.3, dark), (0.7, color)])
    finish(tree, Base_Color=base, Roughness=0.9, Normal=bump(tree, grain, 0.35, 0.006))
    return mat


def wood(name, dark, light, along="X", rough=0.45):
    """Furniture wood: noise stretched along the grain, shifted from object to object."""
    mat, tree = material(name)
    scale = {"X": (1.2, 14, 14), "Y": (14, 1.2, 14), "Z": (14, 14, 1.2)}[along]
    shift = math_node(tree, "MULTIPLY", node(tree, "ObjectInfo").outputs["Random"], 30.0)
    source = node(tree, "TexCoord").outputs["Object"]
    place = node(tree, "Mapping", {"Vector": source, "Scale": scale, "Location": shift})
    grain = noise_fac(tree, place.outputs[0], 2.2, 8, 1.2)
    color = ramp(tree, grain, [(0.3, dark), (0.72, light)])
    finish(tree, Base_Color=color, Roughness=rough, Normal=bump(tree, grain, 0.15, 0.004))
    return mat


def bricks():
    mat, tree = material("bricks")
    metres = coords(tree, "UV")
    ins = {"Vector": metres, "Color1": rgba((0.50, 0.16, 0.08)), "Color2": rgba((0.62, 0.30, 0.17)),
           "Mortar": rgba((0.62, 0.57, 0.50)), "Scale": 1.0, "Mortar Size": 0.008,
           "Mortar Smooth": 0.25, "Brick Width": 0.23, "Row Height": 0.075}
    wall = node(tree, "TexBrick", ins)
    grain = noise_fac(tree, metres, 38, 6)
    shade = ramp(tree, grain, [(0.25, (0.6, 0.6, 0.6)), (0.75, (1.1, 1.1, 1.1))])
    color = mix(tree, 1.0, wall.outputs["Color"], shade, "MULTIPLY")
    gaps = math_node(tree, "MULTIPLY", wall.outputs["Fac"], -1.0)
    height = math_node(tree, "ADD", gaps, math_node(tree, "MULTIPLY", grain, 0.5))
    finish(tree, Base_Color=color, Roughness=0.85, Normal=bump(tree, height, 0.8, 0.008))
    return mat


def fabric(name, color, stripe=None, scale=90.0, stripes=22.0):
    """Woven cloth: fine waves crossing; stripe is a second colour in bands."""
    mat, tree = material(name)
    place = coords(tree)
    ins = {"Vector": place, "Scale": scale, "Distortion": 1.5, "Detail": 2.0}
    weft = node(tree, "TexWave", ins, bands_direction="X").outputs["Fac"]
    warp = node(tree, "TexWave", ins, bands_direction="Z").outputs["Fac"]
    weave = math_node(tree, "ADD", weft, warp)
    mottled = noise_fac(tree, place, 12, 8)
    dark = tuple(c * 0.6 for c in color)
    base = ramp(tree, mottled, [(0.3, dark), (0.7, color)])
    if stripe:
        ins = {"Vector": place, "Scale": stripes, "Distortion": 0.0}
        bands = node(tree, "TexWave", ins, bands_direction="X").outputs["Fac"]
        base = mix(tree, math_node(tree, "GREATER_THAN", bands, 0.55), base, rgba(stripe))
    finish(tree, Base_Color=base, Roughness=0.95, Sheen=0.4, Normal=bump(tree, weave, 0.5, 0.003))
    return mat


def drawn(name, width, height, color_at, rough=0.7, rugged=False):
    """A material showing a picture drawn by color_at(u, v), each pixel in linear light."""
    image = bpy.data.images.new(name, width, height, float_buffer=True)
    pixels = []
    for row in range(height):
        for column in range(width):
            pixels.extend(rgba(color_at((column + 0.5) / width, (row + 0.5) / height)))
    image.pixels.foreach_set(pixels)
    image.update()
    mat, tree = material(name)
    color = node(tree, "TexImage", {"Vector": coords(tree, "UV")}, image=image).outputs["Color"]
    fine = noise_fac(tree, coords(tree), 220 if rugged else 60, 3)
    normal = bump(tree, fine, 0.9 if rugged else 0.2, 0.006)
    shade = ramp(tree, fine, [(0.3, (0.75, 0.75, 0.75)), (0.7, (1.1, 1.1, 1.1))])
    color = mix(tree, 1.0, color, shade, "MULTIPLY")
    finish(tree, Base_Color=color, Roughness=rough, Normal=normal)
    return mat


def leafy(name, dark, light, haze=False):
    """Leaves: two-sided, letting light through, each of its own tone."""
    mat, tree = material(name)
    pick = node(tree, "NewGeometry").outputs["Random Per Island"]
    color = ramp(tree, pick, [(0.0, dark), (1.0, light)])
    front = node(tree, "BsdfPrincipled", {"Base Color": color, "Roughness": 0.5}).outputs[0]
    through = node(tree, "BsdfTranslucent", {"Color": color}).outputs[0]
    leaf = node(tree, "MixShader", {0: 0.35, 1: front, 2: through}).outputs[0]
    node(tree, "OutputMaterial", {"Surface": hazed(tree, leaf) if haze else leaf})
    return mat


def hazed(tree, shader):
    """Fade to the colour of the air with distance, as far hills do."""
    far = math_node(tree, "DIVIDE", node(tree, "CameraData").outputs["View Distance"], -2600.0)
    fade = math_node(tree, "SUBTRACT", 1.0, math_node(tree, "EXPONENT", far))
    air = node(tree, "Emission", {"Color": rgba((0.50, 0.68, 1.0)), "Strength": 1.25}).outputs[0]
    return node(tree, "MixShader", {0: fade, 1: shader, 2: air}).outputs[0]


def build_sky(sun_way):
    """A clear sky with broken clouds drawn on a flat layer high above."""
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    tree.nodes.clear()
    sky = node(tree, "TexSky", sky_type="NISHITA", sun_disc=False, dust_density=0.6)
    sky.sun_elevation, sky.sun_rotation = math.asin(sun_way.z), math.atan2(sun_way.x, sun_way.y)
    way = node(tree, "SeparateXYZ", {0: node(tree, "TexCoord").outputs["Generated"]}).outputs
    lift = math_node(tree, "ADD", math_node(tree, "MAXIMUM", way["Z"], 0.0), 0.09)
    flat = {"X": math_node(tree, "DIVIDE", way["X"], lift),
            "Y": math_node(tree, "DIVIDE", way["Y"], lift)}
    layer = node(tree, "CombineXYZ", flat).outputs[0]
    puffs = noise_fac(tree, layer, 0.85, 9, 0.35)
    cover = ramp(tree, puffs, [(0.46, (0, 0, 0)), (0.60, (1, 1, 1))])
    tone = ramp(tree, puffs, [(0.52, (10.5, 10.5, 10.7)), (0.75, (6.5, 6.8, 7.4))])
    both = mix(tree, cover, sky.outputs[0], tone)
    light = node(tree, "Background", {"Color": both, "Strength": 0.16})
    node(tree, "OutputWorld", {"Surface": light.outputs[0]})
