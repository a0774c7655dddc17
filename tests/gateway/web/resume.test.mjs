import assert from "node:assert/strict";
import { test } from "node:test";

import { ACK_DELAY_MS, LiveStream, MAX_KEPT_S } from "../../../gateway/web/live_stream.js";
import { FakeSocket, FakeTime, ramp, RATE_HZ, RESUMABLE, RESUMED, WINDOW_MS } from "./rig.mjs";

const BLOCK = RATE_HZ / 1000;
const RING_PER_SAMPLE = 16_000 / RATE_HZ;

/** A session at a server that keeps it while its connection is gone. */
class Server {
  taken = []; // samples
  events = []; // numbered
  acknowledged = 0;
  hasBye = false;
  isHere = false;
  numSessions = 0;
  socket = null;
  #numRead = 0; // frames of the socket

  connect(socket) {
    this.socket = socket;
    this.#numRead = 0;
    socket.open();
  }

  /** As if it had been started again. */
  forget() {
    this.taken = [];
    this.events = [];
    this.acknowledged = 0;
    this.isHere = this.hasBye = false;
  }

  /** Read up to `count` frames of the page. */
  read(count = Infinity) {
    while (count-- > 0 && this.#numRead < this.socket.frames.length) {
      const { type, payload } = this.socket.frames[this.#numRead++];
      this.#take(type, payload);
    }
  }

  say(event) {
    this.events.push(event);
    if (!this.socket.isClosed) {
      this.socket.say(event);
    }
  }

  tile() {
    const start_sample = this.events.at(-1)?.end_sample ?? 0;
    this.say({ type: 0x44, start_sample, end_sample: Math.floor(this.taken.length * RING_PER_SAMPLE) });
  }

  #take(type, payload) {
    const view = new DataView(payload.slice().buffer);
    if (type === 0x01) {
      this.numSessions++;
      this.forget();
      this.isHere = true;
      this.socket.say(RESUMABLE);
    } else if (type === 0x02) {
      assert.equal(Number(view.getBigUint64(0, true)), this.taken.length);
      this.taken.push(...new Int16Array(view.buffer.slice(8)));
    } else if (type === 0x05) {
      assert.equal(this.hasBye, false);
      this.hasBye = true;
      this.tile();
      this.say({ type: 0x48, reason: "client" });
    } else if (type === 0x06) {
      this.#resume(JSON.parse(new TextDecoder().decode(payload)));
    } else if (type === 0x07) {
      this.acknowledged = Number(view.getBigUint64(0, true));
      assert.ok(this.acknowledged <= this.events.length);
    }
  }

  #resume({ resume_token, events_received }) {
    if (!this.isHere) {
      this.socket.say({ type: 0x49, code: "resume_failed", message: "gone" });
      return;
    }
    assert.equal(resume_token, RESUMABLE.resume_token);
    assert.ok(events_received >= this.acknowledged);
    this.acknowledged = events_received;
    const client_samples = this.taken.length;
    this.socket.say({ ...RESUMED, client_samples, bye_received: this.hasBye });
    for (const event of this.events.slice(events_received)) {
      this.socket.say(event);
    }
  }
}

/** A page and its server. */
class Rig {
  server = new Server();
  time = new FakeTime();
  sockets = [];
  phases = [];
  messages = [];
  losses = [];
  said = 0;

  constructor(rate_hz = RATE_HZ) {
    this.rate_hz = rate_hz;
    this.stream = new LiveStream(rate_hz, this.#around(), this.#listener());
    this.stream.open({ token: "t" });
    this.meet();
  }

  #around() {
    return {
      openSocket: () => {
        this.sockets.push(new FakeSocket());
        return this.sockets.at(-1);
      },
      now: () => this.time.now_ms,
      schedule: this.time.schedule,
      random: () => 0,
    };
  }

  #listener() {
    return {
      onMessage: (message, base_s) => this.messages.push({ ...message, base_s }),
      onState: ({ phase, end }) => this.phases.push(end ? `${phase}: ${end.code}` : phase),
      onLoss: (start_s, end_s) => this.losses.push([start_s, end_s]),
      onRoundTrip: () => {},
    };
  }

  /** The newest connection gets to the server. */
  meet() {
    this.server.connect(this.sockets.at(-1));
    this.server.read();
  }

  speak(blocks = 1) {
    for (let i = 0; i < blocks; i++) {
      this.stream.push(ramp(this.said, BLOCK));
      this.said += BLOCK;
    }
  }

  /** More silence than is kept. */
  hush() {
    for (let i = 0; i <= MAX_KEPT_S; i++) {
      this.stream.push(new Int16Array(this.rate_hz));
    }
  }

  /** The network breaks, and is there again. */
  cut(away_ms = 500) {
    this.sockets.at(-1).break();
    this.time.pass(away_ms);
    this.meet();
  }

  get tiles() {
    return this.messages.filter(({ type }) => type === "non_speech");
  }
}

test("a lost connection goes on with its session: audio from where the server stands", () => {
  const rig = new Rig();
  rig.speak(10);
  rig.server.read(4); // the rest is lost
  rig.server.tile();
  rig.cut();
  rig.server.read();
  assert.deepEqual(rig.server.taken, [...ramp(0, 10 * BLOCK)]);
  assert.deepEqual(rig.phases, ["connecting", "live", "waiting: lost", "live"]);
  assert.deepEqual([rig.server.numSessions, rig.server.acknowledged, rig.losses], [1, 1, []]);
  rig.server.tile();
  assert.deepEqual(rig.tiles.map((tile) => tile.base_s), [0, 0]);
  assert.equal(rig.messages.filter(({ type }) => type === "resumed").length, 0);
});

test("what was said while nobody was there comes in its order, once", () => {
  const rig = new Rig();
  rig.speak(2);
  rig.server.read();
  rig.sockets.at(-1).break();
  rig.server.tile();
  rig.speak(3);
  rig.time.pass(500);
  rig.meet();
  rig.server.read();
  assert.deepEqual(rig.server.taken, [...ramp(0, 5 * BLOCK)]);
  assert.equal(rig.tiles.length, 1);
});

test("events are acknowledged soon", () => {
  const rig = new Rig();
  rig.speak();
  rig.server.read();
  rig.server.tile();
  rig.server.tile();
  rig.time.pass(ACK_DELAY_MS);
  rig.server.read();
  assert.equal(rig.server.acknowledged, 2);
});

test("a session that is gone is followed at once by another one, from the last text on", () => {
  const rig = new Rig();
  rig.speak(10);
  rig.server.read();
  rig.server.tile();
  rig.speak(5);
  rig.server.forget();
  rig.cut();
  assert.equal(rig.sockets.length, 3);
  rig.meet();
  rig.server.read();
  assert.deepEqual(rig.server.taken, [...ramp(10 * BLOCK, 5 * BLOCK)]);
  rig.server.tile();
  assert.deepEqual([rig.phases.at(-1), rig.losses], ["live", []]);
});

test("behind the server's window it does not even ask", () => {
  const rig = new Rig();
  const gone_ms = rig.time.now_ms;
  rig.sockets.at(-1).break();
  const asked = [];
  while (rig.time.now_ms <= gone_ms + WINDOW_MS) {
    rig.time.pass(rig.stream.state.retry_at_ms - rig.time.now_ms);
    rig.sockets.at(-1).open();
    asked.push(rig.sockets.at(-1).types[0]);
    rig.sockets.at(-1).break();
  }
  assert.deepEqual(asked, [0x06, 0x06, 0x06, 0x06, 0x06, 0x06, 0x01]);
});

test("a server that is not ready is asked again for the same session", () => {
  const rig = new Rig();
  rig.speak(1);
  rig.server.read();
  rig.sockets.at(-1).break();
  rig.time.pass(500);
  rig.sockets.at(-1).open();
  rig.sockets.at(-1).say({ type: 0x49, code: "resume_later", retryable: true, retry_after_ms: 3000 });
  assert.equal(rig.phases.at(-1), "waiting: resume_later");
  rig.time.pass(3000);
  rig.meet();
  assert.deepEqual([rig.phases.at(-1), rig.server.numSessions], ["live", 1]);
});

test("an error of the session is no reason to go on with it", () => {
  const rig = new Rig();
  rig.speak(1);
  rig.server.read();
  rig.server.say({ type: 0x49, code: "service_lost", retryable: true });
  rig.time.pass(500);
  rig.meet();
  assert.equal(rig.server.numSessions, 2);
});

test("what the server would need and is gone makes a new session, and is named", () => {
  const rig = new Rig(8_000);
  rig.sockets.at(-1).bufferedAmount = 1 << 20; // nothing goes out
  rig.hush();
  rig.time.pass(500);
  rig.meet();
  assert.equal(rig.server.numSessions, 2);
  assert.equal(rig.losses.length, 1);
});

test("what was said while the session was away for too long is not sent into it", () => {
  const rig = new Rig(8_000);
  rig.speak(1);
  rig.server.read();
  rig.sockets.at(-1).break();
  rig.hush();
  rig.time.pass(500);
  rig.meet(); // resumes, and finds that it can not
  rig.time.pass(1000);
  rig.meet();
  assert.equal(rig.server.numSessions, 2);
  assert.equal(rig.losses.length, 1);
});

test("paused while away: the rest is sent, and bye is said once", () => {
  const rig = new Rig();
  rig.speak(3);
  rig.sockets.at(-1).break();
  rig.stream.finish();
  rig.time.pass(500);
  rig.meet();
  rig.server.read();
  assert.deepEqual(rig.phases.slice(-2), ["finishing", "idle"]);
  assert.deepEqual(rig.server.taken, [...ramp(0, 3 * BLOCK)]);
});

test("cut behind bye, the last texts come all the same, and going on begins another session", () => {
  const rig = new Rig();
  rig.speak(3);
  rig.stream.finish();
  const away = rig.sockets.at(-1);
  away.isClosed = true; // the network is gone, nobody knows
  rig.server.read();
  rig.stream.open({});
  rig.speak(2);
  rig.cut();
  assert.equal(rig.tiles.length, 1);
  rig.meet();
  rig.server.read();
  assert.deepEqual(rig.server.taken, [...ramp(3 * BLOCK, 2 * BLOCK)]);
  assert.deepEqual(rig.losses, []);
});

test("another language chosen while away begins another session, from the last text on", () => {
  const rig = new Rig();
  rig.speak(3);
  rig.server.read();
  rig.server.tile();
  rig.speak(2);
  rig.sockets.at(-1).break();
  rig.stream.finish();
  rig.stream.open({ token: "t", language: "de" });
  rig.meet();
  rig.server.read();
  assert.equal(rig.sockets.at(-1).types[0], 0x01);
  assert.equal(rig.sockets.at(-1).json(0).language, "de");
  assert.deepEqual(rig.server.taken, [...ramp(3 * BLOCK, 2 * BLOCK)]);
  rig.server.tile();
  assert.deepEqual([rig.phases.at(-1), rig.losses], ["live", []]);
});

test("another language chosen while it connects is asked for on another connection", () => {
  const rig = new Rig();
  rig.speak(3);
  rig.sockets.at(-1).break();
  rig.time.pass(500);
  const asking = rig.sockets.at(-1);
  asking.open();
  rig.stream.open({ token: "t", language: "de" });
  assert.equal(asking.isClosed, true);
  assert.equal(rig.sockets.length, 3);
  rig.meet();
  rig.server.read();
  assert.equal(rig.sockets.at(-1).json(0).language, "de");
  assert.deepEqual(rig.server.taken, [...ramp(0, 3 * BLOCK)]);
});

test("another language chosen before anybody knows that the connection is gone", () => {
  const rig = new Rig();
  rig.speak(3);
  rig.server.read();
  rig.stream.finish(); // its bye is lost
  rig.stream.open({ token: "t", language: "de" });
  rig.cut();
  rig.server.read();
  assert.equal(rig.sockets.at(-1).json(0).language, "de");
  assert.deepEqual(rig.server.taken, [...ramp(0, 3 * BLOCK)]);
});

test("another language chosen while the network is behind ends the session all the same", () => {
  const rig = new Rig();
  rig.speak(3);
  rig.sockets.at(-1).bufferedAmount = 1 << 20;
  rig.speak(2);
  rig.stream.finish();
  rig.stream.open({ token: "t", language: "de" });
  rig.speak(1);
  rig.server.read(); // says closed
  rig.meet();
  rig.server.read();
  assert.equal(rig.sockets.at(-1).json(0).language, "de");
  assert.deepEqual(rig.server.taken, [...ramp(3 * BLOCK, 3 * BLOCK)]);
  assert.equal(rig.tiles.length, 1);
});

test("another token is no other session", () => {
  const rig = new Rig();
  rig.sockets.at(-1).break();
  rig.stream.open({ token: "better" });
  rig.sockets.at(-1).open();
  assert.equal(rig.sockets.at(-1).types[0], 0x06);
  assert.equal(rig.sockets.at(-1).json(0).token, "better");
});

test("a page that goes away says bye", () => {
  const rig = new Rig();
  rig.speak(1);
  rig.stream.leave();
  assert.equal(rig.sockets.at(-1).types.at(-1), 0x05);
  const early = new Rig();
  early.sockets.at(-1).break();
  early.stream.leave(); // there is nobody to tell
});

/** Numbers from 0 to 1 that are the same each time. */
function seeded(seed) {
  return () => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
    return seed / 2 ** 31;
  };
}

test("whatever is cut where, the server has every sample once and the page every event", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = seeded(seed);
    const rig = new Rig();
    for (let i = 0; i < 30; i++) {
      const [choice, number] = [random(), Math.floor(random() * 8)];
      if (choice < 0.35) {
        rig.speak(number);
      } else if (choice < 0.6) {
        rig.server.read(number);
      } else if (choice < 0.8) {
        rig.server.tile();
      } else if (choice < 0.9) {
        rig.time.pass(number * 100);
      } else {
        rig.cut();
      }
    }
    rig.stream.finish();
    rig.time.pass(50);
    rig.server.read();
    assert.equal(rig.stream.state.phase, "idle", `seed ${seed}`);
    assert.deepEqual(rig.server.taken, [...ramp(0, rig.said)], `seed ${seed}`);
    const numTiles = rig.server.events.length - 1; // the last is closed
    assert.equal(rig.tiles.length, numTiles, `seed ${seed}`);
    assert.deepEqual([rig.server.numSessions, rig.losses], [1, []], `seed ${seed}`);
    rig.server.read();
    assert.equal(rig.server.acknowledged, rig.server.events.length, `seed ${seed}`);
  }
});
