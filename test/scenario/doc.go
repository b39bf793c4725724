// Package scenario holds stories of whole visits and emergencies, told to a running daemon through both brokers and read
// back from what it says. It contains no program code.
package scenario
