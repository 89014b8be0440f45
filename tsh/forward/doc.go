// Package forward answers: which connections go through an SSH connection, and where do they lead?
//
// It is the client's side of port forwarding (RFC 4254 section 7) and of OpenSSH's extensions for Unix
// sockets (PROTOCOL section 2.4) and ssh-agent: -L, -R, -D, -W and -A of tsh ssh. The listeners on this
// machine are opened before the SSH connection, and those on the node are requested before a program runs, so
// that a forward that is impossible is reported at once. tsh calls it.
package forward
