"""kd3d.export"""
