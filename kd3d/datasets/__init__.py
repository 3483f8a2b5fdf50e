"""Where frames come from: nuScenes, KITTI, and a generated world in nuScenes format."""
