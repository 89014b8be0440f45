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
	// maxPath bounds the path of a Unix socket (unix(7)).
	maxPath = 107
	// firstFreePort is the first that others than root may listen on (ip(7)).
	firstFreePort = 1024
)

// Reach is what one connection reaches as an account: TCP by sockets that belong to it, Unix sockets through a process that is started
// when the first is asked for. The kernel decides, by the account's rights.
type Reach struct {
	accounts Accounts
	acc      Account

	mu     sync.Mutex // guards what follows
	child  *attendant // nil until it is needed
	closed bool
}

// Reach starts nothing. Close ends it.
func (a Accounts) Reach(acc Account) *Reach { return &Reach{accounts: a, acc: acc} }

// Dial opens a TCP connection.
func (r *Reach) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return r.accounts.Dial(ctx, r.acc, to)
}

// Listen listens on a TCP address. The kernel sees root bind it, so the ports that are root's are kept for root here.
func (r *Reach) Listen(at netip.AddrPort) (net.Listener, error) {
	if r.accounts.UID == 0 && r.acc.UID != 0 && at.Port() != 0 && at.Port() < firstFreePort {
		return nil, os.NewSyscallError("bind", syscall.EACCES)
	}
	return r.accounts.Listen(r.acc, at)
}

// DialSocket connects to a Unix socket. A path that is not absolute begins at the account's home.
func (r *Reach) DialSocket(ctx context.Context, path string) (net.Conn, error) {
	path, err := socketPath(path)
	if err != nil {
		return nil, err
	}
	child, err := r.attendant()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := pair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	id := child.number()
	if _, err := child.ask(ctx, note{opDial, id, path}, theirs); err != nil {
		ours.Close()
		return nil, err
	}
	return &stretch{UnixConn: ours, child: child, id: id}, nil
}

// ListenSocket makes a Unix socket that the account alone may connect to. The end of the listener removes it.
func (r *Reach) ListenSocket(ctx context.Context, path string) (net.Listener, error) {
	path, err := socketPath(path)
	if err != nil {
		return nil, err
	}
	return r.listen(ctx, opListen, path)
}

// ListenAgent makes a Unix socket in a folder of its own that the account alone may enter. The end of the listener removes both.
func (r *Reach) ListenAgent(ctx context.Context) (net.Listener, error) {
	return r.listen(ctx, opAgent, "")
}

func (r *Reach) listen(ctx context.Context, what op, path string) (net.Listener, error) {
	child, err := r.attendant()
	if err != nil {
		return nil, err
	}
	l := &socketListener{child: child, id: child.number(), path: path, came: make(chan uint32, maxWaiting), closed: make(chan struct{})}
	child.introduce(l)
	answer, err := child.ask(ctx, note{what, l.id, path}, nil)
	if err != nil {
		child.forget(l)
		return nil, err
	}
	if answer != "" {
		l.path = answer
	}
	return l, nil
}

// Close ends the process, which removes what it made, and waits for it.
func (r *Reach) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.child != nil {
		r.child.close()
		r.child = nil
	}
}

// attendant returns the process, started if there is none; one that has ended is replaced.
func (r *Reach) attendant() (*attendant, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, net.ErrClosed
	}
	if r.child != nil {
		select {
		case <-r.child.gone:
			r.child.close()
			r.child = nil
		default:
			return r.child, nil
		}
	}
	child, err := r.accounts.attend(r.acc)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "session.Reach", fmt.Sprintf("nothing could be started as %s: %v", r.acc.Login, rootCause(err)),
			"ask an administrator to look at the account")
	}
	r.child = child
	return child, nil
}

// socketPath says what the kernel shall be told: never a name outside of the file system, which an "@" or NUL at its beginning would be.
func socketPath(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		path = "./" + path
	}
	if path == "./" || strings.HasSuffix(path, "/") || strings.ContainsRune(path, 0) || len(path) > maxPath {
		return "", fault.New(fault.Invalid, "session.Reach", "that is no path of a Unix socket", fmt.Sprintf("name a file, by at most %d bytes", maxPath))
	}
	return path, nil
}
