package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// answerTimeout bounds what the process that reaches sockets may take for an answer: a folder may lie on a file server that is gone.
	answerTimeout = 10 * time.Second
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

// helperEnv is all that such a process needs to know. It mostly waits, so one processor is enough, and less memory is set aside.
var helperEnv = []string{"PATH=" + userPath, "GOMAXPROCS=1"}

// attendant is the node's side of the process.
type attendant struct {
	cmd     *exec.Cmd
	pidfd   int
	control *net.UnixConn
	gone    chan struct{} // closed once it answers no more

	mu        sync.Mutex // guards what follows
	last      uint32     // id given out
	waiting   map[uint32]chan note
	listeners map[uint32]*socketListener
}

// attend starts this program anew as the account.
func (a Accounts) attend(acc Account) (*attendant, error) {
	control, theirs, err := pair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	c := &attendant{pidfd: -1, control: control, gone: make(chan struct{}), waiting: map[uint32]chan note{}, listeners: map[uint32]*socketListener{}}
	start := func(dir string) error {
		c.cmd = &exec.Cmd{Path: selfPath, Args: []string{helperName, socketsGuard}, Env: helperEnv, Dir: dir, Stdin: theirs, SysProcAttr: a.become(acc)}
		c.cmd.SysProcAttr.Setsid, c.cmd.SysProcAttr.PidFD = true, &c.pidfd
		return c.cmd.Start()
	}
	err = start(acc.Home)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.ENOTDIR) {
		err = start("/") // a home that is not there, or not for the account
	}
	if err != nil {
		control.Close()
		return nil, err
	}
	go c.hear() // ends with the process; close waits for it
	return c, nil
}

func (c *attendant) number() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = (c.last + 1) &^ ofComer
	return c.last
}

// ask sends a note and waits for its answer's text.
func (c *attendant) ask(ctx context.Context, n note, with *os.File) (string, error) {
	if with != nil {
		defer with.Close()
	}
	answer := make(chan note, 1)
	c.mu.Lock()
	c.waiting[n.id] = answer
	c.mu.Unlock()
	defer func() { c.mu.Lock(); delete(c.waiting, n.id); c.mu.Unlock() }()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := c.tell(n, with); err != nil {
		return "", err
	}
	select {
	case a := <-answer:
		if a.op == opFailed {
			return "", syscall.Errno(a.number())
		}
		return a.text, nil
	case <-c.gone:
		return "", io.ErrUnexpectedEOF
	case <-ctx.Done():
		undo := opClose // should it be done later, nobody wants it
		if n.op == opDial {
			undo = opEnd
		}
		_ = c.tell(note{op: undo, id: n.id}, nil)
		return "", ctx.Err()
	}
}

// tell sends a note that has no answer.
func (c *attendant) tell(n note, with *os.File) error {
	_ = c.control.SetWriteDeadline(time.Now().Add(answerTimeout))
	return send(c.control, n, with)
}

// hear hands answers and arrivals on. The process belongs to somebody else: nothing that it says is more than a number of its own.
func (c *attendant) hear() {
	defer close(c.gone)
	buf := make([]byte, noteBytes+1)
	for {
		n, _, err := receive(c.control, buf, nil)
		if err != nil {
			return
		}
		c.mu.Lock()
		answer, l := c.waiting[n.id], c.listeners[n.id]
		c.mu.Unlock()
		switch {
		case n.op == opCame && l != nil:
			l.arrive(n.number())
		case (n.op == opDone || n.op == opFailed) && answer != nil:
			select {
			case answer <- n:
			default: // answered before
			}
		}
	}
}

func (c *attendant) introduce(l *socketListener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners[l.id] = l
}

func (c *attendant) forget(l *socketListener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.listeners, l.id)
}

// close hangs up, upon which the process removes what it made and ends; one that stays is killed.
func (c *attendant) close() {
	_ = c.control.Close()
	<-c.gone
	ended := make(chan struct{})
	go func() { defer close(ended); awaitExit(c.cmd.Process.Pid, c.pidfd) }()
	timer := time.NewTimer(hangupGrace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		_ = c.cmd.Process.Kill()
		<-ended
	}
	_ = c.cmd.Wait()
}

// socketListener is a Unix socket that the process listens on.
type socketListener struct {
	child  *attendant
	id     uint32
	path   string
	came   chan uint32
	once   sync.Once
	closed chan struct{}
}

// arrive keeps somebody who connected until Accept, or turns them away.
func (l *socketListener) arrive(comer uint32) {
	select {
	case <-l.closed:
	case l.came <- comer:
		return
	default:
	}
	_ = l.child.tell(note{op: opEnd, id: comer}, nil)
}

// Accept implements net.Listener.
func (l *socketListener) Accept() (net.Conn, error) {
	select {
	case comer := <-l.came:
		ours, theirs, err := pair(unix.SOCK_STREAM)
		if err != nil {
			_ = l.child.tell(note{op: opEnd, id: comer}, nil)
			return nil, err
		}
		defer theirs.Close()
		if err := l.child.tell(note{op: opTake, id: comer}, theirs); err != nil {
			ours.Close()
			return nil, err
		}
		return &stretch{UnixConn: ours, child: l.child, id: comer}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.child.gone:
		return nil, io.ErrUnexpectedEOF
	}
}

// Close implements net.Listener. The socket is removed when it returns.
func (l *socketListener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.closed)
		_, err = l.child.ask(context.Background(), note{op: opClose, id: l.id}, nil)
		l.child.forget(l)
		l.turnAway()
	})
	return err
}

func (l *socketListener) turnAway() {
	for {
		select {
		case comer := <-l.came:
			_ = l.child.tell(note{op: opEnd, id: comer}, nil)
		default:
			return
		}
	}
}

// Addr implements net.Listener.
func (l *socketListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: l.path} }

// stretch is the way between the node and the process, which goes on to a Unix socket.
type stretch struct {
	*net.UnixConn
	child *attendant
	id    uint32
	once  sync.Once
}

// Close tells the process that nobody takes the rest. What was written is still delivered.
func (s *stretch) Close() error {
	s.once.Do(func() { _ = s.child.tell(note{op: opEnd, id: s.id}, nil) })
	return s.UnixConn.Close()
}
