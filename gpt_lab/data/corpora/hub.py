"""Corpora through the `datasets` library: names on the Hugging Face Hub, or local folders that it can read."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpt_lab.data.corpora.file_corpora import files_identity, require_text
from gpt_lab.data.corpus import Corpus, Document, in_memory
from gpt_lab.errors import DataError, unknown
from gpt_lab.options import NonEmpty, PositiveInt, Probability
from gpt_lab.registry import register


@register("data", "hf")
class HuggingFace(Corpus):
    """A dataset by its name on the Hugging Face Hub, or a local folder, through `datasets`; one document a row.

    Reference: Lhoest et al. 2021, arXiv:2109.02846

    A Hub dataset is known by its name and options: it is read once and its shards are kept, so that later runs need no
    network; name a `revision` where the exact version matters. A local folder is known by its content.

    path: name on the Hub, such as 'roneneldan/TinyStories', or a folder (data files, or what save_to_disk wrote).
    config: the dataset's configuration, where it has several.
    revision: commit or tag of the Hub dataset (null: its newest when it is first read).
    split: the split to train on.
    val_split: the split to validate on (null: val_fraction of `split` is held out).
    field: the column that holds the text.
    streaming: read over the network while going, without a download of the whole.
    max_documents: take only the first so many rows of each split.
    val_fraction: share held out when val_split is null: whole documents of 100 or more, else the end of each.
    """

    def __init__(
        self,
        *,
        path: NonEmpty,
        config: NonEmpty | None = None,
        revision: NonEmpty | None = None,
        split: NonEmpty = "train",
        val_split: NonEmpty | None = None,
        field: NonEmpty = "text",
        streaming: bool = False,
        max_documents: PositiveInt | None = None,
        val_fraction: Probability = 0.1,
    ) -> None:
        self.path, self.config, self.revision = path, config, revision
        self.split, self.val_split, self.field = split, val_split, field
        self.streaming, self.max_documents, self.val_fraction = streaming, max_documents, val_fraction

    def documents(self) -> Iterator[Document]:
        return self._rows(self.split, "data.split")

    def held_out(self) -> Iterator[Document] | None:
        return None if self.val_split is None else self._rows(self.val_split, "data.val_split")

    def identity(self) -> Mapping[str, Any]:
        folder = Path(self.path).expanduser()
        local = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
        return {
            "source": files_identity(local) if local else [self.path, self.revision],
            "config": self.config,
            "splits": [self.split, self.val_split],
            "field": self.field,
            "max_documents": self.max_documents,
            "val_fraction": self.val_fraction if self.val_split is None else None,
        }

    def _rows(self, split: str, key: str) -> Iterator[Document]:
        rows = self._load(split, key)
        columns = getattr(rows, "column_names", None)
        if columns is not None and self.field not in columns:
            raise DataError(f"{self.path}: {unknown('data.field', self.field, columns)}")
        number = 0
        try:
            for number, row in enumerate(itertools.islice(rows, self.max_documents), 1):
                if self.field not in row:
                    raise DataError(f"{self.path}: {unknown('data.field', self.field, row)}")
                yield in_memory(require_text(row[self.field], self.field, f"{self.path}, row {number} of {split}"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: reading stopped after row {number} of {split} ({_line(error)})") from error

    def _load(self, split: str, key: str) -> Any:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what fails is said in one line, without each retry
        import datasets

        folder = Path(self.path).expanduser()
        local = folder.is_dir()
        try:
            if local and ((folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()):
                saved = datasets.load_from_disk(str(folder))
                if not isinstance(saved, dict):
                    return saved
                if split not in saved:
                    raise DataError(f"{self.path}: {unknown(key, split, saved)}")
                return saved[split]
            return datasets.load_dataset(
                str(folder) if local else self.path,
                self.config,
                split=split,
                streaming=self.streaming,
                revision=None if local else self.revision,
            )
        except DataError:
            raise
        except Exception as error:  # the library, its readers and its network stack raise many types
            raise DataError(
                f"cannot load {self.path!r}, {key}={split}: {_line(error)}{self._way_out(local)}"
            ) from error

    def _way_out(self, local: bool) -> str:
        if local:
            return ""
        return (
            "; a Hub name needs the network once (unset HF_HUB_OFFLINE): without it, run `hf download --repo-type "
            f"dataset {self.path} --local-dir FOLDER` where there is one and set data.path=FOLDER"
        )


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
