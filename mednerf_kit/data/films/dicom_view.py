"""Which way a DICOM radiograph was taken and hung, and of which part of the body.

The view is read from View Code, View Position or the positioner's angles; Patient Orientation says
which way rows and columns run in the patient, and the picture is turned to hang as its view does.
Only terms of the standard are taken over: what else stands in a tag is never printed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from ...imaging.dicom_header import Header
from .orientation import turned_words

#: Directions in the patient along x (to the left), y (to the back) and z (to the head).
LETTERS = {
    "L": (1, 0, 0),
    "R": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "H": (0, 0, 1),
    "F": (0, 0, -1),
}
FEET = np.array(LETTERS["F"])
#: Which way image right points as a view is hung; the picture's columns run to the feet.
HUNG = {"PA": "L", "AP": "L", "lateral": "A", "left-lateral": "P"}
LATERAL, FRONTAL, OTHER = "some lateral", "some frontal", "other"
VIEW_POSITIONS = {
    "PA": "PA",
    "AP": "AP",
    "LL": "left-lateral",  # the left side at the detector
    "RL": "lateral",
    **dict.fromkeys(("POSTERO ANTERIOR", "POSTEROANTERIOR"), "PA"),
    **dict.fromkeys(("ANTERO POSTERIOR", "ANTEROPOSTERIOR"), "AP"),
    **dict.fromkeys(("LEFT LATERAL", "LATERAL LEFT", "LLAT", "L LAT", "LAT L"), "left-lateral"),
    **dict.fromkeys(("RIGHT LATERAL", "LATERAL RIGHT", "RLAT", "R LAT", "LAT R"), "lateral"),
    "LATERAL": LATERAL,
    "LAT": LATERAL,
    "ML": LATERAL,
    "LM": LATERAL,
    **dict.fromkeys(("RLD", "LLD", "RLO", "LLO", "RAO", "LAO", "RPO", "LPO"), OTHER),
}
#: What else stands in a View Position, and does not change the view.
ASIDE = {"CHEST", "THORAX", "KNEE", "ERECT", "UPRIGHT", "STANDING", "SITTING", "SUPINE", "PORTABLE"}
#: View Code by SNOMED CT identifiers and the older SRT ones (PS3.16 CID 4010).
VIEW_CODES = {
    **dict.fromkeys(("272479007", "R-40888", "R-10214"), "PA"),
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399173006", "R-10236"), "left-lateral"),
    **dict.fromkeys(("399198007", "R-10232"), "lateral"),
    **dict.fromkeys(("399067008", "R-102CD"), LATERAL),
    **dict.fromkeys(("399260004", "R-10224", "399352003", "R-10228"), LATERAL),
    **dict.fromkeys(("399033003", "R-10202"), FRONTAL),
}
#: Body Part Examined (PS3.16 annex L) in the words of this package.
BODY_PARTS = {
    **{
        name.upper(): name
        for name in (
            *("abdomen", "ankle", "breast", "calcaneus", "chest", "clavicle", "coccyx", "elbow"),
            *("extremity", "femur", "finger", "foot", "forearm", "hand", "head", "heart", "hip"),
            *("humerus", "jaw", "knee", "leg", "neck", "patella", "pelvis", "rib", "scapula"),
            *("shoulder", "skull", "spine", "sternum", "thigh", "toe", "wrist"),
        )
    },
    "THORAX": "chest",
    "LUNG": "chest",
    "ARM": "upper arm",
    "CSPINE": "cervical spine",
    "TSPINE": "thoracic spine",
    "LSPINE": "lumbar spine",
    "SSPINE": "sacral spine",
    "WHOLEBODY": "whole body",
}
ANATOMIC_REGIONS = {
    **dict.fromkeys(("51185008", "816094009", "T-D3000"), "chest"),
    **dict.fromkeys(("72696002", "T-D9200", "49076000", "T-15720"), "knee"),
    **dict.fromkeys(("113345001", "818981001", "T-D4000"), "abdomen"),
    **dict.fromkeys(("12921003", "816092008", "T-D6000"), "pelvis"),
    **dict.fromkeys(("89546000", "T-11100"), "skull"),
    **dict.fromkeys(("69536005", "T-D1100"), "head"),
    **dict.fromkeys(("45048000", "T-D1600"), "neck"),
    **dict.fromkeys(("122494005", "T-11501"), "cervical spine"),
    **dict.fromkeys(("122495006", "T-11502"), "thoracic spine"),
    **dict.fromkeys(("122496007", "T-11503"), "lumbar spine"),
    **dict.fromkeys(("16982005", "T-D2220"), "shoulder"),
    **dict.fromkeys(("16953009", "T-15430"), "elbow"),
    **dict.fromkeys(("74670003", "T-15460"), "wrist"),
    **dict.fromkeys(("85562004", "T-D8700"), "hand"),
    **dict.fromkeys(("24136001", "T-15710", "29836001", "T-D2500"), "hip"),
    **dict.fromkeys(("71341001", "T-12710"), "femur"),
    **dict.fromkeys(("30021000", "T-D9400"), "leg"),
    **dict.fromkeys(("70258002", "T-15750"), "ankle"),
    **dict.fromkeys(("56459004", "T-D9700"), "foot"),
}
SIDES = {"L": "left", "R": "right", "B": "both", "U": "unpaired"}


@dataclass(frozen=True)
class Hanging:
    """The view, the turn that hangs the picture so, and how they were found."""

    view: str | None
    angle_deg: float | None  # of a positioner that stands at none of the named views
    quarters: int  # clockwise
    mirrored: bool  # left to right, after them
    notes: tuple[str, ...]
    other: bool = False  # a view is named that is neither a named one nor an angle


def film_hanging(header: Header) -> Hanging:
    """How the film was taken, and the turn that makes it hang as its view does.

    View Code is believed before View Position, and both before the positioner's primary angle
    (0° is PA, +90° has the detector at the patient's left; the view angle is 270° less it).
    A film without Patient Orientation is assumed to hang as usual.
    """
    view, notes = _view(header)
    angle_deg = None
    if view is None and header.word("Modality") in ("XA", "RF"):
        angle_deg, said = _positioner(header)
        notes += said
        named = {270.0: "PA", 90.0: "AP", 0.0: "lateral", 180.0: "left-lateral"}
        if angle_deg is not None and angle_deg % 360 in named:
            view, angle_deg = named[angle_deg % 360], None
    hanging = _hung(header, view, angle_deg)
    if hanging.view is None and angle_deg is None:
        notes.append("no view is given that this package knows")
    other = view == OTHER and hanging.view is None
    return replace(hanging, notes=(*notes, *hanging.notes), other=other)


def _view(header: Header) -> tuple[str | None, list[str]]:
    """A view of ``HUNG``, LATERAL, FRONTAL or OTHER, by the tags that name one."""
    codes = [item.word("CodeValue") for item in header.items("ViewCodeSequence")]
    by_code = VIEW_CODES.get(codes[0], OTHER) if codes else None
    words = _words(header.word("ViewPosition"))
    position = " ".join(word for word in words if word not in ASIDE)
    by_position = VIEW_POSITIONS.get(position, OTHER) if position else None
    if by_code in (None, OTHER, FRONTAL) and by_position in HUNG:
        return by_position, [f"View Position {position}: the view is {by_position}"]
    if by_code is None and by_position is None:
        return None, []
    if by_code is None or (by_code == OTHER and by_position == LATERAL):
        if by_position == OTHER:
            return OTHER, ["View Position is none of PA, AP and the laterals"]
        return by_position, [
            f"View Position {position} says a lateral view, and not from which side"
        ]
    if by_code not in HUNG:
        return by_code, [
            "View Code is none of PA, AP and the laterals"
            if by_code == OTHER
            else f"View Code says {by_code} view"
        ]
    notes = [f"View Code: the view is {by_code}"]
    if by_position in HUNG and by_position != by_code:
        notes.append(f"View Position {position} contradicts the View Code, which is believed")
    return by_code, notes


def _positioner(header: Header) -> tuple[float | None, list[str]]:
    """The view angle in degrees by the positioner, and what was assumed."""
    primary = header.number("PositionerPrimaryAngle")
    if primary is None or not -180 <= primary <= 180:
        return None, []
    angle_deg = (270 - primary) % 360
    notes = [f"Positioner Primary Angle {primary:g}°: the view angle is {angle_deg:g}°"]
    secondary = header.number("PositionerSecondaryAngle")
    if secondary is not None and 1 < abs(secondary) <= 180:
        notes.append(
            f"Positioner Secondary Angle {secondary:g}° tilts the beam to head or feet, which the "
            "orbit of this package does not"
        )
    return angle_deg, notes


def _hung(header: Header, view: str | None, angle_deg: float | None) -> Hanging:
    """The turn by Patient Orientation, and which lateral a film without a side looks like."""
    along = [_direction(word) for word in header.words("PatientOrientation")]
    name = view if view in HUNG else None
    if len(along) != 2 or any(direction is None for direction in along):
        given = "with a" if header.has("PatientOrientation") else "without"
        note = f"{given} Patient Orientation "
        note += "that says no directions in a person " * header.has("PatientOrientation")
        note += "the film is assumed to hang as usual, head up"
        if name in ("PA", "AP"):
            note += " and the patient's left on image right"
        if view == LATERAL:
            name = "left-lateral"
            note += ", from the left side with the chest facing image left"
        return Hanging(name, angle_deg, 0, False, (note,))
    right, down = (np.array(direction) for direction in along)
    level = right if abs(right[2]) < abs(down[2]) else down
    is_frontal = abs(level[0]) > abs(level[1])
    if name:
        target = np.array(LETTERS[HUNG[name]], dtype=float)
    elif angle_deg is not None:
        radians = math.radians(angle_deg)
        target = np.array([-math.sin(radians), -math.cos(radians), 0.0])
    else:  # a frontal film is hung with the patient's left on image right
        target = np.array(LETTERS["L" if is_frontal else "A"], dtype=float)
    turn = _turn(right, down, target)
    if turn is None or view == (LATERAL if is_frontal else FRONTAL):
        note = "Patient Orientation contradicts the view: the picture is not turned"
        return Hanging(name, angle_deg, 0, False, (note,))
    quarters, mirrored = turn
    if name is None and angle_deg is None and not is_frontal:
        # a lateral of unknown side keeps its own way to face, and is only brought upright
        name, mirrored = "left-lateral" if mirrored else "lateral", False
    letters = "\\".join(header.words("PatientOrientation"))
    done = turned_words(quarters, mirrored) or "not turned"
    note = f"Patient Orientation {letters}: the picture is {done}"
    return Hanging(name, angle_deg, quarters, mirrored, (note,))


def _direction(word: str) -> tuple[float, float, float] | None:
    """A direction in the patient by its letters, the first the main one; None for others."""
    if not 1 <= len(word) <= 3 or any(letter not in LETTERS for letter in word):
        return None
    x, y, z = (
        sum(LETTERS[letter][axis] / (1 + 2 * n) for n, letter in enumerate(word))
        for axis in range(3)
    )
    return x, y, z


def _turn(right: np.ndarray, down: np.ndarray, target: np.ndarray) -> tuple[int, bool] | None:
    """Quarter turns clockwise, then mirroring, that make rows run along ``target``, columns down.

    None where rows and columns run along neither.
    """
    for quarters in range(4):
        for mirrored in (False, True):
            # a quarter turn clockwise brings the columns, backwards, to the rows
            across, along = ((right, down), (-down, right), (-right, -down), (down, -right))[
                quarters
            ]
            across = -across if mirrored else across
            if across @ target > 0.5 and along @ FEET > 0.5:
                return quarters, mirrored
    return None


def _words(text: str) -> list[str]:
    """The words of a term, whatever stands between them.

    >>> _words("P.A."), _words("ANTERO-POSTERIOR"), _words("CHEST_PA")
    (['PA'], ['ANTERO', 'POSTERIOR'], ['CHEST', 'PA'])
    """
    return re.findall(r"[^\W_]+", text.replace(".", ""))


def film_body_part(header: Header) -> tuple[str | None, list[str]]:
    """The body part and side, by terms of the standard alone."""
    words = _words(header.word("BodyPartExamined"))
    named = {BODY_PARTS.get(word, BODY_PARTS.get(word.removesuffix("S"))) for word in words}
    named -= {None}
    by_name = BODY_PARTS.get("".join(words)) or (named.pop() if len(named) == 1 else None)
    regions = [item.word("CodeValue") for item in header.items("AnatomicRegionSequence")]
    by_code = ANATOMIC_REGIONS.get(regions[0]) if regions else None
    part = by_code or by_name
    notes = []
    if part:
        notes.append(
            f"{'Anatomic Region' if by_code else 'Body Part Examined'}: the body part is {part}"
        )
        if by_name and by_code and by_name != by_code:
            notes.append(f"Body Part Examined contradicts it with {by_name}")
    elif header.has("BodyPartExamined") or regions:
        notes.append("the body part is none of the terms this package knows")
    sides = {
        SIDES[word] for k in ("ImageLaterality", "Laterality") if (word := header.word(k)) in SIDES
    }
    if len(sides) > 1:
        notes.append("Image Laterality and Laterality contradict each other")
    elif sides & {"left", "right"}:
        notes.append(f"the laterality is {sides.pop()}")
    return part, notes
