"""Create the golden files from copies of the official code, which are not part of this repository.

    python tests/export/teachers/make_golden.py --vjepa2 DIR --ijepa DIR --stable-worldmodel DIR

DIRs are checkouts of facebookresearch/vjepa2 (with V-JEPA 2.1), facebookresearch/ijepa and
galilai-group/stable-worldmodel (LeWM). Needs transformers, einops and tqdm.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import sys
import types
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.export.teachers import tiny

NORM = partial(nn.LayerNorm, eps=1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("vjepa2", "ijepa", "stable-worldmodel"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    folders = parser.parse_args()
    torch.set_grad_enabled(False)
    # Needed by the official code for training only, or from an older torch.
    stub = types.ModuleType("timm.models.layers")
    stub.drop_path = None  # type: ignore[attr-defined]
    for name in ("timm", "timm.models"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[stub.__name__] = stub
    torch.backends.cuda.sdp_kernel = contextlib.nullcontext  # type: ignore[assignment]
    with _on_path(folders.vjepa2):
        vjepa2()
        vjepa2_1("vjepa2_1", levels=1)
        vjepa2_1("vjepa2_1_levels", levels=4)
    with _on_path(folders.vjepa2), _on_path(folders.vjepa2 / "notebooks"):
        vjepa2_ac()
    with _on_path(folders.ijepa):
        ijepa()
    lewm(folders.stable_worldmodel / "stable_worldmodel" / "wm" / "lewm")


@contextlib.contextmanager
def _on_path(folder: Path) -> Any:
    """Import modules of ``folder``, which another checkout may have under the same names."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder.resolve()))
    yield
    sys.path.pop(0)
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("src", "app", "evals", "utils"):
            del sys.modules[name]


def _filled(network: nn.Module, seed: int = 0) -> nn.Module:
    network.load_state_dict(tiny.seeded(tiny.shapes_of(network.state_dict()), seed))
    return network.eval()


def _save(case: str, networks: dict[str, nn.Module], **outputs: Tensor | np.ndarray) -> None:
    shapes = {name: tiny.shapes_of(network.state_dict()) for name, network in networks.items()}
    arrays = {name: np.asarray(output) for name, output in outputs.items()}
    path = tiny.GOLDEN / f"{case}.npz"
    np.savez_compressed(path, shapes=json.dumps(shapes), **arrays)  # type: ignore[arg-type]
    print(f"{path}: {path.stat().st_size} bytes")


def _encoder(module: ModuleType, depth: int, frames: int = 8, **more: Any) -> nn.Module:
    return _filled(
        module.VisionTransformer(
            img_size=(tiny.PX, tiny.PX),
            num_frames=frames,
            embed_dim=tiny.WIDTH,
            depth=depth,
            num_heads=2,
            norm_layer=NORM,
            use_rope=True,
            **more,
        )
    )


def _predictor(module: ModuleType, depth: int, **more: Any) -> nn.Module:
    predictor = module.vit_predictor(
        img_size=(tiny.PX, tiny.PX),
        num_frames=8,
        embed_dim=tiny.WIDTH,
        predictor_embed_dim=tiny.PRED_WIDTH,
        depth=depth,
        num_heads=2,
        use_mask_tokens=True,
        num_mask_tokens=3,
        use_rope=True,
        **more,
    )
    return _filled(predictor, seed=1)


def _ids(places: list[int]) -> Tensor:
    return torch.tensor([places, places])


def vjepa2() -> None:
    encoder = _encoder(importlib.import_module("src.models.vision_transformer"), 2)
    predictor = _predictor(importlib.import_module("src.models.predictor"), 2)
    evaluation = importlib.import_module(
        "evals.action_anticipation_frozen.modelcustom.vit_encoder_predictor_concat_ar"
    )
    clips = tiny.draw(2, tiny.FRAMES, 3, tiny.PX, tiny.PX).transpose(1, 2)
    context, target = _ids(tiny.CONTEXT), _ids(tiny.TARGET)
    masked = encoder(clips, masks=[context])
    # The second sample has other positions.
    mixed = torch.tensor([tiny.CONTEXT, [2, 8, 9, 13, 15]]), torch.tensor([tiny.TARGET, [1, 12, 7]])
    anticipate = evaluation.AnticipativeWrapper(
        encoder, predictor, frames_per_second=4, crop_size=tiny.PX, num_steps=2, no_encoder=True
    )
    _save(
        "vjepa2",
        {"encoder": encoder, "predictor": predictor},
        tokens=encoder(clips),
        masked=masked,
        predicted=predictor(masked, context, target),
        predicted_0=predictor(masked, context, target, mask_index=0),
        predicted_mixed=predictor(encoder(clips, masks=[mixed[0]]), *mixed),
        anticipated=anticipate(clips, torch.tensor([0.5, 0.5])),
    )


def vjepa2_1(case: str, *, levels: int) -> None:
    images = {"img_temporal_dim_size": 1}
    encoder = _encoder(
        importlib.import_module("app.vjepa_2_1.models.vision_transformer"),
        12,
        interpolate_rope=True,
        **images,
    )
    encoder.return_hierarchical = levels > 1
    predictor = _predictor(
        importlib.import_module("app.vjepa_2_1.models.predictor"),
        4,
        n_output_distillation=levels,
        teacher_embed_dim=tiny.TEACHER_WIDTH if levels == 1 else None,
        return_all_tokens=True,
        **images,
    )
    clips = tiny.draw(2, tiny.FRAMES, 3, tiny.PX, tiny.PX).transpose(1, 2)
    context, target = _ids(tiny.CONTEXT), _ids(tiny.TARGET)
    masked, image = encoder(clips, masks=[context]), encoder(clips[:, :, :1])
    within = _ids(list(range(tiny.SIDE**2)))
    _save(
        case,
        {"encoder": encoder, "predictor": predictor},
        tokens=encoder(clips),
        image=image,
        masked=masked,
        predicted=predictor(masked, context, target)[0],
        predicted_image=predictor(image, within, target[:, :1], mod="image")[0],
    )


def vjepa2_ac() -> None:
    encoder = _encoder(importlib.import_module("src.models.vision_transformer"), 2, frames=2)
    predictor = _filled(
        importlib.import_module("src.models.ac_predictor").vit_ac_predictor(
            img_size=(tiny.PX, tiny.PX),
            num_frames=8,
            embed_dim=tiny.WIDTH,
            predictor_embed_dim=tiny.PRED_WIDTH,
            depth=2,
            num_heads=2,
        ),
        seed=1,
    )
    images = tiny.draw(1, 3, 3, tiny.PX, tiny.PX)
    # The class in its notebook takes any transform: this one returns the frames [3, T, px, px] unchanged.
    world = importlib.import_module("utils.world_model_wrapper").WorldModel(
        encoder, predictor, tiny.SIDE**2, lambda _: images[0].transpose(0, 1), device="cpu"
    )
    latents = world.encode(np.zeros(1))
    actions, states = tiny.draw(1, 3, 7, seed=2), tiny.draw(1, 3, 7, seed=3)
    pose = importlib.import_module("utils.mpc_utils").compute_new_pose
    latents = latents.unflatten(1, (3, -1))
    raw = predictor(latents.flatten(1, 2), actions, states).unflatten(1, (3, -1))
    # In double precision: these large weights amplify rounding errors from step to step.
    predictor.double()
    start = latents[:, 0].double(), states[:, 0].double()
    rollout, rollout_states = _rollout(world, *start, tiny.draw(2, 3, 7, seed=4).double())
    _save(
        "vjepa2_ac",
        {"encoder": encoder, "predictor": predictor},
        latents=latents,
        raw=raw,
        pose=pose(states[0, :, None], actions[0, :, None])[:, 0],
        rollout=rollout,
        rollout_states=rollout_states,
    )


def _rollout(world: Any, latent: Tensor, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the latents [n, H, patches, dim] and poses [n, H, 7] that the official planner rolls out.

    Args:
        world: The class of the notebook.
        latent: [1, patches, dim].
        state: [1, 7].
        actions: [n, H, 7], used instead of those that the planner samples.
    """
    module = importlib.import_module("utils.world_model_wrapper")
    planner, steps = module.cem, []

    def plan(*, world_model: Any, **others: Any) -> Any:
        def step(latents: Tensor, _: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
            steps.append(world_model(latents, actions[:, : latents.shape[1]], poses))
            return steps[-1]

        return planner(world_model=step, **others)

    count, horizon = actions.shape[:2]
    world.mpc_args = {"rollout": horizon, "samples": count, "topk": count, "cem_steps": 1}
    module.cem = plan
    world.infer_next_action(latent[None], state[None], latent[None])
    latents, poses = zip(*steps, strict=True)
    return torch.cat(latents, dim=1), torch.cat(poses, dim=1)


def ijepa() -> None:
    module = importlib.import_module("src.models.vision_transformer")
    encoder = _filled(
        module.VisionTransformer(
            img_size=[42], patch_size=14, embed_dim=24, depth=2, num_heads=2, norm_layer=NORM
        )
    )
    predictor = _filled(
        module.vit_predictor(num_patches=9, embed_dim=24, predictor_embed_dim=12, depth=2, num_heads=2), 1
    )
    images, context, target = tiny.draw(2, 3, 42, 42), _ids([0, 4, 8]), _ids([1, 5])
    masked = encoder(images, [context])
    _save(
        "ijepa",
        {"encoder": encoder, "predictor": predictor},
        tokens=encoder(images),
        masked=masked,
        predicted=predictor(masked, [context], [target]),
    )


def lewm(folder: Path) -> None:
    from transformers import ViTConfig, ViTModel

    parts, whole = _loaded(folder / "module.py"), _loaded(folder / "lewm.py")
    config = tiny.TINY["lewm"].config
    vit = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=28,
        patch_size=14,
    )
    projection = partial(parts.MLP, 24, config.projector, 24, norm_fn=nn.BatchNorm1d)
    model = whole.LeWM(
        ViTModel(vit, add_pooling_layer=False),
        parts.Predictor(
            num_frames=config.history,
            depth=config.depth,
            heads=config.heads,
            mlp_dim=config.hidden,
            input_dim=24,
            hidden_dim=24,
            dim_head=config.head_dim,
        ),
        parts.Embedder(tiny.ACTION_DIM, config.mixed, 24),
        projection(),
        projection(),
    )
    _filled(model)
    images, actions = tiny.draw(2, 2, 3, 28, 28), tiny.draw(2, 5, tiny.ACTION_DIM, seed=2)
    latents = model.encode({"pixels": images})["emb"]
    past = {"pixels": images[:, None], "action_history": actions[:, None, :1]}
    rolled = model.rollout(past, actions[:, None, 1:], history_size=config.history)["predicted_emb"]
    _save(
        "lewm",
        {"model": model},
        latents=latents,
        predicted=model.predict(latents, model.action_encoder(actions[:, :2])),
        rollout=rolled[:, 0, 2:],
    )


def _loaded(path: Path) -> ModuleType:
    """Load a module by its file, without the imports of its package."""
    spec = importlib.util.spec_from_file_location(f"official_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
