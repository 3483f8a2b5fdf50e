"""kd3d.compress.search"""
