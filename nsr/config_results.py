"""Settings of the stages from a trained model to its meshes, renderings and measurements; part of `nsr.config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class MetricConfig:
    """Real units: a known distance between two points, or a similarity file. Without either, meshes leave in the world frame."""

    first: tuple[float, ...] = ()  # x, y, z of a point, world frame
    second: tuple[float, ...] = ()  # x, y, z of another
    distance: float = 0.0  # between them, in `unit`; 0: unknown
    file: str = ""  # similarity from the world to the metric frame: JSON with scale, R, t, or text with a 4x4 matrix
    unit: str = "m"  # name of the unit


@dataclass
class MeshConfig:
    """Marching cubes on the signed distance, and the cleaning of every mesh."""

    resolution: int = 512  # cells per side of the unit ball's cube
    rendered: bool = True  # only components that reach into cells where training found something to render
    components: int = 0  # largest components kept; 0 keeps all that are large enough
    component_share: float = 0.01  # smaller components go: area, share of the largest component's
    min_views: int = 1  # views that must see a face; 0: no culling
    mask_dilation: int = 12  # px; faces outside the dilated mask of any view are culled; -1: no mask culling
    box: tuple[float, ...] = ()  # lowest x, y, z, then highest, world frame; faces outside are cut off; empty: no box
    caps: bool = False  # keep faces that only close the mesh where the unit ball cuts through matter
    triangles: int = 0  # decimate to about this number; 0: keep all
    max_error: float = 0.0  # decimation may move the surface this far, percent of the region's radius; 0: any distance
    holes: bool = False  # list the largest holes in the mesh's JSON
    colours: bool = True  # vertex colours from the radiance network
    metric: MetricConfig = field(default_factory=MetricConfig)


@dataclass
class TsdfConfig:
    """Fusion of rendered depth."""

    voxel: float = 0.0  # unit frame; 0: what a pixel of the rendered views covers at the middle of the region
    truncation: float = 4.0  # voxels
    downscale: int = 2  # of the rendered views
    min_opacity: float = 0.5
    depth: Literal["crossing", "rendered"] = "crossing"  # where the signed distance is 0, or the mean of volume rendering


@dataclass
class TextureConfig:
    """A texture from the photographs."""

    size: int = 4096  # texels per side
    faces: int = 200000  # triangles at most, by quadric decimation; 0 keeps all (unwrapping takes about 0.1 ms a triangle)
    padding: int = 8  # texels between charts
    split: Literal["train", "all"] = "all"  # photographs used; "train" leaves held-out views for texture.json's psnr_held_out
    views: int = 5  # photographs blended in a texel, the best ones
    sharpness: float = 4.0  # weight = (quality / best quality)^sharpness; higher: sharper, with more visible changes of view
    max_angle: float = 85.0  # degrees between normal and direction to the camera; slanted views serve where no better one is
    feather: float = 8.0  # px from mask, border and occlusion edges within which a photograph's weight falls to 0
    outlier: float = 0.1  # sRGB distance from the median colour at which a photograph loses weight; 0: all count
    exposure: bool = True  # even out exposure and white balance between photographs
    quality: int = 95  # of the JPEG
    frame: Literal["world", "gltf"] = "world"  # "world": that of mesh.ply; "gltf": y up, metres
    up: tuple[float, float, float] = (
        0.0,
        0.0,
        0.0,
    )  # "gltf": direction in mesh.ply's frame that becomes +y; zero: the cameras' mean up
    metres: float = 0.0  # "gltf": metres per unit of mesh.ply; 0: from the name of its unit


@dataclass
class RenderConfig:
    """Held-out views, depth, normals."""

    downscale: int = 1
    views: Literal["held_out", "train", "all"] = "held_out"


@dataclass
class EvaluateConfig:
    """Metrics."""

    samples: int = 300000  # points on each surface
    seed: int = 0
    min_views: int = 2  # ground truth counts where this many cameras see it; 0: everywhere
    mask_dilation: int = 12  # px; predictions outside the dilated masks do not count; -1: all count
    visible_only: bool = True  # predictions no camera sees do not count
    max_distance: float = 20.0  # percent of the object radius; larger distances are dropped
    floor: float = 0.0  # percent of the object radius over the lowest ground-truth point below which nothing counts; 0: no floor
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)  # direction of the floor's height, ground truth's frame
    thresholds: tuple[float, ...] = (0.5, 1.0)  # F-score, percent of the object radius
    alignment: Literal["auto", "none", "cameras", "icp", "icp-similarity"] = "auto"  # "auto": cameras where the truth's are known
    icp_distance: float = 5.0  # percent of the object radius; ICP pairs farther apart do not count
    dtu_culls: tuple[int, ...] = (
        24,
        -1,
        0,
        12,
        50,
    )  # px the masks grow by before they cut the mesh, the first scores; -1: no cut
    tanks_points: Literal["vertices-and-centres", "vertices"] = "vertices-and-centres"  # of the mesh, Tanks and Temples
    lpips_weights: str = ""  # folder with alexnet.pth (backbone) and alex.pth (heads); empty: LPIPS is left out
