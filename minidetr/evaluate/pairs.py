"""Which image of a prediction is which of the truth, by their names; and which class is which, by theirs. Needs no torch."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path

from minidetr.data.names import key_of, stem_of
from minidetr.errors import InputError

Id = int | str  # of an image

# --- images -----------------------------------------------------------------------------------------------------------------


def pair_names(
    truth: Mapping[Id, str], predicted: Mapping[Id, str], truth_json: str | Path, predicted_json: str | Path
) -> dict[Id, Id]:
    """Image id of the truth -> that of the prediction, for the images whose file names mean the same photo.

    Names are compared from strict to lenient, and what one step pairs is settled for the next: the whole path; without its
    extension; whatever case it is written in; with folders in front on one side only ("val2017/1.jpg" and "1.jpg", but never
    "south/1.jpg" and "north/1.jpg"). Raises InputError for a name that a file has twice, and for one that may be several photos.
    """
    for names, json_file in ((truth, truth_json), (predicted, predicted_json)):
        [(name, count)] = Counter(map(_whole, names.values())).most_common(1) or [("", 0)]
        if count > 1:
            raise InputError(
                f"{json_file} has two images named '{name}', so their names can't pair them; give each its own in 'images'"
            )
    pairs: dict[Id, Id] = {}

    def ambiguous(name: str, json_file: str | Path, first: str, second: str, other_json: str | Path) -> InputError:
        return InputError(
            f"'{name}' of {json_file} may be '{first}' or '{second}' of {other_json}; give a photo the same 'file_name' in both"
        )

    for key in (_whole, _without_extension, _parts):
        left, right = _by_key(truth, key, pairs.keys()), _by_key(predicted, key, set(pairs.values()))
        for name in [name for name in left if name in right]:
            (first, *more), (other, *others) = left[name], right[name]
            if more:
                raise ambiguous(predicted[other], predicted_json, truth[first], truth[more[0]], truth_json)
            if others:
                raise ambiguous(truth[first], truth_json, predicted[other], predicted[others[0]], predicted_json)
            pairs[first] = other

    whole = _by_key(truth, _parts, ())
    ends: dict[tuple[str, ...], list[Id]] = defaultdict(list)
    for parts, ids in whole.items():
        for start in range(1, len(parts)):
            ends[parts[start:]] += ids
    claimed: dict[Id, Id] = {}
    settled = set(pairs.values())
    for image_id in [i for i in predicted if i not in settled]:
        parts = _parts(predicted[image_id])
        candidates = ends.get(parts, []) + [i for start in range(1, len(parts)) for i in whole.get(parts[start:], [])]
        if all(candidate in pairs for candidate in candidates):
            continue
        if len(candidates) > 1:
            raise ambiguous(predicted[image_id], predicted_json, truth[candidates[0]], truth[candidates[1]], truth_json)
        if (other := claimed.setdefault(candidates[0], image_id)) != image_id:
            first, second = sorted((predicted[other], predicted[image_id]))
            raise ambiguous(truth[candidates[0]], truth_json, first, second, predicted_json)
    return pairs | claimed


def _by_key(names: Mapping[Id, str], key: Callable[[str], Hashable], settled: Collection[Id]) -> dict:
    found: dict[Hashable, list[Id]] = defaultdict(list)
    for image_id, name in names.items():
        if image_id not in settled:
            found[key(name)].append(image_id)
    return found


def _whole(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")


def _without_extension(name: str) -> str:
    return stem_of(_whole(name))


def _parts(name: str) -> tuple[str, ...]:
    return key_of(stem_of(_whole(name)))


# --- classes ----------------------------------------------------------------------------------------------------------------


def class_key(name: str) -> str:
    """A class's name as it is compared: in one Unicode form, without case and spaces around it."""
    return _spelled(name).casefold()


def _spelled(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


class Classes:
    """The truth's class of each class in a file: itself in the truth's own file and in a prediction that lists no categories; else
    the one of the same name, or, where none is, of the name that differs in case alone.

    `truth` and `predicted` are names by category id, "" where there is none. A class without a name is that of its id, and so are
    classes that share a name. What can't be told is refused by `truth_id`, when a segment has it.
    """

    def __init__(
        self, truth: Mapping[int, str], truth_json: str | Path, predicted: Mapping[int, str] | None, predicted_json: str | Path
    ) -> None:
        self.known, self.listed, self.json_file = truth, predicted, predicted_json
        self.pairs: dict[int, int] = {}
        self.refused: dict[int, str] = {}
        self.unknown: Counter[str] = Counter()  # segments of classes that the truth lacks, counted by `truth_id`
        if predicted is None:
            self.pairs = {number: number for number in truth}
            return
        for key in (_spelled, class_key):  # a name spelled alike comes first: "Car" and "car" may be two classes
            left = {number: key(name) for number, name in predicted.items() if name and not self._settled(number)}
            paired = set(self.pairs.values())
            known = {number: key(name) for number, name in truth.items() if number not in paired}
            for number, name in left.items():
                namesakes, rivals = [n for n in known if known[n] == name], [n for n in left if left[n] == name]
                alike = len({_spelled(truth[n]) for n in namesakes}) == 1 == len({_spelled(predicted[n]) for n in rivals})
                if len(namesakes) == 1 == len(rivals):
                    self.pairs[number] = namesakes[0]
                elif number in namesakes and alike:
                    self.pairs[number] = number
                elif namesakes:
                    self.refused[number] = (
                        f"which {predicted_json} names {predicted[number]!r}, but several classes have that name, case aside, and "
                        f"no id in {truth_json} tells which it is; give each class a name of its own"
                    )
        paired = set(self.pairs.values())
        for number in predicted.keys() - self.pairs.keys() - self.refused.keys():
            if number not in truth or number in paired:
                continue  # a class that the truth lacks
            if predicted[number] and truth[number]:
                self.refused[number] = (
                    f"which is {predicted[number]!r} in {predicted_json} but {truth[number]!r} in {truth_json}; give a class the "
                    "same name in the 'categories' of both, or leave 'categories' out of the prediction if the ids agree"
                )
            else:
                self.pairs[number] = number

    def _settled(self, number: int) -> bool:
        return number in self.pairs or number in self.refused

    def truth_id(self, category_id: int, where: str) -> int | None:
        """The truth's id of a class, None for one that the truth lacks. `where` names the segment. Raises InputError."""
        if category_id in self.refused:
            raise InputError(f"{where} has the category_id {category_id}, {self.refused[category_id]}")
        if category_id not in (self.known if self.listed is None else self.listed):
            owner = "the ground truth's" if self.listed is None else f"{self.json_file}'s"
            raise InputError(
                f"{where} has the category_id {category_id}, which is not among {owner} 'categories'; correct it or add it there"
            )
        if category_id not in self.pairs:
            self.unknown[self.listed[category_id] or str(category_id)] += 1  # type: ignore[index]
        return self.pairs.get(category_id)
