"""Vectors of texts: computing them with an encoder, keeping them, looking them up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from meld.backbone.weights import explain_load_failure, resolve
from meld.dataset.reading import reading
from meld.progress import Progress, Silent, quiet_libraries

Array = NDArray[np.float32]


class Embeds(Protocol):
    """Anything that embeds texts."""

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Array:
        """Unit vectors of texts, shape (n, d)."""
        ...


class Embedder:
    """A loaded sentence encoder.

    Args:
        source: Folder in sentence-transformers layout, hub name or ``embedded:minilm``.
        max_length: Tokens of a text that are read.
        batch_size: Texts per pass.
        device: ``cpu``, ``cuda`` or None for automatic.
        config_key: Where the name stands in the configuration, for messages.

    Raises:
        UserError: If the encoder is neither a folder nor reachable.
    """

    def __init__(
        self,
        source: str,
        max_length: int = 128,
        batch_size: int = 64,
        device: str | None = None,
        config_key: str = "encoder.path",
    ) -> None:
        from sentence_transformers import SentenceTransformer

        try:
            with quiet_libraries():
                self.model: Any = SentenceTransformer(resolve(source), device=device)
        except (OSError, ValueError) as error:
            raise explain_load_failure(source, config_key, error) from error
        self.model.max_seq_length = max_length
        self.batch_size = batch_size

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Array:
        """Unit vectors of texts.

        Args:
            texts: The texts.
            progress: Where to report.

        Returns:
            Shape (n, d), float32, rows of length one.
        """
        progress = progress or Silent()
        progress.begin("embed", len(texts))
        dimension = self.model.get_embedding_dimension()
        out = np.zeros((len(texts), dimension), dtype=np.float32)
        # Sorting by length here, not inside the library, keeps batches small in padding and the progress honest.
        order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
        for start in range(0, len(order), self.batch_size):
            chunk = order[start : start + self.batch_size]
            out[chunk] = self.model.encode(
                [texts[i] for i in chunk],
                batch_size=self.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            progress.advance(len(chunk))
        return out


class Vectors:
    """Text to unit vector.

    Args:
        texts: Distinct texts.
        array: Shape (n, d), their vectors.
    """

    def __init__(self, texts: Sequence[str], array: Array) -> None:
        self.texts = list(texts)
        self.array = array
        self._row = {text: row for row, text in enumerate(self.texts)}

    @classmethod
    def of(cls, texts: Iterable[str], embedder: Embeds, progress: Progress | None = None) -> Vectors:
        """Embed the distinct texts, in sorted order so that the result does not depend on theirs."""
        distinct = sorted(set(texts))
        return cls(distinct, embedder.embed(distinct, progress))

    def extended(self, texts: Iterable[str], embedder: Embeds) -> Vectors:
        """These vectors and those of further texts; nothing is embedded twice."""
        missing = sorted(set(texts) - self._row.keys())
        if not missing:
            return self
        return Vectors([*self.texts, *missing], np.concatenate([self.array, embedder.embed(missing)]))

    def __contains__(self, text: str) -> bool:
        return text in self._row

    def get(self, texts: Sequence[str]) -> Array:
        """Vectors of known texts, shape (n, d).

        Raises:
            KeyError: For a text without a vector.
        """
        found: Array = self.array[[self._row[text] for text in texts]]
        return found

    def mean(self, groups: Sequence[Sequence[str]]) -> Array:
        """The unit-length mean vector of each group of texts, shape (n, d).

        A query is represented by its parts, so that each part is embedded once however many queries share it.
        """
        if not groups:
            return np.zeros((0, self.array.shape[1]), dtype=np.float32)
        means = np.stack([self.get(group).mean(axis=0) for group in groups])
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        units: Array = (means / np.maximum(norms, 1e-12)).astype(np.float32)
        return units

    def save(self, folder: Path) -> None:
        """Write ``texts.parquet`` and ``vectors.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": pa.array(self.texts, pa.string())}), folder / "texts.parquet")
        save_file({"vectors": np.ascontiguousarray(self.array)}, folder / "vectors.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Vectors:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: Naming the file that is damaged.
        """
        with reading(folder / "texts.parquet"):
            texts = pq.read_table(folder / "texts.parquet").column("text").to_pylist()
        with reading(folder / "vectors.safetensors"):
            tensors: Mapping[str, Array] = load_file(folder / "vectors.safetensors")
            array = tensors["vectors"]
            if array.ndim != 2 or len(array) != len(texts):
                raise ValueError(f"vectors of shape {array.shape} for {len(texts)} texts")
        return cls(texts, array)


class Memory:
    """An encoder that embeds each text once and remembers it.

    A vector's last bits depend on the texts that share its pass, so results repeat only where the same texts are asked
    for in the same order: inside one stage, not across stages of which some come from the store.

    Args:
        embedder: The encoder.
    """

    def __init__(self, embedder: Embeds) -> None:
        self._embedder = embedder
        self._known: Vectors | None = None

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Array:
        """Unit vectors of texts, shape (n, d)."""
        if self._known is None:
            self._known = Vectors.of(texts, self._embedder, progress)
        else:
            missing = [text for text in texts if text not in self._known]
            if missing:
                fresh = Vectors.of(missing, self._embedder, progress)
                self._known = Vectors(
                    [*self._known.texts, *fresh.texts], np.concatenate([self._known.array, fresh.array])
                )
        return self._known.get(texts)


class Repeats:
    """An encoder that answers a whole list of texts from memory when the same list is asked for again.

    Unlike :class:`Memory` it changes no bit, whatever was asked before, so several stages may share it. The tuples of a
    table that several tasks ask about are embedded once this way.

    Args:
        embedder: The encoder; its weights must not change.
        max_bytes: Lists that take more memory than this are not remembered; the oldest ones make room.
    """

    def __init__(self, embedder: Embeds, max_bytes: int = 2**28) -> None:
        self._embedder = embedder
        self._max_bytes = max_bytes
        self._lists: dict[tuple[str, ...], Array] = {}

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Array:
        """Unit vectors of texts, shape (n, d); not to be written to."""
        key = tuple(texts)
        if key in self._lists:
            return self._lists[key]
        array = self._embedder.embed(texts, progress)
        array.flags.writeable = False
        self._lists[key] = array
        while sum(kept.nbytes for kept in self._lists.values()) > self._max_bytes:
            self._lists.pop(next(iter(self._lists)))
        return array
