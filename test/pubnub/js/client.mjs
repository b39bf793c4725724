// One PubNub JavaScript client, driven by lines of JSON: commands on stdin, replies and received events on stdout. Used by
// package jsclient. Development and tests only. Argument: JSON with the settings of connect() in pubnub.mjs.
//
// in:  {"id":1,"op":"publish","channel":"c","message":…}       also signal, fire: the SDK's parameters
//      {"id":2,"op":"subscribe","channels":[],"channelGroups":[],"withPresence":true}   replied when connected
//      {"id":3,"op":"unsubscribe","channels":[]}
//      {"id":4,"op":"call","method":"objects.setUUIDMetadata","args":[…]}   any other method of the SDK
// out: {"type":"ready"}, {"type":"reply","id":1,"result":…} or {"type":"reply","id":1,"error":…},
//      {"type":"message"|"signal"|"presence"|"objects"|"messageAction"|"file"|"status",…}
import readline from 'node:readline';
import { connect, describe } from './pubnub.mjs';

const client = connect(JSON.parse(process.argv[2]));
const emit = (line) => process.stdout.write(JSON.stringify(line) + '\n');
let connecting = [];

const pass = (type) => (event) => emit({
  type, channel: event.channel, subscription: event.subscription ?? '', timetoken: event.timetoken ?? '', publisher: event.publisher ?? '',
  message: event.message ?? null, meta: event.userMetadata ?? null, customMessageType: event.customMessageType ?? '',
  ...(event.error ? { error: String(event.error) } : {}),
});
client.addListener({
  message: pass('message'),
  signal: pass('signal'),
  presence: (event) => emit({ type: 'presence', channel: event.channel, timetoken: event.timetoken, message: event }),
  objects: (event) => emit({ type: 'objects', channel: event.channel, timetoken: event.timetoken, message: event.message }),
  messageAction: (event) => emit({ type: 'messageAction', channel: event.channel, timetoken: event.timetoken, message: event.data, publisher: event.publisher }),
  file: (event) => emit({ type: 'file', channel: event.channel, timetoken: event.timetoken, publisher: event.publisher, message: { message: event.message ?? null, file: event.file } }),
  status: (event) => {
    emit({ type: 'status', category: event.category, operation: event.operation ?? '', message: event.message ?? null });
    if (event.category === 'PNConnectedCategory' || event.category === 'PNSubscriptionChangedCategory') {
      for (const done of connecting) done.resolve({});
      connecting = [];
    } else if (event.category === 'PNConnectionErrorCategory' || event.category === 'PNAccessDeniedCategory') {
      for (const done of connecting) done.reject(new Error(event.category));
      connecting = [];
    }
  },
});

async function run({ id, op, method, args, ...parameters }) {
  switch (op) {
    case 'publish':
    case 'signal':
    case 'fire':
      return client[op](parameters);
    case 'subscribe':
      return new Promise((resolve, reject) => {
        connecting.push({ resolve, reject });
        client.subscribe(parameters);
      });
    case 'unsubscribe':
      client.unsubscribe(parameters);
      return {};
    case 'call': {
      const path = method.split('.');
      const name = path.pop();
      const owner = path.reduce((at, key) => at[key], client);
      return owner[name](...(args ?? []));
    }
    default:
      throw new Error(`unknown op ${op}`);
  }
}

const input = readline.createInterface({ input: process.stdin });
input.on('line', async (line) => {
  const command = JSON.parse(line);
  try {
    emit({ type: 'reply', id: command.id, result: (await run(command)) ?? null });
  } catch (error) {
    emit({ type: 'reply', id: command.id, error: describe(error) });
  }
});
// The end of stdin is the end of the client, so that none outlives the test that started it. Without exit() the leave gets
// out; the timer is for a server that does not answer it.
input.on('close', () => {
  client.destroy();
  setTimeout(() => process.exit(0), 2000).unref();
});
emit({ type: 'ready' });
