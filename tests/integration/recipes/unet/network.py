"""MONAI's U-Net, narrow: what ONNX Runtime has in INT8 (convolutions, poolings, joins) and what it has not."""

from monai.networks.nets import BasicUNet


def build(norm: str = "batch") -> BasicUNet:
    return BasicUNet(3, 1, 2, features=(8, 8, 16, 32, 32, 8), norm=norm)
