"""kd3d.runtime"""
