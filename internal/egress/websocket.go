package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// KeepAliveInterval is how long one end of a WebSocket sends nothing at most. Balancers close connections
	// that were silent for a minute.
	KeepAliveInterval = 20 * time.Second
	// maxMessageBytes bounds a message. The ends write TLS records, which are shorter. Messages are read as
	// they come, not buffered whole.
	maxMessageBytes = 64 << 10
)

// openWebSocket opens a WebSocket over conn, which it takes over. The TLS around the WebSocket ends at the
// balancer and is not verified: it is trusted no more than the network (docs/decisions/0010).
func openWebSocket(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	client := singleConnClient(conn, addr)
	ws, resp, err := websocket.Dial(
		ctx,
		"wss://"+addr+dial.ConnectPath,
		&websocket.DialOptions{HTTPClient: client},
	)
	if err != nil {
		conn.Close()
		return nil, webSocketFault(addr, resp, err)
	}
	return NewStream(ws, conn.LocalAddr(), conn.RemoteAddr(), KeepAliveInterval), nil
}

// webSocketFault turns a refused WebSocket into a fault. An error without a response stays as it is: the
// network or TLS failed.
func webSocketFault(addr string, resp *http.Response, err error) error {
	if resp == nil || errors.Is(err, context.Canceled) {
		return err
	}
	status := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	return fault.Wrap(err, fault.Unavailable, "egress",
		"the balancer at "+addr+" does not open a WebSocket: "+status,
		"ask an administrator to let the balancer pass WebSockets on to "+dial.ConnectPath,
	)
}

// Stream is a byte stream in binary messages of a WebSocket. It has no half-close: the TLS inside marks the
// end of a direction. A deadline that passes during a read or write ends the stream.
type Stream struct {
	net.Conn
	ws            *websocket.Conn
	local, remote net.Addr
	interval      time.Duration
	closeOnce     sync.Once

	mu     sync.Mutex // guards what follows
	timer  *time.Timer
	closed bool
}

// NewStream makes the stream and takes ws over. After each interval it sends an empty message. Pings of
// WebSocket would not do: the library ends a connection whose pong cannot be sent within 5 s, and networks
// stall longer than that.
func NewStream(ws *websocket.Conn, local, remote net.Addr, every time.Duration) *Stream {
	s := &Stream{
		Conn:     websocket.NetConn(context.Background(), ws, websocket.MessageBinary),
		ws:       ws,
		local:    local,
		remote:   remote,
		interval: every,
	}
	ws.SetReadLimit(maxMessageBytes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(every, s.sendKeepAlive)
	return s
}

// sendKeepAlive runs on the timer's goroutine. It waits for a write that is under way, and resets the timer
// until the stream is closed or a write fails.
func (s *Stream) sendKeepAlive() {
	if err := s.ws.Write(context.Background(), websocket.MessageBinary, nil); err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.timer.Reset(s.interval)
	}
}

// Read returns io.EOF also for an end without a close frame. The TLS inside tells whether it was a true end.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		err = io.EOF
	}
	return n, deadlineError(err)
}

func (s *Stream) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	return n, deadlineError(err)
}

// deadlineError returns the error of a net.Conn whose deadline has passed. Nothing else cancels the contexts
// of the library.
func deadlineError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// Close ends both directions without waiting for the peer.
func (s *Stream) Close() error {
	err := net.ErrClosed
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.timer.Stop()
		s.mu.Unlock()
		err = s.ws.CloseNow()
	})
	return err
}

func (s *Stream) LocalAddr() net.Addr  { return s.local }
func (s *Stream) RemoteAddr() net.Addr { return s.remote }
