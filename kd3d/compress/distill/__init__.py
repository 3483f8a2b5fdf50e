"""kd3d.compress.distill"""
