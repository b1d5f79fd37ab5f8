"""`bandstop load`: ask a served model all the time, and tell how fast it answers."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli import client_options as options
from bandstop.cli.load_drive import Sender, Traffic
from bandstop.cli.load_images import images_of, random_images
from bandstop.cli.load_tally import Tally, summary
from bandstop.cli.output import show
from bandstop.client import AsyncClient, InvalidInput

app = typer.Typer(add_completion=False)
FAILED = 1  # exit code
OPEN_IN_FLIGHT = 1024  # the most that a client has


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for; `rate` None is a closed loop."""

    model: str
    version: str
    deadline: float
    concurrency: int
    rate: float | None
    seconds: float
    batch: int
    forget: tuple[str, ...]
    images: Path | None
    seed: int


@app.command(name="load")
def run(
    url: options.UrlArgument,
    model: options.Model,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1024, help="Closed loop: requests under way.")
    ] = 8,
    rate: Annotated[
        float | None,
        typer.Option(help="Open loop instead: requests a second, at random (Poisson) times."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to send.")] = 10.0,
    batch: Annotated[int, typer.Option(min=1, help="Images of a request.")] = 1,
    forget: Annotated[
        list[str] | None,
        typer.Option(
            help="What images may be asked to forget, one drawn for each image; again for more. "
            "All classes of a gated model if not given."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images to send; random ones if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    version: options.Version = "",
    deadline: Annotated[float, typer.Option(help="Seconds for a request, retries included.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
    token_file: options.TokenFile = None,
) -> None:
    """Ask a served model all the time, and tell how fast it answers.

    Example: bandstop load 127.0.0.1:8001 --model digits --rate 200 --seconds 30
    """
    for name, value in (("rate", rate), ("seconds", seconds)):
        if value is not None and not 0 < value < float("inf"):
            raise InvalidInput(f"--{name}: expected a number above 0, got {value:g}")
    given = options.Given(ca, cert, key, server_name, token_file)
    asked = tuple(forget or ())
    plan = Plan(model, version, deadline, concurrency, rate, seconds, batch, asked, images, seed)
    tally, labels = Tally(), list[str]()
    try:
        asyncio.run(drive(plan, options.connection(url, given), tally, labels))
    finally:  # Ctrl-C ends the load, and what was measured is told
        if labels:
            _show(about(plan, url), summary(tally, labels), as_json=as_json)
    if tally.failures:
        raise typer.Exit(FAILED)


async def drive(plan: Plan, to: options.Connection, tally: Tally, labels: list[str]) -> None:
    """Send what `plan` asks for; `tally` and the class names in `labels` are filled on the way.

    Raises:
        ClientError: the server does not answer, or not to such requests; nothing was measured.
    """
    in_flight = plan.concurrency if plan.rate is None else OPEN_IN_FLIGHT
    async with AsyncClient(
        to.url,
        plan.model,
        version=plan.version,
        deadline=plan.deadline,
        in_flight=in_flight,
        tls=to.tls,
        headers=to.headers,
    ) as client:
        traffic = await prepared(client, plan)
        labels.extend(await client.classes)
        sender = Sender(client, traffic, tally)
        if plan.rate is None:
            await sender.closed(plan.concurrency, plan.seconds)
        else:
            await sender.open(plan.rate, plan.seconds)


async def prepared(client: AsyncClient, plan: Plan) -> Traffic:
    """Return what is to be sent, after it was answered once; raises as `drive`."""
    served = await client.metadata()
    if plan.batch > served.max_batch_size:
        raise InvalidInput(
            f"--batch {plan.batch}: the server takes {served.max_batch_size} images in a request"
        )
    spec = served.spec(plan.version)
    forget: tuple[int | str, ...] = plan.forget
    if served.slots and not forget:
        forget = tuple(range(len(spec.labels)))
    if plan.images is None:
        images = random_images(spec.preprocess, plan.seed)
    else:
        images = images_of(plan.images, spec.preprocess)
    tried = list(plan.forget or forget[:1])
    await client.classify([images[0]] * max(1, len(tried)), tried or None, 1)
    return Traffic(images, forget, plan.batch, plan.seed)


def about(plan: Plan, url: str) -> dict[str, object]:
    """Return what the figures are about."""
    many: dict[str, object] = {"rate": plan.rate}
    if plan.rate is None:
        many = {"concurrency": plan.concurrency}
    loop = "closed" if plan.rate is None else "open"
    return {"url": url, "model": plan.model, "loop": loop, **many, "batch": plan.batch}


def _show(about: Mapping[str, object], figures: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        show({**about, **figures}, as_json=True)
        return
    failures = figures["failures"]
    assert isinstance(failures, dict)
    told = [f"{kind} {one['count']} ({one['example']})" for kind, one in failures.items()]
    plain = {**about, **figures, "failures": told or "none"}
    for key in ("latency_ms", "lag_ms", "forgotten", "versions"):
        found = plain[key]
        if isinstance(found, dict):
            plain[key] = [
                f"{name} {'-' if value is None else value}" for name, value in found.items()
            ]
    show({key: "-" if value is None else value for key, value in plain.items()}, as_json=False)
