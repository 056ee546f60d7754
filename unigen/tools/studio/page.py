"""The page: its tabs, its look, and the server that shows it on this machine alone."""

import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unigen.config.values import ConfigError
from unigen.tools.studio.door import Door
from unigen.tools.studio.drawing import Sampled
from unigen.tools.studio.models import Models
from unigen.tools.studio.places import USUAL, Places

HOST, PORT, TRIES = "127.0.0.1", 7860, 20
UPLOAD = "32mb"  # the largest image that can be dropped
LOOK = """
.studio-cell img { image-rendering: pixelated; object-fit: contain; width: 100%; height: 100%; }
.studio-example img { image-rendering: pixelated; }
.studio-said, .studio-good, .studio-bad { margin: 4px 0; overflow-wrap: anywhere; }
.studio-good { color: #17794f; } .studio-bad { color: #b3311c; font-weight: 600; }
.studio-progress { display: flex; gap: 12px; align-items: center; margin: 6px 0; }
.studio-bar { flex: 1; height: 10px; border-radius: 5px; background: #8884; overflow: hidden; }
.studio-done { height: 100%; background: #2f9d6f; }
.studio-log { font-size: 12px; max-height: 330px; overflow: auto; display: flex; flex-direction: column-reverse; }
.studio-log pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-family: ui-monospace, monospace; }
.studio-table, .studio-table tr { border-collapse: collapse; font-size: 13px; width: 100%; border: none !important; }
.studio-table :is(th, td) { text-align: left; padding: 3px 10px 3px 0 !important; border: none !important;
  border-bottom: 1px solid #8883 !important; }
.studio-frame { width: 100%; border: 1px solid #8884; border-radius: 8px; background: #fff; }
.studio-words button { min-width: 74px !important; }
.studio-plot { --ink: currentColor; --soft: #7d848e; }
.studio-plot svg { width: 100%; height: auto; max-height: 330px; }
.studio-grid img { image-rendering: pixelated; }
"""


def stay_private() -> Path:
    """Switch off everything that Gradio and others would send, before they are imported; return the uploads' folder."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_SSR_MODE": "false",
        "GRADIO_MCP_SERVER": "false",
        "GRADIO_SHARE": "false",
        "OTEL_SDK_DISABLED": "true",
    }
    uploads = tempfile.mkdtemp(prefix="unigen-studio-")  # of this user and this studio alone
    os.environ["GRADIO_TEMP_DIR"] = uploads
    return Path(uploads)


def serve(places: Places, sampled: Sampled, port: int | None = None) -> None:
    """Show the page until Ctrl-C. Raises ConfigError without Gradio, and for a port that is taken."""
    if not all(map(find_spec, ("gradio", "uvicorn"))):
        raise ConfigError("the studio needs Gradio: pip install 'unigen[studio]', or in a checkout -e '.[studio]'")
    print("studio: starting ...", flush=True)
    uploads = stay_private()
    try:
        _serve(places, sampled, port)
    finally:
        shutil.rmtree(uploads, ignore_errors=True)


def _serve(places: Places, sampled: Sampled, port: int | None) -> None:
    import uvicorn

    models = Models()
    listening, taken = bound(port)
    key = secrets.token_urlsafe(16)
    app = Door(application(places, models, sampled), key, taken)
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, proxy_headers=False)
    print(f"studio: http://{HOST}:{taken}/?key={key}", flush=True)
    print("Ctrl-C ends it; runs that it has started go on.", flush=True)
    threading.Thread(target=_warm, args=(models,), daemon=True).start()
    uvicorn.Server(config).run(sockets=[listening])


def _warm(models: Models) -> None:
    """Read the shipped model while the user looks at the page."""
    try:
        models.about(USUAL)
    except Exception as error:  # the page says the same when the model is chosen
        print(f"studio: {USUAL} cannot be read: {error}", file=sys.stderr)


def bound(port: int | None) -> tuple[socket.socket, int]:
    """Return a socket on this machine's own address and its port: the one asked for, or the first free one."""
    for number in [port] if port is not None else range(PORT, PORT + TRIES):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, number))
        except OSError:
            listening.close()
            continue
        return listening, listening.getsockname()[1]
    tried = f"port={port}" if port is not None else f"every port from {PORT} to {PORT + TRIES - 1}"
    raise ConfigError(f"{tried} is taken or not allowed; name another one: port=<number>")


def application(places: Places, models: Models, sampled: Sampled) -> Any:
    """Return the ASGI application of the page."""
    import fastapi
    import gradio as gr

    places.out.mkdir(parents=True, exist_ok=True)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = blocks(places, models, sampled)
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=HOST,
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Base(
            primary_hue="emerald", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=LOOK,
        allowed_paths=[],
    )
    # Only a page that has launched looks where the files of a call lie, and a mounted one would never say so.
    page.has_launched = True
    return mounted


def blocks(places: Places, models: Models, sampled: Sampled) -> Any:
    """Return the page with its tabs."""
    import gradio as gr

    from unigen.tools.studio import plan_tab, runs_tab, try_tab

    with gr.Blocks(title="unigen studio", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as page:
        with gr.Tab("Try", id="try") as trying:
            try_tab.build(places, models, sampled)
        with gr.Tab("Preview and plan", id="plan") as planning:
            plan_tab.build(places)
        with gr.Tab("Runs", id="runs") as following:
            timer = runs_tab.build(places)
        for tab in (trying, planning, following):
            tab.select(
                lambda shown=tab is following: gr.Timer(active=shown),
                None,
                timer,
                show_progress="hidden",
                api_visibility="private",
            )
    return page
