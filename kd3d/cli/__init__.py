"""kd3d.cli"""
