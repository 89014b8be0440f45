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

// accountHelper is the agent's side of the helper process, with which it exchanges messages over control.
//
// readLoop is the only reader of control. Any goroutine may call call, which registers in replies under an id
// of its own before it sends. done is closed when readLoop ends; then call waits no longer.
type accountHelper struct {
	process *process.Helper
	control *net.UnixConn // messages, in both directions
	done    chan struct{} // closed when no reply can come any more

	mu        sync.Mutex // guards what follows; never held while something is sent or received
	lastID    uint32
	replies   map[uint32]chan message // by id of the call; of capacity 1
	listeners map[uint32]*socketListener
}

// startHelper starts the helper process as the account. The caller calls close.
func startHelper(db account.Database, acc account.Account) (*accountHelper, error) {
	control, helperEnd, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer helperEnd.Close()
	h := &accountHelper{
		control:   control,
		done:      make(chan struct{}),
		replies:   map[uint32]chan message{},
		listeners: map[uint32]*socketListener{},
	}
	if h.process, err = process.StartHelper(db, acc, helperArg, helperEnd); err != nil {
		control.Close()
		return nil, err
	}
	go h.readLoop() // ends when the helper exits or the control socket is closed; close waits for it
	return h, nil
}

// nextID returns an id for a call. Ids of accepted connections have acceptedBit set, so the two never meet.
func (h *accountHelper) nextID() uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastID = (h.lastID + 1) &^ acceptedBit
	return h.lastID
}

// call sends a request to the helper, with a descriptor if it is not nil, and returns the text of the reply.
// It closes the descriptor. The error is a syscall.Errno if the helper refused, io.ErrUnexpectedEOF if the
// helper has ended, or that of ctx if no reply came in replyTimeout. In the last case call tells the helper
// to undo the request, because nobody would use its result.
func (h *accountHelper) call(ctx context.Context, request message, descriptor *os.File) (string, error) {
	if descriptor != nil {
		defer descriptor.Close()
	}
	reply := make(chan message, 1) // registered before sending: the reply may come at once
	h.mu.Lock()
	h.replies[request.id] = reply
	h.mu.Unlock()
	defer func() { h.mu.Lock(); delete(h.replies, request.id); h.mu.Unlock() }()
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	if err := h.notify(request, descriptor); err != nil {
		return "", err
	}
	select {
	case answer := <-reply:
		if answer.op == opError {
			return "", syscall.Errno(answer.number())
		}
		return answer.text, nil
	case <-h.done:
		return "", io.ErrUnexpectedEOF
	case <-ctx.Done():
		undo := opCloseListener
		if request.op == opDial {
			undo = opCloseConn
		}
		_ = h.notify(message{op: undo, id: request.id}, nil)
		return "", ctx.Err()
	}
}

// notify sends a message and waits for no reply.
func (h *accountHelper) notify(m message, descriptor *os.File) error {
	_ = h.control.SetWriteDeadline(time.Now().Add(replyTimeout))
	return sendMessage(h.control, m, descriptor)
}

// readLoop delivers replies to call, and ids of incoming connections to their listener, until the helper ends
// or control is closed. It takes no descriptors and ignores unknown ids: the helper belongs to the account,
// so it may send anything.
func (h *accountHelper) readLoop() {
	defer close(h.done)
	buf := make([]byte, maxMessage+1)
	for {
		received, _, err := receiveMessage(h.control, buf, nil /* no descriptors */)
		if err != nil {
			return
		}
		h.mu.Lock()
		reply, listener := h.replies[received.id], h.listeners[received.id]
		h.mu.Unlock()
		switch {
		case received.op == opIncoming && listener != nil:
			listener.enqueue(received.number())
		case (received.op == opOK || received.op == opError) && reply != nil:
			select {
			case reply <- received:
			default: // a second reply to one call is dropped, so that readLoop never blocks
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
