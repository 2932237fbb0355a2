"""One artifact that answers: settings, network, ranking, confidence and provenance in one safetensors file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from deepgmr.errors import InvalidCheckpoint, InvalidConfig
from deepgmr.io import checkpoint as files
from deepgmr.networks.deepgmr import DeepGMR
from deepgmr.networks.overlap import OverlapConfig, OverlapNetwork
from deepgmr.pipeline.judge import Confidence
from deepgmr.pipeline.rank import Ranking
from deepgmr.pipeline.scan import fingerprint
from deepgmr.pipeline.settings import Settings
from deepgmr.plain import from_plain, to_plain

KIND = "bundle"


@dataclass(frozen=True, eq=False)
class Bundle:
    """What was trained and fitted together. Each part means something only behind the front-end it saw."""

    settings: Settings
    network: OverlapNetwork
    ranking: Ranking  # where the level that is searched is all there is
    confidence: Confidence
    detailed_ranking: Ranking  # where there is more detail
    detailed_confidence: Confidence
    initial_confidence: Confidence  # of an initial motion that was fitted, and of which no rival was sought
    provenance: Mapping[str, Any] = field(default_factory=dict)  # version, commit, command, data, steps, seed, tables
    id: str = ""  # the beginning of the file's digest

    @classmethod
    def load(cls, name_or_path: str | Path = "default") -> Bundle:
        """A bundled one by name, or a file. Raises `InvalidCheckpoint`, naming the file, if it cannot be used here."""
        path = _resolve(name_or_path)
        found = files.read(path)
        if found.kind != KIND:
            raise InvalidCheckpoint(
                f"{path}: holds a `{found.kind}`, not a bundle; `deepgmr calibrate --network {path} --out DIR` makes "
                "one of an overlap network, `deepgmr.load` reads networks"
            )
        content = found.config
        try:
            settings = from_plain(Settings, content["settings"])
            ranking = Ranking(content["ranking"])
            confidence = Confidence(**content["confidence"])
            detailed_ranking = Ranking(content["detailed_ranking"])
            detailed_confidence = Confidence(**content["detailed_confidence"])
            initial_confidence = Confidence(**content["initial_confidence"])
            network_config = to_plain(from_plain(OverlapConfig, content["network"]))
            made_for = content["front_end"]
        except (InvalidConfig, KeyError, TypeError, AttributeError) as error:
            raise InvalidCheckpoint(f"{path}: is no bundle of this version ({error}); calibrate it again") from None
        if made_for != fingerprint(settings.scan):
            raise InvalidCheckpoint(
                f"{path}: was made behind another front-end ({str(made_for)[:40]}; this version's is "
                f"{fingerprint(settings.scan)}), so its network and its confidence mean nothing here; calibrate it again"
            )
        network = files.filled("overlap", network_config, found.part("network"), where=str(path))
        assert isinstance(network, OverlapNetwork)
        identity = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        models = ranking, confidence, detailed_ranking, detailed_confidence, initial_confidence
        return cls(settings, network.eval(), *models, found.provenance, identity)

    def seen(self, *, detailed: bool) -> Bundle:
        """The bundle with the ranking and the confidence for clouds of more detail than is searched, or for others."""
        if not detailed:
            return self
        return replace(self, ranking=self.detailed_ranking, confidence=self.detailed_confidence)

    def save(self, path: str | Path) -> None:
        """Write a file that `load` reads back; it appears whole or not at all."""
        config = {
            "settings": to_plain(self.settings),
            "network": to_plain(self.network.config),
            "ranking": dict(self.ranking.weights),
            "confidence": to_plain(self.confidence),
            "detailed_ranking": dict(self.detailed_ranking.weights),
            "detailed_confidence": to_plain(self.detailed_confidence),
            "initial_confidence": to_plain(self.initial_confidence),
            "front_end": fingerprint(self.settings.scan),
        }
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        files.write(path, files.Checkpoint(KIND, config, dict(self.provenance), {}, tensors))


@functools.cache
def whole_network() -> DeepGMR:
    """The bundled DeepGMR network, for whole clouds."""
    network = files.load("deepgmr")
    if not isinstance(network, DeepGMR):
        raise InvalidCheckpoint(f"the bundled weights `deepgmr` hold a {type(network).__name__}; reinstall deepgmr")
    return network


def bundles() -> tuple[str, ...]:
    """The names of the bundles inside the package."""
    return tuple(sorted(path.stem for path in _folder().glob("*.safetensors")))


def _folder() -> Path:
    return Path(str(resources.files("deepgmr") / "bundles"))


def _resolve(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    inside = _folder() / f"{name_or_path}.safetensors"
    if inside.is_file():
        return inside
    raise InvalidCheckpoint(
        f"`{name_or_path}` is neither a file nor a bundle of this package; those are: {', '.join(bundles())}"
    )
