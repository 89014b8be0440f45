// Package forward answers: which connections go through an SSH connection, and where do they end?
//
// It is the client's side of RFC 4254 section 7 and of OpenSSH's extensions for Unix sockets (PROTOCOL
// section 2.4): -L, -R, -D, -W and -A of tsh ssh. What is to be listened to on this machine is opened before
// anybody connects, and what the node is to listen to is asked for before anything runs, so that a forward
// that cannot be had is told at once.
package forward
