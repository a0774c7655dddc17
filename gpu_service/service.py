"""The service's duty cycle: poll the links, listen, step the engine, publish.

One thread, one loop. It routes messages by (link, slot, generation), moves samples from the rings
to the engine and what comes back to the workers. What to do and in which order is decided in
stream.py and scheduler.py; how it is computed, in engine.py. An engine on a device computes a step
while what came of the one before it is published, and while the next turn polls and listens. The
parent's control channel brings links and the order to stop; when it closes, the parent is gone and
so is this process.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from protocol import service_messages as messages
from protocol.client_messages import Stages
from protocol.errors import ErrorCode
from protocol.service_messages import SamplesRecord, ServiceMessage
from protocol.shm import receive_message, send_message, try_send_message
from protocol.supervisor_messages import Alive, Drain, Link, Ready, Stop

from .checkpoint import CheckpointError, restore_checkpoint, take_checkpoint
from .config import ServiceConfig
from .engine import MAX_FRAMES_A_TURN, Engine, Running, Seat
from .errors import RecognizerError
from .gateway_link import GatewayLink, LinkLostError
from .recognizer import SessionOptions
from .reports import Reports
from .scheduler import Assignment
from .session import new_stream
from .speech_events import SAMPLES_PER_MS
from .stream import Stream
from .words import Hypothesis

HEALTH_INTERVAL_NS = 500_000_000
PROBE_AFTER_NS = 5_000_000_000  # idle this long: make a step to prove that it works
IDLE_WAIT_S = 0.25

log = logging.getLogger("earwire.service")


@dataclass(slots=True)
class _Step:
    """Jobs that were begun and not finished."""

    running: Running
    receive_ns: list[int]  # of each job, when its newest audio came in
    start_ns: int
    engine_ns: int  # how long the engine kept this thread, so far
    done_ns: int = 0


class Service:
    """Links, streams and the engine; `run` returns when the parent says so or is gone."""

    def __init__(self, config: ServiceConfig, engine: Engine, control: socket.socket) -> None:
        self._config = config
        self._engine = engine
        self._control = control
        self._links: dict[int, GatewayLink] = {}  # by file descriptor
        self._seats: dict[int, dict[int, Seat]] = {}  # by link's descriptor and slot
        self._by_stream: dict[Stream, Seat] = {}
        # With a thousand streams most have nothing to do in most turns. These may have: something
        # to listen to, something for the scheduler, progress to tell the gateway.
        self._awake: dict[Seat, None] = {}
        self._stirred: dict[Stream, None] = {}
        self._moved: dict[Seat, None] = {}
        self._step: _Step | None = None
        self._lost_arenas: list[memoryview] = []
        self._scheduler = engine.new_scheduler(config.hop_ms * SAMPLES_PER_MS)
        recognizer = engine.recognizer
        self._reports = Reports(config, self._scheduler, recognizer.model_id, recognizer.languages)
        self._poller = select.epoll()
        self._poller.register(control.fileno(), select.EPOLLIN)
        self._running = True
        self._busy = False
        self._last_step_ns = 0
        self._health_due_ns = 0

    def run(self) -> None:
        """Serve until told to stop. Probes come first: Ready means that recognition works, and the
        second one, which pays for nothing that only a first one does, says how fast.

        Workers linked already hear of it before the parent does: whoever connects because the
        parent said "ready" must find a healthy service.
        """
        self._probe()
        self._probe()
        while self._running and self._poll(0.0):
            pass
        self._tick(time.monotonic_ns())
        self._flush()
        send_message(self._control, Ready(self._engine.recognizer.model_id))
        while self._running:
            self._turn()

    def _turn(self) -> None:
        self._poll(0.0 if self._busy else IDLE_WAIT_S)
        self._listen()
        self._busy = self._recognize()
        self._publish_progress()
        self._tick(time.monotonic_ns())
        self._flush()

    # Poll

    def _poll(self, timeout_s: float) -> bool:
        """Take what has arrived; False when nothing has."""
        ready = self._poller.poll(timeout_s)
        for fd, events in ready:
            if fd == self._control.fileno():
                self._on_control()
            elif events & ~select.EPOLLOUT:
                self._on_link(fd)
        return bool(ready)

    def _on_control(self) -> None:
        received = receive_message(self._control)
        if received is None:
            self._running = False
            return
        message, fds = received
        if isinstance(message, Link):
            self._add_link(message, *fds)
        elif isinstance(message, Stop | Drain):
            self._running = False

    def _add_link(self, message: Link, socket_fd: int, arena_fd: int) -> None:
        link = GatewayLink(message.peer, message.epoch, socket.socket(fileno=socket_fd), arena_fd)
        os.close(arena_fd)  # the mapping stays
        self._links[link.fileno()] = link
        self._seats[link.fileno()] = {}
        self._engine.add_arena(link.arena)
        self._poller.register(link.fileno(), select.EPOLLIN)
        self._health_due_ns = 0
        log.debug("linked to worker %d, epoch %d", message.peer, message.epoch)

    def _on_link(self, fd: int) -> None:
        link, seats = self._links[fd], self._seats[fd]
        try:
            for message in link.receive():
                if isinstance(message, messages.Open):
                    self._open(fd, link, message)
                elif not isinstance(message, messages.Health):
                    seat = seats.get(message.slot)
                    if seat is not None and seat.stream.generation == message.generation:
                        self._on_message(seat, message)  # else the stream ended meanwhile
        except LinkLostError as error:
            self._drop_link(fd, error)

    def _on_message(self, seat: Seat, message: ServiceMessage | SamplesRecord) -> None:
        if isinstance(message, SamplesRecord):
            if not seat.stream.announce(*message[2:]):  # first sample, number of them, receive time
                return
        elif isinstance(message, messages.Finalize | messages.Close | messages.Configure):
            seat.stream.control(message)
        elif isinstance(message, messages.Leave):
            seat.stream.leave(message.at_once)
        self._awake[seat] = None

    def _drop_link(self, fd: int, error: LinkLostError) -> None:
        link = self._links.pop(fd)
        log.info("link to worker %d ended: %s", link.peer, error)
        for seat in list(self._seats[fd].values()):
            self._close(seat)
        del self._seats[fd]
        self._lost_arenas.append(link.arena)  # a step may read there now
        self._poller.unregister(fd)
        link.close()

    def _close(self, seat: Seat) -> None:
        """Forget a stream. A step may be at work on it: nobody takes what comes of that."""
        self._note_step_end(seat)
        self._engine.close(seat)
        self._scheduler.forget(seat.stream)
        del self._seats[seat.owner][seat.stream.slot], self._by_stream[seat.stream]
        for seats in (self._awake, self._moved):
            seats.pop(seat, None)
        self._stirred.pop(seat.stream, None)

    def _open(self, fd: int, link: GatewayLink, message: messages.Open) -> None:
        if stale := self._seats[fd].get(message.slot):
            self._close(stale)
        recognizer, ring = self._engine.recognizer, link.ring(message.slot)
        stream = new_stream(message, self._config, recognizer.cut_rule, recognizer.model_id)
        options = SessionOptions(
            message.language, message.prompt, message.hotwords, translate=message.translate
        )
        try:
            seat = self._engine.open(stream, ring, options, fd)
        except RecognizerError as error:
            if not (message.checkpoint or message.was_admitted):
                self._refuse(link, message, ErrorCode.BAD_MESSAGE, str(error))
                return
            # It began with a model that could do what it asks for, and goes on without that.
            seat = self._engine.open(stream, ring, SessionOptions(prompt=message.prompt), fd)
        if seat is None:
            self._refuse(link, message, ErrorCode.AT_CAPACITY, "every engine session is taken")
            return
        if message.checkpoint and not self._restore(link, message, seat):
            return
        link.step_ended(message.slot)  # a dead service may have left it in the middle of one
        self._seats[fd][message.slot] = self._by_stream[stream] = seat
        self._stirred[stream] = None

    def _restore(self, link: GatewayLink, message: messages.Open, seat: Seat) -> bool:
        try:
            self._engine.vad.restore_row(
                seat.vad_row, restore_checkpoint(seat.stream, message.checkpoint)
            )
        except (CheckpointError, ValueError) as error:
            self._engine.close(seat)
            self._refuse(link, message, ErrorCode.SERVICE_LOST, str(error))
            return False
        return True

    def _refuse(
        self, link: GatewayLink, message: messages.Open, code: ErrorCode, text: str
    ) -> None:
        link.send(messages.StreamError(message.slot, message.generation, code, text))
        link.send(messages.StreamClosed(message.slot, message.generation, 0))

    # Listen

    def _listen(self) -> None:
        seats = list(self._awake)
        self._awake.clear()
        for seat, probabilities in zip(seats, self._engine.hear(seats), strict=True):
            if seat.stream in self._by_stream:  # it was not lost with its link meanwhile
                self._hear(seat, probabilities)

    def _hear(self, seat: Seat, probabilities: list[float]) -> None:
        stream = seat.stream
        may_go_on = stream.has_controls or len(probabilities) == MAX_FRAMES_A_TURN
        if probabilities:
            self._send(seat, stream.hear(probabilities))
            self._scheduler.load.heard(len(probabilities), is_speech=stream.is_speaking)
        while stream.has_due_control:
            self._send(seat, stream.run_controls())
            self._send(seat, stream.settle())
        if may_go_on or probabilities or stream.leaving:
            self._stir(seat)
        if may_go_on and stream in self._by_stream and stream.frames_to_hear():
            self._awake[seat] = None

    def _stir(self, seat: Seat) -> None:
        """The stream heard, was told or was answered something."""
        if seat.stream not in self._by_stream:
            return  # its link was lost when that was sent
        self._stirred[seat.stream] = None
        self._moved[seat] = None
        if seat.stream.has_unsettled:
            self._settle(seat)

    def _settle(self, seat: Seat) -> None:
        stream = seat.stream
        self._send(seat, stream.settle())
        may_leave = stream.may_leave
        if (stream.take_committed() and stream.can_checkpoint) or may_leave:
            checkpoint = take_checkpoint(stream, self._engine.vad.row_state(seat.vad_row))
            stream.checkpoint_sample = checkpoint.sample
            self._send(seat, [checkpoint])
        if may_leave:
            self._send(seat, [messages.Left(stream.slot, stream.generation)])
        if (stream.closed or may_leave) and stream in self._by_stream:
            self._close(seat)

    # Recognize

    def _recognize(self) -> bool:
        """Wait for the step that runs, begin the next, take what came of the first; True when there
        may be more to do.
        """
        done = self._await_step()
        while self._lost_arenas:
            self._engine.drop_arena(self._lost_arenas.pop())
        has_begun = self._begin_step()
        self._take_all(done)
        if not self._engine.works_aside:
            self._take_all(self._await_step())
        return has_begun or bool(self._awake)

    def _begin_step(self) -> bool:
        """Begin what is most urgent; False when nothing is due."""
        speakers = Counter(stream.group for stream in self._by_stream if stream.is_speaking)
        assignments = self._scheduler.pick(self._stirred, speakers, time.monotonic_ns())
        self._stirred.clear()
        if not assignments:
            return False
        receive_ns = [assignment.stream.receive_ns for assignment in assignments]
        work = [(self._by_stream[a.stream], a) for a in assignments]
        for seat, _ in work:
            self._links[seat.owner].step_begins(seat.stream.slot)
        start_ns = time.monotonic_ns()
        running = self._engine.begin(work, self._keep_alive)
        self._step = _Step(running, receive_ns, start_ns, time.monotonic_ns() - start_ns)
        return True

    def _await_step(self) -> _Step | None:
        """The step that was begun, when it runs no more."""
        step, self._step = self._step, None
        if step is not None:
            wait_ns = time.monotonic_ns()
            self._engine.wait(step.running, self._keep_alive)
            step.done_ns = self._last_step_ns = time.monotonic_ns()
            step.engine_ns += step.done_ns - wait_ns
        return step

    def _take_all(self, step: _Step | None) -> None:
        """Tell the streams of a step what it found out."""
        if step is None:
            return
        finish_ns = time.monotonic_ns()
        hypotheses = self._engine.finish(step.running)
        step.engine_ns += time.monotonic_ns() - finish_ns
        work = step.running.work
        self._scheduler.step_took([a for _, a in work], step.engine_ns)
        for (seat, a), hypothesis, receive_ns in zip(
            work, hypotheses, step.receive_ns, strict=True
        ):
            if a.stream in self._by_stream:
                self._note_step_end(seat)
                stages = Stages(receive_ns, 0, step.start_ns, step.done_ns, 0)
                self._take(seat, a, hypothesis, stages)

    def _take(self, seat: Seat, a: Assignment, hypothesis: Hypothesis, stages: Stages) -> None:
        self._send(seat, a.stream.job_done(a.job, hypothesis, stages))
        self._stir(seat)
        if a.stream in self._by_stream:
            self._awake[seat] = None  # where a final was waited for, there is room to listen

    def _note_step_end(self, seat: Seat) -> None:
        if link := self._links.get(seat.owner):
            link.step_ended(seat.stream.slot)

    # Publish

    def _publish_progress(self) -> None:
        for seat in list(self._moved):
            credit = seat.stream.credit()
            if credit is not None:
                self._send(seat, [credit])
        self._moved.clear()

    def _send(self, seat: Seat, out: list[messages.StreamMessage]) -> None:
        if out:
            self._send_to(seat.owner, out)

    def _send_to(self, fd: int, out: Sequence[ServiceMessage]) -> None:
        """Queue messages for one worker; a worker that does not read them loses its link."""
        link = self._links.get(fd)
        if link is None:
            return
        try:
            for message in out:
                link.send(message)
        except LinkLostError as error:
            self._drop_link(fd, error)

    def _flush(self) -> None:
        for fd, link in list(self._links.items()):
            try:
                link.flush()
            except LinkLostError as error:
                self._drop_link(fd, error)
                continue
            events = select.EPOLLIN | (select.EPOLLOUT if link.wants_write else 0)
            self._poller.modify(fd, events)

    def _tick(self, now_ns: int) -> None:
        if now_ns < self._health_due_ns:
            return
        if not (self._by_stream or self._step) and now_ns - self._last_step_ns > PROBE_AFTER_NS:
            self._probe()
        self._health_due_ns = now_ns + HEALTH_INTERVAL_NS
        try_send_message(self._control, Alive(now_ns))
        for stream, pace in list(self._reports.review(self._by_stream, now_ns)):
            if seat := self._by_stream.get(stream):  # it was not lost with its link meanwhile
                self._send(seat, [pace])
        num_open, step_ns = len(self._by_stream), self._last_step_ns
        for fd, seats in list(self._seats.items()):
            self._send_to(fd, [self._reports.health(now_ns, step_ns, num_open, len(seats))])

    def _keep_alive(self) -> None:
        """Inside of a long step: the watchdog takes silence for a hang."""
        if (now_ns := time.monotonic_ns()) >= self._health_due_ns:
            try_send_message(self._control, Alive(now_ns))

    def _probe(self) -> None:
        begin_ns = time.monotonic_ns()
        self._engine.probe()
        self._last_step_ns = time.monotonic_ns()
        self._scheduler.load.probed(self._last_step_ns - begin_ns)
