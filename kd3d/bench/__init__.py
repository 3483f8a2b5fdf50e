"""kd3d.bench"""
