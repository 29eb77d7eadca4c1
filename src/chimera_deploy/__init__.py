"""`chimera deploy`: a Docker Compose file and Kubernetes manifests for the fleet that chimera.toml lists."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from chimera.errors import SettingsError
from chimera.run.settings import read_settings
from chimera_deploy.compose import compose_files
from chimera_deploy.fleet import Options, planned
from chimera_deploy.kubernetes import kubernetes_files

__all__ = ["Options", "deploy"]

KEPT = "compose/.env"


def deploy(config: Path, out: Path, options: Options) -> list[str]:
    """Write the files below `out`; returns what to tell, a line each. Raises SettingsError.

    Only the file `config` counts, not the environment: what is written must not depend on who writes it.
    """
    settings = read_settings(config, {})
    folder = config.parent
    build = os.path.relpath(folder, out / "compose") if (folder / "Dockerfile").exists() else None
    fleet = planned(settings, options, build)
    kept = _write(out, {**compose_files(fleet), **kubernetes_files(fleet)})
    told = [f"written: {out}/compose, {out}/kubernetes"]
    if kept:
        told.append(f"kept: {out / KEPT}, which differs from what would be written now; delete it to have it anew")
    embedded = [name for name, need in fleet.needs.items() if need.embedded]
    if embedded:
        told.append(
            f"embedded engines can't be shared between machines: for Kubernetes set {', '.join(embedded)} "
            f"in a Secret, see {out}/kubernetes/secret.example.yaml"
        )
    return told


def _write(out: Path, files: Mapping[str, str]) -> bool:
    """Write what is new; says whether somebody's own settings were left as they are."""
    kept = False
    for name, text in files.items():
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == KEPT and path.exists():
                kept = path.read_text() != text
            else:
                path.write_text(text)
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} can't be written ({error}); name another folder with --out") from error
    return kept
