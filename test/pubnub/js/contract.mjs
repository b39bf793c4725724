// Runs the JavaScript SDK through what the stand-in promises and prints what came of it as one JSON object. The Go test
// that starts it judges. Argument: JSON with origin, publishKey, subscribeKey, secretKey.
import { connect, describe } from './pubnub.mjs';

const keys = JSON.parse(process.argv[2]);
const results = {};
const clients = [];

function client(userId, more = {}) {
  const { secretKey, ...plain } = keys;
  const made = connect({ ...plain, userId, ...more });
  clients.push(made);
  return made;
}

async function attempt(name, action) {
  try {
    results[name] = { ok: true, value: await action() };
  } catch (error) {
    results[name] = { ok: false, error: describe(error) };
  }
}

// Collects events of a client; until() waits for one that fits.
function collect(of) {
  const seen = [];
  const waiting = new Set();
  const take = (kind) => (event) => {
    seen.push({ kind, event });
    for (const check of [...waiting]) check();
  };
  of.addListener({ message: take('message'), signal: take('signal'), presence: take('presence'), status: take('status') });
  return {
    until(kind, fits, what) {
      return new Promise((resolve, reject) => {
        const timer = setTimeout(() => { waiting.delete(check); reject(new Error(`no ${what}`)); }, 10000);
        const check = () => {
          const found = seen.find((one) => one.kind === kind && fits(one.event));
          if (!found) return;
          clearTimeout(timer);
          waiting.delete(check);
          resolve(found.event);
        };
        waiting.add(check);
        check();
      });
    },
  };
}

const patient = client('patient-1');
const signer = client('backend', { secretKey: keys.secretKey });
const doctor = client('dr-smith');
const text = `Grüße € *!'()~ "quoted" a/b?c=d&e+f ${'long '.repeat(100)}`;

await attempt('time', () => patient.time());
for (const [name, who] of [['publish', patient], ['signedPublish', signer]]) {
  for (const sendByPost of [false, true]) {
    await attempt(`${name}${sendByPost ? 'Post' : 'Get'}`, () => who.publish({
      channel: `waiting-room.${name}-${sendByPost ? 'post' : 'get'}`,
      message: { action: 'PATIENT_CHECKED_IN', text, pn_fcm: { notification: { title: 'x' } } },
      meta: { role: 'patient' }, sendByPost, storeInHistory: true, ttl: 2, customMessageType: 'consult-state',
    }));
  }
}
await attempt('fire', () => patient.fire({ channel: 'waiting-room.fired', message: { n: 1 } }));
await attempt('wrongKey', () => client('x', { publishKey: 'pub-c-other' }).publish({ channel: 'c', message: 'x' }));
await attempt('wrongSecret', () => client('x', { secretKey: 'sec-c-other' }).publish({ channel: 'c', message: 'x', sendByPost: true }));
await attempt('addToGroup', () => signer.channelGroups.addChannels({ channelGroup: 'staff', channels: ['emergency.cardio', 'emergency.neuro'] }));
await attempt('listGroup', () => signer.channelGroups.listChannels({ channelGroup: 'staff' }));

const heard = collect(doctor);
doctor.subscribe({ channels: ['waiting-room.dr-smith', 'consultation.*'], channelGroups: ['staff'], withPresence: true });
await attempt('connected', () => heard.until('status', (e) => e.category === 'PNConnectedCategory', 'connected status'));

for (const [name, channel] of [['receive', 'waiting-room.dr-smith'], ['receiveByWildcard', 'consultation.dr-smith.p1'], ['receiveByGroup', 'emergency.cardio']]) {
  await attempt(name, async () => {
    const sent = await patient.publish({ channel, message: { on: channel }, sendByPost: true, meta: { m: 1 }, customMessageType: 'consult-state' });
    const event = await heard.until('message', (e) => e.channel === channel, `message on ${channel}`);
    return {
      sameTimetoken: event.timetoken === sent.timetoken, subscription: event.subscription ?? null, publisher: event.publisher,
      on: event.message.on, meta: event.userMetadata, customMessageType: event.customMessageType ?? null,
    };
  });
}
await attempt('signal', async () => {
  await patient.signal({ channel: 'waiting-room.dr-smith', message: 'typing' });
  return (await heard.until('signal', () => true, 'signal')).message;
});
await attempt('presence', async () => {
  const other = client('nurse-1');
  other.subscribe({ channels: ['waiting-room.dr-smith'] });
  const join = await heard.until('presence', (e) => e.action === 'join' && e.uuid === 'nurse-1', 'join');
  const here = await doctor.hereNow({ channels: ['waiting-room.dr-smith'], includeUUIDs: true, includeState: true });
  const where = await doctor.whereNow({ uuid: 'nurse-1' });
  other.unsubscribe({ channels: ['waiting-room.dr-smith'] });
  const leave = await heard.until('presence', (e) => e.action === 'leave' && e.uuid === 'nurse-1', 'leave');
  return {
    join: join.occupancy, leave: leave.occupancy, where: where.channels,
    here: here.channels['waiting-room.dr-smith'].occupants.map((o) => o.uuid).sort(),
  };
});
await attempt('encrypted', async () => {
  const cipherKey = 'a cipher key for this test only';
  const sender = client('patient-2', { cipherKey });
  const receiver = client('dr-jones', { cipherKey });
  const opened = collect(receiver);
  receiver.subscribe({ channels: ['consultation.enc'] });
  await opened.until('status', (e) => e.category === 'PNConnectedCategory', 'connected status');
  await sender.publish({ channel: 'consultation.enc', message: { secret: 'Grüße 😀' }, sendByPost: true });
  const event = await opened.until('message', () => true, 'encrypted message');
  const history = await receiver.fetchMessages({ channels: ['consultation.enc'], count: 1 });
  return { live: event.message.secret, error: event.error ?? null, stored: history.channels['consultation.enc'][0].message.secret };
});
await attempt('fetch', async () => {
  const channel = 'waiting-room.signedPublish-post';
  const found = await patient.fetchMessages({ channels: [channel], count: 10, includeMeta: true, includeUUID: true, includeMessageType: true, includeCustomMessageType: true });
  return found.channels[channel].map((m) => ({ action: m.message.action, uuid: m.uuid, meta: m.meta, type: m.customMessageType, same: m.message.text === text }));
});
await attempt('fetchMany', async () => {
  const found = await patient.fetchMessages({ channels: ['emergency.cardio', 'consultation.dr-smith.p1'], count: 5 });
  return Object.keys(found.channels).sort();
});
await attempt('history', async () => (await patient.history({ channel: 'emergency.cardio', count: 5 })).messages.map((m) => m.entry.on));
await attempt('counts', () => patient.messageCounts({ channels: ['emergency.cardio', 'none'], channelTimetokens: ['1'] }));
await attempt('delete', async () => {
  await signer.deleteMessages({ channel: 'emergency.cardio' });
  return (await patient.messageCounts({ channels: ['emergency.cardio'], channelTimetokens: ['1'] })).channels;
});
await attempt('deleteGroup', () => signer.channelGroups.deleteGroup({ channelGroup: 'staff' }));
await attempt('wrongSubscribeKey', async () => {
  const wrong = client('x', { subscribeKey: 'sub-c-other' });
  return wrong.fetchMessages({ channels: ['c'] });
});

for (const one of clients) one.destroy();
process.stdout.write(JSON.stringify(results) + '\n');
process.exit(0);
