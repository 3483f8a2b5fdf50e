"""Settings of small nuScenes CenterPoints, as the frameworks' configurations write them."""

GROUPS = (("car",), ("truck", "construction_vehicle"), ("bus", "trailer"), ("barrier",), ("motorcycle", "bicycle"),
          ("pedestrian", "traffic_cone"))  # fmt: skip
CLASSES = tuple(name for group in GROUPS for name in group)
LIMIT = [-15.0, -15.0, -10.0, 15.0, 15.0, 10.0]
RADII = [4, 12, 10, 1, 0.85, 0.175]

# The parts are in a base, the range in the middle, the way to boxes on top: each knows only the file below it.
MMDET_BASE = f"""
voxel_size = [0.2, 0.2, 8]
model = dict(
    type='CenterPoint',
    data_preprocessor=dict(voxel_layer=dict(max_num_points=20, voxel_size=voxel_size, max_voxels=(30000, 40000))),
    pts_voxel_encoder=dict(type='PillarFeatureNet', in_channels=5, feat_channels=[64], legacy=False),
    pts_backbone=dict(type='SECOND', layer_strides=[2, 2, 2]),
    pts_neck=dict(type='SECONDFPN', upsample_strides=[0.5, 1, 2], use_conv_for_no_stride=True),
    pts_bbox_head=dict(
        type='CenterHead',
        tasks=[{", ".join(f"dict(num_class={len(group)}, class_names={list(group)})" for group in GROUPS)}],
        bbox_coder=dict(post_center_range={LIMIT}, max_num=500, score_threshold=0.1, out_size_factor=4)),
    test_cfg=dict(pts=dict(
        min_radius={RADII}, nms_type='rotate', pre_max_size=1000, post_max_size=83, nms_thr=0.2)))
"""
MMDET_MIDDLE = """
_base_ = ['../models/base.py', '../schedules/cyclic-20e.py']
dataset_type = 'NuScenesDataset'
point_cloud_range = [-12.8, -12.8, -5.0, 12.8, 12.8, 3.0]
voxel_layer = _base_.model.data_preprocessor.voxel_layer
model = dict(data_preprocessor=dict(voxel_layer=dict(point_cloud_range=point_cloud_range)))
"""
MMDET_TOP = "_base_ = './middle.py'\nmodel = dict(test_cfg=dict(pts=dict(nms_type='{nms}')))\n"

DET3D = f"""
tasks = [{", ".join(f"dict(num_class={len(group)}, class_names={list(group)})" for group in GROUPS)}]
model = dict(
    reader=dict(type="PillarFeatureNet", num_filters=[64, 64], num_input_features=5),
    neck=dict(type="RPN", ds_layer_strides=[2, 2, 2], us_layer_strides=[0.5, 1, 2]),
    bbox_head=dict(type="CenterHead", tasks=tasks))
test_cfg = dict(
    post_center_limit_range={LIMIT}, min_radius={RADII}, circular_nms=CIRCLE, score_threshold=0.1, out_size_factor=4,
    nms=dict(nms_pre_max_size=1000, nms_post_max_size=83, nms_iou_threshold=0.2))
dataset_type = "NuScenesDataset"
nsweeps = 10
voxel_generator = dict(
    range=[-12.8, -12.8, -5.0, 12.8, 12.8, 3.0], voxel_size=[0.2, 0.2, 8], max_points_in_voxel=20,
    max_voxel_num=[30000, 60000])
"""
PCDET_DATA = """
DATASET: NuScenesDataset
MAX_SWEEPS: 10
POINT_FEATURE_ENCODING: {used_feature_list: [x, y, z, intensity, timestamp]}
DATA_PROCESSOR: [{NAME: transform_points_to_voxels, VOXEL_SIZE: [0.1, 0.1, 0.2], MAX_POINTS_PER_VOXEL: 10}]
"""
PCDET = f"""
CLASS_NAMES: {list(CLASSES)}
DATA_CONFIG:
    _BASE_CONFIG_: cfgs/dataset_configs/nuscenes_dataset.yaml
    POINT_CLOUD_RANGE: [-12.8, -12.8, -5.0, 12.8, 12.8, 3.0]
    DATA_PROCESSOR: [{{NAME: transform_points_to_voxels_placeholder, VOXEL_SIZE: [0.2, 0.2, 8.0]}}]
MODEL:
    VFE: {{NAME: DynPillarVFE, NUM_FILTERS: [64, 64]}}
    BACKBONE_2D: {{NAME: BaseBEVBackbone, LAYER_STRIDES: [2, 2, 2], UPSAMPLE_STRIDES: [0.5, 1, 2]}}
    DENSE_HEAD:
        NAME: CenterHead
        CLASS_NAMES_EACH_HEAD: {[list(group) for group in GROUPS]}
        TARGET_ASSIGNER_CONFIG: {{FEATURE_MAP_STRIDE: 4}}
        POST_PROCESSING:
            SCORE_THRESH: 0.1
            POST_CENTER_LIMIT_RANGE: {LIMIT}
            MAX_OBJ_PER_SAMPLE: 500
            NMS_CONFIG: {{NMS_TYPE: nms_gpu, NMS_THRESH: 0.2, NMS_PRE_MAXSIZE: 1000, NMS_POST_MAXSIZE: 83}}
"""


def written(folder, layout, *, nms="rotate"):
    """The configuration of ``layout`` with all that it builds on, in ``folder``; the schedule is not there."""
    texts = {
        "openpcdet": {"cfgs/dataset_configs/nuscenes_dataset.yaml": PCDET_DATA, "cfgs/nuscenes_models/top.yaml": PCDET},
        "mmdet3d": {"models/base.py": MMDET_BASE, "nus/middle.py": MMDET_MIDDLE, "nus/top.py": MMDET_TOP},
        "det3d": {"top.py": DET3D.replace("CIRCLE", str(nms == "circle"))},
    }[layout]
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("{nms}", nms))
    return folder / name
