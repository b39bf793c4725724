// Makes an unmodified PubNub JavaScript client of the stand-in. Development and tests only.
import PubNub from 'pubnub';

export function connect({ origin, publishKey, subscribeKey, secretKey, userId, cipherKey, ...rest }) {
  return new PubNub({
    origin,
    ssl: false,
    publishKey,
    subscribeKey,
    userId,
    ...(secretKey ? { secretKey } : {}),
    ...(cipherKey ? { cryptoModule: PubNub.CryptoModule.aesCbcCryptoModule({ cipherKey }) } : {}),
    ...rest,
  });
}

// What an SDK error says about the answer that caused it.
export function describe(error) {
  const status = error?.status ?? error;
  return {
    message: String(error?.message ?? error),
    statusCode: status?.statusCode ?? null,
    category: status?.category ?? null,
  };
}
