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

// answerTimeout bounds what the process that reaches sockets may take for an answer: a folder may lie on a file server that is gone.
const answerTimeout = 10 * time.Second

// helperEnv is all that such a process needs to know. It mostly waits, so one processor is enough, and less memory is set aside.
func helperEnv(acc Account) []string {
	return []string{"PATH=" + userPath, "HOME=" + acc.Home, "GOMAXPROCS=1"}
}

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
	c.cmd = &exec.Cmd{Path: selfPath, Args: []string{helperName, socketsGuard}, Env: helperEnv(acc), Dir: "/", Stdin: theirs, SysProcAttr: a.become(acc)} // it goes home by itself
	c.cmd.SysProcAttr.Setsid, c.cmd.SysProcAttr.PidFD = true, &c.pidfd
	if err := a.apart(c.cmd); err != nil {
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
