"""The scores of own answers: does the voice choose, among the LLM's own continuations, the one for its emotion?

The LLM wrote a continuation of each transcript for each emotion that it was told. The continuation with the highest
score after a clip is the prediction. The score is read in two ways:

- less the mean (`ua`): the log-probability of the continuation, minus its mean over the clips of the same words by
  other speakers. The log-probability is a sum over tokens, so alone it favours short continuations, whatever the clip.
  If no other speaker says these words, nothing is subtracted; such clips are counted (`no_mean`).
- raw (`ua_raw`): the log-probability itself.

If k continuations share the highest score, each is predicted by 1/k. Equal continuations of a transcript always share
their score, so they are one candidate.

With an emotion prompt, `ua_less_even` subtracts the log-probability of the continuation if the prompt mixes all
emotions evenly. This needs no other clips of the same words.

A continuation may name an emotion in words. `ua_unnamed` is `ua` without the candidates that do so, and without the
clips whose right continuation is one of them (`n_unnamed` clips are left).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evaluate import confusions, intervals
from evaluate.intervals import Floats, Ints
from evaluate.metrics import DIGITS, Metrics, bounded
from evaluate.predictions import OWN_BASELINES, OWN_PROMPTED, OWN_SYSTEMS

OWN_ANSWERS, SEEN_WORDS, NEW_WORDS = "own_answers_", "seen_words_own_answers_", "new_words_own_answers_"
"""Prefixes of the test names; the corpus follows: all test clips, those whose words training has seen, the others."""

EVEN, LESS_EVEN = "prompted_even", ("prompted_head", "prompted_true")
"""The system whose scores are subtracted from those of the others for `ua_less_even`."""

PERMUTATIONS = 10_000
TIE_NATS = 1e-6  # scores that are closer share the prediction; float32 has larger errors
CELLS = 4_000_000  # permutations x clips at once, 32 MB

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class OwnAnswers:
    """The scores of own answers, and for each corpus what the voice chose: clips by true and chosen emotion, (K, K)."""

    metrics: Metrics
    confusions: dict[str, list[list[float]]]


@dataclass(frozen=True, slots=True)
class Clips:
    """The clips of one system: n clips, K classes."""

    speakers: list[str]
    truth: Ints
    """Class of each clip, (n)."""
    texts: Ints
    """Number of each clip's transcript, (n)."""
    scores: Floats
    """Score of each continuation, (n, K); minus infinity for one that is no candidate."""
    named: Bools
    """Whether a continuation contains a word for an emotion, (n, K)."""

    def where(self, is_kept: Bools) -> "Clips":
        """Return some of the clips."""
        speakers = [speaker for speaker, kept in zip(self.speakers, is_kept.tolist(), strict=True) if kept]
        return Clips(speakers, self.truth[is_kept], self.texts[is_kept], self.scores[is_kept], self.named[is_kept])

    def chosen(self) -> Floats:
        """Return the share of each emotion in the prediction, (n, K)."""
        top = self.scores >= self.scores.max(axis=1, keepdims=True) - TIE_NATS
        shares: Floats = top / top.sum(axis=1, keepdims=True)
        return shares


def score_own_answers(table: pa.Table, emotions: Sequence[str], confidence: float) -> OwnAnswers:
    """Score every system on every corpus, on all words and on those that training has or has not seen.

    Chance is 1 / number of emotions of the clips; for `ua_unnamed`, it is a guess among the candidates. `p` is that of
    a permutation test of `ua`, which exchanges emotions among the clips of each sentence; it is absent if no sentence
    has clips of two emotions.
    """
    found = OwnAnswers({}, {})
    for corpus in sorted(table["corpus"].unique().to_pylist()):
        rows = table.filter(pc.field("corpus") == corpus)
        seen = rows["seen_words"]
        subsets = {OWN_ANSWERS: rows, SEEN_WORDS: rows.filter(seen), NEW_WORDS: rows.filter(pc.invert(seen))}
        found.metrics.update(
            {prefix + corpus: _score(some, emotions, confidence) for prefix, some in subsets.items() if some.num_rows}
        )
        voice = less_mean(select_clips(rows, "voice", emotions))[0]
        found.confusions[corpus] = _confusions(voice).sum(axis=0).round(DIGITS).tolist()
    return found


def less_mean(clips: Clips) -> tuple[Clips, Bools]:
    """Subtract from each score its mean over the clips of the same words by other speakers.

    Also returns which clips have no such mean; their scores stay as they are.
    """
    speakers = np.unique(clips.speakers, return_inverse=True)[1]
    own_words = clips.texts * (1 + speakers.max(initial=0)) + speakers
    others_sum, others_count = np.zeros_like(clips.scores), np.zeros(len(clips.texts))
    for sign, groups in ((1, clips.texts), (-1, own_words)):
        codes = np.unique(groups, return_inverse=True)[1]
        counts = np.bincount(codes)
        sums = np.zeros((len(counts), clips.scores.shape[1]))
        np.add.at(sums, codes, clips.scores)
        others_sum += sign * sums[codes]
        others_count += sign * counts[codes]
    mean = others_sum / np.maximum(others_count, 1)[:, np.newaxis]
    has_none = others_count == 0
    return replace(clips, scores=np.where(has_none[:, np.newaxis], clips.scores, clips.scores - mean)), has_none


def unnamed(clips: Clips) -> Clips:
    """Leave out the candidates that name an emotion, and the clips whose right continuation is one of them."""
    candidates = replace(clips, scores=np.where(clips.named, -np.inf, clips.scores))
    return candidates.where(~clips.named[np.arange(len(clips.truth)), clips.truth])


def permutation_p(systems: Sequence[Clips], seed: int = 1) -> list[float]:
    """Return the p of each system's accuracy, for systems with the same clips; [] if there is nothing to permute.

    The null hypothesis: for given words, the prediction does not depend on the emotion. Each permutation exchanges the
    emotions of the clips of each sentence; it is the same for all systems. p counts the observed order as one more.
    """
    truth, texts = systems[0].truth, systems[0].texts
    emotions_of_text = np.bincount(np.unique(np.stack([texts, truth], axis=1), axis=0)[:, 0])
    order = np.lexsort((truth, texts))
    order = order[emotions_of_text[texts[order]] > 1]
    if not len(order):
        return []
    weights = 1 / np.maximum(np.bincount(truth, minlength=systems[0].scores.shape[1]), 1)
    credits = [(clips.chosen() * weights)[order] for clips in systems]  # what a clip adds if it has an emotion
    first_cells = np.arange(len(order)) * len(weights)
    observed = np.array([credit.ravel()[first_cells + truth[order]].sum() for credit in credits])
    reached = np.zeros(len(systems), np.int64)
    generator = np.random.default_rng(seed)
    sentence_keys = (texts[order].astype(np.uint64) << np.uint64(40)) + truth[order].astype(np.uint64)
    chunk = max(1, CELLS // len(order))
    for start in range(0, PERMUTATIONS, chunk):
        size = (min(chunk, PERMUTATIONS - start), len(order))
        draws = generator.integers(1 << 32, size=size, dtype=np.uint64) << np.uint64(8)
        permuted = np.sort(sentence_keys + draws, axis=1) & np.uint64(0xFF)  # sorts the emotions within each sentence
        cells = first_cells + permuted.astype(np.int64)
        for number, credit in enumerate(credits):
            reached[number] += (credit.ravel()[cells].sum(axis=1) >= observed[number] - 1e-9).sum()
    return ((1 + reached) / (1 + PERMUTATIONS)).tolist()  # type: ignore[no-any-return]


def _score(rows: pa.Table, emotions: Sequence[str], confidence: float) -> dict[str, dict[str, float]]:
    """Return the metrics of each system on clips of one corpus."""
    raw = {system: select_clips(rows, system, emotions) for system in (*OWN_SYSTEMS, *OWN_BASELINES, *OWN_PROMPTED)}
    raw = {system: clips for system, clips in raw.items() if len(clips.truth)}
    voice = raw["voice"]
    chance = {"ua": round(1 / len(np.unique(voice.truth)), DIGITS)}
    guess = score_accuracy("ua_unnamed", unnamed(replace(voice, scores=np.zeros_like(voice.scores))), confidence)
    chance |= {name: value for name, value in guess.items() if name == "ua_unnamed"}
    scores = {"chance": chance, "answers": _count_answers(rows)}
    compared = {system: less_mean(clips) for system, clips in raw.items()}
    for system, (clips, no_mean) in compared.items():
        rest = unnamed(clips)
        scores[system] = {
            **score_accuracy("ua", clips, confidence),
            **score_accuracy("ua_raw", raw[system], confidence),
            **score_accuracy("ua_unnamed", rest, confidence),
            "n": len(clips.truth), "n_unnamed": len(rest.truth), "no_mean": int(no_mean.sum()),
            "speakers": len(set(clips.speakers)),
        }  # fmt: skip
    for system in LESS_EVEN if EVEN in raw else ():
        less_even = replace(raw[system], scores=raw[system].scores - raw[EVEN].scores)
        scores[system] |= score_accuracy("ua_less_even", less_even, confidence)
    by_size: dict[int, list[str]] = {}  # a wrong clip may be missing, so `shuffled` may have fewer clips
    for system, (clips, _) in compared.items():
        by_size.setdefault(len(clips.truth), []).append(system)
    for systems in by_size.values():
        for system, p in zip(systems, permutation_p([compared[s][0] for s in systems]), strict=False):
            scores[system]["p"] = round(p, DIGITS)
    return scores


def select_clips(rows: pa.Table, system: str, emotions: Sequence[str]) -> Clips:
    """Return the clips of a system, in the order of their ids."""
    rows = rows.filter(pc.field("system") == system).sort_by("id")
    classes = pa.array(emotions, pa.string())
    scores, named = (
        np.asarray(pc.list_flatten(rows[name])).reshape(-1, len(emotions)) for name in ("logprobs", "named")
    )
    texts = rows["text"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    truth = pc.index_in(rows["emotion"], value_set=classes).to_numpy().astype(np.int64)
    return Clips(rows["speaker"].to_pylist(), truth, texts, scores, named)


def _count_answers(rows: pa.Table) -> dict[str, float]:
    """Count the continuations of the distinct transcripts, the different ones, and those that name an emotion."""
    texts = rows["text"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = rows.take(pa.array(np.unique(texts, return_index=True)[1]))
    candidates, named = (np.stack(first[name].to_numpy()) for name in ("candidates", "named"))
    distinct = candidates.max(axis=1) + 1
    return {"n": candidates.size, "distinct": int(distinct.sum()), "named": int(named.sum())}


def _confusions(clips: Clips) -> Floats:
    """Return for each clip its share in each cell of true and predicted emotion, (n, K, K)."""
    shares = clips.chosen()
    confusions: Floats = np.eye(shares.shape[1])[clips.truth][:, :, np.newaxis] * shares[:, np.newaxis, :]
    return confusions


def score_accuracy(name: str, clips: Clips, confidence: float) -> dict[str, float]:
    """Return the unweighted accuracy and its interval as metrics; without clips, there are none."""
    if not len(clips.truth):
        return {}
    by = intervals.by_speaker_or_row(clips.speakers)
    shape = (by.count, *2 * (clips.scores.shape[1],))
    sums = intervals.sum_by_cluster(_confusions(clips).reshape(len(clips.truth), -1), by).reshape(shape)
    accuracy = intervals.estimate(sums, confusions.unweighted_accuracy, sums.sum(axis=(1, 2)))
    found = bounded(name, accuracy, confidence, lowest=0, highest=1)
    return {key: round(value, DIGITS) for key, value in found.items()}
