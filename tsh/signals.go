//go:build unix

package tsh

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// signalNames pairs signals with their names on the wire (RFC 4254 section 6.10).
var signalNames = map[ssh.Signal]syscall.Signal{
	ssh.SIGABRT: syscall.SIGABRT, ssh.SIGALRM: syscall.SIGALRM, ssh.SIGFPE: syscall.SIGFPE, ssh.SIGHUP: syscall.SIGHUP, ssh.SIGILL: syscall.SIGILL,
	ssh.SIGINT: syscall.SIGINT, ssh.SIGKILL: syscall.SIGKILL, ssh.SIGPIPE: syscall.SIGPIPE, ssh.SIGQUIT: syscall.SIGQUIT, ssh.SIGSEGV: syscall.SIGSEGV,
	ssh.SIGTERM: syscall.SIGTERM, ssh.SIGUSR1: syscall.SIGUSR1, ssh.SIGUSR2: syscall.SIGUSR2,
}

// forwarded are the signals that reach the remote command. In a raw terminal Ctrl-C is a byte, not a signal.
var forwarded = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// signalNumber is 0 for a signal this machine does not know.
func signalNumber(name string) int {
	if s, ok := signalNames[ssh.Signal(name)]; ok {
		return int(s)
	}
	return int(unix.SignalNum("SIG" + name))
}

// signalExit is the exit status of a tsh that a signal ended.
func signalExit(s os.Signal) error {
	number, _ := s.(syscall.Signal)
	return exitStatus(128 + int(number))
}

// forwardSignals hands signals on. A second one of a kind ends the connection: the remote command may not be
// listening. At a terminal, where keys reach the remote program as bytes, a signal is for tsh itself.
func (s *session) forwardSignals(ctx context.Context, leave func(error)) {
	seen := map[os.Signal]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-s.signals:
			if s.in != nil || seen[sig] {
				leave(signalExit(sig))
				return
			}
			seen[sig] = true
			for name, number := range signalNames {
				if number == sig {
					s.remote.signal(name)
				}
			}
		}
	}
}

// followSize tells the node of each change of the window's size.
func (s *session) followSize(ctx context.Context) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if w, h, err := term.GetSize(int(s.in.Fd())); err == nil {
				s.remote.resize(w, h)
			}
		}
	}
}
