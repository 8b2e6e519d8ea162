"""Does a film show what was said of it? Body part, view, orientation, mirroring and polarity.

A film is held against the views of the bundled priors in every pose (``film_looks.py``). What
differs from the statement is named with how much better the prior's own views explain the film
when it is put right, and with the option that does it. A prior of another body part answers by its
own views alone, and only for polarity and orientation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from ..imaging.geometry import FRONTAL_DEG, angle_difference_deg
from ..prior.load import Prior
from .film_looks import (
    POSES,
    VIEWS,
    FilmJudge,
    Looks,
    Pose,
    ViewSpace,
    equalised,
    load_knowledge,
    posed,
)
from .film_views import VIEW_DEG, prior_space, prior_views
from .outputs import fingerprint

SURE = 0.9  # probability from which a difference is named
OBLIQUE_DEG = 30.0  # a view further from frontal and lateral is neither
TOLD_DB = 0.1  # a smaller gain is not worth a number
OWN_GAIN_DB = 2.0  # by which a prior of another body part must explain a turned film better
PARTS = tuple(dict.fromkeys(part for part, _ in VIEWS))


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

    @property
    def expected(self) -> tuple[str, bool] | None:
        """The view and whether it hangs mirrored; None for oblique views.

        >>> Stated(angle_deg=90, mirrored=True).expected, Stated(angle_deg=185).expected
        (('frontal', False), ('lateral', True))
        """
        for name, angle_deg in VIEW_DEG.items():
            for behind in (False, True):
                away = angle_difference_deg(self.angle_deg, angle_deg + 180 * behind)
                if abs(away) <= OBLIQUE_DEG:
                    return name, behind != self.mirrored
        return None


@dataclass(frozen=True)
class FilmVerdict:
    """What a film shows; None where it cannot be told.

    ``gains_db`` holds, for each difference found (body part, view, orientation, mirrored,
    polarity), by how many decibels the prior's views explain the film better when it is put right.
    """

    body_part: str | None
    view: str | None = None  # frontal or lateral
    rotated_deg: int | None = None  # degrees clockwise that put it upright
    mirrored: bool | None = None  # as it hangs: a frontal film, or a lateral one facing image left
    inverted: bool | None = None
    gains_db: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class FilmChecks:
    """What films for a prior are compared with.

    ``checks = FilmChecks.of(prior)`` once, then ``checks(image, mask, stated)`` for each film.
    """

    prior: Prior
    part: str | None  # the body part it shows; None for another than PARTS
    judge: FilmJudge
    spaces: tuple[ViewSpace, ...]  # of VIEWS

    @classmethod
    def of(cls, prior: Prior) -> FilmChecks:
        """The bundled priors' views are at hand; others are rendered, which takes a second.

        A prior that is not bundled shows the body part that its frontal views look like.
        """
        known = load_knowledge()
        part, spaces = known.priors.get(fingerprint(prior)), known.spaces
        if part is None:
            part = _looks_like(prior, known.judge, spaces)
            spaces = tuple(
                prior_space(prior, VIEW_DEG[name]) if whose == part else space
                for (whose, name), space in zip(VIEWS, spaces, strict=True)
            )
        return cls(prior, part, known.judge, spaces)

    def __call__(self, image: Tensor, mask: Tensor, stated: Stated) -> FilmVerdict:
        """Compare a picture [rows, cols] in [0, 1], bone bright as read, with what was stated.

        ``mask`` [rows, cols] in [0, 1] is 0 where there is no patient: letters, collimator, border.
        """
        if self.part is None:
            return self._by_own_views(image, mask, stated)
        if stated.mirrored:  # as it hangs
            image, mask = image.flip(-1), mask.flip(-1)
        looks = self.judge.look(image, mask, self.spaces)
        if looks.p_none > 0.5:
            text = (
                f"looks like neither {_listed(PARTS, 'nor')}: the result shows a {self.part} all "
                "the same; do not rely on it"
            )
            return FilmVerdict(None, warnings=(text,) * (looks.p_none >= SURE))
        return Comparison(looks, self.part, stated).verdict()

    def _by_own_views(self, image: Tensor, mask: Tensor, stated: Stated) -> FilmVerdict:
        """Polarity and orientation by the prior's own views at the stated angle."""
        space = prior_space(self.prior, stated.angle_deg)
        db = space.explained_db(posed(*equalised(image[None].cpu(), mask[None].cpu())))[0]
        k = int(db.argmax())
        gain_db = float(db[k] - max(db[POSES.index(Pose())], db[POSES.index(Pose(mirrored=True))]))
        if gain_db < OWN_GAIN_DB:
            return FilmVerdict(None)
        pose, words = POSES[k], _Words(stated)
        gains_db, warnings = {}, []
        for question, differs, text in (
            ("polarity", pose.inverted, words.polarity(gain_db)),
            ("orientation", pose.quarters > 0, words.orientation(pose.quarters, gain_db)),
        ):
            if differs:
                gains_db[question] = gain_db
                warnings.append(text)
        return FilmVerdict(
            None, None, 90 * pose.quarters, None, pose.inverted, gains_db, tuple(warnings)
        )


def _looks_like(prior: Prior, judge: FilmJudge, spaces: tuple[ViewSpace, ...]) -> str | None:
    """The body part that most of a prior's frontal views look like."""
    rng = Generator().manual_seed(0)
    views = prior_views(prior, FRONTAL_DEG, patients=8, grid=24, rng=rng)
    looks = [judge.look(view, torch.ones_like(view), spaces) for view in views[::3]]
    p = torch.stack([look.p for look in looks]).mean(0)
    shares = {part: float(p[:, _columns(part)].sum()) for part in PARTS}
    best = max(PARTS, key=shares.__getitem__)
    return best if shares[best] > 0.5 else None


def _columns(part: str | None = None, view: str | None = None) -> list[int]:
    """The places in VIEWS of a body part, of a view, or of both."""
    return [
        k
        for k, (its_part, its_view) in enumerate(VIEWS)
        if part in (None, its_part) and view in (None, its_view)
    ]


@dataclass(frozen=True)
class Comparison:
    """A film's looks beside what was stated of it."""

    looks: Looks
    part: str  # that the prior shows
    stated: Stated

    def verdict(self) -> FilmVerdict:
        """What the film shows, and a sentence for each difference that is :data:`SURE`."""
        p, db = self.looks.p, self.looks.db
        row, column = divmod(int(p.argmax()), len(VIEWS))
        pose, (part, view) = POSES[row], VIEWS[column]
        stated_view, stated_mirrored = self.stated.expected or (None, None)
        words = _Words(self.stated)

        def share(holds: list[bool], columns: list[int]) -> float:
            return float(p[torch.tensor(holds)][:, columns].sum() / p.sum())

        def gain(otherwise: list[Pose], columns: list[int]) -> float:
            rows = [POSES.index(o) for o in otherwise]
            return float(db[row, column] - db[rows][:, columns].max())

        every, both = [True] * len(POSES), _columns()
        same_way = [(o.mirrored, o.quarters) == (pose.mirrored, pose.quarters) for o in POSES]
        gains_db, warnings = {}, []

        def tell(question: str, sure: float, gain_db: float, text: str) -> None:
            if sure >= SURE:
                gains_db[question] = gain_db
                warnings.append(text)

        if part != self.part:
            better_db = gain(list(POSES), _columns(self.part))
            sure = share(every, _columns(part)) * (1 - self.looks.p_none)
            tell("body part", sure, better_db, words.body_part(part, self.part, better_db))
        if pose.inverted:
            better_db = gain([replace(pose, inverted=False)], [column])
            sure = share([o.inverted for o in POSES], both)
            tell("polarity", sure, better_db, words.polarity(better_db))
        if pose.quarters:
            better_db = gain([replace(pose, quarters=0)], [column])
            sure = share([o.quarters == pose.quarters for o in POSES], both)
            tell("orientation", sure, better_db, words.orientation(pose.quarters, better_db))
        if stated_view is not None and view != stated_view:
            flips = [replace(pose, mirrored=m) for m in (False, True)]
            better_db = gain(flips, _columns(part, stated_view))
            sure = share(every, _columns(view=view))
            tell("view", sure, better_db, words.view(view, pose.mirrored, better_db))
        elif view == "lateral" and stated_mirrored not in (None, pose.mirrored):
            better_db = gain([replace(pose, mirrored=not pose.mirrored)], [column])
            sure = share(same_way, _columns(view=view))
            tell("view", sure, better_db, words.facing(pose.mirrored, better_db))
        if (part, view) == ("chest", "frontal") and self.stated.expected is not None:
            right = stated_mirrored if view == stated_view else False
            if pose.mirrored != right:
                better_db = gain([replace(pose, mirrored=not pose.mirrored)], [column])
                sure = share(same_way, [column])
                tell("mirrored", sure, better_db, words.mirrored(better_db))
        told = None if (part, view) == ("knee", "frontal") else pose.mirrored
        return FilmVerdict(
            part, view, 90 * pose.quarters, told, pose.inverted, gains_db, tuple(warnings)
        )


@dataclass(frozen=True)
class _Words:
    """The sentences; each ends with the option that puts the film right, whatever was given."""

    stated: Stated

    def body_part(self, found: str, prior: str, gain_db: float) -> str:
        better = _better(gain_db, f"explained by the {found} prior")
        return f"looks like a {found}, not a {prior}{better}; use --run bundled:{found}"

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
        said = (
            self.stated.view
            if self.stated.view[:1].isalpha()
            else f"the view at {self.stated.angle_deg:g}°"
        )
        return f"looks like {what}, not {said}{_better(gain_db, 'as that')}; give --view {option}"

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


def _listed(names: tuple[str, ...], word: str) -> str:
    return f" {word} ".join(f"a {name}" for name in names)
