"""Does a film show what was said of it? Body part, view, orientation, mirroring and polarity.

A film is held against the views of the bundled priors in every pose (``film_looks.py``). What
differs from the statement is named with how much better the prior's own views explain the film
when it is put right, and with the option that does it. A prior of another body part answers by its
own views alone, and only for polarity and orientation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from ..imaging.geometry import FRONTAL_DEG, Geometry, angle_difference_deg
from ..prior.load import Prior
from .film_looks import (
    POSES,
    VIEWS,
    FilmClassifier,
    Looks,
    Pose,
    ViewSpace,
    equalised,
    load_knowledge,
    posed,
)
from .film_views import VIEW_DEG, prior_space, prior_views
from .outputs import fingerprint

SURE = 0.95  # probability from which a difference is named
VERY_SURE = 0.98  # the same for a film that is not as stated in who knows what
OBLIQUE_DEG = 30.0  # a view further from frontal and lateral is neither
TOLD_DB = 0.1  # a smaller gain is not worth a number
OWN_GAIN_DB = 1.5  # by which a prior of another body part must explain a turned film better
SAME_PART = 0.8  # probability from which another prior is taken to show chests or knees
PARTS = tuple(dict.fromkeys(part for part, _ in VIEWS))
ALL_VIEWS = range(len(VIEWS))


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What was said of a film, and what was done to it when it was read.

    Options:
        angle_deg: view angle that the picture is used as.
        view: the user's name of it.
        mirrored: the film was mirrored into the picture, as an AP film is.
        inverted: its polarity was turned over on the user's word.
        rotated_deg: degrees clockwise by which it was turned first.
        flipped: then it was mirrored on the user's word.
    """

    angle_deg: float
    view: str = "PA"
    mirrored: bool = False
    inverted: bool = False
    rotated_deg: int = 0
    flipped: bool = False

    def expected(self, geometry: Geometry) -> tuple[str, bool] | None:
        """The view and whether it hangs mirrored, for a prior's geometry; None for oblique views.

        >>> from ..imaging.geometry import DEFAULTS
        >>> Stated(angle_deg=90, mirrored=True).expected(DEFAULTS["chest"])
        ('frontal', False)
        >>> Stated(angle_deg=185).expected(DEFAULTS["chest"])
        ('lateral', True)
        """
        for view, angle_deg in VIEW_DEG.items():
            for behind in (False, True):
                away = angle_difference_deg(self.angle_deg, angle_deg + 180 * behind)
                if abs(away) <= OBLIQUE_DEG:
                    return view, behind ^ self.mirrored ^ (not geometry.columns_flipped)
        return None


@dataclass(frozen=True)
class FilmVerdict:
    """What a film shows; None where it cannot be told.

    ``gains_db`` holds, for each difference found (body part, view, orientation, mirrored,
    polarity; statement where it is not sure which of them), by how many decibels the prior's views
    explain the film better when it is put right.
    """

    body_part: str | None
    view: str | None = None  # frontal or lateral
    rotated_deg: int | None = None  # degrees clockwise that put it upright
    mirrored: bool | None = None  # as it hangs: a frontal film, or a lateral one facing image left
    inverted: bool | None = None
    p_as_stated: float | None = None  # probability that nothing differs from the statement
    gains_db: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class FilmChecks:
    """What films for a prior are compared with.

    ``checks = FilmChecks.of(prior)`` once, then ``checks(image, mask, stated)`` for each film.
    """

    prior: Prior
    part: str | None  # the body part it shows; None for another than PARTS
    classifier: FilmClassifier
    spaces: tuple[ViewSpace, ...]  # of VIEWS

    @classmethod
    def of(cls, prior: Prior) -> FilmChecks:
        """Views of chests and knees are at hand, for priors that say which of them they show.

        Any other shows the body part that its frontal views look like, if they lie as the bundled
        priors' do; its views are rendered, which takes a second.
        """
        known = load_knowledge()
        stated = prior.meta.get("anatomy")
        part = stated if stated in PARTS else known.priors.get(fingerprint(prior))
        spaces = known.spaces
        if part is None:
            part = _looks_like(prior, known.classifier, spaces)
            spaces = tuple(
                prior_space(prior, VIEW_DEG[name]) if whose == part else space
                for (whose, name), space in zip(VIEWS, spaces, strict=True)
            )
        return cls(prior, part, known.classifier, spaces)

    def __call__(self, image: Tensor, mask: Tensor, stated: Stated) -> FilmVerdict:
        """Compare a picture [rows, cols] in [0, 1], bone bright as read, with what was stated.

        ``mask`` [rows, cols] in [0, 1] is 0 where there is no patient: letters, collimator, border.
        """
        if self.part is None:
            return self._by_own_views(image, mask, stated)
        if stated.mirrored:  # as it hangs
            image, mask = image.flip(-1), mask.flip(-1)
        looks = self.classifier.look(image, mask, self.spaces)
        return Comparison(looks, self.part, stated, self.prior.geometry).verdict()

    def _by_own_views(self, image: Tensor, mask: Tensor, stated: Stated) -> FilmVerdict:
        """Polarity and orientation by the prior's own views at the stated angle."""
        space = prior_space(self.prior, stated.angle_deg)
        db = space.explained_db(posed(*equalised(image[None].cpu(), mask[None].cpu())))[0]
        k = int(db.argmax())
        gain_db = float(db[k] - max(db[POSES.index(Pose())], db[POSES.index(Pose(mirrored=True))]))
        if gain_db < OWN_GAIN_DB:
            return FilmVerdict(None)
        pose, words = POSES[k], _Words(stated)
        # the film hangs mirrored to the picture, which turns the other way
        quarters = -pose.quarters % 4 if stated.mirrored else pose.quarters
        gains_db, warnings = {}, []
        for question, differs, text in (
            ("polarity", pose.inverted, words.polarity(gain_db)),
            ("orientation", quarters > 0, words.orientation(quarters, gain_db)),
        ):
            if differs:
                gains_db[question] = gain_db
                warnings.append(text)
        return FilmVerdict(
            None,
            rotated_deg=90 * quarters,
            inverted=pose.inverted,
            gains_db=gains_db,
            warnings=tuple(warnings),
        )


def _looks_like(
    prior: Prior, classifier: FilmClassifier, spaces: tuple[ViewSpace, ...]
) -> str | None:
    """The body part whose upright frontal views a prior's frontal views look like; None if none."""
    rng = Generator().manual_seed(0)
    views = prior_views(prior, FRONTAL_DEG, patients=8, grid=24, rng=rng)
    looks = [classifier.look(view, torch.ones_like(view), spaces) for view in views[::3]]
    p = torch.stack([look.p for look in looks]).mean(0)
    p_upright = p[POSES.index(Pose())] + p[POSES.index(Pose(mirrored=True))]
    k = max(_columns(view="frontal"), key=lambda column: float(p_upright[column]))
    return VIEWS[k][0] if p_upright[k] >= SAME_PART else None


def _columns(part: str | None = None, view: str | None = None) -> list[int]:
    """The places in VIEWS of a body part, of a view, or of both."""
    return [
        k
        for k, (its_part, its_view) in enumerate(VIEWS)
        if part in (None, its_part) and view in (None, its_view)
    ]


@dataclass(frozen=True)
class Difference:
    """One way in which a film is not what was stated of it."""

    question: str
    sure: float  # probability
    gain_db: float
    text: str


class Comparison:
    """The most probable body part, view and pose of a film beside what was stated of it.

    Options:
        looks: the film's.
        prior_part: the body part that the prior shows.
        stated: what was said.
        geometry: of the prior's pictures.
    """

    def __init__(self, looks: Looks, prior_part: str, stated: Stated, geometry: Geometry) -> None:
        self.p, self.db, self.p_none = looks.p / looks.p.sum(), looks.db, looks.p_none
        row, self.column = divmod(int(self.p.argmax()), len(VIEWS))
        self.pose, (self.part, self.view) = POSES[row], VIEWS[self.column]
        self.prior_part, self.words = prior_part, _Words(stated)
        self.expected = stated.expected(geometry)

    def verdict(self) -> FilmVerdict:
        """What the film shows, and a sentence for each difference that is :data:`SURE`.

        Where none is, and yet it is :data:`VERY_SURE` that the film is not as stated, that is said.
        """
        known = self.p_none <= 0.5
        either_knee = (self.part, self.view) == ("knee", "frontal")
        shown = FilmVerdict(
            body_part=self.part,
            view=self.view,
            rotated_deg=90 * self.pose.quarters,
            mirrored=None if either_knee else self.pose.mirrored,
            inverted=self.pose.inverted,
        )
        questions = (
            self._body_part,
            *(self._polarity, self._orientation, self._view, self._facing, self._mirrored) * known,
        )
        found = [difference for question in questions if (difference := question())]
        sure = [difference for difference in found if difference.sure >= SURE]
        doubt = self._statement()
        if not sure and doubt.sure >= VERY_SURE:
            sure = [doubt]
        return replace(
            shown if known else FilmVerdict(None),
            p_as_stated=1 - doubt.sure,
            gains_db={difference.question: difference.gain_db for difference in sure},
            warnings=tuple(difference.text for difference in sure),
        )

    def _statement(self) -> Difference:
        """Anything but what was stated, be it known what or not."""
        view, mirrored = self.expected or (None, None)
        columns = _columns(self.prior_part, view)
        either = view is None or (self.prior_part, view) == ("knee", "frontal")
        poses = [Pose(mirrored=m) for m in (False, True) if either or m == mirrored]
        sure = 1 - self._share(poses, columns) * (1 - self.p_none)
        gain_db = self._gain_db(poses, columns)
        return Difference("statement", sure, gain_db, self.words.statement(self.prior_part))

    def _share(self, poses: Iterable[Pose] = POSES, columns: Sequence[int] = ALL_VIEWS) -> float:
        """The probability of these poses and views."""
        return float(self.p[[POSES.index(pose) for pose in poses]][:, columns].sum())

    def _gain_db(self, otherwise: Iterable[Pose], columns: Sequence[int]) -> float:
        """How much better the film is explained as found than as any of these."""
        rows = [POSES.index(pose) for pose in otherwise]
        found = self.db[POSES.index(self.pose), self.column]
        return float(found - self.db[rows][:, columns].max())

    def _as_hung(self) -> list[Pose]:
        """The poses of either polarity that hang like the one found."""
        return [replace(self.pose, inverted=inverted) for inverted in (False, True)]

    def _body_part(self) -> Difference | None:
        """Another body part than the prior's, be it known which or not."""
        if self.part == self.prior_part and self.p_none <= 0.5:
            return None
        gain_db = self._gain_db(POSES, _columns(self.prior_part))
        sure = self._share(columns=_columns(self.part)) * (1 - self.p_none)
        if self.part != self.prior_part and sure >= SURE:
            text = self.words.body_part(self.part, self.prior_part, gain_db)
        else:
            sure = 1 - self._share(columns=_columns(self.prior_part)) * (1 - self.p_none)
            text = self.words.no_body_part(self.prior_part, self.p_none >= SURE)
        return Difference("body part", sure, gain_db, text)

    def _polarity(self) -> Difference | None:
        if not self.pose.inverted:
            return None
        sure = self._share(pose for pose in POSES if pose.inverted)
        gain_db = self._gain_db([replace(self.pose, inverted=False)], [self.column])
        return Difference("polarity", sure, gain_db, self.words.polarity(gain_db))

    def _orientation(self) -> Difference | None:
        quarters = self.pose.quarters
        if not quarters:
            return None
        sure = self._share(pose for pose in POSES if pose.quarters == quarters)
        gain_db = self._gain_db([replace(self.pose, quarters=0)], [self.column])
        return Difference("orientation", sure, gain_db, self.words.orientation(quarters, gain_db))

    def _view(self) -> Difference | None:
        """Frontal for lateral, or lateral for frontal."""
        if self.expected is None or self.view == self.expected[0]:
            return None
        sure = self._share(columns=_columns(view=self.view))
        flips = [replace(self.pose, mirrored=mirrored) for mirrored in (False, True)]
        gain_db = self._gain_db(flips, _columns(self.part, self.expected[0]))
        text = self.words.view(self.view, self.pose.mirrored, gain_db)
        return Difference("view", sure, gain_db, text)

    def _facing(self) -> Difference | None:
        """A lateral that faces the other way."""
        if self.view != "lateral" or self.expected != ("lateral", not self.pose.mirrored):
            return None
        sure = self._share(self._as_hung(), _columns(view="lateral"))
        otherwise = replace(self.pose, mirrored=not self.pose.mirrored)
        gain_db = self._gain_db([otherwise], [self.column])
        return Difference("view", sure, gain_db, self.words.facing(self.pose.mirrored, gain_db))

    def _mirrored(self) -> Difference | None:
        """A frontal chest with its heart on the wrong side; knees do not tell."""
        if self.expected is None or (self.part, self.view) != ("chest", "frontal"):
            return None
        view, mirrored = self.expected
        if self.pose.mirrored == (view == self.view and mirrored):
            return None
        sure = self._share(self._as_hung(), [self.column])
        otherwise = replace(self.pose, mirrored=not self.pose.mirrored)
        gain_db = self._gain_db([otherwise], [self.column])
        return Difference("mirrored", sure, gain_db, self.words.mirrored(gain_db))


@dataclass(frozen=True)
class _Words:
    """The sentences; each ends with the option that puts the film right, whatever was given."""

    stated: Stated

    def body_part(self, found: str, prior: str, gain_db: float) -> str:
        better = _better(gain_db, f"explained by the {found} prior")
        return f"looks like a {found}, not a {prior}{better}; use --run bundled:{found}"

    def no_body_part(self, prior: str, none: bool) -> str:
        """``none``: it is sure that the film shows no other known body part either."""
        neither = " nor ".join(f"a {part}" for part in PARTS)
        looks = f"looks like neither {neither}" if none else f"does not look like a {prior}"
        return f"{looks}: the result shows a {prior} all the same; do not rely on it"

    def statement(self, prior: str) -> str:
        return (
            f"does not look like {self._said()} of a {prior}, upright and with bone bright, nor "
            "clearly like anything else: check its body part, view and polarity"
        )

    def polarity(self, gain_db: float) -> str:
        option = "leave --invert out" if self.stated.inverted else "add --invert"
        return f"looks inverted{_better(gain_db, 'turned over')}; {option}"

    def orientation(self, quarters: int, gain_db: float) -> str:
        turn_deg = 90 * quarters  # clockwise
        before = -turn_deg if self.stated.flipped else turn_deg
        rotate = (self.stated.rotated_deg + before) % 360
        option = f"give --rotate {rotate}" if rotate else "leave --rotate out"
        what = "upside down" if quarters == 2 else "turned on its side"
        return f"looks {what}{_better(gain_db, f'turned by {turn_deg}° clockwise')}; {option}"

    def mirrored(self, gain_db: float) -> str:
        option = "leave --flip out" if self.stated.flipped else "add --flip"
        return f"looks mirrored{_better(gain_db, 'flipped')}; {option}"

    def view(self, found: str, mirrored: bool, gain_db: float) -> str:
        if found == "frontal":
            what, option = "a frontal film", "PA or AP"
        else:
            what, option = "a lateral", "left-lateral" if mirrored else "lateral"
        better = _better(gain_db, "as that")
        return f"looks like {what}, not {self._said()}{better}; give --view {option}"

    def _said(self) -> str:
        """The stated view, with an article."""
        if not self.stated.view[:1].isalpha():
            return f"the view at {self.stated.angle_deg:g}°"
        return f"{'an' if self.stated.view.upper() == 'AP' else 'a'} {self.stated.view}"

    def facing(self, mirrored: bool, gain_db: float) -> str:
        side, option = ("left", "left-lateral") if mirrored else ("right", "lateral")
        better = _better(gain_db, "so")
        return f"looks like a lateral that faces image {side}{better}; give --view {option}"


def _better(gain_db: float, how: str) -> str:
    """How much better, where that is worth a number.

    >>> _better(4.02, "turned over"), _better(-1.0, "turned over")
    (': 4.0 dB better turned over', '')
    """
    return f": {gain_db:.1f} dB better {how}" if gain_db >= TOLD_DB else ""
