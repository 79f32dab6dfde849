"""The records that the pipeline's stages pass to each other and store: immutable, one JSON object each.

Accuracies are shares (0..1), iterations are optimizer steps, times are UTC, durations are seconds. Other packages
import records from here. This package imports only config, utils and errors. It does not need torch.
"""

from retrain.records.approval import Approval, Verdict
from retrain.records.base import Record, digest, parse_record
from retrain.records.drift import Drift
from retrain.records.drop import (
    Amendment,
    Change,
    Dataset,
    Drop,
    DropRef,
    Erased,
    LeftOut,
    Reading,
    SampleList,
    Shard,
    Uploaded,
)
from retrain.records.erasure import AffectedRun, ErasedSample, Erasure
from retrain.records.errors import ClassFigures, Confusion, ErrorAnalysis, Mistake
from retrain.records.ledger import Champion, Promotion, RunRecord, Savings
from retrain.records.model_input import ModelInput
from retrain.records.plan import AccuracyEstimate, Loading, Origin, Plan, Scope, ScratchEstimate, StopRule, Target
from retrain.records.retention import Removal, Removed, Retention
from retrain.records.run import Comparison, Cost, Curve, Decision, Evaluation, Interval, Machine, Point, Result

__all__ = [
    "AccuracyEstimate",
    "AffectedRun",
    "Amendment",
    "Approval",
    "Champion",
    "Change",
    "ClassFigures",
    "Comparison",
    "Confusion",
    "Cost",
    "Curve",
    "Dataset",
    "Decision",
    "Drift",
    "Drop",
    "DropRef",
    "Erased",
    "ErasedSample",
    "Erasure",
    "ErrorAnalysis",
    "Evaluation",
    "Interval",
    "LeftOut",
    "Loading",
    "Machine",
    "Mistake",
    "ModelInput",
    "Origin",
    "Plan",
    "Point",
    "Promotion",
    "Reading",
    "Record",
    "Removal",
    "Removed",
    "Result",
    "Retention",
    "RunRecord",
    "SampleList",
    "Savings",
    "Scope",
    "ScratchEstimate",
    "Shard",
    "StopRule",
    "Target",
    "Uploaded",
    "Verdict",
    "digest",
    "parse_record",
]
