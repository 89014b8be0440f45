// Package daemon answers: how does a program run as a service of its machine?
//
// It writes the log that the configuration asks for, serves the state of the program's parts on loopback
// (/healthz, /readyz), and tells the service manager (sd_notify(3)) when it is ready, that it is alive, and
// how long its stop may take.
package daemon
