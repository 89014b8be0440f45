package session

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// maxSocketPath bounds the path of a Unix socket (unix(7)).
	maxSocketPath = 107
	// firstUnprivilegedPort is the first that others than root may listen on (ip(7)).
	firstUnprivilegedPort = 1024
)

// Sockets is what one connection reaches as an account: TCP by sockets that belong to it, Unix sockets
// through a process that is started when the first is asked for. The kernel decides, by the account's rights.
type Sockets struct {
	accounts Database
	acc      Account

	mu     sync.Mutex     // guards what follows
	helper *accountHelper // nil until it is needed
	closed bool
}

// Reach starts nothing. Close ends it.
func (a Database) Reach(acc Account) *Sockets { return &Sockets{accounts: a, acc: acc} }

// Dial opens a TCP connection.
func (r *Sockets) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return r.accounts.dialTCP(ctx, r.acc, to)
}

// Listen listens on a TCP address. The kernel sees root bind it, so the ports that are root's are kept for
// root here.
func (r *Sockets) Listen(at netip.AddrPort) (net.Listener, error) {
	if r.accounts.UID == 0 && r.acc.UID != 0 && at.Port() != 0 && at.Port() < firstUnprivilegedPort {
		return nil, os.NewSyscallError("bind", syscall.EACCES)
	}
	return r.accounts.listenTCP(r.acc, at)
}

// DialUnix connects to a Unix socket. A path that is not absolute begins at the account's home.
func (r *Sockets) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	path, err := socketPath(path)
	if err != nil {
		return nil, err
	}
	child, err := r.runningHelper()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	id := child.nextID()
	if _, err := child.call(ctx, message{opDial, id, path}, theirs); err != nil {
		ours.Close()
		return nil, err
	}
	return &socketConn{UnixConn: ours, helper: child, id: id}, nil
}

// ListenUnix makes a Unix socket that the account alone may connect to. The end of the listener removes it.
func (r *Sockets) ListenUnix(ctx context.Context, path string) (net.Listener, error) {
	path, err := socketPath(path)
	if err != nil {
		return nil, err
	}
	return r.listen(ctx, opListen, path)
}

// ListenAgent makes a Unix socket in a folder of its own that the account alone may enter. The end of the
// listener removes both.
func (r *Sockets) ListenAgent(ctx context.Context) (net.Listener, error) {
	return r.listen(ctx, opListenAgent, "")
}

func (r *Sockets) listen(ctx context.Context, what op, path string) (net.Listener, error) {
	child, err := r.runningHelper()
	if err != nil {
		return nil, err
	}
	l := &socketListener{
		helper:  child,
		id:      child.nextID(),
		path:    path,
		pending: make(chan uint32, maxPending),
		closed:  make(chan struct{}),
	}
	child.addListener(l)
	answer, err := child.call(ctx, message{what, l.id, path}, nil)
	if err != nil {
		child.removeListener(l)
		return nil, err
	}
	if answer != "" {
		l.path = answer
	}
	return l, nil
}

// Close ends the process, which removes what it made, and waits for it.
func (r *Sockets) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.helper != nil {
		r.helper.close()
		r.helper = nil
	}
}

// runningHelper returns the process, started if there is none; one that has ended is replaced.
func (r *Sockets) runningHelper() (*accountHelper, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, net.ErrClosed
	}
	if r.helper != nil {
		select {
		case <-r.helper.done:
			r.helper.close()
			r.helper = nil
		default:
			return r.helper, nil
		}
	}
	child, err := r.accounts.startHelper(r.acc)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Internal,
			"session.Reach",
			fmt.Sprintf("nothing could be started as %s: %v", r.acc.Login, rootCause(err)),
			"ask an administrator to look at the account",
		)
	}
	r.helper = child
	return child, nil
}

// socketPath says what the kernel shall be told: never a name outside of the file system, which an "@" or NUL
// at its beginning would be.
func socketPath(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		path = "./" + path
	}
	if path == "./" || strings.HasSuffix(path, "/") || strings.ContainsRune(path, 0) ||
		len(path) > maxSocketPath {
		return "", fault.New(
			fault.Invalid,
			"session.Reach",
			"that is no path of a Unix socket",
			fmt.Sprintf("name a file, by at most %d bytes", maxSocketPath),
		)
	}
	return path, nil
}
