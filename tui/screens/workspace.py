"""The first screen: lists, the log and the meters of the chosen container, the host's line, the footer."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult, SuspendNotSupported
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.timer import Timer

from core.engine import Engine, LogFile, Session
from core.errors import Unsupported, WharfError
from core.model import Container, HostInfo
from tui import text
from tui.actions import BY_ID, PANELS, Action, footer
from tui.handover import Bridge, announce, as_typed
from tui.jobs import Job, Jobs
from tui.keymap import Keymap, bindings_for
from tui.messages import ContainerChosen, JobsChanged, OpenRequested, PaneStatus, SnapshotReady
from tui.panes.base import ListPane, Pane
from tui.panes.containers import ContainersPane
from tui.panes.host import HostLine, TabsLine
from tui.panes.images import ImagesPane
from tui.panes.log import LogPane
from tui.panes.networks import NetworksPane
from tui.panes.resources import ResourcesPane
from tui.settings import remember_theme
from tui.snapshot import Snapshot
from tui.ticker import Ticker
from tui.widgets.meter import bar
from tui.widgets.statusbar import StatusBar

if TYPE_CHECKING:
    from tui.app import WharfApp

LATER = 1.0  # seconds until it is asked what this host can do: nothing that is seen at once depends on it
SETTLE = 0.08  # seconds that the cursor rests before the log of its container is opened


class Workspace(Screen[None]):
    """Owns the panes, the ticker and the jobs; handlers get it as their *desk*."""

    BINDINGS: ClassVar = [*bindings_for(None)]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]

    app: WharfApp
    jobs: Jobs
    ticker: Ticker

    def __init__(self, engine: Engine, keymap: Keymap, hostname: str) -> None:
        super().__init__()
        self.engine = engine
        self.keymap = keymap
        self.snapshot = Snapshot()
        self._opening = True  # until the first lists are there, or cannot be read
        self.active = "containers"
        self.last_list = "containers"
        self._hostname = hostname
        self._log_of: str | None = None
        self._log_timer: Timer | None = None
        self.containers = ContainersPane()
        self.images = ImagesPane()
        self.networks = NetworksPane()
        self.log_pane = LogPane()
        self.resources = ResourcesPane()
        self._host_info: HostInfo | None = None
        self.panes: dict[str, Pane] = {
            pane.PANEL: pane for pane in (self.containers, self.images, self.networks, self.log_pane, self.resources)
        }
        self._host = HostLine(id="host")
        self._tabs = TabsLine(id="tabs")
        self._footer = StatusBar(id="footer")

    def compose(self) -> ComposeResult:
        yield self._host
        yield self._tabs
        with Horizontal(id="main"):
            with Vertical(id="left", classes="column"):
                yield self.containers
                with Horizontal(id="lower", classes="column"):
                    yield self.images
                    yield self.networks
            with Vertical(id="right", classes="column"):
                yield self.log_pane
                yield self.resources
        yield self._footer

    def on_mount(self) -> None:
        self.jobs = Jobs(self.app)
        self.ticker = Ticker(self.engine, self._publish, self._complain, self._wanted, self._shows_traffic)
        for pane in (self.containers, self.log_pane):
            pane.tell_keys(self.keymap)
        self.set_class(not text.glyphs().unicode, "-ascii")
        self.ticker.start()
        self.set_timer(LATER, lambda: self.run_worker(self._look_at_host()))
        self.focus_panel("containers")
        for problem in self.app.problems:
            text.notify(self, problem, severity="warning", timeout=12)

    async def on_unmount(self) -> None:
        await self.ticker.stop()
        await self.jobs.end()

    # -- snapshots --------------------------------------------------------------------------------------------------

    def _publish(self, snapshot: Snapshot) -> None:
        for screen in self.app.screen_stack:  # this one, and the dialogs over it that are live
            screen.post_message(SnapshotReady(snapshot))

    def _complain(self, error: WharfError) -> None:
        self._opening = False
        text.notify_error(self, error)

    def _wanted(self) -> Sequence[str]:
        """Counters are read only for what is shown: the rows in view and the chosen one."""
        live = {container.id for container in self.snapshot.containers if container.state.live}
        wanted = self.containers.ids_in_view() | ({self.chosen} if self.chosen else set())
        return sorted(live & wanted)

    def _shows_traffic(self) -> bool:
        return self.networks.shows_traffic or bool(getattr(self.app.screen, "shows_traffic", False))

    @on(SnapshotReady)
    def _snapshot_ready(self, message: SnapshotReady) -> None:
        self.snapshot = replace(message.snapshot, hostname=self._hostname)
        self._opening = self._opening and not self.snapshot.listed
        if not getattr(self.app.screen, "covers", False):  # what nobody sees is not painted: see below
            self._show_snapshot()
        if self.snapshot.listed and not gc.isenabled():
            # Off since the start (`__main__`). What there is now stays: collections need not look at it again.
            gc.freeze()
            gc.enable()

    @on(events.ScreenResume)
    def _show_snapshot(self) -> None:
        self._host.receive(self.snapshot)
        for pane in self.panes.values():
            pane.receive(self.snapshot)
        self._show_keys()

    async def _look_at_host(self) -> None:
        with suppress(WharfError):  # who opens an action that is not shown is told why it fails
            self._host_info = await self.engine.info()
            self.networks.lacks(self._host_info.no_networks)
            from tui.handlers.storage import clean_up

            await clean_up(self)

    def offers(self, action: Action) -> bool:
        """False where the host lacks what the action needs, or is not known yet."""
        return not action.needs or bool(getattr(self._host_info, action.needs, False))

    @property
    def at_work(self) -> bool:
        """True while keys have to wait: what was typed before the first lists are there is meant for them."""
        return self._opening

    # -- panels -----------------------------------------------------------------------------------------------------

    def is_list(self, panel: str) -> bool:
        return isinstance(self.panes[panel], ListPane)

    def list_pane(self, panel: str) -> ListPane:
        """The pane of that name.

        :raises TypeError: it is no list
        """
        pane = self.panes[panel]
        if not isinstance(pane, ListPane):
            raise TypeError(f"{panel} is not a list")
        return pane

    def focus_panel(self, panel: str) -> None:
        """Bring a panel to the front (narrow) and give it the focus."""
        self._activate(panel)
        # After the refresh: only then is a panel displayed that was hidden, and what is hidden takes no focus.
        self.call_after_refresh(self.panes[panel].target.focus)

    def step_panel(self, step: int) -> None:
        """The panel ``step`` places on, round and round."""
        self.focus_panel(PANELS[(PANELS.index(self.active) + step) % len(PANELS)])

    def set_zoom(self, on: bool) -> None:
        self.set_class(on, "-zoomed")

    def _activate(self, panel: str) -> None:
        self.active = panel
        if self.is_list(panel):
            self.last_list = panel
        front = self.panes[panel]
        for node in self.query("Pane, .column"):
            node.set_class(node is front or node in front.ancestors, "-active")
        self._show_keys()
        self._show_tabs()

    @on(events.DescendantFocus)
    def _focus_moved(self, event: events.DescendantFocus) -> None:
        for node in event.widget.ancestors_with_self:
            if isinstance(node, Pane):
                if self.active != node.PANEL:
                    self._activate(node.PANEL)
                return

    @on(TabsLine.Clicked)
    def _tab_clicked(self, message: TabsLine.Clicked) -> None:
        self.focus_panel(message.panel)

    @on(PaneStatus)
    def _show_tabs(self) -> None:
        tabs = [(pane.PANEL, f"{pane.NUMBER} {pane.LABEL}") for pane in self.panes.values()]
        self._tabs.show(tabs, self.active, self.panes[self.active].status())

    def on_resize(self) -> None:
        self._host.receive(self.snapshot)
        self._show_tabs()
        self._show_keys()

    @on(OpenRequested)
    def _open(self, message: OpenRequested) -> None:
        if message.pane == "containers":
            self.focus_panel("log")
        elif message.pane == "images":
            self.perform("image.layers")
        elif message.pane == "networks":
            self.perform("network.map")
        else:
            self.perform("list.inspect")

    # -- the chosen container -----------------------------------------------------------------------------------------

    @property
    def chosen(self) -> str | None:
        """The container in view. The table's own word, and not what its messages have told so far: an action never
        means a row that the cursor has left."""
        return self.containers.key

    @on(ContainerChosen)
    def _container_chosen(self) -> None:
        self.resources.choose(self.chosen)
        self._show_keys()
        if self._log_timer is not None:
            self._log_timer.stop()
        self._log_timer = self.set_timer(SETTLE, self._open_log)

    def _open_log(self) -> None:
        chosen = self.chosen
        if chosen == self._log_of:
            return
        self._log_of = chosen
        if chosen is None:
            self.log_pane.show_log(None, None)
            return

        def opened(log: LogFile) -> None:
            if self._log_of == chosen and self.is_attached:
                self.log_pane.show_log(chosen, log)
            else:
                log.close()  # the cursor has moved on meanwhile

        self.jobs.run("log", lambda job: self.engine.open_log(chosen), then=opened, quiet=True)

    def container(self) -> Container | None:
        """The container in view."""
        return self.snapshot.container(self.chosen)

    def targets(self) -> list[Container]:
        """The marked containers, else the one in view."""
        marks = self.containers.table.marks if self.active == "containers" else frozenset()
        if marks:
            return [container for container in self.snapshot.containers if container.id in marks]
        container = self.container()
        return [container] if container else []

    def choose(self, cid: str) -> None:
        """Put the cursor on that container (a new one appears with the next snapshot)."""
        self.focus_panel("containers")
        if not self.containers.table.move_to(cid):
            self.containers.wait_for(cid)
            self.ticker.refresh()

    # -- actions ----------------------------------------------------------------------------------------------------

    def perform(self, action_id: str) -> None:
        """Do an action of the registry."""
        BY_ID[action_id].handler(self)

    def action_perform(self, action_id: str) -> None:
        self.perform(action_id)

    @on(StatusBar.Pressed)
    def _key_pressed(self, message: StatusBar.Pressed) -> None:
        shown = self._offered()
        if message.index < 0:  # what stands at the right are the jobs
            self.perform("app.jobs")
        elif message.index < len(shown):
            self.perform(shown[message.index].id)

    def _show_keys(self) -> None:
        self._footer.set_keys([(self.keymap.label(each.id), each.footer_word) for each in self._offered()])

    def _offered(self) -> list[Action]:
        """The footer's actions: as many as fit, and help as the last of them."""
        actions = footer(self.active, self.container())
        room = self.size.width - 12  # for "? help" and the margins
        shown = []
        for action in actions:
            room -= text.width(f"{self.keymap.label(action.id)} {action.footer_word}  ")
            if room >= 0 and action.id != "app.help":
                shown.append(action)
        return [*shown, BY_ID["app.help"]]

    @on(JobsChanged)
    def _show_jobs(self) -> None:
        running = [job for job in self.jobs.running if not job.quiet]
        if not running:
            self._footer.set_right("")
            return
        job = running[0]
        how_far = f"{bar(job.done / job.total, 6)} " if job.total else ""
        more = f" +{len(running) - 1}" if len(running) > 1 else ""
        key = self.keymap.label("app.jobs")
        self._footer.set_right(text.safe(f"{key} jobs  {how_far}{text.fit(job.title, 30).rstrip()}{more} "))

    def ask(self, question: str, lost: list[str], verb: str, yes: Callable[[], object]) -> None:
        """Ask before something is lost; ``yes`` is called where the user agrees."""
        from tui.screens.confirm import ConfirmScreen

        def answered(agreed: bool | None) -> None:
            if agreed:
                yes()

        self.app.push_screen(ConfirmScreen(question, lost, verb), answered)

    def show_inspect(self, key: str) -> None:
        """What ``inspect`` answers of an object. The box opens at once: the keys that follow are meant for it."""
        from tui.screens.inspect import InspectScreen

        self.app.push_screen(
            InspectScreen(
                lambda show: self.jobs.run(
                    "inspect", lambda job: self.engine.inspect(key), then=show, failed=show, quiet=True
                )
            )
        )

    @property
    def theme_names(self) -> list[str]:
        return self.app.theme_names

    def set_theme(self, name: str) -> None:
        """Another theme, remembered."""
        if name in self.theme_names:
            self.app.theme = name
        try:
            remember_theme(name)
        except OSError as error:
            text.notify(self, f"the theme is not remembered: {error}", severity="warning")

    # -- the terminal's hand-over -----------------------------------------------------------------------------------

    def hand_over(self, title: str, open_session: Callable[[], Awaitable[Session]]) -> None:
        """Open a session and give it the whole terminal until it ends."""

        async def work(job: Job) -> None:
            try:
                session = await open_session()
                way_back = "exit or ctrl+d leaves" if session.tty and "shell" in title else "ctrl+p ctrl+q leaves"
                await self._bridge(session, title, way_back if session.tty else "ctrl+c leaves; it runs on")
            finally:
                self.app.typist.release()  # what was typed ahead was meant for what did not open

        self.app.typist.hold()
        self.jobs.run(title, work, quiet=True)

    async def _bridge(self, session: Session, title: str, way_back: str) -> None:
        self.ticker.pause()
        error: WharfError | None = None
        # What the terminal still answers to the painting must not be typed into the container.
        await self.app.quiesce()
        try:
            # Batched: what the workstation would paint meanwhile must not reach the terminal that it has given away.
            with self.app.batch_update(), self.app.suspend():
                announce(title, way_back)
                error = await Bridge(session, typed=as_typed(self.app.typist.release())).run()
        except SuspendNotSupported:
            await session.close()
            raise Unsupported(
                "this terminal cannot be handed over", "the workstation does not run in a terminal of its own"
            ) from None
        finally:
            self.ticker.resume()
            self.app.refresh(layout=True)
        if error is not None:
            raise error
