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
	// KeepAliveInterval is how long an end of a WebSocket says nothing at most: balancers cut what was silent
	// for a minute.
	KeepAliveInterval = 20 * time.Second
	// maxMessageBytes bounds a message. Ends write TLS records, which are shorter; messages are not held
	// together anyway.
	maxMessageBytes = 64 << 10
)

// openWebSocket opens a WebSocket over conn, which it owns. The TLS around it ends at the balancer and is not
// verified: no more depends on it than on the network beneath (docs/decisions/0010).
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

func webSocketFault(addr string, resp *http.Response, err error) error {
	if resp == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fault.Wrap(
		err,
		fault.Unavailable,
		"egress",
		fmt.Sprintf(
			"the balancer at %s opens no WebSocket: %d %s",
			addr,
			resp.StatusCode,
			http.StatusText(resp.StatusCode),
		),
		"ask an administrator to let WebSockets through to "+dial.ConnectPath,
	)
}

// Stream is a byte stream in binary messages of a WebSocket. It has no half-close: the TLS inside says where
// a direction ends. A deadline that passes while something waits ends it.
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

// NewStream makes the stream and takes ws over. Every so often an empty message goes out: WebSocket's own
// pings would not do, because the library ends a connection that a pong does not leave within 5 s, and lines
// stall longer.
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

func (s *Stream) sendKeepAlive() {
	if s.ws.Write(
		context.Background(),
		websocket.MessageBinary,
		nil,
	) != nil { // waits behind what is being written
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.timer.Reset(s.interval)
	}
}

// Read gives an end without a close frame as an end: whether it is a true one, the TLS inside says.
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

// deadlineError gives what a net.Conn gives after its deadline: nothing else cancels.
func deadlineError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// Close ends both directions and waits for nothing.
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
