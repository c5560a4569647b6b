"""Files of a textured mesh: GLB (glTF 2.0, one file) and OBJ with its material and image.

trimesh reads both back in the tests. They are written here because its writer compresses the image a second time, cannot
say that colours are already lit, and splits the vertices of an OBJ along the seams.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsr.mesh.surface import Mesh
from nsr.mesh.texture.atlas import Atlas, TexturedMesh
from nsr.provenance import whole_file

_GLB, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942  # magic numbers of the format's header and chunks
_FLOAT, _UINT, _ARRAY, _INDEX = 5126, 5125, 34962, 34963
_LINEAR, _MIPMAPS, _CLAMP = 9729, 9987, 33071


def jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """The image (H, W, 3) as JPEG with full-size colour channels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def split_at_seams(atlas: Atlas) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """One vertex per place in the texture, as glTF wants: its vertex (N,), its uv (N,), and the faces (T, 3) over them."""
    pairs = np.stack([atlas.mesh.faces.reshape(-1), atlas.corners.reshape(-1)], axis=1)
    unique, index = np.unique(pairs, axis=0, return_inverse=True)
    return unique[:, 0], unique[:, 1], index.reshape(-1, 3)


def write_glb(path: Path, textured: TexturedMesh, picture: bytes, extras: dict[str, Any]) -> None:
    """Write a GLB with one unlit material; `picture` is the texture as JPEG, `extras` goes to the file's description.

    Positions are single precision around the mesh's middle, which the node's translation holds: world coordinates may be large.
    """
    atlas = textured.atlas
    vertex, place, faces = split_at_seams(atlas)
    centre = 0.5 * (atlas.mesh.vertices.min(axis=0) + atlas.mesh.vertices.max(axis=0))
    positions = (atlas.mesh.vertices[vertex] - centre).astype("<f4")
    parts = {"POSITION": positions, "TEXCOORD_0": atlas.uv[place].astype("<f4")}
    if atlas.mesh.normals is not None:
        parts["NORMAL"] = proper_normals(atlas.mesh)[vertex].astype("<f4")
    blobs = [*(part.tobytes() for part in parts.values()), faces.astype("<u4").tobytes(), picture]
    accessors = [
        {"bufferView": k, "componentType": _FLOAT, "count": len(part), "type": f"VEC{part.shape[1]}"}
        for k, part in enumerate(parts.values())
    ]
    accessors[0] |= {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    accessors.append({"bufferView": len(parts), "componentType": _UINT, "count": faces.size, "type": "SCALAR"})
    attributes = {name: k for k, name in enumerate(parts)}
    tree = {
        "asset": {"version": "2.0", "generator": "nsr", "extras": extras},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "mesh", "mesh": 0, "translation": centre.tolist()}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": len(parts), "material": 0}]}],
        "accessors": accessors,
        "bufferViews": _views([len(blob) for blob in blobs], len(parts)),
        "images": [{"bufferView": len(parts) + 1, "mimeType": "image/jpeg"}],
        "buffers": [{"byteLength": sum(_padded(len(blob)) for blob in blobs)}],
    }
    _write_chunks(path, tree | _material(), b"".join(blob.ljust(_padded(len(blob)), b"\0") for blob in blobs))


def proper_normals(mesh: Mesh) -> NDArray[np.float32]:
    """The vertex normals (M, 3), +z where a vertex has none: the format wants unit length."""
    assert mesh.normals is not None
    missing = np.linalg.norm(mesh.normals, axis=1) < 0.5
    return np.where(missing[:, None], np.array([0.0, 0.0, 1.0], dtype=np.float32), mesh.normals)


def _material() -> dict[str, Any]:
    """The photographs' light is in the texture: unlit (KHR_materials_unlit), matt for viewers that do not know that."""
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    material = {"name": "photographs", "pbrMetallicRoughness": surface, "extensions": {"KHR_materials_unlit": {}}}
    return {
        "materials": [material],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}],
        "extensionsUsed": ["KHR_materials_unlit"],
    }


def _padded(length: int) -> int:
    return -(-length // 4) * 4


def _views(lengths: list[int], arrays: int) -> list[dict[str, int]]:
    starts = np.cumsum([0, *map(_padded, lengths)]).tolist()
    views = [{"buffer": 0, "byteOffset": start, "byteLength": length} for start, length in zip(starts, lengths, strict=False)]
    for k, view in enumerate(views[: arrays + 1]):
        view["target"] = _ARRAY if k < arrays else _INDEX
    return views


def _write_chunks(path: Path, tree: dict[str, Any], binary: bytes) -> None:
    text = json.dumps(tree, separators=(",", ":")).encode()
    text = text.ljust(_padded(len(text)), b" ")
    total = 12 + 8 + len(text) + 8 + len(binary)
    with whole_file(path) as partial, partial.open("wb") as handle:
        handle.write(struct.pack("<III", _GLB, 2, total))
        handle.write(struct.pack("<II", len(text), _JSON) + text)
        handle.write(struct.pack("<II", len(binary), _BIN) + binary)


def write_obj(path: Path, textured: TexturedMesh, picture: bytes) -> None:
    """Write `path` (.obj), and .mtl and .jpg of the same name; vertices stay shared across seams."""
    atlas = textured.atlas
    image, material = path.with_suffix(".jpg"), path.with_suffix(".mtl")
    with whole_file(image) as partial:
        partial.write_bytes(picture)
    with whole_file(material) as partial:
        # Constant colour (illum 0) where it is understood, else matt: the light is in the texture.
        partial.write_text(f"newmtl photographs\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 0\nmap_Kd {image.name}\n")
    corners = np.stack([atlas.mesh.faces, atlas.corners], axis=2).reshape(-1, 6) + 1
    with whole_file(path) as partial, partial.open("w") as handle:
        handle.write(f"mtllib {material.name}\n")
        np.savetxt(handle, atlas.mesh.vertices, fmt="v %.10g %.10g %.10g")
        # The format counts v from the image's lower edge.
        np.savetxt(handle, np.stack([atlas.uv[:, 0], 1.0 - atlas.uv[:, 1]], axis=1), fmt="vt %.7f %.7f")
        handle.write("usemtl photographs\n")
        np.savetxt(handle, corners, fmt="f %d/%d %d/%d %d/%d")
