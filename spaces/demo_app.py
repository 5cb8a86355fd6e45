"""The demo as a server: models loaded once, the page and its endpoints guarded, files deleted."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from spooftrace.spaces.demo_guard import Guard, private_folder, sweep
from spooftrace.spaces.demo_models import DemoModels, DemoSettings
from spooftrace.spaces.demo_page import FILES, build_page
from spooftrace.spaces.demo_session import Visits


MAX_STORED = 2 * 2**30  # bytes of uploads that wait to be deleted; more would fill the disk of a small machine

# Colours that Gradio leaves too pale to read: contrast of at least 4.5 on their background, in light and in dark.
THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    color_accent="*primary_700",
    color_accent_soft_dark="*primary_900",
    slider_color="*primary_700",
    slider_color_dark="*primary_400",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_text_color="white",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
)


class DemoApp:
    """
    A demo that is ready to be launched.

    Args:
        settings: what it offers and accepts.

    Raises:
        CheckpointError, OSError: where a model cannot be loaded.
    """

    def __init__(self, settings: DemoSettings | None = None):
        self.settings = settings or DemoSettings()
        self.folder = private_folder()
        self.models = DemoModels.load(self.settings)
        self.visits = Visits(self.models, self.settings, self.folder)
        self.example = _lasting_copy(FILES / "example.flac", self.folder / "synthetic_speech.flac")
        self.blocks = build_page(self.visits, self.example)

    def launch(self, **options) -> None:
        """Serves the demo until it is stopped; `options` as of `gradio.Blocks.launch`."""
        if threading.current_thread() is threading.main_thread():
            # As Ctrl-C: files are deleted at exit, to which the signal that stops a Space would not come.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Thread(target=self._sweep, daemon=True).start()
        self.blocks.queue(
            max_size=self.settings.waiting,
            default_concurrency_limit=self.settings.running,
            api_open=False,  # else a direct request would pass the queue and its limits by
        )
        self.blocks.launch(
            share=False,
            quiet=True,
            show_error=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            run_history=False,
            footer_links=["api"],
            max_file_size=self.settings.max_bytes,
            state_session_capacity=256,
            theme=THEME,
            css=(FILES / "demo.css").read_text(encoding="utf-8"),
            app_kwargs={"middleware": [Middleware(Guard, self.settings.max_bytes, self.folder, MAX_STORED)]},
            prevent_thread_lock=True,
            **options,
        )
        print(f"The demo listens on {self.blocks.local_url} until Ctrl-C ends it.", flush=True)
        self.blocks.block_thread()

    def _sweep(self) -> None:
        while True:
            time.sleep(min(60, self.settings.keep_seconds))
            sweep(self.folder, self.settings.keep_seconds, keep={self.example})


def _lasting_copy(source: Path, target: Path) -> Path:
    """
    A copy that is never old enough to be deleted.

    Gradio hands out a copy of its own, once, with the time of this one: aged from the start, it would soon be gone.
    """
    shutil.copyfile(str(source), target)
    later = time.time() + 10 * 365 * 86_400
    os.utime(target, (later, later))
    return target
