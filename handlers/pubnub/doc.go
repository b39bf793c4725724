// Package pubnub is the daemon's side of PubNub: it brings what the apps say into the log exactly as it was published, says
// to the apps what was decided, and encrypts and decrypts as stock clients do.
//
// It never decides anything about a visit or an escalation, never lets a goroutine of the SDK see a message, and never puts
// a URL, key, token or message into an error or a log line.
//
// The SDK (v7.4.0) keeps up the subscribe protocol, publishes, and grants; it is fenced in because it gives up on the first
// 5xx, loses order, and panics on messages that anybody may publish. transport.go stands between it and the network.
package pubnub
