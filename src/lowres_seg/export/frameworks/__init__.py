"""Networks in the hands of torch, ONNX Runtime and OpenVINO, at build time.

One module a framework. Each is the only module that imports its framework.
"""
