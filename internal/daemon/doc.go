// Package daemon answers: how does a program of ours live as a service of its machine?
//
// It writes the log that the configuration asks for, tells people and machines on loopback how the program's
// parts are (/healthz, /readyz), and tells the service manager (sd_notify(3)) when it is up, how it is, and
// how long its end may take.
package daemon
