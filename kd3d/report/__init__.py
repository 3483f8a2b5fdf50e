"""kd3d.report"""
