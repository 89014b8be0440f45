// Package asaccount answers: what is done as the account, besides its programs?
//
// It opens sockets with the rights of an account, for what a connection forwards. TCP sockets are made in
// this process and belong to the account. Unix sockets are opened by the account helper: this program,
// re-executed as the account, which also copies their bytes. The kernel decides what the account may reach.
//
// The helper belongs to the account, whose programs may trace and change it. So the agent takes from it
// nothing but numbers of messages and paths that are shown to the account's own programs, and never a
// descriptor.
package asaccount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/account"
)

const (
	// maxSocketPath bounds the path of a Unix socket, in bytes (unix(7)).
	maxSocketPath = 107
	// firstUnprivilegedPort is the first port that accounts other than root may listen on (ip(7)).
	firstUnprivilegedPort = 1024
)

// Sockets opens sockets with the rights of one account, for one connection. Its methods may be called
// concurrently.
type Sockets struct {
	db  account.Database
	acc account.Account

	mu     sync.Mutex     // guards helper and closed; held while the helper is started or stopped
	helper *accountHelper // nil until a Unix socket is needed
	closed bool
}

// New starts nothing: the helper is started when the first Unix socket is asked for. Close ends it.
func New(db account.Database, acc account.Account) *Sockets { return &Sockets{db: db, acc: acc} }

// Dial opens a TCP connection.
func (s *Sockets) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return dialTCP(ctx, s.db, s.acc, to)
}

// Listen listens on a TCP address. This process binds the socket as root, so the check for privileged ports
// that the kernel makes for other accounts is made here.
func (s *Sockets) Listen(at netip.AddrPort) (net.Listener, error) {
	if s.db.UID == 0 && s.acc.UID != 0 && at.Port() != 0 && at.Port() < firstUnprivilegedPort {
		return nil, os.NewSyscallError("bind", syscall.EACCES)
	}
	return listenTCP(s.db, s.acc, at)
}

// DialUnix connects to a Unix socket. A relative path starts at the account's home.
func (s *Sockets) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	path, err := socketPath(path)
	if err != nil {
		return nil, err
	}
	helper, err := s.runningHelper()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	id := helper.nextID()
	if _, err := helper.call(ctx, message{opDial, id, path}, theirs); err != nil {
		ours.Close()
		return nil, err
	}
	return &socketConn{UnixConn: ours, helper: helper, id: id}, nil
}

// ListenUnix makes a Unix socket that only the account may connect to. Closing the listener removes it.
func (s *Sockets) ListenUnix(ctx context.Context, path string) (net.Listener, error) {
	path, err := socketPath(path)
	if err != nil {
		return nil, err
	}
	return s.listen(ctx, opListen, path)
}

// ListenAgent makes a Unix socket in a new directory that only the account may enter. Closing the listener
// removes both.
func (s *Sockets) ListenAgent(ctx context.Context) (net.Listener, error) {
	return s.listen(ctx, opListenAgent, "")
}

func (s *Sockets) listen(ctx context.Context, kind op, path string) (net.Listener, error) {
	helper, err := s.runningHelper()
	if err != nil {
		return nil, err
	}
	l := &socketListener{
		helper:  helper,
		id:      helper.nextID(),
		path:    path,
		pending: make(chan uint32, maxPending),
		closed:  make(chan struct{}),
	}
	helper.addListener(l) // before the call: connections may come before its answer
	chosen, err := helper.call(ctx, message{kind, l.id, path}, nil)
	if err != nil {
		helper.removeListener(l)
		return nil, err
	}
	if chosen != "" {
		l.path = chosen
	}
	return l, nil
}

// Close ends the helper, which removes the sockets that it made, and waits for it.
func (s *Sockets) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.helper != nil {
		s.helper.close()
		s.helper = nil
	}
}

// runningHelper returns the helper. It starts one if there is none, or if the last has ended by itself.
func (s *Sockets) runningHelper() (*accountHelper, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if s.helper != nil {
		select {
		case <-s.helper.done:
			s.helper.close()
			s.helper = nil
		default:
			return s.helper, nil
		}
	}
	helper, err := startHelper(s.db, s.acc)
	if err != nil {
		return nil, helperFault(err, s.acc)
	}
	s.helper = helper
	return helper, nil
}

func helperFault(err error, acc account.Account) error {
	cause := err
	var errno syscall.Errno
	if errors.As(err, &errno) {
		cause = errno
	}
	return fault.Wrap(err, fault.Internal, "asaccount.Sockets",
		fmt.Sprintf("no helper process could be started as %s: %v", acc.Login, cause),
		"ask an administrator to look at the account")
}

// socketPath returns the path to give to the kernel, or an error if it cannot be the path of a socket. A
// relative path gets "./" in front: a leading "@" or NUL would otherwise name an abstract socket, which has
// no owner or mode.
func socketPath(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		path = "./" + path
	}
	if path == "./" || strings.HasSuffix(path, "/") ||
		strings.ContainsRune(path, 0) || len(path) > maxSocketPath {
		return "", fault.New(fault.Invalid, "asaccount.Sockets", "this is not a valid path of a Unix socket",
			fmt.Sprintf("use the path of a file, with at most %d bytes", maxSocketPath))
	}
	return path, nil
}
