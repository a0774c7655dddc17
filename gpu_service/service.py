"""The service's duty cycle: poll the links, listen, step the engine, publish.

One thread, one loop. It routes messages by (link, slot, generation), moves samples from the rings
to the engine and what comes back to the workers. What to do and in which order is decided in
stream.py and scheduler.py; how it is computed, in engine.py. The parent's control channel brings
links and the order to stop; when it closes, the parent is gone and so is this process.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Sequence

from protocol import service_messages as messages
from protocol.client_messages import Stages
from protocol.errors import ErrorCode
from protocol.service_messages import SamplesRecord, ServiceMessage
from protocol.shm import receive_message, send_message
from protocol.supervisor_messages import Drain, Link, Ready, Stop

from .checkpoint import CheckpointError, restore_checkpoint, take_checkpoint
from .config import ServiceConfig
from .endpointer import VadOptions
from .engine import Engine, Seat
from .errors import RecognizerError
from .gateway_link import GatewayLink, LinkLostError
from .recognizer import SessionOptions
from .scheduler import Scheduler
from .session_vad import vad_options
from .speech_events import SAMPLES_PER_MS
from .stream import Stream
from .transcript import Transcript

HEALTH_INTERVAL_NS = 500_000_000
PROBE_AFTER_NS = 5_000_000_000  # idle this long: make a step to prove that it works
IDLE_WAIT_S = 0.25

log = logging.getLogger("earwire.service")


class Service:
    """Links, streams and the engine; `run` returns when the parent says so or is gone."""

    def __init__(self, config: ServiceConfig, engine: Engine, control: socket.socket) -> None:
        self._config = config
        self._engine = engine
        self._control = control
        self._links: dict[int, GatewayLink] = {}  # by file descriptor
        self._seats: dict[tuple[int, int], Seat] = {}  # by (link fd, slot)
        self._scheduler = Scheduler(
            engine.recognizer.max_parallel, engine.recognizer.max_draft_batch
        )
        self._default_vad = VadOptions(enabled=config.vad, max_utterance_ms=config.max_utterance_ms)
        self._poller = select.epoll()
        self._poller.register(control.fileno(), select.EPOLLIN)
        self._running = True
        self._busy = False
        self._last_step_ns = 0
        self._health_due_ns = 0

    def run(self) -> None:
        """Serve until told to stop. The probe comes first: Ready means that recognition works.

        Workers linked already hear of it before the parent does: whoever connects because the
        parent said "ready" must find a healthy service.
        """
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
        self._poller.register(link.fileno(), select.EPOLLIN)
        self._health_due_ns = 0
        log.debug("linked to worker %d, epoch %d", message.peer, message.epoch)

    def _on_link(self, fd: int) -> None:
        link = self._links[fd]
        try:
            for message in link.receive():
                self._on_message(fd, link, message)
        except LinkLostError as error:
            self._drop_link(fd, error)

    def _drop_link(self, fd: int, error: LinkLostError) -> None:
        link = self._links.pop(fd)
        log.info("link to worker %d ended: %s", link.peer, error)
        for key in [key for key in self._seats if key[0] == fd]:
            self._engine.close(self._seats.pop(key))
        self._poller.unregister(fd)
        link.close()

    def _on_message(
        self, fd: int, link: GatewayLink, message: ServiceMessage | SamplesRecord
    ) -> None:
        if isinstance(message, messages.Open):
            self._open(fd, link, message)
            return
        assert not isinstance(message, messages.Health)
        seat = self._seats.get((fd, message.slot))
        if seat is None or seat.stream.generation != message.generation:
            return  # the stream ended while this was on its way
        if isinstance(message, SamplesRecord):
            seat.stream.announce(message.first_sample, message.num_samples, message.receive_ns)
        elif isinstance(message, messages.Finalize | messages.Close | messages.Configure):
            seat.stream.control(message)

    def _open(self, fd: int, link: GatewayLink, message: messages.Open) -> None:
        key = (fd, message.slot)
        stale = self._seats.pop(key, None)
        if stale is not None:
            self._engine.close(stale)
        stream = Stream(
            message.slot,
            message.generation,
            vad_options(message.vad, self._default_vad),
            message.partials,
            (message.hop_ms or self._config.hop_ms) * SAMPLES_PER_MS,
            self._engine.recognizer.cut_rule,
            message.tokens,
            transcript=Transcript(self._config.guard_ms * SAMPLES_PER_MS),
        )
        options = SessionOptions(message.language, message.prompt, message.hotwords)
        try:
            seat = self._engine.open(stream, link.ring(message.slot), options)
        except RecognizerError as error:
            self._refuse(link, message, ErrorCode.BAD_MESSAGE, str(error))
            return
        if seat is None:
            self._refuse(link, message, ErrorCode.AT_CAPACITY, "every engine session is taken")
            return
        if message.checkpoint and not self._restore(link, message, seat):
            return
        self._seats[key] = seat

    def _restore(self, link: GatewayLink, message: messages.Open, seat: Seat) -> bool:
        try:
            self._engine.vad.restore_row(
                seat.vad_row, restore_checkpoint(seat.stream, message.checkpoint)
            )
        except (CheckpointError, ValueError) as error:
            self._engine.close(seat)
            self._refuse(link, message, ErrorCode.BAD_MESSAGE, str(error))
            return False
        return True

    def _refuse(
        self, link: GatewayLink, message: messages.Open, code: ErrorCode, text: str
    ) -> None:
        link.send(messages.StreamError(message.slot, message.generation, code, text))
        link.send(messages.StreamClosed(message.slot, message.generation, 0))

    # Listen

    def _listen(self) -> None:
        seats = list(self._seats.items())
        heard = self._engine.hear([seat for _, seat in seats])
        for (key, seat), probabilities in zip(seats, heard, strict=True):
            if probabilities:
                self._send_all(key, seat.stream.hear(probabilities))
            while seat.stream.has_due_control:
                self._send_all(key, seat.stream.run_controls())
                self._send_all(key, seat.stream.settle())
            self._settle(key, seat)

    def _settle(self, key: tuple[int, int], seat: Seat) -> None:
        self._send_all(key, seat.stream.settle())
        if seat.stream.take_committed() and seat.stream.can_checkpoint:
            checkpoint = take_checkpoint(seat.stream, self._engine.vad.row_state(seat.vad_row))
            seat.stream.checkpoint_sample = checkpoint.sample
            self._send_all(key, [checkpoint])
        if seat.stream.closed and self._seats.get(key) is seat:
            self._engine.close(self._seats.pop(key))

    # Recognize

    def _recognize(self) -> bool:
        """One engine step, if any is due; True when there may be more to do."""
        by_stream = {id(seat.stream): (key, seat) for key, seat in self._seats.items()}
        assignments = self._scheduler.pick(seat.stream for seat in self._seats.values())
        if not assignments:
            return any(seat.stream.frames_to_hear() for seat in self._seats.values())
        receive_ns = [assignment.stream.receive_ns for assignment in assignments]
        start_ns = time.monotonic_ns()
        placed = [(by_stream[id(a.stream)], a) for a in assignments]
        hypotheses = self._engine.step([(seat, a) for (_, seat), a in placed])
        done_ns = time.monotonic_ns()
        self._last_step_ns = done_ns
        self._scheduler.step_took(assignments, done_ns - start_ns)
        for ((key, seat), a), hypothesis, received in zip(
            placed, hypotheses, receive_ns, strict=True
        ):
            stages = Stages(received, 0, start_ns, done_ns, 0)
            self._send_all(key, a.stream.job_done(a.job, hypothesis, stages))
            self._settle(key, seat)
        return True

    # Publish

    def _publish_progress(self) -> None:
        for key, seat in list(self._seats.items()):
            credit = seat.stream.credit()
            if credit is not None:
                self._send_all(key, [credit])

    def _send_all(self, key: tuple[int, int], out: list[messages.StreamMessage]) -> None:
        self._send_to(key[0], out)

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
        if not self._seats and now_ns - self._last_step_ns > PROBE_AFTER_NS:
            self._probe()
        self._health_due_ns = now_ns + HEALTH_INTERVAL_NS
        for fd in list(self._links):
            self._send_to(fd, [self._health(now_ns, fd)])

    def _health(self, now_ns: int, fd: int) -> messages.Health:
        return messages.Health(
            now_ns,
            self._last_step_ns,
            self._scheduler.step_ns / 1e6,
            len(self._seats),
            sum(key[0] == fd for key in self._seats),
            self._config.max_streams,
            max(self._config.hop_ms, self._scheduler.hop_samples // SAMPLES_PER_MS),
            self._config.max_utterance_ms,
            (self._engine.recognizer.model_id,),
            tuple(self._engine.recognizer.languages),
        )

    def _probe(self) -> None:
        self._engine.probe()
        self._last_step_ns = time.monotonic_ns()
