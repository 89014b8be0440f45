package egress

import (
	"context"
	"errors"
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

// openWebSocket opens a WebSocket to the proxy behind the balancer at addr, over conn, and returns the byte
// stream in it. It owns conn from then on, and closes it if it fails.
//
// The TLS around the WebSocket ends at the balancer. It is not verified, because it is trusted no more than
// the network (docs/decisions/0010).
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

// webSocketFault turns err, for which a WebSocket did not open, into a fault if a server refused it. resp is
// the server's response. If it is nil, the network or TLS failed, and err is returned as it is.
func webSocketFault(addr string, resp *http.Response, err error) error {
	if resp == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return balancerWithoutWebsocket.Wrap(err, "egress", fault.Args{
		"address": addr,
		"status":  resp.StatusCode,
		"reason":  http.StatusText(resp.StatusCode),
		"path":    dial.ConnectPath,
	})
}

// Stream is a net.Conn that sends its bytes in binary messages of a WebSocket. It has no CloseWrite: the TLS
// inside marks the end of a direction. Other than with a net.Conn, the stream can no longer be used after a
// deadline has passed during a read or write.
type Stream struct {
	net.Conn
	ws            *websocket.Conn
	local, remote net.Addr
	interval      time.Duration
	closeOnce     sync.Once

	mu     sync.Mutex  // guards what follows
	timer  *time.Timer // runs sendKeepAlive
	closed bool        // Close was called: timer must not be reset
}

// NewStream makes a stream over ws, which it owns from then on. local and remote are what LocalAddr and
// RemoteAddr return.
//
// After each interval the stream sends an empty message, so that balancers do not close it. Pings of
// WebSocket would not do: the library ends a connection whose pong cannot be sent within 5 s, and networks
// stall longer than that.
func NewStream(ws *websocket.Conn, local, remote net.Addr, interval time.Duration) *Stream {
	s := &Stream{
		Conn:     websocket.NetConn(context.Background(), ws, websocket.MessageBinary),
		ws:       ws,
		local:    local,
		remote:   remote,
		interval: interval,
	}
	ws.SetReadLimit(maxMessageBytes)
	s.mu.Lock() // sendKeepAlive may run before timer is set
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(interval, s.sendKeepAlive)
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

// Read returns io.EOF also when the connection ends without a close frame of WebSocket. Whether the peer
// meant to end there, the TLS inside finds out by its own close message.
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

// deadlineError returns os.ErrDeadlineExceeded, as a net.Conn must, for the errors that the library returns
// after a deadline: those of a context, which nothing else cancels.
func deadlineError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// Close ends both directions without waiting for the peer. Further calls return net.ErrClosed.
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
