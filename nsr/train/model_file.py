"""The final model of a scene, as later stages read it: field, occupancy, similarity and how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from nsr.config import ModelConfig, TrainConfig
from nsr.conventions import Similarity
from nsr.errors import CheckpointError, NsrError
from nsr.fields.model import SurfaceModel
from nsr.kernels.backend import resolve_backend
from nsr.rendering.device import rays_at_once
from nsr.rendering.render import Member
from nsr.train.checkpoint import CHECKPOINT_VERSION, load_dict, save_atomically

_CHUNK = 1 << 18


@dataclass(frozen=True)
class TrainedModel:
    """A trained scene.

    Attributes:
        members: the field at its last step and its occupancy, or several, of which the distance is the median and the colour the mean. similarity: unit -> world.
        march_steps, ray_chunk, march_backend: how to render it. info: `step`, `train_views` (in the order of
        what is learned for each photograph), `masked` (trained with masks),
        `settings`, `scene`, `device`.
    """

    members: tuple[Member, ...]
    similarity: Similarity
    march_steps: int
    ray_chunk: int
    march_backend: str
    info: dict[str, Any]

    @property
    def model(self) -> SurfaceModel:
        """The field, of several the first."""
        return self.members[0].model

    @cached_property
    def occupied(self) -> Tensor:
        """Where any of the fields is not empty, (G, G, G) bool."""
        return torch.stack([member.occupied for member in self.members]).any(0)

    @torch.no_grad()
    def sdf(self, points: Tensor) -> Tensor:
        """Signed distance (P,) at unit-frame points (P, 3) on the model's device."""
        return torch.cat([self._middle_sdf(part) for part in points.split(_CHUNK)]) if len(points) else points[:, 0]

    def _middle_sdf(self, points: Tensor) -> Tensor:
        return _median([member.model.sdf.value(points) for member in self.members])

    @torch.no_grad()
    def colour(self, points: Tensor, normals: Tensor) -> Tensor:
        """sRGB colour (P, 3) of surface points seen head-on, against their normals (P, 3) of unit length."""
        parts = []
        for point, normal in zip(points.split(_CHUNK), normals.split(_CHUNK), strict=True):
            colours = []
            for model, _ in self.members:
                features = model.sdf(point).features
                colours.append(model.radiance(point, features, normal, -normal, model.codes(len(point))))
            parts.append(_mean(colours))
        return torch.cat(parts) if parts else points


def _mean(values: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape; of one, the tensor itself."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).mean(0)


def _median(values: Sequence[Tensor]) -> Tensor:
    """The median of tensors of one shape, of an even number the mean of the middle two: one field that is far off moves it little."""
    count = len(values)
    if count < 3:
        return _mean(values)
    ordered = torch.stack(list(values)).sort(dim=0).values
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def exposures(model: SurfaceModel, names: Sequence[str]) -> dict[str, list[list[float]]]:
    """The 3 x 4 colour transform of each training photograph by its name, see `Exposure`; {} of a model that has none."""
    if model.exposure is None:
        return {}
    return dict(zip(names, model.exposure.transforms().tolist(), strict=True))


def save_model(
    path: Path, model: SurfaceModel, occupied: Tensor, similarity: Similarity, train: TrainConfig, info: dict[str, Any]
) -> None:
    """Write the final model atomically."""
    data = {
        "version": CHECKPOINT_VERSION,
        "model": model.state_dict(),
        "occupied": occupied,
        "similarity": similarity.to_dict(),
        "model_config": asdict(model.config),
        "train_config": asdict(train),
        "info": info,
    }
    save_atomically(data, path)


def join_models(parts: Sequence[Path], path: Path, train: TrainConfig) -> None:
    """Write models that differ in their seed as one model; `train` is what all were trained with.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    first, *others = (load_dict(part, torch.device("cpu")) for part in parts)
    kept = [{name: other[name] for name in ("model", "occupied")} for other in others]
    save_atomically({**first, "others": kept, "train_config": asdict(train)}, path)


def load_model(path: Path, device: torch.device) -> TrainedModel:
    """Read a final model.

    Raises:
        CheckpointError: missing, corrupt, of another version or no final model.
    """
    data = load_dict(path, device)
    try:
        return _trained(data, device)
    except (KeyError, TypeError, RuntimeError, OmegaConfBaseException, NsrError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise CheckpointError(
            f"{path}: no trained model of this version of nsr ({reason}); give model.pt of the training stage, or train again"
        ) from error


def _trained(data: dict[str, Any], device: torch.device) -> TrainedModel:
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), data["model_config"]))
    assert isinstance(config, ModelConfig)
    # All back ends share the parameters' layout: a model is read by the best one here, whichever trained it.
    backend = resolve_backend("auto", device)
    members = []
    for member in (data, *data.get("others", [])):
        model = SurfaceModel(config, torch.Generator().manual_seed(0), backend, views=len(data["info"]["train_views"])).to(device)
        model.load_state_dict(member["model"])
        model.set_step(data["info"]["step"])
        model.requires_grad_(False)
        members.append(Member(model, member["occupied"]))
    march = data["train_config"]["march"]
    info = {**data["info"], "settings": {"model": data["model_config"], "train": data["train_config"]}}
    return TrainedModel(
        members=tuple(members),
        similarity=Similarity.from_dict(data["similarity"]),
        march_steps=march["steps"],
        ray_chunk=march["ray_chunk"] or rays_at_once(device),
        march_backend=backend,
        info=info,
    )
