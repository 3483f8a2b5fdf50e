"""kd3d.evaluation"""
