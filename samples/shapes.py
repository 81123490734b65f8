"""Meshes, curves and lights, placed in the scene."""
import math
import random

import bmesh
import bpy
from mathutils import Vector

from materials import leafy

rng = random.Random(7)


def add(name, mesh, mat, loc=(0, 0, 0), rot=(0, 0, 0), smooth=False):
    obj = bpy.data.objects.new(name, mesh)
    obj.location, obj.rotation_euler = loc, rot
    if mat:
        mesh.materials.append(mat)
    if smooth:
        mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
    bpy.context.scene.collection.objects.link(obj)
    return obj


def shape(name, verts, faces, mat, loc=(0, 0, 0), rot=(0, 0, 0), smooth=False):
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(verts, [], faces)
    return add(name, mesh, mat, loc, rot, smooth)


def box(size, loc, mat, bevel=0.008, rot=(0, 0, 0), segments=2):
    mesh = bpy.data.meshes.new("box")
    solid = bmesh.new()
    bmesh.ops.create_cube(solid, size=1.0)
    bmesh.ops.scale(solid, vec=size, verts=solid.verts)
    solid.to_mesh(mesh)
    obj = add("box", mesh, mat, loc, rot, smooth=segments > 2)
    if bevel:
        made = obj.modifiers.new("bevel", "BEVEL")
        made.width, made.segments = bevel, segments
    return obj


def ball(radius, loc, mat, scale=(1, 1, 1), rot=(0, 0, 0)):
    mesh = bpy.data.meshes.new("ball")
    solid = bmesh.new()
    bmesh.ops.create_uvsphere(solid, u_segments=32, v_segments=20, radius=radius)
    solid.to_mesh(mesh)
    obj = add("ball", mesh, mat, loc, rot, smooth=True)
    obj.scale = scale
    return obj


def panel(origin, across, up, mat, unit=True):
    """A flat rectangle; its UVs run 0 to 1, or in metres where unit is False."""
    origin, across, up = Vector(origin), Vector(across), Vector(up)
    corners = [origin, origin + across, origin + across + up, origin + up]
    obj = shape("panel", corners, [(0, 1, 2, 3)], mat)
    width, height = (1, 1) if unit else (across.length, up.length)
    layer = obj.data.uv_layers.new()
    for loop, uv in zip(layer.data, [(0, 0), (width, 0), (width, height), (0, height)]):
        loop.uv = uv
    return obj


def lathe(profile, loc, mat, segments=48):
    """Turn (radius, height) points round the vertical axis."""
    verts, faces = [], []
    for radius, z in profile:
        for k in range(segments):
            angle = 2 * math.pi * k / segments
            verts.append((radius * math.cos(angle), radius * math.sin(angle), z))
    for i in range(len(profile) - 1):
        for k in range(segments):
            n = (k + 1) % segments
            low, high = i * segments, (i + 1) * segments
            faces.append((low + k, low + n, high + n, high + k))
    obj = shape("lathe", verts, faces, mat, loc, smooth=True)
    obj.data.use_auto_smooth = True
    obj.data.auto_smooth_angle = math.radians(50)
    return obj


def tube(points, radius, mat):
    curve = bpy.data.curves.new("tube", "CURVE")
    curve.dimensions, curve.bevel_depth, curve.use_fill_caps = "3D", radius, True
    spline = curve.splines.new("POLY")
    spline.points.add(len(points) - 1)
    for point, place in zip(spline.points, points):
        point.co = (*place, 1)
    obj = bpy.data.objects.new("tube", curve)
    curve.materials.append(mat)
    bpy.context.scene.collection.objects.link(obj)
    return obj


def grid(columns, rows, point, mat, smooth=True, loc=(0, 0, 0), rot=(0, 0, 0)):
    """A sheet of point(u, v) over the unit square, with UVs."""
    steps = [(i / columns, j / rows) for j in range(rows + 1) for i in range(columns + 1)]
    faces = [(j * (columns + 1) + i, j * (columns + 1) + i + 1,
              (j + 1) * (columns + 1) + i + 1, (j + 1) * (columns + 1) + i)
             for j in range(rows) for i in range(columns)]
    obj = shape("sheet", [point(u, v) for u, v in steps], faces, mat, loc, rot, smooth)
    layer = obj.data.uv_layers.new()
    for loop in obj.data.loops:
        layer.data[loop.index].uv = steps[loop.vertex_index]
    return obj


def gather(parts, loc, turn=0.0):
    """Move parts built round the origin as one: to loc, turned about the vertical."""
    hub = bpy.data.objects.new("hub", None)
    bpy.context.scene.collection.objects.link(hub)
    for part in parts:
        part.parent = hub
    hub.location, hub.rotation_euler = loc, (0, 0, turn)
    return hub


def plant(loc, count, length, width):
    """Arching leaves from one point."""
    mat = leafy("plant", (0.03, 0.13, 0.03), (0.16, 0.38, 0.07))
    for k in range(count):
        turn = k * 2.4 + rng.uniform(-0.3, 0.3)
        rise, size = rng.uniform(0.5, 1.35), length * rng.uniform(0.7, 1.1)

        def point(u, v):
            angle = rise - 1.5 * v
            reach = size * v * (0.55 + 0.45 * math.cos(angle))
            up = size * v * math.sin(rise) - size * 0.55 * v * v * math.cos(rise)
            wide = width * math.sin(math.pi * v ** 0.75) * (2 * u - 1)
            return (reach * math.cos(rise) ** 0.5, wide, up - abs(2 * u - 1) * width * 0.3)
        grid(4, 12, point, mat, loc=loc, rot=(0, 0, turn))


def tree_mesh(name, leaf, bark, crowns, leaves, size):
    """A trunk and many small leaf cards spread over the shells of a few round crowns."""
    verts, faces = [], []
    for k in range(leaves):
        center, radius = crowns[k % len(crowns)]
        way = Vector([rng.gauss(0, 1) for _ in range(3)]).normalized()
        spot = Vector(center) + way * radius * rng.uniform(0.55, 1.0)
        flat = (way + Vector([rng.gauss(0, 0.6) for _ in range(3)])).normalized()
        a = flat.orthogonal().normalized() * size * rng.uniform(0.6, 1.2)
        b = flat.cross(a)
        start = len(verts)
        verts += [spot - a, spot - b * 0.6, spot + a, spot + b * 0.6]
        faces.append((start, start + 1, start + 2, start + 3))
    trunk = len(faces)
    top = crowns[0][0][2]
    for k in range(8):
        a, b = math.pi * k / 4, math.pi * (k + 1) / 4
        start = len(verts)
        verts += [(0.22 * math.cos(a), 0.22 * math.sin(a), -0.5),
                  (0.22 * math.cos(b), 0.22 * math.sin(b), -0.5),
                  (0.08 * math.cos(b), 0.08 * math.sin(b), top),
                  (0.08 * math.cos(a), 0.08 * math.sin(a), top)]
        faces.append((start, start + 1, start + 2, start + 3))
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(verts, [], faces)
    mesh.materials.append(leaf)
    mesh.materials.append(bark)
    mesh.polygons.foreach_set("material_index", [int(k >= trunk) for k in range(len(faces))])
    return mesh


def add_light(data, loc, toward=None):
    obj = bpy.data.objects.new(data.name, data)
    obj.location = loc
    if toward:
        obj.rotation_euler = Vector(toward).to_track_quat("-Z", "Y").to_euler()
    bpy.context.scene.collection.objects.link(obj)
    return obj
