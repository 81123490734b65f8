"""Rendering of the scene to float PFM files: linear light, albedo and normals."""
from array import array

import bpy

PASSES = {"linear": "Image", "albedo": "Denoising Albedo", "normal": "Denoising Normal"}


def save_passes(out):
    """Write the picture and its albedo and normals, each as one float EXR."""
    scene = bpy.context.scene
    scene.use_nodes = True
    tree = scene.node_tree
    tree.nodes.clear()
    layers = tree.nodes.new("CompositorNodeRLayers")
    files = tree.nodes.new("CompositorNodeOutputFile")
    files.base_path = str(out)
    files.format.file_format = "OPEN_EXR"
    files.format.color_mode, files.format.color_depth = "RGB", "32"
    files.file_slots.clear()
    for name, source in PASSES.items():
        files.file_slots.new(name + "_")
        tree.links.new(layers.outputs[source], files.inputs[-1])


def write_pfm(exr, pfm):
    """Turn an EXR file into a PFM one, which every build of OpenCV can read."""
    image = bpy.data.images.load(str(exr))
    image.colorspace_settings.name = "Non-Color"
    width, height = image.size
    pixels = array("f", bytes(16 * width * height))
    image.pixels.foreach_get(pixels)
    rgb = array("f", bytes(12 * width * height))
    for channel in range(3):
        rgb[channel::3] = pixels[channel::4]
    pfm.write_bytes(f"PF\n{width} {height}\n-1.0\n".encode() + rgb.tobytes())


def render(out, samples, width):
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y = width, width * 2 // 3
    scene.render.resolution_percentage = 100
    cycles = scene.cycles
    cycles.samples, cycles.seed = samples, 1
    cycles.use_adaptive_sampling, cycles.adaptive_threshold = True, 0.015
    cycles.use_denoising = False
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 8, 6, 3
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 3.0
    scene.view_layers[0].cycles.denoising_store_passes = True
    save_passes(out)
    bpy.ops.render.render(write_still=False)
    for name in PASSES:
        exr = out / f"{name}_{scene.frame_current:04d}.exr"
        write_pfm(exr, out / f"{name}.pfm")
        exr.unlink()
