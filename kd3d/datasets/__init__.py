"""Where frames come from: nuScenes, KITTI, Waymo, and a generated world in nuScenes format."""
