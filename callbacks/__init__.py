"""Interventions and probes: one paper or one quantity per file. In YAML always ``callbacks.<Name>``."""

import plasticity_rl  # noqa: F401  # first: it refuses a compromised release of lightning
from callbacks.interventions.adaptive_replay_ratio import AdaptiveReplayRatio
from callbacks.interventions.anneal_horizon import AnnealHorizon
from callbacks.interventions.bro_net import BroNet
from callbacks.interventions.churn_reduction import ChurnReduction
from callbacks.interventions.continual_backprop import ContinualBackprop
from callbacks.interventions.continual_tasks import ContinualTasks
from callbacks.interventions.crelu import CReLU
from callbacks.interventions.curl import CURL
from callbacks.interventions.dash import DASH
from callbacks.interventions.deep_fourier_features import DeepFourierFeatures
from callbacks.interventions.dormant_ratio_perturbation import DormantRatioPerturbation
from callbacks.interventions.frozen_encoder import FrozenEncoder
from callbacks.interventions.gradual_pruning import GradualPruning
from callbacks.interventions.hare_and_tortoise import HareAndTortoise
from callbacks.interventions.heavy_priming import HeavyPriming
from callbacks.interventions.hl_gauss_critic import HLGaussCritic
from callbacks.interventions.infer import InFeR
from callbacks.interventions.l2_init import L2Init
from callbacks.interventions.layer_norm import LayerNorm
from callbacks.interventions.neuroplastic_expansion import NeuroplasticExpansion
from callbacks.interventions.normalize_and_project import NormalizeAndProject
from callbacks.interventions.optimizer_reset import OptimizerReset
from callbacks.interventions.parseval_regularization import ParsevalRegularization
from callbacks.interventions.plasticity_injection import PlasticityInjection
from callbacks.interventions.prune_dormant import PruneDormant
from callbacks.interventions.random_frozen_encoder import RandomFrozenEncoder
from callbacks.interventions.random_pruning import RandomPruning
from callbacks.interventions.rational_activation import RationalActivation
from callbacks.interventions.redo import ReDo
from callbacks.interventions.regrama import ReGraMa
from callbacks.interventions.replay_ratio_schedule import ReplayRatioSchedule
from callbacks.interventions.reset import Reset
from callbacks.interventions.sample_weight_decay import SampleWeightDecay
from callbacks.interventions.self_normalized_reset import SelfNormalizedReset
from callbacks.interventions.sharpness_aware import SharpnessAware
from callbacks.interventions.shrink_and_perturb import ShrinkAndPerturb
from callbacks.interventions.simba_blocks import SimBaBlocks
from callbacks.interventions.simba_v2_blocks import SimBaV2Blocks
from callbacks.interventions.spectral_norm import SpectralNorm
from callbacks.interventions.spectral_regularization import SpectralRegularization
from callbacks.interventions.toggle_augmentation import ToggleAugmentation
from callbacks.interventions.trac import TRAC
from callbacks.interventions.upgd import UPGD
from callbacks.interventions.warm_start_replay import WarmStartReplay
from callbacks.interventions.weight_clipping import WeightClipping
from callbacks.interventions.weight_decay import WeightDecay
from callbacks.interventions.wider_network import WiderNetwork
from callbacks.probes.approximate_rank import ApproximateRank
from callbacks.probes.churn import Churn
from callbacks.probes.distance_from_init import DistanceFromInit
from callbacks.probes.dormant_units import DormantUnits
from callbacks.probes.effective_learning_rate import EffectiveLearningRate
from callbacks.probes.effective_rank import EffectiveRank
from callbacks.probes.feature_norm import FeatureNorm
from callbacks.probes.feature_rank import FeatureRank
from callbacks.probes.fraction_active_units import FractionActiveUnits
from callbacks.probes.gradient_covariance import GradientCovariance
from callbacks.probes.gradient_dormancy import GradientDormancy
from callbacks.probes.gradient_norm import GradientNorm
from callbacks.probes.gradient_spectrum import GradientSpectrum
from callbacks.probes.hessian_spectrum import HessianSpectrum
from callbacks.probes.hessian_top import HessianTop
from callbacks.probes.linearized_units import LinearizedUnits
from callbacks.probes.ntk_rank import NTKRank
from callbacks.probes.random_target_fit import RandomTargetFit
from callbacks.probes.srank import SRank
from callbacks.probes.stable_rank import StableRank
from callbacks.probes.tanh_saturation import TanhSaturation
from callbacks.probes.target_statistics import TargetStatistics
from callbacks.probes.weight_change import WeightChange
from callbacks.probes.weight_norm import WeightNorm

__all__ = [
    "CURL",
    "DASH",
    "TRAC",
    "UPGD",
    "AdaptiveReplayRatio",
    "AnnealHorizon",
    "ApproximateRank",
    "BroNet",
    "CReLU",
    "Churn",
    "ChurnReduction",
    "ContinualBackprop",
    "ContinualTasks",
    "DeepFourierFeatures",
    "DistanceFromInit",
    "DormantRatioPerturbation",
    "DormantUnits",
    "EffectiveLearningRate",
    "EffectiveRank",
    "FeatureNorm",
    "FeatureRank",
    "FractionActiveUnits",
    "FrozenEncoder",
    "GradientCovariance",
    "GradientDormancy",
    "GradientNorm",
    "GradientSpectrum",
    "GradualPruning",
    "HareAndTortoise",
    "HLGaussCritic",
    "HeavyPriming",
    "HessianSpectrum",
    "HessianTop",
    "InFeR",
    "L2Init",
    "LayerNorm",
    "LinearizedUnits",
    "NTKRank",
    "NeuroplasticExpansion",
    "NormalizeAndProject",
    "OptimizerReset",
    "ParsevalRegularization",
    "PlasticityInjection",
    "PruneDormant",
    "RandomFrozenEncoder",
    "RandomPruning",
    "RandomTargetFit",
    "RationalActivation",
    "ReDo",
    "ReGraMa",
    "ReplayRatioSchedule",
    "Reset",
    "SRank",
    "SampleWeightDecay",
    "SelfNormalizedReset",
    "SharpnessAware",
    "ShrinkAndPerturb",
    "SimBaBlocks",
    "SimBaV2Blocks",
    "SpectralNorm",
    "SpectralRegularization",
    "StableRank",
    "TanhSaturation",
    "TargetStatistics",
    "ToggleAugmentation",
    "WarmStartReplay",
    "WeightChange",
    "WeightClipping",
    "WeightDecay",
    "WeightNorm",
    "WiderNetwork",
]
