"""Unimodal vision teachers: any model of timm. The feature of an image is the mean over its patches after the final norm, without
a CLS token, since SwinV2 has none (ADVL, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vldistill.errors import InputError
from vldistill.models.base.weights import RANDOM, fetched, fixed_random
from vldistill.teachers.weights import folder_title, frozen, weights_digest


@dataclass
class TimmVision:
    """towers: a name of timm with its tag (`swinv2_large_window12_192.ms_in22k`), or a folder in timm's layout. weights: None for
    the published ones (or the folder's own), a file, or "random". layer: "last", or a block counted from 1."""

    model: str
    weights: str | None = None
    layer: str | int = "last"

    def __post_init__(self) -> None:
        self._local = Path(self.model) if Path(self.model).is_dir() else None
        self._network: nn.Module | None = None
        self._transform = None

    @property
    def fields(self) -> dict[str, Any]:
        """What the features depend on."""
        return {
            "teacher": "timm",
            "model": self._title,
            "weights": self._digest(),
            "layer": self.layer,
            "pooling": "mean of patches",
            "transform": self._preprocessing(),
        }

    @property
    def width(self) -> int:
        """D of a feature."""
        return self.network.num_features

    @property
    def network(self) -> nn.Module:
        if self._network is None:
            self._network = frozen(fetched(self._load, self.model), self.model)
        return self._network

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> TimmVision:
        self.network.to(device, dtype)
        return self

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> Tensor:
        """[N, D] of RGB images, fp32 on the CPU."""
        if self._transform is None:
            from timm.data import create_transform, resolve_model_data_config

            self._transform = create_transform(**resolve_model_data_config(self.network), is_training=False)
        weight = next(self.network.parameters())
        pixels = torch.stack([self._transform(image) for image in images]).to(weight.device, weight.dtype)
        return self._tokens(pixels).float().mean(dim=1).cpu()

    def _tokens(self, pixels: Tensor) -> Tensor:
        """[N, T, D] patches, without prefix tokens."""
        if self.layer != "last":
            [states] = self.network.forward_intermediates(pixels, indices=[self.layer - 1], norm=True, intermediates_only=True)
            return states.flatten(2).transpose(1, 2)
        states = self.network.forward_features(pixels)
        if states.ndim == 4:
            # Swin keeps its channels last, convolutional networks have them first.
            states = states.flatten(1, 2) if states.shape[-1] == self.width else states.flatten(2).transpose(1, 2)
            return states
        return states[:, getattr(self.network, "num_prefix_tokens", 0) :]

    @property
    def _title(self) -> str:
        """The model's name; of a folder its last part, since hashes say the rest."""
        return folder_title(self._local) if self._local else self.model

    def _digest(self) -> str:
        if self.weights == RANDOM:
            return RANDOM
        if self.weights is not None or self._local:
            return weights_digest(Path(self.weights) if self.weights else self._local, None)
        import timm

        known = timm.get_pretrained_cfg(self.model)
        if known is None:
            raise InputError("is no model of timm", where=self.model, hint="give a name of timm, or a folder in its layout")
        return weights_digest(None, known.hf_hub_id)

    def _preprocessing(self) -> str:
        """The transform in words, from the model's configuration alone."""
        import timm
        from timm.data import resolve_data_config

        if self._local or self.weights == RANDOM:
            config = self.network.pretrained_cfg
        else:
            config = timm.get_pretrained_cfg(self.model).to_dict()
        data = resolve_data_config(pretrained_cfg=config)
        return f"{data['input_size']} {data['interpolation']} crop {data['crop_pct']} mean {data['mean']} std {data['std']}"

    def _load(self) -> nn.Module:
        import timm

        if self.weights == RANDOM:
            with fixed_random():
                return timm.create_model(self._name_for_timm(), pretrained=False, num_classes=0)
        overlay = {"pretrained_cfg_overlay": {"file": self.weights}} if self.weights else {}
        return timm.create_model(self._name_for_timm(), pretrained=True, num_classes=0, **overlay)

    def _name_for_timm(self) -> str:
        return f"local-dir:{self._local}" if self._local else self.model
