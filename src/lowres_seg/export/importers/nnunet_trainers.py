"""nnU-Net's own trainers: which train the network of plans.json as it stands, and which change it."""

from __future__ import annotations

#: Trainers of nnU-Net 2.8 that train the network of plans.json as it stands: what follows nnUNetTrainer in their names.
# fmt: off
_TRAINERS = (
    "", "Adam", "Adam1en3", "Adam3en4", "Adan", "Adan1en1", "Adan1en3", "Adan3en4", "AdanCosAnneal",
    "Benchmark_5epochs", "Benchmark_5epochs_noDataLoading", "CELoss", "CELoss_5epochs", "CosAnneal", "DA5",
    "DA5Segord0", "DA5_10epochs", "DA5ord0", "DiceCELoss_noSmooth", "DiceLoss", "DiceTopK10Loss", "NoDA",
    "NoDeepSupervision", "NoMirroring", "Topk10Loss", "Topk10LossLS01", "VanillaAdam", "VanillaAdam1en3",
    "VanillaAdam3en4", "_100epochs", "_10epochs", "_1epoch", "_2000epochs", "_2000epochs_NoMirroring", "_20epochs",
    "_250epochs", "_250epochs_NoMirroring", "_4000epochs", "_4000epochs_NoMirroring", "_500epochs", "_50epochs",
    "_5epochs", "_750epochs", "_8000epochs", "_8000epochs_NoMirroring", "_DASegOrd0", "_DASegOrd0_NoMirroring",
    "_noDummy2DDA", "_onlyMirror01", "_onlyMirror01_1500ep", "_onlyMirror01_DA5", "_onlyMirror01_DASegOrd0",
    "_probabilisticOversampling", "_probabilisticOversampling_010", "_probabilisticOversampling_033", "_warmup",
)
# fmt: on
#: Full names of the trainers that train the network of plans.json as it stands.
PLANS_NETWORK = frozenset((*(f"nnUNetTrainer{name}" for name in _TRAINERS), "nnUNet_Trainer_BS8"))
#: Full names of the trainers that train the network of plans.json with batch norm in place of its norm.
BATCH_NORM = frozenset(("nnUNetTrainerBN",))
