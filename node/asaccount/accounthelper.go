package asaccount

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/process"
)

// replyTimeout bounds how long the helper may take for a reply: a directory may be on a file server that is
// gone.
const replyTimeout = 10 * time.Second

// accountHelper is the agent's side of the helper process.
//
// readLoop is its only reader. Calls may come from any goroutine; each registers in replies under an id of
// its own before it sends. done is closed when readLoop ends, and then no call waits any longer.
type accountHelper struct {
	process *process.Helper
	control *net.UnixConn
	done    chan struct{} // closed once the helper answers no more

	mu        sync.Mutex // guards what follows; never held while something is sent or received
	lastID    uint32
	replies   map[uint32]chan message // by id of the call; of capacity 1
	listeners map[uint32]*socketListener
}

// startHelper re-executes this program as the account.
func startHelper(db account.Database, acc account.Account) (*accountHelper, error) {
	control, theirs, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	h := &accountHelper{
		control:   control,
		done:      make(chan struct{}),
		replies:   map[uint32]chan message{},
		listeners: map[uint32]*socketListener{},
	}
	if h.process, err = process.StartHelper(db, acc, helperArg, theirs); err != nil {
		control.Close()
		return nil, err
	}
	go h.readLoop() // ends when the helper exits or the control socket is closed; close waits for it
	return h, nil
}

// nextID returns an id for a call: never one of an accepted connection.
func (h *accountHelper) nextID() uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastID = (h.lastID + 1) &^ acceptedBit
	return h.lastID
}

// call sends a message, with a descriptor if it is not nil, and returns the text of the reply. It closes the
// descriptor. An error of the helper is a syscall.Errno. If no reply comes in time, call undoes the request:
// nobody would use its result.
func (h *accountHelper) call(ctx context.Context, m message, with *os.File) (string, error) {
	if with != nil {
		defer with.Close()
	}
	reply := make(chan message, 1)
	h.mu.Lock()
	h.replies[m.id] = reply
	h.mu.Unlock()
	defer func() { h.mu.Lock(); delete(h.replies, m.id); h.mu.Unlock() }()
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	if err := h.notify(m, with); err != nil {
		return "", err
	}
	select {
	case r := <-reply:
		if r.op == opError {
			return "", syscall.Errno(r.number())
		}
		return r.text, nil
	case <-h.done:
		return "", io.ErrUnexpectedEOF
	case <-ctx.Done():
		undo := opCloseListener
		if m.op == opDial {
			undo = opCloseConn
		}
		_ = h.notify(message{op: undo, id: m.id}, nil)
		return "", ctx.Err()
	}
}

// notify sends a message that has no reply.
func (h *accountHelper) notify(m message, with *os.File) error {
	_ = h.control.SetWriteDeadline(time.Now().Add(replyTimeout))
	return sendMessage(h.control, m, with)
}

// readLoop delivers replies and incoming connections until the helper ends. It takes no descriptors, and
// ignores ids that it does not know: the helper belongs to the account and may send anything.
func (h *accountHelper) readLoop() {
	defer close(h.done)
	buf := make([]byte, maxMessage+1)
	for {
		m, _, err := receiveMessage(h.control, buf, nil)
		if err != nil {
			return
		}
		h.mu.Lock()
		reply, l := h.replies[m.id], h.listeners[m.id]
		h.mu.Unlock()
		switch {
		case m.op == opIncoming && l != nil:
			l.enqueue(m.number())
		case (m.op == opOK || m.op == opError) && reply != nil:
			select {
			case reply <- m:
			default: // a second reply to one call
			}
		}
	}
}

func (h *accountHelper) addListener(l *socketListener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners[l.id] = l
}

func (h *accountHelper) removeListener(l *socketListener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listeners, l.id)
}

// close closes the control socket. The helper then removes the sockets that it made and exits; if it does
// not, it is killed.
func (h *accountHelper) close() {
	_ = h.control.Close()
	<-h.done
	h.process.Wait()
}
