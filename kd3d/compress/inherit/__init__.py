"""kd3d.compress.inherit"""
