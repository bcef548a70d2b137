"""Reason and finding codes of series and of whole runs: stable names for scripts, each with a line of documentation.

To add a code, add one line here. `docs/codes.md` shows these lists as tables. The code that raises uses the plain
string, which is equal to its member.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class _Documented(StrEnum):
    """A member whose value is its name, with its effect and its line of documentation."""

    effect: str
    line: str

    def __new__(cls, value: str, effect: str, line: str) -> Self:
        """Make a member from its name, effect and line."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.effect, member.line = effect, line
        return member


class Code(_Documented):
    """Why a series ended, or what a user of its numbers should know.

    Attributes:
        effect: `rejected`, `skipped` or `failed` for a reason that ends a series; `finding` for a note that does not.
            `GANTRY_TILT` is either, depending on the policy.
        line: what was found.
    """

    UNREADABLE_FILE = "UNREADABLE_FILE", "rejected", "The file is DICOM, a research format or an archive, but damaged."
    UNSAFE_ARCHIVE = (
        "UNSAFE_ARCHIVE",
        "rejected",
        "The archive could write outside its folder, fill the disk, or is not what it claims to be.",
    )
    FILE_NOT_OPENED = "FILE_NOT_OPENED", "failed", "The system did not open the file or folder."
    UNSUPPORTED_IMAGE = (
        "UNSUPPORTED_IMAGE",
        "rejected",
        "A variant of NIfTI, NRRD or MetaImage that ctvae does not read.",
    )
    DATA_FILE_OUTSIDE = "DATA_FILE_OUTSIDE", "rejected", "The header's data file is missing or lies outside the input."
    MISSING_PIXELS = "MISSING_PIXELS", "rejected", "A file has no pixels: cut off in its header, or stripped."
    TRUNCATED_PIXELS = "TRUNCATED_PIXELS", "rejected", "The file ends before its pixels do."
    UNDECODABLE_PIXELS = (
        "UNDECODABLE_PIXELS",
        "rejected",
        "The pixels do not match the header, or the codestream is broken.",
    )
    UNSUPPORTED_PIXELS = (
        "UNSUPPORTED_PIXELS",
        "rejected",
        "The pixels are in colour, floating point or another form that CT does not have.",
    )
    UNSUPPORTED_TRANSFER_SYNTAX = (
        "UNSUPPORTED_TRANSFER_SYNTAX",
        "rejected",
        "The pixels are in an encoding that ctvae does not read.",
    )
    BITS_MISMATCH = "BITS_MISMATCH", "rejected", "Bits stored or sign contradict the values."
    AMBIGUOUS_PADDING = "AMBIGUOUS_PADDING", "rejected", "Tissue can have the declared padding value."
    MISSING_RESCALE = "MISSING_RESCALE", "rejected", "No rescale slope or intercept."
    INVALID_RESCALE = "INVALID_RESCALE", "rejected", "A rescale slope that is zero, negative or not finite."
    GRID_TOO_LARGE = "GRID_TOO_LARGE", "rejected", "The bundle's windows would take too much memory for this scan."
    UNSAFE_COMPRESSION = "UNSAFE_COMPRESSION", "rejected", "Compressed voxels expand more than a hundredfold."
    NON_FINITE_VOXELS = "NON_FINITE_VOXELS", "rejected", "The voxels hold NaN or infinity."
    NOT_HU = "NOT_HU", "rejected", "The values cannot be Hounsfield units."
    MIXED_PATIENT = "MIXED_PATIENT", "rejected", "Several patients under one series UID."
    MIXED_FRAME_OF_REFERENCE = "MIXED_FRAME_OF_REFERENCE", "rejected", "Several frames of reference in one series."
    MIXED_MATRIX = "MIXED_MATRIX", "rejected", "Several sizes of matrix."
    MIXED_ORIENTATION = "MIXED_ORIENTATION", "rejected", "Several orientations."
    MIXED_PIXEL_SPACING = "MIXED_PIXEL_SPACING", "rejected", "Several pixel spacings."
    DUPLICATE_INSTANCES = "DUPLICATE_INSTANCES", "rejected", "One SOP Instance UID in several files that differ."
    DUPLICATE_POSITIONS = (
        "DUPLICATE_POSITIONS",
        "rejected",
        "Several slices lie at one position, and nothing distinguishes them.",
    )
    SINGLE_POSITION = "SINGLE_POSITION", "rejected", "All slices at one position."
    TOO_FEW_SLICES = "TOO_FEW_SLICES", "rejected", "Fewer slices than the settings ask for."
    MISSING_SLICE = "MISSING_SLICE", "rejected", "A slice is missing."
    IRREGULAR_SPACING = "IRREGULAR_SPACING", "rejected", "The distances between slices differ."
    SHIFTED_SLICES = "SHIFTED_SLICES", "rejected", "The slices do not lie on a line."
    MISSING_GEOMETRY = "MISSING_GEOMETRY", "rejected", "Position, orientation or spacing is missing or impossible."
    CONTRADICTORY_GEOMETRY = "CONTRADICTORY_GEOMETRY", "rejected", "The file gives two geometries that differ."
    SHEARED_AXES = "SHEARED_AXES", "rejected", "The axes are not at right angles."
    NOT_3D = "NOT_3D", "rejected", "The data are not one three-dimensional volume."
    INVALID_FUNCTIONAL_GROUPS = (
        "INVALID_FUNCTIONAL_GROUPS",
        "rejected",
        "The functional groups of a multi-frame CT do not fit its frames.",
    )
    INCOMPLETE_CONCATENATION = (
        "INCOMPLETE_CONCATENATION",
        "rejected",
        "A concatenation has fewer files than it declares.",
    )
    GANTRY_TILT = (
        "GANTRY_TILT",
        "finding",
        "The gantry was tilted: straightened, or rejected because of its angle or the settings.",
    )
    NOT_CT_IMAGE = "NOT_CT_IMAGE", "skipped", "The SOP class or modality is not CT."
    SECONDARY_CAPTURE = "SECONDARY_CAPTURE", "skipped", "A screen, a page of text or a dose report."
    LOCALIZER = "LOCALIZER", "skipped", "A localizer."
    DERIVED_MAP = (
        "DERIVED_MAP",
        "skipped",
        "A map, projection or rendering: its numbers are not the HU of single places in the body.",
    )
    LABEL_MAP = "LABEL_MAP", "skipped", "A label map."
    NO_RULE = "NO_RULE", "skipped", "No selection rule accepts the series."
    NOT_PREFERRED = "NOT_PREFERRED", "skipped", "Other series of the study are preferred."
    INPUT_OUTPUT_ERROR = "INPUT_OUTPUT_ERROR", "failed", "The system reported an error while reading or writing."
    FILE_CHANGED = "FILE_CHANGED", "failed", "A file changed between header and pixels."
    OUTPUT_UNWRITABLE = "OUTPUT_UNWRITABLE", "failed", "The results cannot be written."
    OUT_OF_MEMORY = "OUT_OF_MEMORY", "failed", "Not enough memory for the series."
    NON_FINITE_FEATURES = "NON_FINITE_FEATURES", "failed", "The encoder gave NaN or infinity."
    NON_FINITE_NUMBER = "NON_FINITE_NUMBER", "failed", "The SR cannot hold a number."
    BAD_NAME = "BAD_NAME", "failed", "The SR cannot hold a name."
    BAD_VECTOR = "BAD_VECTOR", "failed", "The SR cannot hold a vector."
    SLICE_SHAPE = "SLICE_SHAPE", "failed", "The shape of a slice differs from that of its volume."
    CHANGE_MISPLACED = "CHANGE_MISPLACED", "failed", "While certifying: a changed scan gave different windows."
    LOST_SERIES = "LOST_SERIES", "failed", "The run ended before the series did."
    LOST_RUN = "LOST_RUN", "failed", "The run ended before the input was read; stands for all of it."
    WORKER_DIED = "WORKER_DIED", "failed", "A worker of `ctvae cohort` died twice at this study or file."
    WORKER_MEMORY = "WORKER_MEMORY", "failed", "The study or file took more memory than a worker of `ctvae cohort` may."
    WORKER_TIME = "WORKER_TIME", "failed", "The study or file took longer than a worker of `ctvae cohort` may."
    SERVER_FAILED = "SERVER_FAILED", "failed", "The DICOMweb server did not send the study as expected."
    INTERNAL_ERROR = "INTERNAL_ERROR", "failed", "An error of ctvae; report it."
    UID_DERIVED = "UID_DERIVED", "finding", "A study or series UID was missing or invalid and is replaced."
    INVALID_INSTANCE_UID = "INVALID_INSTANCE_UID", "finding", "A SOP Instance UID is missing or invalid."
    IDENTICAL_COPIES = "IDENTICAL_COPIES", "finding", "Byte-for-byte copies of other files were left out."
    UNREADABLE_NEIGHBOUR = (
        "UNREADABLE_NEIGHBOUR",
        "finding",
        "Files in the same folder cannot be read; slices may be lost.",
    )
    INSTANCES_LEFT_OUT = "INSTANCES_LEFT_OUT", "finding", "Instances that are not CT images were left out."
    SPLIT_SERIES = "SPLIT_SERIES", "finding", "The series holds several volumes; this is one of them."
    SELECTED_BY_RULE = "SELECTED_BY_RULE", "finding", "The selection rules that accept the series."
    RESEARCH_FORMAT = "RESEARCH_FORMAT", "finding", "Not DICOM: no patient, no acquisition, no SR."
    FRAME_OF_REFERENCE_PER_SLICE = (
        "FRAME_OF_REFERENCE_PER_SLICE",
        "finding",
        "Each slice has its own frame of reference, as in LIDC; none is reported.",
    )
    FEW_SLICES = "FEW_SLICES", "finding", "Too few slices to detect a missing one."
    NOT_AXIAL = "NOT_AXIAL", "finding", "Coronal or sagittal slices."
    OBLIQUE = "OBLIQUE", "finding", "The axes are more than 1° off the patient's."
    OVERLAPPING_SLICES = "OVERLAPPING_SLICES", "finding", "The slices are thicker than the distance between them."
    GAPS_BETWEEN_SLICES = "GAPS_BETWEEN_SLICES", "finding", "The slices are thinner than the distance between them."
    MIXED_THICKNESS = "MIXED_THICKNESS", "finding", "Several slice thicknesses."
    MIXED_KERNEL = "MIXED_KERNEL", "finding", "Several convolution kernels along the scan."
    MIXED_KVP = "MIXED_KVP", "finding", "Several tube voltages along the scan."
    MIXED_VALUES = (
        "MIXED_VALUES",
        "finding",
        "Slices differ in a value that a series should have once; it is not reported.",
    )
    MISSING_SLICE_INTERPOLATED = (
        "MISSING_SLICE_INTERPOLATED",
        "finding",
        "A missing slice was replaced by the mean of its neighbours.",
    )
    SPACING_RESAMPLED = "SPACING_RESAMPLED", "finding", "An irregular stack was resampled."
    RESCALE_ASSUMED = "RESCALE_ASSUMED", "finding", "Slope 1 and intercept 0 were assumed."
    TRUNCATED_SLICE_DROPPED = "TRUNCATED_SLICE_DROPPED", "finding", "A truncated slice was left out."
    LOSSY_COMPRESSION = "LOSSY_COMPRESSION", "finding", "The slices were compressed lossily."
    FRACTIONAL_RESCALE = "FRACTIONAL_RESCALE", "finding", "HU are rounded because slope or intercept has a fraction."
    FRACTIONAL_HU = "FRACTIONAL_HU", "finding", "HU with fractions are rounded."
    HU_SATURATED = "HU_SATURATED", "finding", "HU beyond int16 are clipped."
    UNDECODABLE_TEXT = "UNDECODABLE_TEXT", "finding", "Text is not valid in its character set and was left out."
    UNUSED_BITS_MASKED = "UNUSED_BITS_MASKED", "finding", "Bits outside the value were not empty and were masked."
    PIXEL_PADDING = "PIXEL_PADDING", "finding", "Declared padding was replaced by air."
    BELOW_CT_SCALE = "BELOW_CT_SCALE", "finding", "HU below -1024 were replaced by air."
    ENCODED_ON_CPU = "ENCODED_ON_CPU", "finding", "The encoder ran on the CPU although a GPU was requested."
    CHANGED = "CHANGED", "finding", "While certifying: the scan was changed synthetically."
    OTHER_CONTENT = (
        "OTHER_CONTENT",
        "finding",
        "A listener received different content under a known SOP Instance UID; the first is used.",
    )
    SERIES_INCOMPLETE = "SERIES_INCOMPLETE", "finding", "A listener gave up waiting for the rest of the series."
    COUNT_UNCONFIRMED = "COUNT_UNCONFIRMED", "finding", "The PACS did not say how many instances the series has."


class RunCode(_Documented):
    """Why a command did not start (exit code 3), or ended as a whole (exit code 1).

    Attributes:
        effect: `exit 3` or `exit 1`.
        line: what was found.
    """

    INPUT_MISSING = "INPUT_MISSING", "exit 3", "The input folder does not exist."
    INPUT_NOT_A_FOLDER = "INPUT_NOT_A_FOLDER", "exit 3", "The input is a file that is not an archive or image."
    INPUT_AND_OUTPUT_OVERLAP = (
        "INPUT_AND_OUTPUT_OVERLAP",
        "exit 3",
        "The input folder contains the output folder, or the other way round.",
    )
    NOT_ACCESSIBLE = (
        "NOT_ACCESSIBLE",
        "exit 3",
        "The system does not open a path: it is missing, closed, of another kind, or a limit is reached.",
    )
    OUTPUT_UNWRITABLE = "OUTPUT_UNWRITABLE", "exit 3", "The output folder cannot be written to."
    OUTPUT_IN_THE_WAY = "OUTPUT_IN_THE_WAY", "exit 3", "A file that ctvae did not write stands where a result belongs."
    OUTPUT_IN_USE = "OUTPUT_IN_USE", "exit 3", "Another ctvae writes into the output folder."
    SETTINGS_INVALID = (
        "SETTINGS_INVALID",
        "exit 3",
        "app.yaml, an environment variable or an option has an invalid value.",
    )
    USAGE = "USAGE", "exit 3", "The command line is wrong."
    MODELS_MISSING = "MODELS_MISSING", "exit 3", "The model bundle or the folder of bundles does not exist."
    BUNDLE_INVALID = "BUNDLE_INVALID", "exit 3", "The bundle is missing, damaged or of another format version."
    BUNDLE_REFUSED = "BUNDLE_REFUSED", "exit 3", "The bundle did not pass `ctvae bundle check`."
    BUNDLE_CHANGED = "BUNDLE_CHANGED", "exit 3", "The weights or settings differ from those a job was queued with."
    ARRAYS_ONLY = "ARRAYS_ONLY", "exit 3", "The bundle does not define how a scan becomes windows."
    UNKNOWN_TAP = "UNKNOWN_TAP", "exit 3", "The bundle has no such tap, or the tap cannot be pooled that way."
    TAP_TOO_LONG = "TAP_TOO_LONG", "exit 3", "A tap has too many values for a certificate."
    SEVERAL_PREDECESSORS = "SEVERAL_PREDECESSORS", "exit 3", "Two earlier SRs describe the same series."
    BAD_TABLE_NAME = "BAD_TABLE_NAME", "exit 3", "The name of the table's file ends neither in .parquet nor in .csv."
    NO_RESULTS = "NO_RESULTS", "exit 3", "There are no results to make a table from."
    NO_RESULTS_THERE = "NO_RESULTS_THERE", "exit 3", "An input path of the table does not exist."
    SEVERAL_RESULTS = "SEVERAL_RESULTS", "exit 3", "The inputs of a table hold two results of one series."
    MIXED_MODELS = "MIXED_MODELS", "exit 3", "The inputs of a table come from several models."
    NO_SUCH_TAP = "NO_SUCH_TAP", "exit 3", "The results or the table lack the tap."
    SERVER_FAILED = "SERVER_FAILED", "exit 3", "The DICOMweb server did not answer as expected."
    BAD_TABLE = "BAD_TABLE", "exit 3", "The table is not one that `ctvae table` writes."
    BAD_COVARIATE = "BAD_COVARIATE", "exit 3", "The table has no such column."
    NO_DATA = "NO_DATA", "exit 3", "There is no file or no CT to work on."
    BAD_LIST = "BAD_LIST", "exit 3", "The list of scans cannot be used."
    BAD_DICOMDIR = "BAD_DICOMDIR", "exit 3", "The DICOMDIR is damaged, or names no file below it."
    CLUSTER_UNUSABLE = (
        "CLUSTER_UNUSABLE",
        "exit 3",
        "The Ray cluster cannot be reached, or a machine of it lacks something.",
    )
    BAD_SITE_KEY = "BAD_SITE_KEY", "exit 3", "The site's key beside the index is empty, or others can read it."
    OTHER_COHORT = "OTHER_COHORT", "exit 3", "The output folder holds a cohort of other data."
    BAD_LABELS = "BAD_LABELS", "exit 3", "The file of labels cannot be used."
    BAD_GROUPS = "BAD_GROUPS", "exit 3", "The two lists of series cannot be compared."
    NO_SUCH_SERIES = "NO_SUCH_SERIES", "exit 3", "The table does not have the series."
    BAD_COLUMN = "BAD_COLUMN", "exit 3", "The table and the labels lack the column."
    BAD_NOTES = "BAD_NOTES", "exit 3", "The notes for the model card cannot be read."
    BAD_SPLIT = "BAD_SPLIT", "exit 3", "The patients cannot be split as requested, or one would be in two splits."
    BAD_RECIPE = "BAD_RECIPE", "exit 3", "The training recipe has an invalid value."
    BAD_WINDOW = "BAD_WINDOW", "exit 3", "The window is not an array that the network accepts."
    INIT_CONFLICT = "INIT_CONFLICT", "exit 3", "The recipe contradicts the bundle to start from."
    CHECKPOINT_EXISTS = (
        "CHECKPOINT_EXISTS",
        "exit 3",
        "An unfinished training stands in the way; resume it or delete its checkpoint.",
    )
    CHECKPOINT_INVALID = "CHECKPOINT_INVALID", "exit 3", "The checkpoint is damaged or belongs to another training."
    CANNOT_TRAIN = "CANNOT_TRAIN", "exit 3", "The settings and the data do not go together."
    TOO_FEW_PATIENTS = "TOO_FEW_PATIENTS", "exit 3", "There are too few patients for the question."
    TRAINED_ON = "TRAINED_ON", "exit 3", "The bundle was trained on every patient given."
    NO_REFERENCE = "NO_REFERENCE", "exit 3", "The reference patients do not form a usable population."
    FEW_PHANTOMS = "FEW_PHANTOMS", "exit 3", "Too few phantoms were requested to conclude anything."
    DATABASE_INVALID = "DATABASE_INVALID", "exit 3", "The address of the queue's database is wrong."
    DATABASE_NEWER = "DATABASE_NEWER", "exit 3", "A newer ctvae wrote the queue's database."
    DATABASE_UNREACHABLE = "DATABASE_UNREACHABLE", "exit 3", "The queue's database cannot be opened."
    NO_QUEUE = "NO_QUEUE", "exit 3", "There is no queue where the settings say."
    NO_JOB = "NO_JOB", "exit 3", "The queue has no job with that number."
    PORT_UNUSABLE = "PORT_UNUSABLE", "exit 3", "The listener or its page cannot use its port."
    TLS_INVALID = (
        "TLS_INVALID",
        "exit 3",
        "Certificate, key or CA of the listener, a destination, a polled server or the queried PACS cannot be used.",
    )
    TOKEN_UNREADABLE = (
        "TOKEN_UNREADABLE",
        "exit 3",
        "The token of the listener's page, a destination or a server cannot be read, or is too short.",
    )
    NO_CHECKOUT = "NO_CHECKOUT", "exit 3", "The image can only be built from a git checkout."
    NO_PROGRAM = "NO_PROGRAM", "exit 3", "A program that the command calls is not installed."
    NO_EXPORT = "NO_EXPORT", "exit 3", "No folder is mounted that the container could extract to."
    BAD_IMAGE = "BAD_IMAGE", "exit 3", "The archive is not an image that can be read, or is not safe to read."
    NO_SANDBOX = "NO_SANDBOX", "exit 3", "Nothing is there to run an image in without a daemon."
    DIVERGED = "DIVERGED", "exit 1", "The loss or a gradient of a training is not finite."
    INTERRUPTED = "INTERRUPTED", "exit 1", "The run was stopped by Ctrl-C or SIGTERM; no file is half written."
    SEVERAL_CASES = "SEVERAL_CASES", "exit 1", "A job of Grand Challenge wrote more than one series."
    INPUT_OUTPUT_ERROR = "INPUT_OUTPUT_ERROR", "exit 1", "The system reported an error while reading or writing."
    BUILD_FAILED = "BUILD_FAILED", "exit 1", "A program that builds the image failed."
