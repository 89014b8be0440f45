package session

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// replyTimeout bounds what the process that reaches sockets may take for an answer: a folder may lie on a
// file server that is gone.
const replyTimeout = 10 * time.Second

// helperEnv is all that such a process needs to know. It mostly waits, so one processor is enough, and less
// memory is set aside.
func helperEnv(acc Account) []string {
	return []string{"PATH=" + userPath, "HOME=" + acc.Home, "GOMAXPROCS=1"}
}

// accountHelper is the node's side of the process.
type accountHelper struct {
	cmd     *exec.Cmd
	pidfd   int
	control *net.UnixConn
	done    chan struct{} // closed once it answers no more

	mu        sync.Mutex // guards what follows
	lastID    uint32     // id given out
	replies   map[uint32]chan message
	listeners map[uint32]*socketListener
}

// startHelper starts this program anew as the account.
func (a Database) startHelper(acc Account) (*accountHelper, error) {
	control, theirs, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	c := &accountHelper{
		pidfd:     -1,
		control:   control,
		done:      make(chan struct{}),
		replies:   map[uint32]chan message{},
		listeners: map[uint32]*socketListener{},
	}
	c.cmd = &exec.Cmd{
		Path:        selfPath,
		Args:        []string{helperName, socketsArg},
		Env:         helperEnv(acc),
		Dir:         "/",
		Stdin:       theirs,
		SysProcAttr: a.credentials(acc),
	} // it goes home by itself
	c.cmd.SysProcAttr.Setsid, c.cmd.SysProcAttr.PidFD = true, &c.pidfd
	if err := a.startIsolated(c.cmd); err != nil {
		control.Close()
		return nil, err
	}
	go c.readLoop() // ends with the process; close waits for it
	return c, nil
}

func (c *accountHelper) nextID() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID = (c.lastID + 1) &^ acceptedBit
	return c.lastID
}

// call sends a note and waits for its answer's text.
func (c *accountHelper) call(ctx context.Context, n message, with *os.File) (string, error) {
	if with != nil {
		defer with.Close()
	}
	answer := make(chan message, 1)
	c.mu.Lock()
	c.replies[n.id] = answer
	c.mu.Unlock()
	defer func() { c.mu.Lock(); delete(c.replies, n.id); c.mu.Unlock() }()
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	if err := c.notify(n, with); err != nil {
		return "", err
	}
	select {
	case a := <-answer:
		if a.op == opError {
			return "", syscall.Errno(a.number())
		}
		return a.text, nil
	case <-c.done:
		return "", io.ErrUnexpectedEOF
	case <-ctx.Done():
		undo := opCloseListener // should it be done later, nobody wants it
		if n.op == opDial {
			undo = opCloseConn
		}
		_ = c.notify(message{op: undo, id: n.id}, nil)
		return "", ctx.Err()
	}
}

// notify sends a note that has no answer.
func (c *accountHelper) notify(n message, with *os.File) error {
	_ = c.control.SetWriteDeadline(time.Now().Add(replyTimeout))
	return sendMessage(c.control, n, with)
}

// readLoop hands answers and arrivals on. The process belongs to somebody else: nothing that it says is more
// than a number of its own.
func (c *accountHelper) readLoop() {
	defer close(c.done)
	buf := make([]byte, maxMessage+1)
	for {
		n, _, err := receiveMessage(c.control, buf, nil)
		if err != nil {
			return
		}
		c.mu.Lock()
		answer, l := c.replies[n.id], c.listeners[n.id]
		c.mu.Unlock()
		switch {
		case n.op == opIncoming && l != nil:
			l.enqueue(n.number())
		case (n.op == opOK || n.op == opError) && answer != nil:
			select {
			case answer <- n:
			default: // answered before
			}
		}
	}
}

func (c *accountHelper) addListener(l *socketListener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners[l.id] = l
}

func (c *accountHelper) removeListener(l *socketListener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.listeners, l.id)
}

// close hangs up, upon which the process removes what it made and ends; one that stays is killed.
func (c *accountHelper) close() {
	_ = c.control.Close()
	<-c.done
	ended := make(chan struct{})
	go func() { defer close(ended); waitExit(c.cmd.Process.Pid, c.pidfd) }()
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
