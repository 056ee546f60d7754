"""Annotations by models of transformers: tiny ones of real classes, made here with random weights."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image
from tiny import composed

from datamodules.reading import annotators
from datamodules.reading.annotators import (
    Depth,
    Masks,
    NormalsOfDepth,
    Pose,
    Segments,
    class_colours,
    layered,
    skeleton,
)
from datamodules.sets.own_folder import OwnFolder
from unigen.pipeline.build import build

SIDE = {"height": 32, "width": 32}
IMAGE = np.random.default_rng(0).integers(0, 256, (3, 40, 24), dtype=np.uint8)


def saved(folder: Path, model: tf.PreTrainedModel, processor: tf.BaseImageProcessor) -> str:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def dpt(cls: type) -> tf.PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    heads = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8, "backbone_out_indices": [0, 1, 2, 3]}
    made = cls(tf.DPTConfig(**sizes, **heads, image_size=32, patch_size=8, is_hybrid=False))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("dpt"), dpt(tf.DPTForDepthEstimation), tf.DPTImageProcessor(size=SIDE))


def segformer(folder: Path, winner: int) -> str:
    """Three classes, one of which wins everywhere."""
    sizes = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    model = tf.SegformerForSemanticSegmentation(tf.SegformerConfig(num_labels=3, **sizes))
    with torch.no_grad():
        model.decode_head.classifier.bias.copy_(100.0 * torch.eye(3)[winner])
    return saved(folder, model, tf.SegformerImageProcessor(size=SIDE))


def sam(folder: Path) -> str:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 1, "num_hidden_layers": 1, "mlp_dim": 8}
    eyes = {"output_channels": 8, "image_size": 64, "window_size": 0, "global_attn_indexes": [0], "num_pos_feats": 4}
    model = tf.SamModel(
        tf.SamConfig(
            vision_config={"hidden_size": 8, **heads, **eyes},
            prompt_encoder_config={"hidden_size": 8, "image_size": 64, "mask_input_channels": 4},
            mask_decoder_config={"hidden_size": 8, **heads, "iou_head_depth": 1, "iou_head_hidden_dim": 8},
        )
    )
    with torch.no_grad():  # sure of all masks, and these the same at whatever threshold
        model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(9.0)
        for head in model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(1e9)
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    small = {"mask_size": {"longest_edge": 16}, "mask_pad_size": {"height": 16, "width": 16}}
    return saved(folder, model, tf.SamImageProcessor(**sizes, **small))


def vitpose(folder: Path, keypoints: int = 17) -> str:
    backbone = tf.VitPoseBackboneConfig(
        image_size=[32, 32], patch_size=[8, 8], hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        out_features=["stage1"],
    )  # fmt: skip
    model = tf.VitPoseForPoseEstimation(tf.VitPoseConfig(backbone_config=backbone, num_labels=keypoints))
    return saved(folder, model, tf.VitPoseImageProcessor(size=SIDE))


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.roll(IMAGE, 5 * i, axis=2).transpose(1, 2, 0)).save(folder / f"{i}.png")
    Image.linear_gradient("L").resize((24, 40)).save(folder / "0.depth.png")
    return folder


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_depth_is_white_where_it_is_near(depth_model, tmp_path):
    annotator = Depth(depth_model, "key", tmp_path)
    drawn = annotator(IMAGE)
    assert drawn.shape == IMAGE.shape and drawn.dtype == np.uint8 and (drawn == drawn[:1]).all()
    assert drawn.min() == 0 and drawn.max() == 255 and len(np.unique(drawn)) > 20
    near = annotator.nearness(IMAGE)
    annotator.model.config.depth_estimation_type = "metric"  # then the same numbers are metres
    far = annotator.nearness(IMAGE)
    assert far.min() == 0 and far.max() == 1 and np.corrcoef(near.ravel(), far.ravel())[0, 1] < 0
    assert near[np.unravel_index(far.argmax(), far.shape)] < 0.01 < near.max()


def test_depth_of_a_model_whose_direction_is_not_known_is_refused(depth_model, tmp_path):
    annotator = Depth(depth_model, "key", tmp_path)
    annotator.load()
    other = SimpleNamespace(config=SimpleNamespace(model_type="other"))
    with pytest.raises(ValueError, match=r"\(config key key\) is a other, .* legal are dpt, depth_anything, zoedepth"):
        annotator.check(other)


@pytest.mark.parametrize(
    ("axis", "colour"), [(None, (128, 128, 255)), (1, (64, 128, 238)), (0, (128, 191, 238))], ids=["flat", "x", "y"]
)
def test_normals_are_those_of_the_relief(monkeypatch, tmp_path, axis, colour):
    """A ramp that comes nearer by 0.58 pixels a pixel leans by 30 degrees, away from where it is near."""
    slope = np.tan(np.pi / 6) / (annotators.RELIEF * 40)
    places = np.zeros((40, 24)) if axis is None else np.indices((40, 24))[axis] * slope
    monkeypatch.setattr(NormalsOfDepth, "nearness", lambda self, image: places)
    drawn = NormalsOfDepth("m", "key", tmp_path)(IMAGE)
    assert drawn.shape == IMAGE.shape and (drawn == np.array(colour)[:, None, None]).all()


@pytest.mark.parametrize("winner", [1, 2])
def test_a_segment_has_the_colour_of_its_class(tmp_path, winner):
    drawn = Segments(segformer(tmp_path / "m", winner), "key", tmp_path)(IMAGE)
    assert drawn.shape == IMAGE.shape and (drawn == class_colours(3)[winner][:, None, None]).all()
    assert len(np.unique(class_colours(150), axis=0)) == 150


def test_masks_are_all_that_is_told_apart(tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(annotators, "layered", lambda masks, *size: counted.append(len(masks)) or layered(masks, *size))
    drawn = Masks(sam(tmp_path / "m"), "key", tmp_path)(IMAGE)
    assert drawn.shape == IMAGE.shape and drawn.dtype == np.uint8 and drawn.any() and counted[0] > 0


def test_the_smaller_mask_lies_on_top():
    whole, corner, none = np.ones((4, 6), bool), np.zeros((4, 6), bool), np.zeros((0, 4, 6), bool)
    corner[:2, :2] = True
    drawn, other = layered([corner, whole], 4, 6), class_colours(2)
    assert (drawn[:, 0, 0] == other[1]).all() and (drawn[:, 3, 3] == other[0]).all()
    assert not layered(none, 4, 6).any()


def test_a_pose_is_searched_in_the_whole_image(tmp_path, monkeypatch):
    annotator = Pose(vitpose(tmp_path / "m"), "key", tmp_path)
    monkeypatch.setattr(annotators, "SURE", -1.0)
    drawn = annotator(IMAGE)
    assert drawn.shape == IMAGE.shape and drawn.any()
    monkeypatch.setattr(annotators, "SURE", 2.0)
    assert not annotator(IMAGE).any(), "nobody is there"


def test_other_keypoints_than_cocos_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(config key key\) finds 5 keypoints; legal are models that find the 17"):
        Pose(vitpose(tmp_path / "m", 5), "key", tmp_path).load()


def test_a_skeleton_joins_the_sure_ends_of_limbs():
    keypoints, scores = np.zeros((17, 2)), np.zeros(17)
    keypoints[[5, 7]], scores[[5, 7]] = [[4, 10], [4, 30]], 0.9  # the left upper arm, downwards
    drawn = skeleton(keypoints, scores, 40, 24)
    assert drawn[:, 10:31, 4].any(0).all() and not drawn[:, :8].any() and not drawn[:, :, 8:].any()
    assert not skeleton(keypoints, scores * 0.3, 40, 24).any()


# --- a folder of one's own ------------------------------------------------------------------------------------------


def test_a_file_is_taken_as_it_is_and_a_missing_one_computed_once(depth_model, root, tmp_path, monkeypatch):
    before = sorted(root.rglob("*"))
    found = OwnFolder(root, [], computed={"depth": depth_model}, cache=tmp_path / "kept")
    assert found.names == ("target", "depth") and found.record(1).size("depth") == (24, 40)
    assert len(list(tmp_path.glob("kept/*"))) == 0, "nothing is computed before it is read"
    drawn = found.record(1).read("depth")
    assert np.array_equal(drawn, Depth(depth_model, "key", tmp_path)(found.record(1).read("target")))
    assert not np.array_equal(found.record(0).read("depth"), Depth(depth_model, "key", tmp_path)(IMAGE))
    assert len(list(tmp_path.glob("kept/*.png"))) == 1 and sorted(root.rglob("*")) == before

    def never(self, image):
        raise AssertionError("computed again")

    monkeypatch.setattr(Depth, "__call__", never)
    again = OwnFolder(root, [], computed={"depth": depth_model}, cache=tmp_path / "kept")
    assert np.array_equal(again.record(1).read("depth"), drawn)
    with pytest.raises(AssertionError, match="computed again"):
        again.record(2).read("depth")
    Image.new("RGB", (24, 40)).save(root / "1.png")
    with pytest.raises(AssertionError, match="computed again"):
        again.record(1).read("depth")


def test_a_model_that_is_not_there_is_missed_before_training_if_it_is_needed(root, tmp_path):
    found = OwnFolder(root, [], computed={"depth": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError) as caught:
        len(found)
    said = str(caught.value)
    assert f"'{tmp_path / 'nowhere'}' is not there (config key data.train.computed.depth)" in said and "\n" not in said
    assert len(OwnFolder(root, [], computed={"depth": str(tmp_path / "nowhere")}, limit=1)) == 1, "it has a file"


def test_weights_of_another_model_are_not_half_loaded(root, tmp_path):
    other = saved(tmp_path / "m", dpt(tf.DPTForSemanticSegmentation), tf.DPTImageProcessor(size=SIDE))
    with pytest.raises(ValueError, match=r"are of DPTForSemanticSegmentation; legal are .* for DepthEst"):
        len(OwnFolder(root, [], computed={"depth": other}))
    assert len(OwnFolder(root, [], computed={"uniformer": other})) == 6


@pytest.mark.parametrize(
    ("computed", "said"),
    [
        ({"hed": "x"}, "data.train.computed: 'hed' cannot be computed by a model; legal are depth, normal, uniformer"),
        ({"depth": ""}, "data.train.computed.depth='' must be the folder or repository id of a model, or null"),
    ],
)
def test_what_cannot_be_computed_is_named(tmp_path, computed, said):
    with pytest.raises(ValueError) as caught:
        OwnFolder(tmp_path, [], computed=computed)
    assert str(caught.value).startswith(said)


def test_training_draws_tasks_of_computed_annotations(depth_model, root, tmp_path):
    words = ["data=own_folder", "task=graph", f"data.train.root={root}", "data.rows=[0,0]", "data.num_workers=0"]
    words += ["data.tasks=['depth>target']", "data.held_out=3", "conditioning/embedding=none", "data.batch_size=2"]
    with pytest.raises(ValueError, match="no record has depth"):
        build(composed(*words)["data"])
    words += [f"data.train.computed.depth={depth_model}", f"data.train.cache={tmp_path / 'kept'}"]
    data = build(composed(*words)["data"])
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    condition = batch.images["condition"]
    assert condition.shape[:1] == (2,) and (condition[:, :, :1] == condition).all() and condition.float().std() > 10
