"""What uint8 input and shared memory gain: 224x224 in batches of eight, on a small network."""

import tempfile
from pathlib import Path
from statistics import median

from bandstop.bench.client_load import Job, Side, rates, ratio
from bandstop.bench.client_releases import Network, artifact_of, publish_all
from bandstop.cli.output import say
from bandstop.edit.classifier import Arch
from bandstop.export.record import ServingRecord
from bandstop.export.spec import ExportSpec
from bandstop.serve.triton import start

# 49 tokens of 16 features, one block: 3 million multiplications an image, most of them in the
# first layer. What is left of a request is its way to the server and the image itself.
SMALL = Network(Arch("bandstop:vit", {"patch": 32, "dim": 16, "depth": 1, "heads": 1}), 224)
BATCH, IN_FLIGHT, REQUESTS, ROUNDS = 8, 4, 16, 25
_SPECS = (
    ("floats", ExportSpec("gated", max_batch_size=BATCH)),
    ("bytes", ExportSpec("gated", max_batch_size=BATCH, input="uint8")),
)


def measured() -> dict[str, object]:
    """Return images per second of both, asked with images as a decoder gives them.

    Ratios of shared memory are those to the same by the wire.
    """
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        say("bench client: exports a network for 224x224 with float32 and with uint8 input")
        folder = Path(place)
        artifact = artifact_of(SMALL, folder / "artifact")
        repo = publish_all(artifact, _SPECS, folder, ServingRecord(queue_timeout_us=0))
        with start(repo) as server:
            say("bench client: uint8 against float32 input")
            job = Job(
                server.url,
                (
                    Side(("bytes",)),
                    Side(("floats",)),
                    Side(("floats",), floats=True),
                    Side(("bytes",), shared=True),
                    Side(("floats",), shared=True),
                ),
                (224, 224, 3),
                BATCH,
                IN_FLIGHT,
                REQUESTS,
                ROUNDS,
                server.headers,
            )
            ours, converted, ready, shared, shared_floats = rates(job)
    return {
        "uint8_throughput_ratio": ratio(ours, converted),
        "uint8_against_ready_floats": ratio(ours, ready),
        "shared_memory_throughput_ratio": ratio(shared, ours),
        "shared_memory_float32_ratio": ratio(shared_floats, converted),
        "uint8_images_per_s": round(median(ours)),
        "float32_images_per_s": round(median(converted)),
    }
