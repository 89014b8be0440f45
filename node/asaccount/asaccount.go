// Package asaccount answers: what is done as the account, besides its programs?
//
// It opens sockets with the rights of an account, for what a connection forwards. TCP sockets are made in
// this process and belong to the account. Unix sockets are opened by the account helper, which also copies
// their bytes. The helper is a process of this same program, executed again as the account. So the kernel
// decides what the account may reach.
//
// The helper belongs to the account, and programs of the account may trace and change it. So the agent takes
// from the helper nothing but message numbers, and paths that only the account's own programs get to see. It
// never takes a descriptor.
package asaccount

import (
	"context"
	"errors"
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

// Dial opens a TCP connection. If ctx ends first, the error is its cause.
func (s *Sockets) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return dialTCP(ctx, s.db, s.acc, to)
}

// Listen listens on a TCP address. If this process is root, the kernel lets it listen on any port. So Listen
// itself refuses privileged ports to other accounts, with EACCES, as the kernel would.
func (s *Sockets) Listen(addr netip.AddrPort) (net.Listener, error) {
	if s.db.UID == 0 && s.acc.UID != 0 && addr.Port() != 0 && addr.Port() < firstUnprivilegedPort {
		return nil, os.NewSyscallError("bind", syscall.EACCES)
	}
	return listenTCP(s.db, s.acc, addr)
}

// DialUnix connects to a Unix socket by way of the helper. A relative path starts at the account's home. The
// error is a fault for a path that is not valid or a helper that cannot be started, the helper's errno, or
// that of ctx.
func (s *Sockets) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	path, err := socketPath(path)
	if err != nil {
		return nil, err
	}
	helper, err := s.runningHelper()
	if err != nil {
		return nil, err
	}
	// The helper relays between the socket at path and its end of this pair.
	agentEnd, helperEnd, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	id := helper.nextID()
	if _, err := helper.call(ctx, message{op: opDial, id: id, text: path}, helperEnd); err != nil {
		agentEnd.Close()
		return nil, err
	}
	return &socketConn{UnixConn: agentEnd, helper: helper, id: id}, nil
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

// listen asks the helper, the process that runs as the account, to listen on a Unix socket. kind is opListen,
// with the path, or opListenAgent, for which the helper chooses the path. ctx limits only this call, not the
// listener.
func (s *Sockets) listen(ctx context.Context, kind op, path string) (net.Listener, error) {
	helper, err := s.runningHelper()
	if err != nil {
		return nil, err
	}
	listener := &socketListener{
		helper:  helper,
		id:      helper.nextID(),
		path:    path,
		pending: make(chan uint32, maxPending),
		closed:  make(chan struct{}),
	}
	helper.addListener(listener) // before the call: the first connection may come before the reply
	chosen, err := helper.call(ctx, message{op: kind, id: listener.id, text: path}, nil /* no descriptor */)
	if err != nil {
		helper.removeListener(listener)
		return nil, err
	}
	if chosen != "" {
		listener.path = chosen
	}
	return listener, nil
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

// runningHelper returns the helper. It starts one if there is none, or if the last one has ended by itself.
// It returns net.ErrClosed after Close, and a fault of kind Internal if no helper can be started.
func (s *Sockets) runningHelper() (*accountHelper, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if s.helper != nil {
		select {
		case <-s.helper.done: // it has ended by itself
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

// helperFault returns the fault for a helper that could not be started because of err.
func helperFault(err error, acc account.Account) error {
	cause := err
	var errno syscall.Errno
	if errors.As(err, &errno) {
		cause = errno
	}
	return accountHelperFailed.Wrap(err, "asaccount.Sockets", fault.Args{"login": acc.Login, "why": cause})
}

// socketPath returns the path as it is given to the kernel, or a fault of kind Invalid if it cannot be the
// path of a socket. A relative path gets "./" in front: otherwise a path that begins with "@" or NUL would
// name an abstract socket, which has no owner or mode and so no protection.
func socketPath(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		path = "./" + path
	}
	if path == "./" || strings.HasSuffix(path, "/") ||
		strings.ContainsRune(path, 0) || len(path) > maxSocketPath {
		return "", socketPathInvalid.New("asaccount.Sockets", fault.Args{"most": maxSocketPath})
	}
	return path, nil
}
