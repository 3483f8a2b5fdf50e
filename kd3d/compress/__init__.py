"""kd3d.compress"""
