"""
Serve a recommender over HTTP, with dynamic batching.

    python examples/serve/app.py --model_name_or_path outputs/demo/checkpoint
    curl localhost:8000 -H 'Content-Type: application/json' -d '{"inputs": ["50", "181"], "parameters": {"top_k": 3}}'

Requests and answers are those of `handler.py` on an Inference Endpoint. `README.md` beside this file names all routes.
"""

import asyncio
import hmac
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException as AnyHTTPException
from transformers import HfArgumentParser

from tsrec_hf import SIDIndex, TSRecForCausalLM, TSRecTokenizer, load_recommender
from tsrec_hf.serving import RequestBatcher, ServerBusy


logger = logging.getLogger(__name__)

# Who may change the catalogue says this as `Authorization: Bearer ...`.
NEEDED_VARIABLE = "TSREC_ITEMS_TOKEN"
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"example": {"inputs": ["117", "118"], "parameters": {"top_k": 10}}}},
    }
}


@dataclass
class ScriptArguments:
    """Checkpoint, address and bounds."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub id."})
    dtype: str = field(default="auto", metadata={"help": "Type of the weights: auto, float32, bfloat16, ..."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 for all."})
    port: int = field(default=8000, metadata={"help": "Port to listen on; 0 for any that is free."})
    max_batch_size: int = field(default=32, metadata={"help": "Most users searched together."})
    max_delay_ms: float = field(default=5.0, metadata={"help": "Milliseconds that a request waits for others."})
    max_waiting: int = field(default=1000, metadata={"help": "Most users that may wait; others get a 503."})
    max_request_bytes: int = field(default=1_000_000, metadata={"help": "Largest request; others get a 413."})
    stop_seconds: int = field(default=30, metadata={"help": "Time that requests have to be answered after a stop."})


class Metrics:
    """What the server counts, in a registry of its own."""

    def __init__(self, batcher: Callable[[], RequestBatcher]):
        self.registry = CollectorRegistry()
        shared: dict[str, Any] = {"namespace": "tsrec", "registry": self.registry}
        self.requests = Counter("requests", "Requests answered.", ["route", "status"], **shared)
        self.seconds = Histogram("request_seconds", "From a request to its answer.", ["route"], **shared)
        self.batch_users = Histogram("batch_users", "Users of a search.", buckets=BATCH_SIZES, **shared)
        self.batch_seconds = Histogram("batch_seconds", "Seconds of a search.", **shared)
        waiting = Gauge("waiting_users", "Users that wait for a search.", **shared)
        waiting.set_function(lambda: batcher().num_waiting)
        items = Gauge("items", "Items of the catalogue.", **shared)
        items.set_function(lambda: len(batcher().tokenizer.sid_index))

    def on_batch(self, num_users: int, seconds: float) -> None:
        """Counts a search."""
        self.batch_users.observe(num_users)
        self.batch_seconds.observe(seconds)


def create_app(
    model: TSRecForCausalLM,
    tokenizer: TSRecTokenizer,
    max_batch_size: int = 32,
    max_delay_ms: float = 5.0,
    max_waiting: int = 1000,
    max_request_bytes: int = 1_000_000,
) -> FastAPI:
    """The application around a recommender that is loaded."""
    metrics = Metrics(lambda: batcher)
    batcher = RequestBatcher(model, tokenizer, max_batch_size, max_delay_ms / 1000, max_waiting, metrics.on_batch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    app = FastAPI(title="tsrec_hf", lifespan=lifespan)

    @app.middleware("http")
    async def count(request: Request, call_next) -> Response:
        started, status = perf_counter(), 500
        try:
            response = await call_next(request)
            status = response.status_code
        finally:
            # By route and not by path: strangers invent paths, and each would be a series of its own.
            route = getattr(request.scope.get("route"), "path", "unknown")
            metrics.requests.labels(route, status).inc()
            metrics.seconds.labels(route).observe(perf_counter() - started)
        return response

    # As the servers of Inference Endpoints tell of errors.
    @app.exception_handler(AnyHTTPException)
    async def tell(_: Request, error: AnyHTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def answered(work) -> Any:
        try:
            return await work()
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except ServerBusy as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        except HTTPException:
            raise
        except Exception as error:
            logger.exception("A request failed.")
            raise HTTPException(500, "The server failed to answer; its log says why.") from error

    async def read(request: Request) -> Any:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > max_request_bytes:
                raise HTTPException(
                    413, f"Expected a request of at most {max_request_bytes} bytes. Send several smaller ones."
                )
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"Expected a request in JSON, but found something else: {error}.") from error

    def check_token(request: Request) -> None:
        token = os.environ.get(NEEDED_VARIABLE, "")
        if not token:
            raise HTTPException(403, f"The catalogue cannot be changed: start the server with {NEEDED_VARIABLE} set.")
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, f"Expected `Authorization: Bearer` with the server's {NEEDED_VARIABLE}.")

    async def change_items(change: Callable[[SIDIndex], SIDIndex]) -> dict[str, int]:
        def told() -> SIDIndex:
            try:
                return batcher.change_items(change)
            except (KeyError, TypeError) as error:
                raise ValueError(str(error.args[0]) if error.args else repr(error)) from error

        return {"items": len(await answered(lambda: asyncio.to_thread(told)))}

    @app.post("/", openapi_extra=REQUEST_BODY)
    async def recommend(request: Request) -> JSONResponse:
        """Items for one history (`inputs` as a list of ids) or for several (a list of such lists)."""
        data = await read(request)

        async def work() -> Any:
            return await asyncio.wrap_future(batcher.submit(data))

        return JSONResponse(await answered(work))

    @app.post("/items")
    async def add_items(request: Request) -> dict[str, int]:
        """Adds items: `item_ids`, a SID for each in `sids`, and `titles` where the catalogue has them."""
        check_token(request)
        given = fields_of(await read(request), required=("item_ids", "sids"), optional=("titles",))
        return await change_items(lambda index: index.with_items(**given))

    @app.delete("/items")
    async def remove_items(request: Request) -> dict[str, int]:
        """Removes the items of `item_ids`."""
        check_token(request)
        given = fields_of(await read(request), required=("item_ids",))
        return await change_items(lambda index: index.without_items(given["item_ids"]))

    @app.get("/health")
    async def health() -> JSONResponse:
        """200 while requests are taken, 503 otherwise."""
        return JSONResponse({"ready": batcher.is_open}, 200 if batcher.is_open else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """What Prometheus collects."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def fields_of(data: Any, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a request about items, each a list of strings."""
    fields = data if isinstance(data, dict) else {}
    lists_of_strings = all(
        isinstance(value, list) and all(isinstance(one, str) for one in value) for value in fields.values()
    )
    if not set(required) <= set(fields) <= {*required, *optional} or not lists_of_strings:
        raise HTTPException(
            400,
            f"Expected an object with lists of strings: {', '.join(required)}"
            + "".join(f", and perhaps {name}" for name in optional)
            + f". Found {sorted(fields) if fields else type(data).__name__}.",
        )
    return fields


def main(args: ScriptArguments) -> None:
    model, tokenizer = load_recommender(args.model_name_or_path, revision=args.revision, dtype=args.dtype)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    app = create_app(
        model, tokenizer, args.max_batch_size, args.max_delay_ms, args.max_waiting, args.max_request_bytes
    )
    # One process: it holds the model. A second server on another port takes a second share of the requests.
    uvicorn.run(app, host=args.host, port=args.port, timeout_graceful_shutdown=args.stop_seconds, access_log=False)


if __name__ == "__main__":
    main(*HfArgumentParser(ScriptArguments).parse_args_into_dataclasses())
