"""V-JEPA 2-AC (Assran et al. 2025): a frozen V-JEPA 2 encoder and an action-conditioned predictor.

Each frame is encoded separately, as a clip that repeats it twice, and its tokens are normalized to unit
scale. The predictor reads for each frame an action, the state of the arm and the tokens, attends to no later
frame, and returns for each frame the tokens of the next. According to their users (jepa-wms), the public
weights were trained with an incorrect two-step loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.students.layers import unit_scale
from jepa_export.teachers.layers import EPS, Sizes, blocks, check_shape
from jepa_export.teachers.rope import Rope, grid_positions
from jepa_export.teachers.vjepa2 import Encoder, EncoderConfig

STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""Components of a state, and of an action, which is the change of the state until the next frame."""
STATE_UNITS = ("m", "m", "m", "rad", "rad", "rad", "1")
"""Their units; a gripper is open at 0 and closed at 1."""
STATE_DIM = len(STATE_NAMES)
STEP_S = 0.25
"""Time between two frames (Assran et al. 2025: 4 Hz)."""
# Tokens before those of a frame: its action and its state.
_LEADING = 2
# Added to a score, this makes its softmax vanish, and float16 can represent it.
_UNSEEN = -1e4


@dataclass(frozen=True, kw_only=True)
class VJEPA2ACConfig:
    """Sizes; ``frames`` is the longest sequence that the predictor reads."""

    encoder: EncoderConfig
    predictor: Sizes
    frames: int = 8

    def build(self) -> VJEPA2AC:
        """Return the model with untrained weights."""
        return VJEPA2AC(self)


class ActionPredictor(nn.Module):
    """Predictor from tokens, actions and states of T frames to the tokens of the next (unnormalized)."""

    mask: Tensor

    def __init__(self, config: VJEPA2ACConfig) -> None:
        super().__init__()
        width, dim = config.predictor.width, config.encoder.output_dim
        self.frames, self.patches, self.dim = config.frames, config.encoder.patches, dim
        self.embed = nn.Linear(dim, width)
        self.action_encoder = nn.Linear(STATE_DIM, width)
        self.state_encoder = nn.Linear(STATE_DIM, width)
        # Actions and states are at row and column 0 of their frame.
        leading = torch.zeros(config.frames, _LEADING, 3)
        leading[..., 0] = torch.arange(float(config.frames))[:, None]
        rows, columns = config.encoder.grid
        grid = grid_positions(config.frames, rows, columns).unflatten(0, (config.frames, -1))
        # The official predictor scales columns to the range of the rows.
        grid[..., 2] *= rows / columns
        positions = torch.cat([leading, grid], dim=1).flatten(0, 1)
        self.rope = Rope(positions, config.predictor.head_dim, config.encoder.pairing)
        frame = positions[:, 0]
        mask = torch.zeros(len(frame), len(frame)).masked_fill(frame[:, None] < frame, _UNSEEN)
        self.register_buffer("mask", mask, persistent=False)
        self.blocks = blocks(config.predictor)
        self.norm = nn.LayerNorm(width, EPS)
        self.proj = nn.Linear(width, dim)

    def forward(self, latents: Tensor, actions: Tensor, states: Tensor) -> Tensor:
        """Predict the tokens [batch, T, patches, dim] of the frame after each.

        Args:
            latents: [batch, T, patches, dim].
            actions: [batch, T, 7].
            states: [batch, T, 7].

        Raises:
            JepaExportError: A tensor has another shape, or there are more than ``frames`` frames.
        """
        frames = int(latents.shape[1])
        check_shape("latents", latents, "batch", frames, self.patches, self.dim)
        check_shape("actions", actions, "batch", frames, STATE_DIM)
        check_shape("states", states, "batch", frames, STATE_DIM)
        if frames > self.frames:
            raise JepaExportError(
                f"latents: the predictor reads at most {self.frames} frames, got {frames}",
                code="teacher.shape",
            )
        leading = torch.stack([self.action_encoder(actions), self.state_encoder(states)], dim=2)
        tokens = torch.cat([leading, self.embed(latents)], dim=2).flatten(1, 2)
        count = frames * (_LEADING + self.patches)
        rotation, mask = self.rope.first(count), self.mask[:count, :count]
        for block in self.blocks:
            tokens = block(tokens, rotation, mask)
        tokens = tokens.unflatten(1, (frames, _LEADING + self.patches))[:, :, _LEADING:]
        out: Tensor = self.proj(self.norm(tokens))
        return out


class VJEPA2AC(nn.Module):
    """The complete model; calling it encodes frames."""

    def __init__(self, config: VJEPA2ACConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.predictor = ActionPredictor(config)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalized frames [batch, T, 3, height, width] to [batch, T, patches, dim]."""
        frames = images.flatten(0, 1)[:, None].expand(-1, self.config.encoder.tubelet, -1, -1, -1)
        out: Tensor = unit_scale(self.encoder(frames)).unflatten(0, images.shape[:2])
        return out

    def predict(self, latents: Tensor, actions: Tensor, states: Tensor) -> Tensor:
        """Predict for each frame the tokens of the next, of unit scale; see :class:`ActionPredictor`."""
        return unit_scale(self.predictor(latents, actions, states))

    def rollout(self, latents: Tensor, actions: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the frames and states that a sequence of actions leads to, as the official planner does.

        Args:
            latents: [batch, T, patches, dim].
            actions: [batch, T-1+H, 7]: those between the frames, then one for each predicted frame.
            states: [batch, T, 7].

        Returns:
            Tokens [batch, H, patches, dim] of unit scale, and states [batch, H, 7].

        Raises:
            JepaExportError: A tensor has another shape, or T-1+H is more than the predictor reads.
        """
        known = int(latents.shape[1])
        for frames in range(known, int(actions.shape[1]) + 1):
            following = self.predict(latents, actions[:, :frames], states)[:, -1:]
            reached = next_state(states[:, -1:], actions[:, frames - 1 : frames])
            latents, states = torch.cat([latents, following], dim=1), torch.cat([states, reached], dim=1)
        return latents[:, known:], states[:, known:]


def next_state(state: Tensor, action: Tensor) -> Tensor:
    """Return the state that ``action`` leads to from ``state``, both [..., 7].

    Positions add up, rotations (about the fixed axes x, y, z, in this order) are composed, and the gripper is
    clipped to [0, 1]. At a pitch of 90 degrees, where roll and yaw are not unique, they are inaccurate.
    """
    rotation = _rotation_matrix(action[..., 3:6]) @ _rotation_matrix(state[..., 3:6])
    gripper = (state[..., 6:] + action[..., 6:]).clamp(0.0, 1.0)
    return torch.cat([state[..., :3] + action[..., :3], _euler_angles(rotation), gripper], dim=-1)


def pose_delta(state: Tensor, following: Tensor) -> Tensor:
    """Return the action [..., 7] that leads from one state to another, see :func:`next_state`."""
    turned = _rotation_matrix(following[..., 3:6]) @ _rotation_matrix(state[..., 3:6]).mT
    moved, gripped = following[..., :3] - state[..., :3], following[..., 6:] - state[..., 6:]
    return torch.cat([moved, _euler_angles(turned), gripped], dim=-1)


def _rotation_matrix(angles: Tensor) -> Tensor:
    """Return the matrices [..., 3, 3] of rotations about the fixed axes x, then y, then z [..., 3]."""
    (sr, sp, sy), (cr, cp, cy) = angles.sin().unbind(-1), angles.cos().unbind(-1)
    rows = (
        (cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        (sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        (-sp, cp * sr, cp * cr),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _euler_angles(rotation: Tensor) -> Tensor:
    """Return the angles [..., 3] of :func:`_rotation_matrix`, the second in [-pi/2, pi/2]."""
    (r00, r10, r20), _, _ = (column.unbind(-1) for column in rotation.unbind(-1))
    r21, r22 = rotation[..., 2, 1], rotation[..., 2, 2]
    pitch = torch.atan2(-r20, (r21.square() + r22.square()).sqrt())
    return torch.stack([torch.atan2(r21, r22), pitch, torch.atan2(r10, r00)], dim=-1)
