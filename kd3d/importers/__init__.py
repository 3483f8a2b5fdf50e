"""kd3d.importers"""
