"""The Arrow schema of every table of a run, and nothing else: the only place where a column is named."""

import pyarrow as pa

FRAME_ID = pa.field("frame_id", pa.string(), nullable=False)  # 16 bytes as 32 hex characters

FRAMES = pa.schema(
    [
        FRAME_ID,
        pa.field("source", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),  # of the file that holds the frame
        pa.field("path", pa.string(), nullable=False),  # of that file below its source
        pa.field("member", pa.string()),  # name inside an archive
        pa.field("frame_index", pa.int64()),  # in a video or a multi-frame file
        pa.field("timestamp_s", pa.float64()),
        pa.field("content_hash", pa.string(), nullable=False),  # of the encoded bytes, 32 hex characters
        pa.field("copy_of", pa.string()),  # frame_id of the first frame with the same content
        pa.field("byte_size", pa.int64(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("center", pa.string()),
        pa.field("patient", pa.string()),
        pa.field("procedure", pa.string()),
    ]
)

NEAR = pa.schema(  # further columns of frames where near copies are looked for
    [
        pa.field("perceptual_hash", pa.string(), nullable=False),  # 64 bits, 16 hex characters
        pa.field("near_copy_of", pa.string()),  # frame_id of the first frame that stays and is near
        pa.field("near_distance", pa.int32()),  # in how many bits their hashes differ
    ]
)

REJECTED = pa.schema(
    [
        FRAME_ID,
        pa.field("source", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("replaced_by", pa.string()),  # frame_id of the exact copy that was embedded in its place
    ]
)

COPIES = pa.schema(
    [
        pa.field("content_hash", pa.string(), nullable=False),  # ascending
        pa.field("part", pa.int32(), nullable=False),  # of frames
        pa.field("row", pa.int32(), nullable=False),  # in that part
        FRAME_ID,
    ]
)

COPY_FILES = pa.schema(  # next to an exported table
    [
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),  # of a file with the same bytes as the kept frame's
    ]
)

LISTING = pa.schema(  # what a part of frames was made from, rejected frames too
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64()),
    ]
)

MEASURES = ("brightness", "contrast", "saturation", "sharpness", "dark_share", "bright_share")

ASSIGNMENTS = pa.schema(
    [
        FRAME_ID,
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("centroid_distance", pa.float32(), nullable=False),  # 1 - cosine
    ]
)

HISTORY = pa.schema(
    [
        pa.field("iteration", pa.int32(), nullable=False),
        pa.field("inertia", pa.float64(), nullable=False),  # sum of squared distances to its centroids: 2 - 2 cosine
        pa.field("empty", pa.int32(), nullable=False),  # clusters without a frame, seeded again
        pa.field("shift", pa.float64(), nullable=False),  # sum of squared distances that centroids moved
    ]
)

SCORES = pa.schema(
    [
        FRAME_ID,
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("centroid_distance", pa.float32(), nullable=False),
        pa.field("duplicate_similarity", pa.float32(), nullable=False),  # -1 where no frame comes before
        pa.field("duplicate_of", pa.string()),
    ]
)

MEASURED_SCORES = SCORES.append(pa.field("measure", pa.float64()))  # of a pass that keeps the highest or the lowest

RECALL = pa.schema(  # a sample of frames; both similarities are to frames before them, -1 where there is none
    [
        FRAME_ID,
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("duplicate_similarity", pa.float32(), nullable=False),  # that the pass found
        pa.field("exact_similarity", pa.float32(), nullable=False),  # among all frames
        pa.field("exact_duplicate_of", pa.string()),
    ]
)

DECISIONS = pa.schema(
    [
        FRAME_ID,
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("because_of", pa.string()),
        pa.field("similarity", pa.float32()),  # cosine; of a near copy 1 - distance / 64 of the hashes
        pa.field("centroid_distance", pa.float32()),
        pa.field("cluster", pa.int32()),
    ]
)

IMAGE = pa.field("image", pa.large_binary(), nullable=False)  # the encoded bytes, as they were found

REASONS = ("kept", "outlier", "duplicate", "exact copy", "near copy", "over budget", "rejected")


def frames(metadata: tuple[str, ...], near: bool = False) -> pa.Schema:
    """FRAMES, those of NEAR where near copies are looked for, and a string column for each name of user metadata."""
    return pa.schema([*FRAMES, *(NEAR if near else ()), *(pa.field(name, pa.string()) for name in metadata)])


def embeddings(dimensions: int, storage: str) -> pa.Schema:
    """frame_id, embedding (fixed_size_list of float16 or float32, unit length) and the image measures."""
    values = pa.float16() if storage == "float16" else pa.float32()
    vector = pa.field("embedding", pa.list_(pa.field("item", values, nullable=False), dimensions), nullable=False)
    measures = [pa.field(name, pa.float32(), nullable=False) for name in MEASURES]
    return pa.schema([FRAME_ID, vector, *measures])


def centroids(dimensions: int) -> pa.Schema:
    """Number and centroid (fixed_size_list of float32, unit length)."""
    vector = pa.field("centroid", pa.list_(pa.field("item", pa.float32(), nullable=False), dimensions), nullable=False)
    return pa.schema([pa.field("cluster", pa.int32(), nullable=False), vector])
