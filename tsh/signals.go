//go:build unix

package tsh

import (
	"context"
	"os"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// signalNames pairs the names of signals on the wire (RFC 4254 section 6.10) with their numbers.
var signalNames = map[ssh.Signal]syscall.Signal{
	ssh.SIGABRT: syscall.SIGABRT, ssh.SIGALRM: syscall.SIGALRM, ssh.SIGFPE: syscall.SIGFPE,
	ssh.SIGHUP: syscall.SIGHUP, ssh.SIGILL: syscall.SIGILL, ssh.SIGINT: syscall.SIGINT,
	ssh.SIGKILL: syscall.SIGKILL, ssh.SIGPIPE: syscall.SIGPIPE, ssh.SIGQUIT: syscall.SIGQUIT,
	ssh.SIGSEGV: syscall.SIGSEGV, ssh.SIGTERM: syscall.SIGTERM, ssh.SIGUSR1: syscall.SIGUSR1,
	ssh.SIGUSR2: syscall.SIGUSR2,
}

// forwardedSignals has the signals that are sent on to the remote command. In a raw terminal Ctrl-C is a
// byte, not a signal.
var forwardedSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// signalNumber returns the number of the signal whose name, without SIG, a node sent. It returns 0 for a
// signal that this machine does not know.
func signalNumber(name string) int {
	if number, ok := signalNames[ssh.Signal(name)]; ok {
		return int(number)
	}
	return int(unix.SignalNum("SIG" + name))
}

// signalExit is the exit status of tsh when a signal ends it.
func signalExit(s os.Signal) error {
	number, _ := s.(syscall.Signal)
	return exitStatus(128 + int(number))
}

// forwardSignals sends the signals that tsh receives on to the remote command until ctx ends. In two cases it
// calls disconnect with tsh's exit status instead, and returns: on a second signal of the same kind, because
// the command may ignore the first; and on any signal if the command has a terminal, because Ctrl-C and the
// like then reach the command as bytes, so a signal is meant for tsh itself.
func (s *session) forwardSignals(ctx context.Context, disconnect func(error)) {
	seen := map[os.Signal]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-s.signals:
			if s.tty != nil || seen[sig] {
				disconnect(signalExit(sig))
				return
			}
			seen[sig] = true
			for name, number := range signalNames {
				if number == sig {
					s.remote.Signal(name)
				}
			}
		}
	}
}
