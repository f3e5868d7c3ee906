"""Is a post about mental health? A logistic head on a frozen sentence encoder, and the folder that keeps both.

PARTNER filters its posts with a BERT classifier (Sharma et al., WWW 2021, section 4). Here a text's mean token state,
scaled to length 1, goes into a logistic regression: what the encoder was trained for, so nothing of it is trained.

Shapes: `_N` post, `_B` post in a batch, `_T` token, `_D` hidden unit.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.curation.topic_report import Probabilities, TopicReport, TopicScores, topic_scores
from partner_rl.data.splits import hash_fraction
from partner_rl.models.loading import load_encoder, load_tokenizer, open_encoder, quiet_transformers
from partner_rl.models.text_tokens import framed_texts, token_limit
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.artefact import FORMAT, MARK, write_mark
from partner_rl.storage.atomic import folder_when_whole, write_json
from partner_rl.types import PartnerError

HELD_OUT: Final = 0.25
"""Share of the posts that is held out for the report, chosen by a hash of the text."""

MIN_POSTS: Final = 40
"""Fewest distinct posts of a class that make a classifier and a report worth having."""

MAX_TOKENS: Final = 256
"""A longer post is judged by its beginning."""

KIND: Final = "topic"
"""What a topic classifier's folder says that it is."""
HEAD: Final = "head.safetensors"
"""File of the head's weights: `weight` `[D]` and `bias` `[1]`."""
REPORT: Final = "report.json"
"""File of the `TopicReport`."""
ENCODER: Final = "encoder"
"""Folder of the encoder and its tokenizer."""

_TRAIN_AGAIN: Final = "train it again with `partner-rl data train-topic`"
_THRESHOLD: Final = 0.5
_SPLIT_SALT: Final = "topic"
_TOKENS_PER_PASS: Final = 4096
_FOLDS: Final = 5
_PENALTIES: Final = tuple(10.0**power for power in np.arange(-1, 4.1, 0.5))


@dataclass(frozen=True, slots=True)
class TopicHead:
    """A logistic regression on an embedding of length 1."""

    weight_D: npt.NDArray[np.float64]
    bias: float

    def probabilities(self, embeddings_ND: npt.NDArray[np.float64]) -> Probabilities:
        """Probability of being about mental health, `[N]`."""
        logits_N = embeddings_ND @ self.weight_D + self.bias
        # Not 1 / (1 + exp(-x)), which overflows for very sure negatives.
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits_N)), dtype=np.float64)


class TopicFilter:
    """Judges whether posts are about mental health.

    The probabilities belong to classes of the same size: training weighs them so.

    Attributes:
        threshold: A post with at least this probability counts as about mental health.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        head: TopicHead,
        max_tokens: int = MAX_TOKENS,
        threshold: float = _THRESHOLD,
    ) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._head = head
        self._max_tokens = max_tokens
        self.threshold = threshold

    @classmethod
    def check(cls, folder: Path) -> None:
        """Check that `load` would read the folder, without reading the encoder's weights.

        Raises:
            PartnerError: As `load`.
        """
        _read_settings(folder)
        load_tokenizer(folder / ENCODER)
        _read_head(folder, open_encoder(folder / ENCODER))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> TopicFilter:
        """Open a folder that `train_topic` has written.

        Raises:
            PartnerError: It is not there, incomplete, or holds something else.
        """
        settings = _read_settings(folder)
        encoder = load_encoder(folder / ENCODER)
        tokenizer = load_tokenizer(folder / ENCODER)
        head = _read_head(folder, encoder)
        encoder.to(device)  # type: ignore[arg-type]
        return cls(encoder, tokenizer, head, int(settings["max_tokens"]), float(settings["threshold"]))

    def probabilities(self, posts: Sequence[str], progress: Progress = no_progress) -> Probabilities:
        """Probability that each post is about mental health, `[N]`; independent of what else is in the batch."""
        embeddings_ND = embed_posts(self._encoder, self._tokenizer, posts, self._max_tokens, progress)
        return self._head.probabilities(embeddings_ND)


def train_topic(
    positives: Sequence[str],
    negatives: Sequence[str],
    encoder_path: Path,
    output: Path,
    seed: int = 0,
    progress: Progress = no_progress,
    *,
    hard: Collection[str] = (),
    other_positives: Sequence[str] = (),
) -> TopicReport:
    """Train a topic classifier, judge it on held-out posts, and write both to a folder.

    A quarter of the posts, chosen by a hash of the text, is held out; the seed does not change which. Copies that
    differ in case or white space only count once.

    Args:
        positives: Posts about mental health.
        negatives: Everyday posts.
        encoder_path: A local folder of the encoder.
        output: Folder to write: complete or absent; an older topic classifier there is replaced.
        seed: Seed of cross-validation and bootstrap.
        progress: Called with posts embedded and posts in all.
        hard: Those negatives that are written to be mistaken; reported apart as well.
        other_positives: Posts about mental health that the report judges apart, such as those of another source;
            posts that are trained on are left out of them.

    Raises:
        PartnerError: Too few posts, a post in both classes, no encoder, or an output folder that cannot be written.
    """
    posts = _prepare(positives, negatives, other_positives)
    encoder, tokenizer = load_encoder(encoder_path), load_tokenizer(encoder_path)
    embeddings_ND = embed_posts(encoder, tokenizer, posts.texts, MAX_TOKENS, progress)
    head, penalty = _fit(embeddings_ND[posts.train], posts.positive[posts.train], seed)
    probabilities_N = head.probabilities(embeddings_ND)
    hard_keys = {_key(text) for text in hard}
    hard_N = np.array([_key(text) in hard_keys for text in posts.texts])
    positive_N, negative_N = posts.held_out & posts.positive, posts.held_out & ~posts.positive

    def scores(kept_N: npt.NDArray[np.bool_], dropped_N: npt.NDArray[np.bool_]) -> TopicScores | None:
        if not kept_N.any() or not dropped_N.any():
            return None
        return topic_scores(probabilities_N[kept_N], probabilities_N[dropped_N], _THRESHOLD, seed)

    overall = scores(positive_N, negative_N)
    if overall is None:
        raise PartnerError(f"no post of one class is held out: give more than {MIN_POSTS} different posts of each")
    report = TopicReport(
        encoder=encoder_path.name,
        seed=seed,
        threshold=_THRESHOLD,
        inverse_penalty=penalty,
        train_positives=int((posts.train & posts.positive).sum()),
        train_negatives=int((posts.train & ~posts.positive).sum()),
        held_out=overall,
        hard=scores(positive_N, negative_N & hard_N),
        other=scores(posts.other, negative_N),
    )
    # A fresh tokenizer: a used one remembers how it truncated and would write that down.
    _write(output, encoder, load_tokenizer(encoder_path), head, report)
    return report


def embed_posts(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    posts: Sequence[str],
    max_tokens: int,
    progress: Progress = no_progress,
) -> npt.NDArray[np.float64]:
    """Mean token state of each post, special tokens included, scaled to length 1; shape `[N, D]`.

    A post is cut to its first `max_tokens` tokens, or to fewer where the encoder has fewer positions. The encoder is in
    evaluation mode.
    """
    embeddings_ND = np.zeros((len(posts), int(encoder.config.hidden_size)))
    if not posts:
        return embeddings_ND
    ids = [found.ids for found in framed_texts(tokenizer, posts, token_limit(encoder, max_tokens))]
    done = 0
    for batch in _batches([len(row) for row in ids]):
        embeddings_ND[batch] = _mean_states(encoder, [ids[index] for index in batch]).double().cpu().numpy()
        done += len(batch)
        progress(done, len(posts))
    norms_N1 = np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    return np.asarray(embeddings_ND / np.maximum(norms_N1, np.finfo(np.float64).tiny))


def _mean_states(encoder: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Mean last hidden state of each row of token ids, `[B, D]`."""
    longest = max(len(row) for row in rows)
    # Padding is masked, so that any id serves.
    ids_BT = torch.zeros((len(rows), longest), dtype=torch.long)
    mask_BT = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        ids_BT[index, : len(row)] = torch.tensor(row)
        mask_BT[index, : len(row)] = 1
    with torch.inference_mode():
        mask_BT = mask_BT.to(encoder.device)
        states_BTD = encoder(input_ids=ids_BT.to(encoder.device), attention_mask=mask_BT).last_hidden_state
        weight_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
        means_BD: Tensor = (states_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1.0)
        return means_BD


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of similar length, each within the budget of padded tokens, longest rows first."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > _TOKENS_PER_PASS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class _Posts:
    """Distinct posts and what each is for.

    Attributes:
        texts: The posts.
        positive: Whether it is about mental health; like all that follows `[N]`.
        train: Trained on.
        held_out: Given as a positive or negative and not trained on.
        other: Judged apart; may be held out as well.
    """

    texts: tuple[str, ...]
    positive: npt.NDArray[np.bool_]
    train: npt.NDArray[np.bool_]
    held_out: npt.NDArray[np.bool_]
    other: npt.NDArray[np.bool_]


def _prepare(positives: Sequence[str], negatives: Sequence[str], others: Sequence[str]) -> _Posts:
    kept, dropped = _distinct(positives), _distinct(negatives)
    apart = _distinct(others)
    transfer = {key: text for key, text in apart.items() if key not in kept}
    for name, posts in (("about mental health", kept), ("of everyday life", dropped)):
        if len(posts) < MIN_POSTS:
            raise PartnerError(f"{len(posts)} different posts {name} are too few: give at least {MIN_POSTS}")
    shared = sum(key in dropped for key in (*kept, *transfer))
    if shared:
        raise PartnerError(f"{shared} posts are both positives and negatives: take them out of one of the two")
    keys = (*kept, *dropped, *transfer)
    counts = (len(kept), len(dropped), len(transfer))
    given = np.repeat([True, True, False], counts)
    train = given & np.array([hash_fraction(_SPLIT_SALT, key) >= HELD_OUT for key in keys])
    texts = (*kept.values(), *dropped.values(), *transfer.values())
    return _Posts(
        texts=texts,
        positive=np.repeat([True, False, True], counts),
        train=train,
        held_out=given & ~train,
        other=~train & np.array([key in apart for key in keys]),
    )


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _distinct(texts: Iterable[str]) -> dict[str, str]:
    distinct: dict[str, str] = {}
    for text in texts:
        distinct.setdefault(_key(text), text)
    return distinct


def _fit(
    embeddings_ND: npt.NDArray[np.float64], positive_N: npt.NDArray[np.bool_], seed: int
) -> tuple[TopicHead, float]:
    """The head, and the `C` whose probabilities were best in cross-validation."""
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    parts = list(folds.split(embeddings_ND, positive_N))

    def loss(penalty: float) -> float:
        return sum(
            _log_loss(
                _regression(embeddings_ND[rest], positive_N[rest], penalty), embeddings_ND[fold], positive_N[fold]
            )
            for rest, fold in parts
        )

    best = min(_PENALTIES, key=loss)
    return _regression(embeddings_ND, positive_N, best), best


def _regression(embeddings_ND: npt.NDArray[np.float64], positive_N: npt.NDArray[np.bool_], penalty: float) -> TopicHead:
    model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=5000).fit(embeddings_ND, positive_N)
    return TopicHead(model.coef_[0].astype(np.float64), float(model.intercept_[0]))


def _log_loss(head: TopicHead, embeddings_ND: npt.NDArray[np.float64], positive_N: npt.NDArray[np.bool_]) -> float:
    """Mean negative log-probability of the truth, both classes weighing the same as they do in training."""
    logits_N = embeddings_ND @ head.weight_D + head.bias
    return float(np.logaddexp(0.0, -logits_N[positive_N]).mean() + np.logaddexp(0.0, logits_N[~positive_N]).mean())


def _write(
    output: Path,
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    head: TopicHead,
    report: TopicReport,
) -> None:
    settings = {"max_tokens": MAX_TOKENS, "threshold": report.threshold}
    with folder_when_whole(output, KIND) as partial:
        with quiet_transformers():
            encoder.save_pretrained(str(partial / ENCODER))
            tokenizer.save_pretrained(str(partial / ENCODER))
        save_file({"weight": head.weight_D, "bias": np.array([head.bias])}, partial / HEAD)
        write_json(partial / REPORT, asdict(report))
        write_mark(partial, KIND, settings=settings)


def _read_head(folder: Path, encoder: PreTrainedModel) -> TopicHead:
    try:
        tensors = load_file(folder / HEAD)
        head = TopicHead(tensors["weight"].astype(np.float64), float(tensors["bias"][0]))
    except Exception as error:  # safetensors raises its own, bare subclass of Exception for a damaged file
        raise PartnerError(f"{folder / HEAD} is missing or damaged: {_TRAIN_AGAIN}") from error
    if head.weight_D.shape != (encoder.config.hidden_size,):
        raise PartnerError(f"{folder / HEAD} does not fit the encoder beside it: {_TRAIN_AGAIN}")
    return head


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / MARK
    if not path.is_file():
        raise PartnerError(f"no topic classifier in {folder}: {_TRAIN_AGAIN.replace(' again', '')}")
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        found, version = metadata["kind"], metadata["format"]
        settings = {name: metadata["settings"][name] for name in ("max_tokens", "threshold")}
    except (ValueError, KeyError, TypeError) as error:
        raise PartnerError(f"{path} is damaged: {_TRAIN_AGAIN}") from error
    if (found, version) != (KIND, FORMAT):
        raise PartnerError(f"{folder} holds a {found!r} of format {version}, not {KIND!r} of format {FORMAT}")
    return settings
