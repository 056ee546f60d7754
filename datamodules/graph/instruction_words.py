"""The words of instructions: sentences with gaps, and noun phrases for the images of the annotation graphs.

Written for this project: VisualCloze's released code has as many sentences of each sort, in other words.
"""

from __future__ import annotations

# {rows} is '1 row' or '3 rows', {columns} is '2 columns'; {r} and {c} are the bare numbers.
LAYOUTS = (
    "You see {total} pictures arranged as a grid of {rows} and {columns}.",
    "This sheet holds {total} pictures in {rows} and {columns}.",
    "A {r}x{c} sheet is shown, {total} pictures in all.",
    "{total} pictures share one canvas, laid out in {rows} and {columns}.",
    "The canvas is cut into {rows} and {columns}, one picture to a cell, {total} cells altogether.",
    "In this {r}x{c} mosaic each of {total} cells is a picture.",
    "Here are {total} pictures, {rows} from top to bottom and {columns} from left to right.",
    "There are {rows} with {c} pictures side by side, which makes {total}.",
    "Read these {total} pictures row by row: {rows}, {columns}.",
    "Laid out as {r}x{c}, {total} pictures make up this sheet.",
)
TASKS = (
    "Each row leads from {conditions} to {target}.",
    "In each row, {target} follows from {conditions}.",
    "Each row works the same way: given {conditions}, draw {target}.",
    "What happens in each row is that {conditions} becomes {target}.",
    "All rows share one task, which takes {conditions} and yields {target}.",
    "From {conditions}, each row derives {target}.",
    "In all rows, {target} is made to agree with {conditions}.",
    "A row asks for {target} on the basis of {conditions}.",
    "Every row starts with {conditions} and is completed by {target}.",
    "Use {conditions} of a row to find {target}.",
)
CONTENTS = (
    "The final picture of the bottom row shows:",
    "To be drawn in the last cell of the last row:",
    "Content of the bottom right picture:",
    "At the end of the last row one should see:",
    "The last picture of the last row, in words:",
    "What the closing picture of the bottom row depicts:",
    "The rightmost picture of the bottom row is this:",
    "The picture that completes the last row:",
    "The last row is to end with:",
    "For the last picture of the last row, imagine:",
)

# image: (a word for short prompts, noun phrases)
IMAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "target": (
        "picture",
        (
            "a clear picture",
            "a finished picture in good quality",
            "a sharp, well-made image",
            "a picture with clean detail",
            "an image free of flaws",
            "the picture in its final form",
            "a detailed image in natural colors",
            "a picture as one would publish it",
        ),
    ),
    "reference": (
        "subject",
        (
            "a reference picture of the subject",
            "the same subject in another setting",
            "an image that shows which object is meant",
            "the object to be kept, seen elsewhere",
            "another view of the thing in question",
        ),
    ),
    # maps
    "canny": (
        "edges",
        ("an edge map", "thin white edges from a Canny detector", "the Canny edges", "a drawing of edges alone"),
    ),
    "sobel": (
        "soft edges",
        ("a map of soft edges", "the strength of edges as grey values", "Sobel gradients", "a blurry edge drawing"),
    ),
    "hed": (
        "soft edges",
        ("a HED edge map", "soft edges from a HED network", "broad, soft outlines", "a map of perceived boundaries"),
    ),
    "mlsd": (
        "lines",
        ("straight line segments", "an M-LSD line map", "a wireframe of straight lines", "the detected line segments"),
    ),
    "depth": (
        "depth",
        ("a depth map", "distances coded as brightness", "a map of how far things are", "the scene's depth"),
    ),
    "normal": (
        "normals",
        ("a map of surface normals", "normals coded as colors", "the direction of each surface", "a normal map"),
    ),
    "openpose": (
        "pose",
        ("a pose skeleton", "body joints drawn as a stick figure", "a map of human keypoints", "an OpenPose figure"),
    ),
    "densepose": ("body map", ("a map of body parts", "body surfaces coded as colors", "a DensePose picture")),
    "sam2_mask": (
        "segments",
        ("a SAM 2 segmentation", "segments in flat colors", "a map of regions found by SAM 2", "colored regions"),
    ),
    "sketch": (
        "line art",
        ("dark lines on white", "a sketch of the outlines", "a line drawing traced from the picture"),
    ),
    "layout": ("boxes", ("the boxes of all objects", "colored boxes where things are", "a layout of boxes")),
    "segmentation": ("segments", ("regions in flat colors", "background, ground and objects as flat colors")),
    "silhouette": ("silhouette", ("all objects in white on black", "the outline of everything that is there")),
    "cutout": ("cutout", ("the subject cut out", "the subject alone on white")),
    "paint1": ("first coat", ("a canvas in one color", "the bare background color")),
    "paint2": ("empty scene", ("the background before anything stands on it", "pattern and ground alone")),
    "paint3": ("shapes", ("the scene with flat shapes for its objects", "objects blocked in by one color each")),
    "uniformer": (
        "classes",
        ("a semantic segmentation", "classes painted in flat colors", "a map of what is where", "semantic regions"),
    ),
    "mask": (
        "mask",
        ("a mask of the object", "the object's silhouette", "a map of where the object is", "a segmentation mask"),
    ),
    "bbox": (
        "box",
        ("a bounding box", "a box around the object", "the object's box", "a map with a box where the object is"),
    ),
    "foreground": (
        "foreground",
        ("the object on black", "the foreground alone", "a cut-out of the object", "the picture without background"),
    ),
    "background": (
        "background",
        ("the scene with the object left out", "the background alone", "the picture with a hole for its subject"),
    ),
    "grey": ("grey", ("a picture without color", "the picture in grey", "a black-and-white version")),
    "gray": ("gray", ("a picture in shades of gray", "the picture drained of color", "a monochrome version")),
    # styles and their references
    "openmoji": (
        "openmoji",
        ("the drawing with black outlines and flat colors", "an OpenMoji drawing", "an outlined, flat-colored icon"),
    ),
    "openmoji_ref": (
        "openmoji style",
        ("another outlined, flat-colored icon", "an OpenMoji drawing as the style to follow", "a sample of the style"),
    ),
    "line": ("line art", ("a line drawing", "the outlines alone", "black line art", "an uncolored drawing")),
    "line_ref": ("line style", ("another line drawing, for its style", "a sample of line art", "a guide to the line")),
    "colour_layer": (
        "colors",
        ("the colors without outlines", "flat patches of color", "a drawing made of color alone"),
    ),
    "colour_layer_ref": (
        "color style",
        ("another drawing made of flat colors", "a sample of the outline-free style", "color patches to imitate"),
    ),
    "instant_style": (
        "styled",
        ("the same content in a new style", "a restyled picture", "the picture rendered in the given style"),
    ),
    "instant_style_ref": (
        "style",
        ("a picture whose style counts", "a style reference", "a sample of the style to take over"),
    ),
    "redux_style": (
        "styled",
        ("a picture in the look of the reference", "a free variation in the given style", "a restyled scene"),
    ),
    "redux_style_ref": (
        "style",
        ("a picture that sets the look", "an image to borrow the style from", "a style example"),
    ),
    # edits
    "depth_edit": (
        "edited",
        ("a picture with other surroundings", "the subject in a changed scene", "an edited image"),
    ),
    "fill_edit": (
        "edited",
        ("a picture with another subject", "the scene with its object replaced", "an edited image"),
    ),
    "swap": ("other subject", ("the scene with another subject", "another object in the same place")),
    "other_background": ("other scene", ("the same objects on another background", "a picture in other surroundings")),
    "one_object": ("one object", ("the scene without its second object", "the picture with one object less")),
    "second_reference": ("second subject", ("another picture of the second object", "the second object elsewhere")),
    "skin_tone": ("other skin", ("the figure with another skin tone", "a drawing whose skin tone differs")),
    "gender": ("other gender", ("the figure as another gender", "a drawing that differs in gender")),
    # clothes
    "garment": ("garment", ("a piece of clothing", "the garment by itself", "clothes laid out flat")),
    "garment_mask": ("garment mask", ("a mask of the garment", "where the garment lies")),
    "agnostic": ("person", ("a person with the garment left out", "a person to be dressed", "a person, top erased")),
    # degradations
    "blur": ("blur", ("a blurred picture", "a picture out of focus or shaken", "an unsharp version")),
    "compression": ("compressed", ("a heavily compressed picture", "a version with coding artifacts")),
    "pixelate": ("pixels", ("a pixelated picture", "a version made of coarse squares")),
    "oversharpen": ("oversharp", ("an oversharpened picture", "a version with halos at its edges")),
    "contrast_strengthen": ("hard contrast", ("a picture with too much contrast", "a version of harsh contrast")),
    "contrast_weaken": ("low contrast", ("a picture with little contrast", "a washed-out version")),
    "quantization": ("few colors", ("a picture reduced to few colors", "a posterized version")),
    "brighten": ("too bright", ("an overexposed picture", "a version that is too bright")),
    "darken": ("too dark", ("an underexposed picture", "a version that is too dark")),
    "saturate_strengthen": ("garish", ("a picture with garish colors", "an oversaturated version")),
    "saturate_weaken": ("pale", ("a picture with pale colors", "a desaturated version")),
    "sr_x2": ("half size", ("a picture at half its resolution", "a slightly coarse version")),
    "sr_x4": ("quarter size", ("a picture at a quarter of its resolution", "a very coarse version")),
    "gaussian_noise": ("noise", ("a noisy picture", "a version covered by Gaussian noise")),
    "gaussian_blur": ("blur", ("a picture under a Gaussian blur", "an evenly blurred version")),
    "jpeg": ("jpeg", ("a picture with JPEG blocks", "a poorly stored JPEG")),
    "salt_pepper_noise": ("specks", ("a picture with salt-and-pepper noise", "a version dotted in black and white")),
    "poisson_noise": ("shot noise", ("a picture with Poisson noise", "a version grainy with shot noise")),
    "low_light": ("low light", ("a picture taken in low light", "a dim version")),
    "color_distortion": ("wrong colors", ("a picture with distorted colors", "a version with a false color cast")),
    "inpainting": ("scratched", ("a picture with strokes across it", "a version hidden in part by lines")),
    "mosaic": ("mosaic", ("a raw Bayer mosaic", "a picture before demosaicking")),
    "rain": ("rain", ("a picture in the rain", "a version with streaks of rain")),
    "defocus": ("defocus", ("a picture out of focus", "a version blurred by the lens")),
    "barrel": ("barrel", ("a picture that bulges outwards", "a version with barrel distortion")),
    "pincushion": ("pincushion", ("a picture pinched inwards", "a version with pincushion distortion")),
    "elastic": ("elastic", ("an elastically deformed picture", "a version that wobbles")),
    "frost": ("frost", ("a picture behind frost", "a version under a layer of ice")),
    "rotate_90": ("quarter turn", ("a picture turned by 90 degrees", "a version after a quarter turn")),
    "rotate_180": ("half turn", ("a picture turned by 180 degrees", "a version upside down")),
    "rotate_270": ("turned back", ("a picture turned by 270 degrees", "a version after three quarter turns")),
}


def phrases_of(image: str) -> tuple[str, ...]:
    """Noun phrases for an image; for one of an own graph a single one, made of its name."""
    if image in IMAGES:
        return IMAGES[image][1]
    if image.endswith("_ref"):
        return (f"a sample of the style '{_spaced(image.removesuffix('_ref'))}'",)
    return (f"the picture '{_spaced(image)}'",)


def word_of(image: str) -> str:
    """The word of short prompts for an image; an image of an own graph keeps its own name."""
    if image in IMAGES:
        return IMAGES[image][0]
    if image.endswith("_ref"):
        return f"{_spaced(image.removesuffix('_ref'))} style"
    return _spaced(image)


def _spaced(name: str) -> str:
    return " ".join(name.split("_"))
