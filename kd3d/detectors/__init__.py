"""kd3d.detectors"""
