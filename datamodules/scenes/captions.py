"""Captions of scenes: several phrasings of the same facts, in at most so many bytes.

'a small duck at the bottom left and a cat at the top on a red background with blue stripes, green ground'
'red background with blue stripes, small duck at the bottom left, cat at the top, green ground'
'small duck bottom left, cat top, on red with blue stripes, green ground'

What is not said has a default: a medium size, upright, as drawn (not mirrored), Twemoji's style. Where the words do not
fit, the phrasing becomes terse first; then what matters least is left out: the style, tilt, mirroring, the rest of a
glyph's name, the ground, the pattern, the second object.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from datamodules.emoji.names import caption as full_name
from datamodules.emoji.names import subject as short_name
from datamodules.scenes.scene import Backdrop, Scene, Thing, overlap

LONGEST = 95  # bytes of a prompt; the end token is the 96th of a window
AT = {"left": "on the left", "right": "on the right", "middle": "in the middle"}  # of other places: 'at the ...'


def caption(scene: Scene, rng: random.Random, longest: int = LONGEST, mirrored: bool | None = None) -> str:
    """What the scene shows, in one of the phrasings.

    mirrored: whether the subject is said to be mirrored, if not as it is drawn: beside an image of the subject that is
    a matter of comparison.
    """
    shown = scene if mirrored is None else scene._replace(subject=scene.subject._replace(flip=mirrored))
    wish = rng.choice((_sentence, _background_first, _terse))
    for simple in _simpler(shown):
        for phrase in (wish, _terse):
            if len((said := phrase(*simple)).encode()) <= longest:
                return said
    return said.encode()[:longest].decode(errors="ignore")


def backdrop_words(backdrop: Backdrop, noun: str = " background") -> str:
    """The background in words, 'red background with blue stripes'; `noun` is what follows the colour."""
    if backdrop.pattern == "plain":
        return f"{backdrop.colour}{noun}"
    if backdrop.pattern == "two-tone":
        return f"{backdrop.colour} and {backdrop.second}{noun}"
    if backdrop.pattern == "gradient":
        return f"{backdrop.colour}{noun} fading to {backdrop.second}"
    return f"{backdrop.colour}{noun} with {backdrop.second} {backdrop.pattern}"


def place_words(place: str) -> str:
    """A place in words, 'at the top left'."""
    return AT.get(place, f"at the {place}")


def thing_words(thing: Thing, name: str = "") -> str:
    """An object in words without its place and posture: 'small blue duck'."""
    size = "" if thing.size == "medium" else f"{thing.size} "
    tint = f"{thing.tint} " if thing.tint else ""
    return f"{size}{tint}{name or short_name(thing.glyph)}"


def with_article(words: str) -> str:
    """'a duck', 'an owl'."""
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


Words = tuple[Scene, tuple[str, ...], bool]  # what is said, the objects' names, and whether the style is said


def _simpler(scene: Scene) -> Iterator[Words]:
    """The scene as it is, then with less and less to say."""
    names = tuple(full_name(thing.glyph) for thing in _told(scene))
    short = tuple(short_name(thing.glyph) for thing in _told(scene))
    yield scene, names, scene.style == "openmoji"
    yield scene, names, False
    plain = scene._replace(subject=scene.subject._replace(tilt=0))
    yield plain, names, False
    plain = plain._replace(subject=plain.subject._replace(flip=False))
    yield plain, names, False
    yield plain, short, False
    plain = plain._replace(ground=None)
    yield plain, short, False
    plain = plain._replace(backdrop=Backdrop(plain.backdrop.colour))
    yield plain, short, False
    yield plain._replace(second=None), short[:1], False


def _told(scene: Scene) -> tuple[Thing, ...]:
    """The objects in the order of the words, the subject first."""
    return (scene.subject, scene.second) if scene.second else (scene.subject,)


def _posture(thing: Thing) -> str:
    words = ["tilted right" if thing.tilt > 0 else "tilted left"] if thing.tilt else []
    return ", ".join([*words, *(["mirrored"] if thing.flip else [])])


def _ends(scene: Scene, styled: bool) -> str:
    ground = "" if scene.ground is None else f", {_ground(scene)}"
    return ground + (", openmoji style" if styled else "")


def _ground(scene: Scene) -> str:
    return f"{'low ' if scene.ground.horizon == 'low' else ''}{scene.ground.colour} ground"


def _front(scene: Scene) -> str:
    """How two objects that overlap are layered, from the second one's side; '' if they do not."""
    if scene.second is None or not overlap(scene.subject, scene.second):
        return ""
    return " behind" if scene.subject_in_front else " in front"


def _sentence(scene: Scene, names: tuple[str, ...], styled: bool) -> str:
    first = with_article(f"{thing_words(scene.subject, names[0])} {place_words(scene.subject.place)}")
    posture = _posture(scene.subject)
    first += f", {posture}," if posture else ""
    second = ""
    if scene.second:
        words = with_article(thing_words(scene.second, names[1]))
        second = f" and {words}{_front(scene)} {place_words(scene.second.place)}"
    return f"{first}{second} on {with_article(backdrop_words(scene.backdrop))}{_ends(scene, styled)}"


def _background_first(scene: Scene, names: tuple[str, ...], styled: bool) -> str:
    parts = [backdrop_words(scene.backdrop)]
    parts += [] if scene.ground is None else [_ground(scene)]
    parts.append(f"{thing_words(scene.subject, names[0])} {place_words(scene.subject.place)}")
    parts += [posture] if (posture := _posture(scene.subject)) else []
    if scene.second:
        parts.append(f"{thing_words(scene.second, names[1])}{_front(scene)} {place_words(scene.second.place)}")
    return ", ".join(parts) + (", openmoji style" if styled else "")


def _terse(scene: Scene, names: tuple[str, ...], styled: bool) -> str:
    parts = [f"{thing_words(scene.subject, names[0])} {scene.subject.place}"]
    parts += [posture] if (posture := _posture(scene.subject)) else []
    if scene.second:
        parts.append(f"{thing_words(scene.second, names[1])}{_front(scene)} {scene.second.place}")
    return f"{', '.join(parts)}, on {backdrop_words(scene.backdrop, '')}{_ends(scene, styled)}"
