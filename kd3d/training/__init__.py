"""kd3d.training"""
