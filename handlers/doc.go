// Package handlers translates between the wire and the decisions: entries of the log to events, effects to messages,
// names of channels and subjects to what they mean, and it owns the JSON Schemas that are the contract with the apps.
//
// It never decides what may happen to a visit or an escalation, never talks to a broker or a store, reads no clock, and
// never puts a value of a message into an error.
package handlers
